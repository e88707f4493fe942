//! Which record removed a path.

use std::sync::Arc;

use crate::history::{Event, Teller, Untold};
use crate::journal::record::{By, Op};
use crate::log::{self, Survey};
use crate::units::{InodeNo, Lsn, Time};

/// A path lost what it led to.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The record.
    pub lsn: Lsn,
    /// When.
    pub time: Time,
    /// `unlink`, `rmdir` or `rename` (another file took its place).
    pub kind: &'static str,
    /// Who.
    pub by: By,
    /// What that process was running.
    pub program: Option<Arc<[u8]>>,
    /// The record after which it was last whole. Of a directory that was
    /// emptied first, in one go by the same process, that lies before the
    /// first of it.
    pub before: Lsn,
}

/// What was found of a path.
#[derive(Default)]
pub struct Found {
    /// Its newest removal.
    pub removal: Option<Removal>,
    /// The first record behind that, or of all, that can't be read though it
    /// should be there: it may have removed the path too.
    pub unread: Option<Untold>,
}

/// Looks for the newest removal of a path (from the root, with a `/` in front).
pub fn find(survey: &Survey, path: &[u8]) -> Found {
    let mut search = Search {
        path,
        emptying: None,
        found: Found::default(),
    };
    let all = (Lsn(1), survey.last());
    Teller::default().tell(survey, survey.durable(), all, &mut |told| {
        match told {
            Ok(event) => search.hear(&event),
            Err(Untold::Log(log::Error::Recycled(_))) => {}
            Err(untold) => drop(search.found.unread.get_or_insert(untold)),
        }
        true
    });
    search.found
}

struct Search<'p> {
    path: &'p [u8],
    /// The process that has just been removing all below the path, and the
    /// first record of that.
    emptying: Option<(u32, Lsn)>,
    found: Found,
}

impl Search<'_> {
    fn hear(&mut self, event: &Event<'_>) {
        let Some(op) = event.op() else { return };
        let Some(by) = op.by().copied() else { return };
        let lsn = event.frame.lsn;
        match removed(event, op) {
            Some(removed) if removed == self.path => {
                let emptied = self.emptying.take().filter(|(pid, _)| *pid == by.pid);
                let emptied = emptied.filter(|_| matches!(op, Op::Rmdir { .. }));
                self.found.removal = Some(Removal {
                    lsn,
                    time: event.frame.time,
                    kind: op.kind(),
                    by,
                    program: event.program.clone(),
                    before: emptied.map_or(lsn, |(_, first)| first).prev(),
                });
                self.found.unread = None;
            }
            Some(removed) if self.is_below(removed) => {
                if self.emptying.is_none_or(|(pid, _)| pid != by.pid) {
                    self.emptying = Some((by.pid, lsn));
                }
            }
            _ => {
                let paths = [event.path.as_deref(), event.to.as_deref()];
                let here = |path: &[u8]| path == self.path || self.is_below(path);
                if paths.into_iter().flatten().any(here) {
                    self.emptying = None;
                }
            }
        }
    }

    fn is_below(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.path)
            .is_some_and(|rest| rest.starts_with(b"/"))
    }
}

/// The path that an operation takes a file away from.
fn removed<'e>(event: &'e Event<'_>, op: &Op) -> Option<&'e [u8]> {
    match op {
        Op::Unlink { .. } | Op::Rmdir { .. } => event.path.as_deref(),
        Op::Rename {
            replaced, flags, ..
        } if *replaced != InodeNo(0) && flags & libc::RENAME_EXCHANGE == 0 => event.to.as_deref(),
        _ => None,
    }
}

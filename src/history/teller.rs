//! Goes through records in order and tells them as events.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::{mem, thread};

use super::event::Event;
use super::names::Names;
use crate::journal::Flaw;
use crate::journal::record::{Op, Record};
use crate::log::{self, Frame, Kind, Survey};
use crate::units::Lsn;

/// Records that are handed on together, or fewer if they have so many bytes;
/// and how many such batches wait to be taken.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
const AHEAD: usize = 4;

/// A record that can't be told, and why.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// It can't be read.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// Its bytes are whole and make no sense.
    #[error("record {lsn} can't be understood: {why}")]
    Meaning {
        /// Which record.
        lsn: Lsn,
        /// What does not hold.
        why: Flaw,
    },
}

/// Knows what the records so far have told of names and programs.
#[derive(Default)]
pub struct Teller {
    names: Names,
    programs: HashMap<u32, Arc<[u8]>>,
    next: Lsn,
}

impl Teller {
    /// Tells the records from `from` (or from where it left off, if that is
    /// later) to `until`, each once; those up to `durable` are. `visit` gets what
    /// could be told, and for what could not the reason, and says whether to go
    /// on.
    ///
    /// Records before `from` in the same segment are read too: they told what
    /// later ones name.
    pub fn tell(
        &mut self,
        survey: &Survey,
        durable: Lsn,
        (from, until): (Lsn, Lsn),
        visit: &mut dyn FnMut(Result<Event<'_>, Untold>) -> bool,
    ) {
        let mut segments = survey.segments().iter().map(|segment| segment.base);
        let context = segments.rfind(|base| *base <= from).unwrap_or(from);
        let start = context.max(self.next);
        thread::scope(|scope| {
            let (sender, ahead) = mpsc::sync_channel(AHEAD);
            scope.spawn(move || read_ahead(survey, durable, (start, until), &sender));
            for (lsn, told) in ahead.into_iter().flatten() {
                self.next = lsn.next();
                let go_on = match told {
                    Ok(None) => true,
                    Ok(Some(_)) | Err(_) if lsn < from => {
                        if let Ok(Some(told)) = told {
                            self.hear(&told.record);
                            self.learn(&told.record);
                        }
                        true
                    }
                    Ok(Some(told)) => self.event(told, visit),
                    Err(error) => visit(Err(error)),
                };
                if !go_on {
                    break;
                }
            }
        });
    }

    /// What a record takes for granted.
    fn hear(&mut self, record: &Record) {
        let Record::Operation(operation) = record else {
            return;
        };
        let bereft = operation.op.bereft();
        for (inode, path) in &operation.paths {
            if Some(*inode) != bereft {
                self.names.tell(*inode, path);
            }
        }
        if let (Some(by), Some(program)) = (operation.op.by(), &operation.program) {
            self.programs.insert(by.pid, program.as_slice().into());
        }
    }

    /// What later records take for granted.
    fn learn(&mut self, record: &Record) {
        let Record::Operation(operation) = record else {
            return;
        };
        self.names.apply(&operation.op);
        let bereft = operation.op.bereft();
        for (inode, path) in &operation.paths {
            if Some(*inode) == bereft {
                self.names.tell(*inode, path);
            }
        }
    }

    fn event(
        &mut self,
        told: Told,
        visit: &mut dyn FnMut(Result<Event<'_>, Untold>) -> bool,
    ) -> bool {
        self.hear(&told.record);
        let (mut path, mut to, mut of, mut program, mut deleted) = (None, None, None, None, false);
        if let Record::Operation(operation) = &told.record {
            let op = &operation.op;
            (path, to) = self.paths(op);
            if let Op::Link { inode, .. } = op {
                of = self.names.path(*inode);
            }
            let alone = op.directories().next().is_none();
            deleted = alone && op.inode().is_some_and(|inode| self.names.is_deleted(inode));
            program = op.by().and_then(|by| self.programs.get(&by.pid)).cloned();
        }
        let go_on = visit(Ok(Event {
            frame: &told.frame,
            record: &told.record,
            path,
            deleted,
            to,
            of,
            program,
            durable: told.durable,
        }));
        self.learn(&told.record);
        go_on
    }

    /// What an operation acts on, and of a rename the new name.
    fn paths(&self, op: &Op) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        match op {
            Op::Create { at, .. }
            | Op::Link { at, .. }
            | Op::Unlink { at, .. }
            | Op::Rmdir { at, .. } => (self.names.path_in(at), None),
            Op::Rename { from, to, .. } => (self.names.path_in(from), self.names.path_in(to)),
            _ => (op.inode().and_then(|inode| self.names.path(inode)), None),
        }
    }
}

/// Reads and understands records while those before are told: half of the work
/// of a listing. Ends when nobody takes them any more.
fn read_ahead(
    survey: &Survey,
    durable: Lsn,
    (from, until): (Lsn, Lsn),
    sender: &SyncSender<Vec<Numbered>>,
) {
    let mut frames = survey.frames(from);
    let numbered = std::iter::from_fn(|| frames.next_numbered());
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
    for (lsn, frame) in numbered.take_while(|(lsn, _)| *lsn <= until) {
        bytes += frame.as_ref().map_or(0, |frame| frame.meta.len());
        let told = match frame {
            Ok(frame) => understand(frame, durable),
            Err(error) => Err(error.into()),
        };
        batch.push((lsn, told));
        if batch.len() == BATCH || bytes >= BATCH_BYTES {
            bytes = 0;
            let full = mem::replace(&mut batch, Vec::with_capacity(BATCH));
            if sender.send(full).is_err() {
                return;
            }
        }
    }
    let _ = sender.send(batch);
}

fn understand(frame: Frame, durable: Lsn) -> Result<Option<Told>, Untold> {
    if frame.kind == Kind::Mark {
        return Ok(None);
    }
    let record = Record::decode_meaning(&frame.meta).map_err(|why| Untold::Meaning {
        lsn: frame.lsn,
        why,
    })?;
    let durable = frame.lsn <= durable;
    Ok(Some(Told {
        record,
        frame,
        durable,
    }))
}

/// A record's number, and the record, unless it is a mark of the log's own.
type Numbered = (Lsn, Result<Option<Told>, Untold>);

/// A record that was understood.
struct Told {
    record: Record,
    frame: Frame,
    durable: bool,
}

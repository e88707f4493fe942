//! What a thread did on a mount, and which records its operations can be.
//!
//! The mount tells the last record's number (`user.journalfs.lsn`); asked
//! before and after an operation, it says between which two numbers the
//! operation's record lies. When recovery ends at record L, an operation that
//! lies at or below L is there, one that lies above is not, and only one that
//! was under way just then can be either: so the tree is the history of all
//! threads cut at one point.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use journalfs::fuse::core::LSN_XATTR;

use crate::model::{Act, Model, choose};

/// What is going on outside, for all threads to see, and what they were told.
#[derive(Default)]
pub struct Outside {
    /// Threads are to end.
    pub stop: AtomicBool,
    /// The power is about to fail or the daemon to be killed: errors are
    /// expected from here on, and not before.
    pub cutting: AtomicBool,
    /// Only the daemon dies, and whatever it says must be true.
    lasting: bool,
    /// The highest record that a completed fsync has covered.
    pub synced: AtomicU64,
    /// Completed fsyncs.
    pub fsyncs: AtomicU64,
}

impl Outside {
    /// Of a host that stays.
    pub fn of_a_lasting_host() -> Outside {
        Outside {
            lasting: true,
            ..Outside::default()
        }
    }

    /// Runs an fsync of whatever kind. All that was recorded before it began
    /// is durable if it says so.
    pub fn sync(&self, root: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let before = last_record(root);
        sync()?;
        if let (Ok(before), true) = (before, self.counts()) {
            self.synced.fetch_max(before, SeqCst);
            self.fsyncs.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    /// Whether a success that is answered now must be true of the disk. Not
    /// while the host is being shut down: Linux then sometimes lets an
    /// fdatasync succeed whose file had yet to learn that its fallocated
    /// blocks are written (seen on XFS and more often on ext4, without
    /// journalfs), and no power cut lets a program live on to hear of it. Nor
    /// afterwards, when an answer may rest on such a one.
    fn counts(&self) -> bool {
        self.lasting || !self.cutting.load(SeqCst)
    }

    /// An error means that the power is gone, or else something is wrong.
    #[track_caller]
    pub fn excuse(&self, error: &io::Error, what: &dyn std::fmt::Debug) {
        let gone = matches!(
            error.raw_os_error(),
            Some(
                libc::ENOTCONN
                    | libc::ECONNABORTED
                    | libc::ECANCELED
                    | libc::EINTR
                    | libc::EIO
                    | libc::EROFS
                    | libc::ENODEV
            )
        );
        assert!(gone, "{what:?}: {error}");
        assert!(
            self.cutting.load(SeqCst),
            "{what:?} before the cut: {error}"
        );
    }
}

/// The number of the last record.
pub fn last_record(root: &Path) -> io::Result<u64> {
    let value = xattr::get(root, LSN_XATTR)?.ok_or(io::ErrorKind::NotFound)?;
    let digits = String::from_utf8(value).map_err(io::Error::other)?;
    digits.parse().map_err(io::Error::other)
}

/// One request, and between which numbers its record lies.
struct Deed {
    act: Act,
    /// Above this one,
    above: u64,
    /// and not above this one.
    until: u64,
    answer: Answer,
}

/// What was said of an operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// An error, or nothing.
    None,
    /// Success, while the power failed.
    Late,
    /// Success.
    Done,
}

/// A thread's folder, what it holds, and what was done to it since.
pub struct Worker {
    pub root: PathBuf,
    pub folder: PathBuf,
    pub model: Model,
    pub done: usize,
    random: fastrand::Rng,
    deeds: Vec<Deed>,
}

impl Worker {
    pub fn new(root: &Path, folder: &str, random: fastrand::Rng) -> Worker {
        Worker {
            root: root.to_owned(),
            folder: root.join(folder),
            model: Model::default(),
            done: 0,
            random,
            deeds: Vec::new(),
        }
    }

    /// Works until the power is gone, or it is told to stop.
    pub fn run(mut self, outside: &Outside) -> Worker {
        // What the folder holds if all is kept; `self.model` is where it began.
        let mut now = self.model.clone();
        // Files that lost their names while open: a cut leaves orphans.
        let mut held = Vec::new();
        let mut above = last_record(&self.root).unwrap_or(0);
        while !outside.stop.load(SeqCst) {
            let act = choose(&now, &mut self.random);
            if let Act::Unlink { at } = &act
                && held.len() < 3
                && now.nodes[&now.names[at]].kind == '-'
            {
                held.extend(fs::File::open(self.folder.join(at)));
            }
            if self.random.u8(..64) == 0 {
                held.clear();
            }
            let done = match &act {
                Act::Fsync { .. } => outside.sync(&self.root, || act.perform(&self.folder)),
                _ => act.perform(&self.folder),
            };
            let answer = match (&done, outside.counts()) {
                (Err(_), _) => Answer::None,
                (Ok(()), false) => Answer::Late,
                (Ok(()), true) => Answer::Done,
            };
            let until = last_record(&self.root);
            self.note(&act, above, until.as_ref().ok().copied(), answer);
            match done.and(until) {
                Ok(until) => above = until,
                Err(error) => {
                    outside.excuse(&error, &act);
                    return self;
                }
            }
            now.apply(&act);
            self.done += 1;
        }
        self
    }

    fn note(&mut self, act: &Act, above: u64, until: Option<u64>, answer: Answer) {
        // An operation that failed may still become a record later on.
        let until = until.filter(|_| answer != Answer::None).unwrap_or(u64::MAX);
        let deed = |act| Deed {
            act,
            above,
            until,
            answer,
        };
        self.deeds.extend(act.requests().into_iter().map(deed));
    }

    /// No record before this one can be the last acknowledged operation's.
    pub fn acknowledged(&self) -> u64 {
        let done = self.deeds.iter().filter(|deed| deed.answer == Answer::Done);
        done.map(|deed| deed.above + 1).max().unwrap_or(0)
    }

    /// The folder holds the history up to record `last`, nothing less and
    /// nothing more; with `all`, everything acknowledged. That is where the
    /// next round begins.
    #[track_caller]
    pub fn judge(&mut self, last: u64, all: bool) {
        let deeds = std::mem::take(&mut self.deeds);
        let least = deeds
            .iter()
            .take_while(|deed| deed.until <= last || (all && deed.answer == Answer::Done))
            .count();
        let most = deeds.iter().take_while(|deed| deed.above < last).count();
        let most = most.max(least);
        let mut model = self.model.clone();
        let mut differences = Vec::new();
        for kept in 0..=most {
            if kept > 0 {
                model.apply(&deeds[kept - 1].act);
            }
            if kept >= least {
                let found = model.differences(&self.folder);
                if found.is_empty() {
                    self.model = model;
                    return;
                }
                differences.push((kept, found));
            }
        }
        let acts: Vec<_> = deeds[least.saturating_sub(3)..(most + 3).min(deeds.len())]
            .iter()
            .map(|deed| format!("{:?} in {}..={}", deed.act, deed.above + 1, deed.until))
            .collect();
        panic!(
            "{}: not the history up to record {last}, which has {least} to {most} of {} operations: \
             {differences:#?}\naround there: {acts:#?}",
            self.folder.display(),
            deeds.len()
        );
    }
}

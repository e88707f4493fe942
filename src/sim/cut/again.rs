//! Does recorded operations again, on another state than they were done on.

use std::collections::HashMap;
use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::fs::{Caller, Error, Fs, Result, SetAttr, SetTime, Whence, WriteFlags};
use crate::journal::Op;
use crate::journal::record::{By, Name};
use crate::units::{Clock, InodeNo, Time};

use super::Part;

/// Shows the time of the operation that is being done.
#[derive(Default)]
struct OpClock(AtomicI64);

impl Clock for OpClock {
    fn wall(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What came of an operation done again.
#[derive(Debug)]
pub enum Outcome {
    /// It happened.
    Done,
    /// What it acts on is not there, because of what was left out before.
    Unreachable,
    /// It makes no sense here, because of what was left out before; nothing
    /// has happened.
    Refused(Error),
}

/// A file system on which operations are done again. Inodes may have other
/// numbers there, and those of operations that are left out are missing.
pub struct Again {
    fs: Arc<Fs>,
    clock: Arc<OpClock>,
    /// Inodes made since the beginning, as they were numbered; `None`: not
    /// there. Those from before keep their numbers.
    inodes: HashMap<InodeNo, Option<InodeNo>>,
    /// The same the other way round.
    back: HashMap<InodeNo, InodeNo>,
}

impl Again {
    /// On a file system that `open` makes with the clock that it is given; it
    /// must let anyone do anything.
    pub fn on<E>(
        open: impl FnOnce(Arc<dyn Clock>) -> std::result::Result<Arc<Fs>, E>,
    ) -> std::result::Result<Self, E> {
        let clock = Arc::new(OpClock::default());
        Ok(Again {
            fs: open(clock.clone())?,
            clock,
            inodes: HashMap::new(),
            back: HashMap::new(),
        })
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// Leaves an operation out: what it would have made is not there.
    pub fn leave_out(&mut self, op: &Op) {
        if let Op::Create { inode, .. } = op {
            self.inodes.insert(*inode, None);
        }
    }

    /// Does an operation, or a part of it. An error is the host's or the
    /// image's.
    pub fn apply(&mut self, op: &Op, data: &[u8], part: &Part) -> Result<Outcome> {
        if subjects(op).any(|inode| self.find(inode).is_err()) {
            self.leave_out(op);
            return Ok(Outcome::Unreachable);
        }
        let done = match self.attempt(op, data, part) {
            Err(Error::Full) => {
                self.fs.journal().checkpoint()?;
                self.attempt(op, data, part)
            }
            done => done,
        };
        match done {
            Ok(()) => Ok(Outcome::Done),
            Err(
                error @ (Error::Journal(_) | Error::Corrupt(_) | Error::ReadOnly(_) | Error::Full),
            ) => Err(error),
            // What it takes away was never there.
            Err(Error::NotFound) if matches!(op, Op::Unlink { .. } | Op::Rmdir { .. }) => {
                Ok(Outcome::Done)
            }
            Err(refused) => {
                self.leave_out(op);
                Ok(Outcome::Refused(refused))
            }
        }
    }

    fn attempt(&mut self, op: &Op, data: &[u8], part: &Part) -> Result<()> {
        match op {
            Op::Create {
                by,
                at,
                inode,
                mode,
                uid,
                gid,
                rdev,
                target,
                time,
            } => {
                let by = Caller {
                    uid: *uid,
                    gid: *gid,
                    ..self.caller(by, *time)
                };
                let parent = self.find(at.parent)?;
                let made = match mode & 0o170000 {
                    0o040000 => self.fs.mkdir(&by, parent, &at.name, *mode, 0)?,
                    0o120000 => self.fs.symlink(&by, parent, &at.name, target)?,
                    _ => self.fs.mknod(&by, parent, &at.name, *mode, 0, *rdev)?,
                };
                self.inodes.insert(*inode, Some(made.value.inode));
                self.back.insert(made.value.inode, *inode);
            }
            Op::Link {
                by,
                at,
                inode,
                time,
            } => {
                let (inode, parent) = (self.find(*inode)?, self.find(at.parent)?);
                self.fs
                    .link(&self.caller(by, *time), inode, parent, &at.name)?;
            }
            Op::Unlink { by, at, time, .. } => {
                let (parent, there) = (self.find(at.parent)?, self.at(at));
                self.fs.unlink(&self.caller(by, *time), parent, &at.name)?;
                self.forget_if_gone(there);
            }
            Op::Rmdir { by, at, time, .. } => {
                let (parent, there) = (self.find(at.parent)?, self.at(at));
                self.fs.rmdir(&self.caller(by, *time), parent, &at.name)?;
                self.forget_if_gone(there);
            }
            Op::Rename {
                by,
                from,
                to,
                flags,
                time,
                ..
            } => {
                let there = self.at(to);
                let (old, new) = (self.find(from.parent)?, self.find(to.parent)?);
                self.fs.rename(
                    &self.caller(by, *time),
                    old,
                    &from.name,
                    new,
                    &to.name,
                    *flags,
                )?;
                self.forget_if_gone(there);
            }
            Op::Write {
                by,
                inode,
                offset,
                time,
                ..
            } => {
                let inode = self.find(*inode)?;
                let put = |caller: &Caller, pieces: &[Range<usize>]| {
                    pieces.iter().try_for_each(|piece| {
                        let (at, bytes) = (offset + piece.start as u64, &data[piece.clone()]);
                        let flags = WriteFlags {
                            kill_priv: by.uid != 0,
                            astray: false, // it was accepted
                            mapped: false,
                        };
                        let written = self.fs.write(caller, inode, at, bytes, flags);
                        written.map(drop)
                    })
                };
                match part {
                    Part::Whole => {
                        let all = 0..data.len();
                        put(&self.caller(by, *time), slice::from_ref(&all))?;
                    }
                    Part::Pieces(pieces) => {
                        self.touch(by, inode, *time, *time)?;
                        put(&self.caller(by, *time), pieces)?;
                    }
                    Part::Over(pieces) => {
                        let before = self.fs.getattr(inode)?;
                        let pieces = self.in_place(inode, *offset, pieces)?;
                        put(&self.caller(&By::default(), before.ctime), &pieces)?;
                        self.touch(by, inode, before.mtime, before.ctime)?;
                    }
                }
            }
            Op::SetAttr {
                by,
                inode,
                mode,
                uid,
                gid,
                size,
                atime,
                mtime,
                ctime,
            } => {
                let set = SetAttr {
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    size: *size,
                    atime: atime.map(SetTime::At),
                    mtime: mtime.map(SetTime::At),
                    by_handle: true,
                };
                let inode = self.find(*inode)?;
                self.fs.setattr(&self.caller(by, *ctime), inode, &set)?;
            }
            Op::Fallocate {
                by,
                inode,
                mode,
                offset,
                len,
                time,
            } => {
                let (caller, inode) = (self.caller(by, *time), self.find(*inode)?);
                self.fs
                    .fallocate(&caller, inode, *mode as i32, *offset, *len)?;
            }
            Op::SetFlags {
                by,
                inode,
                flags,
                time,
            } => {
                let inode = self.find(*inode)?;
                self.fs
                    .set_flags(&self.caller(by, *time), inode, *flags, u32::MAX)?;
            }
            Op::SetXattr {
                by,
                inode,
                name,
                value,
                flags,
                time,
            } => {
                let inode = self.find(*inode)?;
                self.fs
                    .setxattr(&self.caller(by, *time), inode, name, value, *flags)?;
            }
            Op::RemoveXattr {
                by,
                inode,
                name,
                time,
            } => {
                let inode = self.find(*inode)?;
                self.fs.removexattr(&self.caller(by, *time), inode, name)?;
            }
            Op::Atime { .. } | Op::Orphan { .. } | Op::Mark { .. } => {}
        }
        Ok(())
    }

    fn touch(&self, by: &By, inode: InodeNo, mtime: Time, ctime: Time) -> Result<()> {
        let set = SetAttr {
            mtime: Some(SetTime::At(mtime)),
            by_handle: true,
            ..SetAttr::default()
        };
        self.fs.setattr(&self.caller(by, ctime), inode, &set)?;
        Ok(())
    }

    /// The parts of a write's pieces for which the file has blocks with data.
    fn in_place(
        &self,
        inode: InodeNo,
        offset: u64,
        pieces: &[Range<usize>],
    ) -> Result<Vec<Range<usize>>> {
        let mut there = Vec::new();
        for piece in pieces {
            let (mut at, end) = (offset + piece.start as u64, offset + piece.end as u64);
            while at < end {
                let data = match self.fs.seek(inode, at, Whence::Data) {
                    Err(Error::NoDevice) => break,
                    data => data?.min(end),
                };
                at = match data < end {
                    true => self.fs.seek(inode, data, Whence::Hole)?.min(end),
                    false => end,
                };
                there.push((data - offset) as usize..(at - offset) as usize);
            }
        }
        there.retain(|range| !range.is_empty());
        Ok(there)
    }

    fn find(&self, there: InodeNo) -> Result<InodeNo> {
        match self.inodes.get(&there) {
            Some(here) => here.ok_or(Error::NotFound),
            None => Ok(there),
        }
    }

    /// What a name means here, which may be another file than it meant.
    fn at(&self, at: &Name) -> Option<InodeNo> {
        let parent = self.find(at.parent).ok()?;
        let found = self.fs.lookup(&Caller::default(), parent, &at.name).ok()?;
        self.fs.forget(found.inode, 1);
        Some(found.inode)
    }

    /// A number whose file has gone may soon be another file's.
    fn forget_if_gone(&mut self, here: Option<InodeNo>) {
        let Some(here) = here else { return };
        if self.fs.getattr(here).map_or(true, |attr| attr.links == 0) {
            let there = self.back.remove(&here).unwrap_or(here);
            self.inodes.insert(there, None);
        }
    }

    fn caller(&self, by: &By, time: Time) -> Caller {
        self.clock.0.store(time.as_nanos(), Ordering::Relaxed);
        Caller {
            uid: by.uid,
            gid: by.gid,
            ..Caller::default()
        }
    }
}

/// The inodes that an operation needs to be there.
fn subjects(op: &Op) -> impl Iterator<Item = InodeNo> {
    let subject = match op {
        Op::Link { inode, .. }
        | Op::Write { inode, .. }
        | Op::SetAttr { inode, .. }
        | Op::Fallocate { inode, .. }
        | Op::SetXattr { inode, .. }
        | Op::RemoveXattr { inode, .. }
        | Op::SetFlags { inode, .. } => Some(*inode),
        _ => None,
    };
    op.directories().chain(subject)
}

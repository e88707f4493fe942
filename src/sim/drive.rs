//! Does workload steps on the real file system, as the kernel would send them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::model::Refusal;
use super::step::{How, Path, Put, Space, Step, Target, pattern};
use crate::fs::{Caller, Done, Error, Fs, Kind, Result, SetAttr, SetTime, WriteFlags};
use crate::units::{InodeNo, Lsn, Time};

/// What a step came to.
#[derive(Debug)]
pub struct Answer {
    /// The record that did it, if it changed anything.
    pub lsn: Option<Lsn>,
    /// Bytes written, where the step is a write.
    pub wrote: Option<usize>,
}

impl<T> From<Done<T>> for Answer {
    fn from(done: Done<T>) -> Self {
        Answer {
            lsn: done.lsn,
            wrote: None,
        }
    }
}

const NOTHING: Answer = Answer {
    lsn: None,
    wrote: None,
};

/// A mounted file system with its open files.
pub struct Driver {
    /// The file system.
    pub fs: Arc<Fs>,
    by: Caller,
    handles: BTreeMap<u8, InodeNo>,
}

impl Driver {
    /// Nothing is open; root acts.
    pub fn new(fs: Arc<Fs>) -> Self {
        Driver {
            fs,
            by: Caller::default(),
            handles: BTreeMap::new(),
        }
    }

    /// Closes what is open, as the kernel does before an unmount.
    pub fn close_all(&mut self) -> Result<()> {
        for inode in std::mem::take(&mut self.handles).into_values() {
            self.fs.release(inode)?;
        }
        Ok(())
    }

    /// Does one step (those that concern the whole mount are the caller's).
    /// When the journal is full, makes a checkpoint and tries once more.
    pub fn step(&mut self, step: &Step, now: Time) -> Result<Answer> {
        match self.attempt(step, now) {
            Err(Error::Full) => {
                self.fs.journal().checkpoint().map_err(Error::Journal)?;
                self.attempt(step, now)
            }
            answer => answer,
        }
    }

    fn attempt(&mut self, step: &Step, now: Time) -> Result<Answer> {
        let by = self.by.clone();
        let fs = self.fs.clone();
        let done = match step {
            Step::As { uid, gid } => {
                self.by = Caller {
                    uid: *uid,
                    gid: *gid,
                    ..Caller::default()
                };
                NOTHING
            }
            Step::Create { at, mode } => {
                let (dir, name) = self.place(at)?;
                self.met(fs.create(&by, dir, &name, *mode, 0)?)
            }
            Step::Mknod { at, mode, rdev } => {
                let (dir, name) = self.place(at)?;
                self.met(fs.mknod(&by, dir, &name, *mode, 0, *rdev)?)
            }
            Step::Mkdir { at, mode } => {
                let (dir, name) = self.place(at)?;
                self.met(fs.mkdir(&by, dir, &name, *mode, 0)?)
            }
            Step::Symlink { at, target } => {
                let (dir, name) = self.place(at)?;
                self.met(fs.symlink(&by, dir, &name, target.as_bytes())?)
            }
            Step::Link { from, to } => {
                let inode = self.find(from)?;
                let (dir, name) = self.place(to)?;
                self.met(fs.link(&by, inode, dir, &name)?)
            }
            Step::Unlink { at } => {
                let (dir, name) = self.place(at)?;
                fs.unlink(&by, dir, &name)?.into()
            }
            Step::Rmdir { at } => {
                let (dir, name) = self.place(at)?;
                fs.rmdir(&by, dir, &name)?.into()
            }
            Step::Rename { from, to, how } => {
                let ((from_dir, from_name), (to_dir, to_name)) =
                    (self.place(from)?, self.place(to)?);
                fs.rename(
                    &by,
                    from_dir,
                    &from_name,
                    to_dir,
                    &to_name,
                    rename_flags(*how),
                )?
                .into()
            }
            Step::Write {
                to,
                offset,
                len,
                seed,
            } => {
                let inode = self.find(to)?;
                self.write(inode, *offset, &pattern(*len, *seed))?
            }
            Step::Append { to, len, seed } => {
                let inode = self.find(to)?;
                self.write(inode, fs.getattr(inode)?.size, &pattern(*len, *seed))?
            }
            Step::Truncate { of, size } => self.set(
                of,
                SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                },
            )?,
            Step::Fallocate {
                of,
                space,
                offset,
                len,
            } => {
                let inode = self.find(of)?;
                fs.fallocate(&by, inode, space_mode(*space), *offset, *len)?
                    .into()
            }
            Step::Chmod { of, mode } => self.set(
                of,
                SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                },
            )?,
            Step::Chown { of, uid, gid } => self.set(
                of,
                SetAttr {
                    uid: *uid,
                    gid: *gid,
                    ..SetAttr::default()
                },
            )?,
            Step::Utimens { of, atime, mtime } => {
                let (atime, mtime) = (Some(SetTime::At(*atime)), Some(SetTime::At(*mtime)));
                self.set(
                    of,
                    SetAttr {
                        atime,
                        mtime,
                        ..SetAttr::default()
                    },
                )?
            }
            Step::SetXattr {
                of,
                name,
                len,
                seed,
                put,
            } => {
                let inode = self.find(of)?;
                fs.setxattr(
                    &by,
                    inode,
                    name.as_bytes(),
                    &pattern(*len, *seed),
                    put_flags(*put),
                )?
                .into()
            }
            Step::RemoveXattr { of, name } => {
                let inode = self.find(of)?;
                fs.removexattr(&by, inode, name.as_bytes())?.into()
            }
            Step::Open {
                handle,
                at,
                truncate,
            } => {
                let inode = self.find(&Target::Path(at.clone()))?;
                if fs.getattr(inode)?.kind != Kind::Regular || self.handles.contains_key(handle) {
                    return Err(Error::Invalid);
                }
                let flags = libc::O_RDWR | if *truncate { libc::O_TRUNC } else { 0 };
                let done = fs.open(&by, inode, flags)?;
                self.handles.insert(*handle, inode);
                done.into()
            }
            Step::Release { handle } => {
                let inode = self.handles.remove(handle).ok_or(Error::NotFound)?;
                fs.release(inode)?.into()
            }
            Step::Fsync | Step::Fdatasync | Step::Fsyncdir => {
                self.sync(now)?;
                NOTHING
            }
            Step::Checkpoint => {
                fs.journal().checkpoint().map_err(Error::Journal)?;
                NOTHING
            }
            Step::Tick => {
                fs.journal().tick(now).map_err(Error::Journal)?;
                NOTHING
            }
            Step::Sleep { .. } | Step::Remount | Step::Kill | Step::Cut { .. } => NOTHING,
        };
        Ok(done)
    }

    /// As a mount does: the request queues, the committer serves it.
    fn sync(&self, now: Time) -> Result<()> {
        let journal = self.fs.journal();
        let answer = Arc::new(Mutex::new(None));
        let tell = answer.clone();
        journal.when_durable(
            journal.watermarks().appended,
            Box::new(move |result| *tell.lock() = Some(result)),
        );
        journal.tick_commit(now).map_err(Error::Journal)?;
        let answer = answer.lock().take();
        answer
            .expect("a commit answers all who wait")
            .map_err(Error::Journal)
    }

    /// The kernel forgets at once what it was told about.
    fn met(&self, done: Done<crate::fs::Attr>) -> Answer {
        self.fs.forget(done.value.inode, 1);
        done.into()
    }

    fn find(&self, target: &Target) -> Result<InodeNo> {
        match target {
            Target::Path(path) => path
                .names()
                .iter()
                .try_fold(InodeNo::ROOT, |dir, name| self.lookup(dir, name)),
            Target::Handle(handle) => self.handles.get(handle).copied().ok_or(Error::NotFound),
        }
    }

    fn lookup(&self, dir: InodeNo, name: &[u8]) -> Result<InodeNo> {
        let found = self.fs.lookup(&self.by, dir, name)?;
        self.fs.forget(found.inode, 1);
        Ok(found.inode)
    }

    fn place(&self, path: &Path) -> Result<(InodeNo, Vec<u8>)> {
        let mut names = path.names();
        let name = names.pop().ok_or(Error::Invalid)?;
        let dir = names
            .iter()
            .try_fold(InodeNo::ROOT, |dir, name| self.lookup(dir, name))?;
        // The kernel's own walk ends here too.
        match self.fs.getattr(dir)?.kind {
            Kind::Directory => Ok((dir, name)),
            _ => Err(Error::NotDirectory),
        }
    }

    fn write(&self, inode: InodeNo, offset: u64, bytes: &[u8]) -> Result<Answer> {
        let flags = WriteFlags {
            kill_priv: self.by.uid != 0,
            astray: false,
            mapped: false,
        };
        let done = self.fs.write(&self.by, inode, offset, bytes, flags)?;
        Ok(Answer {
            lsn: done.lsn,
            wrote: Some(done.value),
        })
    }

    fn set(&self, of: &Target, change: SetAttr) -> Result<Answer> {
        Ok(self.fs.setattr(&self.by, self.find(of)?, &change)?.into())
    }
}

fn rename_flags(how: How) -> u32 {
    match how {
        How::Plain => 0,
        How::NoReplace => libc::RENAME_NOREPLACE,
        How::Exchange => libc::RENAME_EXCHANGE,
    }
}

fn space_mode(space: Space) -> i32 {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    match space {
        Space::Plain => 0,
        Space::Keep => KEEP,
        Space::Punch => libc::FALLOC_FL_PUNCH_HOLE | KEEP,
        Space::Zero => libc::FALLOC_FL_ZERO_RANGE,
        Space::ZeroKeep => libc::FALLOC_FL_ZERO_RANGE | KEEP,
    }
}

fn put_flags(put: Put) -> u32 {
    match put {
        Put::Any => 0,
        Put::Create => libc::XATTR_CREATE as u32,
        Put::Replace => libc::XATTR_REPLACE as u32,
    }
}

/// An error of the file system in the model's words; `None` if it is not an
/// answer to the caller but a failure.
pub fn refusal(error: &Error) -> Option<Refusal> {
    Some(match error {
        Error::NotFound => Refusal::NotFound,
        Error::Exists => Refusal::Exists,
        Error::NotDirectory => Refusal::NotDirectory,
        Error::IsDirectory => Refusal::IsDirectory,
        Error::NotEmpty => Refusal::NotEmpty,
        Error::NotPermitted => Refusal::NotPermitted,
        Error::NameTooLong => Refusal::NameTooLong,
        Error::Invalid | Error::Unsupported | Error::Access => Refusal::Invalid,
        Error::NoAttribute => Refusal::NoAttribute,
        Error::NoSpace => Refusal::NoSpace,
        Error::TooBig => Refusal::TooBig,
        _ => return None,
    })
}

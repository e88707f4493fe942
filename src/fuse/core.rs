//! The requests, served: typed request in, answer out, the answer possibly
//! later and from another thread.
//!
//! A transport decodes, calls [`Service::serve`] with a
//! continuation, and encodes what that gets. No thread of a transport ever
//! waits for a disk's sync, for room in the journal or for a checkpoint, and
//! none that must not for a read:
//!
//! ```text
//!   serve ──► perform ──┬─► answered at once
//!                       ├─► a block lacks: fetched, done again
//!                       ├─► to be durable first: the committer answers
//!         (a trim) ─────┼─► a checkpoint answers
//!                       └─► no room in the journal: parked, done again after a checkpoint
//! ```

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;

use crate::ext4::inode::flag;
use crate::fs::{Attr, Caller, Done, Error, Fs, Result};
use crate::journal::ready::{self, Undone};
use crate::units::{InodeNo, Lsn};

use super::meter::Meter;
use super::request::{Answer, Reply, Request};
use super::service::{Entry, Patience, Service, Work};
use super::tap::{Served, Tap, Wanted};

/// The last record's Lsn and the watermarks, as JSON, on the root directory;
/// not listed.
pub const STATUS_XATTR: &str = "user.journalfs.status";
/// The last record's Lsn alone, as decimal digits.
pub const LSN_XATTR: &str = "user.journalfs.lsn";

/// What the virtual attribute [`STATUS_XATTR`] says.
pub type Status = Box<dyn Fn() -> String + Send + Sync>;

/// Serves requests on one file system.
pub struct Core {
    fs: Arc<Fs>,
    /// Answer changes only when they are durable (`-o sync`).
    sync: bool,
    status: Status,
    meter: Arc<Meter>,
    tap: Option<Arc<dyn Tap>>,
    patient: Mutex<Option<mpsc::Sender<(Duration, Work)>>>,
    /// What [`Fs::frees_soon`] said when it was waited for in vain.
    vain: AtomicU64,
}

/// After how many milliseconds a request that found no space is done again, and again: a
/// busy machine has come in the end to all that was sent before it. After the
/// first, only if what is waited for has not been waited for in vain already.
const MOMENTS: [u64; 4] = [2, 8, 30, 80];

/// An answer, and the record that must be durable before it may go out.
struct Performed {
    reply: Reply,
    after: Option<Lsn>,
}

impl Core {
    /// Over an open file system.
    pub fn new(
        fs: Arc<Fs>,
        sync: bool,
        status: Status,
        meter: Arc<Meter>,
        tap: Option<Arc<dyn Tap>>,
    ) -> Arc<Self> {
        Arc::new(Core {
            fs,
            sync,
            status,
            meter,
            tap,
            patient: Mutex::default(),
            vain: AtomicU64::new(u64::MAX),
        })
    }

    /// Who does requests again some time later; none: they are answered at once.
    pub fn set_patient(&self, patient: Option<mpsc::Sender<(Duration, Work)>>) {
        *self.patient.lock() = patient;
    }

    /// The file system below.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// What counts the requests.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    fn serve_untapped<A>(
        self: &Arc<Self>,
        by: Caller,
        request: Request<'_>,
        tried: usize,
        answer: A,
        elsewhere: Option<&dyn Fn(Work)>,
    ) where
        A: FnOnce(Answer) + Send + 'static,
    {
        if let Request::Trim { start, len, least } = request {
            let tell = move |trimmed: Result<u64>| answer(trimmed.map(Reply::Trimmed));
            return self.fs.trim(&by, (start, len), least, Box::new(tell));
        }
        let performed = match elsewhere {
            None => {
                let journal = self.fs.journal();
                journal.fetching(|| self.perform(&by, &request))
            }
            Some(elsewhere) => match ready::at_once(|| self.perform(&by, &request)) {
                Ok(performed) => Ok(performed),
                Err(Undone::Failed(error)) => Err(error),
                Err(Undone::Lacks(_)) => {
                    let (core, request) = (self.clone(), request.into_owned());
                    let again = move || core.serve_untapped(by, request, tried, answer, None);
                    return elsewhere(Box::new(again));
                }
            },
        };
        match self.fs.noting(performed) {
            Ok(Performed { reply, after: None }) => answer(Ok(reply)),
            Ok(Performed {
                reply,
                after: Some(lsn),
            }) => self.when_durable(lsn, reply, answer),
            Err(Error::Full) => self.park(by, request.into_owned(), tried, answer),
            Err(Error::NoSpace) => match self.moment(tried) {
                Some(moment) => self.try_again(moment, by, request.into_owned(), tried + 1, answer),
                None => answer(Err(Error::NoSpace)),
            },
            Err(error) => answer(Err(error)),
        }
    }

    fn when_durable(&self, lsn: Lsn, reply: Reply, answer: impl FnOnce(Answer) + Send + 'static) {
        let tell = move |durable: crate::journal::Result<()>| match durable {
            Ok(()) => answer(Ok(reply)),
            Err(error) => answer(Err(Error::Journal(error))),
        };
        self.fs.journal().when_durable(lsn, Box::new(tell));
    }

    /// Does the request again when a checkpoint has made room. It has changed
    /// nothing so far: space is reserved before anything else.
    fn park<A>(self: &Arc<Self>, by: Caller, request: Request<'static>, tried: usize, answer: A)
    where
        A: FnOnce(Answer) + Send + 'static,
    {
        let core = self.clone();
        // Boxed, since a request that is parked again would otherwise be a
        // closure within a closure of the same type without end.
        let answer: Box<dyn FnOnce(Answer) + Send> = Box::new(answer);
        self.fs.journal().when_room(Box::new(move || {
            core.serve_untapped(by, request, tried, answer, None)
        }));
    }

    /// When to do a request once more that found no space so many times.
    fn moment(&self, tried: usize) -> Option<Duration> {
        let arrivals = self.fs.frees_soon()?;
        let vain = self.vain.load(Ordering::Relaxed) == arrivals;
        let moment = MOMENTS.get(tried).filter(|_| tried == 0 || !vain);
        if moment.is_none() {
            self.vain.store(arrivals, Ordering::Relaxed);
        }
        moment.map(|moment| Duration::from_millis(*moment))
    }

    /// Does the request again in a moment. The kernel doesn't wait for a
    /// RELEASE: who has closed and removed a file and wants its space may be
    /// served before that is.
    fn try_again<A>(
        self: &Arc<Self>,
        moment: Duration,
        by: Caller,
        request: Request<'static>,
        tried: usize,
        answer: A,
    ) where
        A: FnOnce(Answer) + Send + 'static,
    {
        let core = self.clone();
        let answer: Box<dyn FnOnce(Answer) + Send> = Box::new(answer);
        let retry: Work = Box::new(move || core.serve_untapped(by, request, tried, answer, None));
        let patient = self.patient.lock().clone();
        let left = match patient {
            Some(patient) => patient.send((moment, retry)).err().map(|unsent| unsent.0.1),
            None => Some(retry),
        };
        if let Some(retry) = left {
            retry();
        }
    }

    /// The request on the file system: one call each.
    fn perform(&self, by: &Caller, request: &Request<'_>) -> Result<Performed> {
        use Request as R;
        let fs = &self.fs;
        let reply = match request {
            R::Lookup { parent, name } => match fs.lookup(by, *parent, name) {
                Ok(attr) => {
                    self.named(*parent, name, attr.inode);
                    self.entry(attr)
                }
                Err(Error::NotFound) => Reply::NoEntry,
                Err(error) => return Err(error),
            },
            R::GetAttr { inode } => Reply::Attr(fs.getattr(*inode)?),
            R::SetAttr { inode, set } => {
                return self.done(fs.setattr(by, *inode, set)?, Reply::Attr);
            }
            R::ReadLink { inode } => Reply::Bytes(fs.readlink(*inode)?),
            R::Create {
                parent,
                name,
                mode,
                umask,
                ..
            } => {
                let created = fs.create(by, *parent, name, perm(*mode), perm(*umask))?;
                // The creator may open it whatever its mode says.
                fs.opened(created.value.inode);
                return self.done(created, |attr| {
                    self.fs.remember(attr.inode);
                    Reply::Created(attr)
                });
            }
            R::MakeNode {
                parent,
                name,
                mode,
                umask,
                rdev,
            } => {
                return self.made(fs.mknod(
                    by,
                    *parent,
                    name,
                    *mode as u16,
                    perm(*umask),
                    *rdev,
                )?);
            }
            R::MakeDir {
                parent,
                name,
                mode,
                umask,
            } => {
                return self.made(fs.mkdir(by, *parent, name, perm(*mode), perm(*umask))?);
            }
            R::Symlink {
                parent,
                name,
                target,
            } => return self.made(fs.symlink(by, *parent, name, target)?),
            R::Link {
                inode,
                parent,
                name,
            } => return self.made(fs.link(by, *inode, *parent, name)?),
            R::Unlink { parent, name } => return self.nothing(fs.unlink(by, *parent, name)?),
            R::RemoveDir { parent, name } => return self.nothing(fs.rmdir(by, *parent, name)?),
            R::Rename {
                from,
                name,
                to,
                new_name,
                flags,
            } => {
                return self.nothing(fs.rename(by, *from, name, *to, new_name, *flags)?);
            }
            R::Open { inode, flags } => {
                return self.done(fs.open(by, *inode, *flags)?, |appends| Reply::Opened {
                    appends,
                });
            }
            R::Release { inode } => return self.nothing(fs.release(*inode)?),
            R::OpenDir { inode, .. } => {
                let opened = Reply::Opened { appends: false };
                return self.done(fs.opendir(by, *inode)?, |()| opened);
            }
            R::ReleaseDir { .. } => Reply::Done,
            R::Read {
                inode,
                offset,
                size,
                crooked,
            } => {
                if *crooked {
                    fs.may_be_crooked(*inode, Some(*offset))?;
                }
                Reply::Bytes(fs.read(*inode, *offset, *size)?)
            }
            R::Write {
                inode,
                offset,
                data,
                flags,
                durable,
                crooked,
            } => {
                if *crooked {
                    fs.may_be_crooked(*inode, None)?;
                }
                let done = fs.write(by, *inode, *offset, data, *flags)?;
                let reply = Reply::Written(done.value as u32);
                return Ok(self.after(done.lsn, reply, *durable || done.durable));
            }
            // A program may sync what it has read.
            R::Sync { .. } if fs.is_read_only() => Reply::Done,
            R::Sync { .. } => return Ok(self.after(Some(self.last()), Reply::Done, true)),
            R::Fallocate {
                inode,
                mode,
                offset,
                len,
            } => {
                return self.nothing(fs.fallocate(by, *inode, *mode, *offset, *len)?);
            }
            R::Seek {
                inode,
                offset,
                whence,
            } => Reply::Offset(fs.seek(*inode, *offset, *whence)?),
            R::Statfs => Reply::Statfs(fs.statfs()?),
            R::Trim { .. } => return Err(Error::Unsupported), // its answer comes from a checkpoint
            R::GetXattr { inode, name } => Reply::Bytes(self.getxattr(by, *inode, name)?),
            R::ListXattr { inode } => Reply::Bytes(fs.listxattr(by, *inode)?),
            R::SetXattr { name, .. } | R::RemoveXattr { name, .. } if is_virtual(name) => {
                return Err(Error::NotPermitted);
            }
            R::SetXattr {
                inode,
                name,
                value,
                flags,
            } => {
                return self.nothing(fs.setxattr(by, *inode, name, value, *flags)?);
            }
            R::RemoveXattr { inode, name } => {
                return self.nothing(fs.removexattr(by, *inode, name)?);
            }
            R::SetFlags {
                inode,
                flags,
                among,
            } => {
                let done = fs.set_flags(by, *inode, *flags, *among)?;
                return self.done(done, |_| Reply::Done);
            }
            R::Access { inode, mask } => {
                fs.access(by, *inode, *mask)?;
                Reply::Done
            }
            R::Forget { inode, count } => {
                fs.forget(*inode, *count);
                Reply::Done
            }
        };
        Ok(Performed { reply, after: None })
    }

    fn list_unmetered(
        &self,
        by: &Caller,
        inode: InodeNo,
        from: u64,
        plus: bool,
        add: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let fs = &self.fs;
        if !plus {
            let listed = fs.readdir(by, inode, from, &mut |cookie, name, inode, kind| {
                add(Entry {
                    cookie,
                    name,
                    inode,
                    kind,
                    attr: None,
                })
            });
            return listed;
        }
        fs.readdirplus(by, inode, from, &mut |cookie, name, found, kind, attr| {
            let entry = Entry {
                cookie,
                name,
                inode: found,
                kind,
                attr: attr.copied(),
            };
            let taken = add(entry);
            // (Also one without attributes: it is forgotten like the others.)
            if taken && name != b"." && name != b".." {
                self.named(inode, name, found);
                self.fs.remember(found);
            }
            taken
        })
    }

    fn getxattr(&self, by: &Caller, inode: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
        match name {
            _ if inode != InodeNo::ROOT => self.fs.getxattr(by, inode, name),
            name if name == STATUS_XATTR.as_bytes() => Ok((self.status)().into_bytes()),
            name if name == LSN_XATTR.as_bytes() => Ok(self.last().to_string().into_bytes()),
            _ => self.fs.getxattr(by, inode, name),
        }
    }

    fn named(&self, parent: InodeNo, name: &[u8], inode: InodeNo) {
        if let Some(tap) = &self.tap {
            tap.named(parent, name, inode);
        }
    }

    fn last(&self) -> Lsn {
        self.fs.journal().watermarks().appended
    }

    fn entry(&self, attr: Attr) -> Reply {
        self.fs.remember(attr.inode);
        Reply::Entry(attr)
    }

    fn made(&self, done: Done<Attr>) -> Result<Performed> {
        self.done(done, |attr| self.entry(attr))
    }

    fn nothing(&self, done: Done<()>) -> Result<Performed> {
        self.done(done, |()| Reply::Done)
    }

    fn done<T>(&self, done: Done<T>, reply: impl FnOnce(T) -> Reply) -> Result<Performed> {
        Ok(self.after(done.lsn, reply(done.value), done.durable))
    }

    /// What an answer without an error makes durable though the request
    /// doesn't say so: the mount or a flag of a file or directory does.
    fn asks(&self, request: &Request<'_>) -> Option<Wanted> {
        use Request as R;
        let is = |inode, what| self.fs.has_flag(inode, what);
        let inode = match request {
            _ if self.sync => return Some(Wanted::Everything),
            R::SetAttr { inode, .. }
            | R::Write { inode, .. }
            | R::Fallocate { inode, .. }
            | R::SetXattr { inode, .. }
            | R::RemoveXattr { inode, .. }
            | R::SetFlags { inode, .. }
                if is(*inode, flag::SYNC) =>
            {
                inode
            }
            R::Create { parent, .. }
            | R::MakeNode { parent, .. }
            | R::MakeDir { parent, .. }
            | R::Symlink { parent, .. }
            | R::Link { parent, .. }
            | R::Unlink { parent, .. }
            | R::RemoveDir { parent, .. }
                if is(*parent, flag::SYNC | flag::DIRSYNC) =>
            {
                parent
            }
            R::Rename { from, to, .. }
                if [from, to]
                    .iter()
                    .any(|dir| is(**dir, flag::SYNC | flag::DIRSYNC)) =>
            {
                return Some(Wanted::Everything);
            }
            _ => return None,
        };
        Some(Wanted::File {
            inode: *inode,
            data_only: false,
        })
    }

    fn after(&self, lsn: Option<Lsn>, reply: Reply, durable: bool) -> Performed {
        Performed {
            reply,
            after: lsn.filter(|_| durable || self.sync),
        }
    }
}

impl Service for Core {
    fn serve<A>(
        self: &Arc<Self>,
        by: Caller,
        request: Request<'_>,
        answer: A,
        elsewhere: Option<&dyn Fn(Work)>,
    ) where
        A: FnOnce(Answer) + Send + 'static,
    {
        let (meter, running) = (self.meter.clone(), self.meter.begin(&request));
        let answer = move |given: Answer| {
            meter.end(running, &given);
            answer(given);
        };
        let Some(tap) = self.tap.clone() else {
            return self.serve_untapped(by, request, 0, answer, elsewhere);
        };
        // Boxed for the same reason as in `park`.
        let answer: Box<dyn FnOnce(Answer) + Send> = Box::new(answer);
        match tap.before(&request) {
            Ok(()) => {
                let served = Served::of(&request, self.asks(&request));
                let tapped = move |given: Answer| answer(tap.after(served, given));
                self.serve_untapped(by, request, 0, tapped, elsewhere);
            }
            Err(error) => answer(Err(error)),
        }
    }

    fn read(
        &self,
        inode: InodeNo,
        offset: u64,
        patience: Patience,
        into: &mut [u8],
    ) -> Result<Option<usize>> {
        if self.tap.is_some() {
            return Ok(None); // one way for all that is watched
        }
        let request = Request::Read {
            inode,
            offset,
            size: into.len() as u32,
            crooked: false,
        };
        let running = self.meter.begin(&request);
        let read = match patience {
            Patience::AtOnce => match ready::at_once(|| self.fs.read_ready(inode, offset, into)) {
                Ok(read) => Ok(read),
                Err(Undone::Lacks(_)) => Ok(None),
                Err(Undone::Failed(error)) => self.fs.noting(Err(error)),
            },
            Patience::Waits => {
                let fetching = || self.fs.read_into(inode, offset, into).map(Some);
                self.fs.noting(self.fs.journal().fetching(fetching))
            }
        };
        if !matches!(read, Ok(None)) {
            self.meter.end_unanswered(running, read.is_err());
        }
        read
    }

    fn list(
        &self,
        by: &Caller,
        inode: InodeNo,
        from: u64,
        plus: bool,
        patience: Patience,
        add: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let running = self.meter.begin_listing();
        let added = Cell::new(false);
        let mut add = |entry: Entry<'_>| {
            let taken = add(entry);
            added.set(added.get() || taken);
            taken
        };
        let mut list = || match self.list_unmetered(by, inode, from, plus, &mut add) {
            Err(_) if ready::is_lacking() && added.get() => Ok(()),
            listed => listed,
        };
        let listed = match patience {
            Patience::Waits => self.fs.journal().fetching(&mut list),
            Patience::AtOnce => match ready::at_once(&mut list) {
                Ok(()) => Ok(()),
                Err(Undone::Failed(error)) => Err(error),
                Err(Undone::Lacks(_)) => return Ok(false),
            },
        };
        let listed = self.fs.noting(listed);
        self.meter.end_unanswered(running, listed.is_err());
        listed.map(|()| true)
    }
}

fn is_virtual(name: &[u8]) -> bool {
    name.starts_with(b"user.journalfs.")
}

/// Permission bits of a mode.
fn perm(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

#[cfg(test)]
mod tests;

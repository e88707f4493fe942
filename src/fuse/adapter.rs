//! fuser's callbacks on the core: decode, serve, encode. What its threads do is
//! decided here (where they run, when they rest), and nothing else.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};

use crate::fs::{SetAttr, SetTime, Whence};

use super::negotiate::Negotiate;
use super::processes::Processes;
use super::processor;
use super::reply::{
    TTL, Told, attributes, errno, file_type, generation, inode_of, node_of, time, unreadable,
};
use super::request::Request;
use super::service::{Patience, Service};

/// A service under fuser.
pub struct Adapter<S> {
    pub(super) service: Arc<S>,
    pub(super) processes: Arc<Processes>,
    negotiate: Negotiate,
    /// Set by INIT: the kernel agreed to bring requests over io_uring.
    pub(super) over_rings: Arc<AtomicBool>,
    /// Each thread gets a processor of its own.
    pinned: bool,
    placed: AtomicUsize,
}

thread_local! {
    static PLACED: Cell<bool> = const { Cell::new(false) };
    /// When this thread last had nothing left to forget, as far as it knew.
    static FORGOT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Beside rings, so long a thread rests after a FORGET. Nobody waits for one,
/// but each wakes a thread, for which the program that asks loses its
/// processor; those of the meantime then come in one batch.
const REST: Duration = Duration::from_micros(300);
/// What follows within this time was in the same batch.
const SAME_BATCH: Duration = Duration::from_micros(5);

impl<S: Service> Adapter<S> {
    /// Over a service.
    pub fn new(
        service: Arc<S>,
        processes: Arc<Processes>,
        negotiate: Negotiate,
        pinned: bool,
    ) -> Self {
        Adapter {
            service,
            processes,
            negotiate,
            over_rings: Arc::default(),
            pinned,
            placed: AtomicUsize::new(0),
        }
    }
}

impl<S: Service> Adapter<S> {
    /// Called by each of fuser's threads with a request: the first time, the
    /// thread is given its processor.
    pub(super) fn place(&self) {
        if self.pinned && !PLACED.replace(true) {
            processor::pin(self.placed.fetch_add(1, Ordering::Relaxed));
        }
    }

    /// After a FORGET, unless the kernel's other requests come here too.
    fn rest(&self) {
        if !self.over_rings.load(Ordering::Relaxed) {
            return;
        }
        let in_batch = |at: Instant| at.elapsed() < SAME_BATCH;
        if !FORGOT.get().is_some_and(in_batch) {
            thread::sleep(REST);
        }
        FORGOT.set(Some(Instant::now()));
    }
}

impl<S: Service> fuser::Filesystem for Adapter<S> {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let agreed = self.negotiate.with(config);
        self.over_rings.store(agreed, Ordering::Release);
        Ok(())
    }

    fn lookup(&self, by: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (inode_of(parent.0), bytes(name));
        self.entry(by, Request::Lookup { parent, name }, reply);
    }

    fn forget(&self, by: &fuser::Request, node: INodeNo, count: u64) {
        self.serve(
            by,
            Request::Forget {
                inode: inode_of(node.0),
                count,
            },
            drop,
        );
        self.rest();
    }

    fn getattr(&self, by: &fuser::Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let inode = inode_of(node.0);
        self.attr(by, Request::GetAttr { inode }, reply);
    }

    fn setattr(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            by_handle: handle.is_some(),
        };
        self.attr(
            by,
            Request::SetAttr {
                inode: inode_of(node.0),
                set,
            },
            reply,
        );
    }

    fn readlink(&self, by: &fuser::Request, node: INodeNo, reply: ReplyData) {
        let inode = inode_of(node.0);
        self.data(by, Request::ReadLink { inode }, reply);
    }

    fn mknod(
        &self,
        by: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.entry(
            by,
            Request::MakeNode {
                parent: inode_of(parent.0),
                name: bytes(name),
                mode,
                umask,
                rdev,
            },
            reply,
        );
    }

    fn mkdir(
        &self,
        by: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(
            by,
            Request::MakeDir {
                parent: inode_of(parent.0),
                name: bytes(name),
                mode,
                umask,
            },
            reply,
        );
    }

    fn unlink(&self, by: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (inode_of(parent.0), bytes(name));
        self.empty(by, Request::Unlink { parent, name }, reply);
    }

    fn rmdir(&self, by: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (inode_of(parent.0), bytes(name));
        self.empty(by, Request::RemoveDir { parent, name }, reply);
    }

    fn symlink(
        &self,
        by: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = bytes(target.as_os_str());
        self.entry(
            by,
            Request::Symlink {
                parent: inode_of(parent.0),
                name: bytes(name),
                target,
            },
            reply,
        );
    }

    fn rename(
        &self,
        by: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let request = Request::Rename {
            from: inode_of(parent.0),
            name: bytes(name),
            to: inode_of(to.0),
            new_name: bytes(new_name),
            flags: flags.bits(),
        };
        self.empty(by, request, reply);
    }

    fn link(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let request = Request::Link {
            inode: inode_of(node.0),
            parent: inode_of(parent.0),
            name: bytes(name),
        };
        self.entry(by, request, reply);
    }

    fn open(&self, by: &fuser::Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let request = Request::Open {
            inode: inode_of(node.0),
            flags: flags.0,
        };
        self.opened(by, request, FopenFlags::FOPEN_KEEP_CACHE, reply);
    }

    fn read(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.data(
            by,
            Request::Read {
                inode: inode_of(node.0),
                offset,
                size,
                crooked: Request::is_crooked(flags.0, offset, size.into()),
            },
            reply,
        );
    }

    fn write(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let request = Request::Write {
            inode: inode_of(node.0),
            offset,
            data: data.into(),
            flags: Request::write_flags(write_flags.bits(), handle.0, flags.0),
            durable: Request::is_durable(flags.0),
            crooked: Request::is_crooked(flags.0, offset, data.len() as u64),
        };
        self.written(by, request, reply);
    }

    fn flush(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing hangs on close(2): writes were answered when recorded.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let inode = inode_of(node.0);
        self.empty(by, Request::Release { inode }, reply);
    }

    fn fsync(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.sync(by, node, data_only, reply);
    }

    fn opendir(&self, by: &fuser::Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let inode = inode_of(node.0);
        self.opened(by, Request::OpenDir { inode }, FopenFlags::empty(), reply);
    }

    fn readdir(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.service.list(
            &self.by(by),
            inode_of(node.0),
            from,
            false,
            Patience::Waits,
            &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                !reply.add(
                    INodeNo(entry.inode.0.into()),
                    entry.cookie,
                    file_type(entry.kind),
                    name,
                )
            },
        );
        match listed {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        from: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.service.list(
            &self.by(by),
            inode_of(node.0),
            from,
            true,
            Patience::Waits,
            &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                let (node, attr, generation, ttl) = match &entry.attr {
                    Some(attr) => {
                        let node = INodeNo(node_of(attr.inode));
                        (node, attributes(attr), generation(attr), TTL)
                    }
                    None => {
                        let (node, kind) = (INodeNo(node_of(entry.inode)), file_type(entry.kind));
                        (node, unreadable(node, kind), Generation(0), Duration::ZERO)
                    }
                };
                !reply.add(node, entry.cookie, name, &ttl, &attr, generation)
            },
        );
        match listed {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn releasedir(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let inode = inode_of(node.0);
        self.empty(by, Request::ReleaseDir { inode }, reply);
    }

    fn fsyncdir(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.sync(by, node, data_only, reply);
    }

    fn statfs(&self, by: &fuser::Request, _: INodeNo, reply: ReplyStatfs) {
        self.figures(by, Request::Statfs, reply);
    }

    fn setxattr(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let request = Request::SetXattr {
            inode: inode_of(node.0),
            name: bytes(name),
            value: value.into(),
            flags: flags as u32,
        };
        self.empty(by, request, reply);
    }

    fn getxattr(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.xattr(
            by,
            Request::GetXattr {
                inode: inode_of(node.0),
                name: bytes(name),
            },
            size,
            reply,
        );
    }

    fn listxattr(&self, by: &fuser::Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let inode = inode_of(node.0);
        self.xattr(by, Request::ListXattr { inode }, size, reply);
    }

    fn removexattr(&self, by: &fuser::Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(
            by,
            Request::RemoveXattr {
                inode: inode_of(node.0),
                name: bytes(name),
            },
            reply,
        );
    }

    fn access(&self, by: &fuser::Request, node: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.empty(
            by,
            Request::Access {
                inode: inode_of(node.0),
                mask: mask.bits() as u32,
            },
            reply,
        );
    }

    fn create(
        &self,
        by: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let request = Request::Create {
            parent: inode_of(parent.0),
            name: bytes(name),
            mode,
            umask,
            flags,
        };
        self.created(by, request, reply);
    }

    fn ioctl(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        data: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let inode = inode_of(node.0);
        if let Some(told) = Told::by(command) {
            return self.told(by, Request::GetAttr { inode }, told, reply);
        }
        match Request::of_ioctl(inode, command, data) {
            Ok(request @ Request::Trim { .. }) => self.trimmed(by, request, reply),
            Ok(request) => self.done(by, request, reply),
            Err(number) => reply.error(Errno::from_i32(number)),
        }
    }

    fn fallocate(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.empty(
            by,
            Request::Fallocate {
                inode: inode_of(node.0),
                mode,
                offset,
                len,
            },
            reply,
        );
    }

    fn lseek(
        &self,
        by: &fuser::Request,
        node: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let request = Request::Seek {
            inode: inode_of(node.0),
            offset,
            whence,
        };
        self.offset(by, request, reply);
    }

    // copy_file_range is left to the kernel, which then reads and writes; so
    // are locks, which are its own on a file system that nobody else mounts.
    fn copy_file_range(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

impl<S: Service> Adapter<S> {
    fn sync(&self, by: &fuser::Request, node: INodeNo, data_only: bool, reply: ReplyEmpty) {
        let inode = inode_of(node.0);
        self.empty(by, Request::Sync { inode, data_only }, reply);
    }
}

fn bytes(name: &OsStr) -> super::request::Bytes<'_> {
    name.as_bytes().into()
}

fn set_time(at: TimeOrNow) -> SetTime {
    match at {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
    }
}

//! The limit of requests for `scripts/bench`: a FUSE daemon on the transport of
//! journalfs, with the same answers to INIT, that has everything in memory and
//! checks and keeps nothing.
//!
//! ```text
//!     null FOLDER
//! ```
//!
//! When it is unmounted it mounts again, with all that was there: that is how
//! the kernel's caches become cold. It ends by a signal.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::RwLock;

#[path = "../src/fuse/negotiate.rs"]
mod negotiate;

use negotiate::Negotiate;

const TTL: Duration = Duration::from_secs(24 * 3600);

fn main() -> std::io::Result<()> {
    let point = std::env::args_os().nth(1).map(PathBuf::from);
    let point = point.expect("usage: null FOLDER");
    let tree = Arc::new(RwLock::new(Tree::new()));
    let threads = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("null".to_owned()), MountOption::RW];
    config.n_threads = Some(threads);
    config.clone_fd = true;
    loop {
        let negotiate = Negotiate {
            kernel_acls: false,
            no_opendir: nix::unistd::geteuid().is_root(),
            longest_write: 1 << 20,
        };
        let tree = tree.clone();
        fuser::Session::new(Null { tree, negotiate }, &point, &config)?.run()?;
    }
}

struct Node {
    attr: FileAttr,
    /// By the position in a listing.
    entries: BTreeMap<u64, (OsString, u64)>,
    positions: HashMap<OsString, u64>,
    data: Vec<u8>,
    opened: u32,
}

struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
}

type Result<T> = std::result::Result<T, Errno>;

impl Tree {
    fn new() -> Tree {
        let mut tree = Tree {
            nodes: HashMap::new(),
            next: 1,
        };
        let me = (
            nix::unistd::getuid().as_raw(),
            nix::unistd::getgid().as_raw(),
        );
        tree.add(FileType::Directory, 0o755, me);
        tree
    }

    fn add(&mut self, kind: FileType, perm: u16, (uid, gid): (u32, u32)) -> FileAttr {
        let now = SystemTime::now();
        let attr = FileAttr {
            ino: INodeNo(self.next),
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let node = Node {
            attr,
            entries: BTreeMap::new(),
            positions: HashMap::new(),
            data: Vec::new(),
            opened: 0,
        };
        self.nodes.insert(self.next, node);
        self.next += 1;
        attr
    }

    fn node(&self, number: INodeNo) -> Result<&Node> {
        self.nodes.get(&number.0).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, number: INodeNo) -> Result<&mut Node> {
        self.nodes.get_mut(&number.0).ok_or(Errno::ENOENT)
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<u64> {
        let dir = self.node(parent)?;
        let position = dir.positions.get(name).ok_or(Errno::ENOENT)?;
        Ok(dir.entries[position].1)
    }

    /// A new node under a name.
    fn make(
        &mut self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u32,
    ) -> Result<FileAttr> {
        if self.find(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let attr = self.add(kind, (mode & 0o7777) as u16, (by.uid(), by.gid()));
        self.enter(parent, name, attr.ino.0)?;
        Ok(attr)
    }

    fn enter(&mut self, parent: INodeNo, name: &OsStr, number: u64) -> Result<()> {
        let position = self.next + 2; // behind "." and ".."
        self.next += 1;
        let dir = self.node_mut(parent)?;
        dir.positions.insert(name.to_owned(), position);
        dir.entries.insert(position, (name.to_owned(), number));
        dir.attr.mtime = SystemTime::now();
        Ok(())
    }

    fn leave(&mut self, parent: INodeNo, name: &OsStr) -> Result<u64> {
        let dir = self.node_mut(parent)?;
        let position = dir.positions.remove(name).ok_or(Errno::ENOENT)?;
        let (_, number) = dir.entries.remove(&position).ok_or(Errno::ENOENT)?;
        dir.attr.mtime = SystemTime::now();
        Ok(number)
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Result<()> {
        let number = INodeNo(self.find(parent, name)?);
        if !self.node(number)?.entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.leave(parent, name)?;
        let node = self.node_mut(number)?;
        node.attr.nlink = match node.attr.kind {
            FileType::Directory => 0,
            _ => node.attr.nlink - 1,
        };
        self.reap(number);
        Ok(())
    }

    fn reap(&mut self, number: INodeNo) {
        let dead = |node: &Node| node.attr.nlink == 0 && node.opened == 0;
        if self.nodes.get(&number.0).is_some_and(dead) {
            self.nodes.remove(&number.0);
        }
    }
}

impl Node {
    fn resize(&mut self, size: usize) {
        self.data.resize(size, 0);
        self.attr.size = size as u64;
        self.attr.blocks = self.attr.size.div_ceil(512);
    }
}

struct Null {
    tree: Arc<RwLock<Tree>>,
    negotiate: Negotiate,
}

fn entry(answer: Result<FileAttr>, reply: ReplyEntry) {
    match answer {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attr(answer: Result<FileAttr>, reply: ReplyAttr) {
    match answer {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(error) => reply.error(error),
    }
}

fn empty(answer: Result<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// "There is no such name, and you may remember that."
fn nothing(tree: &Tree) -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        ..tree.nodes[&1].attr
    }
}

impl fuser::Filesystem for Null {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.negotiate.with(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree.read();
        let found = match tree.find(parent, name) {
            Ok(number) => tree.node(INodeNo(number)).map(|node| node.attr),
            Err(_) => Ok(nothing(&tree)),
        };
        drop(tree);
        entry(found, reply);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.tree.read().node(number).map(|node| node.attr);
        attr(found, reply);
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let at = |time| match time {
            TimeOrNow::Now => SystemTime::now(),
            TimeOrNow::SpecificTime(at) => at,
        };
        let set = |node: &mut Node| {
            if let Some(size) = size {
                node.resize(size as usize);
            }
            let now = &mut node.attr;
            now.perm = mode.map_or(now.perm, |mode| (mode & 0o7777) as u16);
            (now.uid, now.gid) = (uid.unwrap_or(now.uid), gid.unwrap_or(now.gid));
            now.atime = atime.map_or(now.atime, at);
            now.mtime = mtime.map_or(now.mtime, at);
            now.ctime = SystemTime::now();
            *now
        };
        let done = self.tree.write().node_mut(number).map(set);
        attr(done, reply);
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.tree.read().node(number) {
            Ok(node) => reply.data(&node.data),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let kind = FileType::Directory;
        let made = (self.tree.write()).make(by, parent, name, kind, mode & !umask);
        entry(made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.tree.write().remove(parent, name);
        empty(done, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.tree.write().remove(parent, name);
        empty(done, reply);
    }

    fn symlink(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let mut tree = self.tree.write();
        let made = tree.make(by, parent, name, FileType::Symlink, 0o777);
        let filled = made.and_then(|attr| {
            let node = tree.node_mut(attr.ino)?;
            node.data = target.as_os_str().as_bytes().to_vec();
            node.attr.size = node.data.len() as u64;
            Ok(node.attr)
        });
        drop(tree);
        entry(filled, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.bits() > 1 {
            return reply.error(Errno::EINVAL); // all but RENAME_NOREPLACE
        }
        let mut tree = self.tree.write();
        let moved = (|| {
            let number = tree.find(parent, name)?;
            match tree.find(to, new_name) {
                Ok(_) if flags.bits() == 1 => return Err(Errno::EEXIST),
                Ok(old) if old == number => return Ok(()),
                Ok(_) => tree.remove(to, new_name)?,
                Err(_) => {}
            }
            tree.leave(parent, name)?;
            tree.enter(to, new_name, number)
        })();
        drop(tree);
        empty(moved, reply);
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = self.tree.write();
        let linked = match tree.find(parent, name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(_) => tree.enter(parent, name, number.0).and_then(|()| {
                let node = tree.node_mut(number)?;
                node.attr.nlink += 1;
                Ok(node.attr)
            }),
        };
        drop(tree);
        entry(linked, reply);
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = (self.tree.write().node_mut(number)).map(|node| node.opened += 1);
        match opened {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut tree = self.tree.write();
        let made = tree.make(by, parent, name, FileType::RegularFile, mode & !umask);
        let opened = made.and_then(|attr| {
            tree.node_mut(attr.ino)?.opened += 1;
            Ok(attr)
        });
        drop(tree);
        match opened {
            Ok(attr) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&TTL, &attr, Generation(0), FileHandle(0), flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.tree.read().node(number) {
            Ok(node) => {
                let from = node.data.len().min(offset as usize);
                let to = node.data.len().min(from + size as usize);
                reply.data(&node.data[from..to]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let put = |node: &mut Node| {
            let (from, to) = (offset as usize, offset as usize + data.len());
            if to > node.data.len() {
                node.resize(to);
            }
            node.data[from..to].copy_from_slice(data);
            node.attr.mtime = SystemTime::now();
        };
        let done = self.tree.write().node_mut(number).map(put);
        match done {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut tree = self.tree.write();
        if let Ok(node) = tree.node_mut(number) {
            node.opened = node.opened.saturating_sub(1);
        }
        tree.reap(number);
        drop(tree);
        reply.ok();
    }

    // Answered, not refused: the kernel would never ask again.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.negotiate.no_opendir {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR,
            ),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = self.tree.read();
        let listed = tree.list(number, from, &mut |position, name, attr| {
            reply.add(attr.ino, position, attr.kind, name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        from: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let tree = self.tree.read();
        let listed = tree.list(number, from, &mut |position, name, attr| {
            reply.add(attr.ino, position, name, &TTL, attr, Generation(0))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let plenty = 1 << 30;
        reply.statfs(plenty, plenty, plenty, plenty, plenty, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        match size {
            0 => reply.size(0),
            _ => reply.data(&[]),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}

impl Tree {
    /// Entries behind a position, until `add` says that there is no room.
    fn list(
        &self,
        number: INodeNo,
        from: u64,
        add: &mut dyn FnMut(u64, &OsStr, &FileAttr) -> bool,
    ) -> Result<()> {
        let dir = self.node(number)?;
        // (".." is no matter here.)
        for (position, name) in [(1, "."), (2, "..")] {
            if position > from && add(position, OsStr::new(name), &dir.attr) {
                return Ok(());
            }
        }
        for (&position, (name, entry)) in dir.entries.range(from.max(2) + 1..) {
            if add(position, name, &self.node(INodeNo(*entry))?.attr) {
                break;
            }
        }
        Ok(())
    }
}

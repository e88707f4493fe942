//! The limit of requests for `scripts/bench`: a daemon on the transport of
//! journalfs, with the same answers to INIT, that has everything in memory and
//! checks and keeps nothing.
//!
//! ```text
//!     null FOLDER [auto|classic|pinned|uring]
//! ```
//!
//! When it is unmounted it mounts again, with all that was there: that is how
//! the kernel's caches become cold. It ends by a signal.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use journalfs::fs::{Attr, Caller, Error, Kind, Result, SetAttr, SetTime, Statfs};
use journalfs::fuse::processes::Processes;
use journalfs::fuse::request::{Answer, Reply, Request};
use journalfs::fuse::service::{Entry, Patience, Service, Work};
use journalfs::fuse::transport::{MountOptions, Mounted, Transport};
use journalfs::units::{InodeNo, Time};
use parking_lot::RwLock;

const LONGEST_WRITE: usize = 1 << 20;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let point = args.next().map(PathBuf::from);
    let point = point.expect("usage: null FOLDER [auto|classic|pinned|uring]");
    let way = args.next();
    let options = MountOptions {
        source: "null".into(),
        pinned: way.as_deref() == Some("pinned"),
        transport: match way.as_deref() {
            Some("classic" | "pinned") => Transport::Classic,
            Some("uring") => Transport::Uring,
            _ => Transport::Auto,
        },
        ..MountOptions::default()
    };
    let null = Arc::new(Null(RwLock::new(Tree::new())));
    loop {
        let processes = Arc::new(Processes::default());
        Mounted::new(null.clone(), processes, LONGEST_WRITE, &point, &options)?.run()?;
    }
}

struct Node {
    attr: Attr,
    /// By the position in a listing.
    entries: BTreeMap<u64, (Vec<u8>, InodeNo)>,
    positions: HashMap<Vec<u8>, u64>,
    data: Vec<u8>,
    opened: u32,
}

struct Tree {
    nodes: HashMap<InodeNo, Node>,
    next: u32,
}

impl Tree {
    fn new() -> Tree {
        let mut tree = Tree {
            nodes: HashMap::new(),
            next: InodeNo::ROOT.0,
        };
        let by = Caller {
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            ..Caller::default()
        };
        tree.add(&by, Kind::Directory, 0o755);
        tree
    }

    fn add(&mut self, by: &Caller, kind: Kind, perm: u32) -> Attr {
        let now = now();
        let attr = Attr {
            inode: InodeNo(self.next),
            generation: 0,
            kind,
            perm: (perm & 0o7777) as u16,
            links: if kind == Kind::Directory { 2 } else { 1 },
            uid: by.uid,
            gid: by.gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            flags: 0,
        };
        let node = Node {
            attr,
            entries: BTreeMap::new(),
            positions: HashMap::new(),
            data: Vec::new(),
            opened: 0,
        };
        self.nodes.insert(attr.inode, node);
        self.next += 1;
        attr
    }

    fn node(&self, number: InodeNo) -> Result<&Node> {
        self.nodes.get(&number).ok_or(Error::NotFound)
    }

    fn node_mut(&mut self, number: InodeNo) -> Result<&mut Node> {
        self.nodes.get_mut(&number).ok_or(Error::NotFound)
    }

    fn find(&self, parent: InodeNo, name: &[u8]) -> Result<InodeNo> {
        let dir = self.node(parent)?;
        let position = dir.positions.get(name).ok_or(Error::NotFound)?;
        Ok(dir.entries[position].1)
    }

    /// A new node under a name.
    fn make(
        &mut self,
        by: &Caller,
        parent: InodeNo,
        name: &[u8],
        kind: Kind,
        perm: u32,
    ) -> Result<Attr> {
        if self.find(parent, name).is_ok() {
            return Err(Error::Exists);
        }
        let attr = self.add(by, kind, perm);
        self.enter(parent, name, attr.inode)?;
        Ok(attr)
    }

    fn enter(&mut self, parent: InodeNo, name: &[u8], number: InodeNo) -> Result<()> {
        let position = u64::from(self.next) + 2; // behind "." and ".."
        self.next += 1;
        let dir = self.node_mut(parent)?;
        dir.positions.insert(name.to_owned(), position);
        dir.entries.insert(position, (name.to_owned(), number));
        dir.attr.mtime = now();
        Ok(())
    }

    fn leave(&mut self, parent: InodeNo, name: &[u8]) -> Result<()> {
        let dir = self.node_mut(parent)?;
        let position = dir.positions.remove(name).ok_or(Error::NotFound)?;
        dir.entries.remove(&position);
        dir.attr.mtime = now();
        Ok(())
    }

    fn remove(&mut self, parent: InodeNo, name: &[u8]) -> Result<()> {
        let number = self.find(parent, name)?;
        if !self.node(number)?.entries.is_empty() {
            return Err(Error::NotEmpty);
        }
        self.leave(parent, name)?;
        let attr = &mut self.node_mut(number)?.attr;
        attr.links = match attr.kind {
            Kind::Directory => 0,
            _ => attr.links - 1,
        };
        self.reap(number);
        Ok(())
    }

    fn reap(&mut self, number: InodeNo) {
        let dead = |node: &Node| node.attr.links == 0 && node.opened == 0;
        if self.nodes.get(&number).is_some_and(dead) {
            self.nodes.remove(&number);
        }
    }

    fn rename(
        &mut self,
        (from, name): (InodeNo, &[u8]),
        (to, new): (InodeNo, &[u8]),
    ) -> Result<()> {
        let number = self.find(from, name)?;
        match self.find(to, new) {
            Ok(old) if old == number => return Ok(()),
            Ok(_) => self.remove(to, new)?,
            Err(_) => {}
        }
        self.leave(from, name)?;
        self.enter(to, new, number)
    }
}

impl Node {
    fn resize(&mut self, size: usize) {
        self.data.resize(size, 0);
        self.attr.size = size as u64;
        self.attr.blocks = self.attr.size.div_ceil(512);
    }

    fn set(&mut self, set: &SetAttr) -> Attr {
        let at = |time| match time {
            SetTime::Now => now(),
            SetTime::At(time) => time,
        };
        if let Some(size) = set.size {
            self.resize(size as usize);
        }
        let attr = &mut self.attr;
        attr.perm = set.mode.unwrap_or(attr.perm);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.map_or(attr.atime, at);
        attr.mtime = set.mtime.map_or(attr.mtime, at);
        attr.ctime = now();
        *attr
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.data.len() {
            self.resize(end);
        }
        self.data[offset..end].copy_from_slice(data);
        self.attr.mtime = now();
    }
}

struct Null(RwLock<Tree>);

impl Tree {
    fn read(&self, inode: InodeNo, offset: u64, size: usize) -> Result<&[u8]> {
        let data = &self.node(inode)?.data;
        let from = data.len().min(offset as usize);
        let to = data.len().min(from + size);
        Ok(&data[from..to])
    }
}

impl Null {
    fn answer(&self, by: &Caller, request: Request<'_>) -> Answer {
        use Request as R;
        let tree = &self.0;
        Ok(match request {
            R::Lookup { parent, name } => {
                let tree = tree.read();
                match tree.find(parent, &name) {
                    Ok(number) => Reply::Entry(tree.node(number)?.attr),
                    Err(_) => Reply::NoEntry,
                }
            }
            R::GetAttr { inode } => Reply::Attr(tree.read().node(inode)?.attr),
            R::SetAttr { inode, set } => Reply::Attr(tree.write().node_mut(inode)?.set(&set)),
            R::ReadLink { inode } => Reply::Bytes(tree.read().node(inode)?.data.clone()),
            R::MakeDir {
                parent,
                name,
                mode,
                umask,
            } => {
                let mut tree = tree.write();
                Reply::Entry(tree.make(by, parent, &name, Kind::Directory, mode & !umask)?)
            }
            R::Create {
                parent,
                name,
                mode,
                umask,
                ..
            } => {
                let mut tree = tree.write();
                let attr = tree.make(by, parent, &name, Kind::Regular, mode & !umask)?;
                tree.node_mut(attr.inode)?.opened += 1;
                Reply::Created(attr)
            }
            R::Symlink {
                parent,
                name,
                target,
            } => {
                let mut tree = tree.write();
                let attr = tree.make(by, parent, &name, Kind::Symlink, 0o777)?;
                let node = tree.node_mut(attr.inode)?;
                node.data = target.into_owned();
                node.attr.size = node.data.len() as u64;
                Reply::Entry(node.attr)
            }
            R::Link {
                inode,
                parent,
                name,
            } => {
                let mut tree = tree.write();
                if tree.find(parent, &name).is_ok() {
                    return Err(Error::Exists);
                }
                tree.enter(parent, &name, inode)?;
                let node = tree.node_mut(inode)?;
                node.attr.links += 1;
                Reply::Entry(node.attr)
            }
            R::Unlink { parent, name } | R::RemoveDir { parent, name } => {
                tree.write().remove(parent, &name)?;
                Reply::Done
            }
            R::Rename {
                from,
                name,
                to,
                new_name,
                flags: 0 | 1, // RENAME_NOREPLACE
            } => {
                tree.write().rename((from, &name), (to, &new_name))?;
                Reply::Done
            }
            R::Rename { .. } => return Err(Error::Invalid),
            R::Open { inode, .. } => {
                tree.write().node_mut(inode)?.opened += 1;
                Reply::Opened { appends: false }
            }
            R::Release { inode } => {
                let mut tree = tree.write();
                let node = tree.node_mut(inode)?;
                node.opened = node.opened.saturating_sub(1);
                tree.reap(inode);
                Reply::Done
            }
            R::Read {
                inode,
                offset,
                size,
                ..
            } => Reply::Bytes(tree.read().read(inode, offset, size as usize)?.to_vec()),
            R::Write {
                inode,
                offset,
                data,
                ..
            } => {
                tree.write().node_mut(inode)?.put(offset as usize, &data);
                Reply::Written(data.len() as u32)
            }
            R::OpenDir { .. } => Reply::Opened { appends: false },
            // A sync is answered, not refused: the kernel would never ask again.
            R::ReleaseDir { .. } | R::Sync { .. } | R::Access { .. } | R::Forget { .. } => {
                Reply::Done
            }
            R::Statfs => {
                let plenty = 1 << 30;
                Reply::Statfs(Statfs {
                    block_size: 4096,
                    blocks: plenty,
                    free: plenty,
                    available: plenty,
                    inodes: plenty,
                    free_inodes: plenty,
                    name_max: 255,
                })
            }
            R::GetXattr { .. } => return Err(Error::NoAttribute),
            R::ListXattr { .. } => Reply::Bytes(Vec::new()),
            _ => return Err(Error::Unsupported),
        })
    }
}

impl Service for Null {
    fn serve<A>(
        self: &Arc<Self>,
        by: Caller,
        request: Request<'_>,
        answer: A,
        _: Option<&dyn Fn(Work)>,
    ) where
        A: FnOnce(Answer) + Send + 'static,
    {
        answer(self.answer(&by, request));
    }

    fn read(
        &self,
        inode: InodeNo,
        offset: u64,
        _: Patience,
        into: &mut [u8],
    ) -> Result<Option<usize>> {
        let tree = self.0.read();
        let data = tree.read(inode, offset, into.len())?;
        into[..data.len()].copy_from_slice(data);
        Ok(Some(data.len()))
    }

    fn list(
        &self,
        _: &Caller,
        inode: InodeNo,
        from: u64,
        plus: bool,
        _: Patience,
        add: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Result<bool> {
        let tree = self.0.read();
        let dir = tree.node(inode)?;
        let mut add = |cookie, name: &[u8], attr: &Attr| {
            add(Entry {
                cookie,
                name,
                inode: attr.inode,
                kind: attr.kind,
                attr: plus.then_some(*attr),
            })
        };
        // (".." is no matter here.)
        for (position, name) in [(1, &b"."[..]), (2, b"..")] {
            if position > from && !add(position, name, &dir.attr) {
                return Ok(true);
            }
        }
        for (&position, (name, number)) in dir.entries.range(from.max(2) + 1..) {
            if !add(position, name, &tree.node(*number)?.attr) {
                break;
            }
        }
        Ok(true)
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Time {
        secs: since.as_secs() as i64,
        nanos: since.subsec_nanos(),
    }
}

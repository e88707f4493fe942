//! The reference: a POSIX tree in plain maps.
//!
//! Written from POSIX and Linux's manual pages, without a look at `fs`: where
//! the two disagree, one of them is wrong. What the kernel never sends to a
//! file system (a write to a directory, say) is refused with
//! [`Refusal::Any`]: some error must come, no matter which.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::step::{How, Path, Put, Space, Step, Target, pattern};
use super::tree::{Builder, Content, Node, Tree};
use crate::fs::Kind;
use crate::units::Time;

/// Why a step fails, as far as a caller could tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NotPermitted,
    NameTooLong,
    Invalid,
    NoAttribute,
    NoSpace,
    TooBig,
    /// Some refusal; the kernel never asks.
    Any,
}

type Result<T> = std::result::Result<T, Refusal>;
type Id = u64;

const ROOT: Id = 1;
const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;
const GROUP_EXEC: u16 = 0o010;
const DIRECTORY: u16 = 0o040000;

#[derive(Clone)]
struct Inode {
    node: Arc<Node>,
    /// Of a directory: its names.
    children: BTreeMap<Vec<u8>, Id>,
    /// Of a directory: the one it stands in.
    parent: Id,
}

/// A POSIX tree.
#[derive(Clone)]
pub struct Model {
    inodes: BTreeMap<Id, Inode>,
    next: Id,
    handles: BTreeMap<u8, Id>,
    by: (u32, u32),
    now: Time,
}

impl Model {
    /// A model of this tree (as mkfs leaves it, say).
    pub fn of(tree: &Tree) -> Self {
        let mut inodes: BTreeMap<Id, Inode> = (tree.nodes.iter().zip(ROOT..))
            .map(|(node, id)| {
                (
                    id,
                    Inode {
                        node: node.clone(),
                        children: BTreeMap::new(),
                        parent: ROOT,
                    },
                )
            })
            .collect();
        for (path, &number) in tree.names.iter().filter(|(path, _)| !path.is_empty()) {
            let (dir, name) = split(path);
            let (parent, child) = (ROOT + tree.names[dir] as Id, ROOT + number as Id);
            if let Some(dir) = inodes.get_mut(&parent) {
                dir.children.insert(name.to_vec(), child);
            }
            inodes
                .entry(child)
                .and_modify(|inode| inode.parent = parent);
        }
        let next = ROOT + inodes.len() as Id;
        Model {
            inodes,
            next,
            handles: BTreeMap::new(),
            by: (0, 0),
            now: Time::default(),
        }
    }

    /// The tree now, in canonical form.
    pub fn tree(&self) -> Tree {
        let mut builder = Builder::default();
        self.walk(ROOT, Vec::new(), &mut builder);
        builder.finish()
    }

    fn walk(&self, id: Id, path: Vec<u8>, builder: &mut Builder<Id>) {
        let inode = &self.inodes[&id];
        let Ok(()) =
            builder.name::<std::convert::Infallible>(path.clone(), id, || Ok(inode.node.clone()));
        for (name, &child) in &inode.children {
            self.walk(child, join(&path, name), builder);
        }
    }

    /// The open handles.
    pub fn handles(&self) -> impl Iterator<Item = u8> {
        self.handles.keys().copied()
    }

    /// Memory is lost: open files are closed.
    pub fn close_all(&mut self) {
        for handle in std::mem::take(&mut self.handles).into_values() {
            self.collect(handle);
        }
        self.by = (0, 0);
    }

    /// Does a step at a time. A refused step changes nothing.
    pub fn apply(&mut self, step: &Step, now: Time) -> Result<()> {
        self.now = now;
        match step {
            Step::As { uid, gid } => self.by = (*uid, *gid),
            Step::Create { at, mode } => return self.create(at, Kind::Regular, *mode, 0, ""),
            Step::Mknod { at, mode, rdev } => return self.mknod(at, *mode, *rdev),
            Step::Mkdir { at, mode } => return self.create(at, Kind::Directory, *mode, 0, ""),
            Step::Symlink { at, target } => {
                return self.create(at, Kind::Symlink, 0o777, 0, target);
            }
            Step::Link { from, to } => return self.link(from, to),
            Step::Unlink { at } => return self.unlink(at),
            Step::Rmdir { at } => return self.rmdir(at),
            Step::Rename { from, to, how } => return self.rename(from, to, *how),
            Step::Write {
                to,
                offset,
                len,
                seed,
            } => {
                let id = self.regular(to)?;
                self.write(id, *offset, &pattern(*len, *seed));
            }
            Step::Append { to, len, seed } => {
                let id = self.regular(to)?;
                self.write(
                    id,
                    self.inodes[&id].node.content.len(),
                    &pattern(*len, *seed),
                );
            }
            Step::Truncate { of, size } => {
                let id = self.regular(of)?;
                self.data_changed(id, |content| content.set_len(*size));
            }
            Step::Fallocate {
                of,
                space,
                offset,
                len,
            } => {
                let id = self.regular(of)?;
                if *len == 0 {
                    return Err(Refusal::Invalid);
                }
                self.fallocate(id, *space, *offset, offset + len);
            }
            Step::Chmod { of, mode } => {
                let id = self.find(of)?;
                self.chmod(id, *mode);
            }
            Step::Chown { of, uid, gid } => {
                let id = self.find(of)?;
                self.chown(id, *uid, *gid);
            }
            Step::Utimens { of, mtime, .. } => {
                let id = self.find(of)?;
                self.changed(id, |node| node.mtime = *mtime);
            }
            Step::SetXattr {
                of,
                name,
                len,
                seed,
                put,
            } => return self.set_xattr(of, name, &pattern(*len, *seed), *put),
            Step::RemoveXattr { of, name } => {
                let id = self.with_attributes(of, name)?;
                if !self.inodes[&id].node.xattrs.contains_key(name.as_bytes()) {
                    return Err(Refusal::NoAttribute);
                }
                self.changed(id, |node| drop(node.xattrs.remove(name.as_bytes())));
            }
            Step::Open {
                handle,
                at,
                truncate,
            } => return self.open(*handle, at, *truncate),
            Step::Release { handle } => {
                let id = self.handles.remove(handle).ok_or(Refusal::NotFound)?;
                self.collect(id);
            }
            Step::Remount | Step::Kill | Step::Cut { .. } => self.close_all(),
            Step::Fsync
            | Step::Fdatasync
            | Step::Fsyncdir
            | Step::Checkpoint
            | Step::Tick
            | Step::Sleep { .. } => {}
        }
        Ok(())
    }

    // Finding.

    fn find(&self, target: &Target) -> Result<Id> {
        match target {
            Target::Path(path) => path
                .names()
                .iter()
                .try_fold(ROOT, |dir, name| self.lookup(dir, name)),
            Target::Handle(handle) => self.handles.get(handle).copied().ok_or(Refusal::NotFound),
        }
    }

    fn lookup(&self, dir: Id, name: &[u8]) -> Result<Id> {
        self.directory(dir)?;
        if name.len() > 255 {
            return Err(Refusal::NameTooLong);
        }
        self.inodes[&dir]
            .children
            .get(name)
            .copied()
            .ok_or(Refusal::NotFound)
    }

    fn directory(&self, id: Id) -> Result<Id> {
        if self.is_dir(id) {
            Ok(id)
        } else {
            Err(Refusal::NotDirectory)
        }
    }

    fn is_dir(&self, id: Id) -> bool {
        self.inodes[&id].node.kind == Kind::Directory
    }

    fn regular(&self, target: &Target) -> Result<Id> {
        let id = self.find(target)?;
        if self.inodes[&id].node.kind == Kind::Regular {
            Ok(id)
        } else {
            Err(Refusal::Any)
        }
    }

    /// The directory that a path's last name stands in, and that name.
    fn place(&self, path: &Path) -> Result<(Id, Vec<u8>)> {
        let mut names = path.names();
        let name = names.pop().ok_or(Refusal::Any)?;
        let dir = names
            .iter()
            .try_fold(ROOT, |dir, name| self.lookup(dir, name))?;
        self.directory(dir).map(|dir| (dir, name))
    }

    /// A place where nothing stands yet.
    fn vacant(&self, path: &Path) -> Result<(Id, Vec<u8>)> {
        let (dir, name) = self.place(path)?;
        match self.lookup(dir, &name) {
            Err(Refusal::NotFound) => Ok((dir, name)),
            Ok(_) => Err(Refusal::Exists),
            Err(other) => Err(other),
        }
    }

    // Changing.

    fn edit(&mut self, id: Id, change: impl FnOnce(&mut Node)) {
        self.inodes
            .entry(id)
            .and_modify(|inode| change(Arc::make_mut(&mut inode.node)));
    }

    fn changed(&mut self, id: Id, change: impl FnOnce(&mut Node)) {
        let now = self.now;
        self.edit(id, |node| {
            node.ctime = now;
            change(node);
        });
    }

    /// The names in a directory change: so do its times.
    fn names_changed(
        &mut self,
        dir: Id,
        change: impl FnOnce(&mut BTreeMap<Vec<u8>, Id>) -> Option<Id>,
    ) {
        let now = self.now;
        self.changed(dir, |node| node.mtime = now);
        if let Some(inode) = self.inodes.get_mut(&dir) {
            change(&mut inode.children);
        }
    }

    fn data_changed(&mut self, id: Id, change: impl FnOnce(&mut Content)) {
        let (now, by) = (self.now, self.by);
        self.changed(id, |node| {
            node.mtime = now;
            if by.0 != 0 {
                strip(node, by);
            }
            change(&mut node.content);
        });
    }

    fn links(&mut self, id: Id, by: i32) {
        self.edit(id, |node| node.links = node.links.wrapping_add_signed(by));
    }

    /// Forgets an inode that has neither name nor user.
    fn collect(&mut self, id: Id) {
        if self
            .inodes
            .get(&id)
            .is_some_and(|inode| inode.node.links == 0)
            && !self.handles.values().any(|&h| h == id)
        {
            self.inodes.remove(&id);
        }
    }

    fn create(&mut self, at: &Path, kind: Kind, mode: u16, rdev: u32, target: &str) -> Result<()> {
        let (dir, name) = self.vacant(at)?;
        let (id, parent) = (self.next, self.inodes[&dir].node.clone());
        let directory = kind == Kind::Directory;
        let inherits = parent.perm & SGID != 0;
        // A stranger to the directory's group does not get to run as it.
        let stranger = inherits && self.by.0 != 0 && self.by.1 != parent.gid;
        let perm = match mode & 0o7777 {
            perm if directory && inherits => perm | SGID,
            perm if !directory && stranger && perm & GROUP_EXEC != 0 => perm & !SGID,
            perm => perm,
        };
        let node = Node {
            kind,
            perm,
            links: if directory { 2 } else { 1 },
            uid: self.by.0,
            gid: if inherits { parent.gid } else { self.by.1 },
            rdev,
            mtime: self.now,
            ctime: self.now,
            content: Content::from_bytes(target.as_bytes()),
            xattrs: BTreeMap::new(),
        };
        self.next += 1;
        self.inodes.insert(
            id,
            Inode {
                node: Arc::new(node),
                children: BTreeMap::new(),
                parent: dir,
            },
        );
        self.names_changed(dir, |names| names.insert(name, id));
        if directory {
            self.links(dir, 1);
        }
        Ok(())
    }

    fn mknod(&mut self, at: &Path, mode: u16, rdev: u32) -> Result<()> {
        let (kind, rdev) = match mode & 0o170000 {
            0o010000 => (Kind::Fifo, 0),
            0o020000 => (Kind::CharDevice, rdev),
            0o060000 => (Kind::BlockDevice, rdev),
            0o100000 => (Kind::Regular, 0),
            0o140000 => (Kind::Socket, 0),
            DIRECTORY => return Err(Refusal::NotPermitted),
            _ => return Err(Refusal::Invalid),
        };
        self.create(at, kind, mode, rdev, "")
    }

    fn link(&mut self, from: &Target, to: &Path) -> Result<()> {
        let id = self.find(from)?;
        let (dir, name) = self.vacant(to)?;
        if self.is_dir(id) {
            return Err(Refusal::NotPermitted);
        }
        if self.inodes[&id].node.links == 0 {
            return Err(Refusal::NotFound);
        }
        self.names_changed(dir, |names| names.insert(name, id));
        self.changed(id, |node| node.links += 1);
        Ok(())
    }

    fn unlink(&mut self, at: &Path) -> Result<()> {
        let (dir, name) = self.place(at)?;
        let id = self.lookup(dir, &name)?;
        if self.is_dir(id) {
            return Err(Refusal::IsDirectory);
        }
        self.names_changed(dir, |names| names.remove(&name));
        self.changed(id, |node| node.links -= 1);
        self.collect(id);
        Ok(())
    }

    fn rmdir(&mut self, at: &Path) -> Result<()> {
        let (dir, name) = self.place(at)?;
        let id = self.directory(self.lookup(dir, &name)?)?;
        if !self.inodes[&id].children.is_empty() {
            return Err(Refusal::NotEmpty);
        }
        self.names_changed(dir, |names| names.remove(&name));
        self.links(dir, -1);
        self.inodes.remove(&id);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path, how: How) -> Result<()> {
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        let id = self.lookup(from_dir, &from_name)?;
        let there = match (self.lookup(to_dir, &to_name), how) {
            (Ok(_), How::NoReplace) => return Err(Refusal::Exists),
            (Ok(there), _) => Some(there),
            (Err(Refusal::NotFound), How::Plain | How::NoReplace) => None,
            (Err(why), _) => return Err(why),
        };
        if self.within(to_dir, id) {
            return Err(Refusal::Invalid);
        }
        if there.is_some_and(|there| self.within(from_dir, there)) {
            return Err(if how == How::Exchange {
                Refusal::Invalid
            } else {
                Refusal::NotEmpty
            });
        }
        match there {
            Some(there) if there == id => return Ok(()),
            Some(there) if how == How::Exchange => {
                self.moved(there, to_dir, from_dir, from_name);
            }
            Some(there) => {
                match (self.is_dir(id), self.is_dir(there)) {
                    (true, false) => return Err(Refusal::NotDirectory),
                    (false, true) => return Err(Refusal::IsDirectory),
                    (true, true) if !self.inodes[&there].children.is_empty() => {
                        return Err(Refusal::NotEmpty);
                    }
                    _ => {}
                }
                self.names_changed(from_dir, |names| names.remove(&from_name));
                self.replaced(there, to_dir);
            }
            None => self.names_changed(from_dir, |names| names.remove(&from_name)),
        }
        self.moved(id, from_dir, to_dir, to_name);
        Ok(())
    }

    /// Whether directory `inner` is `outer` or lies below it.
    fn within(&self, inner: Id, outer: Id) -> bool {
        inner == outer || inner != ROOT && self.within(self.inodes[&inner].parent, outer)
    }

    fn moved(&mut self, id: Id, from: Id, to: Id, name: Vec<u8>) {
        self.names_changed(to, |names| names.insert(name, id));
        self.changed(id, |_| {});
        if self.is_dir(id) {
            self.links(from, -1);
            self.links(to, 1);
            self.inodes.entry(id).and_modify(|inode| inode.parent = to);
        }
    }

    fn replaced(&mut self, id: Id, dir: Id) {
        if self.is_dir(id) {
            self.links(dir, -1);
            self.inodes.remove(&id);
        } else {
            self.changed(id, |node| node.links -= 1);
            self.collect(id);
        }
    }

    fn write(&mut self, id: Id, offset: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.data_changed(id, |content| content.write(offset, bytes));
        }
    }

    fn fallocate(&mut self, id: Id, space: Space, from: u64, to: u64) {
        self.data_changed(id, |content| {
            let len = content.len();
            if matches!(space, Space::Punch | Space::Zero | Space::ZeroKeep) {
                content.zero(from, to.min(len));
            }
            if matches!(space, Space::Plain | Space::Zero) && to > len {
                content.set_len(to);
            }
        });
    }

    fn chmod(&mut self, id: Id, mode: u16) {
        let (uid, gid) = self.by;
        self.changed(id, |node| {
            // Only a member of the file's group may hand its rights on.
            let strip = if uid != 0 && gid != node.gid { SGID } else { 0 };
            node.perm = mode & 0o7777 & !strip;
        });
    }

    fn chown(&mut self, id: Id, uid: Option<u32>, gid: Option<u32>) {
        let by = self.by;
        self.changed(id, |node| {
            if node.kind != Kind::Directory {
                strip(node, by);
            }
            node.uid = uid.unwrap_or(node.uid);
            node.gid = gid.unwrap_or(node.gid);
        });
    }

    /// Only files and directories have attributes of users.
    fn with_attributes(&self, of: &Target, name: &str) -> Result<Id> {
        let id = self.find(of)?;
        match self.inodes[&id].node.kind {
            Kind::Regular | Kind::Directory => Ok(id),
            _ if name.starts_with("user.") => Err(Refusal::NotPermitted),
            _ => Ok(id),
        }
    }

    fn set_xattr(&mut self, of: &Target, name: &str, value: &[u8], put: Put) -> Result<()> {
        let id = self.with_attributes(of, name)?;
        match (self.inodes[&id].node.xattrs.get(name.as_bytes()), put) {
            (Some(_), Put::Create) => return Err(Refusal::Exists),
            (None, Put::Replace) => return Err(Refusal::NoAttribute),
            // An equal value is no change.
            (Some(there), _) if there[..] == *value => return Ok(()),
            _ => {}
        }
        self.changed(id, |node| {
            drop(node.xattrs.insert(name.as_bytes().to_vec(), value.into()))
        });
        Ok(())
    }

    fn open(&mut self, handle: u8, at: &Path, truncate: bool) -> Result<()> {
        let id = self.regular(&Target::Path(at.clone()))?;
        if self.handles.contains_key(&handle) {
            return Err(Refusal::Any);
        }
        self.handles.insert(handle, id);
        if truncate {
            self.data_changed(id, |content| content.set_len(0));
        }
        Ok(())
    }
}

/// What a change takes away: the right to run as the owner, or as a group that
/// whoever changes it does not speak for.
fn strip(node: &mut Node, (uid, gid): (u32, u32)) {
    node.perm &= !SUID;
    if node.perm & GROUP_EXEC != 0 || (uid != 0 && gid != node.gid) {
        node.perm &= !SGID;
    }
}

/// `dir/name`, or `name` in the root.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        [] => name.to_vec(),
        dir => [dir, b"/", name].concat(),
    }
}

/// A path's directory (empty: the root) and last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (&[], path),
    }
}

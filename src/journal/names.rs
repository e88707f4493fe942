//! What inodes are called, as far as the records so far have told.
//!
//! A tree of names that grows as paths are told and changes as names do. Of
//! directories on the way to a told path only their place is known, not yet
//! their number; when they are renamed, all below them goes along.

use std::collections::HashMap;

use super::places::Places;
use super::record::{Name, Op, Operation};
use crate::units::InodeNo;

/// The node of the root directory.
const ROOT: usize = 0;

/// The tree of names at one record.
pub struct Names {
    nodes: Vec<Node>,
    free: Vec<usize>,
    /// Where an inode is; its newest name if it has several.
    places: Places,
    /// Further names of inodes that have several.
    others: HashMap<InodeNo, Vec<usize>>,
    /// The last names of inodes that have none any more.
    gone: HashMap<InodeNo, Vec<u8>>,
}

#[derive(Default)]
struct Node {
    parent: usize,
    name: Box<[u8]>,
    inode: Option<InodeNo>,
    children: HashMap<Box<[u8]>, usize>,
}

impl Default for Names {
    fn default() -> Self {
        let root = Node {
            inode: Some(InodeNo::ROOT),
            ..Node::default()
        };
        let mut places = Places::default();
        places.insert(InodeNo::ROOT, ROOT);
        Names {
            nodes: vec![root],
            free: Vec::new(),
            places,
            others: HashMap::new(),
            gone: HashMap::new(),
        }
    }
}

impl Names {
    /// Takes in what an operation takes for granted.
    pub fn hear(&mut self, operation: &Operation) {
        let bereft = operation.op.bereft();
        for (inode, path) in &operation.paths {
            if Some(*inode) != bereft {
                self.tell(*inode, path);
            }
        }
    }

    /// Takes in what holds after it.
    pub fn learn(&mut self, operation: &Operation) {
        self.apply(&operation.op);
        let bereft = operation.op.bereft();
        for (inode, path) in &operation.paths {
            if Some(*inode) == bereft {
                self.tell(*inode, path);
            }
        }
    }

    /// A record told an inode's full path. (Not one below the root is wrong,
    /// and left out.)
    pub fn tell(&mut self, inode: InodeNo, path: &[u8]) {
        let Some(path) = path.strip_prefix(b"/") else {
            return;
        };
        let mut at = ROOT;
        for name in path.split(|byte| *byte == b'/') {
            if !name.is_empty() {
                at = self.child(at, name);
            }
        }
        if at != ROOT {
            self.put(at, inode);
        }
    }

    /// An operation changed names. Its directories have been told before.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { at, inode, .. } => {
                self.forget(*inode);
                self.add(at, *inode);
            }
            Op::Link { at, inode, .. } => self.add(at, *inode),
            Op::Unlink { at, inode, .. } | Op::Rmdir { at, inode, .. } => {
                self.remove(at, *inode);
            }
            Op::Rename {
                from,
                to,
                flags,
                inode,
                replaced,
                ..
            } => self.rename(from, to, *flags, *inode, *replaced),
            _ => {}
        }
    }

    /// An inode's full path, or the last that it had; `None` if none was told.
    pub fn path(&self, inode: InodeNo) -> Option<Vec<u8>> {
        match self.places.get(inode) {
            Some(at) => Some(self.path_of(at)),
            None => self.gone.get(&inode).cloned(),
        }
    }

    /// Whether an inode is known to have lost its last name.
    pub fn is_deleted(&self, inode: InodeNo) -> bool {
        self.gone.contains_key(&inode)
    }

    /// A name's full path in a directory.
    pub fn path_in(&self, at: &Name) -> Option<Vec<u8>> {
        let mut path = self.path(at.parent)?;
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(&at.name);
        Some(path)
    }

    fn path_of(&self, mut at: usize) -> Vec<u8> {
        if at == ROOT {
            return b"/".to_vec();
        }
        // From its end to its beginning, so that its length comes first.
        let (mut len, mut up) = (0, at);
        while up != ROOT {
            len += self.nodes[up].name.len() + 1;
            up = self.nodes[up].parent;
        }
        let mut path = vec![b'/'; len];
        while at != ROOT {
            let name = &self.nodes[at].name;
            path[len - name.len()..len].copy_from_slice(name);
            len -= name.len() + 1;
            at = self.nodes[at].parent;
        }
        path
    }

    /// The node of a name in a directory, made if it is new.
    fn child(&mut self, parent: usize, name: &[u8]) -> usize {
        if let Some(at) = self.nodes[parent].children.get(name) {
            return *at;
        }
        let node = Node {
            parent,
            name: name.into(),
            ..Node::default()
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.nodes[parent].children.insert(name.into(), at);
        at
    }

    /// The node of a name; `None` if its directory is not known.
    fn node(&mut self, at: &Name) -> Option<usize> {
        let parent = self.places.get(at.parent)?;
        Some(self.child(parent, &at.name))
    }

    /// From now on this inode is here.
    fn put(&mut self, at: usize, inode: InodeNo) {
        match self.nodes[at].inode {
            Some(there) if there == inode => return,
            Some(there) => self.leave(at, there),
            None => {}
        }
        self.nodes[at].inode = Some(inode);
        self.gone.remove(&inode);
        if let Some(before) = self.places.insert(inode, at) {
            self.others.entry(inode).or_default().push(before);
        }
    }

    /// This inode is here no more; its node may get another or go.
    fn leave(&mut self, at: usize, inode: InodeNo) {
        self.nodes[at].inode = None;
        let others = self.others.get_mut(&inode);
        if self.places.get(inode) != Some(at) {
            if let Some(others) = others {
                others.retain(|other| *other != at);
            }
            return;
        }
        match others.and_then(Vec::pop) {
            Some(other) => {
                self.places.insert(inode, other);
            }
            None => {
                self.others.remove(&inode);
                self.places.remove(inode);
                self.gone.insert(inode, self.path_of(at));
            }
        }
    }

    fn add(&mut self, at: &Name, inode: InodeNo) {
        if let Some(at) = self.node(at) {
            self.put(at, inode);
        }
    }

    /// A number is used anew: whatever had it is no more.
    fn forget(&mut self, inode: InodeNo) {
        self.gone.remove(&inode);
        let others = self.others.remove(&inode).unwrap_or_default();
        for at in self.places.remove(inode).into_iter().chain(others) {
            self.nodes[at].inode = None;
        }
    }

    fn remove(&mut self, at: &Name, inode: InodeNo) {
        let Some(at) = self.node(at) else { return };
        if let Some(there) = self.nodes[at].inode {
            self.leave(at, there);
        } else if self.places.get(inode).is_none() {
            self.gone.insert(inode, self.path_of(at));
        }
        self.detach(at);
        self.discard(at);
    }

    fn rename(&mut self, from: &Name, to: &Name, flags: u32, inode: InodeNo, replaced: InodeNo) {
        let (Some(old), Some(new)) = (self.node(from), self.node(to)) else {
            return;
        };
        // No file system makes a directory its own descendant.
        if self.is_within(new, old) || self.is_within(old, new) {
            return;
        }
        self.put(old, inode);
        if flags & libc::RENAME_EXCHANGE != 0 {
            self.put(new, replaced);
            let (from, to) = (self.detach(old), self.detach(new));
            self.attach(old, to);
            self.attach(new, from);
            return;
        }
        if let Some(there) = self.nodes[new].inode {
            self.leave(new, there);
        }
        let to = self.detach(new);
        self.discard(new);
        self.detach(old);
        self.attach(old, to);
    }

    /// Whether a node is another one, or below it.
    fn is_within(&self, mut at: usize, other: usize) -> bool {
        while at != other && at != ROOT {
            at = self.nodes[at].parent;
        }
        at == other
    }

    /// Takes a node out of its directory; gives the place that it had.
    fn detach(&mut self, at: usize) -> (usize, Box<[u8]>) {
        let parent = self.nodes[at].parent;
        let name = std::mem::take(&mut self.nodes[at].name);
        self.nodes[parent].children.remove(&name);
        (parent, name)
    }

    fn attach(&mut self, at: usize, (parent, name): (usize, Box<[u8]>)) {
        self.nodes[at].parent = parent;
        self.nodes[at].name = name.clone();
        self.nodes[parent].children.insert(name, at);
    }

    /// Gives up a detached node and what may still hang below it.
    fn discard(&mut self, at: usize) {
        let mut left = vec![at];
        while let Some(at) = left.pop() {
            let node = std::mem::take(&mut self.nodes[at]);
            if let Some(inode) = node.inode {
                self.forget(inode);
            }
            left.extend(node.children.into_values());
            self.free.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::By;
    use crate::units::Time;

    fn at(parent: u32, name: &str) -> Name {
        Name {
            parent: InodeNo(parent),
            name: name.into(),
        }
    }
    fn create(parent: u32, name: &str, inode: u32) -> Op {
        Op::Create {
            by: By::default(),
            at: at(parent, name),
            inode: InodeNo(inode),
            mode: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
            time: Time::default(),
        }
    }
    fn rename(from: Name, to: Name, flags: u32, inode: u32, replaced: u32) -> Op {
        Op::Rename {
            by: By::default(),
            from,
            to,
            flags,
            inode: InodeNo(inode),
            replaced: InodeNo(replaced),
            time: Time::default(),
        }
    }
    fn unlink(at: Name, inode: u32) -> Op {
        Op::Unlink {
            by: By::default(),
            at,
            inode: InodeNo(inode),
            time: Time::default(),
        }
    }
    fn link(at: Name, inode: u32) -> Op {
        Op::Link {
            by: By::default(),
            at,
            inode: InodeNo(inode),
            time: Time::default(),
        }
    }
    fn path(names: &Names, inode: u32) -> String {
        let path = names.path(InodeNo(inode));
        let mut path = path.map_or("?".into(), |path| String::from_utf8(path).unwrap());
        if names.is_deleted(InodeNo(inode)) {
            path.push_str(" (deleted)");
        }
        path
    }

    #[test]
    fn what_is_below_a_renamed_directory_goes_along() {
        let mut names = Names::default();
        names.tell(InodeNo(30), b"/a/b/file");
        names.tell(InodeNo(11), b"/a");
        names.apply(&rename(at(2, "a"), at(2, "z"), 0, 11, 0));
        assert_eq!(path(&names, 30), "/z/b/file");
        assert_eq!(path(&names, 11), "/z");
        names.apply(&create(11, "new", 31));
        assert_eq!(path(&names, 31), "/z/new");
    }

    #[test]
    fn what_is_replaced_or_removed_is_called_deleted() {
        let mut names = Names::default();
        for (name, inode) in [("a", 12), ("b", 13)] {
            names.apply(&create(2, name, inode));
        }
        names.apply(&rename(at(2, "a"), at(2, "b"), 0, 12, 13));
        assert_eq!(path(&names, 12), "/b");
        assert_eq!(path(&names, 13), "/b (deleted)");
        names.apply(&unlink(at(2, "b"), 12));
        assert_eq!(path(&names, 12), "/b (deleted)");
        // The number is used anew.
        names.apply(&create(2, "c", 12));
        assert_eq!(path(&names, 12), "/c");
    }

    #[test]
    fn names_are_exchanged_with_all_below_them() {
        let mut names = Names::default();
        names.tell(InodeNo(20), b"/x/deep/file");
        names.tell(InodeNo(11), b"/x");
        names.tell(InodeNo(12), b"/y");
        names.apply(&rename(
            at(2, "x"),
            at(2, "y"),
            libc::RENAME_EXCHANGE,
            11,
            12,
        ));
        assert_eq!(path(&names, 20), "/y/deep/file");
        assert_eq!(path(&names, 12), "/x");
    }

    #[test]
    fn one_of_several_names_remains() {
        let mut names = Names::default();
        names.apply(&create(2, "first", 12));
        names.apply(&link(at(2, "second"), 12));
        assert_eq!(path(&names, 12), "/second");
        names.apply(&unlink(at(2, "second"), 12));
        assert_eq!(path(&names, 12), "/first");
        names.apply(&link(at(2, "third"), 12));
        names.apply(&unlink(at(2, "first"), 12));
        assert_eq!(path(&names, 12), "/third");
        names.apply(&unlink(at(2, "third"), 12));
        assert_eq!(path(&names, 12), "/third (deleted)");
    }

    #[test]
    fn a_directory_never_comes_to_lie_below_itself() {
        let mut names = Names::default();
        names.tell(InodeNo(12), b"/a/b");
        names.tell(InodeNo(11), b"/a");
        names.apply(&rename(at(2, "a"), at(12, "c"), 0, 11, 0));
        names.apply(&rename(at(11, "b"), at(2, "a"), 0, 12, 11));
        assert_eq!(path(&names, 12), "/a/b");
    }

    #[test]
    fn what_nobody_told_is_not_guessed() {
        let mut names = Names::default();
        names.tell(InodeNo(9), b"relative");
        names.apply(&create(77, "in-an-unknown-directory", 12));
        assert_eq!(path(&names, 9), "?");
        assert_eq!(path(&names, 12), "?");
        assert_eq!(path(&names, 2), "/");
    }
}

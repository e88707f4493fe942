//! The canonical form of a tree: what the law compares.
//!
//! Names, types, contents, size, mode, owner, mtime and ctime, xattrs and
//! link identity; not atime, inode numbers, directory sizes or placement.
//! Nodes are numbered by first appearance in a walk in order of names, so
//! that two trees with the same links have the same numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::fs::Kind;
use crate::units::Time;

const CHUNK: u64 = 1024;

/// A file's bytes; chunks of zeros are absent, so that equal files are equal
/// values and a hole costs nothing.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Content {
    len: u64,
    chunks: BTreeMap<u64, Arc<[u8]>>,
}

impl Content {
    /// From plain bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut content = Content::default();
        content.write(0, bytes);
        content
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        for (at, chunk) in &self.chunks {
            let rest = &mut bytes[(at * CHUNK) as usize..];
            let len = rest.len().min(chunk.len());
            rest[..len].copy_from_slice(&chunk[..len]);
        }
        bytes
    }

    /// Overwrites from `offset`, growing where needed.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.len = self.len.max(offset + bytes.len() as u64);
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let within = (at % CHUNK) as usize;
            let (now, later) = rest.split_at(rest.len().min(CHUNK as usize - within));
            self.edit(at / CHUNK, |chunk| {
                chunk[within..within + now.len()].copy_from_slice(now)
            });
            at += now.len() as u64;
            rest = later;
        }
    }

    /// Zeros in `from .. to`; the length stays.
    pub fn zero(&mut self, from: u64, to: u64) {
        let touched: Vec<u64> = match from < to {
            true => self
                .chunks
                .range(from / CHUNK..to.div_ceil(CHUNK))
                .map(|(&at, _)| at)
                .collect(),
            false => Vec::new(),
        };
        for at in touched {
            let start = from.saturating_sub(at * CHUNK) as usize;
            let end = (to - at * CHUNK).min(CHUNK) as usize;
            self.edit(at, |chunk| chunk[start..end].fill(0));
        }
    }

    /// Cuts, or extends with zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len);
        }
        self.len = len;
    }

    fn edit(&mut self, at: u64, change: impl FnOnce(&mut [u8])) {
        let chunk = self
            .chunks
            .entry(at)
            .or_insert_with(|| vec![0; CHUNK as usize].into());
        let bytes = Arc::make_mut(chunk);
        change(bytes);
        if bytes.iter().all(|&b| b == 0) {
            self.chunks.remove(&at);
        }
    }

    /// The first byte where two contents differ.
    fn first_difference(&self, other: &Content) -> Option<u64> {
        let zeros: Arc<[u8]> = vec![0; CHUNK as usize].into();
        let places: std::collections::BTreeSet<u64> = self
            .chunks
            .keys()
            .chain(other.chunks.keys())
            .copied()
            .collect();
        places.into_iter().find_map(|at| {
            let mine = self.chunks.get(&at).unwrap_or(&zeros);
            let theirs = other.chunks.get(&at).unwrap_or(&zeros);
            mine.iter()
                .zip(theirs.iter())
                .position(|(a, b)| a != b)
                .map(|i| at * CHUNK + i as u64)
        })
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut crc = crc32fast::Hasher::new();
        for (at, chunk) in &self.chunks {
            crc.update(&at.to_le_bytes());
            crc.update(chunk);
        }
        write!(
            f,
            "{} bytes, {} chunks, crc {:08x}",
            self.len,
            self.chunks.len(),
            crc.finalize()
        )
    }
}

/// What is compared of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Node {
    pub kind: Kind,
    pub perm: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub mtime: Time,
    pub ctime: Time,
    /// A file's bytes or a symlink's target; empty otherwise.
    pub content: Content,
    pub xattrs: BTreeMap<Vec<u8>, Arc<[u8]>>,
}

/// A whole tree.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Tree {
    /// Path from the root (empty for the root itself) → number of the node.
    pub names: BTreeMap<Vec<u8>, usize>,
    /// The nodes, numbered by first appearance.
    pub nodes: Vec<Arc<Node>>,
}

/// Builds a [`Tree`] from a walk in order of names.
pub struct Builder<Id> {
    tree: Tree,
    numbers: BTreeMap<Id, usize>,
}

impl<Id: Ord> Default for Builder<Id> {
    fn default() -> Self {
        Builder {
            tree: Tree::default(),
            numbers: BTreeMap::new(),
        }
    }
}

impl<Id: Ord> Builder<Id> {
    /// Notes that `path` leads to the inode `id`; `node` is asked for at its
    /// first appearance only.
    pub fn name<E>(
        &mut self,
        path: Vec<u8>,
        id: Id,
        node: impl FnOnce() -> Result<Arc<Node>, E>,
    ) -> Result<(), E> {
        let number = match self.numbers.get(&id) {
            Some(&number) => number,
            None => {
                self.tree.nodes.push(node()?);
                self.numbers.insert(id, self.tree.nodes.len() - 1);
                self.tree.nodes.len() - 1
            }
        };
        self.tree.names.insert(path, number);
        Ok(())
    }

    /// The finished tree.
    pub fn finish(self) -> Tree {
        self.tree
    }
}

impl Tree {
    /// Nothing but a root directory.
    pub fn root() -> Self {
        let node = Node {
            kind: Kind::Directory,
            perm: 0o755,
            links: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            mtime: Time::default(),
            ctime: Time::default(),
            content: Content::default(),
            xattrs: BTreeMap::new(),
        };
        Tree {
            names: BTreeMap::from([(Vec::new(), 0)]),
            nodes: vec![Arc::new(node)],
        }
    }

    /// How `self` (what should be) and `found` differ, for a reader; `None`
    /// if they are equal.
    pub fn difference(&self, found: &Tree) -> Option<String> {
        if self == found {
            return None;
        }
        let mut lines = Vec::new();
        for (path, &number) in &self.names {
            match found.names.get(path) {
                None => lines.push(format!("/{}: missing", spell(path))),
                Some(&other) => compare(
                    path,
                    (number, &self.nodes[number]),
                    (other, &found.nodes[other]),
                    &mut lines,
                ),
            }
        }
        let extra = found
            .names
            .keys()
            .filter(|path| !self.names.contains_key(*path));
        lines.extend(extra.map(|path| format!("/{}: should not be there", spell(path))));
        lines.truncate(12);
        Some(lines.join("\n"))
    }
}

fn compare(
    path: &[u8],
    (number, want): (usize, &Node),
    (other, found): (usize, &Node),
    lines: &mut Vec<String>,
) {
    let mut field = |name: &str, same: bool, want: &dyn fmt::Debug, found: &dyn fmt::Debug| {
        if !same {
            lines.push(format!(
                "/{}: {name} should be {want:?}, is {found:?}",
                spell(path)
            ));
        }
    };
    field("identity", number == other, &number, &other);
    field("kind", want.kind == found.kind, &want.kind, &found.kind);
    field(
        "perm",
        want.perm == found.perm,
        &format_args!("{:o}", want.perm),
        &format_args!("{:o}", found.perm),
    );
    field(
        "links",
        want.links == found.links,
        &want.links,
        &found.links,
    );
    field("uid", want.uid == found.uid, &want.uid, &found.uid);
    field("gid", want.gid == found.gid, &want.gid, &found.gid);
    field("rdev", want.rdev == found.rdev, &want.rdev, &found.rdev);
    field(
        "mtime",
        want.mtime == found.mtime,
        &want.mtime,
        &found.mtime,
    );
    field(
        "ctime",
        want.ctime == found.ctime,
        &want.ctime,
        &found.ctime,
    );
    field(
        "content",
        want.content == found.content,
        &want.content,
        &found.content,
    );
    if let Some(at) = want.content.first_difference(&found.content) {
        lines.push(format!(
            "/{}: content differs from byte {at} on",
            spell(path)
        ));
    }
    if want.xattrs != found.xattrs {
        let names = |node: &Node| -> Vec<String> {
            node.xattrs
                .iter()
                .map(|(name, value)| format!("{}={} bytes", spell(name), value.len()))
                .collect()
        };
        lines.push(format!(
            "/{}: xattrs should be {:?}, are {:?}",
            spell(path),
            names(want),
            names(found)
        ));
    }
}

/// A path for a reader, long names shortened.
fn spell(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let short = |name: &str| match name.char_indices().nth(20) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name.to_owned(),
    };
    text.split('/').map(short).collect::<Vec<_>>().join("/")
}

//! What changed between two instants.
//!
//! Both trees are walked; inodes are known again by number, generation and
//! birth, names by their directory's inode, so that a renamed directory is one
//! change and not one for each file in it. Contents are compared of files that
//! a record between the two names; all others have none that could differ. If
//! records between them are missing, any may.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::{Instant, Result, Span};
use crate::fs::{Access, Attr, Caller, Error as FsError, Fs, Kind, Whence};
use crate::journal::record::Record;
use crate::log::Kind as FrameKind;
use crate::units::{InodeNo, Lsn, Time};

/// Bytes compared at a time.
const PIECE: u32 = 1 << 20;

/// What happened to a name or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happened {
    /// A name of a new file.
    Added,
    /// A name of a file that is no more.
    Removed,
    /// Another file has its name.
    Replaced,
    /// A name has become another.
    Renamed,
    /// A file got another name.
    Linked,
    /// A file lost a name, but not its last.
    Unlinked,
    /// It is what it was, with other contents or attributes.
    Changed,
}

/// In what a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // as stat(2) has them
pub enum Aspect {
    Content,
    Size,
    Mode,
    Owner,
    Group,
    Links,
    Xattrs,
    Flags,
    Mtime,
    Ctime,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub happened: Happened,
    /// Where: the path then, or, of what is gone, the path before.
    pub path: Vec<u8>,
    /// Of a renamed one, the path before.
    pub from: Option<Vec<u8>>,
    /// In what it differs, if it was changed.
    pub aspects: Vec<Aspect>,
    /// What it was; `None` of what is new.
    pub before: Option<Attr>,
    /// What it is; `None` of what is gone.
    pub after: Option<Attr>,
}

/// By what an inode is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id(InodeNo, u32, Time);

/// A name in a directory.
type Name = (Id, Vec<u8>);

struct Node {
    attr: Attr,
    names: BTreeSet<Name>,
}

/// One of the trees.
struct Tree {
    fs: Arc<Fs>,
    nodes: BTreeMap<Id, Node>,
}

/// What changed from one instant to another, by path.
pub fn compare(span: &Span, one: &Instant, other: &Instant) -> Result<Vec<Change>> {
    let named = named_between(span, one.at(), other.at());
    let may_differ = |inode| named.as_ref().is_none_or(|named| named.contains(&inode));
    let (one, other) = (Tree::read(one)?, Tree::read(other)?);
    let mut changes = Vec::new();
    let ids: BTreeSet<Id> = one
        .nodes
        .keys()
        .chain(other.nodes.keys())
        .copied()
        .collect();
    for id in ids {
        match (one.nodes.get(&id), other.nodes.get(&id)) {
            (Some(before), Some(after)) => {
                names(&one, &other, before, after, &mut changes);
                let aspects = aspects((&one, before), (&other, after), may_differ(id.0))?;
                if !aspects.is_empty() {
                    let path = other.path(&after.names);
                    changes.push(Change {
                        aspects,
                        ..Change::of(Happened::Changed, path, Some(before), Some(after))
                    });
                }
            }
            (Some(node), None) => changes.extend(
                node.names
                    .iter()
                    .map(|name| Change::of(Happened::Removed, one.path_of(name), Some(node), None)),
            ),
            (None, Some(node)) => changes.extend(
                node.names
                    .iter()
                    .map(|name| Change::of(Happened::Added, other.path_of(name), None, Some(node))),
            ),
            (None, None) => {}
        }
    }
    changes.sort_by(|a, b| (&a.path, a.happened).cmp(&(&b.path, b.happened)));
    Ok(replaced(changes))
}

impl Change {
    fn of(happened: Happened, path: Vec<u8>, before: Option<&Node>, after: Option<&Node>) -> Self {
        Change {
            happened,
            path,
            from: None,
            aspects: Vec::new(),
            before: before.map(|node| node.attr),
            after: after.map(|node| node.attr),
        }
    }
}

/// The inodes that records between two points act on; `None` if not all of them
/// can be read.
fn named_between(span: &Span, one: Lsn, other: Lsn) -> Option<HashSet<InodeNo>> {
    let (from, until) = (one.min(other), one.max(other));
    let mut named = HashSet::new();
    let mut frames = span.survey().frames(from.next());
    for lsn in (from.next().0..=until.0).map(Lsn) {
        let frame = frames.next()?.ok().filter(|frame| frame.lsn == lsn)?;
        if frame.kind == FrameKind::Mark {
            continue;
        }
        if let Record::Operation(operation) = Record::decode_meaning(&frame.meta).ok()? {
            named.extend(operation.op.inode());
        }
    }
    Some(named)
}

/// The path that a file has at an instant, by its attributes at another.
pub fn path_of(instant: &Instant, file: &Attr) -> Result<Option<Vec<u8>>> {
    let tree = Tree::read(instant)?;
    let node = tree.nodes.get(&Id::of(file));
    Ok(node.map(|node| tree.path(&node.names)))
}

/// A name that one file had and another has is one change.
fn replaced(changes: Vec<Change>) -> Vec<Change> {
    let mut joined: Vec<Change> = Vec::new();
    for change in changes {
        match joined.last_mut() {
            Some(last)
                if last.happened == Happened::Added
                    && change.happened == Happened::Removed
                    && last.path == change.path =>
            {
                last.happened = Happened::Replaced;
                last.before = change.before;
            }
            _ => joined.push(change),
        }
    }
    joined
}

fn names(one: &Tree, other: &Tree, before: &Node, after: &Node, changes: &mut Vec<Change>) {
    let mut gone = before.names.difference(&after.names);
    let mut came = after.names.difference(&before.names);
    loop {
        let (happened, path, from) = match (gone.next(), came.next()) {
            (Some(old), Some(new)) => (
                Happened::Renamed,
                other.path_of(new),
                Some(one.path_of(old)),
            ),
            (Some(old), None) => (Happened::Unlinked, one.path_of(old), None),
            (None, Some(new)) => (Happened::Linked, other.path_of(new), None),
            (None, None) => break,
        };
        changes.push(Change {
            from,
            ..Change::of(happened, path, Some(before), Some(after))
        });
    }
}

fn aspects(
    (one, before): (&Tree, &Node),
    (other, after): (&Tree, &Node),
    named: bool,
) -> Result<Vec<Aspect>> {
    let (a, b) = (&before.attr, &after.attr);
    let file = a.kind == Kind::Regular;
    let content = file && (a.size != b.size || (named && !same_bytes(one, other, a)?));
    let xattrs = a.ctime != b.ctime && one.xattrs(a.inode)? != other.xattrs(b.inode)?;
    let differs = [
        (Aspect::Content, content),
        (Aspect::Size, file && a.size != b.size),
        (Aspect::Mode, a.perm != b.perm),
        (Aspect::Owner, a.uid != b.uid),
        (Aspect::Group, a.gid != b.gid),
        (Aspect::Links, a.links != b.links),
        (Aspect::Xattrs, xattrs),
        (Aspect::Flags, a.flags != b.flags),
        (Aspect::Mtime, a.mtime != b.mtime),
        (Aspect::Ctime, a.ctime != b.ctime),
    ];
    let differs = differs.into_iter().filter(|(_, differs)| *differs);
    Ok(differs.map(|(aspect, _)| aspect).collect())
}

/// Whether a file that is as long in both has the same bytes; holes are
/// skipped where both have one.
fn same_bytes(one: &Tree, other: &Tree, attr: &Attr) -> Result<bool> {
    let inode = attr.inode;
    let mut at = 0;
    while at < attr.size {
        let next = [one.data(inode, at)?, other.data(inode, at)?];
        let Some(start) = next.into_iter().flatten().min() else {
            break;
        };
        let len = (attr.size - start).min(PIECE.into()) as u32;
        if one.fs.read(inode, start, len)? != other.fs.read(inode, start, len)? {
            return Ok(false);
        }
        at = start + u64::from(len);
    }
    Ok(true)
}

impl Tree {
    fn read(instant: &Instant) -> Result<Tree> {
        let fs = instant.fs(Access::Fakeroot)?;
        let root = fs.getattr(InodeNo::ROOT)?;
        let mut nodes = BTreeMap::new();
        let mut todo = vec![Id::of(&root)];
        let top = Node {
            attr: root,
            names: BTreeSet::new(),
        };
        nodes.insert(todo[0], top);
        let by = Caller::default();
        while let Some(dir) = todo.pop() {
            let mut damaged = None;
            fs.readdirplus(&by, dir.0, 0, &mut |_, name, inode, _, attr| {
                let Some(attr) = attr else {
                    damaged = Some(inode);
                    return false;
                };
                if name == b"." || name == b".." {
                    return true;
                }
                let id = Id::of(attr);
                let node = nodes.entry(id).or_insert_with(|| {
                    if attr.kind == Kind::Directory {
                        todo.push(id);
                    }
                    Node {
                        attr: *attr,
                        names: BTreeSet::new(),
                    }
                });
                node.names.insert((dir, name.to_vec()));
                true
            })?;
            // Its own error says what is wrong with it.
            if let Some(inode) = damaged {
                fs.getattr(inode)?;
            }
        }
        Ok(Tree { fs, nodes })
    }

    /// A name's path from the root.
    fn path_of(&self, name: &Name) -> Vec<u8> {
        let mut parts = vec![&name.1];
        let mut dir = name.0;
        // A forged tree might lead in circles.
        while let Some(above) = self.nodes.get(&dir).and_then(|node| node.names.first()) {
            if parts.len() > self.nodes.len() {
                break;
            }
            parts.push(&above.1);
            dir = above.0;
        }
        let parts = parts.into_iter().rev();
        parts
            .flat_map(|part| [b"/", part.as_slice()].concat())
            .collect()
    }

    /// The path of an inode by its first name.
    fn path(&self, names: &BTreeSet<Name>) -> Vec<u8> {
        names
            .first()
            .map_or(b"/".to_vec(), |name| self.path_of(name))
    }

    fn xattrs(&self, inode: InodeNo) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let by = Caller::default();
        let names = self.fs.listxattr(&by, inode)?;
        let names = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        names
            .map(|name| Ok((name.to_vec(), self.fs.getxattr(&by, inode, name)?)))
            .collect()
    }

    /// Where the next data is.
    fn data(&self, inode: InodeNo, from: u64) -> Result<Option<u64>> {
        match self.fs.seek(inode, from, Whence::Data) {
            Ok(at) => Ok(Some(at)),
            Err(FsError::NoDevice) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Id {
    fn of(attr: &Attr) -> Id {
        Id(attr.inode, attr.generation, attr.crtime)
    }
}

//! Reads a whole tree through [`Fs`] into the canonical form.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::join;
use super::tree::{Builder, Content, Node, Tree};
use crate::fs::{Attr, Caller, Error, Fs, Kind, Result, Whence};
use crate::units::InodeNo;

/// Files up to this size are read whole; of larger ones only what SEEK_DATA
/// names, or a hole of terabytes would take forever.
const WHOLE: u64 = 1 << 18;
const PIECE: u32 = 1 << 16;

/// The tree that `fs` shows.
pub fn walk(fs: &Fs) -> Result<Tree> {
    let mut builder = Builder::default();
    descend(fs, InodeNo::ROOT, Vec::new(), &mut builder)?;
    Ok(builder.finish())
}

fn descend(fs: &Fs, inode: InodeNo, path: Vec<u8>, builder: &mut Builder<InodeNo>) -> Result<()> {
    let attr = fs.getattr(inode)?;
    builder.name(path.clone(), inode, || node(fs, &attr).map(Arc::new))?;
    if attr.kind == Kind::Directory {
        for (name, child) in names(fs, inode)? {
            descend(fs, child, join(&path, &name), builder)?;
        }
    }
    Ok(())
}

/// The names in a directory, in order, each checked against a look-up.
fn names(fs: &Fs, dir: InodeNo) -> Result<BTreeMap<Vec<u8>, InodeNo>> {
    let by = Caller::default();
    let mut names = BTreeMap::new();
    let mut twice = None;
    fs.readdir(&by, dir, 0, &mut |_, name, inode, _| {
        if name != b"." && name != b".." && names.insert(name.to_vec(), inode).is_some() {
            twice = Some(name.to_vec());
        }
        true
    })?;
    for (name, &inode) in &names {
        let found = fs.lookup(&by, dir, name)?;
        fs.forget(found.inode, 1);
        assert_eq!(
            found.inode, inode,
            "readdir and lookup disagree about {name:?}"
        );
    }
    assert_eq!(twice, None, "readdir of inode {dir} gives a name twice");
    Ok(names)
}

/// What an inode is.
pub(super) fn node(fs: &Fs, attr: &Attr) -> Result<Node> {
    Ok(Node {
        kind: attr.kind,
        perm: attr.perm,
        links: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        mtime: attr.mtime,
        ctime: attr.ctime,
        content: match attr.kind {
            Kind::Regular => content(fs, attr)?,
            Kind::Symlink => Content::from_bytes(&fs.readlink(attr.inode)?),
            _ => Content::default(),
        },
        xattrs: xattrs(fs, attr.inode)?,
    })
}

fn content(fs: &Fs, attr: &Attr) -> Result<Content> {
    let mut content = Content::default();
    let mut at = 0;
    while at < attr.size {
        let (from, to) = match attr.size <= WHOLE {
            true => (at, attr.size),
            false => match data_after(fs, attr.inode, at)? {
                Some(range) => range,
                None => break,
            },
        };
        read_range(fs, attr.inode, from, to.min(attr.size), &mut content)?;
        at = to;
    }
    content.set_len(attr.size);
    Ok(content)
}

fn data_after(fs: &Fs, inode: InodeNo, at: u64) -> Result<Option<(u64, u64)>> {
    match fs.seek(inode, at, Whence::Data) {
        Ok(from) => Ok(Some((from, fs.seek(inode, from, Whence::Hole)?))),
        Err(Error::NoDevice) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_range(fs: &Fs, inode: InodeNo, from: u64, to: u64, into: &mut Content) -> Result<()> {
    let mut at = from;
    while at < to {
        let len = u64::from(PIECE).min(to - at) as u32;
        let bytes = fs.read(inode, at, len)?;
        assert_eq!(
            bytes.len(),
            len as usize,
            "a read of inode {inode} at {at} is short"
        );
        into.write(at, &bytes);
        at += u64::from(len);
    }
    Ok(())
}

fn xattrs(fs: &Fs, inode: InodeNo) -> Result<BTreeMap<Vec<u8>, Arc<[u8]>>> {
    let by = Caller::default();
    let list = fs.listxattr(&by, inode)?;
    let names = list.split(|&b| b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| Ok((name.to_vec(), fs.getxattr(&by, inode, name)?.into())))
        .collect()
}

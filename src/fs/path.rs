//! Full paths of inodes, which records tell so that a journal can be read
//! without its image.
//!
//! An inode does not know its name; a directory knows its parent (`..`). The
//! name that an inode was last seen under is kept as a hint, and looked up
//! before it is believed. Without one a directory's parent is searched from
//! end to end, and a file stays without a path.

use foldhash::HashMap;
use parking_lot::Mutex;

use super::inode::load_file;
use super::{Fs, Result, dir};
use crate::ext4::Superblock;
use crate::ext4::inode::{Inode, mode};
use crate::journal::Blocks;
use crate::units::InodeNo;

/// Longer paths are not told; this also ends circles.
const LONGEST: usize = 16 << 10;
/// So many hints are kept at least, and up to twice as many.
const HINTS: usize = 1 << 16;
/// So many inodes may have been seen under several names.
const SEVERAL: usize = 1 << 12;
/// So many earlier names of each are kept.
const NAMES: usize = 8;

/// Inodes and the names they were last seen under.
#[derive(Default)]
pub(super) struct Hints(Mutex<Seen>);

/// Two generations: the older is forgotten when the younger is full.
#[derive(Default)]
struct Seen {
    young: HashMap<InodeNo, Hint>,
    old: HashMap<InodeNo, Hint>,
    /// Earlier names of inodes that were seen under several.
    earlier: HashMap<InodeNo, Vec<Hint>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Hint {
    parent: InodeNo,
    name: Box<[u8]>,
}

impl Hints {
    /// The inode was seen under this name.
    pub(super) fn note(&self, inode: InodeNo, parent: InodeNo, name: &[u8]) {
        let Seen {
            young,
            old,
            earlier,
        } = &mut *self.0.lock();
        if let Some(known) = young.get(&inode)
            && known.parent == parent
            && *known.name == *name
        {
            return;
        }
        if young.len() >= HINTS {
            *old = std::mem::take(young);
        }
        let name = name.into();
        let hint = Hint { parent, name };
        let before = young.insert(inode, hint.clone());
        if let Some(before) = before.or_else(|| old.remove(&inode)) {
            if earlier.len() >= SEVERAL {
                earlier.clear();
            }
            let names = earlier.entry(inode).or_default();
            names.retain(|name| *name != hint && *name != before);
            names.truncate(NAMES - 1);
            names.insert(0, before);
        }
    }

    /// The names that an inode was seen under, the last one first.
    fn get(&self, inode: InodeNo) -> Vec<Hint> {
        let seen = self.0.lock();
        let last = seen.young.get(&inode).or_else(|| seen.old.get(&inode));
        let earlier = seen.earlier.get(&inode).into_iter().flatten();
        last.into_iter().chain(earlier).cloned().collect()
    }

    /// An inode's path from the root, `/` for the root; `None` if it can't be
    /// told.
    pub(super) fn path(
        &self,
        blocks: &dyn Blocks,
        sb: &Superblock,
        inode: InodeNo,
    ) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut len = 0;
        let mut at = load_file(blocks, sb, inode).ok()?;
        if at.links == 0 {
            return None;
        }
        while at.number != InodeNo::ROOT {
            let (parent, name) = self.place(blocks, sb, &at).ok()??;
            len += name.len() + 1;
            if len > LONGEST {
                return None;
            }
            names.push(name);
            at = parent;
        }
        let path: Vec<u8> = names
            .iter()
            .rev()
            .flat_map(|name| [b"/".as_slice(), name].concat())
            .collect();
        Some(if path.is_empty() { b"/".to_vec() } else { path })
    }

    /// The directory that an inode is in, and its name there.
    fn place(
        &self,
        blocks: &dyn Blocks,
        sb: &Superblock,
        inode: &Inode,
    ) -> Result<Option<(Inode, Box<[u8]>)>> {
        let is_directory = inode.kind() == mode::DIRECTORY;
        let up = match is_directory {
            true => Some(dir::dots(blocks, sb, inode)?.1),
            false => None,
        };
        for Hint { parent, name } in self.get(inode.number) {
            let Some(parent) = directory(blocks, sb, up.unwrap_or(parent)) else {
                continue;
            };
            let found = dir::lookup(blocks, sb, &parent, &name)?;
            if found.is_some_and(|entry| entry.inode == inode.number) {
                return Ok(Some((parent, name)));
            }
        }
        let Some(parent) = up.and_then(|up| directory(blocks, sb, up)) else {
            return Ok(None);
        };
        let name = dir::name_of(blocks, sb, &parent, inode.number)?;
        if let Some(name) = &name {
            self.note(inode.number, parent.number, name);
        }
        Ok(name.map(|name| (parent, name.into_boxed_slice())))
    }
}

fn directory(blocks: &dyn Blocks, sb: &Superblock, number: InodeNo) -> Option<Inode> {
    load_file(blocks, sb, number)
        .ok()
        .filter(|inode| inode.kind() == mode::DIRECTORY)
}

impl Fs {
    /// An inode's path from the root, `/` for the root; `None` if it can't be
    /// told.
    pub fn path(&self, inode: InodeNo) -> Option<Vec<u8>> {
        self.hints.path(&self.view(), &self.sb, inode)
    }
}

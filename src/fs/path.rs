//! Full paths of directories, which records tell so that a journal can be
//! read without its image.
//!
//! A directory knows its parent (`..`) but not its own name. The name that it
//! was last seen under is kept as a hint, and looked up before it is believed;
//! without one the parent is searched from end to end.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::inode::load_file;
use super::{Fs, Result, dir};
use crate::ext4::Superblock;
use crate::ext4::inode::{Inode, mode};
use crate::journal::Blocks;
use crate::units::InodeNo;

/// Longer paths are not told; this also ends circles.
const LONGEST: usize = 16 << 10;
/// So many hints are kept.
const HINTS: usize = 1 << 16;

/// Directories and the names they were last seen under.
#[derive(Default)]
pub(super) struct Hints(Mutex<HashMap<InodeNo, Box<[u8]>>>);

impl Hints {
    /// The directory was seen under this name.
    pub(super) fn note(&self, dir: InodeNo, name: &[u8]) {
        let mut hints = self.0.lock();
        if hints.get(&dir).is_some_and(|known| **known == *name) {
            return;
        }
        if hints.len() >= HINTS {
            hints.clear();
        }
        hints.insert(dir, name.into());
    }

    fn get(&self, dir: InodeNo) -> Option<Box<[u8]>> {
        self.0.lock().get(&dir).cloned()
    }

    /// A directory's path from the root, `/` for the root; `None` if it can't
    /// be told.
    pub(super) fn path(
        &self,
        blocks: &dyn Blocks,
        sb: &Superblock,
        dir: InodeNo,
    ) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut len = 0;
        let mut at = directory(blocks, sb, dir)?;
        while at.number != InodeNo::ROOT {
            let (_, parent) = dir::dots(blocks, sb, &at).ok()?;
            let parent = directory(blocks, sb, parent)?;
            let name = self.name_in(blocks, sb, &parent, at.number).ok()??;
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

    fn name_in(
        &self,
        blocks: &dyn Blocks,
        sb: &Superblock,
        parent: &Inode,
        child: InodeNo,
    ) -> Result<Option<Box<[u8]>>> {
        if let Some(name) = self.get(child)
            && dir::lookup(blocks, sb, parent, &name)?.is_some_and(|entry| entry.inode == child)
        {
            return Ok(Some(name));
        }
        let name = dir::name_of(blocks, sb, parent, child)?;
        if let Some(name) = &name {
            self.note(child, name);
        }
        Ok(name.map(Vec::into_boxed_slice))
    }
}

fn directory(blocks: &dyn Blocks, sb: &Superblock, number: InodeNo) -> Option<Inode> {
    load_file(blocks, sb, number)
        .ok()
        .filter(|inode| inode.kind() == mode::DIRECTORY)
}

impl Fs {
    /// A directory's path from the root, `/` for the root; `None` if it can't
    /// be told.
    pub fn path(&self, dir: InodeNo) -> Option<Vec<u8>> {
        self.hints.path(&self.view(), &self.sb, dir)
    }
}

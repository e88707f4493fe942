//! Which directories the current segment has told the paths of.
//!
//! A segment may outlive all others, so the first record in each that names a
//! directory tells its path. Which segment a record comes to lie in shows only
//! when it has its place, and then it is too late to make it longer: near a
//! segment's end, paths are told once too often.

use std::collections::HashSet;

use super::record::Op;
use super::{Blocks, Inner};
use crate::log::{Log, Slot};
use crate::units::{InodeNo, Lsn};

/// What a sync's new page and other records may take meanwhile.
const MARGIN: u64 = 16 << 10;

/// Directories named in one segment.
#[derive(Default)]
pub(super) struct Named {
    segment: Lsn,
    directories: HashSet<InodeNo>,
}

impl Named {
    /// A record that tells these paths has its place.
    pub fn note(&mut self, slot: &Slot, directories: impl IntoIterator<Item = InodeNo>) {
        if self.segment != slot.segment() {
            self.segment = slot.segment();
            self.directories.clear();
        }
        self.directories.extend(directories);
    }

    /// Whether a record of at most `len` bytes should tell this one's path.
    fn lacks(&self, log: &Log, len: usize, directory: InodeNo) -> bool {
        !self.directories.contains(&directory) || log.left() < len as u64 + MARGIN
    }
}

impl Inner {
    /// Paths for a record that may have `len` bytes without them, as long as
    /// they fit.
    pub(super) fn paths(
        &self,
        log: &Log,
        named: &Named,
        blocks: &dyn Blocks,
        op: &Op,
        len: usize,
    ) -> Vec<(InodeNo, Vec<u8>)> {
        let Some(namer) = self.namer.get() else {
            return Vec::new();
        };
        let mut room = self.options.limit().saturating_sub(len);
        let lacking = op.directories().filter(|dir| named.lacks(log, len, *dir));
        let told = lacking.filter_map(|dir| Some((dir, namer(blocks, dir)?)));
        told.filter(|(_, path)| {
            let cost = path.len() + 8;
            let fits = cost <= room;
            room -= if fits { cost } else { 0 };
            fits
        })
        .collect()
    }
}

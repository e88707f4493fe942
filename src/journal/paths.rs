//! What the current segment has told: paths of inodes, names of programs.
//!
//! A segment may outlive all others, so the first record in each that names an
//! inode tells its path, and the first of a process what it runs. Which
//! segment a record comes to lie in shows only when it has its place, and then
//! it is too late to make it longer: near a segment's end, all is told once
//! too often.

use foldhash::{HashMap, HashSet};

use super::record::Op;
use super::{Blocks, Inner};
use crate::log::Log;
use crate::units::{InodeNo, Lsn};

/// What a sync's new page and other records may take meanwhile.
const MARGIN: u64 = 16 << 10;

/// What one segment has told.
#[derive(Default)]
pub(super) struct Named {
    segment: Lsn,
    inodes: HashSet<InodeNo>,
    programs: HashMap<u32, Vec<u8>>,
}

/// What a record tells.
#[derive(Default)]
pub(super) struct Told {
    pub paths: Vec<(InodeNo, Vec<u8>)>,
    pub program: Option<Vec<u8>>,
}

impl Named {
    /// Whether a record of this segment need not tell an inode's path.
    pub fn has(&self, segment: Lsn, inode: InodeNo) -> bool {
        self.segment == segment && self.inodes.contains(&inode)
    }

    /// What a record of this segment would be taken to say that this process
    /// runs.
    pub fn program(&self, segment: Lsn, pid: u32) -> Option<&[u8]> {
        let told = (self.segment == segment).then(|| self.programs.get(&pid))?;
        told.map(Vec::as_slice)
    }

    /// The record of `op`, which tells these, has its place in a segment.
    pub fn note(
        &mut self,
        segment: Lsn,
        op: &Op,
        inodes: impl IntoIterator<Item = InodeNo>,
        program: Option<Vec<u8>>,
    ) {
        if self.segment != segment {
            *self = Named {
                segment,
                ..Named::default()
            };
        }
        // What it was called is no longer true.
        if let Some(inode) = op.bereft() {
            self.inodes.remove(&inode);
        }
        self.inodes.extend(inodes);
        // Whoever knows the directory's path knows this one's from now on.
        if let Op::Create { inode, .. } | Op::Link { inode, .. } | Op::Rename { inode, .. } = op {
            self.inodes.insert(*inode);
        }
        if let (Some(by), Some(program)) = (op.by(), program) {
            self.programs.insert(by.pid, program);
        }
    }
}

impl Inner {
    /// What a record that may have `len` bytes without it should tell, as far
    /// as that fits.
    pub(super) fn tell(
        &self,
        log: &Log,
        named: &Named,
        blocks: &dyn Blocks,
        op: &Op,
        len: usize,
    ) -> Told {
        let near_the_end = log.left() < len as u64 + MARGIN;
        let mut room = self.options.limit().saturating_sub(len);
        let mut fits = |cost: usize| {
            let fits = cost <= room;
            room -= if fits { cost } else { 0 };
            fits
        };
        let mut told = Told::default();
        let program = op.by().filter(|by| by.pid != 0).and_then(|by| {
            let name = self.programs.get()?(by.pid)?;
            (near_the_end || named.programs.get(&by.pid) != Some(&name)).then_some(name)
        });
        told.program = program.filter(|name| fits(name.len() + 4));
        let Some(namer) = self.namer.get() else {
            return told;
        };
        let lacking = op
            .nameless()
            .filter(|inode| near_the_end || !named.inodes.contains(inode))
            // Another name, if it has one.
            .chain(op.bereft());
        told.paths = lacking
            .filter_map(|inode| Some((inode, namer(blocks, inode)?)))
            .filter(|(_, path)| fits(path.len() + 8))
            .collect();
        told
    }
}

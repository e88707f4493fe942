//! Inodes that wait to be freed or cut: the chain through `i_dtime`, and the
//! orphan file.

use super::finding::{Finding, Place};
use super::inodes::{mapped, size};
use super::map::{self, Visit};
use super::sums::{crc32c, le32};
use super::walk::{Walk, state};

const MAGIC: u32 = 0x0b10_ca04;

impl Walk<'_> {
    /// Marks all orphans, before inodes are judged.
    pub fn orphans(&mut self) {
        self.chain();
        if self.sb.orphan_file != 0 {
            self.orphan_file();
        }
        let count = self.report.counts.orphans;
        if count > 0 {
            self.report.add(Finding::Orphans { count });
        }
    }

    fn chain(&mut self) {
        let mut raw = Vec::new();
        let mut inode = self.sb.last_orphan;
        while inode != 0 && self.orphan(inode) {
            if self.read_inode(inode, &mut raw).is_none() {
                return;
            }
            inode = le32(&raw, 0x14);
        }
    }

    /// Marks one; false if it can't be one.
    fn orphan(&mut self, inode: u32) -> bool {
        let why = match () {
            () if inode > self.sb.inodes => "outside the tables",
            () if inode < self.sb.first_inode => "a reserved inode",
            () if self.state(inode) & state::ORPHAN != 0 => "listed twice",
            () => {
                self.inodes[inode as usize] |= state::ORPHAN;
                self.report.counts.orphans += 1;
                return true;
            }
        };
        self.report.add(Finding::Orphan { inode, why });
        false
    }

    fn orphan_file(&mut self) -> Option<()> {
        let inode = self.sb.orphan_file;
        let mut raw = Vec::new();
        self.read_inode(inode, &mut raw)?;
        // (The file is claimed with all others later; its length bounds the list.)
        let mut blocks = List {
            limit: size(&raw) / self.sb.block_size as u64,
            ..List::default()
        };
        let map = mapped(&self.sb, inode, &raw);
        map::walk(self.source, &self.sb, map, &mut blocks);
        let mut bytes = vec![0; self.sb.block_size];
        for block in blocks.blocks {
            let place = Place::OrphanBlock { block };
            if self
                .read_at(&mut bytes, block * self.sb.block_size as u64, place)
                .is_some()
            {
                self.orphan_block(block, &bytes, map.seed);
            }
        }
        Some(())
    }

    fn orphan_block(&mut self, block: u64, raw: &[u8], seed: u32) {
        let place = Place::OrphanBlock { block };
        let tail = raw.len() - 8;
        let magic = le32(raw, tail);
        if magic != MAGIC {
            self.report.add(Finding::Field {
                place,
                field: "ob_magic",
                value: magic.into(),
                want: Some(MAGIC.into()),
            });
            return;
        }
        let (stored, computed) = (
            le32(raw, tail + 4),
            crc32c(crc32c(seed, &block.to_le_bytes()), &raw[..tail]),
        );
        if self.sb.metadata_csum() && stored != computed {
            self.report.add(Finding::Checksum {
                place,
                stored,
                computed,
            });
        }
        for inode in raw[..tail]
            .chunks_exact(4)
            .map(|n| le32(n, 0))
            .filter(|&n| n != 0)
        {
            if !self.sb.orphan_present() {
                let why = "in the orphan file, which is flagged empty";
                self.report.add(Finding::Orphan { inode, why });
            }
            self.orphan(inode);
        }
    }
}

/// The blocks of the orphan file.
#[derive(Default)]
struct List {
    blocks: Vec<u64>,
    limit: u64,
    nodes: u32,
}

impl Visit for List {
    fn node(&mut self, _block: u64) -> bool {
        // Ownership is not known yet: only a bound keeps circles out.
        self.nodes += 1;
        self.nodes <= 64
    }
    fn run(&mut self, _at: u32, block: u64, count: u32, _written: bool) {
        let room = self
            .limit
            .saturating_sub(self.blocks.len() as u64)
            .min(4096);
        self.blocks
            .extend((block..block + u64::from(count)).take(room as usize));
    }
    fn fault(&mut self, _finding: Finding) {}
}

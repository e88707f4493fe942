//! The image's own journal, jbd2: an image that waits for its replay is judged
//! as that would leave it.
//!
//! What the journal's blocks say is decoded as the file system does it; where
//! they are, the checker finds out for itself.

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::finding::{Finding, Place};
use super::map::{self, Mapped, Visit};
use super::report::Report;
use super::source::Source;
use super::sums::{le16, le32};
use super::superblock::Super;
use super::walk;
use crate::ext4::jbd2::{self, Replay};
use crate::ext4::{Corrupt, Unusable};
use crate::units::BlockNo;

/// Judges an image whose journal must be replayed.
pub fn run(source: &dyn Source, sb: &Super) -> Report {
    let mut report = Report::default();
    let replayed = match Replayed::read(source, sb) {
        Ok(replayed) => replayed,
        Err(why) => {
            report.add(Finding::NotReplayable { why: why.0 });
            return report;
        }
    };
    report.add(Finding::NeedsReplay {
        transactions: replayed.replay.transactions,
    });
    match walk::superblock(&replayed, &mut report) {
        Some(sb) => walk::from(&replayed, sb, report),
        None => report,
    }
}

/// Judges a journal that has nothing to replay: the kernel won't mount an
/// image without the one that it names.
pub fn judge(source: &dyn Source, sb: &Super, report: &mut Report) {
    if Head::read(source, sb).is_err() {
        report.add(Finding::Field {
            place: Place::Superblock,
            field: "s_journal_inum",
            value: sb.journal_inode.into(),
            want: Some(8),
        });
    }
}

/// Why the journal can't be replayed, in words.
struct Why(String);

impl From<Corrupt> for Why {
    fn from(corrupt: Corrupt) -> Self {
        Why(corrupt.to_string())
    }
}
impl From<Unusable> for Why {
    fn from(unusable: Unusable) -> Self {
        Why(unusable.to_string())
    }
}
impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Why(error.to_string())
    }
}

/// Where the journal's blocks are, and what its first one says.
struct Head {
    blocks: Blocks,
    head: jbd2::Super,
}

impl Head {
    fn read(source: &dyn Source, sb: &Super) -> Result<Self, Why> {
        let block_size = sb.block_size as u64;
        let blocks = Blocks::of_journal(source, sb)?;
        let mut first = vec![0; sb.block_size];
        let at = blocks.find(0).ok_or_else(|| hole(0))?;
        source.read(&mut first, at * block_size)?;
        let head = jbd2::Super::decode(&first)?;
        if u64::from(head.block_size) != block_size || u64::from(head.len) > sb.blocks {
            return Err(Why("its size is not the image's".into()));
        }
        Ok(Head { blocks, head })
    }
}

/// An image as its journal would leave it.
struct Replayed<'s> {
    source: &'s dyn Source,
    block_size: u64,
    blocks: Blocks,
    replay: Replay,
}

impl<'s> Replayed<'s> {
    fn read(source: &'s dyn Source, sb: &Super) -> Result<Self, Why> {
        let Head { blocks, head } = Head::read(source, sb)?;
        let block_size = sb.block_size as u64;
        let fill = |at: u32, buf: &mut [u8]| -> Result<(), Why> {
            let block = blocks.find(at).ok_or_else(|| hole(at))?;
            Ok(source.read(buf, block * block_size)?)
        };
        let mut first = vec![0; sb.block_size];
        // Its image may grow in it.
        let present = source.length()? / block_size;
        let replay = jbd2::scan(&head, present, fill)?;
        if let Some(at) = head.fast_commits() {
            fill(at, &mut first)?;
            if replay.fast_commits_follow(&first) {
                return Err(Why("fast commits wait in it".into()));
            }
        }
        Ok(Replayed {
            source,
            block_size,
            blocks,
            replay,
        })
    }
}

impl Source for Replayed<'_> {
    fn length(&self) -> io::Result<u64> {
        self.source.length()
    }
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.source.read(buf, offset)?;
        let (size, end) = (self.block_size, offset + buf.len() as u64);
        let mut bytes = vec![0; size as usize];
        let inside = BlockNo(offset / size)..BlockNo(end.div_ceil(size));
        for (block, from) in self.replay.blocks.range(inside) {
            let at = self.blocks.find(from.at).unwrap_or_default();
            self.source.read(&mut bytes, at * size)?;
            from.restore(&mut bytes);
            let start = block.0 * size;
            let (from, to) = (start.max(offset), (start + size).min(end));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
}

/// Where a file's blocks are: its first block of each run, with the image's
/// and their number.
#[derive(Default)]
struct Blocks {
    runs: BTreeMap<u32, (u64, u32)>,
    nodes: HashSet<u64>,
    fault: Option<Finding>,
}

impl Blocks {
    fn of_journal(source: &dyn Source, sb: &Super) -> Result<Blocks, Why> {
        let mut raw = vec![0; sb.inode_size];
        if sb.journal_inode == 0 || sb.journal_inode > sb.inodes {
            return Err(Why(format!("inode {} can't be it", sb.journal_inode)));
        }
        let number = u64::from(sb.journal_inode - 1);
        let index = number % u64::from(sb.inodes_per_group);
        let before = number / u64::from(sb.inodes_per_group) * sb.desc_size as u64;
        let mut group = vec![0; sb.desc_size];
        let descriptors = (sb.first_data_block + 1) * sb.block_size as u64;
        source.read(&mut group, descriptors + before)?;
        let wide = group.len() >= 64;
        let high = if wide { le32(&group, 0x28) } else { 0 };
        let table = u64::from(le32(&group, 8)) | u64::from(high) << 32;
        if !sb.inside(table, sb.table_blocks()) {
            return Err(Why(format!("its inode's table is at {table}")));
        }
        let at = table * sb.block_size as u64 + index * sb.inode_size as u64;
        source.read(&mut raw, at)?;
        if le16(&raw, 0) & 0xF000 != 0x8000 || le16(&raw, 0x1A) == 0 {
            return Err(Why(format!("inode {} is no file", sb.journal_inode)));
        }
        let inode = Mapped {
            inode: sb.journal_inode,
            flags: le32(&raw, 0x20),
            i_block: &raw[0x28..0x64],
            seed: sb.inode_seed(sb.journal_inode, le32(&raw, 0x64)),
        };
        let mut blocks = Blocks::default();
        map::walk(source, sb, inode, &mut blocks);
        match blocks.fault.take() {
            Some(fault) => Err(Why(fault.to_string())),
            None => Ok(blocks),
        }
    }

    fn find(&self, at: u32) -> Option<u64> {
        let (first, (block, count)) = self.runs.range(..=at).next_back()?;
        let inside = at - first;
        (inside < *count).then(|| block + u64::from(inside))
    }
}

impl Visit for Blocks {
    fn node(&mut self, block: u64) -> bool {
        self.nodes.insert(block)
    }
    fn run(&mut self, at: u32, block: u64, count: u32, _: bool) {
        self.runs.insert(at, (block, count));
    }
    fn fault(&mut self, finding: Finding) {
        self.fault.get_or_insert(finding);
    }
}

fn hole(at: u32) -> Why {
    Why(format!("block {at} of it is a hole"))
}

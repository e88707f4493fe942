//! The walk: its steps and what it remembers between them.
//!
//! Memory is bounded by the image: one bit a block, one byte an inode, a few
//! words a directory, and entries for the few inodes with several links and
//! for shared attribute blocks.

use std::collections::HashMap;

use super::bits::Bits;
use super::finding::{Finding, Place};
use super::groups::Group;
use super::report::Report;
use super::source::Source;
use super::superblock::Super;

/// What is known of an inode, in one byte: its kind (as directory entries
/// number them, 0 for none), and these.
pub mod state {
    /// The low bits: 1 regular … 7 symlink, 0 neither.
    pub const KIND: u8 = 0x07;
    /// In use.
    pub const USED: u8 = 0x08;
    /// Its link count is 1; others stand in a table.
    pub const ONE_LINK: u8 = 0x10;
    /// A name has been seen; more of them are counted in a table.
    pub const NAMED: u8 = 0x20;
    /// On the orphan list or in the orphan file.
    pub const ORPHAN: u8 = 0x40;
    /// A directory, as directory entries number it.
    pub const DIRECTORY: u8 = 2;
}

/// A directory.
#[derive(Clone, Copy, Debug)]
pub struct Directory {
    pub inode: u32,
    pub links: u32,
    /// Names seen, `.` and `..` of children included.
    pub counted: u32,
    /// The directory that names it; 0 before one is found.
    pub parent: u32,
    pub dotdot: u32,
    /// Its blocks can't be trusted, or it is removed already: not read.
    pub skip: bool,
    pub reach: Reach,
}

/// Whether the root leads to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Unknown,
    Found,
    Lost,
}

/// An attribute block and who refers to it.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    pub inode: u32,
    pub stored: u32,
    pub counted: u32,
}

/// A check under way.
pub struct Walk<'a> {
    pub source: &'a dyn Source,
    pub sb: Super,
    pub report: Report,
    pub owned: Bits,
    pub groups: Vec<Group>,
    /// By inode number; 0 is nobody.
    pub inodes: Vec<u8>,
    /// In order of their numbers.
    pub directories: Vec<Directory>,
    /// Link counts other than 1 of what is no directory.
    pub links: HashMap<u32, u32>,
    /// Names beyond the first of what is no directory.
    pub more_names: HashMap<u32, u32>,
    pub xattr_blocks: HashMap<u64, Shared>,
}

/// Walks the image.
pub fn run(source: &dyn Source) -> Report {
    let mut report = Report::default();
    let Some(sb) = superblock(source, &mut report) else {
        return report;
    };
    match sb.needs_replay() {
        true => return super::own::run(source, &sb),
        false if sb.has_journal() => super::own::judge(source, &sb, &mut report),
        false => {}
    }
    from(source, sb, report)
}

/// The same, when the superblock has been judged.
pub fn from(source: &dyn Source, sb: Super, mut report: Report) -> Report {
    report.counts.block_size = sb.block_size as u32;
    report.counts.blocks = sb.blocks;
    report.counts.inodes = sb.inodes.into();
    report.counts.guarded = sb.guard.is_some();
    let mut walk = Walk {
        source,
        sb,
        report,
        owned: Bits::new(sb.blocks),
        groups: Vec::new(),
        inodes: vec![0; sb.inodes as usize + 1],
        directories: Vec::new(),
        links: HashMap::new(),
        more_names: HashMap::new(),
        xattr_blocks: HashMap::new(),
    };
    walk.steps();
    walk.report
}

impl Walk<'_> {
    fn steps(&mut self) -> Option<()> {
        // Block 0 of an image with 1 KiB blocks belongs to no group.
        self.owned.add(0, self.sb.first_data_block);
        self.groups()?;
        self.orphans();
        self.all_inodes();
        self.all_directories();
        self.connections();
        self.link_counts();
        self.xattr_references();
        self.judge_groups();
        Some(())
    }

    /// Fills `buf`, or says why not.
    pub fn read_at(&mut self, buf: &mut [u8], offset: u64, place: Place) -> Option<()> {
        match self.source.read(buf, offset) {
            Ok(()) => Some(()),
            Err(e) => {
                self.report.add(Finding::Unreadable {
                    place,
                    error: e.to_string(),
                });
                None
            }
        }
    }

    /// An inode's bytes, unless its table lies outside the image.
    pub fn read_inode(&mut self, inode: u32, raw: &mut Vec<u8>) -> Option<()> {
        let index = inode.checked_sub(1)?;
        let group = self
            .groups
            .get((index / self.sb.inodes_per_group) as usize)
            .filter(|g| g.sound)?;
        let slot = u64::from(index % self.sb.inodes_per_group) * self.sb.inode_size as u64;
        let offset = group.inode_table * self.sb.block_size as u64 + slot;
        raw.resize(self.sb.inode_size, 0);
        self.read_at(raw, offset, Place::Inode { inode })
    }

    /// The record of a directory.
    pub fn directory(&mut self, inode: u32) -> Option<&mut Directory> {
        let at = self
            .directories
            .binary_search_by_key(&inode, |d| d.inode)
            .ok()?;
        self.directories.get_mut(at)
    }

    /// What is known of an inode; 0 for numbers outside the tables.
    pub fn state(&self, inode: u32) -> u8 {
        self.inodes.get(inode as usize).copied().unwrap_or(0)
    }
}

/// Reads the superblock and judges it.
pub fn superblock(source: &dyn Source, report: &mut Report) -> Option<Super> {
    let mut raw = [0; 1024];
    let read = source
        .length()
        .and_then(|len| source.read(&mut raw, 1024).map(|()| len));
    match read {
        Ok(len) => Super::read(&raw, len, report),
        Err(e) => {
            report.add(Finding::Unreadable {
                place: Place::Superblock,
                error: e.to_string(),
            });
            None
        }
    }
}

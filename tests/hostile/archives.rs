//! Forged archives: a folder's bases, segments, indexes and manifest, with the
//! sums that they should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use journalfs::fs::Access;
use journalfs::journal::archive::{Archive, Limits, reaches};
use journalfs::past::{self, Instant, Span, compare, restore};
use journalfs::units::Lsn;

use crate::exercise;
use crate::journals::{self, Left};

/// A killed daemon's archive and journal.
#[derive(Clone)]
pub struct Kept {
    pub archive: BTreeMap<String, Pages>,
    pub journal: BTreeMap<String, Pages>,
}

impl Kept {
    pub fn sample() -> Kept {
        let archive = Arc::new(MemoryDir::default());
        let left = Left::archived("1k-blocks", true, Some(archive.clone()));
        Kept {
            archive: archive.files(),
            journal: left.files,
        }
    }

    pub fn archive(&self) -> Arc<MemoryDir> {
        Arc::new(MemoryDir::from_files(self.archive.clone()))
    }

    pub fn span(&self) -> past::Result<Span> {
        let journal = Arc::new(MemoryDir::from_files(self.journal.clone()));
        Span::of_archive(self.archive(), journal, None, None)
    }

    /// Changes what (file and place in it, offset, how, value) says, and puts
    /// the checksums right.
    pub fn apply(
        &mut self,
        edits: impl Iterator<Item = (usize, usize, u8, u8)>,
        edit: fn(&mut [u8], usize, u8, u8),
    ) {
        let names: Vec<String> = self.archive.keys().cloned().collect();
        for (place, at, how, value) in edits {
            let name = &names[place % names.len()];
            let mut bytes = self.archive[name].to_vec();
            match name.rsplit_once('.').map(|(_, kind)| kind) {
                Some("store") => {
                    journals::change_store(&mut bytes, place / names.len(), at, |raw, at| {
                        edit(raw, at, how, value);
                    });
                }
                Some("index") => {
                    edit(&mut bytes, at, how, value);
                    journals::seal_index(&mut bytes);
                }
                Some("blocks") => {
                    edit(&mut bytes, at, how, value);
                    seal_blocks(&mut bytes);
                }
                _ => edit(&mut bytes, at, how, value),
            }
            self.archive.insert(name.clone(), Pages::from_bytes(&bytes));
        }
    }
}

/// A block index's checksum.
pub fn seal_blocks(bytes: &mut [u8]) {
    if bytes.len() >= 16 {
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Everything that reads an archive.
pub fn read_and_look(kept: &Kept) {
    if let Ok(archive) = Archive::open(kept.archive(), None, Limits::default()) {
        let segments = archive.segments();
        let _ = (archive.missing(), archive.epoch());
        let _ = reaches(&archive.bases(), &segments);
        for found in &segments {
            let _ = archive.blocks(found);
        }
        for timeline in archive.timelines() {
            let nothing = Arc::new(MemoryDir::default());
            let _ = Span::of_archive(archive.of_timeline(&timeline), nothing, None, None);
        }
    }
    let Ok(span) = kept.span() else {
        return;
    };
    let (oldest, last) = (span.oldest().unwrap_or(Lsn(1)), span.survey().last());
    let middle = Lsn(oldest.0 / 2 + last.0 / 2);
    let shown: Vec<Instant> = [oldest, middle, last]
        .iter()
        .filter_map(|at| span.at(*at).ok())
        .collect();
    for instant in &shown {
        if let Ok(fs) = instant.fs(Access::Check) {
            exercise::walk(&fs);
        }
    }
    if let [first, .., last] = &shown[..] {
        let _ = compare(&span, first, last);
        let _ = restore(last, Arc::new(MemoryDisk::default()), &mut |_| {});
    }
}

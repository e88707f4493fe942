//! Every directory: its entries, and what they refer to.

use super::finding::{Finding, Place};
use super::htree::Index;
use super::inodes::mapped;
use super::map::{self, Visit};
use super::sums::{crc32c, le16, le32};
use super::walk::{Walk, state};

const INDEX_FL: u32 = 0x1000;

/// Buffers that all directories share.
#[derive(Default)]
struct Scratch {
    inode: Vec<u8>,
    blocks: Vec<(u32, u64)>,
    raw: Vec<u8>,
    /// Hash of each name, and where it stands.
    names: Vec<(u64, u32, u32)>,
    index: Index,
}

/// One directory while it is read.
struct Reading {
    inode: u32,
    seed: u32,
    /// Whether `.` and `..` were found in their places.
    dots: u8,
}

/// An entry with a name.
struct Entry<'a> {
    inode: u32,
    kind: u8,
    name: &'a [u8],
    offset: usize,
}

impl Walk<'_> {
    /// Reads all directories that can be trusted.
    pub fn all_directories(&mut self) {
        let mut scratch = Scratch::default();
        for i in 0..self.directories.len() {
            let directory = self.directories[i];
            if !directory.skip {
                self.read_directory(directory.inode, &mut scratch);
            }
        }
    }

    fn read_directory(&mut self, inode: u32, scratch: &mut Scratch) -> Option<()> {
        let mut raw_inode = std::mem::take(&mut scratch.inode);
        self.read_inode(inode, &mut raw_inode)?;
        let flags = le32(&raw_inode, 0x20);
        let seed = self.sb.inode_seed(inode, le32(&raw_inode, 0x64));
        let mut blocks = Blocks(std::mem::take(&mut scratch.blocks));
        blocks.0.clear();
        map::walk(
            self.source,
            &self.sb,
            mapped(&self.sb, inode, &raw_inode),
            &mut blocks,
        );
        scratch.inode = raw_inode;
        scratch.blocks = blocks.0;
        scratch.names.clear();
        scratch.raw.resize(self.sb.block_size, 0);
        scratch.index.clear();
        if flags & INDEX_FL != 0 && self.sb.dir_index() {
            self.read_index(inode, seed, &scratch.blocks, &mut scratch.index);
        }
        self.read_blocks(
            Reading {
                inode,
                seed,
                dots: 0,
            },
            scratch,
        );
        Some(())
    }

    fn read_blocks(&mut self, mut reading: Reading, scratch: &mut Scratch) {
        let (mut raw, blocks) = (
            std::mem::take(&mut scratch.raw),
            std::mem::take(&mut scratch.blocks),
        );
        for &(at, block) in &blocks {
            let place = Place::DirectoryBlock {
                inode: reading.inode,
                at,
            };
            if self
                .read_at(&mut raw, block * self.sb.block_size as u64, place)
                .is_some()
            {
                self.block(&mut reading, at, &raw, scratch);
            }
        }
        if reading.dots != 3 {
            let why = "\".\" and \"..\" are not its first entries";
            let place = Place::DirectoryBlock {
                inode: reading.inode,
                at: 0,
            };
            self.report.add(Finding::Record {
                place,
                offset: 0,
                why,
            });
        }
        self.duplicates(&reading, &blocks, &mut raw, &mut scratch.names);
        (scratch.raw, scratch.blocks) = (raw, blocks);
    }

    fn block(&mut self, reading: &mut Reading, at: u32, raw: &[u8], scratch: &mut Scratch) {
        let place = Place::DirectoryBlock {
            inode: reading.inode,
            at,
        };
        if scratch.index.is_index(at) {
            if at == 0 {
                self.dot_entries(reading, raw, place);
            }
            return;
        }
        let end = self.entries_end(reading, raw, place);
        let (mut offset, mut ordinal) = (0, 0);
        while offset < end {
            let entry = match self.record(raw, offset, end) {
                Ok((entry, next)) => {
                    offset = next;
                    entry
                }
                Err(why) => {
                    self.report.add(Finding::Record {
                        place,
                        offset: offset as u32,
                        why,
                    });
                    return;
                }
            };
            let first = at == 0 && ordinal < 2;
            ordinal += 1;
            let Some(entry) = entry else { continue };
            if first && self.dot(reading, &entry, ordinal - 1) {
                continue;
            }
            scratch
                .names
                .push((name_hash(entry.name), at, entry.offset as u32));
            self.entry(reading, &entry);
            if let Some(why) = scratch.index.misplaced(at, entry.name) {
                self.named(reading, &entry, why);
            }
        }
    }

    /// Where entries end: before the checksum's tail, which is judged.
    fn entries_end(&mut self, reading: &Reading, raw: &[u8], place: Place) -> usize {
        if !self.sb.metadata_csum() {
            return raw.len();
        }
        let end = raw.len() - 12;
        let shape = (
            le32(raw, end),
            le16(raw, end + 4),
            raw[end + 6],
            raw[end + 7],
        );
        if shape != (0, 12, 0, 0xde) {
            let why = "the block lacks its checksum";
            self.report.add(Finding::Record {
                place,
                offset: end as u32,
                why,
            });
            return raw.len();
        }
        let (stored, computed) = (le32(raw, end + 8), crc32c(reading.seed, &raw[..end]));
        if stored != computed {
            self.report.add(Finding::Checksum {
                place,
                stored,
                computed,
            });
        }
        end
    }

    /// The entry at `offset` (`None` if unused) and the offset of the next.
    fn record<'r>(
        &self,
        raw: &'r [u8],
        offset: usize,
        end: usize,
    ) -> Result<(Option<Entry<'r>>, usize), &'static str> {
        if end - offset < 8 {
            return Err("no room for an entry");
        }
        let inode = le32(raw, offset);
        let rec_len = usize::from(le16(raw, offset + 4));
        let (name_len, kind) = match self.sb.file_type() {
            true => (usize::from(raw[offset + 6]), raw[offset + 7]),
            false => (usize::from(le16(raw, offset + 6)), 0),
        };
        match () {
            () if rec_len < 8 || !rec_len.is_multiple_of(4) => Err("its length makes no sense"),
            () if rec_len > end - offset => Err("it runs past the block's end"),
            () if inode == 0 => Ok((None, offset + rec_len)),
            () if name_len == 0 || name_len > 255 => Err("its name's length makes no sense"),
            () if name_len + 8 > rec_len => Err("its name is longer than itself"),
            () => {
                let name = &raw[offset + 8..offset + 8 + name_len];
                Ok((
                    Some(Entry {
                        inode,
                        kind,
                        name,
                        offset,
                    }),
                    offset + rec_len,
                ))
            }
        }
    }

    /// `.` and `..` of an index root, whose other bytes are not entries.
    fn dot_entries(&mut self, reading: &mut Reading, raw: &[u8], place: Place) {
        for (ordinal, offset) in [(0, 0), (1, 12)] {
            match self.record(raw, offset, raw.len()) {
                Ok((Some(entry), _)) if self.dot(reading, &entry, ordinal) => {}
                _ => {
                    let why = "not \".\" or \"..\" where an index root must have it";
                    self.report.add(Finding::Record {
                        place,
                        offset: offset as u32,
                        why,
                    });
                }
            }
        }
    }

    /// Takes the first entry as `.` and the second as `..`, if they are.
    fn dot(&mut self, reading: &mut Reading, entry: &Entry<'_>, ordinal: u16) -> bool {
        let want: &[u8] = if ordinal == 0 { b"." } else { b".." };
        if entry.name != want {
            return false;
        }
        reading.dots |= 1 << ordinal;
        self.judge_kind(reading, entry);
        if ordinal == 0 && entry.inode != reading.inode {
            self.named(reading, entry, "\".\" is not the directory itself");
        }
        if ordinal == 1
            && let Some(directory) = self.directory(reading.inode)
        {
            directory.dotdot = entry.inode;
        }
        self.count_name(entry.inode);
        true
    }

    fn entry(&mut self, reading: &Reading, entry: &Entry<'_>) {
        self.report.counts.entries += 1;
        let reserved = entry.inode < self.sb.first_inode;
        let used = self.state(entry.inode) & state::USED != 0;
        let why = match () {
            () if matches!(entry.name, b"." | b"..") => {
                "a name that only the first two entries may have"
            }
            () if entry.name.iter().any(|b| matches!(b, b'/' | 0)) => {
                "a name with a slash or a zero byte"
            }
            () if entry.inode > self.sb.inodes => "an inode outside the tables",
            () if reserved => "an inode that is reserved",
            () if !used => "an inode that is not in use",
            () => {
                self.judge_kind(reading, entry);
                self.count_name(entry.inode);
                self.adopt(reading, entry);
                return;
            }
        };
        self.named(reading, entry, why);
    }

    fn judge_kind(&mut self, reading: &Reading, entry: &Entry<'_>) {
        let kind = self.state(entry.inode) & state::KIND;
        if self.sb.file_type() && kind != 0 && entry.kind != kind {
            self.named(reading, entry, "the file's type is another");
        }
    }

    /// Counts a name of an inode.
    fn count_name(&mut self, inode: u32) {
        let known = self.state(inode);
        if known & state::KIND == state::DIRECTORY {
            if let Some(directory) = self.directory(inode) {
                directory.counted += 1;
            }
        } else if known & state::NAMED != 0 {
            *self.more_names.entry(inode).or_default() += 1;
        } else if known & state::USED != 0 {
            self.inodes[inode as usize] |= state::NAMED;
        }
    }

    /// Notes who names a directory.
    fn adopt(&mut self, reading: &Reading, entry: &Entry<'_>) {
        let Some(child) = self.directory(entry.inode) else {
            return;
        };
        if child.parent == 0 && entry.inode != 2 {
            child.parent = reading.inode;
        } else {
            self.named(reading, entry, "a directory that has a name already");
        }
    }

    fn named(&mut self, reading: &Reading, entry: &Entry<'_>, why: &'static str) {
        self.report.add(Finding::Entry {
            directory: reading.inode,
            name: String::from_utf8_lossy(entry.name).into_owned(),
            inode: entry.inode,
            why,
        });
    }

    /// Finds names that stand twice, by their hashes.
    fn duplicates(
        &mut self,
        reading: &Reading,
        blocks: &[(u32, u64)],
        raw: &mut [u8],
        names: &mut [(u64, u32, u32)],
    ) -> Option<()> {
        names.sort_unstable();
        for pair in names.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let mut found: [Vec<u8>; 2] = Default::default();
            for (name, &(_, at, offset)) in found.iter_mut().zip(pair) {
                let i = blocks.binary_search_by_key(&at, |&(at, _)| at).ok()?;
                let place = Place::DirectoryBlock {
                    inode: reading.inode,
                    at,
                };
                self.read_at(raw, blocks[i].1 * self.sb.block_size as u64, place)?;
                let (entry, _) = self.record(raw, offset as usize, raw.len()).ok()?;
                name.extend_from_slice(entry?.name);
            }
            if found[0] == found[1] {
                let entry = Entry {
                    inode: 0,
                    kind: 0,
                    name: &found[0],
                    offset: 0,
                };
                self.named(reading, &entry, "the name stands twice");
            }
        }
        Some(())
    }
}

/// FNV-1a: only tells names apart, nothing hostile gains by a collision
/// (equal hashes are compared by name).
fn name_hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| {
        (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Lists a directory's blocks; faults have been reported by the first walk.
struct Blocks(Vec<(u32, u64)>);

impl Visit for Blocks {
    fn node(&mut self, _block: u64) -> bool {
        true
    }
    fn run(&mut self, at: u32, block: u64, count: u32, _written: bool) {
        self.0
            .extend((0..count).map(|i| (at + i, block + u64::from(i))));
    }
    fn fault(&mut self, _finding: Finding) {}
}

//! Extended attributes, in inodes and in shared blocks.

use super::finding::{Finding, Place};
use super::sums::{crc32c, le16, le32};
use super::walk::{Shared, Walk};

const MAGIC: u32 = 0xea02_0000;

impl Walk<'_> {
    /// Judges an inode's attributes; answers how many blocks they add to it.
    pub fn xattrs(&mut self, inode: u32, raw: &[u8]) -> u64 {
        if raw.len() > 128 {
            let start = 128 + usize::from(le16(raw, 0x80));
            if start + 8 <= raw.len() && start.is_multiple_of(4) && le32(raw, start) == MAGIC {
                // (Values are addressed from the first entry on.)
                let entries = Entries {
                    place: Place::InodeXattrs { inode },
                    raw: &raw[start + 4..],
                    start: 0,
                };
                self.judge_entries(&entries, false);
            }
        }
        let block = u64::from(le32(raw, 0x68)) | u64::from(le16(raw, 0x76)) << 32;
        if block == 0 {
            return 0;
        }
        if !self.sb.inside(block, 1) {
            self.report.add(Finding::Outside {
                place: Place::Inode { inode },
                block,
            });
            return 0;
        }
        match self.xattr_blocks.get_mut(&block) {
            Some(shared) => shared.counted += 1,
            None => self.xattr_block(inode, block),
        }
        1
    }

    fn xattr_block(&mut self, inode: u32, block: u64) {
        let place = Place::XattrBlock { inode, block };
        if let Some((first, count)) = self.owned.add(block, 1) {
            self.report.add(Finding::UsedTwice {
                place,
                first,
                count,
            });
            return;
        }
        let group = self.sb.group_of(block);
        if self
            .groups
            .get(group as usize)
            .is_some_and(|g| g.block_uninit)
        {
            self.report.add(Finding::UsedUninit { place, group });
        }
        self.report.counts.xattr_blocks += 1;
        let mut raw = vec![0; self.sb.block_size];
        if self
            .read_at(&mut raw, block * self.sb.block_size as u64, place)
            .is_none()
        {
            return;
        }
        let (magic, stored, blocks) = (le32(&raw, 0), le32(&raw, 4), le32(&raw, 8));
        if magic != MAGIC || blocks != 1 {
            self.report.add(Finding::Xattr {
                place,
                offset: 0,
                why: "its header makes no sense",
            });
            return;
        }
        self.xattr_blocks.insert(
            block,
            Shared {
                inode,
                stored,
                counted: 1,
            },
        );
        if self.sb.metadata_csum() {
            let stored = le32(&raw, 0x10);
            let crc = crc32c(crc32c(self.sb.seed, &block.to_le_bytes()), &raw[..0x10]);
            let computed = crc32c(crc32c(crc, &[0; 4]), &raw[0x14..]);
            if stored != computed {
                self.report.add(Finding::Checksum {
                    place,
                    stored,
                    computed,
                });
            }
        }
        self.judge_entries(
            &Entries {
                place,
                raw: &raw,
                start: 0x20,
            },
            true,
        );
    }

    /// Names, values inside the area, no overlap, hashes, and in blocks the order.
    fn judge_entries(&mut self, entries: &Entries<'_>, sorted: bool) {
        let mut used: Vec<(usize, usize)> = Vec::new();
        let mut before: Option<(u8, &[u8])> = None;
        let mut at = entries.start;
        let mut lowest_value = entries.raw.len();
        loop {
            if at + 4 > entries.raw.len() {
                return self.xattr(entries, at, "the list has no end");
            }
            if le32(entries.raw, at) == 0 {
                at += 4;
                break;
            }
            let entry = match entries.entry(at) {
                Ok(entry) => entry,
                Err(why) => return self.xattr(entries, at, why),
            };
            let key = (entry.index, entry.name);
            if sorted
                && before.is_some_and(|b| (b.0, b.1.len(), b.1) >= (key.0, key.1.len(), key.1))
            {
                self.xattr(entries, at, "out of order");
            }
            if entry.hash != entries.hash(&entry) && (sorted || entry.hash != 0) {
                self.xattr(entries, at, "its hash is wrong");
            }
            if entry.value_len > 0 {
                lowest_value = lowest_value.min(entry.value_at);
                used.push((entry.value_at, entry.value_at + entry.value_len));
            }
            before = Some(key);
            at = entry.end;
        }
        used.sort_unstable();
        let overlap = used.windows(2).any(|pair| pair[0].1 > pair[1].0);
        if overlap || lowest_value < at {
            self.xattr(entries, at, "values overlap");
        }
    }

    fn xattr(&mut self, entries: &Entries<'_>, offset: usize, why: &'static str) {
        self.report.add(Finding::Xattr {
            place: entries.place,
            offset: offset as u32,
            why,
        });
    }

    /// Each attribute block must count who refers to it.
    pub fn xattr_references(&mut self) {
        let mut blocks: Vec<(u64, Shared)> = self.xattr_blocks.drain().collect();
        blocks.sort_unstable_by_key(|(block, _)| *block);
        for (block, shared) in blocks {
            let place = Place::XattrBlock {
                inode: shared.inode,
                block,
            };
            self.judge(
                place,
                "h_refcount",
                shared.stored.into(),
                shared.counted.into(),
            );
        }
    }
}

/// An area of attributes: entries from `start` on, values anywhere behind them.
struct Entries<'r> {
    place: Place,
    raw: &'r [u8],
    start: usize,
}

struct Entry<'r> {
    index: u8,
    name: &'r [u8],
    value_at: usize,
    value_len: usize,
    hash: u32,
    end: usize,
}

impl<'r> Entries<'r> {
    fn entry(&self, at: usize) -> Result<Entry<'r>, &'static str> {
        if at + 16 > self.raw.len() {
            return Err("it runs past the end");
        }
        let name_len = usize::from(self.raw[at]);
        let end = at + (16 + name_len).next_multiple_of(4);
        let entry = Entry {
            index: self.raw[at + 1],
            name: self
                .raw
                .get(at + 16..at + 16 + name_len)
                .ok_or("its name runs past the end")?,
            value_at: le16(self.raw, at + 2).into(),
            value_len: le32(self.raw, at + 8) as usize,
            hash: le32(self.raw, at + 12),
            end,
        };
        match () {
            () if le32(self.raw, at + 4) != 0 => Err("its value lies in an inode of its own"),
            () if entry.index == 0 => Err("its kind makes no sense"),
            () if entry.value_len > 0 && entry.value_at + entry.value_len > self.raw.len() => {
                Err("its value runs past the end")
            }
            () if end > self.raw.len() => Err("it runs past the end"),
            () => Ok(entry),
        }
    }

    /// The sum that is stored with an entry: its name, then its value in words.
    fn hash(&self, entry: &Entry<'_>) -> u32 {
        let name = entry
            .name
            .iter()
            .fold(0_u32, |h, &b| h.rotate_left(5) ^ u32::from(b));
        let value = &self.raw[entry.value_at.min(self.raw.len())..];
        let value = &value[..entry.value_len.min(value.len())];
        value.chunks(4).fold(name, |h, word| {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            h.rotate_left(16) ^ u32::from_le_bytes(bytes)
        })
    }
}

//! Ranges of a block whose other bytes no record tells: what can be said of
//! them all the same. A field is told where all its bytes are there.

use super::chart::{Chart, Part, stamp};
use crate::ext4::bitmap;
use crate::ext4::bytes::{le16, le32};
use crate::ext4::dirent;
use crate::ext4::inode;
use crate::units::{BlockNo, GroupNo, Time};

/// Runs of bits that a line has room for.
const RUNS: usize = 8;

/// A field: its name, where it is, how many bytes, how it is written.
type Field = (&'static str, usize, usize, Form);

#[derive(Clone, Copy)]
enum Form {
    Number,
    Octal,
    Hex,
}
use Form::{Hex, Number, Octal};

/// Of an inode, but for its times, what it keeps in `i_block`, and checksums.
const INODE: [Field; 13] = [
    ("mode", 0x0, 2, Octal),
    ("owner (low 16 bits)", 0x2, 2, Number),
    ("owner (high 16 bits)", 0x78, 2, Number),
    ("group (low 16 bits)", 0x18, 2, Number),
    ("group (high 16 bits)", 0x7A, 2, Number),
    ("size (low 32 bits)", 0x4, 4, Number),
    ("size (high 32 bits)", 0x6C, 4, Number),
    ("links", 0x1A, 2, Number),
    ("blocks (low 32 bits)", 0x1C, 4, Number),
    ("attribute block (low 32 bits)", 0x68, 4, Number),
    ("dtime", 0x14, 4, Number),
    ("generation", 0x64, 4, Number),
    ("flags", 0x20, 4, Hex),
];
/// Seconds, and where the nanoseconds and further bits of the seconds are.
const TIMES: [(&str, usize, usize); 4] = [
    ("atime", 0x8, 0x8C),
    ("mtime", 0x10, 0x88),
    ("ctime", 0xC, 0x84),
    ("crtime", 0x90, 0x94),
];
const I_BLOCK: (usize, usize) = (0x28, 60);
const GROUP: [Field; 5] = [
    ("free blocks (low 16 bits)", 0xC, 2, Number),
    ("free inodes (low 16 bits)", 0xE, 2, Number),
    ("directories (low 16 bits)", 0x10, 2, Number),
    ("never used inodes (low 16 bits)", 0x1C, 2, Number),
    ("flags", 0x12, 2, Hex),
];
const SUPERBLOCK: [Field; 3] = [
    ("free blocks (low 32 bits)", 0xC, 4, Number),
    ("free inodes", 0x10, 4, Number),
    ("last orphan", 0xE8, 4, Number),
];

/// The bytes of a block that are known.
pub struct Fragments {
    bytes: Vec<u8>,
    known: Vec<bool>,
}

impl Fragments {
    /// Of these ranges: offset in the block and bytes, later ones over earlier.
    pub fn of<'r>(ranges: impl Iterator<Item = (usize, &'r [u8])>, block_size: usize) -> Self {
        let mut all = Fragments {
            bytes: vec![0; block_size],
            known: vec![false; block_size],
        };
        for (at, range) in ranges {
            if let Some(bytes) = all.bytes.get_mut(at..at + range.len()) {
                bytes.copy_from_slice(range);
                all.known[at..at + range.len()].fill(true);
            }
        }
        all
    }

    fn get(&self, at: usize, len: usize) -> Option<&[u8]> {
        let known = self.known.get(at..at.checked_add(len)?)?;
        known
            .iter()
            .all(|it| *it)
            .then(|| &self.bytes[at..at + len])
    }

    fn has_any(&self, at: usize, len: usize) -> bool {
        let known = self.known.get(at..(at + len).min(self.known.len()));
        known.is_some_and(|known| known.contains(&true))
    }

    /// Names the block where its bytes do, and tells what they mean.
    pub fn tell(&self, chart: &Chart, block: BlockNo) -> (Option<&'static str>, Vec<String>) {
        let (mut name, mut lines) = (None, Vec::new());
        match chart.part(block) {
            (Part::Superblock, _) => {
                let at = chart.sb().home().1;
                self.line(
                    "superblock".to_owned(),
                    self.fields(&SUPERBLOCK, at),
                    &mut lines,
                );
            }
            (Part::Descriptors(first), _) => self.groups(chart, first, &mut lines),
            (Part::BlockBitmap(group), _) => {
                let first = chart.sb().group_start(group).0;
                self.bits("blocks", first, &mut lines);
            }
            (Part::InodeBitmap(group), _) => {
                let first = chart.sb().inode_at(group, 0).0;
                self.bits("inodes", first.into(), &mut lines);
            }
            (Part::InodeTable(group), table) => {
                let in_table = block.since(table).unwrap_or(0);
                self.inodes(chart, group, in_table, &mut lines);
            }
            (Part::Contents, _) => {
                lines = self.entries(chart);
                name = (!lines.is_empty()).then_some("directory");
            }
        }
        lines.push(
            "the rest can't be told: no earlier record that is kept has the whole block".to_owned(),
        );
        (name, lines)
    }

    fn line(&self, of: String, fields: Vec<String>, lines: &mut Vec<String>) {
        let said = match fields.is_empty() {
            true => "no field whole".to_owned(),
            false => fields.join(", "),
        };
        lines.push(format!("{of}: {said}"));
    }

    fn fields(&self, fields: &[Field], base: usize) -> Vec<String> {
        let mut said = Vec::new();
        for &(name, at, len, form) in fields {
            let Some(raw) = self.get(base + at, len) else {
                if self.has_any(base + at, len) {
                    said.push(format!("{name} in part"));
                }
                continue;
            };
            let value = match len {
                2 => le16(raw, 0).into(),
                _ => le32(raw, 0),
            };
            said.push(match form {
                Number => format!("{name} {value}"),
                Octal => format!("{name} {value:06o}"),
                Hex => format!("{name} {value:#x}"),
            });
        }
        said
    }

    fn groups(&self, chart: &Chart, first: GroupNo, lines: &mut Vec<String>) {
        let size = usize::from(chart.sb().desc_size);
        for n in 0..self.bytes.len() / size {
            if self.has_any(n * size, size) {
                let fields = self.fields(&GROUP, n * size);
                self.line(format!("group {}", first.0 + n as u32), fields, lines);
            }
        }
    }

    fn inodes(&self, chart: &Chart, group: GroupNo, in_table: u64, lines: &mut Vec<String>) {
        let sb = chart.sb();
        let size = usize::from(sb.inode_size);
        let per_block = self.bytes.len() / size;
        for n in 0..per_block {
            let base = n * size;
            if !self.has_any(base, size) {
                continue;
            }
            let number = sb.inode_at(group, in_table as u32 * per_block as u32 + n as u32);
            let mut fields = self.fields(&INODE, base);
            for (name, secs, more) in TIMES {
                // An inode of the old size has nothing there but the next inode.
                let has_more = more + 4 <= size;
                let more = |len| self.get(base + more, len).filter(|_| has_more);
                match (
                    self.get(base + secs, 4).filter(|_| secs + 4 <= size),
                    more(4),
                ) {
                    (Some(secs), Some(more)) => {
                        let time = inode::time(le32(secs, 0), le32(more, 0));
                        fields.push(format!("{name} {}", stamp(time)));
                    }
                    (Some(secs), None) => {
                        let Time { secs, .. } = inode::time(le32(secs, 0), 0);
                        fields.push(format!("{name} {secs} and a part of a second"));
                    }
                    (None, Some(more)) => {
                        let Time { nanos, .. } = inode::time(0, le32(more, 0));
                        fields.push(format!("{name} nanoseconds {nanos}"));
                    }
                    (None, None) => {}
                }
            }
            let (at, len) = I_BLOCK;
            match self.get(base + at, len).map(|raw| chart.extents(raw)) {
                Some(extents) => fields.extend(extents),
                None if self.has_any(base + at, len) => {
                    fields.push("extents, block map, device or target in part".to_owned());
                }
                None => {}
            }
            self.line(format!("inode {number}"), fields, lines);
        }
    }

    /// Bits of the bytes that are known.
    fn bits(&self, what: &str, first: u64, lines: &mut Vec<String>) {
        let mut at = 0;
        while let Some(start) = (at..self.known.len()).find(|n| self.known[*n]) {
            let end = (start..self.known.len()).find(|n| !self.known[*n]);
            let end = end.unwrap_or(self.known.len());
            let (from, to) = (start as u32 * 8, end as u32 * 8);
            let name = |bit: u32| first + u64::from(bit);
            let mut runs = Vec::new();
            let mut bit = from;
            while let Some(begin) = bitmap::next(&self.bytes, bit, to, true) {
                bit = bitmap::next(&self.bytes, begin, to, false).unwrap_or(to);
                runs.push(match bit - begin {
                    1 => name(begin).to_string(),
                    _ => format!("{} to {}", name(begin), name(bit - 1)),
                });
            }
            if runs.len() > RUNS {
                runs.truncate(RUNS);
                runs.push("…".to_owned());
            }
            let used = match runs.is_empty() {
                true => "none".to_owned(),
                false => runs.join(", "),
            };
            let (from, to) = (name(from), name(to - 1));
            lines.push(format!("of {what} {from} to {to} in use then: {used}"));
            at = end;
        }
    }

    /// What looks like a directory's entry.
    fn entries(&self, chart: &Chart) -> Vec<String> {
        let entry = |at: usize| {
            let head = self.get(at, 8)?;
            let name = self.get(at + 8, head[6].into())?;
            let len = usize::from(le16(head, 4));
            let fits = len >= dirent::needed(name)
                && len.is_multiple_of(4)
                && at + len <= self.bytes.len();
            let inode = le32(head, 0);
            let is_known =
                (1..=7).contains(&head[7]) && (1..=chart.sb().inodes_count).contains(&inode);
            let is_name = !name.is_empty() && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
            (fits && is_known && is_name)
                .then(|| format!("{} is inode {inode}", name.escape_ascii()))
        };
        (0..self.bytes.len()).step_by(4).filter_map(entry).collect()
    }
}

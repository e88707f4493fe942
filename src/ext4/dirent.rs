//! Blocks of directory entries.
//!
//! A block is a chain of records that fills it to the last byte; the space a
//! removed entry leaves is added to the record before it. Records never move,
//! except in [`rebuild`]. With metadata_csum the last 12 bytes look like an
//! unused record and hold the block's checksum, which [`seal`] writes and
//! [`verify`] compares. Its seed is the directory's
//! ([`super::checksum::inode_seed`]); no seed, no checksum.

use super::Corrupt;
use super::bytes::{le16, le32, put16, put32};
use super::checksum::crc32c;
use crate::units::InodeNo;

/// Bytes of a record before its name.
const HEADER: usize = 8;
/// Bytes of the record that holds the checksum.
pub const TAIL: usize = 12;
/// `det_reserved_ft` of that record.
const TAIL_TYPE: u8 = 0xde;
/// The longest name.
pub const NAME_MAX: usize = 255;

/// `file_type` of a directory.
pub const DIRECTORY: u8 = 2;

/// A name and what it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The inode.
    pub inode: InodeNo,
    /// `file_type`: 0 unknown, 1 regular, 2 directory, 3 character device,
    /// 4 block device, 5 fifo, 6 socket, 7 symlink.
    pub kind: u8,
    /// 1 ..= 255 bytes; [`entries`] makes sure that none is `/` or NUL.
    pub name: &'a [u8],
}

/// A record of a block's chain.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where in the block it begins.
    pub at: usize,
    /// Its length, unused space behind the name included.
    pub len: usize,
    /// What it says; `None` if unused.
    pub entry: Option<Entry<'a>>,
}

impl<'a> Record<'a> {
    /// What it says; an error if the name is one that no file can have.
    pub fn checked_entry(&self) -> Result<Option<Entry<'a>>, Corrupt> {
        let Some(entry) = self.entry else {
            return Ok(None);
        };
        match entry.name.iter().find(|byte| matches!(byte, 0 | b'/')) {
            None => Ok(Some(entry)),
            Some(&byte) => Err(Corrupt::Field {
                what: format!("directory entry at byte {} of its block", self.at),
                field: "name",
                value: byte.into(),
            }),
        }
    }
}

/// Bytes that a record with this name needs.
pub fn needed(name: &[u8]) -> usize {
    space(name.len())
}

/// Bytes that a record with a name of so many needs.
fn space(name_len: usize) -> usize {
    (HEADER + name_len).next_multiple_of(4)
}

/// Bytes of a block that records may fill.
pub fn capacity(block_size: usize, seed: Option<u32>) -> usize {
    block_size - if seed.is_some() { TAIL } else { 0 }
}

/// The chain of records; ends after the first one that makes no sense.
pub fn records(block: &[u8]) -> Records<'_> {
    Records { block, at: 0 }
}

/// See [`records`].
pub struct Records<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.block.len() {
            return None;
        }
        let Some(record) = decode(self.block, self.at) else {
            let at = std::mem::replace(&mut self.at, self.block.len());
            return Some(Err(flaw(self.block, at)));
        };
        self.at = record.at + record.len;
        Some(Ok(record))
    }
}

/// A record's first eight bytes.
struct Head {
    /// 0: unused.
    inode: u32,
    len: usize,
    /// 0 if unused.
    name_len: usize,
    kind: u8,
}

/// The head of the record at `at`; `None` if the record makes no sense, for
/// which [`flaw`] has words. Searches see little else of a block: as one word it
/// costs them a few instructions.
#[inline(always)]
fn head(block: &[u8], at: usize) -> Option<Head> {
    let raw = block.get(at..)?;
    let word = u64::from_le_bytes(*raw.first_chunk::<HEADER>()?);
    let (inode, len) = (word as u32, usize::from((word >> 32) as u16));
    if len < HEADER + 4 || len % 4 != 0 || len > raw.len() {
        return None;
    }
    let name_len = match inode {
        0 => 0,
        _ => usize::from((word >> 48) as u8),
    };
    if (inode != 0 && name_len == 0) || name_len > len - HEADER {
        return None;
    }
    let kind = (word >> 56) as u8;
    Some(Head {
        inode,
        len,
        name_len,
        kind,
    })
}

/// The record at `at`, like [`head`].
#[inline]
fn decode(block: &[u8], at: usize) -> Option<Record<'_>> {
    let head = head(block, at)?;
    let entry = (head.inode != 0).then(|| Entry {
        inode: InodeNo(head.inode),
        kind: head.kind,
        name: &block[at + HEADER..][..head.name_len],
    });
    Some(Record {
        at,
        len: head.len,
        entry,
    })
}

#[cold]
fn flaw(block: &[u8], at: usize) -> Corrupt {
    let raw = block.get(at..).unwrap_or_default();
    let (field, value) = match raw.first_chunk::<HEADER>() {
        None => ("rec_len of the entry before", at),
        Some(header) => {
            let len = usize::from(le16(header, 4));
            match len < HEADER + 4 || len % 4 != 0 || len > raw.len() {
                true => ("rec_len", len),
                false => ("name_len", header[6].into()),
            }
        }
    };
    Corrupt::Field {
        what: format!("directory entry at byte {at} of its block"),
        field,
        value: value as u64,
    }
}

/// The entries of a block; an error for a name that no file can have.
/// (Searches needn't look: nobody searches for such a name.)
pub fn entries(block: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, Corrupt>> {
    records(block).filter_map(|record| match record {
        Ok(record) => record.checked_entry().transpose(),
        Err(error) => Some(Err(error)),
    })
}

/// The end of a record's name, four bytes of it at most, as one number, the last
/// byte highest; not for a name of no bytes. Names
/// of neighbours often have the length and the beginning in common, not the end:
/// it spares most calls of memcmp, which would cost more than going through
/// the block does.
#[inline(always)]
fn tail(record: &[u8], name_len: usize) -> Option<u32> {
    let end = HEADER + name_len;
    let last = u32::from_le_bytes(*record.get(end - 4..end)?.first_chunk()?);
    Some(last >> (8 * 4_usize.saturating_sub(name_len)))
}

/// The record with this name.
pub fn find<'a>(block: &'a [u8], name: &[u8]) -> Result<Option<Record<'a>>, Corrupt> {
    if name.is_empty() {
        return Ok(None); // an unused record has no name either
    }
    let last = name.iter().rev().take(4);
    let end = Some(last.fold(0, |end, byte| end << 8 | u32::from(*byte)));
    let mut at = 0;
    while at < block.len() {
        let head = head(block, at).ok_or_else(|| flaw(block, at))?;
        if head.name_len == name.len()
            && tail(&block[at..], head.name_len) == end
            && &block[at + HEADER..][..head.name_len] == name
        {
            return Ok(decode(block, at));
        }
        at += head.len;
    }
    Ok(None)
}

/// A block without entries.
pub fn clear(block: &mut [u8], seed: Option<u32>) {
    block.fill(0);
    let end = capacity(block.len(), seed);
    put16(block, 4, end as u16);
    if seed.is_some() {
        put16(block, end + 4, TAIL as u16);
        block[end + 7] = TAIL_TYPE;
    }
    seal(block, seed);
}

/// A directory's first block: `.` and `..` only.
pub fn init(block: &mut [u8], inode: InodeNo, parent: InodeNo, seed: Option<u32>) {
    clear(block, seed);
    let end = capacity(block.len(), seed);
    write(
        block,
        0,
        12,
        Entry {
            inode,
            kind: DIRECTORY,
            name: b".",
        },
    );
    write(
        block,
        12,
        end - 12,
        Entry {
            inode: parent,
            kind: DIRECTORY,
            name: b"..",
        },
    );
    seal(block, seed);
}

/// A record with room for a name behind its own.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    at: usize,
    used: usize,
    len: usize,
}

/// The first place of a block that has room for a name.
pub fn gap(block: &[u8], name: &[u8], seed: Option<u32>) -> Result<Option<Gap>, Corrupt> {
    let want = needed(name);
    let block = &block[..capacity(block.len(), seed)];
    let mut at = 0;
    while at < block.len() {
        let Head {
            inode,
            len,
            name_len,
            ..
        } = head(block, at).ok_or_else(|| flaw(block, at))?;
        let used = if inode == 0 { 0 } else { space(name_len) };
        if len - used >= want {
            return Ok(Some(Gap { at, used, len }));
        }
        at += len;
    }
    Ok(None)
}

/// Adds an entry in a gap that [`gap`] found in this block for its name.
/// Whether the name is there already is for the caller to know.
pub fn fill(block: &mut [u8], gap: Gap, entry: Entry, seed: Option<u32>) {
    let Gap { at, used, len } = gap;
    if used > 0 {
        put16(block, at + 4, used as u16);
    }
    write(block, at + used, len - used, entry);
    seal(block, seed);
}

/// Removes the record at `at` (as [`find`] gave it).
pub fn remove(block: &mut [u8], at: usize, seed: Option<u32>) -> Result<(), Corrupt> {
    let mut before: Option<(usize, usize)> = None;
    let mut here = 0;
    while here < at {
        let len = head(block, here).ok_or_else(|| flaw(block, here))?.len;
        before = Some((here, len));
        here += len;
    }
    let found = head(block, at).filter(|_| here == at);
    let len = found.map(|head| head.len).ok_or_else(|| Corrupt::Field {
        what: "directory block".into(),
        field: "rec_len",
        value: at as u64,
    })?;
    match before {
        Some((earlier, its_len)) => put16(block, earlier + 4, (its_len + len) as u16),
        None => put32(block, at, 0),
    }
    seal(block, seed);
    Ok(())
}

/// Lets the record at `at` (as [`find`] gave it) refer to another inode.
pub fn redirect(block: &mut [u8], at: usize, inode: InodeNo, kind: u8, seed: Option<u32>) {
    put32(block, at, inode.0);
    block[at + 7] = kind;
    seal(block, seed);
}

/// Fills the block with these entries, without gaps. They must fit.
pub fn rebuild<'a>(
    block: &mut [u8],
    entries: impl IntoIterator<Item = Entry<'a>>,
    seed: Option<u32>,
) {
    clear(block, seed);
    let end = capacity(block.len(), seed);
    let (mut at, mut last) = (0, None);
    for entry in entries {
        let len = needed(entry.name);
        write(block, at, len, entry);
        last = Some(at);
        at += len;
    }
    if let Some(last) = last {
        put16(block, last + 4, (end - last) as u16);
    }
    seal(block, seed);
}

fn write(block: &mut [u8], at: usize, len: usize, entry: Entry) {
    let name_end = HEADER + entry.name.len();
    let raw = &mut block[at..at + len];
    put32(raw, 0, entry.inode.0);
    put16(raw, 4, len as u16);
    raw[6] = entry.name.len() as u8;
    raw[7] = entry.kind;
    raw[HEADER..name_end].copy_from_slice(entry.name);
    raw[name_end..needed(entry.name).min(len)].fill(0);
}

/// Writes the checksum, on file systems that have one (`seed`).
pub fn seal(block: &mut [u8], seed: Option<u32>) {
    if let Some(seed) = seed {
        let end = block.len() - TAIL;
        let sum = crc32c(seed, &block[..end]);
        put32(block, end + 8, sum);
    }
}

/// Compares the checksum, on file systems that have one (`seed`).
pub fn verify(block: &[u8], seed: Option<u32>) -> Result<(), Corrupt> {
    let Some(seed) = seed else { return Ok(()) };
    let (body, tail) = block.split_at(block.len() - TAIL);
    if le32(tail, 0) != 0 || le16(tail, 4) != TAIL as u16 || tail[6] != 0 || tail[7] != TAIL_TYPE {
        return Err(Corrupt::Field {
            what: "checksum entry of a directory block".into(),
            field: "det_reserved_ft",
            value: tail[7].into(),
        });
    }
    let (stored, computed) = (le32(tail, 8), crc32c(seed, body));
    if stored != computed {
        return Err(Corrupt::Checksum {
            what: "directory block".into(),
            stored,
            computed,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &[u8], inode: u32) -> Entry<'_> {
        Entry {
            inode: InodeNo(inode),
            kind: 1,
            name,
        }
    }

    fn insert(block: &mut [u8], entry: Entry, seed: Option<u32>) -> Result<bool, Corrupt> {
        let found = gap(block, entry.name, seed)?;
        found.iter().for_each(|gap| fill(block, *gap, entry, seed));
        Ok(found.is_some())
    }

    fn names(block: &[u8]) -> Vec<Vec<u8>> {
        entries(block)
            .map(|entry| entry.unwrap().name.to_vec())
            .collect()
    }

    #[test]
    fn space_of_removed_entries_is_used_again() {
        let mut block = vec![0; 1024];
        init(&mut block, InodeNo(12), InodeNo(2), None);
        let mut count = 0;
        while insert(
            &mut block,
            entry(format!("name-{count:04}").as_bytes(), 20),
            None,
        )
        .unwrap()
        {
            count += 1;
        }
        assert_eq!(count, (1024 - 24) / 20);
        let at = find(&block, b"name-0007").unwrap().unwrap().at;
        remove(&mut block, at, None).unwrap();
        assert!(find(&block, b"name-0007").unwrap().is_none());
        assert!(insert(&mut block, entry(b"other", 21), None).unwrap());
        assert_eq!(names(&block).len(), count + 2);
    }

    #[test]
    fn the_first_record_of_a_block_can_be_removed_and_filled_again() {
        let mut block = vec![0; 1024];
        clear(&mut block, None);
        assert!(insert(&mut block, entry(b"one", 5), None).unwrap());
        assert!(insert(&mut block, entry(b"two", 6), None).unwrap());
        remove(&mut block, 0, None).unwrap();
        assert_eq!(names(&block), [b"two"]);
        assert!(insert(&mut block, entry(b"one", 5), None).unwrap());
        assert_eq!(names(&block), [b"one", b"two"]);
    }

    #[test]
    fn names_are_told_apart_by_each_of_their_bytes() {
        for len in (1..=9).chain([NAME_MAX]) {
            let mut block = vec![0; 4096];
            clear(&mut block, None);
            let differing = |at: usize| {
                let mut name = vec![b'x'; len];
                name[at] = b'y';
                name
            };
            let places: Vec<usize> = (0..len).step_by(len.div_ceil(9)).collect();
            for &at in &places {
                assert!(insert(&mut block, entry(&differing(at), at as u32 + 1), None).unwrap());
            }
            for &at in &places {
                let found = find(&block, &differing(at)).unwrap().unwrap();
                assert_eq!(found.entry.unwrap().inode, InodeNo(at as u32 + 1));
            }
            for name in [vec![b'x'; len], vec![b'x'; len - 1], vec![]] {
                assert!(find(&block, &name).unwrap().is_none(), "{len}");
            }
        }
    }

    #[test]
    fn a_changed_block_fails_its_checksum() {
        let seed = Some(7);
        let mut block = vec![0; 1024];
        init(&mut block, InodeNo(2), InodeNo(2), seed);
        insert(&mut block, entry(b"name", 12), seed).unwrap();
        verify(&block, seed).unwrap();
        block[40] ^= 1;
        assert!(matches!(
            verify(&block, seed),
            Err(Corrupt::Checksum { .. })
        ));
    }

    proptest! {
        #[test]
        fn hostile_blocks_never_panic(mut block in proptest::collection::vec(any::<u8>(), 1024..=1024), at in 0_usize..64) {
            // Half of the cases get a plausible beginning, to come further.
            if at % 2 == 0 {
                put16(&mut block, 4, 12);
                put16(&mut block, 16, 1012);
                block[6] = 1;
                block[18] = 2;
            }
            let _ = records(&block).count();
            let _ = find(&block, b"name");
            let _ = verify(&block, Some(1));
            let mut copy = block.clone();
            let _ = remove(&mut copy, at * 4, None);
            let _ = insert(&mut block, entry(b"name", 12), Some(1));
        }
    }
}

//! The index: where the records of one segment lie, and when they were made.
//!
//! Reading is two steps: index → position, store → record. The file is
//! memory-mapped and disposable: everything in it can be had again by reading
//! the store, so it is never synced, and believed by a later process only if
//! it was sealed (complete, with a CRC) and names the segment's salt.

use std::sync::Arc;

use super::frame::{le32, le64};
use super::{Error, Result};
use crate::device::memory::MemoryMap;
use crate::device::{Dir, Disk, Map};
use crate::sync::atomic::{AtomicU64, Ordering};

const MAGIC: [u8; 8] = *b"jfsindex";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const ENTRY: usize = 16;

/// Where a record lies (0: it can't be read) and its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub offset: u64,
    pub time: i64,
}

impl Entry {
    /// A frame that should be here and isn't.
    pub const HOLE: Entry = Entry { offset: 0, time: 0 };

    fn encode(self) -> [u8; ENTRY] {
        let mut raw = [0; ENTRY];
        raw[..8].copy_from_slice(&self.offset.to_le_bytes());
        raw[8..].copy_from_slice(&self.time.to_le_bytes());
        raw
    }
    fn decode(raw: &[u8]) -> Entry {
        Entry {
            offset: le64(raw, 0),
            time: le64(raw, 8) as i64,
        }
    }
}

/// The entries of one segment, by Lsn from its base.
pub(super) enum Index {
    /// In plain memory: what a reader has collected.
    Built(Vec<Entry>),
    /// In the mapped file of a segment that this process writes.
    Mapped(Mapped),
}

impl Index {
    pub fn len(&self) -> u64 {
        match self {
            Index::Built(entries) => entries.len() as u64,
            Index::Mapped(mapped) => mapped.count.load(Ordering::Acquire),
        }
    }
    pub fn get(&self, at: u64) -> Option<Entry> {
        match self {
            Index::Built(entries) => entries.get(usize::try_from(at).ok()?).copied(),
            Index::Mapped(mapped) => (at < self.len()).then(|| mapped.load(at)),
        }
    }
    /// The first entry made at or after `time`.
    pub fn find_time(&self, time: i64) -> u64 {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle) {
                Some(entry) if entry.time < time => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

/// How many entries the index of a store of this size can take: a segment
/// also ends when its index is full.
pub(super) fn capacity(segment_size: u64) -> u64 {
    segment_size / 256
}

/// Bytes of the index file.
pub(super) fn file_len(segment_size: u64) -> u64 {
    HEADER as u64 + capacity(segment_size) * ENTRY as u64
}

/// A mapped index file.
pub(super) struct Mapped {
    map: Box<dyn Map>,
    count: AtomicU64,
}

impl Mapped {
    /// Maps a file and empties it. Its space is allocated first: a store
    /// through a map onto a full host is a SIGBUS.
    pub fn create(disk: &Arc<dyn Disk>, segment_size: u64) -> std::io::Result<Mapped> {
        let len = file_len(segment_size);
        disk.allocate(0, len)?;
        let map = disk.map(len)?;
        map.store(0, &[0; HEADER]);
        Ok(Mapped {
            map,
            count: AtomicU64::new(0),
        })
    }

    /// An index without a file.
    pub fn in_memory(segment_size: u64) -> Mapped {
        let map = MemoryMap::zeroed(file_len(segment_size) as usize);
        Mapped {
            map: Box::new(map),
            count: AtomicU64::new(0),
        }
    }

    /// The same file for another segment of this size, if it has room for that.
    pub fn reuse(self, segment_size: u64) -> Option<Mapped> {
        let fits = self.map.len() as u64 == file_len(segment_size);
        self.map.store(0, &[0; HEADER]);
        let Mapped { map, .. } = self;
        fits.then_some(Mapped {
            map,
            count: AtomicU64::new(0),
        })
    }

    fn load(&self, at: u64) -> Entry {
        let mut raw = [0; ENTRY];
        self.map.load(HEADER + at as usize * ENTRY, &mut raw);
        Entry::decode(&raw)
    }

    /// Entries so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
    /// Whether another entry fits.
    pub fn is_full(&self) -> bool {
        HEADER + (self.count.load(Ordering::Relaxed) as usize + 1) * ENTRY > self.map.len()
    }

    /// The next record's entry. One writer at a time (the log's tail lock).
    pub fn push(&self, entry: Entry) {
        let at = self.count.load(Ordering::Relaxed);
        self.map
            .store(HEADER + at as usize * ENTRY, &entry.encode());
        self.count.store(at + 1, Ordering::Release);
    }

    /// Nothing more will come: a later process may believe the file.
    pub fn seal(&self, salt: u64, base: u64, crc: u32) {
        let count = self.count.load(Ordering::Relaxed);
        self.map.store(0, &header(salt, base, count, crc));
    }
}

fn header(salt: u64, base: u64, count: u64, crc: u32) -> [u8; HEADER] {
    let mut raw = [0; HEADER];
    raw[0..8].copy_from_slice(&MAGIC);
    raw[8..12].copy_from_slice(&VERSION.to_le_bytes());
    raw[16..24].copy_from_slice(&salt.to_le_bytes());
    raw[24..32].copy_from_slice(&base.to_le_bytes());
    raw[32..40].copy_from_slice(&count.to_le_bytes());
    raw[40..44].copy_from_slice(&crc.to_le_bytes());
    let own = crc32fast::hash(&raw[16..]);
    raw[12..16].copy_from_slice(&own.to_le_bytes());
    raw
}

/// The bytes of a sealed index file with these entries.
pub(super) fn sealed(salt: u64, base: u64, entries: &[Entry]) -> Vec<u8> {
    let body: Vec<u8> = entries.iter().flat_map(|entry| entry.encode()).collect();
    let mut bytes = header(salt, base, entries.len() as u64, crc32fast::hash(&body)).to_vec();
    bytes.extend(body);
    bytes
}

/// The running CRC of the entries pushed, for [`Mapped::seal`].
#[derive(Clone, Default)]
pub(super) struct Seal(crc32fast::Hasher);

impl Seal {
    pub fn push(&mut self, entry: Entry) {
        self.0.update(&entry.encode());
    }
    pub fn crc(&self) -> u32 {
        self.0.clone().finalize()
    }
}

/// The entries of a sealed index of exactly this segment, if the file holds one.
pub(super) fn load_sealed(disk: &dyn Disk, salt: u64, base: u64) -> Option<Vec<Entry>> {
    let mut raw = [0; HEADER];
    disk.read_at(&mut raw, 0).ok()?;
    let known = raw[0..8] == MAGIC && le32(&raw, 8) == VERSION;
    let ours = le64(&raw, 16) == salt && le64(&raw, 24) == base;
    if !known || !ours || le32(&raw, 12) != crc32fast::hash(&raw[16..]) {
        return None;
    }
    let len = le64(&raw, 32).checked_mul(ENTRY as u64)?;
    if len > disk.len().ok()?.checked_sub(HEADER as u64)? {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    disk.read_at(&mut bytes, HEADER as u64).ok()?;
    let whole = crc32fast::hash(&bytes) == le32(&raw, 40);
    whole.then(|| bytes.chunks_exact(ENTRY).map(Entry::decode).collect())
}

/// A mapped, sealed index file made from what was read of a store.
pub(super) fn build(
    dir: &dyn Dir,
    name: &str,
    salt: u64,
    base: u64,
    entries: &[Entry],
) -> Result<Index> {
    let make = || {
        let disk = match dir.open(name) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => dir.create(name)?,
            other => other?,
        };
        // As long as the entries need: the segment takes no more of them.
        let mapped = Mapped::create(&disk, (entries.len() as u64).max(1) * 256)?;
        let mut seal = Seal::default();
        for entry in entries {
            mapped.push(*entry);
            seal.push(*entry);
        }
        mapped.seal(salt, base, seal.crc());
        Ok(Index::Mapped(mapped))
    };
    make().map_err(|e| Error::io(format!("index {name}"), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::MemoryDir;

    #[test]
    fn only_a_sealed_index_of_the_same_segment_is_believed() {
        let dir = MemoryDir::default();
        let entries: Vec<Entry> = (1..100)
            .map(|n| Entry {
                offset: n * 8,
                time: n as i64 * 10,
            })
            .collect();
        let index = build(&dir, "i", 5, 1, &entries).unwrap();
        assert_eq!(index.find_time(0), 0);
        assert_eq!(index.find_time(10), 0);
        assert_eq!(index.find_time(11), 1);
        assert_eq!(index.find_time(5000), 99);
        let disk = dir.open("i").unwrap();
        assert_eq!(load_sealed(&*disk, 5, 1), Some(entries.clone()));
        assert_eq!(load_sealed(&*disk, 6, 1), None);
        assert_eq!(load_sealed(&*disk, 5, 2), None);
        let len = HEADER + entries.len() * ENTRY;
        for at in 0..len as u64 {
            let mut byte = [0];
            disk.read_at(&mut byte, at).unwrap();
            disk.write_at(&[byte[0] ^ 0x40], at).unwrap();
            assert_eq!(load_sealed(&*disk, 5, 1), None, "byte {at}");
            disk.write_at(&byte, at).unwrap();
        }
    }
}

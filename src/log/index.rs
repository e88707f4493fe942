//! The index: where the records of one segment lie, and when they were made.
//!
//! Reading is two steps: index → position, store → record. While a segment
//! grows its index is in memory; once there is a next segment, durably, it is
//! written to a file. That is disposable: everything in it can be had again by
//! reading the store, so it is never synced, and believed by a later process
//! only if it is whole (it has a CRC) and names the segment's salt. (A mapped
//! file would do the same, until the host fails: a store through the map is a
//! SIGBUS then, where a write is an error.)

use super::frame::{le32, le64};
use crate::device::{Dir, Disk};
use crate::sync::RwLock;

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
#[derive(Default)]
pub(super) struct Index(RwLock<Vec<Entry>>);

impl Index {
    pub fn of(entries: Vec<Entry>) -> Index {
        Index(RwLock::new(entries))
    }

    /// The next record's entry. One writer at a time (the log's tail lock).
    pub fn push(&self, entry: Entry) {
        self.0.write().push(entry);
    }

    /// Nothing more will come.
    pub fn shrink(&self) {
        self.0.write().shrink_to_fit();
    }

    pub fn len(&self) -> u64 {
        self.0.read().len() as u64
    }
    pub fn get(&self, at: u64) -> Option<Entry> {
        self.0.read().get(usize::try_from(at).ok()?).copied()
    }
    /// The first entry made at or after `time`.
    pub fn find_time(&self, time: i64) -> u64 {
        let entries = self.0.read();
        entries.partition_point(|entry| entry.time < time) as u64
    }

    /// Its file's bytes, for the segment of this salt and base.
    pub fn sealed(&self, salt: u64, base: u64) -> Vec<u8> {
        sealed(salt, base, &self.0.read())
    }
}

/// How many entries the index of a store of this size can take: a segment
/// also ends when its index is full.
pub(super) fn capacity(segment_size: u64) -> u64 {
    segment_size / 256
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

/// Makes a file of these bytes, or makes it anew.
pub(super) fn write(dir: &dyn Dir, name: &str, sealed: &[u8]) -> std::io::Result<()> {
    let disk = match dir.open(name) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => dir.create(name)?,
        other => other?,
    };
    disk.write_at(sealed, 0)
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
        let index = Index::of(entries.clone());
        write(&dir, "i", &index.sealed(5, 1)).unwrap();
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

//! A frame: one record as it lies in a store file. FORMAT.md has the bytes.
//!
//! ```text
//! | header 80 | metadata | a CRC per data chunk | data | zeros to 8 |
//!   \_________ one CRC over all this _________/
//! ```
//! Every data byte is summed once, and a reader can verify any chunk of the
//! data alone. A frame also says where it lies and in which segment (by the
//! segment's salt), so that neither a copy of it in somebody's data nor a
//! left-over of the file's earlier use is ever taken for a record.

use crate::units::{Epoch, Lsn};

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 80;
/// The CRC is over what comes behind it.
const SUMMED: usize = 8;
/// Data are summed in chunks of this many bytes (the first may be shorter).
pub(super) const CHUNK: usize = 4096;
/// Frames begin at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// A page of the host's cache: what a rewrite of a tail can hurt.
pub(super) const PAGE: u64 = 4096;
/// The longest store file. What claims to be longer is not ours, and need not
/// be searched to its end.
pub(super) const LONGEST: u64 = 1 << 30;
/// How every frame begins.
pub(super) const MAGIC: [u8; 4] = *b"jfR0";

/// A chunk's CRC-32, little-endian, as it is stored.
pub(super) type Sum = [u8; 4];

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Carries nothing but the marks in its header.
    Mark,
    /// A record of the log's user.
    Record,
}

impl Kind {
    fn encode(self) -> u8 {
        match self {
            Kind::Mark => 1,
            Kind::Record => 2,
        }
    }
    fn decode(raw: u8) -> Option<Kind> {
        match raw {
            1 => Some(Kind::Mark),
            2 => Some(Kind::Record),
            _ => None,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub salt: u64,
    pub lsn: Lsn,
    /// Where the frame lies in its store file.
    pub at: u64,
    /// Nanoseconds since 1970, never running backwards.
    pub time: i64,
    /// The raw wall clock.
    pub wall: i64,
    pub durable: Lsn,
    pub installed: Lsn,
    /// The epoch that made the record; a frame kept over a crash keeps it.
    pub epoch: Epoch,
    pub kind: Kind,
    /// Length of the first data chunk, 1 ..= 4096.
    pub head: u16,
    pub meta_len: u32,
    pub data_len: u32,
}

/// How many chunks `data_len` bytes make when the first has `head`.
pub(super) fn chunk_count(data_len: usize, head: usize) -> usize {
    match data_len.checked_sub(head) {
        _ if data_len == 0 => 0,
        None => 1,
        Some(rest) => 1 + rest.div_ceil(CHUNK),
    }
}

/// The number of the record whose frame begins with these bytes; `None` if no
/// frame does. (Whether it is whole, only its segment can tell.)
pub fn lsn_of(head: &[u8]) -> Option<Lsn> {
    let lsn = head.get(16..24)?;
    head.starts_with(&MAGIC).then(|| Lsn(le64(lsn, 0)))
}

/// Cuts data into chunks: the first of `head` bytes.
pub(super) fn chunks(data: &[u8], head: usize) -> impl Iterator<Item = &[u8]> {
    let (first, rest) = data.split_at(head.min(data.len()));
    std::iter::once(first)
        .filter(|first| !first.is_empty())
        .chain(rest.chunks(CHUNK))
}

/// The CRC of every chunk.
pub(super) fn sums(data: &[u8], head: usize) -> Box<[Sum]> {
    chunks(data, head)
        .map(|chunk| crc32fast::hash(chunk).to_le_bytes())
        .collect()
}

/// The whole frame's length in the store, padding included.
pub(super) fn frame_len(meta_len: usize, data_len: usize, head: usize) -> u64 {
    let bytes = HEADER + meta_len + 4 * chunk_count(data_len, head) + data_len;
    (bytes as u64).next_multiple_of(ALIGN)
}

impl FrameHeader {
    /// Bytes before the data: header, metadata, sums.
    pub fn front_len(&self) -> usize {
        self.meta_end() + 4 * self.chunk_count()
    }
    pub fn meta_end(&self) -> usize {
        HEADER + self.meta_len as usize
    }
    pub fn chunk_count(&self) -> usize {
        chunk_count(self.data_len as usize, usize::from(self.head))
    }
    pub fn len(&self) -> u64 {
        frame_len(
            self.meta_len as usize,
            self.data_len as usize,
            usize::from(self.head),
        )
    }
    /// Where the next frame may begin.
    pub fn end(&self) -> u64 {
        self.at + self.len()
    }
    /// Where the data lie in the store file.
    pub fn data_at(&self) -> u64 {
        self.at + self.front_len() as u64
    }
    /// Zeros behind the data.
    pub fn padding(&self) -> usize {
        self.len() as usize - self.front_len() - self.data_len as usize
    }

    /// The header's bytes, with the CRC over everything before the data.
    pub fn encode(&self, meta: &[u8], sums: &[Sum]) -> [u8; HEADER] {
        let mut raw = [0; HEADER];
        raw[0..4].copy_from_slice(&MAGIC);
        raw[8..16].copy_from_slice(&self.salt.to_le_bytes());
        raw[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        raw[24..32].copy_from_slice(&self.at.to_le_bytes());
        raw[32..40].copy_from_slice(&self.time.to_le_bytes());
        raw[40..48].copy_from_slice(&self.wall.to_le_bytes());
        raw[48..56].copy_from_slice(&self.durable.0.to_le_bytes());
        raw[56..64].copy_from_slice(&self.installed.0.to_le_bytes());
        raw[64..68].copy_from_slice(&self.epoch.0.to_le_bytes());
        raw[68] = self.kind.encode();
        raw[70..72].copy_from_slice(&self.head.to_le_bytes());
        raw[72..76].copy_from_slice(&self.meta_len.to_le_bytes());
        raw[76..80].copy_from_slice(&self.data_len.to_le_bytes());
        let crc = checksum(&raw, meta, sums.as_flattened());
        raw[4..8].copy_from_slice(&crc.to_le_bytes());
        raw
    }

    /// The header at `at` in the segment of this salt, or `None` if no frame
    /// of that segment begins there. Its CRC is still to be checked.
    pub fn decode(raw: &[u8; HEADER], salt: u64, at: u64) -> Option<FrameHeader> {
        let header = FrameHeader {
            salt: le64(raw, 8),
            lsn: Lsn(le64(raw, 16)),
            at: le64(raw, 24),
            time: le64(raw, 32) as i64,
            wall: le64(raw, 40) as i64,
            durable: Lsn(le64(raw, 48)),
            installed: Lsn(le64(raw, 56)),
            epoch: Epoch(le32(raw, 64)),
            kind: Kind::decode(raw[68])?,
            head: u16::from_le_bytes([raw[70], raw[71]]),
            meta_len: le32(raw, 72),
            data_len: le32(raw, 76),
        };
        let head_fits = match header.data_len {
            0 => header.head == 0,
            _ => (1..=CHUNK).contains(&usize::from(header.head)),
        };
        let ours = raw[0..4] == MAGIC && header.salt == salt && header.at == at;
        let sane = is_sane(header.epoch, header.lsn);
        // What was durable or installed before it was written has a lower number.
        let marks = header.installed <= header.durable && header.durable < header.lsn;
        let sane = sane && marks;
        (ours && sane && head_fits).then_some(header)
    }
}

/// Numbers that a log can reach. Beyond them arithmetic could overflow, and
/// only a forger writes them.
pub(super) fn is_sane(epoch: Epoch, lsn: Lsn) -> bool {
    (Epoch(1)..Epoch(u32::MAX)).contains(&epoch) && (Lsn(1)..Lsn(1 << 62)).contains(&lsn)
}

/// Whether the bytes before the data (`front`, as long as the header says)
/// are what was written.
pub(super) fn front_is_whole(front: &[u8]) -> bool {
    front.len() >= HEADER && crc32fast::hash(&front[SUMMED..]) == le32(front, 4)
}

fn checksum(raw: &[u8; HEADER], meta: &[u8], sums: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&raw[SUMMED..]);
    crc.update(meta);
    crc.update(sums);
    crc.finalize()
}

pub(super) fn le32(raw: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&raw[at..at + 4]);
    u32::from_le_bytes(bytes)
}

pub(super) fn le64(raw: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&raw[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_cut_after_the_head_and_then_every_4096_bytes() {
        let lens = |len, head| {
            chunks(&vec![1; len], head)
                .map(<[u8]>::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(lens(0, 0), [] as [usize; 0]);
        assert_eq!(lens(10, 4096), [10]);
        assert_eq!(lens(4096, 4096), [4096]);
        assert_eq!(lens(5000, 100), [100, 4096, 804]);
        for (len, head) in [
            (0, 0),
            (10, 4096),
            (4096, 4096),
            (4097, 4096),
            (5000, 100),
            (100, 100),
        ] {
            assert_eq!(
                lens(len, head).len(),
                chunk_count(len, head),
                "{len} {head}"
            );
        }
    }

    #[test]
    fn a_frame_header_reads_back_and_is_bound_to_its_place_and_segment() {
        let header = FrameHeader {
            salt: 7,
            lsn: Lsn(3),
            at: 4096,
            time: 5,
            wall: -6,
            durable: Lsn(2),
            installed: Lsn(1),
            epoch: Epoch(4),
            kind: Kind::Record,
            head: 100,
            meta_len: 3,
            data_len: 5000,
        };
        let sums = sums(&[9; 5000], 100);
        let raw = header.encode(b"abc", &sums);
        assert_eq!(FrameHeader::decode(&raw, 7, 4096), Some(header));
        assert_eq!(FrameHeader::decode(&raw, 8, 4096), None);
        assert_eq!(FrameHeader::decode(&raw, 7, 4104), None);
        let mut front = [&raw[..], b"abc", sums.as_flattened()].concat();
        assert_eq!(front.len(), header.front_len());
        assert!(front_is_whole(&front));
        for at in (4..front.len()).filter(|at| *at != 0) {
            front[at] ^= 1;
            assert!(!front_is_whole(&front), "byte {at}");
            front[at] ^= 1;
        }
    }
}

//! A segment: a store file, its index, and the header that says whose turn of
//! the file's life this is.
//!
//! The header, not the file's name, tells what a file holds: names change
//! when files are recycled, and after a power failure any of them may be the
//! old one. The salt is new at every use of a file, so that frames of an
//! earlier use never count.

use std::sync::{Arc, OnceLock};

use super::frame::{self, FrameHeader, Kind, PAGE, Sum, front_is_whole, le32, le64};
use super::index::{Entry, Index};
use super::store::Window;
use super::{Error, Result};
use crate::device::Disk;
use crate::units::{Epoch, Lsn, Time};

const MAGIC: [u8; 8] = *b"jfsegmnt";
pub const VERSION: u32 = 1;
const ENCODED: usize = 128;
/// The second copy of the header, in another sector of the first page.
const COPY: usize = 2048;

const NOT_THERE: &str = "there is another frame, or none, in its place";
const NOT_WHOLE: &str = "its bytes don't match its checksum";

/// First of the segments of an opening, others follow: alone it is no log yet.
pub(super) const OPENING: u32 = 1;
/// Nothing before this segment belongs to the log any more.
pub(super) const ANEW: u32 = 2;

/// What the first page of a store file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub epoch: Epoch,
    pub salt: u64,
    /// The first Lsn that may be in it.
    pub base: Lsn,
    /// The segment that holds the record before `base` (0: none), and where
    /// that record ends.
    pub before: u64,
    pub before_end: u64,
    /// The last record that the opening of this epoch had kept and synced
    /// before this header was written; 0 in segments begun later.
    pub kept: Lsn,
    pub durable: Lsn,
    pub installed: Lsn,
    /// When it was begun, in frame time and by the raw wall clock.
    pub time: i64,
    pub wall: i64,
    /// Bytes of the store file.
    pub size: u64,
    pub flags: u32,
}

/// Whether this is a header, of any version.
fn is_whole(raw: &[u8]) -> bool {
    raw[0..8] == MAGIC && le32(raw, 12) == crc32fast::hash(&raw[16..])
}

impl Header {
    /// The whole first page: two copies, each within one sector, so that
    /// damage to one sector doesn't lose a segment.
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = [0; ENCODED];
        raw[0..8].copy_from_slice(&MAGIC);
        raw[8..12].copy_from_slice(&VERSION.to_le_bytes());
        raw[16..20].copy_from_slice(&self.epoch.0.to_le_bytes());
        raw[20..24].copy_from_slice(&self.flags.to_le_bytes());
        let words = [
            self.salt,
            self.base.0,
            self.before,
            self.before_end,
            self.kept.0,
            self.durable.0,
            self.installed.0,
            self.time as u64,
            self.wall as u64,
            self.size,
        ];
        for (at, word) in words.iter().enumerate() {
            raw[24 + 8 * at..32 + 8 * at].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&raw[16..]);
        raw[12..16].copy_from_slice(&crc.to_le_bytes());
        let mut page = vec![0; PAGE as usize];
        page[..ENCODED].copy_from_slice(&raw);
        page[COPY..COPY + ENCODED].copy_from_slice(&raw);
        page
    }

    /// The header in a first page, by either copy.
    pub fn decode(page: &[u8]) -> Option<Header> {
        let copy = |at: usize| Self::decode_copy(page.get(at..at + ENCODED)?);
        copy(0).or_else(|| copy(COPY))
    }

    /// The format version of a header that is whole and of another one than
    /// ours.
    pub fn other_version(page: &[u8]) -> Option<u32> {
        let version = |at: usize| {
            let raw = page.get(at..at + ENCODED)?;
            Some(le32(raw, 8)).filter(|version| is_whole(raw) && *version != VERSION)
        };
        version(0).or_else(|| version(COPY))
    }

    fn decode_copy(raw: &[u8]) -> Option<Header> {
        if !is_whole(raw) || le32(raw, 8) != VERSION {
            return None;
        }
        let word = |at: usize| le64(raw, 24 + 8 * at);
        let header = Header {
            epoch: Epoch(le32(raw, 16)),
            flags: le32(raw, 20),
            salt: word(0),
            base: Lsn(word(1)),
            before: word(2),
            before_end: word(3),
            kept: Lsn(word(4)),
            durable: Lsn(word(5)),
            installed: Lsn(word(6)),
            time: word(7) as i64,
            wall: word(8) as i64,
            size: word(9),
        };
        let marks = header.installed.max(header.durable) < header.base;
        let sane = frame::is_sane(header.epoch, header.base) && header.kept < Lsn(1 << 62);
        let ours = header.salt != 0 && header.size <= frame::LONGEST;
        (sane && marks && ours).then_some(header)
    }

    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether the file that had this header has another one now.
    pub fn is_overwritten(&self, disk: &dyn Disk) -> bool {
        let mut page = vec![0; PAGE as usize];
        let read = disk.read_at(&mut page, 0).ok();
        let now = read.and_then(|()| Header::decode(&page));
        now.is_some_and(|now| now.salt != self.salt)
    }
}

/// What is in a segment, for people.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// The store file's name.
    pub name: String,
    /// First record.
    pub base: Lsn,
    /// Last record; before `base` when it holds none.
    pub last: Lsn,
    /// The opening of the log that wrote it.
    pub epoch: Epoch,
    /// The number that binds frames to this use of the file.
    pub salt: u64,
    /// What it is for now.
    pub state: SegmentState,
    /// When it was begun.
    pub begun: Time,
    /// The last record's time, if there is one.
    pub last_time: Option<Time>,
    /// Bytes of the store file.
    pub bytes: u64,
}

/// A segment's part in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Records are appended to it (in a survey: the newest).
    Active,
    /// Full or left behind; holds records that are still needed.
    Sealed,
    /// Wholly installed; kept until it is recycled.
    Installed,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its number.
    pub lsn: Lsn,
    /// The opening of the log in which it was made.
    pub epoch: Epoch,
    /// When it was made; never before an earlier record.
    pub time: Time,
    /// The raw wall clock then.
    pub wall: Time,
    /// Mark or record.
    pub kind: Kind,
    /// Its metadata.
    pub meta: Vec<u8>,
    /// Where its data lie, if it has any.
    pub data: Option<Place>,
    /// The highest Lsn that was known durable when it was written.
    pub durable: Lsn,
    /// The highest Lsn that was known installed when it was written.
    pub installed: Lsn,
}

/// A record where it was read, verified but for its data: to be looked at before
/// a [`Frame`] is made of it.
pub struct Seen<'a> {
    segment: &'a Arc<Segment>,
    header: FrameHeader,
    front: &'a [u8],
}

impl Seen<'_> {
    /// Mark or record.
    pub fn kind(&self) -> Kind {
        self.header.kind
    }
    /// Its metadata.
    pub fn meta(&self) -> &[u8] {
        &self.front[frame::HEADER..self.header.meta_end()]
    }
    /// The record to keep.
    pub fn frame(&self) -> Frame {
        self.segment.as_frame(&self.header, self.front)
    }
}

/// One use of a store file.
pub(super) struct Segment {
    pub header: Header,
    pub disk: Arc<dyn Disk>,
    pub index: Index,
}

impl Segment {
    /// The name that a segment of this base has, or is to get.
    pub fn store_name(base: Lsn) -> String {
        format!("{:020}.store", base.0)
    }
    pub fn index_name(base: Lsn) -> String {
        format!("{:020}.index", base.0)
    }
    /// The base in the name of a store or index file.
    pub fn base_in(name: &str) -> Option<Lsn> {
        let (base, rest) = name.split_at_checked(20)?;
        let digits = base.bytes().all(|byte| byte.is_ascii_digit());
        let of_segment = matches!(rest, ".store" | ".index") && digits;
        of_segment.then(|| base.parse().ok().map(Lsn))?
    }
    pub fn name(&self) -> String {
        Self::store_name(self.header.base)
    }
    /// The last record indexed; before `base` when there is none.
    pub fn last(&self) -> Lsn {
        Lsn(self.header.base.0 + self.index.len()).prev()
    }
    pub fn entry(&self, lsn: Lsn) -> Option<Entry> {
        self.index.get(lsn.since(self.header.base)?)
    }

    pub fn info(&self, last: Lsn, state: SegmentState) -> SegmentInfo {
        SegmentInfo {
            name: self.name(),
            base: self.header.base,
            last,
            epoch: self.header.epoch,
            salt: self.header.salt,
            state,
            begun: Time::from_nanos(self.header.time),
            last_time: self.entry(last).map(|entry| Time::from_nanos(entry.time)),
            bytes: self.header.size,
        }
    }

    /// Reads one record, verified but for its data, which [`Place::read`]
    /// verifies.
    pub fn read(self: &Arc<Self>, lsn: Lsn) -> Result<Frame> {
        let (header, front) = self.front(lsn)?;
        Ok(self.as_frame(&header, &front))
    }

    /// The same where it lies in a piece of the store in memory: for readers of
    /// many records that are all written already.
    pub fn see<'w>(self: &'w Arc<Self>, lsn: Lsn, window: &'w mut Window<'_>) -> Result<Seen<'w>> {
        let at = self.place(lsn)?;
        let header = match window
            .header(at, self.header.salt)
            .map_err(|e| self.io("read", e))?
        {
            Some(header) if header.lsn == lsn && header.end() <= window.len => header,
            _ => return Err(self.damaged(lsn, at, NOT_THERE)),
        };
        let front = window
            .get(at, header.front_len() as u64)
            .map_err(|e| self.io("read", e))?;
        match front {
            Some(front) if front_is_whole(front) => Ok(Seen {
                segment: self,
                header,
                front,
            }),
            _ => Err(self.damaged(lsn, at, NOT_WHOLE)),
        }
    }

    /// Its store, to be read by way of memory.
    pub fn window(&self) -> Result<Window<'_>> {
        Window::new(&*self.disk, self.header.size).map_err(|e| self.io("length", e))
    }

    /// Where a record's frame begins.
    pub fn place(&self, lsn: Lsn) -> Result<u64> {
        match self.entry(lsn) {
            None => Err(Error::Missing(lsn)),
            Some(hole @ Entry { offset: 0, .. }) => {
                let at = self.hole_at(&hole);
                Err(self.damaged(lsn, at, "its frame is missing or damaged"))
            }
            Some(entry) => Ok(entry.offset),
        }
    }

    /// Where the first frame of a hole should begin: an entry of a hole has the
    /// time of the frame before.
    fn hole_at(&self, hole: &Entry) -> u64 {
        let number = self.index.find_time(hole.time);
        match self.index.get(number).map_or(0, |before| before.offset) {
            0 => PAGE,
            at => match self.front(Lsn(self.header.base.0 + number)) {
                Err(_) => at,
                Ok((before, _)) => before.end(),
            },
        }
    }

    fn as_frame(self: &Arc<Self>, header: &FrameHeader, front: &[u8]) -> Frame {
        let meta_end = header.meta_end();
        let data = (header.data_len > 0).then(|| {
            let sums: Box<[Sum]> = front[meta_end..].as_chunks().0.into();
            Place(Arc::new(Payload {
                segment: self.clone(),
                lsn: header.lsn,
                offset: header.data_at(),
                len: header.data_len,
                head: header.head,
                sums: OnceLock::from(sums),
            }))
        });
        Frame {
            lsn: header.lsn,
            epoch: header.epoch,
            time: Time::from_nanos(header.time),
            wall: Time::from_nanos(header.wall),
            kind: header.kind,
            meta: front[frame::HEADER..meta_end].to_vec(),
            data,
            durable: header.durable,
            installed: header.installed,
        }
    }

    /// A record's header and all its bytes before the data, verified.
    pub fn front(&self, lsn: Lsn) -> Result<(FrameHeader, Vec<u8>)> {
        let at = self.place(lsn)?;
        let size = self.disk.len().map_err(|e| self.io("length", e))?;
        let room = size.saturating_sub(at);
        // Most frames are short: one read gets them whole.
        let mut front = vec![0; room.min(1024) as usize];
        self.disk
            .read_at(&mut front, at)
            .map_err(|e| self.io("read", e))?;
        let header = match front
            .first_chunk()
            .and_then(|raw| FrameHeader::decode(raw, self.header.salt, at))
        {
            Some(header) if header.lsn == lsn && header.len() <= room => header,
            _ => return Err(self.damaged(lsn, at, NOT_THERE)),
        };
        let have = front.len();
        front.resize(header.front_len(), 0);
        if let Some(rest) = front.get_mut(have..) {
            self.disk
                .read_at(rest, at + have as u64)
                .map_err(|e| self.io("read", e))?;
        }
        match front_is_whole(&front) {
            true => Ok((header, front)),
            false => Err(self.damaged(lsn, at, NOT_WHOLE)),
        }
    }

    /// A record isn't as it was written: damaged, or, if the file has a new
    /// header, recycled while an outside reader was at it.
    pub fn damaged(&self, lsn: Lsn, offset: u64, why: &'static str) -> Error {
        match self.header.is_overwritten(&*self.disk) {
            true => Error::Recycled(lsn),
            false => Error::Corrupt {
                lsn,
                segment: self.name(),
                offset,
                why,
            },
        }
    }

    pub fn io(&self, what: &str, source: std::io::Error) -> Error {
        Error::io(format!("{what} of segment {}", self.name()), source)
    }
}

/// How a place reads its disk: whether it could.
type ReadBy<'a> = &'a dyn Fn(&dyn Disk, &mut [u8], u64) -> std::io::Result<bool>;

/// Where a record's data lie. Holds its segment: while a `Place` lives, its
/// bytes are not recycled.
#[derive(Clone)]
pub struct Place(pub(super) Arc<Payload>);

pub(super) struct Payload {
    pub segment: Arc<Segment>,
    pub lsn: Lsn,
    pub offset: u64,
    pub len: u32,
    pub head: u16,
    /// Set when the frame is written.
    pub sums: OnceLock<Box<[Sum]>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({} bytes of record {})", self.0.len, self.0.lsn)
    }
}

impl Place {
    /// The record whose data these are.
    pub fn lsn(&self) -> Lsn {
        self.0.lsn
    }
    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.0.len as usize
    }
    /// Whether there are none. (There always are some.)
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }
    /// Length of the first chunk; the others are 4096 long.
    pub fn head(&self) -> usize {
        usize::from(self.0.head)
    }

    /// Fills `buf` from byte `from` of the data. Every chunk touched is
    /// verified; bytes outside the data are an assertion's matter.
    pub fn read(&self, from: usize, buf: &mut [u8]) -> Result<()> {
        let read = |disk: &dyn Disk, out: &mut [u8], at| disk.read_at(out, at).map(|()| true);
        self.read_by(&read, from, buf).map(drop)
    }

    /// The same without waiting for the medium; `false`: it would have to.
    pub fn read_ready(&self, from: usize, buf: &mut [u8]) -> Result<bool> {
        let read = |disk: &dyn Disk, out: &mut [u8], at| disk.read_ready_at(out, at);
        self.read_by(&read, from, buf)
    }

    fn read_by(&self, read: ReadBy<'_>, from: usize, buf: &mut [u8]) -> Result<bool> {
        let place = &*self.0;
        assert!(from + buf.len() <= self.len(), "read past a record's data");
        let Some(sums) = place.sums.get() else {
            return Err(Error::Missing(place.lsn));
        };
        let last = from + buf.len();
        // Of what is wanted, all chunks that are wanted whole end here.
        let whole = match last == self.len() {
            true => last,
            false => self.chunk_at(last).1,
        };
        let mut at = from;
        while at < last {
            let (_, start, end) = self.chunk_at(at);
            let stop = if at == start && at < whole {
                whole
            } else {
                end.min(last)
            };
            let out = &mut buf[at - from..stop - from];
            let ready = if at == start && at < whole {
                self.read_chunks(read, start, out, sums)?
            } else {
                let mut chunk = [0; frame::CHUNK];
                let chunk = &mut chunk[..end - start];
                let ready = self.read_chunks(read, start, chunk, sums)?;
                out.copy_from_slice(&chunk[at - start..stop - start]);
                ready
            };
            if !ready {
                return Ok(false);
            }
            at = stop;
        }
        Ok(true)
    }

    /// Number, start and end of the chunk that byte `at` lies in.
    fn chunk_at(&self, at: usize) -> (usize, usize, usize) {
        let head = self.head();
        match at.checked_sub(head) {
            None => (0, 0, head.min(self.len())),
            Some(behind) => {
                let start = head + behind / frame::CHUNK * frame::CHUNK;
                (
                    1 + behind / frame::CHUNK,
                    start,
                    (start + frame::CHUNK).min(self.len()),
                )
            }
        }
    }

    /// Fills `out`, which is as long as one chunk or several are, from where one
    /// starts.
    fn read_chunks(
        &self,
        read: ReadBy<'_>,
        start: usize,
        out: &mut [u8],
        sums: &[Sum],
    ) -> Result<bool> {
        let place = &*self.0;
        let at = |byte: usize| place.offset + byte as u64;
        let ready =
            read(&*place.segment.disk, out, at(start)).map_err(|e| place.segment.io("read", e))?;
        if !ready {
            return Ok(false);
        }
        let mut done = 0;
        while done < out.len() {
            let (number, start, end) = self.chunk_at(start + done);
            let chunk = &out[done..done + (end - start)];
            if sums.get(number) != Some(&crc32fast::hash(chunk).to_le_bytes()) {
                let why = "its data don't match their checksum";
                return Err(place.segment.damaged(place.lsn, at(start), why));
            }
            done += chunk.len();
        }
        Ok(true)
    }
}

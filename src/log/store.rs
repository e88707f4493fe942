//! Reading a store file from front to back: which frames of this use of the
//! file are whole, and what lies behind the first that is not.

use std::io;

use super::frame::{self, ALIGN, FrameHeader, MAGIC, PAGE, Sum, front_is_whole};
use super::index::Entry;
use super::segment::Header;
use crate::device::Disk;
use crate::units::{Epoch, Lsn};

/// No larger than what the processor keeps at hand.
const WINDOW: u64 = 256 << 10;

/// A piece of a store file in memory, moving forward.
pub(super) struct Window<'d> {
    disk: &'d dyn Disk,
    pub len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'d> Window<'d> {
    pub fn new(disk: &'d dyn Disk, size: u64) -> io::Result<Self> {
        Ok(Window {
            disk,
            len: disk.len()?.min(size),
            start: 0,
            bytes: Vec::new(),
        })
    }

    /// `len` bytes at `at`, or `None` past the end.
    pub fn get(&mut self, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let want = len.max(WINDOW).min(self.len - at);
            self.bytes.resize(want as usize, 0);
            self.start = at;
            self.disk
                .read_at(&mut self.bytes, at)
                .inspect_err(|_| self.bytes.clear())?;
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.get(from..from + len as usize))
    }

    /// A frame header of this salt at `at`, not yet verified.
    pub fn header(&mut self, at: u64, salt: u64) -> io::Result<Option<FrameHeader>> {
        let raw = self.get(at, frame::HEADER as u64)?;
        Ok(raw.and_then(|raw| FrameHeader::decode(raw.first_chunk()?, salt, at)))
    }

    /// The frame at `at`, whole but for its data.
    fn frame(&mut self, at: u64, salt: u64) -> io::Result<Option<FrameHeader>> {
        let Some(header) = self.header(at, salt)? else {
            return Ok(None);
        };
        if header.end() > self.len {
            return Ok(None);
        }
        let front = self.get(at, header.front_len() as u64)?;
        Ok(front.is_some_and(front_is_whole).then_some(header))
    }

    /// Whether a frame's data match their sums.
    fn data_is_whole(&mut self, header: &FrameHeader) -> io::Result<bool> {
        if header.data_len == 0 {
            return Ok(true);
        }
        let sums_at = header.data_at() - 4 * header.chunk_count() as u64;
        let Some(raw) = self.get(sums_at, 4 * header.chunk_count() as u64)? else {
            return Ok(false);
        };
        let sums: Vec<Sum> = raw.as_chunks().0.to_vec();
        let mut at = header.data_at();
        let mut left = u64::from(header.data_len);
        let mut len = u64::from(header.head).min(left);
        for sum in sums {
            match self.get(at, len)? {
                Some(chunk) if crc32fast::hash(chunk).to_le_bytes() == sum => {}
                _ => return Ok(false),
            }
            at += len;
            left -= len;
            len = left.min(frame::CHUNK as u64);
        }
        Ok(left == 0)
    }

    /// The next place from `at` on where a frame of this salt seems to begin.
    fn seek(&mut self, mut at: u64, salt: u64) -> io::Result<Option<u64>> {
        let salt = salt.to_le_bytes();
        loop {
            // What is in memory already first, so that a search that resumes
            // often doesn't read the same bytes again and again.
            let ready = (self.start + self.bytes.len() as u64).saturating_sub(at);
            let step = match at >= self.start && ready > frame::HEADER as u64 {
                true => ready,
                false => WINDOW.min(self.len.saturating_sub(at)),
            };
            let Some(bytes) = self.get(at, step)? else {
                return Ok(None);
            };
            if bytes.len() < frame::HEADER {
                return Ok(None);
            }
            let found = bytes
                .chunks_exact(ALIGN as usize)
                .zip(bytes[ALIGN as usize..].chunks_exact(ALIGN as usize))
                .position(|(first, second)| first[..4] == MAGIC && second == salt);
            if let Some(found) = found {
                return Ok(Some(at + found as u64 * ALIGN));
            }
            at += (step - frame::HEADER as u64)
                .next_multiple_of(ALIGN)
                .max(ALIGN);
        }
    }
}

/// What a reading of a segment found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// From the segment's base on; holes where a frame is missing and a later
    /// one is whole.
    pub entries: Vec<Entry>,
    /// Missing frames: the Lsn and where it should begin, one for each hole.
    pub holes: Vec<(Lsn, u64)>,
    /// Frames whose data are damaged, with their offset.
    pub spoilt: Vec<(Lsn, u64)>,
    /// The entries are a sealed index's: nothing was read.
    pub believed: bool,
    /// Where the last whole frame ends.
    pub end: u64,
    /// Something that was to be a frame begins behind the last whole one.
    pub torn_tail: bool,
    /// The highest marks of any whole frame.
    pub durable: Lsn,
    pub installed: Lsn,
}

impl Scan {
    pub fn next(&self, base: Lsn) -> Lsn {
        Lsn(base.0 + self.entries.len() as u64)
    }
    fn take(&mut self, header: &FrameHeader, base: Lsn) {
        let missing = header.lsn.0 - self.next(base).0;
        if missing > 0 {
            self.holes.push((self.next(base), self.end));
            let time = self.entries.last().map_or(0, |entry| entry.time);
            let hole = Entry {
                time,
                ..Entry::HOLE
            };
            self.entries
                .extend(std::iter::repeat_n(hole, missing as usize));
        }
        self.entries.push(Entry {
            offset: header.at,
            time: header.time,
        });
        self.end = header.end();
        self.durable = self.durable.max(header.durable);
        self.installed = self.installed.max(header.installed);
    }
}

/// Reads a segment's frames up to `through`; data of frames above
/// `installed` are verified too.
pub(super) fn scan(
    disk: &dyn Disk,
    segment: &Header,
    through: Lsn,
    installed: Lsn,
) -> io::Result<Scan> {
    let mut window = Window::new(disk, segment.size)?;
    let mut scan = Scan {
        end: PAGE,
        ..Scan::default()
    };
    // No more than fit: a hole's length is not taken on a frame's word alone.
    let fit = window.len / frame::HEADER as u64;
    let most = Lsn(segment.base.0 + fit).min(through);
    while scan.next(segment.base) <= most {
        let Some(header) = next_frame(&mut window, segment, &mut scan, most)? else {
            break;
        };
        scan.take(&header, segment.base);
        if header.lsn > installed && !window.data_is_whole(&header)? {
            scan.spoilt.push((header.lsn, header.at));
        }
    }
    Ok(scan)
}

/// The next whole frame: right behind the last one, at the next page (after
/// a sync), or, if the one that belongs there is damaged, anywhere behind.
fn next_frame(
    window: &mut Window,
    segment: &Header,
    scan: &mut Scan,
    most: Lsn,
) -> io::Result<Option<FrameHeader>> {
    let expected = scan.next(segment.base);
    let page = scan.end.next_multiple_of(PAGE);
    for at in [scan.end, page] {
        match window.frame(at, segment.salt)? {
            Some(header) if header.lsn == expected => return Ok(Some(header)),
            _ => {}
        }
    }
    let mut at = scan.end;
    while let Some(found) = window.seek(at, segment.salt)? {
        match window.frame(found, segment.salt)? {
            Some(header) if header.lsn >= expected && header.lsn <= most => {
                return Ok(Some(header));
            }
            Some(header) => at = header.end(),
            None => {
                // Only where a frame may begin: data may hold anything.
                let begins = found == scan.end || found == page;
                scan.torn_tail |= begins && window.header(found, segment.salt)?.is_some();
                at = found + ALIGN;
            }
        }
    }
    Ok(None)
}

/// What the frames in a file whose header can't be read say. Any salt will
/// do: such a file only bears witness, nothing is ever kept from it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Witness {
    pub durable: Lsn,
    pub last: Lsn,
    pub epoch: Epoch,
}

/// Hears the whole frames of `epoch` and later in a file without a header.
/// (Earlier ones are what the file held before it was recycled.)
pub(super) fn witness(disk: &dyn Disk, epoch: Epoch) -> io::Result<Witness> {
    let mut window = Window::new(disk, frame::LONGEST)?;
    let mut heard = Witness::default();
    let mut at = PAGE;
    while let Some(raw) = window.get(at, frame::HEADER as u64)? {
        if raw[..4] != MAGIC {
            at += ALIGN;
            continue;
        }
        let salt = frame::le64(raw, 8);
        match window.frame(at, salt)? {
            Some(header) => {
                if header.epoch >= epoch {
                    heard.durable = heard.durable.max(header.durable);
                    heard.last = heard.last.max(header.lsn);
                    heard.epoch = heard.epoch.max(header.epoch);
                }
                at = header.end();
            }
            None => at += ALIGN,
        }
    }
    Ok(heard)
}

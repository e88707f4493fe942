//! The tail: where the next frame goes.
//!
//! Everything here happens under one short lock: numbering, placing, and,
//! when a segment is full, going on in the next one. Going on doesn't wait:
//! the next segment's header and name are written but not synced; the next
//! sync covers the old segment, then the new one, then the folder.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::folder::{Spare, Spares};
use super::frame::{self, ALIGN, PAGE};
use super::index::{self, Entry, Index};
use super::segment::{Header, Segment};
use super::writeback::Idle;
use super::{Error, Inner, Options, Result};
use crate::units::{Epoch, Lsn};

/// So many bytes are read ahead.
const AHEAD: u64 = 128 << 10;

pub(super) struct Tail {
    pub active: Arc<Segment>,
    /// Where the next frame begins.
    pub offset: u64,
    /// Where the last frame ends.
    pub end: u64,
    pub appended: Lsn,
    /// The last frame's time.
    pub time: i64,
    /// Segments with bytes not yet synced, oldest first.
    pub unsynced: Vec<Arc<Segment>>,
    /// Segments that others have followed since the last sync.
    left: Vec<Arc<Segment>>,
    /// Bytes placed since the log was opened.
    pub placed: u64,
    /// What the host has not been made to write yet.
    pub idle: Idle,
    /// The active segment's pages up to here are in the host's cache, or will be.
    cached: u64,
    pub spares: Spares,
    /// Segments in use: the active one and those behind it.
    pub live: usize,
    /// Segments that spare frames may take: one more than there are after an
    /// opening that had much to copy, since a checkpoint must still be possible.
    most: usize,
}

/// Whose room a frame may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// An ordinary record's.
    Ordinary,
    /// What is kept for checkpoint, clean and mark records too.
    Spare,
    /// Whatever it takes to get room again.
    Cleaning,
}

/// A frame's number and place.
pub(super) struct Placed {
    pub segment: Arc<Segment>,
    pub lsn: Lsn,
    pub at: u64,
    pub time: i64,
    pub wall: i64,
    /// Pages of the segment to be read ahead.
    pub ahead: Option<Range<u64>>,
}

/// What a sync has to make durable.
pub(super) struct Batch {
    pub through: Lsn,
    pub placed: u64,
    pub segments: Vec<Arc<Segment>>,
    /// Segments that others have followed: the folder has names that a commit
    /// would depend on.
    pub left: Vec<Arc<Segment>>,
    /// The active segment's first record.
    pub active: Lsn,
}

impl Tail {
    pub fn new(
        active: Arc<Segment>,
        end: u64,
        appended: Lsn,
        time: i64,
        spares: Spares,
        live: usize,
    ) -> Tail {
        // The copied frames were synced: their last page is not touched again.
        let offset = end.next_multiple_of(PAGE);
        let unsynced = Vec::new();
        Tail {
            active,
            offset,
            end,
            appended,
            time,
            unsynced,
            left: Vec::new(),
            placed: 0,
            idle: Idle::behind(offset),
            cached: offset,
            spares,
            live,
            most: live + 1,
        }
    }

    /// Gives out what a sync has to cover, and moves the tail to a new page:
    /// no page that is about to be synced is ever written again, not even by
    /// a frame placed before the sync began.
    pub fn batch(&mut self) -> Batch {
        self.offset = self.end.next_multiple_of(PAGE);
        self.idle = Idle::behind(self.offset);
        Batch {
            through: self.appended,
            placed: self.placed,
            segments: std::mem::take(&mut self.unsynced),
            left: std::mem::take(&mut self.left),
            active: self.active.header.base,
        }
    }

    fn index_is_full(&self) -> bool {
        self.active.index.len() >= index::capacity(self.active.header.size)
    }

    fn fits(&self, len: u64) -> bool {
        self.offset + len <= self.active.header.size && !self.index_is_full()
    }

    /// Segments that may still be begun.
    fn allowance(&self, options: &Options, room: Room) -> u64 {
        let all = options.segments as usize;
        let most = match room {
            // One is kept for recovery.
            Room::Ordinary => all.saturating_sub(1),
            Room::Spare => all.max(self.most),
            Room::Cleaning => all.max(self.most) + 1,
        };
        most.saturating_sub(self.live) as u64
    }

    /// Bytes that ordinary frames can still take; page alignment and what is
    /// left over at the ends of segments come off this.
    pub fn room(&self, options: &Options) -> u64 {
        let here = self.active.header.size.saturating_sub(self.offset);
        let ahead = self.allowance(options, Room::Ordinary) * options.capacity();
        let here = if self.index_is_full() { 0 } else { here };
        (here + ahead).saturating_sub(options.spare_room())
    }

    fn check_room(&self, options: &Options, len: u64, room: Room) -> Result<()> {
        let allowance = self.allowance(options, room);
        let left = match self.fits(len) {
            true => allowance * options.capacity() + (self.active.header.size - self.offset - len),
            false if allowance == 0 => return Err(Error::Full),
            false => (allowance - 1) * options.capacity() + (options.capacity() - len),
        };
        if room != Room::Ordinary || left >= options.spare_room() {
            Ok(())
        } else {
            Err(Error::Full)
        }
    }

    /// Places a frame of this shape and numbers it.
    pub fn place(&mut self, log: &Inner, len: u64, room: Room) -> Result<Placed> {
        let max = log.options.capacity();
        if len > max {
            return Err(Error::TooLarge { len, max });
        }
        self.check_room(&log.options, len, room)?;
        if !self.fits(len) {
            self.rotate(log, room)?;
        }
        let wall = log.options.clock.wall().as_nanos();
        self.time = self.time.saturating_add(1).max(wall);
        self.appended = self.appended.next();
        let at = self.offset;
        debug_assert!(at.is_multiple_of(ALIGN) && at >= PAGE);
        let entry = Entry {
            offset: at,
            time: self.time,
        };
        self.active.index.push(entry);
        self.offset += len;
        self.end = self.offset;
        self.placed += len;
        if !self
            .unsynced
            .last()
            .is_some_and(|segment| Arc::ptr_eq(segment, &self.active))
        {
            self.unsynced.push(self.active.clone());
        }
        Ok(Placed {
            segment: self.active.clone(),
            lsn: self.appended,
            at,
            time: self.time,
            wall,
            ahead: self.read_ahead(len),
        })
    }

    /// What comes soon and may not be in the host's cache: of a page that is not,
    /// and of which a frame takes a part, the host reads the rest before it takes
    /// the frame. Behind a long frame, which others like it may follow, that is one
    /// page: what they take whole need not be read.
    fn read_ahead(&mut self, len: u64) -> Option<Range<u64>> {
        if self.end + AHEAD / 2 <= self.cached {
            return None;
        }
        let from = self.cached.max(self.end / PAGE * PAGE);
        let most = if len < AHEAD { AHEAD } else { PAGE };
        let to = (from + most).min(self.active.header.size);
        self.cached = to;
        (from < to).then_some(from..to)
    }

    /// Goes on in the next segment. Fails harmlessly when the host has no
    /// room for another file; finally when a header can't be written, since
    /// two headers might then claim the same place.
    fn rotate(&mut self, log: &Inner, room: Room) -> Result<()> {
        let leave = if room == Room::Ordinary { 1 } else { 0 };
        let next = self.spares.take(&*log.dir, log.options.segment_size, leave);
        let next = next.and_then(|spare| self.name(log, spare));
        let next = next.map_err(|e| if e.host_is_full() { Error::Full } else { e })?;
        self.begin(log, next).inspect_err(|e| log.die(e))
    }

    /// Names come first: if that fails nothing has happened, since no name is
    /// believed without a header.
    fn name(&mut self, log: &Inner, spare: Spare) -> Result<Spare> {
        let base = self.appended.next();
        let (old, new) = (Spare::store_name(spare.number), Segment::store_name(base));
        if let Err(e) = log.dir.rename(&old, &new) {
            self.spares.ready.push(spare);
            return Err(Error::io_on("renaming", &old)(e));
        }
        Ok(spare)
    }

    fn begin(&mut self, log: &Inner, spare: Spare) -> Result<()> {
        let base = self.appended.next();
        let wall = log.options.clock.wall().as_nanos();
        let header = Header {
            epoch: log.epoch,
            salt: salt(&log.options, log.epoch, base, wall),
            base,
            before: self.active.header.salt,
            before_end: self.end,
            kept: Lsn(0),
            installed: log.installed(),
            durable: log.durable(),
            time: self.time,
            wall,
            size: log.options.segment_size,
            flags: 0,
        };
        let name = Segment::store_name(base);
        spare
            .disk
            .write_at(&header.encode(), 0)
            .map_err(Error::io_on("write", &name))?;
        let segment = Arc::new(Segment {
            header,
            disk: spare.disk,
            index: Index::default(),
        });
        log.chain.write().insert(base, segment.clone());
        self.unsynced.push(segment.clone());
        self.live += 1;
        let left = std::mem::replace(&mut self.active, segment);
        self.idle.leave(&left.disk, self.end);
        self.left.push(left);
        (self.offset, self.end, self.cached) = (PAGE, PAGE, PAGE);
        Ok(())
    }
}

/// A new salt: never used before in this folder.
pub(super) fn salt(options: &Options, epoch: Epoch, base: Lsn, wall: i64) -> u64 {
    let drawn = match options.seed {
        0 => std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish(),
        seed => seed,
    };
    let mut mixed = drawn;
    for part in [u64::from(epoch.0), base.0, wall as u64] {
        mixed = scramble(mixed ^ scramble(part));
    }
    mixed.max(1)
}

/// SplitMix64's finishing step: every bit of the input stirs all of the output.
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Options {
    /// Bytes for frames in a segment.
    pub(super) fn capacity(&self) -> u64 {
        self.segment_size - PAGE
    }
    /// Bytes that only checkpoint, mark and clean records may use.
    pub(super) fn spare_room(&self) -> u64 {
        (self.capacity() / 3).min(64 << 10)
    }
    pub(super) fn check(&self) -> Result<()> {
        let size = self.segment_size;
        let sane = size.is_multiple_of(PAGE)
            && (64 << 10..=frame::LONGEST).contains(&size)
            && self.segments >= 4;
        match sane {
            true => Ok(()),
            false => Err(Error::Options {
                segment_size: size,
                segments: self.segments,
            }),
        }
    }
}

/// The length that a frame of this shape takes.
pub(super) fn length(meta_len: usize, data_len: usize, head: u32) -> Result<u64> {
    let len = frame::frame_len(meta_len, data_len, head as usize);
    match (u32::try_from(meta_len), u32::try_from(data_len)) {
        (Ok(_), Ok(_)) => Ok(len),
        _ => Err(Error::TooLarge {
            len,
            max: u64::from(u32::MAX),
        }),
    }
}

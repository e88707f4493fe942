//! The log: numbered, timed, checksummed records in segments.
//!
//! It knows nothing of blocks. A record is a *frame*: metadata bytes (summed
//! by the frame's CRC) and data bytes (summed per 4 KiB, so that a reader can
//! verify any piece). Writing goes in two steps, so that only the first needs
//! the caller's lock: [`Log::reserve`] gives a record its Lsn and its place,
//! [`Slot::write`] copies it there.
//!
//! ```text
//!     | installed      | durable   | written   | appended
//!     0 ..................................................... Lsn
//! ```
//! Always: installed <= durable <= written <= appended. (Installed: what the
//! user of the log has put where it belongs and no longer needs from here.)
//!
//! A log is read by a [`Survey`], which never writes, and becomes a [`Log`]
//! by [`Survey::open`]. FORMAT.md has every byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::device::Dir;
use crate::device::writeback::UnderWay;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::units::{Clock, Epoch, Lsn, Time};

mod clean;
mod folder;
mod frame;
mod index;
mod keep;
mod lost;
mod open;
mod reader;
mod segment;
mod slot;
mod store;
mod survey;
mod tail;
#[cfg(test)]
mod tests;
mod writeback;

pub use frame::{Kind, lsn_of};
pub use keep::{Found, Keeper, Sealed, found, found_in, index_agrees, read_in};
pub use open::Retell;
pub use reader::Reader;
pub use segment::{Frame, Place, Seen, SegmentInfo, SegmentState};
pub use slot::Slot;
pub use survey::{Bad, Beyond, SpareInfo, Survey, Verdict};

use segment::Segment;
use tail::Tail;

/// What went wrong in the log.
#[derive(Debug, thiserror::Error, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The host's word (shared, since every waiter gets it).
        source: Arc<std::io::Error>,
    },
    /// A record that was durable once can't be read.
    #[error("record {lsn} is damaged: {why} (segment {segment}, offset {offset})")]
    Corrupt {
        /// Which record.
        lsn: Lsn,
        /// The segment's file name.
        segment: String,
        /// Byte offset in the store file.
        offset: u64,
        /// What does not hold.
        why: &'static str,
    },
    /// The record has been recycled (read of an Lsn at or below `installed`).
    #[error("record {0} has been recycled meanwhile")]
    Recycled(Lsn),
    /// There is no such record yet.
    #[error("there is no record {0}")]
    Missing(Lsn),
    /// No room for the record until older ones are installed.
    #[error("the journal is full")]
    Full,
    /// The record is larger than a segment can hold.
    #[error("a record of {len} bytes does not fit into a segment ({max} bytes)")]
    TooLarge {
        /// The record's length in bytes.
        len: u64,
        /// The largest that fits.
        max: u64,
    },
    /// A log can't be kept like that.
    #[error(
        "{segments} segments of {segment_size} bytes: at least 4, of 64 KiB to 1 GiB in whole pages"
    )]
    Options {
        /// Bytes of a segment.
        segment_size: u64,
        /// How many.
        segments: u32,
    },
    /// Another version of journalfs made it.
    #[error(
        "segment {segment} has format version {version}, this journalfs knows {}: use the one that made it, to recover the image at least",
        segment::VERSION
    )]
    Version {
        /// The segment's file name.
        segment: String,
        /// Its format version.
        version: u32,
    },
    /// An earlier write or sync failed; that is final.
    #[error("the journal has stopped after an earlier error: {0}")]
    Dead(Arc<str>),
}

impl Error {
    fn io(what: String, source: std::io::Error) -> Error {
        Error::Io {
            what,
            source: Arc::new(source),
        }
    }
    /// Whether the host has no space left, which older records' files may give.
    fn host_is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
    fn io_on(what: &str, name: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let what = format!("{what} of {name}");
        move |source| Error::io(what, source)
    }
}

/// A log's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Proof that every record up to this one is on stable storage. Only a sync
/// of the log (or the survey of what an earlier one left) makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable(Lsn);

impl Durable {
    /// The last durable record.
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// How a log is kept.
#[derive(Clone)]
pub struct Options {
    /// Bytes of a segment's store file, a multiple of 4096 (64 KiB to 1 GiB).
    pub segment_size: u64,
    /// How many segments there may be, spares included (at least 4).
    pub segments: u32,
    /// The time given to records.
    pub clock: Arc<dyn Clock>,
    /// Seed of salts: 0 draws them from the host's randomness; simulation
    /// passes its own, another at every opening, so that runs repeat.
    pub seed: u64,
    /// Who gets segments before they are overwritten.
    pub keeper: Option<Arc<dyn Keeper>>,
}

/// How far the log has come; see the module's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The user of the log needs nothing up to here any more.
    pub installed: Lsn,
    /// On stable storage.
    pub durable: Lsn,
    /// In the host's page cache, without a gap.
    pub written: Lsn,
    /// Numbered.
    pub appended: Lsn,
}

/// A log that is open for appending. Clones are handles to the same log.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    dir: Arc<dyn Dir>,
    options: Options,
    epoch: Epoch,
    tail: Mutex<Tail>,
    /// Segments by base, the active one last. Lock order: under_way, syncing,
    /// cleaning, tail, chain.
    chain: RwLock<BTreeMap<Lsn, Arc<Segment>>>,
    progress: Mutex<Progress>,
    advanced: Condvar,
    written: AtomicU64,
    durable: AtomicU64,
    installed: AtomicU64,
    /// `Tail::placed` as of the last sync.
    synced: AtomicU64,
    /// `Tail::placed` up to which all has reached the disk, flushed or not.
    on_disk: AtomicU64,
    under_way: Mutex<UnderWay>,
    /// The base of the segment whose name has been synced ahead.
    names_ahead: AtomicU64,
    syncing: Mutex<()>,
    cleaning: Mutex<clean::Installs>,
    dead: OnceLock<Arc<str>>,
}

/// Which frames are written.
struct Progress {
    /// Up to here without a gap.
    written: Lsn,
    /// Those beyond a gap.
    ahead: BTreeSet<Lsn>,
    waiters: usize,
}

impl Log {
    fn new(
        dir: Arc<dyn Dir>,
        options: Options,
        epoch: Epoch,
        tail: Tail,
        chain: BTreeMap<Lsn, Arc<Segment>>,
        installed: Lsn,
    ) -> Log {
        let last = tail.appended;
        Log(Arc::new(Inner {
            dir,
            options,
            epoch,
            tail: Mutex::new(tail),
            chain: RwLock::new(chain),
            progress: Mutex::new(Progress {
                written: last,
                ahead: BTreeSet::new(),
                waiters: 0,
            }),
            advanced: Condvar::new(),
            written: AtomicU64::new(last.0),
            durable: AtomicU64::new(last.0),
            installed: AtomicU64::new(installed.0),
            synced: AtomicU64::new(0),
            on_disk: AtomicU64::new(0),
            under_way: Mutex::default(),
            names_ahead: AtomicU64::new(0),
            syncing: Mutex::new(()),
            cleaning: Mutex::new(clean::Installs::recorded(installed)),
            dead: OnceLock::new(),
        }))
    }

    /// This opening's epoch.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// Where the log stands.
    pub fn watermarks(&self) -> Watermarks {
        // Lowest first: each is read before it can be overtaken.
        let installed = self.0.installed();
        let durable = self.0.durable();
        let written = self.0.written();
        let appended = self.0.tail.lock().appended;
        Watermarks {
            installed,
            durable,
            written,
            appended,
        }
    }

    /// Why the log has stopped, if it has.
    pub fn dead(&self) -> Option<Arc<str>> {
        self.0.dead.get().cloned()
    }

    /// Reads a record that has been written.
    pub fn read(&self, lsn: Lsn) -> Result<Frame> {
        if lsn > self.0.written() {
            return Err(Error::Missing(lsn));
        }
        self.0.segment_of(lsn)?.read(lsn)
    }

    /// The oldest record that still can be read (or will be the first).
    pub fn first(&self) -> Lsn {
        self.0.chain.read().keys().next().copied().unwrap_or(Lsn(1))
    }

    /// Records from `from` (or the first that still exists) up to those
    /// written now.
    pub fn frames(&self, from: Lsn) -> Frames<'_> {
        let from = from.max(self.first()).max(Lsn(1));
        let numbers = (from.0..=self.0.written().0).map(Lsn);
        Frames::new(numbers, |lsn| self.read(lsn))
    }

    /// The first written record made at or after `time`.
    pub fn find_time(&self, time: Time) -> Option<Lsn> {
        let written = self.0.written();
        let chain = self.0.chain.read();
        find_time(chain.values(), time, written)
    }

    /// The segments in use, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let installed = self.0.installed();
        let chain = self.0.chain.read();
        let newest = chain.keys().next_back().copied();
        let state = |segment: &Segment| match segment.header.base {
            base if Some(base) == newest => SegmentState::Active,
            _ if segment.last() <= installed => SegmentState::Installed,
            _ => SegmentState::Sealed,
        };
        chain
            .values()
            .map(|segment| segment.info(segment.last(), state(segment)))
            .collect()
    }
}

impl Inner {
    fn written(&self) -> Lsn {
        Lsn(self.written.load(Ordering::Acquire))
    }
    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }
    fn installed(&self) -> Lsn {
        Lsn(self.installed.load(Ordering::Acquire))
    }

    fn segment_of(&self, lsn: Lsn) -> Result<Arc<Segment>> {
        let chain = self.chain.read();
        match chain.range(..=lsn).next_back() {
            Some((_, segment)) => Ok(segment.clone()),
            None => Err(Error::Recycled(lsn)),
        }
    }

    /// Stops the log for good. The first reason stays.
    fn die(&self, why: &dyn std::fmt::Display) {
        let why: Arc<str> = why.to_string().into();
        let _ = self.dead.set(why);
        // Under the lock, or a waiter could miss it between look and wait.
        let _progress = self.progress.lock();
        self.advanced.notify_all();
    }

    fn alive(&self) -> Result<()> {
        match self.dead.get() {
            None => Ok(()),
            Some(why) => Err(Error::Dead(why.clone())),
        }
    }
}

/// The first record up to `last` made at or after `time`: the segment by its
/// first record, then a binary search in its index.
fn find_time<'s>(
    segments: impl Iterator<Item = &'s Arc<Segment>>,
    time: Time,
    last: Lsn,
) -> Option<Lsn> {
    let time = time.as_nanos();
    let mut holding = None;
    for segment in segments.filter(|segment| segment.index.len() > 0) {
        let begins_before = segment.index.get(0).is_some_and(|first| first.time < time);
        if begins_before || holding.is_none() {
            holding = Some(segment);
        }
        if !begins_before {
            break;
        }
    }
    let segment = holding?;
    // Past this segment's end it is the next one's first.
    let found = Lsn(segment.header.base.0 + segment.index.find_time(time));
    (found <= last).then_some(found)
}

/// Reads records in order.
pub struct Frames<'a> {
    numbers: Box<dyn Iterator<Item = Lsn> + 'a>,
    read: Box<dyn FnMut(Lsn) -> Result<Frame> + 'a>,
}

impl<'a> Frames<'a> {
    fn new(
        numbers: impl Iterator<Item = Lsn> + 'a,
        read: impl FnMut(Lsn) -> Result<Frame> + 'a,
    ) -> Self {
        Frames {
            numbers: Box::new(numbers),
            read: Box::new(read),
        }
    }
}

impl Frames<'_> {
    /// The next record with its number, which is known also of one that can't
    /// be read.
    pub fn next_numbered(&mut self) -> Option<(Lsn, Result<Frame>)> {
        self.numbers.next().map(|lsn| (lsn, (self.read)(lsn)))
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Frame>;
    fn next(&mut self) -> Option<Self::Item> {
        self.next_numbered().map(|(_, frame)| frame)
    }
}

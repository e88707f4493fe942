//! The journal: transactions on blocks, recorded before they go home.
//!
//! A [`Txn`] holds the one writer's guard, collects changed blocks, and on
//! commit becomes one record of the log: a logical header ([`Op`]: what
//! happened, enough to do it again) and a physical redo (which bytes of which
//! blocks). A [`View`] reads the state after the last commit.
//!
//! ```text
//!     | home           | durable     | written    | appended
//!     0 ........... checkpoint ............................ Lsn
//! ```
//! A record's changes are seen at once, its frame is *written* when the commit
//! returns, *durable* after a sync, and *home* after a checkpoint. A block
//! goes home only when every record that changed it is durable, and a record
//! that proves so is durable too.
//!
//! Nothing here starts a thread: [`Journal::sync`], [`Journal::checkpoint`]
//! and [`Journal::tick`] are plain calls, so that a simulation can make them
//! itself; a mount has a [`Background`] make them.

use std::sync::Arc;
use std::sync::OnceLock;

use crate::device::Disk;
use crate::log::{Log, Place, Watermarks};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::units::{BlockNo, Clock, HostClock, Lsn};

pub mod archive;
mod background;
mod block;
pub mod blocks;
mod cache;
mod checkpoint;
mod codec;
mod commit;
mod discard;
mod names;
pub mod past;
mod paths;
mod places;
pub mod ranges;
pub mod ready;
pub mod record;
mod recover;
pub mod redo;
mod retell;
mod room;
mod scrub;
mod txn;
mod view;

pub use archive::Archive;
pub use background::Background;
pub use block::Block;
pub use blocks::BlockIndex;
pub use codec::Flaw;
pub use commit::OnDurable;
pub use discard::{FreeRuns, OnTrimmed};
pub use names::Names;
pub use past::{Again, Ground, Past};
pub use record::{Op, Record};
pub use recover::{Heading, Replay, Report, Unrecovered, replay};
pub use scrub::{Mismatch, Scrub};
pub use txn::Txn;
pub use view::{Gather, View};

use cache::{Clean, State};

/// Whoever can read blocks of the image as of some moment: a [`View`], a
/// [`Txn`] (its own changes included), or a checker's plain image.
pub trait Blocks {
    /// Bytes of a block: 1024, 2048 or 4096.
    fn block_size(&self) -> usize;
    /// The block's bytes.
    fn block(&self, block: BlockNo) -> Result<Block>;
    /// Fills `buf` from byte `offset` of a block on, and from the blocks that
    /// follow it if `buf` is longer: for file data, which should not push
    /// metadata out of the cache.
    fn read(&self, block: BlockNo, offset: usize, buf: &mut [u8]) -> Result<()> {
        let size = self.block_size();
        let (mut at, mut offset, mut buf) = (block, offset, buf);
        while !buf.is_empty() {
            let (now, rest) = buf.split_at_mut((size - offset).min(buf.len()));
            now.copy_from_slice(&self.block(at)?[offset..offset + now.len()]);
            (at, offset, buf) = (BlockNo(at.0 + 1), 0, rest);
        }
        Ok(())
    }
}

/// What went wrong in the journal.
#[derive(Debug, thiserror::Error, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The host failed on the image.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The host's word.
        source: Arc<std::io::Error>,
    },
    /// The log's own error.
    #[error(transparent)]
    Log(crate::log::Error),
    /// A block number past the end of the image.
    #[error("block {block} lies outside the image ({blocks} blocks)")]
    Outside {
        /// The block.
        block: BlockNo,
        /// Blocks of the image.
        blocks: u64,
    },
    /// A record's bytes make no sense.
    #[error("record {lsn}: {why}")]
    Corrupt {
        /// Which record.
        lsn: Lsn,
        /// What does not hold.
        why: Flaw,
    },
    /// The image is not the one that the last checkpoint wrote.
    #[error(
        "block {block} of the image is not as checkpoint {checkpoint} left it: {}",
        blame(*.same, *.differ)
    )]
    Stale {
        /// The block that differs.
        block: BlockNo,
        /// The checkpoint's record.
        checkpoint: Lsn,
        /// Of the blocks looked at, how many are as they were,
        same: usize,
        /// and how many are not.
        differ: usize,
    },
    /// A transaction that should have gone in steps.
    #[error("a record of {len} bytes is longer than the journal takes ({limit})")]
    TooLarge {
        /// Bytes of the record.
        len: usize,
        /// The most that it may have.
        limit: usize,
    },
    /// No room in the log before a checkpoint: park the request and try again.
    #[error("the journal is full until a checkpoint has been made")]
    Full,
    /// The host gives the log no space, and no checkpoint can.
    #[error("the journal's host has no space left")]
    HostFull,
    /// A disk would have to be waited for, and [`ready`] forbids it.
    #[error("a disk would have to be waited for")]
    Lacking,
    /// The image's host can't give space back.
    #[error("the image's host can't discard")]
    CantDiscard,
    /// Opened for reading only, or stopped by an earlier error.
    #[error("read-only: {0}")]
    ReadOnly(Arc<str>),
}

/// Of another copy most blocks differ.
fn blame(same: usize, differ: usize) -> String {
    match same > differ {
        true => format!(
            "{same} others that were looked at are, so that it is damaged, or others wrote to the image meanwhile"
        ),
        false => "the image is another copy than the journal's, or it was written to meanwhile"
            .to_owned(),
    }
}

impl From<crate::log::Error> for Error {
    fn from(error: crate::log::Error) -> Self {
        Error::Log(error)
    }
}

/// A journal's result.
pub type Result<T> = std::result::Result<T, Error>;

/// How a journal is kept.
#[derive(Clone)]
pub struct Options {
    /// Bytes of a block of the image.
    pub block_size: usize,
    /// The block that no checkpoint writes home (the superblock's).
    pub pinned: Option<BlockNo>,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Segments, spares included; below 6 of them there is hardly room to
    /// write while a checkpoint runs.
    pub segments: u32,
    /// Bytes of memory for blocks: half for clean ones; when changed ones
    /// take the other half, a checkpoint is due, and at the whole of it
    /// writers wait for one.
    pub cache_size: usize,
    /// Seconds until unsynced records are synced without being asked.
    pub commit_seconds: u32,
    /// Seconds until changed blocks are written home without need.
    pub checkpoint_seconds: u32,
    /// Whether the host gets back the space of freed blocks.
    pub discard: bool,
    /// Times of records.
    pub clock: Arc<dyn Clock>,
    /// Seed of salts (0: the host's randomness).
    pub seed: u64,
    /// Where history goes that the journal has no room for.
    pub archive: Option<Arc<Archive>>,
}

impl Options {
    /// Sensible values for an image of `image_len` bytes: a quarter of it for
    /// the journal, 32 to 512 MiB.
    pub fn for_image(image_len: u64, block_size: usize) -> Self {
        let capacity = (image_len / 4).clamp(32 << 20, 512 << 20);
        let segment_size = Options::segment_size(capacity).clamp(4 << 20, 64 << 20);
        Options {
            block_size,
            pinned: None,
            segment_size,
            segments: (capacity / segment_size) as u32,
            cache_size: 128 << 20,
            commit_seconds: 5,
            checkpoint_seconds: 30,
            discard: false,
            clock: Arc::new(HostClock),
            seed: 0,
            archive: None,
        }
    }

    /// Bytes of a segment, of which eight make a journal: whole pages, whatever
    /// its size.
    pub fn segment_size(capacity: u64) -> u64 {
        (capacity / 8) & !4095
    }

    fn log(&self) -> crate::log::Options {
        crate::log::Options {
            segment_size: self.segment_size,
            segments: self.segments,
            clock: self.clock.clone(),
            seed: self.seed,
            keeper: self
                .archive
                .clone()
                .map(|archive| archive as Arc<dyn crate::log::Keeper>),
        }
    }

    /// The largest record: a write of 1 MiB fits with its metadata, and no
    /// more than half a segment is wasted for one.
    fn limit(&self) -> usize {
        (self.segment_size / 2).min(2 << 20) as usize
    }
}

/// The journal of one image. A handle: clones share it.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    image: Arc<dyn Disk>,
    /// Whole blocks of the image.
    blocks: u64,
    options: Options,
    keep: Keep,
    /// The guard: shared by views, held alone by the one transaction.
    state: RwLock<State>,
    clean: Clean,
    /// One block of zeros for all that a replay finds to be so: a record names
    /// each in nine bytes, and must not take a block's memory for them.
    zeros: Block,
    /// Whose session it is, repeated by each checkpoint.
    session: Mutex<record::Session>,
    /// One checkpoint at a time.
    checkpointing: Mutex<()>,
    /// Log space promised to transactions that have begun.
    promised: AtomicU64,
    /// The log has refused a record for which there should be room (a full
    /// host): nobody tries again before something was done about it.
    crowded: AtomicBool,
    /// Rounds of cleaning since the log last had room for a record.
    in_vain: AtomicUsize,
    /// Room that there was after the last checkpoint.
    roomy: AtomicU64,
    /// Copies of what the guard protects, to be looked at without it: memory
    /// held by changed blocks, and the last record.
    held: AtomicUsize,
    last: AtomicU64,
    /// Bytes written to the image.
    written_home: AtomicU64,
    /// Checkpoints that have begun.
    checkpoints: AtomicU64,
    /// Blocks as of this record may be on their way home.
    going_home: AtomicU64,
    /// No more operations: the session is about to end.
    closing: AtomicBool,
    waiting: commit::Waiting,
    /// Why it takes no more changes.
    stopped: OnceLock<Arc<str>>,
    /// Where records get the paths of inodes from.
    namer: OnceLock<Namer>,
    /// Where records get the names of programs from.
    programs: OnceLock<Programs>,
    /// Who is told of each operation.
    observer: OnceLock<Observer>,
    /// Who knows which blocks are free.
    free_runs: OnceLock<FreeRuns>,
    /// The image's host can't discard.
    keeps_all: AtomicBool,
}

/// Gives an inode's full path.
pub type Namer = Box<dyn Fn(&dyn Blocks, crate::units::InodeNo) -> Option<Vec<u8>> + Send + Sync>;

/// Gives the name of what a process runs; asked for each record, so it must be
/// quick.
pub type Programs = Box<dyn Fn(u32) -> Option<Vec<u8>> + Send + Sync>;

/// Told of each operation with its data, in the order of records, when it has
/// its number and before anyone sees it; must be quick and not come back to
/// the journal.
pub type Observer = Box<dyn Fn(Lsn, &Op, &[u8]) + Send + Sync>;

/// What records are kept in.
enum Keep {
    /// Nothing: for tests of what lies above.
    Scratch,
    /// The log.
    Log(Log),
    /// They were replayed into memory, and that is all.
    Memory,
}

impl Journal {
    fn new(image: Arc<dyn Disk>, options: Options, keep: Keep, state: State) -> Result<Self> {
        let len = image.len().map_err(|e| image_error("length", e))?;
        let last = state.last.0;
        let clean = Clean::with_capacity(options.cache_size / 2 / options.block_size);
        Ok(Journal(Arc::new(Inner {
            image,
            blocks: len / options.block_size as u64,
            zeros: vec![0; options.block_size].into(),
            options,
            keep,
            state: RwLock::new(state),
            clean,
            session: Mutex::default(),
            checkpointing: Mutex::default(),
            promised: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            in_vain: AtomicUsize::new(0),
            roomy: AtomicU64::new(u64::MAX),
            held: AtomicUsize::new(0),
            last: AtomicU64::new(last),
            written_home: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            going_home: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            waiting: commit::Waiting::default(),
            stopped: OnceLock::new(),
            namer: OnceLock::new(),
            programs: OnceLock::new(),
            observer: OnceLock::new(),
            free_runs: OnceLock::new(),
            keeps_all: AtomicBool::new(false),
        })))
    }

    /// A journal without a log, for tests of what lies above.
    pub fn scratch(image: Arc<dyn Disk>, block_size: usize) -> Self {
        let options = Options::for_image(0, block_size);
        Self::new(image, options, Keep::Scratch, State::default()).expect("the image has a length")
    }

    /// An image without records, for reading only.
    pub fn read_only(image: Arc<dyn Disk>, options: Options) -> Result<Self> {
        Self::new(image, options, Keep::Memory, State::default())
    }

    /// Writes everything home (scratch only; elsewhere a checkpoint does).
    pub fn flush(&self) -> Result<()> {
        let state = self.0.state.read();
        checkpoint::write_home(&self.0, &state.dirty).map(drop)
    }

    /// The log's segments, for people; none without a log.
    pub fn segments(&self) -> Vec<crate::log::SegmentInfo> {
        match &self.0.keep {
            Keep::Log(log) => log.segments(),
            Keep::Scratch | Keep::Memory => Vec::new(),
        }
    }

    /// Begins an operation. [`Error::Full`] when the log has no room for it
    /// now: this never waits for a disk. A thread must not hold a view when it
    /// calls this.
    pub fn begin(&self) -> Result<Txn<'_>> {
        self.begin_with(0)
    }

    /// The same for one that brings so many bytes of data: large ones wait, beside
    /// fsyncs, until the disk has kept up.
    pub fn begin_with(&self, data: usize) -> Result<Txn<'_>> {
        let promise = self.0.promise(data)?;
        let txn = Txn::new(&self.0, promise);
        // Once more, now under the guard: whoever waited for it while the
        // session began to end would change what has been settled.
        self.0.open_for_changes()?;
        Ok(txn)
    }

    /// The largest record, in bytes.
    pub fn limit(&self) -> usize {
        self.0.options.limit()
    }

    /// A view for reading; one at a time in a thread, since a waiting writer
    /// comes before a second one.
    pub fn view(&self) -> View<'_> {
        View::new(&self.0)
    }

    /// How far records have come.
    pub fn watermarks(&self) -> Watermarks {
        match &self.0.keep {
            Keep::Log(log) => log.watermarks(),
            Keep::Scratch | Keep::Memory => {
                let last = self.0.state.read().last;
                Watermarks {
                    installed: Lsn(0),
                    durable: last,
                    written: last,
                    appended: last,
                }
            }
        }
    }

    /// The log below, for tools that read it.
    pub fn log(&self) -> Option<&Log> {
        match &self.0.keep {
            Keep::Log(log) => Some(log),
            Keep::Scratch | Keep::Memory => None,
        }
    }

    /// Where history goes that it has no room for.
    pub fn archive(&self) -> Option<&Archive> {
        self.0.options.archive.as_deref()
    }

    /// Why no more changes are taken, if so.
    pub fn stopped(&self) -> Option<Arc<str>> {
        self.0.stopped.get().cloned()
    }

    /// Records name inodes by number; the first in a segment to name one also
    /// tells its path, which `namer` finds out. Once a journal.
    pub fn set_namer(&self, namer: Namer) {
        let _ = self.0.namer.set(namer);
    }

    /// Records name processes by number; the first of one in a segment also
    /// tells what it runs. Once a journal.
    pub fn set_programs(&self, programs: Programs) {
        let _ = self.0.programs.set(programs);
    }

    /// From now on `observer` is told of each operation. Once a journal.
    pub fn set_observer(&self, observer: Observer) {
        let _ = self.0.observer.set(observer);
    }
}

impl Inner {
    fn block_size(&self) -> usize {
        self.options.block_size
    }

    fn log(&self) -> Result<&Log> {
        match &self.keep {
            Keep::Log(log) => Ok(log),
            Keep::Scratch | Keep::Memory => Err(Error::ReadOnly("there is no log".into())),
        }
    }

    /// Whether changes are still taken.
    fn alive(&self) -> Result<()> {
        match (self.stopped.get(), &self.keep) {
            (Some(why), _) => Err(Error::ReadOnly(why.clone())),
            (None, Keep::Memory) => Err(Error::ReadOnly("the image is mounted read-only".into())),
            (None, Keep::Log(_) | Keep::Scratch) => Ok(()),
        }
    }

    /// An error that is final: what was dirty may be lost although later
    /// reads still show it, so nothing may ever be reported as safe again.
    fn stop(&self, error: Error) -> Error {
        let _ = self.stopped.set(error.to_string().into());
        self.waiting.fail_all(&error);
        error
    }

    /// After every change of the state.
    fn note(&self, state: &State) {
        self.held.store(state.bytes(), Ordering::SeqCst);
        self.last.store(state.last.0, Ordering::SeqCst);
    }

    /// A block's bytes in the image, as far as it reaches.
    fn read_home(&self, block: BlockNo) -> Result<Block> {
        self.inside(block, 1)?;
        let mut bytes = vec![0; self.block_size()];
        let at = block.0 * self.block_size() as u64;
        self.image
            .read_at(&mut bytes, at)
            .map_err(|e| image_error("read", e))?;
        Ok(bytes.into())
    }

    fn inside(&self, block: BlockNo, count: u64) -> Result<()> {
        match block.0.checked_add(count) {
            Some(end) if end <= self.blocks => Ok(()),
            _ => Err(Error::Outside {
                block,
                blocks: self.blocks,
            }),
        }
    }

    /// Whether a record's frame is written: its data can be read.
    fn logged(&self, place: &Place) -> bool {
        match &self.keep {
            Keep::Log(log) => log.is_written(place.lsn()),
            Keep::Memory | Keep::Scratch => true,
        }
    }

    /// Part of a record's data, verified. A commit makes blocks visible
    /// before their frame is written, hence the (brief) wait.
    fn read_logged(&self, place: &Place, from: usize, buf: &mut [u8]) -> Result<()> {
        if let Keep::Log(log) = &self.keep {
            log.wait_written(place.lsn())?;
        }
        Ok(place.read(from, buf)?)
    }
}

fn image_error(what: &str, source: std::io::Error) -> Error {
    Error::Io {
        what: format!("{what} of the image"),
        source: Arc::new(source),
    }
}

#[cfg(test)]
mod tests;

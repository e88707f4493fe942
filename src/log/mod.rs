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

use std::sync::Arc;

use crate::device::{Dir, Disk};
use crate::units::{Clock, Epoch, Lsn, Time};

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
    /// An earlier write or sync failed; that is final.
    #[error("the journal has stopped after an earlier error: {0}")]
    Dead(Arc<str>),
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
    /// passes its own, so that runs repeat.
    pub seed: u64,
}

//! The file system as it was at a record: restoring it, looking at it,
//! comparing two moments, getting back what was removed.
//!
//! ```text
//!     Span       what image, journal and archive together can show
//!      └─ at ──► Instant    the image after one record: a disk, and a file system on it
//!                 ├─ restore     as an ordinary image of its own
//!                 ├─ compare     with another instant
//!                 └─ take        a file or a tree out of it
//! ```
//! Nothing here changes image, journal or archive.

use std::io;
use std::sync::Arc;

use crate::fs::mount;
use crate::units::{Epoch, Lsn, Time};
use crate::{fs, journal};

mod compare;
mod instant;
pub mod removal;
mod restore;
mod span;
mod take;
mod watched;

pub use compare::{Aspect, Change, Happened, compare, path_of};
pub use instant::Instant;
pub use removal::Removal;
pub use restore::restore;
pub use span::{Live, Span};
pub use take::Taken;

/// Why a moment can't be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It lies before all that can be made.
    #[error("the state after record {wanted} can't be made any more: the oldest is that after record {oldest}{}{}", spell(*.time), advise(*.archived))]
    Gone {
        /// What was asked for.
        wanted: Lsn,
        /// The oldest state that can be made.
        oldest: Lsn,
        /// When that was.
        time: Option<Time>,
        /// Whether there is an archive.
        archived: bool,
    },
    /// Records on the way to it are missing from the archive.
    #[error(
        "the state after record {wanted} can't be made: records behind {last} are missing from the archive: journalfs archive DIR list tells which"
    )]
    Gap {
        /// What was asked for.
        wanted: Lsn,
        /// The last state before the gap.
        last: Lsn,
    },
    /// A file that the archive's manifest names is not in its folder.
    #[error("the state after record {wanted} can't be made: {what}: bring it back")]
    Absent {
        /// What was asked for.
        wanted: Lsn,
        /// What is missing, in words.
        what: String,
    },
    /// There is no such record yet.
    #[error("there is no record {wanted} yet: the last is {last}")]
    Future {
        /// What was asked for.
        wanted: Lsn,
        /// What there is.
        last: Lsn,
    },
    /// Nothing was ever recorded, or nothing is left of it.
    #[error("there is no history: its journal holds no records")]
    NoHistory,
    /// The journal tells of another image, or of what this one was before others changed it.
    #[error(
        "the journal's history is not this image's: the image was changed by others since, or it is another one"
    )]
    Foreign,
    /// A journal alone is half of it.
    #[error(
        "the journal alone does not make an image: give the image, or its archive with --archive DIR"
    )]
    NoImage,
    /// The archive has no such timeline.
    #[error("the archive has no states of a timeline {wanted}: those of {}", list(.known))]
    NoTimeline {
        /// What was asked for.
        wanted: Epoch,
        /// Those of which states can be made, by the opening with which they begin.
        known: Vec<Epoch>,
    },
    /// A copy of the image lost its end: what was made from it would be short too.
    #[error(
        "{name} is cut short: it has {len} bytes, the file system {needed}: bring a whole copy back, or remove it to go back to an older one"
    )]
    Short {
        /// The copy's file.
        name: String,
        /// Bytes that it has.
        len: u64,
        /// Bytes of the file system.
        needed: u64,
    },
    /// The image can't be looked at.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// The journal's error.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The file system's error.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// The host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The host's word.
        source: Arc<io::Error>,
    },
}

impl From<crate::log::Error> for Error {
    fn from(error: crate::log::Error) -> Self {
        Error::Journal(error.into())
    }
}

/// The result of looking back.
pub type Result<T> = std::result::Result<T, Error>;

fn io_error(what: &str) -> impl FnOnce(io::Error) -> Error + use<> {
    let what = what.to_owned();
    move |source| Error::Io {
        what,
        source: Arc::new(source),
    }
}

fn list(epochs: &[Epoch]) -> String {
    match epochs {
        [] => "none".to_owned(),
        some => some
            .iter()
            .map(Epoch::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn advise(archived: bool) -> &'static str {
    match archived {
        true => "",
        false => ": an archive (mount -o archive=DIR) keeps older ones",
    }
}

fn spell(time: Option<Time>) -> String {
    let stamp = |time: Time| jiff::Timestamp::from_nanosecond(time.as_nanos().into()).ok();
    match time.and_then(stamp) {
        Some(stamp) => format!(" ({stamp:.3})"),
        None => String::new(),
    }
}

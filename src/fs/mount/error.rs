//! Why an image is not opened or closed, in one line each.

use std::sync::Arc;

use crate::ext4::Unusable;
use crate::fs::jbd2;
use crate::{fs, journal};

/// Why an image is not opened. Each is one line: what, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The host's word.
        source: Arc<std::io::Error>,
    },
    /// Not an image, or one that we can't read.
    #[error(transparent)]
    Unusable(Unusable),
    /// It may be read, but not written.
    #[error("feature {0} is not supported for writing: mount it with --read-only")]
    Unwritable(String),
    /// Somebody left it unfinished.
    #[error("the image was not unmounted cleanly: run e2fsck -f on it first")]
    Unclean,
    /// The journal can't be given up behind that record.
    #[error(
        "the journal can't be cut behind record {0}: it must be one that can be read, and not older than what is in the image"
    )]
    CantCut(crate::units::Lsn),
    /// Somebody noted errors in it.
    #[error("errors are noted in the image: {0}run e2fsck -f on it first")]
    HasErrors(&'static str),
    /// It is damaged, which is noted in it now.
    #[error("the image is corrupt: {0}: run e2fsck -f on it first")]
    Damaged(crate::ext4::Corrupt),
    /// Its internal journal has to be replayed, and can't be.
    #[error("the image's own journal needs recovery, and {0}: run e2fsck -f on it first")]
    Unreplayable(jbd2::Error),
    /// What its internal journal begins with is none.
    #[error("the image's own journal can't be used: {0}: run e2fsck -f on it first")]
    BadJournal(jbd2::Error),
    /// It has a journal on another device.
    #[error("the image has a journal on another device (UUID {0}): that is not supported")]
    External(Uuid),
    /// Its journal is not here.
    #[error(
        "the image lags behind a journal (UUID {0}) that is not here: \
         put the journal's folder back, or name it with --journal"
    )]
    NoJournal(Uuid),
    /// The journal is another image's, or of another time.
    #[error(
        "the image lags behind journal {image}, but the folder holds journal {found}: it belongs to another image"
    )]
    OtherJournal {
        /// Whom the image's guard names.
        image: Uuid,
        /// The journal's last session.
        found: Uuid,
    },
    /// To begin a journal anew would take from another image what it lacks.
    #[error(
        "the journal's folder holds what another file system (UUID {0}) still lacks: \
         name this image's own with --journal, or remove the folder to give that up"
    )]
    OthersLack(Uuid),
    /// The superblock is damaged, and the rest is not what the journal remembers.
    #[error("the superblock is damaged, and the image is not the one that the journal belongs to")]
    Unrecognised,
    /// The archive knows more than the journal does.
    #[error(
        "the archive's history is another journal's, or this journal is an old copy: \
         archive into an empty folder (-o archive=DIR), or not at all (-o archive=none)"
    )]
    OtherHistory,
    /// There is nothing to export.
    #[error("lacks nothing of a journal of journalfs: there is nothing to export")]
    LacksNothing,
    /// Of more blocks than a jbd2 journal counts.
    #[error("{0} blocks are too many for one journal of jbd2: journalfs recover has no such limit")]
    TooMany(u64),
    /// Somebody has it.
    #[error("{0}")]
    InUse(String),
    /// The journal's error.
    #[error(transparent)]
    Journal(journal::Error),
    /// While freeing what was left over.
    #[error(transparent)]
    Fs(fs::Error),
}

impl Error {
    pub(super) fn host_is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let source = match self {
            Error::Io { source, .. } => source,
            Error::Journal(journal::Error::Io { source, .. }) => source,
            Error::Journal(journal::Error::Log(crate::log::Error::Io { source, .. })) => source,
            Error::Journal(journal::Error::HostFull) => return true,
            _ => return false,
        };
        matches!(source.kind(), StorageFull | QuotaExceeded)
    }
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Self {
        Error::Journal(error)
    }
}
impl From<fs::Error> for Error {
    fn from(error: fs::Error) -> Self {
        match error {
            // After checkpoints that could give no room: the log needs another file.
            fs::Error::Full => Error::Io {
                what: "another segment for the journal".into(),
                source: Arc::new(std::io::ErrorKind::StorageFull.into()),
            },
            other => Error::Fs(other),
        }
    }
}
impl From<crate::ext4::Corrupt> for Error {
    fn from(corrupt: crate::ext4::Corrupt) -> Self {
        Error::Unusable(corrupt.into())
    }
}

#[cfg(test)]
#[test]
fn a_journal_that_no_checkpoint_makes_room_in_is_short_of_space_on_its_host() {
    let error = Error::from(fs::Error::Full);
    assert!(error.host_is_full());
    assert!(!error.to_string().contains("until a checkpoint"), "{error}");
}

/// The result of opening or closing.
pub type Result<T> = std::result::Result<T, Error>;

/// A UUID, as people write it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            let dash = if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}
impl std::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

pub(super) fn io_error(what: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let what = what.to_owned();
    move |source| Error::Io {
        what,
        source: Arc::new(source),
    }
}

//! The journal: transactions on blocks, recorded before they go home.
//!
//! A [`Txn`] holds the one writer's guard, collects changed blocks, and on
//! commit becomes one record of the log: a logical header ([`Op`]: what
//! happened, enough to do it again) and a physical redo (which bytes of which
//! blocks). A [`View`] reads the state after the last commit.

use std::sync::Arc;

use crate::units::BlockNo;

mod codec;
pub mod record;
pub mod redo;
mod txn;

pub use record::{Op, Record};
pub use txn::{Journal, Txn, View};

/// A block's bytes, shared with the cache: never changed in place while
/// anyone else holds them.
pub type Block = Arc<[u8]>;

/// Whoever can read blocks of the image as of some moment: a [`View`], a
/// [`Txn`] (its own changes included), or a checker's plain image.
pub trait Blocks {
    /// Bytes of a block: 1024, 2048 or 4096.
    fn block_size(&self) -> usize;
    /// The block's bytes.
    fn block(&self, block: BlockNo) -> Result<Block>;
    /// Fills `buf` from byte `offset` within a block: for file data, which
    /// should not push metadata out of the cache.
    fn read(&self, block: BlockNo, offset: usize, buf: &mut [u8]) -> Result<()> {
        let bytes = self.block(block)?;
        buf.copy_from_slice(&bytes[offset..offset + buf.len()]);
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
        lsn: crate::units::Lsn,
        /// What does not hold.
        why: &'static str,
    },
    /// No room in the log before a checkpoint: park the request and try again.
    #[error("the journal is full until a checkpoint has been made")]
    Full,
    /// Opened for reading only, or stopped by an earlier error.
    #[error("read-only: {0}")]
    ReadOnly(Arc<str>),
}

/// A journal's result.
pub type Result<T> = std::result::Result<T, Error>;

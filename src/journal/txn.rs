//! Transactions. (First, simple shape: changes stay in memory until
//! [`Journal::flush`]; the log comes under it without changing this API.)

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Block, Blocks, Error, Op, Result};
use crate::device::Disk;
use crate::units::{BlockNo, Lsn};

/// The journal of one image.
pub struct Journal {
    image: Arc<dyn Disk>,
    block_size: usize,
    state: RwLock<State>,
}

struct State {
    last: Lsn,
    cache: HashMap<BlockNo, Block>,
}

/// The state after the last commit, for reading; writers wait while one lives.
pub struct View<'j> {
    journal: &'j Journal,
    state: RwLockReadGuard<'j, State>,
}

/// One operation's changes. Dropping it gives them up.
pub struct Txn<'j> {
    journal: &'j Journal,
    state: RwLockWriteGuard<'j, State>,
    changed: HashMap<BlockNo, Block>,
    data: &'j [u8],
}

impl Journal {
    /// A journal without a log, for tests of what lies above.
    pub fn scratch(image: Arc<dyn Disk>, block_size: usize) -> Self {
        Journal { image, block_size, state: RwLock::new(State { last: Lsn(0), cache: HashMap::new() }) }
    }

    /// Begins an operation. `Error::Full` when the log has no room for it now.
    pub fn begin(&self) -> Result<Txn<'_>> {
        Ok(Txn { journal: self, state: self.state.write(), changed: HashMap::new(), data: &[] })
    }

    /// A view for reading.
    pub fn view(&self) -> View<'_> {
        View { journal: self, state: self.state.read() }
    }

    /// Writes everything home (scratch only).
    pub fn flush(&self) -> Result<()> {
        let state = self.state.read();
        for (block, bytes) in &state.cache {
            self.image.write_at(bytes, block.0 * self.block_size as u64).map_err(|e| self.io("write", e))?;
        }
        Ok(())
    }

    fn io(&self, what: &str, source: std::io::Error) -> Error {
        Error::Io { what: format!("{what} of the image"), source: Arc::new(source) }
    }

    fn load(&self, state: &State, block: BlockNo) -> Result<Block> {
        if let Some(bytes) = state.cache.get(&block) {
            return Ok(bytes.clone());
        }
        let blocks = self.image.len().map_err(|e| self.io("length", e))? / self.block_size as u64;
        if block.0 >= blocks {
            return Err(Error::Outside { block, blocks });
        }
        let mut bytes = vec![0; self.block_size];
        self.image.read_at(&mut bytes, block.0 * self.block_size as u64).map_err(|e| self.io("read", e))?;
        Ok(bytes.into())
    }
}

impl Blocks for View<'_> {
    fn block_size(&self) -> usize {
        self.journal.block_size
    }
    fn block(&self, block: BlockNo) -> Result<Block> {
        self.journal.load(&self.state, block)
    }
}

impl Blocks for Txn<'_> {
    fn block_size(&self) -> usize {
        self.journal.block_size
    }
    fn block(&self, block: BlockNo) -> Result<Block> {
        match self.changed.get(&block) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.journal.load(&self.state, block),
        }
    }
}

impl<'j> Txn<'j> {
    /// The block for changing; the record gets the byte ranges that differ
    /// at commit (the whole block on its first touch since a checkpoint).
    pub fn block_mut(&mut self, block: BlockNo) -> Result<&mut [u8]> {
        let bytes = self.block(block)?;
        Ok(Arc::make_mut(self.changed.entry(block).or_insert(bytes)))
    }

    /// A newly allocated block, all zeros, logged whole: its old contents
    /// must not shine through.
    pub fn fresh(&mut self, block: BlockNo) -> Result<&mut [u8]> {
        let zeros: Block = vec![0; self.journal.block_size].into();
        let slot = self.changed.entry(block).or_insert_with(|| zeros.clone());
        *slot = zeros;
        Ok(Arc::make_mut(slot))
    }

    /// The operation's own data (a write's bytes), logged once, as they are;
    /// `put` and `patch` refer to it. Once a transaction. `file_offset` lets
    /// the log align its checksums with the file's pages.
    pub fn attach(&mut self, data: &'j [u8], file_offset: u64) {
        let _ = file_offset;
        self.data = data;
    }

    /// The whole block becomes the attached data from byte `from` on.
    pub fn put(&mut self, block: BlockNo, from: usize) -> Result<()> {
        let whole = self.data[from..from + self.journal.block_size].into();
        self.changed.insert(block, whole);
        Ok(())
    }

    /// Part of a block (existing, or `fresh` in this transaction) becomes
    /// `range` of the attached data.
    pub fn patch(&mut self, block: BlockNo, offset: usize, range: Range<usize>) -> Result<()> {
        let data = self.data;
        let len = range.len();
        self.block_mut(block)?[offset..offset + len].copy_from_slice(&data[range]);
        Ok(())
    }

    /// The blocks belong to nobody any more: their contents are void.
    pub fn free(&mut self, first: BlockNo, count: u64) {
        let _ = (first, count);
    }

    /// Bytes that the record would take now; an operation that could exceed
    /// [`Txn::limit`] goes in steps.
    pub fn len(&self) -> usize {
        self.changed.len() * self.journal.block_size
    }

    /// Whether nothing has been changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// The largest record, in bytes.
    pub fn limit(&self) -> usize {
        1 << 20
    }

    /// Makes the changes visible and records them as `op`; returns when the
    /// record (and all before it) is in the host's page cache.
    pub fn commit(mut self, op: &Op) -> Result<Lsn> {
        let _ = op;
        self.state.last = self.state.last.next();
        let changed = std::mem::take(&mut self.changed);
        self.state.cache.extend(changed);
        Ok(self.state.last)
    }
}

//! Transactions: one operation's changes, all or nothing.
//!
//! What differs is found at commit, by comparing with the version before, so
//! that whoever edits a block need not say what it changed. The record then
//! has the byte ranges; for a block that was not touched since the last
//! checkpoint began, all of it; and for file data only where they lie in the
//! record's payload.

use std::collections::BTreeMap;
use std::ops::Range;

use super::cache::{Home, State};
use super::paths::Told;
use super::record::{Op, Operation, Record};
use super::redo::{Redo, differences, edit_len, whole};
use super::room::Promise;
use super::{Block, Blocks, Error, Inner, Keep, Result, ready};
use crate::log::{Log, Slot};
use crate::sync::RwLockWriteGuard;
use crate::sync::atomic::Ordering;
use crate::units::{BlockNo, InodeNo, Lsn};

/// What a record takes besides its blocks: the operation with its names,
/// values and paths, generously.
const HEAD: usize = 2048;

/// One operation's changes. Dropping it gives them up.
pub struct Txn<'j> {
    inner: &'j Inner,
    promise: Promise<'j>,
    state: RwLockWriteGuard<'j, State>,
    changed: BTreeMap<BlockNo, Change>,
    freed: Vec<(BlockNo, u64)>,
    data: &'j [u8],
    /// Length of the data's first checksummed piece.
    head: u32,
    /// Bytes of the record at most, data excluded.
    len: usize,
}

/// A block of which this operation makes another version.
struct Change {
    base: Base,
    /// The new version; `None` while it is nothing but the base.
    now: Option<Block>,
    /// Ranges that came from the data.
    patches: Vec<Patch>,
}

/// Part of a block that is part of the record's data.
#[derive(Clone, Copy)]
struct Patch {
    offset: usize,
    from: usize,
    len: usize,
}

/// What a change starts from.
enum Base {
    /// The version before.
    Before(Block),
    /// A new block.
    Zeros,
    /// The record's data, from this offset on.
    Data(usize),
}

impl Blocks for Txn<'_> {
    fn block_size(&self) -> usize {
        self.inner.block_size()
    }
    fn block(&self, block: BlockNo) -> Result<Block> {
        match self.changed.get(&block) {
            Some(change) => Ok(change.bytes(self.data, self.inner.block_size())),
            None => self.inner.load(&self.state, block),
        }
    }
}

impl Change {
    fn bytes(&self, data: &[u8], size: usize) -> Block {
        match (&self.now, &self.base) {
            (Some(now), _) => now.clone(),
            (None, base) => base.bytes(data, size),
        }
    }

    fn bytes_mut(&mut self, data: &[u8], size: usize) -> &mut [u8] {
        let now = self.now.get_or_insert_with(|| self.base.bytes(data, size));
        now.make_mut()
    }
}

impl Base {
    fn bytes(&self, data: &[u8], size: usize) -> Block {
        match self {
            Base::Before(bytes) => bytes.clone(),
            Base::Zeros => vec![0; size].into(),
            Base::Data(from) => data[*from..from + size].into(),
        }
    }
}

impl<'j> Txn<'j> {
    pub(super) fn new(inner: &'j Inner, promise: Promise<'j>) -> Self {
        Txn {
            inner,
            promise,
            state: inner.state.write(),
            changed: BTreeMap::new(),
            freed: Vec::new(),
            data: &[],
            head: 0,
            len: HEAD,
        }
    }

    /// The block for changing; the record gets the byte ranges that differ
    /// at commit (the whole block on its first touch since a checkpoint).
    pub fn block_mut(&mut self, block: BlockNo) -> Result<&mut [u8]> {
        Ok(self.change(block)?.0)
    }

    fn change(&mut self, block: BlockNo) -> Result<(&mut [u8], &mut Vec<Patch>)> {
        let size = self.inner.block_size();
        if !self.changed.contains_key(&block) {
            let before = self.inner.load(&self.state, block)?;
            self.len += size + 32;
            let change = Change {
                base: Base::Before(before),
                now: None,
                patches: Vec::new(),
            };
            self.changed.insert(block, change);
        }
        let change = self.changed.get_mut(&block).expect("just inserted");
        change.bytes_mut(self.data, size);
        let Change { now, patches, .. } = change;
        Ok((now.as_mut().expect("just made").make_mut(), patches))
    }

    /// A newly allocated block, all zeros, logged whole: its old contents
    /// must not shine through.
    pub fn fresh(&mut self, block: BlockNo) -> Result<&mut [u8]> {
        let size = self.inner.block_size();
        self.replace(block, Base::Zeros, size + 48)?;
        self.block_mut(block)
    }

    fn replace(&mut self, block: BlockNo, base: Base, cost: usize) -> Result<()> {
        self.inner.inside(block, 1)?;
        self.len += cost;
        self.changed.insert(
            block,
            Change {
                base,
                now: None,
                patches: Vec::new(),
            },
        );
        Ok(())
    }

    /// The operation's own data (a write's bytes), logged once, as they are;
    /// `put` and `patch` refer to it. Once a transaction, before those.
    /// `file_offset` lets the log align its checksums with the file's pages.
    pub fn attach(&mut self, data: &'j [u8], file_offset: u64) {
        debug_assert!(self.data.is_empty(), "data attached twice");
        self.data = data;
        self.head = 4096 - (file_offset % 4096) as u32;
        self.len += data.len().div_ceil(4096) * 4 + 8;
    }

    /// The whole block becomes the attached data from byte `from` on.
    pub fn put(&mut self, block: BlockNo, from: usize) -> Result<()> {
        assert!(
            from + self.inner.block_size() <= self.data.len(),
            "put past the attached data"
        );
        self.replace(block, Base::Data(from), 17)
    }

    /// Part of a block (existing, or `fresh` in this transaction) becomes
    /// `range` of the attached data.
    pub fn patch(&mut self, block: BlockNo, offset: usize, range: Range<usize>) -> Result<()> {
        let data = self.data;
        self.len += 32;
        let (bytes, patches) = self.change(block)?;
        bytes[offset..offset + range.len()].copy_from_slice(&data[range.clone()]);
        patches.push(Patch {
            offset,
            from: range.start,
            len: range.len(),
        });
        Ok(())
    }

    /// The blocks belong to nobody any more: their contents are void, changes
    /// of them in this transaction included.
    pub fn free(&mut self, first: BlockNo, count: u64) {
        let end = BlockNo(first.0.saturating_add(count));
        let gone: Vec<BlockNo> = self
            .changed
            .range(first..end)
            .map(|(block, _)| *block)
            .collect();
        for block in gone {
            self.changed.remove(&block);
        }
        self.len += 17;
        self.freed.push((first, count));
    }

    /// Bytes that the record would take now, at most; an operation that could
    /// exceed [`Txn::limit`] goes in steps.
    pub fn len(&self) -> usize {
        self.len + self.data.len()
    }

    /// Whether nothing has been changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.freed.is_empty()
    }

    /// The largest record, in bytes.
    pub fn limit(&self) -> usize {
        self.inner.options.limit()
    }

    /// Makes the changes visible and records them as `op`; returns when the
    /// record (and all before it) is in the host's page cache. On an error
    /// before the record has its place, nothing has happened.
    pub fn commit(self, op: &Op) -> Result<Lsn> {
        match &self.inner.keep {
            Keep::Log(log) => self.commit_to_log(log, op),
            Keep::Scratch | Keep::Memory => {
                ready::commits()?;
                Ok(self.commit_to_memory())
            }
        }
    }

    fn commit_to_log(mut self, log: &'j Log, op: &Op) -> Result<Lsn> {
        let (inner, data) = (self.inner, self.data);
        let redo = self.redo();
        let told = inner.tell(log, &self.state.named, &self, op, self.len());
        let inodes: Vec<InodeNo> = told.paths.iter().map(|(inode, _)| *inode).collect();
        let program = told.program.clone();
        let meta = self.record(op, told, redo)?;
        ready::commits()?;
        let slot = self.reserve(log, &meta)?;
        let lsn = slot.lsn();
        self.publish(&slot);
        self.state.named.note(slot.segment(), op, inodes, program);
        if let Some(observe) = inner.observer.get() {
            observe(lsn, op, data);
        }
        let Txn { promise, state, .. } = self;
        drop(state);
        drop(promise);
        // From here on the record has a number: failing to write it is final.
        slot.write(&meta, data)
            .and_then(|()| log.wait_written(lsn))
            .map_err(|e| inner.stop(e.into()))?;
        inner.after_commit(log);
        Ok(lsn)
    }

    fn commit_to_memory(mut self) -> Lsn {
        let size = self.inner.block_size();
        let lsn = self.state.last.next();
        self.forget_freed();
        for (block, change) in std::mem::take(&mut self.changed) {
            let bytes = change.bytes(self.data, size);
            self.inner.clean.remove(block);
            self.state.dirty.insert(block, Home::Cached(bytes));
        }
        self.state.last = lsn;
        lsn
    }

    /// The record's metadata.
    fn record(&self, op: &Op, told: Told, redo: Vec<Redo>) -> Result<Vec<u8>> {
        let operation = Operation {
            op: op.clone(),
            paths: told.paths,
            program: told.program,
            redo,
        };
        let meta = Record::Operation(operation).encode();
        let (len, limit) = (meta.len() + self.data.len(), self.limit());
        match len <= limit {
            true => Ok(meta),
            false => Err(Error::TooLarge { len, limit }),
        }
    }

    fn reserve(&self, log: &Log, meta: &[u8]) -> Result<Slot> {
        log.reserve(meta.len(), self.data.len(), self.head)
            .inspect(|_| self.inner.in_vain.store(0, Ordering::SeqCst))
            .map_err(|error| match error {
                crate::log::Error::Full => self.inner.is_crowded(log),
                crate::log::Error::Dead(_) | crate::log::Error::Io { .. } => {
                    self.inner.stop(error.into())
                }
                other => other.into(),
            })
    }

    /// Everyone sees the new versions from here on.
    fn publish(&mut self, slot: &Slot) {
        self.forget_freed();
        for (block, change) in std::mem::take(&mut self.changed) {
            self.inner.clean.remove(block);
            let home = match (change.now, change.base) {
                (Some(now), _) => Home::Cached(now),
                (None, Base::Data(from)) => {
                    let place = slot
                        .place()
                        .expect("a record with data has a place for them");
                    Home::Logged {
                        place,
                        from: from as u32,
                    }
                }
                (None, Base::Zeros | Base::Before(_)) => unreachable!("edited blocks have bytes"),
            };
            match (&mut self.state.pinned, home) {
                (Some((pinned, bytes)), Home::Cached(now)) if *pinned == block => *bytes = now,
                (_, home) => self.state.dirty.insert(block, home),
            }
        }
        self.state.last = slot.lsn();
        self.inner.note(&self.state);
    }

    fn forget_freed(&mut self) {
        for (first, count) in std::mem::take(&mut self.freed) {
            self.state.dirty.remove_range(first, count);
            if self.inner.options.discard {
                self.state.freed.add(first, count);
            }
        }
    }

    /// What differs. Blocks that turn out equal drop out of `changed`.
    fn redo(&mut self) -> Vec<Redo> {
        let mut redo: Vec<Redo> = self
            .freed
            .iter()
            .map(|(first, count)| Redo::Free {
                first: *first,
                count: *count,
            })
            .collect();
        let (data, size) = (self.data, self.inner.block_size());
        let (state, freed) = (&*self.state, &self.freed);
        // What a block that this record frees has held is void, so its next
        // use starts over, as after a checkpoint.
        let touched = |block: BlockNo| {
            let free = freed
                .iter()
                .any(|(first, count)| block.since(*first).is_some_and(|n| n < *count));
            state.is_pinned(block) || (state.dirty.contains(block) && !free)
        };
        self.changed.retain(|block, change| {
            let before = redo.len();
            change.redo(*block, touched(*block), data, size, &mut redo);
            redo.len() > before || !matches!(change.base, Base::Before(_))
        });
        redo
    }
}

impl Change {
    fn redo(
        &mut self,
        block: BlockNo,
        touched: bool,
        data: &[u8],
        size: usize,
        into: &mut Vec<Redo>,
    ) {
        match (&self.base, &self.now) {
            (Base::Before(before), Some(now)) if touched => {
                edits(block, before, now, &self.patches, data, into)
            }
            (Base::Before(before), Some(now)) if before != now => whole(block, now, into),
            (Base::Before(_), _) => {}
            (Base::Zeros, now) => {
                into.push(Redo::Zeros { block });
                let zeros = vec![0; size];
                if let Some(now) = now {
                    edits(block, &zeros, now, &self.patches, data, into);
                }
            }
            (Base::Data(from), now) => {
                put(block, *from, size, into);
                if let Some(now) = now {
                    edits(
                        block,
                        &data[*from..from + size],
                        now,
                        &self.patches,
                        data,
                        into,
                    );
                }
            }
        }
    }
}

/// The parts that came from the data, then what differs besides.
fn edits(
    block: BlockNo,
    before: &[u8],
    now: &[u8],
    patches: &[Patch],
    data: &[u8],
    into: &mut Vec<Redo>,
) {
    let mut before = std::borrow::Cow::Borrowed(before);
    for &Patch { offset, from, len } in patches {
        before.to_mut()[offset..offset + len].copy_from_slice(&data[from..from + len]);
        into.push(Redo::Patch {
            block,
            offset: offset as u16,
            from: from as u32,
            len: len as u32,
        });
    }
    let ranges = differences(&before, now);
    match edit_len(&ranges) {
        _ if ranges.is_empty() => {}
        len if len < now.len() => into.push(Redo::Edit { block, ranges }),
        _ => into.push(Redo::Image {
            block,
            bytes: now.to_vec(),
        }),
    }
}

/// A whole block of data; joined with the one before where they go on.
fn put(block: BlockNo, from: usize, size: usize, into: &mut Vec<Redo>) {
    if let Some(Redo::Put {
        first,
        count,
        from: start,
    }) = into.last_mut()
    {
        let (blocks, bytes) = (u64::from(*count), *count as usize * size);
        if first.checked_add(blocks) == Some(block) && *start as usize + bytes == from {
            *count += 1;
            return;
        }
    }
    into.push(Redo::Put {
        first: block,
        count: 1,
        from: from as u32,
    });
}

//! Where a block's current bytes are.
//!
//! ```text
//!     dirty    changed since the last checkpoint began   (memory, or a place in the log)
//!     frozen   what the running checkpoint writes home
//!     clean    equal to the image: may be forgotten
//! ```
//! Asked in this order, then the image itself. The pinned block has a place of
//! its own, since no checkpoint writes it.

use std::sync::Arc;

use foldhash::HashMap;

use super::Block;
use super::discard::Freed;
use super::paths::Named;
use crate::log::Place;
use crate::sync::Mutex;
use crate::units::{BlockNo, Lsn};

/// A changed block's newest version.
#[derive(Clone)]
pub(super) enum Home {
    /// In memory.
    Cached(Block),
    /// In the log, as part of a record's data: the overlay. Holding the place
    /// keeps its segment from being recycled.
    Logged { place: Place, from: u32 },
}

/// What an overlay entry costs in memory, about.
const LOGGED_COST: usize = 96;

/// Changed blocks.
#[derive(Default)]
pub(super) struct Changed {
    homes: HashMap<BlockNo, Home>,
    bytes: usize,
}

impl Changed {
    pub fn get(&self, block: BlockNo) -> Option<&Home> {
        self.homes.get(&block)
    }

    pub fn contains(&self, block: BlockNo) -> bool {
        self.homes.contains_key(&block)
    }

    pub fn insert(&mut self, block: BlockNo, home: Home) {
        self.bytes += cost(&home);
        if let Some(old) = self.homes.insert(block, home) {
            self.bytes -= cost(&old);
        }
    }

    pub fn remove(&mut self, block: BlockNo) {
        if let Some(old) = self.homes.remove(&block) {
            self.bytes -= cost(&old);
        }
    }

    /// Forgets blocks that belong to nobody any more.
    pub fn remove_range(&mut self, first: BlockNo, count: u64) {
        // One after the other, or a look at all that there are.
        if count < self.homes.len() as u64 {
            (first.0..first.0.saturating_add(count)).for_each(|block| self.remove(BlockNo(block)));
            return;
        }
        let bytes = &mut self.bytes;
        self.homes.retain(|block, home| {
            let stays = block.since(first).is_none_or(|n| n >= count);
            *bytes -= if stays { 0 } else { cost(home) };
            stays
        });
    }

    /// Memory that it holds, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.homes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// All of them, ascending, as they will be written.
    pub fn sorted(&self) -> Vec<(BlockNo, &Home)> {
        let mut all: Vec<_> = self
            .homes
            .iter()
            .map(|(block, home)| (*block, home))
            .collect();
        all.sort_unstable_by_key(|(block, _)| *block);
        all
    }
}

fn cost(home: &Home) -> usize {
    match home {
        Home::Cached(block) => block.len() + LOGGED_COST,
        Home::Logged { .. } => LOGGED_COST,
    }
}

/// Everything that the guard protects.
#[derive(Default)]
pub(super) struct State {
    /// The last committed record.
    pub last: Lsn,
    pub dirty: Changed,
    pub frozen: Arc<Changed>,
    pub pinned: Option<(BlockNo, Block)>,
    pub named: Named,
    /// For the next checkpoint to discard.
    pub freed: Freed,
}

impl State {
    /// Memory held by blocks that are not home.
    pub fn bytes(&self) -> usize {
        self.dirty.bytes() + self.frozen.bytes()
    }

    /// The newest version of a block that is not home.
    pub fn newest(&self, block: BlockNo) -> Option<Home> {
        match &self.pinned {
            Some((pinned, bytes)) if *pinned == block => Some(Home::Cached(bytes.clone())),
            _ => self
                .dirty
                .get(block)
                .or_else(|| self.frozen.get(block))
                .cloned(),
        }
    }

    pub fn is_pinned(&self, block: BlockNo) -> bool {
        self.pinned
            .as_ref()
            .is_some_and(|(pinned, _)| *pinned == block)
    }
}

/// Blocks equal to the image's, a bounded number of them.
pub(super) struct Clean {
    shards: Vec<Mutex<Ring>>,
}

/// Second chance: the hand passes by whoever was used since its last round.
#[derive(Default)]
struct Ring {
    places: HashMap<BlockNo, usize>,
    slots: Vec<Slot>,
    hand: usize,
    capacity: usize,
}

struct Slot {
    block: BlockNo,
    bytes: Block,
    used: bool,
}

const SHARDS: usize = 16;

impl Clean {
    /// Room for `blocks` blocks in all, a few at least.
    pub fn with_capacity(blocks: usize) -> Self {
        let capacity = blocks.div_ceil(SHARDS).max(4);
        let ring = || {
            Mutex::new(Ring {
                capacity,
                ..Ring::default()
            })
        };
        Clean {
            shards: (0..SHARDS).map(|_| ring()).collect(),
        }
    }

    fn shard(&self, block: BlockNo) -> &Mutex<Ring> {
        &self.shards[block.0 as usize % SHARDS]
    }

    pub fn get(&self, block: BlockNo) -> Option<Block> {
        let mut ring = self.shard(block).lock();
        let at = *ring.places.get(&block)?;
        let slot = &mut ring.slots[at];
        slot.used = true;
        Some(slot.bytes.clone())
    }

    pub fn insert(&self, block: BlockNo, bytes: Block) {
        self.shard(block).lock().insert(block, bytes);
    }

    pub fn remove(&self, block: BlockNo) {
        self.shard(block).lock().remove(block);
    }
}

impl Ring {
    fn insert(&mut self, block: BlockNo, bytes: Block) {
        let slot = Slot {
            block,
            bytes,
            used: false,
        };
        let at = match self.places.get(&block) {
            Some(at) => *at,
            None if self.slots.len() < self.capacity => {
                self.places.insert(block, self.slots.len());
                self.slots.push(slot);
                return;
            }
            None => self.evict(),
        };
        self.places.remove(&self.slots[at].block);
        self.places.insert(block, at);
        self.slots[at] = slot;
    }

    fn evict(&mut self) -> usize {
        loop {
            let at = self.hand % self.slots.len();
            self.hand = at + 1;
            if !std::mem::take(&mut self.slots[at].used) {
                return at;
            }
        }
    }

    fn remove(&mut self, block: BlockNo) {
        let Some(at) = self.places.remove(&block) else {
            return;
        };
        self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            self.places.insert(moved.block, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: u64) -> Block {
        n.to_le_bytes().to_vec().into()
    }

    #[test]
    fn the_clean_cache_stays_within_its_capacity_and_never_mixes_blocks_up() {
        let clean = Clean::with_capacity(64);
        for n in 0..1000 {
            clean.insert(BlockNo(n), bytes(n));
            if n % 3 == 0 {
                clean.remove(BlockNo(n / 2));
            }
        }
        let held: Vec<u64> = (0..1000)
            .filter(|n| clean.get(BlockNo(*n)).is_some())
            .collect();
        assert!(!held.is_empty() && held.len() <= 64);
        assert!(
            held.iter()
                .all(|n| clean.get(BlockNo(*n)) == Some(bytes(*n)))
        );
    }

    #[test]
    fn a_block_in_use_outlives_those_that_are_not() {
        let clean = Clean::with_capacity(64);
        clean.insert(BlockNo(0), bytes(0));
        for n in 1..100 {
            clean.insert(BlockNo(n * SHARDS as u64), bytes(n));
            assert!(clean.get(BlockNo(0)).is_some());
        }
    }
}

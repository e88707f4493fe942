//! Discard: the host gets back the space of blocks that belong to nobody.
//!
//! What a punched block held is gone at once, whatever the power does later,
//! so it must be a block to which no recovery goes back:
//!
//! ```text
//!     free in the image    as the last checkpoint left it, whose record is durable:
//!                          recovery begins there, and no earlier
//!     free now             or it would be punched only to be written again
//! ```
//! Both are read from the bitmaps, by [`FreeRuns`]. Only the checkpointer
//! punches, before the next checkpoint may begin: a block that is taken in
//! between is wholly in the log (new blocks are logged whole), and its home
//! is written by a later checkpoint, after the hole.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::{Block, Blocks, Error, Inner, Journal, Result, View};
use crate::sync::atomic::Ordering;
use crate::units::BlockNo;

/// Tells which blocks of a range are free, as runs in ascending order; none
/// where damage lets nobody tell.
pub type FreeRuns = Box<dyn Fn(&dyn Blocks, BlockNo, u64) -> Vec<(BlockNo, u64)> + Send + Sync>;

/// Told how many blocks were given back.
pub type OnTrimmed = Box<dyn FnOnce(Result<u64>) + Send>;

/// A request to give back whatever is free in a range.
pub(super) struct Trim {
    first: BlockNo,
    count: u64,
    /// Shorter runs stay.
    least: u64,
    tell: OnTrimmed,
}

/// Holes begin and end where a page of the host's does: less gives nothing
/// back, and makes the host write.
const PAGE: u64 = 4096;
/// Blocks that are looked at in one go.
const STRIDE: u64 = 32768;
/// More runs than this are not remembered; a trim will find them.
const MOST: usize = 1 << 16;

/// Blocks freed since the last checkpoint began, as disjoint runs: first block → end.
#[derive(Default)]
pub(super) struct Freed(BTreeMap<u64, u64>);

impl Freed {
    pub fn add(&mut self, first: BlockNo, count: u64) {
        let (mut start, mut end) = (first.0, first.0.saturating_add(count));
        if self.0.len() >= MOST {
            return;
        }
        while let Some((&at, &stop)) = self.0.range(..=end).next_back() {
            if stop < start {
                break;
            }
            (start, end) = (start.min(at), end.max(stop));
            self.0.remove(&at);
        }
        self.0.insert(start, end);
    }

    fn runs(&self) -> impl Iterator<Item = (BlockNo, u64)> {
        self.0.iter().map(|(at, end)| (BlockNo(*at), end - at))
    }
}

impl Trim {
    /// It won't be done.
    pub fn fail(self, error: &Error) {
        (self.tell)(Err(error.clone()));
    }
}

impl Journal {
    /// Who knows which blocks are free. Once a journal.
    pub fn set_free_runs(&self, free: FreeRuns) {
        let _ = self.0.free_runs.set(free);
    }

    /// Gives the host back what is free in a range of blocks, in runs of at
    /// least `least`, with the next checkpoint, which begins soon. `tell` may
    /// be called from another thread.
    pub fn trim(&self, first: BlockNo, count: u64, least: u64, tell: OnTrimmed) {
        let trim = Trim {
            first,
            count,
            least,
            tell,
        };
        self.0.waiting.queue_trim(trim);
        // A failure may have emptied the queue just before.
        if let Err(error) = self.0.alive() {
            self.0.waiting.fail_all(&error);
        }
    }
}

/// The image as the last checkpoint left it.
struct AtHome<'a>(&'a Inner);

impl Blocks for AtHome<'_> {
    fn block_size(&self) -> usize {
        self.0.block_size()
    }
    fn block(&self, block: BlockNo) -> Result<Block> {
        self.0.read_home(block)
    }
}

impl Inner {
    /// After a checkpoint, and before another may begin: gives back what was
    /// freed before it, and whatever is asked for.
    pub(super) fn discard(&self, freed: &Freed) {
        for (first, count) in freed.runs() {
            self.punch(first, count, 1);
        }
        for trim in self.waiting.take_trims() {
            let punched = self.punch(trim.first, trim.count, trim.least);
            (trim.tell)(match self.keeps_all.load(Ordering::Relaxed) {
                true => Err(Error::CantDiscard),
                false => Ok(punched),
            });
        }
    }

    /// Punches what may be punched of a range; how many blocks that were.
    fn punch(&self, first: BlockNo, count: u64, least: u64) -> u64 {
        let Some(free) = self.free_runs.get() else {
            return 0;
        };
        let end = first.0.saturating_add(count).min(self.blocks);
        let mut punched = 0;
        let mut run = (first.0, first.0);
        let mut at = first.0;
        while at < end {
            let step = (STRIDE - at % STRIDE).min(end - at);
            for (start, stop) in self.free_twice(free, BlockNo(at), step) {
                if run.1 < start {
                    punched += self.punch_run(run, least);
                    run = (start, start);
                }
                run.1 = stop;
            }
            at += step;
        }
        punched + self.punch_run(run, least)
    }

    /// Runs that are free at home and now.
    fn free_twice(&self, free: &FreeRuns, first: BlockNo, count: u64) -> Vec<(u64, u64)> {
        let ends = |(first, count): (BlockNo, u64)| (first.0, first.0 + count);
        let home = free(&AtHome(self), first, count);
        let now = free(&View::new(self), first, count);
        let (mut home, mut now) = (
            home.into_iter().map(ends).peekable(),
            now.into_iter().map(ends).peekable(),
        );
        let mut both = Vec::new();
        while let (Some(one), Some(other)) = (home.peek(), now.peek()) {
            let (start, stop) = (one.0.max(other.0), one.1.min(other.1));
            if start < stop {
                both.push((start, stop));
            }
            match one.1 <= other.1 {
                true => drop(home.next()),
                false => drop(now.next()),
            }
        }
        both
    }

    fn punch_run(&self, (start, stop): (u64, u64), least: u64) -> u64 {
        let size = self.block_size() as u64;
        let (from, to) = (
            (start * size).next_multiple_of(PAGE),
            stop * size / PAGE * PAGE,
        );
        if stop - start < least.max(1) || from >= to || self.keeps_all.load(Ordering::Relaxed) {
            return 0;
        }
        match self.image.discard(from, to - from) {
            Ok(()) => (to - from) / size,
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                log::warn!("{}", Error::CantDiscard);
                self.keeps_all.store(true, Ordering::Relaxed);
                0
            }
            Err(error) => {
                // What the blocks hold is void either way.
                log::debug!("discard of {} bytes at {from}: {error}", to - from);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_runs_are_joined_and_each_block_is_in_one() {
        let mut freed = Freed::default();
        for (first, count) in [
            (10, 5),
            (20, 5),
            (15, 5),
            (40, 1),
            (12, 2),
            (30, 5),
            (24, 7),
        ] {
            freed.add(BlockNo(first), count);
        }
        let runs: Vec<_> = freed.runs().collect();
        assert_eq!(runs, [(BlockNo(10), 25), (BlockNo(40), 1)]);
    }
}

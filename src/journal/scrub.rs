//! Comparing an image with what the journal says was brought home: the only
//! checksums that an ext4 image has for its file data.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::State;
use super::record::{Operation, Record};
use super::recover::{Checking, Heading, Redoing, Replay, Unrecovered, replay};
use super::redo::Redo;
use super::{Blocks, Error, Journal, Keep, Options, Result};
use crate::device::Disk;
use crate::log::Place;
use crate::units::{BlockNo, Lsn};

/// A block that differs from what the journal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which block of the image.
    pub block: BlockNo,
    /// The last record that changed it.
    pub lsn: Lsn,
}

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Scrub {
    /// Blocks whose contents the journal knows.
    pub blocks: u64,
    /// Those that differ, in order.
    pub mismatches: Vec<Mismatch>,
}

impl Unrecovered {
    /// Compares the image with all records that are in it. A block that a
    /// record behind the last checkpoint touches is left out: it may have gone
    /// home already, or not. Reads only.
    ///
    /// To be meant, the image must be the one that the journal belongs to, and
    /// nobody else may have changed it since.
    pub fn scrub(&self, image: Arc<dyn Disk>, options: Options) -> Result<Scrub> {
        let through = self.base().map_or(self.survey().installed(), |b| b.through);
        let scratch = Options {
            cache_size: 0,
            ..options
        };
        let pinned = scratch.pinned;
        let journal = Journal::new(image, scratch, Keep::Memory, State::default())?;
        let from = self.unbroken(through);
        let frames = || self.survey().frames(from);
        let inner = &*journal.0;
        let mut checking = Checking {
            inner,
            through: Lsn(0),
        };
        replay(frames(), &mut checking)?;
        let mut touched = Touched::default();
        replay(frames(), &mut touched)?;
        let mut redoing = UpTo {
            through,
            redoing: Redoing {
                inner,
                through: Lsn(0),
            },
        };
        replay(frames(), &mut redoing)?;
        let view = journal.view();
        let state = journal.0.state.read();
        let mut scrub = Scrub::default();
        for (block, _) in state.dirty.sorted() {
            let Some(lsn) = touched.0.get(&block).copied() else {
                continue;
            };
            if lsn > through || pinned == Some(block) {
                continue;
            }
            scrub.blocks += 1;
            let should = match view.block(block) {
                Ok(bytes) => bytes,
                Err(Error::Log(_)) => continue,
                Err(error) => return Err(error),
            };
            if journal.0.read_home(block)? != should {
                scrub.mismatches.push(Mismatch { block, lsn });
            }
        }
        Ok(scrub)
    }
}

impl Unrecovered {
    /// The first record behind the last one that can't be read, as far as
    /// `through`: what a lost record did can't be done again, but what follows
    /// it holds on any base.
    fn unbroken(&self, through: Lsn) -> Lsn {
        let mut frames = self.survey().frames(Lsn(1));
        let mut from = self.survey().first().unwrap_or(Lsn(1));
        while let Some((lsn, frame)) = frames.next_numbered() {
            if lsn <= through && frame.is_err() {
                from = lsn.next();
            }
        }
        from
    }
}

/// Which record changed a block last. Blocks that were freed since are not
/// there: a checkpoint need not have written them.
#[derive(Default)]
struct Touched(BTreeMap<BlockNo, Lsn>);

impl Replay for Touched {
    fn record(&mut self, at: &Heading, record: &Record, _: Option<&Place>) -> Result<()> {
        let Record::Operation(Operation { redo, .. }) = record else {
            return Ok(());
        };
        for redo in redo {
            let (first, count) = redo.blocks();
            if let Redo::Free { .. } = redo {
                let end = BlockNo(first.0.saturating_add(count));
                let gone: Vec<BlockNo> = self.0.range(first..end).map(|(b, _)| *b).collect();
                for block in gone {
                    self.0.remove(&block);
                }
                continue;
            }
            for n in 0..count {
                self.0.insert(BlockNo(first.0 + n), at.lsn);
            }
        }
        Ok(())
    }
}

/// Stops at a record.
struct UpTo<'j> {
    through: Lsn,
    redoing: Redoing<'j>,
}

impl Replay for UpTo<'_> {
    fn record(&mut self, at: &Heading, record: &Record, data: Option<&Place>) -> Result<()> {
        match at.lsn <= self.through {
            true => self.redoing.record(at, record, data),
            false => Ok(()),
        }
    }
}

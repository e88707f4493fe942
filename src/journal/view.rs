//! Reading: the state after the last commit.

use super::cache::{Home, State};
use super::{Block, Blocks, Inner, Result, image_error};
use crate::sync::RwLockReadGuard;
use crate::units::{BlockNo, Lsn};

/// The state after the last commit, for reading; writers wait while one lives.
pub struct View<'j> {
    inner: &'j Inner,
    state: RwLockReadGuard<'j, State>,
}

impl<'j> View<'j> {
    pub(super) fn new(inner: &'j Inner) -> Self {
        View {
            inner,
            state: inner.state.read(),
        }
    }

    /// The last record whose changes it shows.
    pub fn last(&self) -> Lsn {
        self.state.last
    }

    /// The blocks that are not home, ascending; without the pinned one.
    pub fn lacking(&self) -> Vec<BlockNo> {
        let (dirty, frozen) = (self.state.dirty.iter(), self.state.frozen.iter());
        let blocks = dirty.chain(frozen).map(|(block, _)| block);
        let blocks: std::collections::BTreeSet<BlockNo> = blocks.collect();
        blocks.into_iter().collect()
    }
}

impl Blocks for View<'_> {
    fn block_size(&self) -> usize {
        self.inner.block_size()
    }
    fn block(&self, block: BlockNo) -> Result<Block> {
        self.inner.load(&self.state, block)
    }
    fn read(&self, block: BlockNo, offset: usize, buf: &mut [u8]) -> Result<()> {
        self.inner.read_run(&self.state, block, offset, buf)
    }
}

impl Inner {
    /// A block's newest bytes.
    pub(super) fn load(&self, state: &State, block: BlockNo) -> Result<Block> {
        match state.newest(block) {
            Some(Home::Cached(bytes)) => return Ok(bytes),
            Some(Home::Logged { place, from }) => {
                let mut bytes = vec![0; self.block_size()];
                self.read_logged(&place, from as usize, &mut bytes)?;
                return Ok(bytes.into());
            }
            None => {}
        }
        if let Some(bytes) = self.clean.get(block) {
            return Ok(bytes);
        }
        let bytes = self.read_home(block)?;
        self.clean.insert(block, bytes.clone());
        Ok(bytes)
    }

    /// Bytes of consecutive blocks; stretches that are home, or that lie
    /// together in the log, are read in one piece.
    pub(super) fn read_run(
        &self,
        state: &State,
        block: BlockNo,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<()> {
        let size = self.block_size();
        let count = (offset + buf.len()).div_ceil(size) as u64;
        self.inside(block, count)?;
        let (mut at, mut offset, mut buf) = (block, offset, buf);
        while !buf.is_empty() {
            let most = (offset + buf.len()).div_ceil(size);
            let (blocks, source) = self.stretch(state, at, most);
            let (now, rest) = buf.split_at_mut((blocks * size - offset).min(buf.len()));
            match source {
                Source::Bytes(bytes) => now.copy_from_slice(&bytes[offset..offset + now.len()]),
                Source::Log(Home::Logged { place, from }) => {
                    self.read_logged(&place, from as usize + offset, now)?;
                }
                Source::Log(Home::Cached(_)) | Source::Image => {
                    let from = at.0 * size as u64 + offset as u64;
                    self.image
                        .read_at(now, from)
                        .map_err(|e| image_error("read", e))?;
                }
            }
            (at, offset, buf) = (BlockNo(at.0 + blocks as u64), 0, rest);
        }
        Ok(())
    }

    /// How many blocks from `first` on, `most` at most, come from one place.
    fn stretch(&self, state: &State, first: BlockNo, most: usize) -> (usize, Source) {
        let nth = |n: usize| BlockNo(first.0 + n as u64);
        match state.newest(first) {
            Some(Home::Cached(bytes)) => (1, Source::Bytes(bytes)),
            Some(Home::Logged { place, from }) => {
                let follows = |n: &usize| match state.newest(nth(*n)) {
                    Some(Home::Logged {
                        place: other,
                        from: there,
                    }) => {
                        other.lsn() == place.lsn()
                            && there as usize == from as usize + n * self.block_size()
                    }
                    _ => false,
                };
                let blocks = (1..most).take_while(follows).count() + 1;
                (blocks, Source::Log(Home::Logged { place, from }))
            }
            None => match self.clean.get(first) {
                Some(bytes) => (1, Source::Bytes(bytes)),
                None => {
                    // The clean cache equals the image: no need to ask it for each.
                    let blocks = (1..most)
                        .take_while(|n| state.newest(nth(*n)).is_none())
                        .count()
                        + 1;
                    (blocks, Source::Image)
                }
            },
        }
    }
}

/// Where a stretch of blocks is read from.
enum Source {
    Bytes(Block),
    Log(Home),
    Image,
}

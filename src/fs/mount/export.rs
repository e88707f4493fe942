//! What an image lacks, as an external journal of jbd2: e2fsck replays it
//! where there is no journalfs.
//!
//! ```text
//!     transaction 1     every block that the image lacks, as the last record left it
//!     transaction 2     the superblock, with the guard off
//! ```
//! The replayed superblock is an ordinary one, so nothing is left to do
//! afterwards. It comes last: a replay that is cut off leaves the image under
//! its guard, and is done again. And one transaction holds all the rest,
//! because blocks of different records must not part.
//!
//! The journal's UUID is the guard's. So an image without an internal journal
//! needs no change at all to be found beside it, and one with an internal
//! journal a change that leaves the guard what it is to us: until e2fsck has
//! been there, journalfs can recover the image as before.

use std::io;

use super::super::guard::{self, Raw, Standing};
use super::super::{alloc, jbd2};
use super::session::write_superblock;
use super::{Course, Error, Opened, Result, io_error};
use crate::device::Disk;
use crate::ext4::jbd2::External;
use crate::ext4::superblock::{self, SIZE, Superblock};
use crate::journal::{Block, Blocks, Journal};
use crate::units::{BlockNo, Lsn};

/// What has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The last record that it holds.
    pub last: Lsn,
    /// Blocks that the image lacked, its superblock's among them.
    pub blocks: u64,
    /// Whether the image had to be changed for e2fsck to look for it.
    pub pointed: bool,
}

impl Opened {
    /// Writes what the image lacks into `out`, which is empty, and then lets
    /// the image's superblock name that. The journal is only read.
    pub fn export(self, out: &dyn Disk) -> Result<Exported> {
        let (Course::Recover, Standing::Guarded(uuid)) = (self.course, guard::standing(&self.good))
        else {
            return Err(Error::LacksNothing);
        };
        let (image, found, good) = (self.image, self.found, self.good);
        let last = self.unrecovered.report().last;
        let kept = self.options.journal(super::length(&*image)?, &self.sb);
        let journal = (self.unrecovered).replay_in_memory(image.clone(), kept)?;
        let lacking = Lacking::of(&journal, &self.sb, &found)?;
        let maker = External::new(
            uuid,
            guard::file_system(&good),
            self.sb.block_size as usize,
            &[lacking.blocks.len() as u64, 1],
            self.options.clock.wall(),
        );
        let maker = maker.ok_or(Error::TooMany(lacking.blocks.len() as u64))?;
        lacking.write(&journal.view(), maker, out)?;
        let external = guard::with_external(&good);
        let pointed = external != found;
        if pointed {
            write_superblock(&*image, &found, &external)?;
        }
        Ok(Exported {
            last,
            blocks: lacking.blocks.len() as u64 + 1,
            pointed,
        })
    }
}

/// What an image lacks.
struct Lacking {
    /// All but the superblock's block, ascending.
    blocks: Vec<BlockNo>,
    /// The head of the image's own journal, if that is still to be emptied.
    emptied: Option<(BlockNo, Vec<u8>)>,
    /// The superblock's block at the end.
    home: (BlockNo, Vec<u8>),
}

impl Lacking {
    fn of(journal: &Journal, sb: &Superblock, found: &Raw) -> Result<Lacking> {
        let pinned = journal.pinned().ok_or(Error::Unrecognised)?;
        let view = journal.view();
        let emptied = jbd2::emptied(sb, &view)?;
        let mut blocks = view.lacking();
        if let Some((block, _)) = &emptied
            && let Err(at) = blocks.binary_search(block)
        {
            blocks.insert(at, *block);
        }
        let (home, at) = sb.home();
        let mut bytes = pinned.to_vec();
        let current = bytes.get(at..at + SIZE).and_then(|raw| raw.try_into().ok());
        let current: Raw = current.ok_or(Error::Unrecognised)?;
        let free = unguarded(&current, found, alloc::totals(&view, sb)?);
        bytes[at..at + SIZE].copy_from_slice(&free);
        Ok(Lacking {
            blocks,
            emptied,
            home: (home, bytes),
        })
    }

    /// Stable when it returns; a journal only when all of it is.
    fn write(&self, view: &dyn Blocks, mut maker: External, out: &dyn Disk) -> Result<()> {
        let size = view.block_size() as u64;
        let failed = |e: io::Error| io_error("the exported journal")(e);
        let mut put = |at: u32, bytes: &[u8]| {
            let place = u64::from(at) * size;
            out.write_at(bytes, place).map_err(failed)
        };
        (out.set_len(u64::from(maker.blocks()) * size)).map_err(failed)?;
        let blocks = self.blocks.iter().map(|block| self.block(view, *block));
        maker.transaction(blocks, &mut put)?;
        let (home, bytes) = &self.home;
        maker.transaction(std::iter::once(Ok((*home, bytes))), &mut put)?;
        out.sync().map_err(failed)?;
        maker.heads(&mut put)?;
        out.sync().map_err(failed)
    }

    fn block(&self, view: &dyn Blocks, block: BlockNo) -> Result<(BlockNo, Block)> {
        match &self.emptied {
            Some((own, bytes)) if *own == block => Ok((block, bytes.as_slice().into())),
            _ => Ok((block, view.block(block)?)),
        }
    }
}

/// The superblock as a clean end would leave it, but for the times and counts
/// of a visit: nobody has mounted it. Errors that were noted on the image stay.
fn unguarded(current: &Raw, found: &Raw, free: (u64, u32)) -> Raw {
    let mut sb = guard::take_off(current);
    if !guard::is_torn(found, current) {
        guard::merge_errors(&mut sb, found);
    }
    superblock::set_free_counts(&mut sb, free.0, free.1);
    sb
}

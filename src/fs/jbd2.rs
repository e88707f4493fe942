//! Recovery of an image's own journal, jbd2, before the first mount.
//!
//! Nothing is written before the whole journal has been read and found in
//! order. Then, for a mount that writes:
//!
//! ```text
//!     blocks home, all but the superblock's      image sync
//!     our session, with the superblock as jbd2   (its guard, as in every mount)
//!       would leave it
//!     journal emptied, as a record of ours       checkpoint
//! ```
//! Cut off before the guard is on, the image still says that it needs
//! recovery, and all of this is done again; afterwards only our journal
//! counts. So neither a torn superblock nor a torn head of the journal can be
//! what a power cut leaves: ours has the bytes of both.
//!
//! For reading only, the image is looked at through its journal instead, and
//! nothing is written at all.

use std::io;
use std::sync::Arc;

use super::{Fs, Result, inode, map};
use crate::device::Disk;
use crate::ext4::inode::{Inode, flag, mode};
use crate::ext4::jbd2::{self, Replay, Source, Super};
use crate::ext4::{Corrupt, Superblock, Unusable, superblock};
use crate::journal::{Blocks, Journal, Op};
use crate::units::{BlockNo, FileBlock, InodeNo, Time};

/// Why an image's own journal is not replayed. Nothing has been changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its bytes are wrong.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// It has what we don't know, by name.
    #[error("{0} are not supported")]
    Unsupported(String),
    /// Fast commits are behind its last transaction.
    #[error("fast commits wait in it, which are not supported")]
    FastCommits,
    /// The image says that it has one, and where it should be, there is none.
    #[error("it is not there ({0})")]
    Missing(String),
    /// The host failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Corrupt(corrupt) => Error::Corrupt(corrupt),
            Unusable::Unsupported(what) => Error::Unsupported(what),
        }
    }
}
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(Arc::new(error))
    }
}

/// An image's own journal, and what it has that the image lacks.
pub struct Pending {
    image: Arc<dyn Disk>,
    runs: Runs,
    replay: Replay,
    block_size: u32,
    home: BlockNo,
    failed: bool,
}

impl Pending {
    /// Reads the journal of an image. `raw` are its superblock's bytes, `view`
    /// shows its blocks as they are.
    pub fn read(
        image: Arc<dyn Disk>,
        sb: &Superblock,
        raw: &[u8; superblock::SIZE],
        view: &dyn Blocks,
    ) -> std::result::Result<Pending, Error> {
        if superblock::journal_device(raw) != 0 {
            return Err(Error::Missing("s_journal_dev names another device".into()));
        }
        let (head, inode) = locate(sb, raw, view)?;
        let runs = Runs::of(&inode, sb, view, head.len)?;
        let read = |at: u32, buf: &mut [u8]| -> std::result::Result<(), Error> {
            let block = runs.block(at).ok_or_else(|| hole(at))?;
            Ok(image.read_at(buf, block.0 * u64::from(sb.block_size))?)
        };
        // The image may grow in it: its superblock does not know yet.
        let present = image.len()? / u64::from(sb.block_size);
        let replay = jbd2::scan(&head, present, read)?;
        if let Some(at) = head.fast_commits() {
            let mut block = vec![0; sb.block_size as usize];
            read(at, &mut block)?;
            if replay.fast_commits_follow(&block) {
                return Err(Error::FastCommits);
            }
        }
        // A replay that writes over what it reads could not be done again.
        if let Some(block) = replay.blocks.keys().find(|block| runs.contain(**block)) {
            let what = "a journal transaction".to_owned();
            return Err(Corrupt::Field {
                what,
                field: "t_blocknr, in the journal itself,",
                value: block.0,
            }
            .into());
        }
        Ok(Pending {
            image,
            runs,
            replay,
            block_size: sb.block_size,
            home: sb.home().0,
            failed: head.failed,
        })
    }

    /// Whether the journal notes that the file system failed.
    pub fn failed(&self) -> bool {
        self.failed
    }
    /// Whole transactions in it.
    pub fn transactions(&self) -> u32 {
        self.replay.transactions
    }
    /// Blocks that they would write.
    pub fn blocks(&self) -> usize {
        self.replay.blocks.len()
    }

    /// The superblock's block as the journal would leave it.
    pub fn home(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.block_size as usize];
        match self.replay.blocks.get(&self.home) {
            Some(source) => self.fetch(*source, &mut bytes)?,
            None => {
                let at = self.home.0 * u64::from(self.block_size);
                self.image.read_at(&mut bytes, at)?;
            }
        }
        Ok(bytes)
    }

    /// Writes all blocks home but the superblock's, and makes them stable.
    /// Only the sectors that differ: no other is in flight then when the power
    /// fails, and the journal's own inode, which lies among blocks that it
    /// holds, can be found again.
    pub fn install(&self) -> io::Result<()> {
        let (mut new, mut old) = (
            vec![0; self.block_size as usize],
            vec![0; self.block_size as usize],
        );
        for (block, source) in &self.replay.blocks {
            if *block == self.home {
                continue;
            }
            self.fetch(*source, &mut new)?;
            let at = block.0 * u64::from(self.block_size);
            // What can't be read any more is mended by writing it.
            let known = self.image.read_at(&mut old, at).is_ok();
            for (start, sectors) in differing(&old, &new, known) {
                self.image.write_at(sectors, at + start as u64)?;
            }
        }
        self.image.sync()
    }

    /// The image as its journal would leave it, for reading.
    pub fn overlay(self: &Arc<Self>) -> Overlay {
        Overlay(self.clone())
    }

    fn fetch(&self, source: Source, bytes: &mut [u8]) -> io::Result<()> {
        let block = self
            .runs
            .block(source.at)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.image
            .read_at(bytes, block.0 * u64::from(self.block_size))?;
        source.restore(bytes);
        Ok(())
    }
}

/// Stretches of `new` that differ from `old` in every sector, with where they
/// begin; all of it if `old` isn't known.
fn differing<'n>(old: &[u8], new: &'n [u8], known: bool) -> Vec<(usize, &'n [u8])> {
    const SECTOR: usize = 512;
    let sectors: Vec<usize> = (0..new.len())
        .step_by(SECTOR)
        .filter(|at| !known || old[*at..*at + SECTOR] != new[*at..*at + SECTOR])
        .collect();
    sectors
        .chunk_by(|one, next| one + SECTOR == *next)
        .map(|run| (run[0], &new[run[0]..run[0] + run.len() * SECTOR]))
        .collect()
}

/// The journal's head and inode. If the inode leads nowhere (its table's
/// block or its group's descriptor were in flight when the power failed
/// during a replay), the superblock has a copy of where its blocks are.
fn locate(
    sb: &Superblock,
    raw: &[u8; superblock::SIZE],
    view: &dyn Blocks,
) -> std::result::Result<(Super, Inode), Error> {
    let number = InodeNo(sb.journal_inode);
    let found = inode::load(view, sb, number)
        .map_err(|e| Error::Missing(e.to_string()))
        .and_then(|inode| Ok((head(sb, view, &inode)?.1, inode)));
    let Err(error) = found else {
        return found;
    };
    let copy = superblock::journal_blocks(raw).filter(|_| number == InodeNo::JOURNAL);
    let copy = copy.map(|blocks| {
        let mut inode = Inode::new(number, mode::REGULAR, 0, Time::default(), sb);
        let extents = blocks[..2] == [0x0A, 0xF3];
        inode.flags = if extents { flag::EXTENTS } else { 0 };
        inode.block = blocks;
        inode
    });
    let known = copy.and_then(|inode| Some((head(sb, view, &inode).ok()?.1, inode)));
    known.ok_or(error)
}

/// The journal's first block: where it is, and what it says.
pub(super) fn head(
    sb: &Superblock,
    view: &dyn Blocks,
    inode: &Inode,
) -> std::result::Result<(BlockNo, Super), Error> {
    let missing = |e: &dyn std::fmt::Display| Error::Missing(e.to_string());
    if inode.kind() != mode::REGULAR {
        return Err(missing(&format!("inode {} is no file", inode.number)));
    }
    let found = map::find(view, sb, inode, FileBlock(0)).map_err(|e| missing(&e))?;
    let map::Mapping::Mapped { block, .. } = found else {
        return Err(hole(0));
    };
    let bytes = view.block(block).map_err(|e| missing(&e))?;
    let head = Super::decode(&bytes)?;
    let checks = [
        (
            head.block_size == sb.block_size,
            "s_blocksize",
            head.block_size,
        ),
        (u64::from(head.len) <= sb.blocks_count, "s_maxlen", head.len),
    ];
    match checks.into_iter().find(|(holds, ..)| !holds) {
        None => Ok((block, head)),
        Some((_, field, value)) => Err(Corrupt::Field {
            what: "the journal's superblock".into(),
            field,
            value: u64::from(value),
        }
        .into()),
    }
}

fn hole(at: u32) -> Error {
    Error::Missing(format!("block {at} of it is a hole"))
}

/// Where a journal's blocks are in the image.
struct Runs {
    /// First block of the journal, first block of the image, blocks.
    by_place: Vec<(u32, BlockNo, u32)>,
    /// The same in the image's order.
    by_block: Vec<(BlockNo, u32)>,
}

impl Runs {
    fn of(
        inode: &Inode,
        sb: &Superblock,
        view: &dyn Blocks,
        len: u32,
    ) -> std::result::Result<Runs, Error> {
        let (mut by_place, mut at) = (Vec::new(), 0);
        while at < len {
            let found = map::find(view, sb, inode, FileBlock(at));
            let run = match found.map_err(|e| Error::Missing(e.to_string()))? {
                map::Mapping::Mapped { block, len, .. } if len > 0 => (at, block, len),
                _ => return Err(hole(at)),
            };
            by_place.push(run);
            at = at.saturating_add(run.2);
        }
        let mut by_block: Vec<_> = by_place.iter().map(|run| (run.1, run.2)).collect();
        by_block.sort_unstable();
        Ok(Runs { by_place, by_block })
    }

    fn block(&self, at: u32) -> Option<BlockNo> {
        let behind = self.by_place.partition_point(|run| run.0 <= at);
        let (first, block, len) = *self.by_place.get(behind.checked_sub(1)?)?;
        (at - first < len).then_some(BlockNo(block.0 + u64::from(at - first)))
    }

    fn contain(&self, block: BlockNo) -> bool {
        let behind = self.by_block.partition_point(|run| run.0 <= block);
        let run = behind.checked_sub(1).and_then(|at| self.by_block.get(at));
        run.is_some_and(|(first, len)| block.0 - first.0 < u64::from(*len))
    }
}

/// Empties the image's own journal, if it has one that isn't: what it holds
/// is home, or of another time. Answers whether it was emptied.
pub fn empty(fs: &Fs) -> Result<bool> {
    let Some((block, bytes)) = emptied(&fs.sb, &fs.view())? else {
        return Ok(false);
    };
    let mut txn = fs.begin()?;
    txn.block_mut(block)?.copy_from_slice(&bytes);
    txn.commit(&Op::Orphan {
        inode: InodeNo(fs.sb.journal_inode),
    })?;
    Ok(true)
}

/// The block that [`empty`] would change, as it would leave it.
pub fn emptied(sb: &Superblock, view: &dyn Blocks) -> Result<Option<(BlockNo, Vec<u8>)>> {
    if sb.journal_inode == 0 {
        return Ok(None);
    }
    let inode = inode::load(view, sb, InodeNo(sb.journal_inode)).ok();
    let found = inode.and_then(|inode| head(sb, view, &inode).ok());
    let Some((block, head)) = found.filter(|(_, head)| !head.is_empty()) else {
        return Ok(None);
    };
    let mut bytes = view.block(block)?.to_vec();
    head.empty(&mut bytes);
    Ok(Some((block, bytes)))
}

/// An image as its own journal would leave it; for reading only.
pub struct Overlay(Arc<Pending>);

impl Disk for Overlay {
    fn len(&self) -> io::Result<u64> {
        self.0.image.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let pending = &*self.0;
        let size = u64::from(pending.block_size);
        pending.image.read_at(buf, offset)?;
        let end = offset + buf.len() as u64;
        let (first, last) = (BlockNo(offset / size), BlockNo(end.div_ceil(size)));
        let mut bytes = vec![0; size as usize];
        for (block, source) in pending.replay.blocks.range(first..last) {
            pending.fetch(*source, &mut bytes)?;
            let start = block.0 * size;
            let (from, to) = (start.max(offset), (start + size).min(end));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A view of an image as it is, for [`Pending::read`].
pub fn plain(image: Arc<dyn Disk>, block_size: u32) -> crate::journal::Result<Journal> {
    let options = crate::journal::Options {
        cache_size: 1 << 20,
        ..crate::journal::Options::for_image(0, block_size as usize)
    };
    Journal::read_only(image, options)
}

//! Regular files: open and close, read and write, and where data lie.

use super::attr::kill_priv;
use super::inode::{load_file, store, want_ro_compat};
use super::map::{self, Mapping};
use super::perm::{EXEC, READ, WRITE};
use super::{Atime, Caller, Done, Error, Fs, Result, Time, xattr};
use crate::ext4::Superblock;
use crate::ext4::features::ro_compat;
use crate::ext4::inode::{Inode, flag, mode};
use crate::journal::{Blocks, Gather, Op, Txn, View, ready};
use crate::units::{BlockNo, FileBlock, InodeNo, Lsn};

/// From this size on the image must say `large_file`.
const LARGE: u64 = 1 << 31;
const DAY: i64 = 24 * 60 * 60;
/// Bytes of a record that a write leaves to metadata, if it is a large one.
const METADATA: usize = 768 << 10;
/// The kernel's.
pub(super) const PAGE: usize = 4096;

/// Bytes of data in a record of at most `limit` bytes; the rest is for
/// bitmaps, descriptors and the tree.
fn most_data(limit: usize) -> usize {
    limit - (limit / 2).min(METADATA)
}
/// The kernel opens to execute (its FMODE_EXEC).
const OPEN_TO_RUN: i32 = 0x20;

/// How a write came.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteFlags {
    /// Clear suid and sgid.
    pub kill_priv: bool,
    /// Through a handle that was to append only, and whose O_APPEND is gone.
    pub astray: bool,
    /// The kernel brings what was stored into a mapping.
    pub mapped: bool,
}

/// How far a write came before something was full.
#[derive(Default)]
struct Reach {
    bytes: usize,
    /// It was the record, not the image.
    in_record: bool,
}

/// A record of a write.
struct Written {
    len: usize,
    lsn: Lsn,
    /// The image took no more.
    full: bool,
    /// The file asks for durability.
    sync: bool,
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE
    Hole,
}

impl Fs {
    /// Opens a file; `flags` as in open(2) (O_TRUNC counts). Answers whether the
    /// handle is to append only.
    pub fn open(&self, by: &Caller, number: InodeNo, flags: i32) -> Result<Done<bool>> {
        self.may_open(by, number, flags)?;
        let inode = load_file(&self.view(), &self.sb, number)?;
        let lsn = match flags & libc::O_TRUNC != 0 && inode.kind() == mode::REGULAR {
            true => self.truncate(by, number, 0)?,
            false => None,
        };
        self.opened(number);
        Ok(Done {
            value: inode.has(flag::APPEND) && flags & libc::O_ACCMODE != libc::O_RDONLY,
            lsn,
            durable: inode.is_sync(),
        })
    }

    fn may_open(&self, by: &Caller, number: InodeNo, flags: i32) -> Result<()> {
        let view = self.view();
        let inode = load_file(&view, &self.sb, number)?;
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        let reads = flags & libc::O_ACCMODE != libc::O_WRONLY;
        let read = match flags & OPEN_TO_RUN != 0 {
            true => EXEC,
            false => READ,
        };
        let want = if reads { read } else { 0 } | if writes { WRITE } else { 0 };
        self.may(&view, by, &inode, want)?;
        if !writes || !matches!(inode.kind(), mode::REGULAR | mode::DIRECTORY) {
            return Ok(());
        }
        if inode.kind() == mode::DIRECTORY {
            return Err(Error::IsDirectory);
        }
        self.writable()?;
        match inode.has(flag::APPEND) && (flags & libc::O_APPEND == 0 || flags & libc::O_TRUNC != 0)
        {
            true => Err(Error::NotPermitted),
            false => self.mutable(&inode),
        }
    }

    /// Counts a handle on a file that was just created.
    pub fn opened(&self, number: InodeNo) {
        *self.tables.lock().opens.entry(number).or_default() += 1;
    }

    /// Closes one handle; a file without a name goes with its last.
    pub fn release(&self, number: InodeNo) -> Result<Done<()>> {
        if self.tables.lock().close(number) {
            self.closed(number)?;
        }
        Ok(Done::nothing(()))
    }

    /// Opens a directory, also a removed one that somebody is in. It is not
    /// counted: what is left of a removed directory are attributes, which the
    /// kernel's references keep.
    pub fn opendir(&self, by: &Caller, number: InodeNo) -> Result<Done<()>> {
        let view = self.view();
        let (inode, _) = self.load_or_gone(&view, number)?;
        if inode.kind() != mode::DIRECTORY {
            return Err(Error::NotDirectory);
        }
        self.may(&view, by, &inode, READ)?;
        Ok(Done::nothing(()))
    }

    /// The kernel holds one reference more: its number won't be given away.
    pub fn remember(&self, number: InodeNo) {
        *self.tables.lock().lookups.entry(number).or_default() += 1;
    }

    /// The kernel dropped `count` references.
    pub fn forget(&self, number: InodeNo, count: u64) {
        let mut tables = self.tables.lock();
        let Some(left) = tables.lookups.get_mut(&number) else {
            return;
        };
        *left = left.saturating_sub(count);
        if *left > 0 {
            return;
        }
        tables.lookups.remove(&number);
        tables.gone.remove(&number);
        drop(tables);
        if let Err(error) = self.noting(self.closed(number)) {
            log::debug!("inode {number}, which has no name: {error}");
        }
    }

    /// Reads up to `len` bytes; fewer only at the file's end.
    pub fn read(&self, number: InodeNo, offset: u64, len: u32) -> Result<Vec<u8>> {
        let size = self.file_to_read(&self.view(), number)?.size;
        let len = u64::from(len).min(size.saturating_sub(offset));
        let mut bytes = vec![0; len as usize];
        let read = self.read_into(number, offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Whether what goes past the page cache may begin or end within a sector:
    /// a read that begins at the file's end, and if the data are to be journaled,
    /// which ext4 sends through the page cache.
    pub fn may_be_crooked(&self, number: InodeNo, read_at: Option<u64>) -> Result<()> {
        let inode = self.file_to_read(&self.view(), number)?;
        match inode.has(flag::JOURNAL_DATA) || read_at.is_some_and(|at| at >= inode.size) {
            true => Ok(()),
            false => Err(Error::Invalid),
        }
    }

    /// Reads into a buffer; answers how many bytes there were.
    pub fn read_into(&self, number: InodeNo, offset: u64, into: &mut [u8]) -> Result<usize> {
        // Checkpoints that begin while it reads are rare; one that comes each
        // time is waited for.
        for _ in 0..3 {
            let (inode, len, found) = self.find_to_read(number, offset, into.len())?;
            if self.journal.read(&found, &mut into[..len])? {
                self.touch(&inode)?;
                return Ok(len);
            }
        }
        let view = self.view();
        let inode = self.file_to_read(&view, number)?;
        let len = (into.len() as u64).min(inode.size.saturating_sub(offset)) as usize;
        read_at(&view, &self.sb, &inode, offset, &mut into[..len])?;
        drop(view);
        self.touch(&inode)?;
        Ok(len)
    }

    /// The same without waiting for a disk to bring the file's bytes; `None`: it
    /// would have to.
    pub fn read_ready(
        &self,
        number: InodeNo,
        offset: u64,
        into: &mut [u8],
    ) -> Result<Option<usize>> {
        let (inode, len, found) = self.find_to_read(number, offset, into.len())?;
        if !self.journal.read_ready(&found, &mut into[..len])? {
            return Ok(None);
        }
        self.touch(&inode)?;
        Ok(Some(len))
    }

    /// A file, how many bytes of `room` it has from `offset` on, and where they are.
    fn find_to_read(
        &self,
        number: InodeNo,
        offset: u64,
        room: usize,
    ) -> Result<(Inode, usize, Gather)> {
        let view = self.view();
        let inode = self.file_to_read(&view, number)?;
        let len = (room as u64).min(inode.size.saturating_sub(offset)) as usize;
        let mut found = view.gather();
        find_at(&view, &self.sb, &inode, offset, len, &mut found)?;
        Ok((inode, len, found))
    }

    fn file_to_read(&self, view: &View<'_>, number: InodeNo) -> Result<Inode> {
        let inode = load_file(view, &self.sb, number)?;
        match inode.kind() {
            mode::REGULAR => Ok(inode),
            mode::DIRECTORY => Err(Error::IsDirectory),
            _ => Err(Error::Invalid),
        }
    }

    /// The longest write that is one record wherever it begins, in whole pages.
    pub fn longest_write(&self) -> usize {
        let most = most_data(self.journal.limit()).max(self.sb.block_size as usize);
        (most + 1 - self.sb.block_size as usize) / PAGE * PAGE
    }

    /// Writes; a short count means that the image is full.
    pub fn write(
        &self,
        by: &Caller,
        number: InodeNo,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<Done<usize>> {
        let mut done = Done::nothing(0);
        while done.value < data.len() {
            let at = offset + done.value as u64;
            match self.write_record(by, number, at, &data[done.value..], flags) {
                Ok(Written {
                    len,
                    lsn,
                    full,
                    sync,
                }) => {
                    done.value += len;
                    (done.lsn, done.durable) = (Some(lsn), sync);
                    if full {
                        break;
                    }
                }
                // To be done again from the start, when there is room.
                Err(Error::Full) => return Err(Error::Full),
                Err(error) if done.value == 0 => return Err(error),
                // What was written stays written; the caller sees the error when it goes on.
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes what fits into one record, and into the image. If that was full
    /// the write is short. (A request whose blocks lie
    /// in so many pieces that one record can't hold them becomes several
    /// operations: a short count would be taken for a full image.)
    fn write_record(
        &self,
        by: &Caller,
        number: InodeNo,
        at: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<Written> {
        self.settle(number)?;
        let mut want = data.len();
        let mut full = false;
        loop {
            let mut txn = self.begin_with(want)?;
            let most = most_data(txn.limit()).max(self.sb.block_size as usize);
            want = want.min(most - (at % u64::from(self.sb.block_size)) as usize);
            let mut reach = Reach::default();
            let mut stripped = false;
            match self.write_all(
                &mut txn,
                by,
                number,
                at,
                &data[..want],
                flags,
                &mut reach,
                &mut stripped,
            ) {
                Ok((len, op, sync)) => {
                    let lsn = txn.commit(&op)?;
                    if stripped {
                        self.tell_changed(number);
                    }
                    return Ok(Written {
                        len,
                        lsn,
                        full,
                        sync,
                    });
                }
                // Full: give the half-done change up, and do again what there was room for.
                Err(Error::NoSpace) if reach.bytes > 0 && reach.bytes < want => {
                    want = reach.bytes;
                    full |= !reach.in_record;
                }
                Err(error) => return Err(error),
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn write_all<'d>(
        &self,
        txn: &mut Txn<'d>,
        by: &Caller,
        number: InodeNo,
        at: u64,
        data: &'d [u8],
        flags: WriteFlags,
        reach: &mut Reach,
        stripped: &mut bool,
    ) -> Result<(usize, Op, bool)> {
        let mut inode = load_file(txn, &self.sb, number)?;
        must_be_regular(&inode)?;
        self.mutable(&inode)?;
        // A program may give O_APPEND up: the kernel doesn't know the flag.
        if inode.has(flag::APPEND) && flags.astray && !flags.mapped {
            return Err(Error::NotPermitted);
        }
        let room = max_size(&self.sb, &inode).saturating_sub(at);
        if room == 0 {
            return Err(Error::TooBig);
        }
        let data = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        let time = self.now();
        let end = at + data.len() as u64;
        if at > inode.size {
            zero_tail(txn, &self.sb, &inode)?;
        }
        txn.attach(data, at);
        let want = data.len() as u64 / u64::from(self.sb.block_size) + 2;
        let keep = self.kept_from(txn, by, want)?;
        self.place(txn, &mut inode, at, data.len(), keep, reach)?;
        self.extend(txn, &mut inode, end)?;
        *stripped = flags.kill_priv && kill_priv(by, &mut inode);
        if !flags.mapped {
            xattr::kill_capability(txn, &self.sb, &mut inode)?;
        }
        (inode.mtime, inode.ctime) = (time, time);
        store(txn, &self.sb, &inode)?;
        let op = Op::Write {
            by: by.into(),
            inode: number,
            offset: at,
            len: data.len() as u64,
            time,
        };
        Ok((data.len(), op, inode.is_sync()))
    }

    /// Puts the attached data into the file's blocks, allocating what is missing.
    fn place(
        &self,
        txn: &mut Txn<'_>,
        inode: &mut Inode,
        at: u64,
        len: usize,
        keep: u64,
        reach: &mut Reach,
    ) -> Result<()> {
        let sb = &self.sb;
        let bs = u64::from(sb.block_size);
        let end = at + len as u64;
        let budget = txn.limit() - txn.limit() / 8;
        let mut file = at / bs;
        while file * bs < end {
            let want = (end.div_ceil(bs) - file) as u32;
            let here = FileBlock(file as u32);
            let (block, count, new) = match map::find(txn, sb, inode, here)? {
                Mapping::Mapped {
                    block,
                    len,
                    unwritten: false,
                } => (block, len.min(want), false),
                Mapping::Mapped {
                    block,
                    len,
                    unwritten: true,
                } => {
                    map::mark(txn, sb, inode, here, len.min(want), false)?;
                    (block, len.min(want), true)
                }
                Mapping::Hole { len } => {
                    let (block, count) =
                        map::allocate(txn, sb, inode, here, len.min(want), false, keep)?;
                    (block, count, true)
                }
            };
            for n in 0..u64::from(count) {
                let block = crate::units::BlockNo(block.0 + n);
                let start = ((file + n) * bs).max(at);
                let stop = ((file + n + 1) * bs).min(end);
                if stop - start == bs {
                    txn.put(block, (start - at) as usize)?;
                    continue;
                }
                if new {
                    txn.fresh(block)?;
                }
                txn.patch(
                    block,
                    (start % bs) as usize,
                    (start - at) as usize..(stop - at) as usize,
                )?;
            }
            file += u64::from(count);
            reach.bytes = ((file * bs).min(end) - at) as usize;
            // Pieces all over the image: less data, and another record for the rest.
            if txn.len() > budget && reach.bytes < len {
                reach.in_record = true;
                return Err(Error::NoSpace);
            }
        }
        Ok(())
    }

    /// The file reaches at least to `end`.
    pub(super) fn extend(&self, txn: &mut Txn<'_>, inode: &mut Inode, end: u64) -> Result<()> {
        if end > inode.size {
            inode.size = end;
            if end >= LARGE {
                want_ro_compat(txn, &self.sb, ro_compat::LARGE_FILE)?;
            }
        }
        Ok(())
    }

    /// The next data or hole at or after `offset`; `NoDevice` if there is none.
    pub fn seek(&self, number: InodeNo, offset: u64, whence: Whence) -> Result<u64> {
        let view = self.view();
        let inode = load_file(&view, &self.sb, number)?;
        let bs = u64::from(self.sb.block_size);
        if offset >= inode.size {
            return Err(Error::NoDevice);
        }
        if inode.kind() != mode::REGULAR {
            return Ok(if whence == Whence::Data {
                offset
            } else {
                inode.size
            });
        }
        let mut at = offset / bs;
        while at * bs < inode.size {
            let (is_data, len) = match map::find(&view, &self.sb, &inode, FileBlock(at as u32))? {
                Mapping::Mapped { len, unwritten, .. } => (!unwritten, len),
                Mapping::Hole { len } => (false, len),
            };
            if is_data == (whence == Whence::Data) {
                return Ok(offset.max(at * bs));
            }
            at += u64::from(len.max(1));
        }
        match whence {
            Whence::Data => Err(Error::NoDevice),
            Whence::Hole => Ok(inode.size),
        }
    }

    /// Notes the access time of a read, where the options want it. A failure
    /// is not the reader's, unless a disk must not be waited for.
    pub(super) fn touch(&self, inode: &Inode) -> Result<()> {
        let now = self.now();
        let wanted = match self.options.atime {
            Atime::Noatime => false,
            _ if self.options.nodiratime && inode.mode & mode::TYPE == mode::DIRECTORY => false,
            Atime::Strict => true,
            Atime::Relatime => {
                inode.atime <= inode.mtime
                    || inode.atime <= inode.ctime
                    || now.secs - inode.atime.secs >= DAY
            }
        };
        if !wanted || self.options.read_only || inode.has(flag::NOATIME) || inode.atime == now {
            return Ok(());
        }
        let number = inode.number;
        let stored = self.journal.fetching(|| self.store_atime(number, now));
        match self.noting(stored) {
            Err(error) if ready::is_lacking() => Err(error),
            Err(error) => {
                log::debug!("access time of inode {number}: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn store_atime(&self, number: InodeNo, time: Time) -> Result<()> {
        let mut txn = self.begin()?;
        let mut inode = load_file(&txn, &self.sb, number)?;
        inode.atime = time;
        store(&mut txn, &self.sb, &inode)?;
        txn.commit(&Op::Atime {
            inode: number,
            time,
        })?;
        Ok(())
    }
}

/// The largest size that a file may have.
pub fn max_size(sb: &Superblock, inode: &Inode) -> u64 {
    map::max_blocks(sb, inode) * u64::from(sb.block_size)
}

/// Reads a file's bytes (also a long symlink's); beyond its blocks zeros.
pub fn read_at(
    blocks: &dyn Blocks,
    sb: &Superblock,
    inode: &Inode,
    offset: u64,
    into: &mut [u8],
) -> Result<()> {
    let mut rest = into;
    stretches(blocks, sb, inode, offset, rest.len(), |at, len| {
        let (now, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        match at {
            Some((block, within)) => Ok(blocks.read(block, within, now)?),
            None => {
                now.fill(0);
                Ok(())
            }
        }
    })
}

/// Notes where a file's bytes stand.
fn find_at(
    view: &View<'_>,
    sb: &Superblock,
    inode: &Inode,
    offset: u64,
    len: usize,
    found: &mut Gather,
) -> Result<()> {
    stretches(view, sb, inode, offset, len, |at, len| match at {
        Some((block, within)) => Ok(view.find(block, within, len, found)?),
        None => {
            found.zeros(len);
            Ok(())
        }
    })
}

/// The stretches of a file's bytes, in order: block and byte within it, or
/// nothing for zeros; and how many bytes.
fn stretches(
    blocks: &dyn Blocks,
    sb: &Superblock,
    inode: &Inode,
    offset: u64,
    len: usize,
    mut each: impl FnMut(Option<(BlockNo, usize)>, usize) -> Result<()>,
) -> Result<()> {
    let bs = u64::from(sb.block_size);
    let end = offset + len as u64;
    let mut at = offset;
    while at < end {
        let (block, count) = match map::find(blocks, sb, inode, FileBlock((at / bs) as u32))? {
            Mapping::Mapped {
                block,
                len,
                unwritten: false,
            } => (Some((block, (at % bs) as usize)), len),
            Mapping::Mapped { len, .. } | Mapping::Hole { len } => (None, len),
        };
        let stop = end.min((at / bs + u64::from(count.max(1))) * bs);
        each(block, (stop - at) as usize)?;
        at = stop;
    }
    Ok(())
}

/// Before a file grows past its end: what stands behind the end in the last
/// block must be zeros. It is, unless someone else wrote it through a map.
pub(super) fn zero_tail(txn: &mut Txn<'_>, sb: &Superblock, inode: &Inode) -> Result<()> {
    let bs = u64::from(sb.block_size);
    zero_part(txn, sb, inode, inode.size, inode.size.next_multiple_of(bs))
}

/// Zeros `from .. to`, which lie within one block, where data are.
pub(super) fn zero_part(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &Inode,
    from: u64,
    to: u64,
) -> Result<()> {
    let bs = u64::from(sb.block_size);
    if from >= to {
        return Ok(());
    }
    if let Mapping::Mapped {
        block,
        unwritten: false,
        ..
    } = map::find(txn, sb, inode, FileBlock((from / bs) as u32))?
    {
        let (start, stop) = ((from % bs) as usize, (from % bs + (to - from)) as usize);
        if txn.block(block)?[start..stop].iter().any(|byte| *byte != 0) {
            txn.block_mut(block)?[start..stop].fill(0);
        }
    }
    Ok(())
}

pub(super) fn must_be_regular(inode: &Inode) -> Result<()> {
    match inode.kind() {
        mode::REGULAR => Ok(()),
        mode::DIRECTORY => Err(Error::IsDirectory),
        _ => Err(Error::Invalid),
    }
}

#[cfg(test)]
mod tests;

//! A file's size and its space: truncate and fallocate.

use super::attr::kill_priv;
use super::file::{PAGE, max_size, must_be_regular, zero_part, zero_tail};
use super::inode::{load_file, store};
use super::map::{self, Mapping};
use super::orphan::Later;
use super::{Caller, Done, Error, Fs, Result};
use crate::ext4::Superblock;
use crate::ext4::extent::MAX_UNWRITTEN;
use crate::ext4::inode::{Inode, flag};
use crate::journal::{Blocks, Op, Txn};
use crate::units::{FileBlock, InodeNo, Lsn};

/// What fallocate(2) is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// Allocate what is missing, unwritten.
    Reserve,
    /// Free whole blocks, zero the rest.
    Punch,
    /// Make it read as zeros, and stay allocated.
    Zero,
}

/// Where a hole to `end` ends: as on ext4, with the page that has the file's
/// last byte, and what is allocated behind that stays.
fn punched(inode: &Inode, end: u64) -> u64 {
    end.min(inode.size.next_multiple_of(PAGE as u64))
}

impl Fs {
    /// Sets a regular file's size, in a transaction that may change more of
    /// it. The caller stores the inode, commits, and calls [`Fs::finish`]:
    /// blocks that one record can't free go afterwards, size first.
    pub(super) fn resize(&self, txn: &mut Txn<'_>, inode: &mut Inode, size: u64) -> Result<Later> {
        must_be_regular(inode)?;
        if size > max_size(&self.sb, inode) {
            return Err(Error::TooBig);
        }
        if size > inode.size {
            zero_tail(txn, &self.sb, inode)?;
            self.extend(txn, inode, size)?;
            return Ok(Later::default());
        }
        // (Also where it ends already: what was allocated behind that goes.)
        let bs = u64::from(self.sb.block_size);
        zero_part(txn, &self.sb, inode, size, size.next_multiple_of(bs))?;
        inode.size = size;
        let budget = txn.limit() / 2;
        match map::free_from(
            txn,
            &self.sb,
            inode,
            FileBlock(size.div_ceil(bs) as u32),
            budget,
        )? {
            true => Ok(Later::default()),
            false => self.shortened(txn, inode),
        }
    }

    /// truncate(2), as O_TRUNC does it.
    pub(super) fn truncate(&self, by: &Caller, number: InodeNo, size: u64) -> Result<Option<Lsn>> {
        self.settle(number)?;
        let mut txn = self.begin()?;
        let mut inode = load_file(&txn, &self.sb, number)?;
        let time = self.now();
        let later = self.resize(&mut txn, &mut inode, size)?;
        if by.uid != 0 {
            kill_priv(by, &mut inode);
        }
        (inode.mtime, inode.ctime) = (time, time);
        store(&mut txn, &self.sb, &inode)?;
        let lsn = txn.commit(&Op::SetAttr {
            by: by.into(),
            inode: number,
            mode: None,
            uid: None,
            gid: None,
            size: Some(size),
            atime: None,
            mtime: Some(time),
            ctime: time,
        })?;
        self.finish(later)?;
        Ok(Some(lsn))
    }

    /// fallocate(2): `mode` 0, KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE. A range
    /// too large for one record becomes several, each a fallocate of its own.
    pub fn fallocate(
        &self,
        by: &Caller,
        number: InodeNo,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<Done<()>> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let space = match mode {
            0 | KEEP => Space::Reserve,
            PUNCH => Space::Punch,
            ZERO | ZERO_KEEP => Space::Zero,
            _ => return Err(Error::Unsupported),
        };
        let end = offset
            .checked_add(len)
            .filter(|_| len > 0)
            .ok_or(Error::Invalid)?;
        self.settle(number)?;
        let mut at = offset;
        let (mut lsn, mut durable) = (None, false);
        while at < end {
            let mut txn = self.begin()?;
            let mut inode = load_file(&txn, &self.sb, number)?;
            self.check_space(&txn, by, &inode, space, at, end)?;
            durable = inode.is_sync();
            let time = self.now();
            let reached = match space {
                Space::Reserve => self.reserve(&mut txn, &mut inode, at, end, self.kept(by))?,
                Space::Punch => match punched(&inode, end) {
                    to if to <= at => end,
                    to => match self.punch(&mut txn, &mut inode, at, to)? {
                        reached if reached == to => end,
                        reached => reached,
                    },
                },
                Space::Zero => self.zero(&mut txn, &mut inode, at, end, self.kept(by))?,
            };
            if mode & KEEP == 0 && reached > inode.size {
                zero_tail(&mut txn, &self.sb, &inode)?;
                self.extend(&mut txn, &mut inode, reached)?;
            }
            let stripped = by.uid != 0 && kill_priv(by, &mut inode);
            (inode.mtime, inode.ctime) = (time, time);
            store(&mut txn, &self.sb, &inode)?;
            let (mode, len) = (mode as u32, reached - at);
            lsn = Some(txn.commit(&Op::Fallocate {
                by: by.into(),
                inode: number,
                mode,
                offset: at,
                len,
                time,
            })?);
            if stripped {
                self.tell_changed(number);
            }
            at = reached;
        }
        Ok(Done {
            value: (),
            lsn,
            durable,
        })
    }

    /// Refuses before anything is changed what can't be done to the end.
    fn check_space(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        inode: &Inode,
        space: Space,
        at: u64,
        end: u64,
    ) -> Result<()> {
        must_be_regular(inode)?;
        if end > max_size(&self.sb, inode) {
            return Err(Error::TooBig);
        }
        self.mutable(inode)?;
        // The old block map can't say "unwritten".
        if space != Space::Punch && !inode.has(flag::EXTENTS) {
            return Err(Error::Unsupported);
        }
        if space != Space::Reserve {
            self.alterable(inode)?;
        }
        if space == Space::Punch {
            return Ok(());
        }
        let missing = holes(blocks, &self.sb, inode, at, end)?;
        match missing > 0
            && missing > super::alloc::available(blocks, &self.sb, self.kept(by), missing)?
        {
            true => Err(Error::NoSpace),
            false => Ok(()),
        }
    }

    fn reserve(
        &self,
        txn: &mut Txn<'_>,
        inode: &mut Inode,
        from: u64,
        to: u64,
        keep: u64,
    ) -> Result<u64> {
        let bs = u64::from(self.sb.block_size);
        let budget = txn.limit() / 2;
        let (mut at, end) = (from / bs, to.div_ceil(bs));
        while at < end && txn.len() <= budget {
            let here = FileBlock(at as u32);
            at += u64::from(match map::find(txn, &self.sb, inode, here)? {
                Mapping::Mapped { len, .. } => len,
                Mapping::Hole { len } => {
                    let want = u64::from(len).min(end - at) as u32;
                    map::allocate(txn, &self.sb, inode, here, want, true, keep)?.1
                }
            });
        }
        Ok(to.min(at * bs))
    }

    fn punch(&self, txn: &mut Txn<'_>, inode: &mut Inode, from: u64, to: u64) -> Result<u64> {
        let bs = u64::from(self.sb.block_size);
        let budget = txn.limit() / 2;
        let (first, last) = (from.div_ceil(bs), to / bs);
        if first > last {
            zero_part(txn, &self.sb, inode, from, to)?;
            return Ok(to);
        }
        zero_part(txn, &self.sb, inode, from, first * bs)?;
        let reached = map::punch(
            txn,
            &self.sb,
            inode,
            FileBlock(first as u32),
            FileBlock(last as u32),
            budget,
        )?;
        if u64::from(reached.0) < last {
            return Ok(u64::from(reached.0) * bs);
        }
        zero_part(txn, &self.sb, inode, last * bs, to)?;
        Ok(to)
    }

    fn zero(
        &self,
        txn: &mut Txn<'_>,
        inode: &mut Inode,
        from: u64,
        to: u64,
        keep: u64,
    ) -> Result<u64> {
        let bs = u64::from(self.sb.block_size);
        let budget = txn.limit() / 2;
        let (first, last) = (from.div_ceil(bs), to / bs);
        let (mut at, end) = (from / bs, to.div_ceil(bs));
        while at < end && txn.len() <= budget {
            let here = FileBlock(at as u32);
            let (len, written) = match map::find(txn, &self.sb, inode, here)? {
                Mapping::Mapped { len, unwritten, .. } => (len, !unwritten),
                Mapping::Hole { len } => {
                    let want = u64::from(len).min(end - at) as u32;
                    (
                        map::allocate(txn, &self.sb, inode, here, want, true, keep)?.1,
                        false,
                    )
                }
            };
            // Only whole blocks can become unwritten; the ends are zeroed by hand.
            let len = u64::from(len).min(end - at);
            let len = match (at < first, at >= last) {
                _ if !written => len,
                (true, _) | (_, true) => {
                    zero_part(
                        txn,
                        &self.sb,
                        inode,
                        from.max(at * bs),
                        to.min((at + 1) * bs),
                    )?;
                    1
                }
                _ => {
                    let len = len.min(last - at).min(u64::from(MAX_UNWRITTEN));
                    map::mark(txn, &self.sb, inode, here, len as u32, true)?;
                    len
                }
            };
            at += len;
        }
        Ok(to.min(at * bs))
    }
}

/// Blocks of a range that are not allocated.
fn holes(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode, from: u64, to: u64) -> Result<u64> {
    let bs = u64::from(sb.block_size);
    let (mut at, end) = (from / bs, to.div_ceil(bs));
    let mut sum = 0;
    while at < end {
        let len = match map::find(blocks, sb, inode, FileBlock(at as u32))? {
            Mapping::Mapped { len, .. } => u64::from(len),
            Mapping::Hole { len } => {
                let len = u64::from(len.max(1)).min(end - at);
                sum += len;
                len
            }
        };
        at += len;
    }
    Ok(sum)
}

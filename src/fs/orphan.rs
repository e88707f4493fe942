//! Inodes that have no name, or whose blocks are still being freed.
//!
//! They are on a chain in the image: the superblock names the first, each
//! inode's `dtime` the next. After a crash the chain says what is left to do.
//! (The orphan file of newer formats is read and emptied at mount; new
//! orphans go on the chain, as the kernel's do when its file is full.)

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::inode::{load, store, superblock, superblock_mut};
use super::map::{self, Mapping};
use super::{Fs, Result, alloc, xattr};
use crate::ext4::features::ro_compat;
use crate::ext4::inode::{Inode, mode};
use crate::ext4::{Corrupt, Superblock, orphan, superblock as raw};
use crate::journal::{Blocks, Op, Txn, ready};
use crate::units::{BlockNo, FileBlock, InodeNo, Time};

/// An orphan file is no larger, or the image is forged. (mkfs makes 2 MiB at most.)
const ORPHAN_FILE_MOST: u64 = 8 << 20;

/// What is left to do once a transaction has been committed:
/// [`Fs::finish`] does it.
#[must_use]
#[derive(Debug, Default)]
pub struct Later(Option<InodeNo>);

/// Who comes before whom on the chain, which itself leads one way only: else
/// thousands of files without a name would be walked through for each that is
/// closed. Entries are hints, since a transaction may have been given up.
#[derive(Default)]
pub(super) struct Before(Mutex<HashMap<InodeNo, InodeNo>>);

/// Where an inode is on the chain.
enum Place {
    Nowhere,
    First,
    After(Box<Inode>),
}

impl Before {
    /// Puts an inode at the head of the chain. (The caller stores it.)
    fn add(&self, txn: &mut Txn<'_>, sb: &Superblock, inode: &mut Inode) -> Result<()> {
        let head = raw::last_orphan(&superblock(txn, sb)?);
        inode.dtime = head.0;
        raw::set_last_orphan(superblock_mut(txn, sb)?, inode.number);
        self.note(head, inode.number);
        Ok(())
    }

    /// Takes an inode off the chain, if it is on it. (The caller stores it.)
    fn remove(&self, txn: &mut Txn<'_>, sb: &Superblock, inode: &mut Inode) -> Result<()> {
        let next = InodeNo(inode.dtime);
        match self.place(txn, sb, inode.number)? {
            Place::Nowhere => {}
            Place::First => raw::set_last_orphan(superblock_mut(txn, sb)?, next),
            Place::After(mut before) => {
                before.dtime = next.0;
                store(txn, sb, &before)?;
                self.note(next, before.number);
            }
        }
        self.0.lock().remove(&inode.number);
        inode.dtime = 0;
        Ok(())
    }

    fn place(&self, blocks: &dyn Blocks, sb: &Superblock, number: InodeNo) -> Result<Place> {
        if raw::last_orphan(&superblock(blocks, sb)?) == number {
            return Ok(Place::First);
        }
        let leads_here = |inode: &Inode| inode.dtime == number.0;
        let hint = self.0.lock().get(&number).copied();
        // What was on the chain once and leads to a live inode still is.
        let before = hint.and_then(|hint| load(blocks, sb, hint).ok().filter(leads_here));
        let before = match before {
            Some(before) => Some(before),
            None => chain(blocks, sb)?.into_iter().find(leads_here),
        };
        Ok(before.map_or(Place::Nowhere, |inode| Place::After(inode.into())))
    }

    fn note(&self, inode: InodeNo, before: InodeNo) {
        if inode.0 != 0 {
            self.0.lock().insert(inode, before);
        }
    }
}

/// The inodes on the chain, first one first.
pub fn list(blocks: &dyn Blocks, sb: &Superblock) -> Result<Vec<InodeNo>> {
    Ok(chain(blocks, sb)?
        .into_iter()
        .map(|inode| inode.number)
        .collect())
}

fn chain(blocks: &dyn Blocks, sb: &Superblock) -> Result<Vec<Inode>> {
    let mut found: Vec<Inode> = Vec::new();
    let mut seen = HashSet::new();
    let mut at = raw::last_orphan(&superblock(blocks, sb)?);
    while at.0 != 0 {
        let inode = load(blocks, sb, at)?;
        if !seen.insert(at) {
            let what = "orphan chain".into();
            return Err(Corrupt::Field {
                what,
                field: "i_dtime",
                value: u64::from(at.0),
            }
            .at(at, BlockNo(0))
            .into());
        }
        at = InodeNo(inode.dtime);
        found.push(inode);
    }
    Ok(found)
}

impl Fs {
    /// An inode lost its last name: frees it at once, when nobody has it any
    /// more, or after this transaction in steps. Stores the inode. `replaced`:
    /// another has its name now, and whoever just looked that up may still come
    /// to open this one; on an error the kernel would look again, but only once,
    /// and the name may have been replaced again.
    pub(super) fn unlinked(
        &self,
        txn: &mut Txn<'_>,
        inode: &mut Inode,
        time: Time,
        replaced: bool,
    ) -> Result<Later> {
        let number = inode.number;
        let (open, pending) = {
            let tables = self.tables.lock();
            (
                tables.opens.contains_key(&number)
                    || replaced && tables.lookups.contains_key(&number),
                tables.pending.contains(&number),
            )
        };
        let pending = pending && self.is_chained(txn, number)?;
        if !open && !pending && self.free_blocks_of(txn, inode)? {
            self.delete(txn, inode, time)?;
            return Ok(Later(None));
        }
        if !pending {
            self.before.add(txn, &self.sb, inode)?;
        }
        store(txn, &self.sb, inode)?;
        let mut tables = self.tables.lock();
        tables.arrivals += 1;
        if open {
            tables.held.insert(number);
            return Ok(Later(None));
        }
        tables.pending.insert(number);
        Ok(Later(Some(number)))
    }

    /// Blocks of a file that has become shorter are left: they go after this
    /// transaction, in steps.
    pub(super) fn shortened(&self, txn: &mut Txn<'_>, inode: &mut Inode) -> Result<Later> {
        let held = self.tables.lock().held.contains(&inode.number);
        if !(held && self.is_chained(txn, inode.number)?) {
            self.before.add(txn, &self.sb, inode)?;
        }
        let mut tables = self.tables.lock();
        tables.arrivals += 1;
        tables.pending.insert(inode.number);
        Ok(Later(Some(inode.number)))
    }

    /// The tables are written before the commit. A transaction that found the
    /// journal full, and is now done again, has left its number there without
    /// having put it on the chain; believed, a crash would leak the inode.
    fn is_chained(&self, txn: &Txn<'_>, number: InodeNo) -> Result<bool> {
        let place = self.before.place(txn, &self.sb, number)?;
        Ok(!matches!(place, Place::Nowhere))
    }

    /// Does what a committed transaction left to do. If the journal has no
    /// room for it now, or a disk would have to be waited for, it is done before
    /// the file's next change, or by [`Fs::tidy`], or at the next mount.
    pub(super) fn finish(&self, later: Later) -> Result<()> {
        use super::Error::{Corrupt, Full, ReadOnly};
        let Later(Some(number)) = later else {
            return Ok(());
        };
        match ready::or_leave(|| self.reap(number)).map(|done| self.noting(done)) {
            // Damage is noted, and e2fsck will find the inode on the chain.
            None | Some(Ok(()) | Err(Full | Corrupt(_) | ReadOnly(_))) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Finishes the freeing that a file is still in, before it is changed.
    pub(super) fn settle(&self, number: InodeNo) -> Result<()> {
        let pending = self.tables.lock().pending.contains(&number);
        if pending { self.reap(number) } else { Ok(()) }
    }

    /// Whether more space may be free in a moment: of files without a name that
    /// are still open, or whose blocks are being freed. Answers how many there
    /// have been: who waited in vain for those need not do it again.
    pub fn frees_soon(&self) -> Option<u64> {
        let tables = self.tables.lock();
        let none = tables.held.is_empty() && tables.pending.is_empty();
        (!none).then_some(tables.arrivals)
    }

    /// Goes on with freeing that waits for room in the journal.
    pub fn tidy(&self) -> Result<()> {
        self.record_damage();
        if self.writable().is_err() {
            return Ok(());
        }
        let pending: Vec<InodeNo> = self.tables.lock().pending.iter().copied().collect();
        pending.into_iter().try_for_each(|number| self.reap(number))
    }

    /// At the end of a mount: nothing is open any more, although the kernel
    /// drops the releases that it has not sent yet. Frees all that waits.
    pub fn close_all(&self) -> Result<()> {
        let mut tables = self.tables.lock();
        tables.opens.clear();
        let held = std::mem::take(&mut tables.held);
        tables.pending.extend(held);
        drop(tables);
        self.tidy()
    }

    /// At mount: finishes what the last session (or the kernel) left on the
    /// chain and in the orphan file. Answers how many inodes there were.
    pub fn collect_orphans(&self) -> Result<usize> {
        self.choose_hash_sign()?;
        let chain = list(&self.view(), &self.sb)?;
        for number in &chain {
            self.reap(*number)?;
        }
        Ok(chain.len() + self.collect_orphan_file()?)
    }

    /// An old image may not say how its directories hash names: from now on it does.
    fn choose_hash_sign(&self) -> Result<()> {
        if self.sb.hash_sign_unset {
            let mut txn = self.begin()?;
            raw::set_signed_hash(superblock_mut(&mut txn, &self.sb)?);
            txn.commit(&Op::Orphan { inode: InodeNo(0) })?;
        }
        Ok(())
    }

    /// Frees an orphan's blocks in as many transactions as it takes, and the
    /// inode itself if it has no name and nobody has it open.
    fn reap(&self, number: InodeNo) -> Result<()> {
        while !self.journal.fetching(|| self.reap_some(number))? {}
        let mut tables = self.tables.lock();
        tables.pending.remove(&number);
        if !tables.is_had(number) {
            tables.held.remove(&number);
        }
        Ok(())
    }

    /// One of those transactions; answers whether it was the last.
    fn reap_some(&self, number: InodeNo) -> Result<bool> {
        let mut txn = self.begin()?;
        let mut inode = match load(&txn, &self.sb, number) {
            Ok(inode) => inode,
            Err(super::Error::Stale) => return Ok(true), // its transaction was given up, or it is gone already
            Err(error) => return Err(error),
        };
        let open = self.tables.lock().is_had(number);
        let done = match inode.links {
            0 if open => self.free_behind_end(&mut txn, &mut inode)?,
            0 => self.free_blocks_of(&mut txn, &mut inode)?,
            _ => self.free_behind_end(&mut txn, &mut inode)?,
        };
        match (done, inode.links) {
            (false, _) => store(&mut txn, &self.sb, &inode)?,
            (true, 0) if open => store(&mut txn, &self.sb, &inode)?,
            (true, 0) => {
                self.before.remove(&mut txn, &self.sb, &mut inode)?;
                self.delete(&mut txn, &mut inode, self.now())?;
            }
            (true, _) => {
                self.before.remove(&mut txn, &self.sb, &mut inode)?;
                store(&mut txn, &self.sb, &inode)?;
            }
        }
        txn.commit(&Op::Orphan { inode: number })?;
        Ok(done)
    }

    /// A last handle is closed, or the kernel's last reference dropped: an inode
    /// without a name goes, if nobody has it now.
    pub(super) fn closed(&self, number: InodeNo) -> Result<()> {
        let tables = self.tables.lock();
        let free = tables.held.contains(&number) && !tables.is_had(number);
        drop(tables);
        if free {
            self.tables.lock().pending.insert(number);
            self.finish(Later(Some(number)))?;
        }
        Ok(())
    }

    fn free_blocks_of(&self, txn: &mut Txn<'_>, inode: &mut Inode) -> Result<bool> {
        let budget = txn.limit() / 2;
        map::free_from(txn, &self.sb, inode, FileBlock(0), budget)
    }

    fn free_behind_end(&self, txn: &mut Txn<'_>, inode: &mut Inode) -> Result<bool> {
        let budget = txn.limit() / 2;
        let end = inode
            .size
            .div_ceil(u64::from(self.sb.block_size))
            .min(u64::from(u32::MAX));
        map::free_from(txn, &self.sb, inode, FileBlock(end as u32), budget)
    }

    /// Frees an inode that has no blocks any more.
    fn delete(&self, txn: &mut Txn<'_>, inode: &mut Inode, time: Time) -> Result<()> {
        let last = xattr::last_of(txn, &self.sb, inode);
        xattr::free_all(txn, &self.sb, inode)?;
        let directory = inode.kind() == mode::DIRECTORY;
        alloc::free_inode(txn, &self.sb, &self.full, inode.number, directory)?;
        inode.size = 0;
        inode.mode = 0; // an old handle must not take it for a file
        inode.dtime = time.secs.clamp(1, i64::from(u32::MAX)) as u32;
        store(txn, &self.sb, inode)?;
        self.tables.lock().remember_gone(last);
        Ok(())
    }

    /// Empties the orphan file.
    fn collect_orphan_file(&self) -> Result<usize> {
        let number = InodeNo(self.sb.orphan_file_inode);
        if number.0 == 0
            || !raw::ro_compat_now(
                &superblock(&self.view(), &self.sb)?,
                ro_compat::ORPHAN_PRESENT,
            )
        {
            return Ok(0);
        }
        let file = load(&self.view(), &self.sb, number)?;
        if file.size > ORPHAN_FILE_MOST {
            let (what, field, value) = ("orphan file".into(), "i_size", file.size);
            let wrong = Corrupt::Field { what, field, value };
            return Err(wrong.at(number, BlockNo(0)).into());
        }
        let mut count = 0;
        for at in 0..file.size / u64::from(self.sb.block_size) {
            count += self.collect_orphan_block(&file, FileBlock(at as u32))?;
        }
        let mut txn = self.begin()?;
        raw::set_ro_compat(
            superblock_mut(&mut txn, &self.sb)?,
            0,
            ro_compat::ORPHAN_PRESENT,
        );
        txn.commit(&Op::Orphan { inode: number })?;
        Ok(count)
    }

    fn collect_orphan_block(&self, file: &Inode, at: FileBlock) -> Result<usize> {
        let Mapping::Mapped {
            block,
            unwritten: false,
            ..
        } = map::find(&self.view(), &self.sb, file, at)?
        else {
            return Ok(0);
        };
        let bytes = self.view().block(block)?;
        let seed = sum_seed(&self.sb, file);
        orphan::verify(&bytes, block, seed).map_err(|what| what.at(file.number, block))?;
        let mut count = 0;
        for number in orphan::inodes(&bytes) {
            self.reap(number)?;
            count += 1;
        }
        let mut txn = self.begin()?;
        orphan::clear(txn.block_mut(block)?, block, seed);
        txn.commit(&Op::Orphan { inode: file.number })?;
        Ok(count)
    }
}

/// What the checksums of the orphan file begin with.
fn sum_seed(sb: &Superblock, file: &Inode) -> Option<u32> {
    sb.has_metadata_csum().then(|| file.seed(sb))
}

#[cfg(test)]
mod tests;

//! Cleaning: segments that nobody needs become spares, beside everything
//! else that goes on.
//!
//! A segment may be overwritten when all its records are installed, when no
//! [`Place`](super::Place) in it lives, and when a *durable* frame says that
//! they are installed: without that, a recovery would look for them and call
//! their absence corruption.

use std::collections::VecDeque;
use std::sync::Arc;

use super::folder::Spare;
use super::keep::Sealed;
use super::segment::Segment;
use super::tail::Room;
use super::{Durable, Error, Inner, Log, Result};
use crate::sync::atomic::Ordering;
use crate::units::Lsn;

/// `installed` marks on their way to stable storage.
pub(super) struct Installs {
    /// (appended when it was set, installed): every later frame carries it.
    pending: VecDeque<(Lsn, Lsn)>,
    /// The highest installed mark that a durable frame carries.
    recorded: Lsn,
}

impl Installs {
    /// At an opening: the fresh segment's header carries the mark.
    pub fn recorded(installed: Lsn) -> Installs {
        Installs {
            pending: VecDeque::new(),
            recorded: installed,
        }
    }

    fn settle(&mut self, durable: Lsn) {
        while let Some((appended, installed)) = self.pending.front().copied() {
            if durable <= appended {
                break;
            }
            self.recorded = installed;
            self.pending.pop_front();
        }
    }
}

impl Log {
    /// Records up to `lsn` need not be kept. `proof` covers the record that
    /// says so (a checkpoint's), hence all up to `lsn` too.
    pub fn set_installed(&self, lsn: Lsn, proof: Durable) {
        assert!(
            lsn <= proof.lsn(),
            "installed {lsn} without proof: durable is {}",
            proof.lsn()
        );
        let mut installs = self.0.cleaning.lock();
        if lsn <= self.0.installed() {
            return;
        }
        self.0.installed.store(lsn.0, Ordering::Release);
        // Frames numbered from now on read the new mark when they are written.
        let appended = self.0.tail.lock().appended;
        installs.pending.push_back((appended, lsn));
    }

    /// Makes spares of segments that nobody needs. May append a mark and sync
    /// it. To be called now and then, in the background.
    pub fn clean(&self) -> Result<()> {
        self.0.alive()?;
        if self.0.idle_through(self.0.installed()).is_empty() {
            return Ok(());
        }
        if self.recorded() < self.0.installed() {
            // A sync may do: later frames carry the mark. Else a frame for it.
            self.sync()?;
            if self.recorded() < self.0.installed() {
                match self.mark_in(Room::Cleaning) {
                    // Readers hold what would give room: later, then.
                    Err(Error::Full) => {}
                    marked => {
                        marked?;
                        self.sync()?;
                    }
                }
            }
        }
        let recorded = self.recorded();
        for base in self.0.idle_through(recorded) {
            if !self.0.may_go(base) {
                // Nor may those behind it, or what is kept had a gap.
                break;
            }
            self.0.retire(base, recorded)?;
        }
        Ok(())
    }

    fn recorded(&self) -> Lsn {
        let mut installs = self.0.cleaning.lock();
        installs.settle(self.0.durable());
        installs.recorded
    }

    /// Makes one more spare ready, if one may be wanted: so that going on in
    /// the next segment, and the next recovery, find a file written through.
    /// A full host is no error: cleaning will give spares.
    pub fn prepare(&self) -> Result<()> {
        self.0.alive()?;
        match self.0.prepare_one() {
            Err(e) if e.host_is_full() => Ok(()),
            other => other,
        }
    }
}

impl Inner {
    /// Whether a segment has been kept elsewhere, if that is wanted. When the
    /// log needs its room it goes all the same: what is written now comes
    /// before what is remembered.
    fn may_go(&self, base: Lsn) -> bool {
        let Some(keeper) = &self.options.keeper else {
            return true;
        };
        let Some(segment) = self.chain.read().get(&base).cloned() else {
            return false;
        };
        let sealed = Sealed(segment);
        let kept = keeper.keep(&sealed);
        let pressed = || {
            let room = self.tail.lock().room(&self.options);
            room < self.options.capacity() * 2
        };
        if kept.is_err() && pressed() {
            keeper.lose(&sealed);
            return true;
        }
        kept.is_ok()
    }

    /// Bases of the oldest segments, as many as are wholly at or below
    /// `through` and not in use. (One in the middle stays: readers would
    /// find a gap.)
    fn idle_through(&self, through: Lsn) -> Vec<Lsn> {
        let chain = self.chain.read();
        let nexts = chain.keys().skip(1);
        let sealed = chain.iter().zip(nexts);
        // The chain's own handle is the only one: no reader, no Place.
        let idle = sealed.take_while(|((_, segment), next)| {
            next.prev() <= through && Arc::strong_count(segment) == 1
        });
        idle.map(|((base, _), _)| *base).collect()
    }

    fn prepare_one(&self) -> Result<()> {
        let size = self.options.segment_size;
        let Some(mut spare) = self.unfilled_spare()? else {
            return Ok(());
        };
        // Outside the lock: this writes and syncs a whole segment.
        let filled = spare.fill(size);
        match filled {
            Ok(()) => self.tail.lock().spares.ready.insert(0, spare),
            // Nothing depended on it: the file is given up, not the log.
            Err(_) => drop(self.dir.remove(&Spare::store_name(spare.number))),
        }
        filled
    }

    /// A spare to be filled: a new one while there may be more files, else
    /// one at hand that so far is only allocated.
    fn unfilled_spare(&self) -> Result<Option<Spare>> {
        let mut tail = self.tail.lock();
        let total = tail.live + tail.spares.ready.len();
        let ready = &mut tail.spares.ready;
        if ready.iter().filter(|spare| spare.filled).count() >= 2 {
            return Ok(None);
        }
        if total < self.options.segments as usize {
            let number = tail.spares.number();
            return Spare::allocate(&*self.dir, number, self.options.segment_size).map(Some);
        }
        let unfilled = ready.iter().position(|spare| !spare.filled);
        Ok(unfilled.map(|at| ready.remove(at)))
    }

    /// Takes a segment out of the chain and makes its file a spare.
    fn retire(&self, base: Lsn, through: Lsn) -> Result<()> {
        let mut tail = self.tail.lock();
        let segment = {
            let mut chain = self.chain.write();
            // Only the oldest may go, or the log would have a gap for readers.
            let oldest = chain.keys().next() == Some(&base);
            let free = chain
                .get(&base)
                .is_some_and(|segment| Arc::strong_count(segment) == 1);
            match chain.remove(&base) {
                Some(segment) if oldest && free && segment.last() <= through => segment,
                Some(segment) => {
                    chain.insert(base, segment);
                    return Ok(());
                }
                None => return Ok(()),
            }
        };
        tail.live -= 1;
        let (store, index) = (Segment::store_name(base), Segment::index_name(base));
        let total = tail.live + tail.spares.ready.len();
        let fits = segment.header.size == self.options.segment_size
            && total < self.options.segments as usize;
        if fits {
            let number = tail.spares.number();
            let rename = |from: &str, to: &str| {
                self.dir
                    .rename(from, to)
                    .map_err(Error::io_on("renaming", from))
            };
            rename(&store, &Spare::store_name(number))?;
            tail.spares.ready.push(Spare {
                number,
                disk: segment.disk.clone(),
                filled: true,
            });
        } else {
            self.dir
                .remove(&store)
                .map_err(Error::io_on("removal", &store))?;
        }
        // On a full host, say, there is none.
        let _ = self.dir.remove(&index);
        Ok(())
    }
}

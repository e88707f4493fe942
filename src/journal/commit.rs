//! Group commit.
//!
//! A record is visible at once and durable later: one sync serves everyone
//! who waits when it starts, and nobody waits with a thread. A sync that fails
//! is final: all waiters get the error, and so does everyone after them.

use std::mem;
use std::time::Duration;

use super::archive::pinned;
use super::discard::Trim;
use super::{Error, Inner, Journal, Keep, Result};
use crate::device::writeback::STEP;
use crate::log::{Durable, Log};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::units::{Lsn, Time};

/// Called when a record is durable, or can't become so.
pub type OnDurable = Box<dyn FnOnce(Result<()>) + Send>;

/// Unsynced bytes from which write-back is started early, so that a sync
/// finds little left to do.
const WRITE_BACK: u64 = 2 << 20;
/// Unsynced bytes from which a sync is made without being asked.
const SYNC: u64 = 32 << 20;
/// So long after somebody has waited for a sync others are expected to.
const HURRY: Duration = Duration::from_secs(1);

/// Who waits for what.
#[derive(Default)]
pub(super) struct Waiting {
    durable: Mutex<Vec<(Lsn, OnDurable)>>,
    room: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    trims: Mutex<Vec<Trim>>,
    wants_room: AtomicBool,
    pace: Mutex<Pace>,
    /// Somebody has waited for a sync of late.
    hurried: AtomicBool,
    committer: Bell,
    streamer: Bell,
    keeper: Bell,
}

/// What the passing of time demands, as [`Journal::tick`] last saw it.
#[derive(Default)]
struct Pace {
    unsynced_since: Option<Time>,
    unmarked: Option<(Lsn, Time)>,
    dirty_since: Option<Time>,
    awaited: Option<Time>,
    /// The last mark frame; a durable mark needs no mark of its own.
    marked: Lsn,
}

/// Wakes one thread.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.wake.notify_one();
    }

    /// Waits until it rings, or for so long.
    pub fn wait(&self, most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.wake.wait_for(&mut rung, most);
        }
        *rung = false;
    }
}

impl Waiting {
    pub fn committer(&self) -> &Bell {
        &self.committer
    }
    pub fn streamer(&self) -> &Bell {
        &self.streamer
    }
    pub fn keeper(&self) -> &Bell {
        &self.keeper
    }

    /// Whether somebody has waited for a sync of late.
    pub fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }

    pub fn queue_durable(&self, lsn: Lsn, tell: OnDurable) {
        self.durable.lock().push((lsn, tell));
    }

    /// A record with this number carries the newest durable mark.
    pub fn marked(&self, lsn: Lsn) {
        self.pace.lock().marked = lsn;
    }

    pub fn want_room(&self) {
        self.wants_room.store(true, Ordering::SeqCst);
        self.keeper.ring();
        self.streamer.ring();
        self.committer.ring();
    }
    pub fn anyone_wants_room(&self) -> bool {
        self.wants_room.load(Ordering::SeqCst)
    }
    pub fn queue_room(&self, retry: Box<dyn FnOnce() + Send>) {
        self.room.lock().push(retry);
        self.want_room();
    }
    pub fn take_room(&self) -> Vec<Box<dyn FnOnce() + Send>> {
        let mut room = self.room.lock();
        self.wants_room.store(false, Ordering::SeqCst);
        mem::take(&mut room)
    }

    pub fn queue_trim(&self, trim: Trim) {
        self.trims.lock().push(trim);
        self.keeper.ring();
    }
    pub fn take_trims(&self) -> Vec<Trim> {
        mem::take(&mut self.trims.lock())
    }
    fn anyone_trims(&self) -> bool {
        !self.trims.lock().is_empty()
    }

    /// Those who wait for nothing beyond `through`.
    fn served_by(&self, through: Lsn) -> Vec<OnDurable> {
        let mut durable = self.durable.lock();
        let (served, left) = mem::take(&mut *durable)
            .into_iter()
            .partition(|(lsn, _)| *lsn <= through);
        *durable = left;
        served.into_iter().map(|(_, tell)| tell).collect()
    }

    /// Nothing will become durable, and no room will come.
    pub fn fail_all(&self, error: &Error) {
        let waiters = mem::take(&mut *self.durable.lock());
        waiters
            .into_iter()
            .for_each(|(_, tell)| tell(Err(error.clone())));
        self.take_room().into_iter().for_each(|retry| retry());
        let trims = self.take_trims().into_iter();
        trims.for_each(|trim| trim.fail(error));
    }
}

impl Journal {
    /// Makes all that is written durable, and tells those who wait for it.
    pub fn sync(&self) -> Result<Durable> {
        self.0.sync(self.0.log()?)
    }

    /// Calls `tell` when record `lsn` is durable: at once if it is, else after
    /// the next sync, from the thread that makes it.
    pub fn when_durable(&self, lsn: Lsn, tell: OnDurable) {
        let log = match (self.0.alive(), &self.0.keep) {
            (Err(error), _) => return tell(Err(error)),
            (Ok(()), Keep::Log(log)) => log,
            (Ok(()), Keep::Scratch | Keep::Memory) => return tell(Ok(())),
        };
        if lsn <= log.watermarks().durable {
            return tell(Ok(()));
        }
        self.0.waiting.queue_durable(lsn, tell);
        // A failure may have emptied the queue just before.
        if let Err(error) = self.0.alive() {
            self.0.waiting.fail_all(&error);
        }
        self.0.waiting.committer.ring();
    }

    /// Does what time demands: syncs what has waited long enough, marks what
    /// was synced, writes home what is due, and keeps segments ready.
    pub fn tick(&self, now: Time) -> Result<()> {
        self.tick_commit(now)?;
        self.tick_stream()?;
        self.tick_checkpoint(now)
    }

    /// The part of [`Journal::tick`] that must not wait for a checkpoint.
    pub fn tick_commit(&self, now: Time) -> Result<()> {
        let Keep::Log(log) = &self.0.keep else {
            return Ok(());
        };
        self.0.alive()?;
        if self.0.sync_is_due(log, now) {
            self.0.sync(log)?;
        }
        if self.0.mark_is_due(log, now) {
            self.0.mark(log)?;
        }
        Ok(())
    }

    /// The part of [`Journal::tick`] that waits for write-back.
    pub(super) fn tick_stream(&self) -> Result<()> {
        let Keep::Log(log) = &self.0.keep else {
            return Ok(());
        };
        self.0.alive()?;
        while log.unsynced() >= WRITE_BACK && log.idle() >= STEP {
            if self.0.waiting.is_hurried() {
                log.sync_names_ahead();
            }
            log.write_back();
            self.0.offer_room();
        }
        log.wait_back();
        self.0.offer_room();
        Ok(())
    }

    /// The part of [`Journal::tick`] that may take long.
    pub(super) fn tick_checkpoint(&self, now: Time) -> Result<()> {
        let Keep::Log(log) = &self.0.keep else {
            return Ok(());
        };
        self.0.alive()?;
        if self.0.checkpoint_is_due(log, now) {
            self.checkpoint()?;
        }
        log.clean()
            .and_then(|()| log.prepare())
            .map_err(|e| self.0.stop(e.into()))?;
        self.0.uncrowd();
        Ok(())
    }

    /// What the archive wants: a new base, and to forget what it need not keep.
    /// It may take long, and its failure is the archive's alone.
    pub(super) fn tick_archive(&self, now: Time) {
        let inner = &*self.0;
        let (Some(archive), Keep::Log(log)) = (&inner.options.archive, &inner.keep) else {
            return;
        };
        if archive.wants_base(now) {
            let clock = || inner.options.clock.wall();
            let from = log.watermarks().installed;
            let (at, pinned) = ((from, log.epoch()), pinned(log.frames(from.next()), from));
            let pinned = pinned.ok().flatten().map(|(_, block)| block);
            let taken = archive.take_base(&*inner.image, at, pinned.as_deref(), &clock);
            if taken.is_err() {
                return; // said
            }
        }
        if let Err(error) = archive.keep_within_limits(now) {
            ::log::warn!("the archive can't be pruned: {error}");
        }
    }
}

impl Inner {
    pub(super) fn sync(&self, log: &Log) -> Result<Durable> {
        self.alive()?;
        let durable = log.sync().map_err(|e| self.stop(e.into()))?;
        for tell in self.waiting.served_by(durable.lsn()) {
            tell(Ok(()));
        }
        self.offer_room();
        Ok(durable)
    }

    /// A frame that carries the durable mark, itself durable: after it, damage
    /// to what was synced is told from what the power took.
    pub(super) fn mark(&self, log: &Log) -> Result<Durable> {
        let lsn = log.mark().map_err(|e| self.stop(e.into()))?;
        let durable = self.sync(log)?;
        self.waiting.marked(lsn);
        Ok(durable)
    }

    /// After each commit: wakes whoever should act before its time.
    pub(super) fn after_commit(&self, log: &Log) {
        let unsynced = log.unsynced();
        if unsynced >= SYNC {
            self.waiting.committer.ring();
        }
        if unsynced >= WRITE_BACK && log.idle() >= STEP {
            self.waiting.streamer.ring();
        }
        if self.is_filling(log) {
            self.waiting.keeper.ring();
        }
    }

    fn sync_is_due(&self, log: &Log, now: Time) -> bool {
        let marks = log.watermarks();
        // Even if nothing is unsynced: the sync that covered a record may have
        // come by just before its waiter did.
        let awaited = !self.waiting.durable.lock().is_empty();
        let mut pace = self.waiting.pace.lock();
        if awaited {
            pace.awaited = Some(now);
        }
        let hurried = |at: Time| at <= now && elapsed(at, now) < HURRY;
        let hurried = pace.awaited.is_some_and(hurried);
        self.waiting.hurried.store(hurried, Ordering::Relaxed);
        if marks.durable >= marks.appended && !awaited {
            pace.unsynced_since = None;
            return false;
        }
        let since = began(&mut pace.unsynced_since, now);
        let due = elapsed(since, now) >= Duration::from_secs(self.options.commit_seconds.into())
            || log.unsynced() >= SYNC
            || awaited;
        if due {
            pace.unsynced_since = None;
        }
        due
    }

    /// Half a second after the last sync, unless a record has followed and
    /// been synced meanwhile.
    fn mark_is_due(&self, log: &Log, now: Time) -> bool {
        let durable = log.watermarks().durable;
        let mut pace = self.waiting.pace.lock();
        if durable <= pace.marked {
            return false;
        }
        match pace.unmarked {
            Some((lsn, since)) if lsn == durable && since <= now => {
                elapsed(since, now) >= Duration::from_millis(500)
            }
            _ => {
                pace.unmarked = Some((durable, now));
                false
            }
        }
    }

    fn checkpoint_is_due(&self, log: &Log, now: Time) -> bool {
        let dirty = self.last.load(Ordering::SeqCst) > log.watermarks().installed.0;
        let mut pace = self.waiting.pace.lock();
        if self.waiting.anyone_trims() {
            pace.dirty_since = None;
            return true;
        }
        if !dirty && !self.is_filling(log) {
            pace.dirty_since = None;
            return false;
        }
        let since = began(&mut pace.dirty_since, now);
        let due = elapsed(since, now)
            >= Duration::from_secs(self.options.checkpoint_seconds.into())
            || self.waiting.anyone_wants_room()
            || self.is_filling(log);
        if due {
            pace.dirty_since = None;
        }
        due
    }

    /// Bytes of all segments.
    pub(super) fn capacity(&self) -> u64 {
        self.options.segment_size * u64::from(self.options.segments)
    }

    /// Half of the log, or half of the memory, is taken by what a checkpoint
    /// would free.
    fn is_filling(&self, log: &Log) -> bool {
        let more = self.last.load(Ordering::SeqCst) > log.watermarks().installed.0;
        let roomy = self.roomy.load(Ordering::SeqCst).min(self.capacity());
        more && (log.room() < roomy / 2
            || self.held.load(Ordering::SeqCst) >= self.options.cache_size / 2)
    }
}

/// Since when something waits. A clock set back an hour must not put it off
/// for that long: the waiting begins again.
fn began(since: &mut Option<Time>, now: Time) -> Time {
    let began = since.filter(|since| *since <= now).unwrap_or(now);
    *since = Some(began);
    began
}

fn elapsed(since: Time, now: Time) -> Duration {
    Duration::from_nanos(now.as_nanos().saturating_sub(since.as_nanos()).max(0) as u64)
}

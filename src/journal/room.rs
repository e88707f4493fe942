//! Room in the log: promised before an operation begins, so that it can't be
//! stopped half-way, and never waited for by a thread.
//!
//! A transaction may need as much as the largest record. It is promised that
//! much before it waits for the guard; what it really takes shows when its
//! record has its place, and the promise ends.

use super::{Error, Inner, Journal, Keep, Result};
use crate::log::Log;
use crate::sync::atomic::Ordering;

/// Log space held for one transaction.
pub(super) struct Promise<'j> {
    inner: &'j Inner,
    bytes: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        // After the record was reserved, so that nobody sees both as free.
        self.inner.promised.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// More unsynced bytes than this make writers wait: an fsync behind a stream
/// would take too long.
const UNSYNCED_MOST: u64 = 64 << 20;
/// A record with at least so many bytes of data is bulk: it waits first, and
/// others pass.
const BULK: usize = 64 << 10;
/// The share of the log that bulk leaves to others: one in so many; and of one
/// segment, since there need not be room for more than two, however long one waits.
const SHARE: u64 = 16;
const SHARE_OF_SEGMENT: u64 = 2;
/// While fsyncs come, more bytes than this that have not reached the disk make
/// bulk wait.
const BACKLOG_MOST: u64 = 4 << 20;

/// After so many rounds of cleaning that gave the log no room, the host is
/// called full.
const PATIENCE: usize = 8;

impl Inner {
    /// Room for one record of any size, or [`Error::Full`]. `data`: bytes that it
    /// brings.
    pub(super) fn promise(&self, data: usize) -> Result<Promise<'_>> {
        self.alive()?;
        self.open_for_changes()?;
        let Keep::Log(log) = &self.keep else {
            return Ok(Promise {
                inner: self,
                bytes: 0,
            });
        };
        let bytes = self.largest_frame();
        let before = self.promised.fetch_add(bytes, Ordering::SeqCst);
        let promise = Promise { inner: self, bytes };
        if self.fits(log, before + bytes) && (data < BULK || self.takes_bulk(log, before + bytes)) {
            return Ok(promise);
        }
        drop(promise);
        self.waiting.want_room();
        Err(Error::Full)
    }

    /// Refuses when the session is ending.
    pub(super) fn open_for_changes(&self) -> Result<()> {
        match self.closing.load(Ordering::SeqCst) {
            true => Err(Error::ReadOnly("the session is ending".into())),
            false => Ok(()),
        }
    }

    /// The largest record with what the log adds.
    fn largest_frame(&self) -> u64 {
        let record = self.options.limit() as u64;
        record + record / 512 + 256
    }

    /// One frame more than asked for: as much may be lost at the end of a
    /// segment. (Were it more, the commit would say Full, and nothing would
    /// have happened.)
    fn fits(&self, log: &Log, bytes: u64) -> bool {
        !self.crowded.load(Ordering::SeqCst)
            && log.room() >= bytes + self.largest_frame()
            && log.unsynced() <= UNSYNCED_MOST
            && self.held.load(Ordering::SeqCst) <= self.options.cache_size
    }

    /// Whether others would not suffer from another record of bulk.
    fn takes_bulk(&self, log: &Log, bytes: u64) -> bool {
        let others = (self.capacity() / SHARE).min(self.options.segment_size / SHARE_OF_SEGMENT);
        log.room() >= bytes + self.largest_frame() + others
            && (!self.waiting.is_hurried() || log.backlog() <= BACKLOG_MOST)
    }

    /// Whether a transaction could begin now, of whatever size.
    fn has_room(&self) -> bool {
        match &self.keep {
            Keep::Log(log) => {
                let bytes = self.promised.load(Ordering::SeqCst) + self.largest_frame();
                let fits = self.fits(log, bytes) && self.takes_bulk(log, bytes);
                fits || self.stopped.get().is_some()
            }
            Keep::Scratch | Keep::Memory => true,
        }
    }

    /// The log had no room although it promised some: a checkpoint may give
    /// some. With nothing left to bring home it is the host that is full, and
    /// whoever goes on asking must hear of it instead of waiting for ever.
    pub(super) fn is_crowded(&self, log: &Log) -> Error {
        let installed = self.last.load(Ordering::SeqCst) <= log.watermarks().installed.0;
        if installed && self.in_vain.load(Ordering::SeqCst) >= PATIENCE {
            return Error::HostFull;
        }
        self.crowded.store(true, Ordering::SeqCst);
        self.waiting.want_room();
        Error::Full
    }

    /// Something was done that may have made room.
    pub(super) fn uncrowd(&self) {
        if self.crowded.swap(false, Ordering::SeqCst) {
            self.in_vain.fetch_add(1, Ordering::SeqCst);
        }
        self.offer_room();
    }

    /// Lets those go on who wait for room, if there is some.
    pub(super) fn offer_room(&self) {
        if self.waiting.anyone_wants_room() && self.has_room() {
            for retry in self.waiting.take_room() {
                retry();
            }
        }
    }
}

impl Journal {
    /// Calls `retry` once [`Journal::begin`] may succeed again (or has become
    /// hopeless), perhaps at once, perhaps from another thread.
    pub fn when_room(&self, retry: Box<dyn FnOnce() + Send>) {
        self.0.waiting.queue_room(retry);
        // Room may have come between the refusal and this call.
        self.0.offer_room();
    }
}

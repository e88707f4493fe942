//! Appending and syncing.
//!
//! A sync proves only what was written before it began: it samples the tail,
//! waits until all frames placed so far are in the host's cache, and then
//! syncs. Whoever comes meanwhile waits for the one at work and finds itself
//! served, or is the next.

use std::sync::{Arc, OnceLock};

use super::frame::{self, FrameHeader, Kind, Sum};
use super::index;
use super::segment::{Header, Payload, Place, Segment};
use super::tail::{self, Batch, Placed, Room};
use super::{Durable, Error, Inner, Log, Result};
use crate::sync::atomic::Ordering;
use crate::units::Lsn;

/// A record's number and place; to be written, in any thread, soon.
///
/// Dropping it unwritten stops the log: an Lsn that has been given out would
/// stay missing.
#[must_use = "an unwritten slot stops the log"]
pub struct Slot {
    log: Arc<Inner>,
    placed: Placed,
    kind: Kind,
    meta_len: usize,
    data_len: usize,
    head: u16,
    place: Option<Place>,
    done: bool,
}

impl Log {
    /// Numbers a record and gives it its place. `head` is the length of the
    /// first data chunk (1 ..= 4096; the others are 4096 long).
    pub fn reserve(&self, meta_len: usize, data_len: usize, head: u32) -> Result<Slot> {
        self.place(Kind::Record, meta_len, data_len, head, Room::Ordinary)
    }

    /// The same, for checkpoint and clean records: may use the room that
    /// `reserve` leaves for them.
    pub fn reserve_spare(&self, meta_len: usize, data_len: usize, head: u32) -> Result<Slot> {
        self.place(Kind::Record, meta_len, data_len, head, Room::Spare)
    }

    /// Appends a frame that carries nothing but the marks, so that the last
    /// sync's success is on record.
    pub fn mark(&self) -> Result<Lsn> {
        self.mark_in(Room::Spare)
    }

    pub(super) fn mark_in(&self, room: Room) -> Result<Lsn> {
        let slot = self.place(Kind::Mark, 0, 0, 0, room)?;
        let lsn = slot.lsn();
        slot.write(&[], &[])?;
        Ok(lsn)
    }

    fn place(
        &self,
        kind: Kind,
        meta_len: usize,
        data_len: usize,
        head: u32,
        room: Room,
    ) -> Result<Slot> {
        let head = if data_len == 0 { 0 } else { head };
        assert!(
            data_len == 0 || (1..=frame::CHUNK as u32).contains(&head),
            "first chunk of {head} bytes"
        );
        let len = tail::length(meta_len, data_len, head)?;
        let mut tail = self.0.tail.lock();
        self.0.alive()?;
        let placed = tail.place(&self.0, len, room)?;
        drop(tail);
        if let Some(ahead) = &placed.ahead {
            (placed.segment.disk).read_ahead(ahead.start, ahead.end - ahead.start);
        }
        let mut slot = Slot {
            log: self.0.clone(),
            placed,
            kind,
            meta_len,
            data_len,
            head: head as u16,
            place: None,
            done: false,
        };
        slot.place = (data_len > 0).then(|| slot.data_place());
        Ok(slot)
    }

    /// Bytes that [`Log::reserve`] can still give out. What page alignment
    /// and the ends of segments take comes off this: keep a margin.
    pub fn room(&self) -> u64 {
        self.0.tail.lock().room(&self.0.options)
    }

    /// Bytes left in the active segment: a frame that does not fit goes to the
    /// next one.
    pub fn left(&self) -> u64 {
        let tail = self.0.tail.lock();
        tail.active.header.size.saturating_sub(tail.offset)
    }

    /// The largest frame, header and checksums included.
    pub fn max_frame(&self) -> u64 {
        self.0.options.capacity() - self.0.options.spare_room()
    }

    /// Waits until all records up to `lsn` are in the host's cache; brief,
    /// since their writers are at it.
    pub fn wait_written(&self, lsn: Lsn) -> Result<()> {
        self.0.wait_written(lsn)
    }

    /// Whether a record's frame is in the host's cache, so that it can be read.
    pub fn is_written(&self, lsn: Lsn) -> bool {
        self.0.written() >= lsn
    }

    /// Makes every record appended before the call durable. A failure is
    /// final: the log refuses everything afterwards.
    pub fn sync(&self) -> Result<Durable> {
        let wanted = self.0.tail.lock().appended;
        let _syncing = self.0.syncing.lock();
        self.0.alive()?;
        if self.0.durable() < wanted {
            let batch = self.0.tail.lock().batch();
            self.0.sync_batch(&batch).inspect_err(|e| self.0.die(e))?;
        }
        Ok(Durable(self.0.durable()))
    }

    /// What is durable now, without a sync.
    pub fn proof(&self) -> Durable {
        Durable(self.0.durable())
    }

    /// Bytes of frames placed since the last sync began.
    pub fn unsynced(&self) -> u64 {
        self.0.tail.lock().placed - self.0.synced.load(Ordering::Acquire)
    }
}

impl Inner {
    fn sync_batch(&self, batch: &Batch) -> Result<()> {
        self.wait_written(batch.through)?;
        // The old segment first: a record is nothing without those before it.
        for segment in &batch.segments {
            segment.disk.sync().map_err(|e| segment.io("sync", e))?;
        }
        if !batch.left.is_empty() {
            // Sync the folder too: a new segment whose name is lost on power
            // failure would take every record in it along.
            self.dir
                .sync()
                .map_err(Error::io_on("sync", "the journal's folder"))?;
        }
        self.synced.store(batch.placed, Ordering::Release);
        self.on_disk.fetch_max(batch.placed, Ordering::AcqRel);
        self.durable.store(batch.through.0, Ordering::Release);
        if !batch.left.is_empty() {
            self.write_indexes(batch);
        }
        Ok(())
    }

    /// Writes the indexes of segments that others have followed, and makes the
    /// active one's file. Not before its segment is known to stay: that it was
    /// there is told by these files, should somebody remove it.
    fn write_indexes(&self, batch: &Batch) {
        // Without them a later process reads the stores.
        let write = |base, bytes: &[u8]| {
            let _ = index::write(&*self.dir, &Segment::index_name(base), bytes);
        };
        for segment in &batch.left {
            let Header { salt, base, .. } = segment.header;
            segment.index.shrink();
            write(base, &segment.index.sealed(salt, base.0));
        }
        write(batch.active, &[]);
    }

    fn wait_written(&self, lsn: Lsn) -> Result<()> {
        if self.written() >= lsn {
            return Ok(());
        }
        let mut progress = self.progress.lock();
        while progress.written < lsn {
            self.alive()?;
            progress.waiters += 1;
            self.advanced.wait(&mut progress);
            progress.waiters -= 1;
        }
        Ok(())
    }

    /// A frame is in the host's cache.
    fn wrote(&self, lsn: Lsn) {
        let mut progress = self.progress.lock();
        if lsn != progress.written.next() {
            progress.ahead.insert(lsn);
            return;
        }
        progress.written = lsn;
        while progress.ahead.first() == Some(&progress.written.next()) {
            progress.written = progress.written.next();
            progress.ahead.pop_first();
        }
        self.written.store(progress.written.0, Ordering::Release);
        if progress.waiters > 0 {
            self.advanced.notify_all();
        }
    }
}

impl Slot {
    /// The record's number.
    pub fn lsn(&self) -> Lsn {
        self.placed.lsn
    }
    /// The base of the segment that it lies in.
    pub fn segment(&self) -> Lsn {
        self.placed.segment.header.base
    }
    /// The time the record will have.
    pub fn time(&self) -> crate::units::Time {
        crate::units::Time::from_nanos(self.placed.time)
    }
    /// Where its data will lie; to be read once the record is written.
    pub fn place(&self) -> Option<Place> {
        self.place.clone()
    }

    fn data_place(&self) -> Place {
        let front = frame::HEADER
            + self.meta_len
            + 4 * frame::chunk_count(self.data_len, usize::from(self.head));
        Place(Arc::new(Payload {
            segment: self.placed.segment.clone(),
            lsn: self.placed.lsn,
            offset: self.placed.at + front as u64,
            len: self.data_len as u32,
            head: self.head,
            sums: OnceLock::new(),
        }))
    }

    /// Writes the record into the host's cache. The lengths are those that
    /// were reserved. A failure is final.
    pub fn write(mut self, meta: &[u8], data: &[u8]) -> Result<()> {
        assert_eq!(
            (meta.len(), data.len()),
            (self.meta_len, self.data_len),
            "a record of the reserved lengths"
        );
        self.done = true;
        self.log.alive()?;
        let sums = frame::sums(data, usize::from(self.head));
        let written = self.write_frame(meta, data, &sums);
        if let Err(e) = written {
            let e = self.placed.segment.io("write", e);
            self.log.die(&e);
            return Err(e);
        }
        if let Some(Place(payload)) = &self.place {
            let _ = payload.sums.set(sums);
        }
        self.log.wrote(self.placed.lsn);
        Ok(())
    }

    fn write_frame(&self, meta: &[u8], data: &[u8], sums: &[Sum]) -> std::io::Result<()> {
        // Installed before durable: what is installed was durable before.
        let installed = self.log.installed();
        let durable = self.log.durable();
        let header = FrameHeader {
            salt: self.placed.segment.header.salt,
            lsn: self.placed.lsn,
            at: self.placed.at,
            time: self.placed.time,
            wall: self.placed.wall,
            durable,
            installed,
            epoch: self.log.epoch,
            kind: self.kind,
            head: self.head,
            meta_len: meta.len() as u32,
            data_len: data.len() as u32,
        };
        let raw = header.encode(meta, sums);
        let zeros = [0; frame::ALIGN as usize];
        let parts = [
            &raw,
            meta,
            sums.as_flattened(),
            data,
            &zeros[..header.padding()],
        ];
        self.placed
            .segment
            .disk
            .write_vectored_at(&parts, self.placed.at)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.done {
            let lsn = self.placed.lsn;
            self.log
                .die(&format_args!("record {lsn} was numbered but never written"));
        }
    }
}

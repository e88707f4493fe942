//! Checkpoint: what the log has goes home, so that the log can go on.
//!
//! ```text
//!     freeze     under the guard: C = appended; what is dirty now is frozen,
//!                later changes start over with whole blocks
//!     prove      log synced to C, and a record that says so, and that blocks as
//!                of C go home now, synced too
//!     install    newest frozen version of each block, verified, sorted, home
//!     sync       the image
//!     record     "all up to C is home", synced: now the log may forget
//!     discard    what was free at C, and still is, if that is wanted
//! ```
//! Why a record that says so: were C durable but nothing durable that proves
//! it, damage to the records below could be taken for a torn tail and cut,
//! although the image already has a part of them. And whoever wants to see the
//! image as it was at an earlier record learns from it that it is too late.

use std::sync::Arc;

use super::cache::{Changed, Home};
use super::discard::Freed;
use super::record::{Base, Clean, Record, Session};
use super::{Block, Inner, Journal, Result, image_error};
use crate::device::writeback::WriteBack;
use crate::log::{Durable, Log};
use crate::sync::atomic::Ordering;
use crate::units::{BlockNo, Lsn};

/// Blocks written home in one piece, at most this many bytes.
const PIECE: usize = 1 << 20;
/// How many written blocks a checkpoint's record remembers.
const SAMPLES: usize = 8;
/// Blocks that are remembered as home without letting writers through.
const KEPT_AT_ONCE: usize = 256;

/// Proof that changes up to `through` may go home.
struct Installable {
    through: Lsn,
}

/// What a checkpoint writes.
struct Frozen {
    through: Lsn,
    changed: Arc<Changed>,
    pinned: Option<Block>,
    freed: Freed,
}

impl Journal {
    /// Writes home what was changed so far, and lets the log forget it.
    /// Operations go on meanwhile.
    pub fn checkpoint(&self) -> Result<()> {
        let inner = &*self.0;
        let log = inner.log()?;
        let _one = inner.checkpointing.lock();
        inner.alive()?;
        if inner.last.load(Ordering::SeqCst) <= log.watermarks().installed.0 {
            inner.discard(&Freed::default());
            inner.uncrowd();
            return Ok(());
        }
        let frozen = inner.freeze(log);
        let proof = inner.prove(log, frozen.through)?;
        let samples = inner.install(&frozen, &proof).map_err(|e| inner.stop(e))?;
        let done = inner.record(log, &frozen, samples)?;
        log.set_installed(frozen.through, done);
        inner.thaw(&frozen);
        inner.discard(&frozen.freed);
        // What it held in the log would keep segments from being cleaned.
        drop(frozen);
        inner.tidy(log)
    }

    /// A session begins: its record is durable when this returns, and only
    /// then may its guard be written. The image is to be recognised by the
    /// blocks of `witnesses`, should its anchor be torn.
    pub fn begin_session(
        &self,
        session: Session,
        pinned: &[u8],
        witnesses: &[BlockNo],
    ) -> Result<()> {
        let inner = &*self.0;
        let log = inner.log()?;
        let sample = |block: &BlockNo| Ok((*block, crc32fast::hash(&inner.read_home(*block)?)));
        let samples = witnesses.iter().map(sample).collect::<Result<_>>()?;
        let mut state = inner.state.write();
        debug_assert!(
            state.dirty.is_empty(),
            "a session begins on an image that has everything"
        );
        let through = log.watermarks().appended;
        if let Some(block) = inner.options.pinned {
            state.pinned = Some((block, pinned.into()));
        }
        let base = Base {
            session: session.clone(),
            through,
            pinned: pinned.into(),
            samples,
        };
        inner.append(log, &Record::Session(base))?;
        let done = inner.sync(log)?;
        log.set_installed(through, done);
        inner.going_home.fetch_max(through.0, Ordering::SeqCst);
        *inner.session.lock() = session;
        state.last = through;
        inner.note(&state);
        drop(state);
        inner.tidy(log)
    }

    /// Takes no more operations and brings everything home. What it answers
    /// is the pinned block, the only one left to write.
    pub fn settle(&self) -> Result<Option<Block>> {
        self.0.closing.store(true, Ordering::SeqCst);
        // Whoever has begun may still commit.
        let pinned = self
            .0
            .state
            .write()
            .pinned
            .as_ref()
            .map(|(_, bytes)| bytes.clone());
        self.sync()?;
        self.checkpoint()?;
        Ok(pinned)
    }

    /// The session ended well: durable when this returns, marked by a frame
    /// behind it. Nothing can be recorded any more.
    pub fn end(&self, clean: Clean) -> Result<()> {
        let inner = &*self.0;
        let log = inner.log()?;
        inner.alive()?;
        inner.append(log, &Record::Clean(clean))?;
        inner.sync(log)?;
        inner.mark(log)?;
        let _ = inner.stopped.set("the session has ended".into());
        Ok(())
    }

    /// Blocks of the image may be as late as this record, and not later:
    /// whoever reads the image beside the journal asks this afterwards.
    pub fn going_home(&self) -> Lsn {
        Lsn(self.0.going_home.load(Ordering::SeqCst))
    }

    /// Bytes written to the image so far.
    pub fn written_home(&self) -> u64 {
        self.0.written_home.load(Ordering::SeqCst)
    }

    /// The pinned block's newest version.
    pub fn pinned(&self) -> Option<Block> {
        self.0
            .state
            .read()
            .pinned
            .as_ref()
            .map(|(_, bytes)| bytes.clone())
    }
}

impl Inner {
    fn freeze(&self, log: &Log) -> Frozen {
        let mut state = self.state.write();
        self.checkpoints.fetch_add(1, Ordering::SeqCst);
        let changed = Arc::new(std::mem::take(&mut state.dirty));
        state.frozen = changed.clone();
        let pinned = state.pinned.as_ref().map(|(_, bytes)| bytes.clone());
        Frozen {
            through: log.watermarks().appended,
            changed,
            pinned,
            freed: std::mem::take(&mut state.freed),
        }
    }

    fn prove(&self, log: &Log, through: Lsn) -> Result<Installable> {
        log.wait_written(through).map_err(|e| self.stop(e.into()))?;
        let durable = self.sync(log)?;
        if let Some(archive) = &self.options.archive {
            archive.note_installing(through);
        }
        self.going_home.fetch_max(through.0, Ordering::SeqCst);
        let told = self.append(log, &Record::Install(through))?;
        let marked = self.sync(log)?;
        self.waiting.marked(told);
        assert!(
            through <= durable.lsn() && durable < marked,
            "a sync that proves too little"
        );
        Ok(Installable { through })
    }

    fn install(&self, frozen: &Frozen, proof: &Installable) -> Result<Vec<(BlockNo, u32)>> {
        assert!(
            frozen.through <= proof.through,
            "blocks on their way home before their records"
        );
        let samples = write_home(self, &frozen.changed)?;
        self.image.sync().map_err(|e| image_error("sync", e))?;
        Ok(samples)
    }

    fn record(&self, log: &Log, frozen: &Frozen, samples: Vec<(BlockNo, u32)>) -> Result<Durable> {
        let pinned = frozen.pinned.as_deref().unwrap_or_default().to_vec();
        let session = self.session.lock().clone();
        let base = Base {
            session,
            through: frozen.through,
            pinned,
            samples,
        };
        self.append(log, &Record::Checkpoint(base))?;
        self.sync(log)
    }

    /// One of the journal's own records, for which room is always kept.
    fn append(&self, log: &Log, record: &Record) -> Result<Lsn> {
        let meta = record.encode();
        let slot = log
            .reserve_spare(meta.len(), 0, 0)
            .map_err(|e| self.stop(e.into()))?;
        let lsn = slot.lsn();
        slot.write(&meta, &[]).map_err(|e| self.stop(e.into()))?;
        Ok(lsn)
    }

    /// What was frozen equals the image now.
    fn thaw(&self, frozen: &Frozen) {
        let mut state = self.state.write();
        state.frozen = Arc::default();
        self.note(&state);
        drop(state);
        // In steps, between which operations go on; the image has them all.
        for some in frozen.changed.sorted().chunks(KEPT_AT_ONCE) {
            let state = self.state.read();
            for (block, home) in some {
                if let (Home::Cached(bytes), false) = (home, state.dirty.contains(*block)) {
                    self.clean.insert(*block, bytes.clone());
                }
            }
        }
    }

    /// A frame says that older ones may be missing, and is durable, before
    /// any of them is overwritten.
    fn tidy(&self, log: &Log) -> Result<()> {
        self.mark(log)?;
        log.clean().map_err(|e| self.stop(e.into()))?;
        self.roomy.store(log.room(), Ordering::SeqCst);
        self.uncrowd();
        Ok(())
    }
}

/// Writes blocks home, sorted and in large pieces; what lies in the log is
/// verified on the way.
pub(super) fn write_home(inner: &Inner, changed: &Changed) -> Result<Vec<(BlockNo, u32)>> {
    let size = inner.block_size();
    let sampled = changed.len().div_ceil(SAMPLES).max(1);
    let mut samples = Vec::new();
    let mut blocks = changed.sorted().into_iter().enumerate().peekable();
    let mut piece = Vec::new();
    let mut write_back = WriteBack::of(inner.image.clone());
    while let Some((_, (first, _))) = blocks.peek().copied() {
        let mut run: Vec<(usize, BlockNo, &Home)> = Vec::new();
        while let Some((n, (block, home))) = blocks.peek().copied() {
            if block.0 != first.0 + run.len() as u64 || (run.len() + 1) * size > PIECE.max(size) {
                break;
            }
            run.push((n, block, home));
            blocks.next();
        }
        inner.inside(first, run.len() as u64)?;
        gather(inner, &run, &mut piece)?;
        inner
            .image
            .write_at(&piece, first.0 * size as u64)
            .map_err(|e| image_error("write", e))?;
        write_back.wrote(first.0 * size as u64, piece.len() as u64);
        inner
            .written_home
            .fetch_add(piece.len() as u64, Ordering::SeqCst);
        let taken = run
            .iter()
            .zip(piece.chunks(size))
            .filter(|((n, ..), _)| n % sampled == 0);
        samples.extend(taken.map(|((_, block, _), bytes)| (*block, crc32fast::hash(bytes))));
    }
    Ok(samples)
}

/// The bytes of consecutive blocks; those that lie together in the log are
/// read together.
fn gather(inner: &Inner, run: &[(usize, BlockNo, &Home)], into: &mut Vec<u8>) -> Result<()> {
    let size = inner.block_size();
    into.resize(run.len() * size, 0);
    let mut at = 0;
    while let Some((_, _, home)) = run.get(at) {
        match home {
            Home::Cached(bytes) => {
                into[at * size..(at + 1) * size].copy_from_slice(bytes);
                at += 1;
            }
            Home::Logged { place, from } => {
                let follows = |n: usize| {
                    matches!(run.get(at + n), Some((_, _, Home::Logged { place: other, from: there }))
                        if other.lsn() == place.lsn() && *there as usize == *from as usize + n * size)
                };
                let count = (1..).take_while(|n| follows(*n)).count() + 1;
                inner.read_logged(
                    place,
                    *from as usize,
                    &mut into[at * size..(at + count) * size],
                )?;
                at += count;
            }
        }
    }
    Ok(())
}

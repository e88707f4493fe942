//! Early write-back: the host is made to write what a stream appends, little of
//! it at a time, so that a sync finds little left to do and its writes wait
//! behind few others.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::Log;
use super::frame::PAGE;
use super::tail::Tail;
use crate::device::Disk;
use crate::device::writeback::{AT_ONCE, STEP};
use crate::sync::atomic::Ordering;

/// What has been placed since the last sync and has not been given to the host.
pub(super) struct Idle {
    /// The rest of segments that others have followed, oldest first.
    left: VecDeque<(Arc<dyn Disk>, Range<u64>)>,
    /// From here on the active segment is idle.
    from: u64,
}

impl Idle {
    /// Nothing before `offset` of the active segment.
    pub fn behind(offset: u64) -> Idle {
        Idle {
            left: VecDeque::new(),
            from: offset,
        }
    }

    /// The active segment is followed by another, and ends here.
    pub fn leave(&mut self, disk: &Arc<dyn Disk>, end: u64) {
        if self.from < end {
            self.left.push_back((disk.clone(), self.from..end));
        }
        self.from = PAGE;
    }
}

impl Tail {
    /// Bytes that the host has not been made to write.
    fn idle_bytes(&self) -> u64 {
        let left = self.idle.left.iter();
        let left = left.map(|(_, range)| range.end - range.start).sum::<u64>();
        left + self.end.saturating_sub(self.idle.from)
    }

    /// The oldest of what is idle.
    fn take_idle(&mut self) -> Option<Piece> {
        let step = |from: u64, end: u64| from..end.min(from + STEP);
        let (disk, range) = match self.idle.left.front_mut() {
            Some((disk, rest)) => {
                let (disk, range) = (disk.clone(), step(rest.start, rest.end));
                rest.start = range.end;
                if rest.is_empty() {
                    self.idle.left.pop_front();
                }
                (disk, range)
            }
            None if self.idle.from < self.end => {
                let range = step(self.idle.from, self.end);
                self.idle.from = range.end;
                (self.active.disk.clone(), range)
            }
            None => return None,
        };
        let through = self.placed.saturating_sub(self.idle_bytes());
        Some(Piece {
            disk,
            range,
            through,
        })
    }
}

/// It holds a file, not a segment: that may be recycled meanwhile, and no harm is
/// done.
struct Piece {
    disk: Arc<dyn Disk>,
    range: Range<u64>,
    /// `Tail::placed` at its end.
    through: u64,
}

impl Log {
    /// Bytes of frames that the host has not been made to write.
    pub fn idle(&self) -> u64 {
        self.0.tail.lock().idle_bytes()
    }

    /// Bytes of frames that have not reached the disk, as far as is known.
    pub fn backlog(&self) -> u64 {
        let placed = self.0.tail.lock().placed;
        placed.saturating_sub(self.0.on_disk.load(Ordering::Acquire))
    }

    /// Makes the host begin to write the oldest of what is idle, and waits until
    /// it is not too much that is under way. If it fails, the sync will say so.
    pub fn write_back(&self) {
        let mut under_way = self.0.under_way.lock();
        let piece = self.0.tail.lock().take_idle();
        if let Some(piece) = piece {
            let bytes = piece.range.end - piece.range.start;
            under_way.begin(&piece.disk, piece.range, bytes, piece.through);
            self.reached(under_way.wait_to(AT_ONCE));
        }
    }

    /// Waits until nothing is under way.
    pub fn wait_back(&self) {
        self.reached(self.0.under_way.lock().wait_to(0));
    }

    fn reached(&self, through: Option<u64>) {
        let through = through.unwrap_or(0);
        self.0.on_disk.fetch_max(through, Ordering::AcqRel);
    }

    /// Has the folder synced if a segment has been begun since that was last done
    /// here: whoever syncs the log then need not wait for it.
    pub fn sync_names_ahead(&self) {
        let begun = self.0.tail.lock().active.header.base.0;
        if self.0.names_ahead.swap(begun, Ordering::Relaxed) != begun {
            self.0.dir.sync_ahead();
        }
    }
}

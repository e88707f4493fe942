//! Time, as far as a run is concerned.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::units::{Clock, Time};

/// A clock that stands still until it is moved, so that the model knows the
/// time of every operation.
#[derive(Debug, Default)]
pub struct StillClock(AtomicI64);

impl StillClock {
    /// Stands at a fixed instant of 2020, since e2fsck minds what lies in the future.
    pub fn new() -> Arc<Self> {
        Arc::new(StillClock(AtomicI64::new(1_600_000_000_000_000_000)))
    }
    /// Stands long after all runs that began at [`StillClock::new`].
    pub fn afterwards() -> Arc<Self> {
        Arc::new(StillClock(AtomicI64::new(1_650_000_000_000_000_000)))
    }
    /// Moves on, and says where to.
    pub fn advance(&self, millis: u32) -> Time {
        self.0
            .fetch_add(i64::from(millis) * 1_000_000, Ordering::Relaxed);
        self.wall()
    }
}

impl Clock for StillClock {
    fn wall(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

//! Typed numbers.
//!
//! A number with a unit has a type, so that a block is never taken for an
//! inode; arithmetic on them lives here, once, checked.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $raw);

        impl $name {
            /// The number `n` further on, or `None` past the end of the type.
            pub fn checked_add(self, n: $raw) -> Option<Self> {
                self.0.checked_add(n).map(Self)
            }
            /// How far `self` lies behind `earlier`; `None` if it lies before it.
            pub fn since(self, earlier: Self) -> Option<$raw> {
                self.0.checked_sub(earlier.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

number!(
    /// A block of the image, counted in file-system blocks from its start.
    BlockNo(u64)
);
number!(
    /// A block of a file, counted in file-system blocks from offset 0
    /// (ext4 calls it a logical block; extents number them with 32 bits).
    FileBlock(u32)
);
number!(
    /// An inode number; 0 means none, 2 is the root directory.
    InodeNo(u32)
);
number!(
    /// A block group.
    GroupNo(u32)
);
number!(
    /// Log sequence number of a record, from 1; 0 means "before all records".
    Lsn(u64)
);
number!(
    /// One opening of the log, from 1. Lsns above a cut recur: outside one
    /// epoch a record is identified by (epoch, Lsn).
    Epoch(u32)
);

impl Lsn {
    /// The next record's number. (2^64 records don't happen.)
    pub fn next(self) -> Self {
        Lsn(self
            .0
            .checked_add(1)
            .expect("log sequence numbers exhausted"))
    }
    /// The record before, or 0.
    pub fn prev(self) -> Self {
        Lsn(self.0.saturating_sub(1))
    }
}

impl InodeNo {
    /// The root directory.
    pub const ROOT: InodeNo = InodeNo(2);
    /// Where mkfs puts the image's own journal.
    pub const JOURNAL: InodeNo = InodeNo(8);
}

/// A wall-clock instant: seconds since 1970-01-01 UTC and nanoseconds (0..1e9).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time {
    /// Seconds since the epoch; negative before 1970.
    pub secs: i64,
    /// 0 ..= 999_999_999.
    pub nanos: u32,
}

impl Time {
    /// Nanoseconds since 1970, saturating (years 1677 to 2262).
    pub fn as_nanos(self) -> i64 {
        self.secs
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(self.nanos))
    }
    /// Nanoseconds since an instant; 0 if that one is later.
    pub fn nanos_since(self, earlier: Time) -> u64 {
        let elapsed = self.as_nanos().saturating_sub(earlier.as_nanos());
        elapsed.max(0) as u64
    }
    /// The inverse of [`Time::as_nanos`].
    pub fn from_nanos(nanos: i64) -> Self {
        Time {
            secs: nanos.div_euclid(1_000_000_000),
            nanos: nanos.rem_euclid(1_000_000_000) as u32,
        }
    }
}

/// Where time comes from: the host's clock, or a test's own.
pub trait Clock: Send + Sync {
    /// The raw wall clock; may jump.
    fn wall(&self) -> Time;
}

/// The host's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct HostClock;

impl Clock for HostClock {
    fn wall(&self) -> Time {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Time {
            secs: since.as_secs() as i64,
            nanos: since.subsec_nanos(),
        }
    }
}

/// A clock for tests and simulation: starts at a fixed instant and advances
/// by one millisecond at every reading, so that runs repeat to the byte.
#[derive(Debug)]
pub struct StepClock(std::sync::atomic::AtomicI64);

impl StepClock {
    /// Starts at `start`.
    pub fn new(start: Time) -> Self {
        StepClock(std::sync::atomic::AtomicI64::new(start.as_nanos()))
    }
}

impl Clock for StepClock {
    fn wall(&self) -> Time {
        Time::from_nanos(
            self.0
                .fetch_add(1_000_000, std::sync::atomic::Ordering::Relaxed),
        )
    }
}

//! How many requests of each kind were served, and how long each took: from
//! when it arrived until its answer went out, so a sync's time is what the
//! caller waited for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::request::{Answer, Request};

/// Kinds of requests, by what Linux calls them in FUSE or as system calls.
pub const KINDS: [&str; 31] = [
    "lookup",
    "getattr",
    "setattr",
    "readlink",
    "create",
    "mknod",
    "mkdir",
    "symlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "open",
    "release",
    "opendir",
    "releasedir",
    "readdir",
    "read",
    "write",
    "fsync",
    "fallocate",
    "lseek",
    "statfs",
    "trim",
    "getxattr",
    "listxattr",
    "setxattr",
    "removexattr",
    "access",
    "forget",
    "setflags",
];

/// The place of `readdir` in [`KINDS`], which is served without a [`Request`].
const READDIR: usize = 16;

/// Upper bounds of the classes of latencies, in microseconds: each twice the
/// one before; the last class has none.
pub const CLASSES: usize = 20;

impl Request<'_> {
    /// Its place in [`KINDS`].
    fn kind(&self) -> usize {
        match self {
            Request::Lookup { .. } => 0,
            Request::GetAttr { .. } => 1,
            Request::SetAttr { .. } => 2,
            Request::ReadLink { .. } => 3,
            Request::Create { .. } => 4,
            Request::MakeNode { .. } => 5,
            Request::MakeDir { .. } => 6,
            Request::Symlink { .. } => 7,
            Request::Link { .. } => 8,
            Request::Unlink { .. } => 9,
            Request::RemoveDir { .. } => 10,
            Request::Rename { .. } => 11,
            Request::Open { .. } => 12,
            Request::Release { .. } => 13,
            Request::OpenDir { .. } => 14,
            Request::ReleaseDir { .. } => 15,
            Request::Read { .. } => 17,
            Request::Write { .. } => 18,
            Request::Sync { .. } => 19,
            Request::Fallocate { .. } => 20,
            Request::Seek { .. } => 21,
            Request::Statfs => 22,
            Request::Trim { .. } => 23,
            Request::GetXattr { .. } => 24,
            Request::ListXattr { .. } => 25,
            Request::SetXattr { .. } => 26,
            Request::RemoveXattr { .. } => 27,
            Request::Access { .. } => 28,
            Request::Forget { .. } => 29,
            Request::SetFlags { .. } => 30,
        }
    }
}

/// Counts requests, and knows what they come through.
#[derive(Default)]
pub struct Meter {
    rows: [Row; KINDS.len()],
    transport: OnceLock<String>,
}

#[derive(Default)]
struct Row {
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    slowest: AtomicU64,
    classes: [AtomicU64; CLASSES],
}

/// A request under way.
pub struct Running {
    kind: usize,
    since: Instant,
}

/// What was counted of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// As in [`KINDS`].
    pub kind: String,
    /// Requests that were answered.
    pub count: u64,
    /// Of them, with an error.
    pub errors: u64,
    /// Nanoseconds that all of them took together.
    pub nanos: u64,
    /// Nanoseconds of the slowest.
    pub slowest: u64,
    /// How many took at most 1, 2, 4, 8 … microseconds, and longer than the
    /// bound before.
    pub classes: Vec<u64>,
}

impl Meter {
    /// A request arrives.
    pub fn begin(&self, request: &Request<'_>) -> Running {
        Running {
            kind: request.kind(),
            since: Instant::now(),
        }
    }

    /// A listing of a directory begins.
    pub fn begin_listing(&self) -> Running {
        Running {
            kind: READDIR,
            since: Instant::now(),
        }
    }

    /// Its answer goes out.
    pub fn end(&self, running: Running, answer: &Answer) {
        self.note(&running, answer.is_err());
    }

    /// One ends that has no answer of this type.
    pub fn end_unanswered(&self, running: Running, failed: bool) {
        self.note(&running, failed);
    }

    fn note(&self, running: &Running, failed: bool) {
        let took = running.since.elapsed();
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let row = &self.rows[running.kind];
        row.count.fetch_add(1, Relaxed);
        row.errors.fetch_add(u64::from(failed), Relaxed);
        row.nanos.fetch_add(nanos, Relaxed);
        row.slowest.fetch_max(nanos, Relaxed);
        row.classes[class(took)].fetch_add(1, Relaxed);
    }

    /// Requests come through this from now on, in words for people.
    pub fn set_transport(&self, transport: String) {
        let _ = self.transport.set(transport);
    }

    /// What requests come through; `None` before there is a mount.
    pub fn transport(&self) -> Option<&str> {
        self.transport.get().map(String::as_str)
    }

    /// All kinds of which there was one.
    pub fn counted(&self) -> Vec<Counted> {
        let rows = KINDS.iter().zip(&self.rows);
        let counted = rows.map(|(kind, row)| Counted {
            kind: (*kind).to_owned(),
            count: row.count.load(Relaxed),
            errors: row.errors.load(Relaxed),
            nanos: row.nanos.load(Relaxed),
            slowest: row.slowest.load(Relaxed),
            classes: row
                .classes
                .iter()
                .map(|class| class.load(Relaxed))
                .collect(),
        });
        counted.filter(|counted| counted.count > 0).collect()
    }
}

/// The first class whose bound is not below.
fn class(took: Duration) -> usize {
    let micros = took.as_nanos().div_ceil(1000).max(1);
    let bits = u128::BITS - (micros - 1).leading_zeros();
    (bits as usize).min(CLASSES - 1)
}

impl Counted {
    /// The bound of the class that holds this share (0 to 1) of the requests,
    /// in microseconds; `None` beyond the last bound.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut sum = 0;
        let at = self.classes.iter().position(|count| {
            sum += count;
            sum >= wanted
        })?;
        (at + 1 < CLASSES).then(|| 1 << at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Error;
    use crate::fuse::request::Reply;
    use crate::units::InodeNo;

    #[test]
    fn a_class_reaches_to_its_bound() {
        let micros = |n: u64| class(Duration::from_nanos(n * 1000));
        assert_eq!(class(Duration::ZERO), 0);
        assert_eq!(
            [micros(1), micros(2), micros(3), micros(4), micros(5)],
            [0, 1, 2, 2, 3]
        );
        assert_eq!(class(Duration::from_nanos(1001)), 1);
        assert_eq!(class(Duration::from_secs(3600)), CLASSES - 1);
    }

    #[test]
    fn requests_are_counted_by_kind_with_their_errors() {
        let meter = Meter::default();
        let inode = InodeNo(2);
        for answer in [Ok(Reply::Done), Err(Error::NotFound)] {
            let running = meter.begin(&Request::GetAttr { inode });
            meter.end(running, &answer);
        }
        meter.end_unanswered(meter.begin_listing(), false);
        let counted = meter.counted();
        let seen: Vec<_> = (counted.iter())
            .map(|row| (row.kind.as_str(), row.count, row.errors))
            .collect();
        assert_eq!(seen, [("getattr", 2, 1), ("readdir", 1, 0)]);
        assert_eq!(counted[0].classes.iter().sum::<u64>(), 2);
        assert!(counted[0].slowest * 2 >= counted[0].nanos);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_class() {
        let mut classes = vec![0; CLASSES];
        (classes[0], classes[3], classes[CLASSES - 1]) = (90, 9, 1);
        let counted = Counted {
            count: 100,
            classes,
            ..Counted::default()
        };
        assert_eq!(counted.quantile(0.5), Some(1));
        assert_eq!(counted.quantile(0.99), Some(8));
        assert_eq!(counted.quantile(1.0), None);
    }
}

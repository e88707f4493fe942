//! The witness: walks an image and its journal and reports.
//!
//! It shares no walker and no decoder with the file system: it reads the
//! format's bytes for itself (but for the hash of directory names), so that
//! a field written to the wrong place can't be read back from there and
//! found right. It never writes, never panics and always ends, whatever the
//! bytes: every block is descended into once.
//!
//! ```text
//!   superblock ─► groups ─► orphans ─► inodes ─► directories
//!                   │ claims what no file owns    │ counts names
//!                   │          │ claims blocks    ▼
//!                   ▼          ▼            connections ─► link counts
//!                 bitmaps and counts against the owners
//! ```

mod bits;
mod directories;
mod finding;
mod groups;
mod htree;
mod inodes;
mod links;
mod map;
mod orphans;
mod report;
mod source;
mod sums;
mod superblock;
mod walk;
mod xattrs;

pub use finding::{Finding, Place, Severity};
pub use report::{Counts, Journal, Report, Verdict};
pub use source::{Overlaid, Plain, Source, Through};

use crate::device::Disk;

/// Checks whatever can be read as an image.
pub fn run(source: &dyn Source) -> Report {
    walk::run(source)
}

/// Checks an image as it is, without a journal.
pub fn run_image(image: &dyn Disk) -> Report {
    run(&Plain(image))
}

//! The witness: walks an image and its journal and reports.
//!
//! It shares no walker and no decoder with the file system: it reads the
//! format's bytes for itself, so that a field written to the wrong place can't
//! be read back from there and found right. (Shared are the hash of directory
//! names, and what blocks of the image's own journal say.) It never writes,
//! never panics and always ends, whatever the bytes: every block is descended
//! into once.
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
mod journal;
mod links;
mod map;
mod orphans;
mod own;
mod report;
mod source;
mod sums;
mod superblock;
mod walk;
mod xattrs;

pub use finding::{Finding, Place, Severity};
pub use report::{Counts, Journal, Report, Verdict};
pub use source::{Plain, Source, Through};

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::device::host::{Access, HostDir, HostDisk};
use crate::device::{Dir, Disk};

/// Checks whatever can be read as an image.
pub fn run(source: &dyn Source) -> Report {
    walk::run(source)
}

/// Checks an image as it is, without a journal.
pub fn run_image(image: &dyn Disk) -> Report {
    run(&Plain(image))
}

/// Checks an image with its journal: every frame is read, and if the image
/// waits for recovery, it is judged as recovery would leave it. Nothing is
/// written.
pub fn run_disks(image: Arc<dyn Disk>, journal: Option<Arc<dyn Dir>>) -> Report {
    match journal {
        Some(journal) => journal::run(image, journal),
        None => journal::without(&*image),
    }
}

/// Checks an image of the host and the journal in `journal`, if there is one.
pub fn check_host(image: &Path, journal: &Path) -> Report {
    let image: Arc<dyn Disk> = match HostDisk::open(image, Access::Read) {
        Ok(disk) => Arc::new(disk),
        Err(e) => {
            return unreadable(Finding::Unreadable {
                place: Place::Superblock,
                error: e.to_string(),
            });
        }
    };
    match HostDir::open(journal) {
        Ok(dir) => run_disks(image, Some(Arc::new(dir))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => run_disks(image, None),
        Err(e) => unreadable(Finding::JournalUnreadable {
            error: e.to_string(),
        }),
    }
}

fn unreadable(finding: Finding) -> Report {
    Report {
        findings: vec![finding],
        ..Report::default()
    }
}

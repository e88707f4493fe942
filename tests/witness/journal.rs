//! Images that lag behind their journal, and what the check says of both.

use std::sync::Arc;

use journalfs::check::{self, Finding, Report};
use journalfs::device::Dir;
use journalfs::device::memory::{MemoryDir, MemoryDisk};
use journalfs::fs::Caller;
use journalfs::fs::mount::{self, Mounted, Options};
use journalfs::units::{InodeNo, StepClock, Time};

use crate::support::e2fsck;
use crate::support::images::DEBIAN;

/// An image and its journal, left by a killed daemon. In the end they recover
/// to an image that e2fsck finds nothing in, unless a test has damaged them:
/// then they don't recover.
struct Left {
    image: Arc<MemoryDisk>,
    journal: Arc<MemoryDir>,
    damaged: bool,
}

impl Drop for Left {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (image, journal) = (self.image.clone(), self.journal.clone());
        match self.damaged {
            false => e2fsck::assert_recovers_clean(image, journal),
            true => assert!(mount::recover(image, journal, Options::default()).is_err()),
        }
    }
}

impl Left {
    /// `files` files were made and synced.
    fn killed_after(files: u32) -> Left {
        let left = Left {
            image: DEBIAN.make(8 << 20).to_memory(),
            journal: Arc::default(),
            damaged: false,
        };
        let mounted = left.mount(1);
        make(&mounted, "synced", files);
        mounted.fs().journal().sync().unwrap();
        mounted.fs().journal().log().unwrap().mark().unwrap();
        left
    }

    fn mount(&self, seed: u64) -> Mounted {
        let clock = StepClock::new(Time {
            secs: 1_800_000_000,
            nanos: 0,
        });
        let options = Options {
            segment_size: Some(1 << 20),
            segments: Some(6),
            clock: Arc::new(clock),
            seed,
            ..Options::default()
        };
        let opened = mount::open(self.image.clone(), self.journal.clone(), options);
        opened
            .and_then(|opened| opened.mount())
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn check(&self) -> Report {
        check::run_disks(self.image.clone(), Some(self.journal.clone()))
    }

    /// Turns a bit of the store file that holds the newest records.
    fn damage_store(&mut self, find: &[u8]) {
        for name in self.journal.list().unwrap() {
            let disk = self.journal.open(&name).unwrap();
            let mut bytes = vec![0; disk.len().unwrap() as usize];
            disk.read_at(&mut bytes, 0).unwrap();
            if let Some(at) = bytes.windows(find.len()).position(|w| w == find) {
                disk.write_at(&[bytes[at] ^ 1], at as u64).unwrap();
                self.damaged = true;
                return;
            }
        }
        panic!("{:?} is in no segment", String::from_utf8_lossy(find));
    }
}

fn make(mounted: &Mounted, name: &str, files: u32) {
    let by = Caller::default();
    for n in 0..files {
        let name = format!("{name} {n}");
        let file = mounted
            .fs()
            .create(&by, InodeNo::ROOT, name.as_bytes(), 0o644, 0)
            .unwrap();
        let data = format!("contents of {name}").repeat(50);
        mounted
            .fs()
            .write(
                &by,
                file.value.inode,
                0,
                data.as_bytes(),
                Default::default(),
            )
            .unwrap();
    }
}

#[test]
fn a_killed_mount_is_judged_as_recovery_would_leave_it() {
    let left = Left::killed_after(30);
    let report = left.check();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert!(matches!(report.findings[..], [Finding::Guarded { .. }]));
    assert_eq!((report.counts.files, report.counts.entries), (30, 31)); // (lost+found)
    let journal = report.journal.unwrap();
    assert_eq!(
        (journal.verdict.as_str(), journal.frames),
        ("clean", journal.last)
    );
}

#[test]
fn a_check_changes_nothing() {
    let left = Left::killed_after(5);
    let before = (left.image.pages().to_vec(), left.journal.files());
    left.check();
    assert!(before.0 == left.image.pages().to_vec());
    for (name, pages) in left.journal.files() {
        assert!(
            pages.to_vec() == before.1[&name].to_vec(),
            "{name} has changed"
        );
    }
}

#[test]
fn a_guarded_image_without_its_journal_cannot_be_judged() {
    let left = Left::killed_after(3);
    let report = check::run_disks(left.image.clone(), None);
    assert!(
        matches!(report.findings[..], [Finding::JournalMissing { .. }]),
        "{:?}",
        report.findings
    );
    assert_eq!(report.exit_code(), 8);
}

#[test]
fn a_guarded_image_with_another_journal_is_an_error() {
    let left = Left::killed_after(3);
    let second = Left {
        image: DEBIAN.make(8 << 20).to_memory(),
        journal: Arc::default(),
        damaged: false,
    };
    drop(second.mount(99));
    let mixed = Left {
        image: left.image.clone(),
        journal: second.journal.clone(),
        damaged: true,
    };
    let report = mixed.check();
    assert!(
        report
            .findings
            .iter()
            .any(|f| matches!(f, Finding::JournalForeign { .. })),
        "{:?}",
        report.findings
    );
    assert_eq!(report.exit_code(), 4);
}

#[test]
fn a_damaged_synced_record_is_named() {
    let mut left = Left::killed_after(30);
    left.damage_store(b"contents of synced 7");
    let report = left.check();
    let named = report
        .findings
        .iter()
        .any(|f| matches!(f, Finding::JournalCorrupt { .. }));
    assert!(named, "{:?}", report.findings);
    assert_eq!(report.exit_code(), 4);
    assert_ne!(report.journal.unwrap().verdict, "clean");
}

#[test]
fn a_closed_session_leaves_both_clean() {
    let left = Left::killed_after(10);
    let again = left.mount(2);
    make(&again, "again", 10);
    again.close().unwrap_or_else(|e| panic!("{e}"));
    let report = left.check();
    assert!(
        report.is_clean() && !report.counts.guarded,
        "{:?}",
        report.findings
    );
    assert_eq!(report.counts.files, 20);
}

#[test]
fn what_checkpoints_left_behind_is_checked_with_what_follows() {
    let left = Left::killed_after(10);
    let mounted = left.mount(2);
    make(&mounted, "before", 20);
    mounted.fs().journal().checkpoint().unwrap();
    make(&mounted, "after", 20);
    mounted.fs().journal().sync().unwrap();
    drop(mounted);
    let report = left.check();
    assert!(
        report.is_clean() && report.counts.guarded,
        "{:?}",
        report.findings
    );
    assert_eq!(report.counts.files, 50);
}

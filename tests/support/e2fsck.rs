//! The first foreign judge: `e2fsck -fn`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use journalfs::device::{Dir, Disk};
use journalfs::fs::mount;

use super::images::Image;

/// What e2fsck said about an image; it changed nothing.
#[derive(Debug)]
pub struct Judgement {
    /// Its exit code; 0 does not mean that all is well.
    pub code: i32,
    /// All that it printed.
    pub output: String,
}

impl Judgement {
    /// Nothing found, or nothing but hints: e2fsck calls a directory or extent
    /// tree that "could be narrower" (or "shorter") a finding, although the
    /// kernel leaves such trees behind all the time.
    ///
    /// The exit code alone is no judge: with `-n`, wrong totals in the
    /// superblock and wrong checksums of group descriptors still give 0.
    pub fn is_clean(&self) -> bool {
        let mut findings = self
            .output
            .lines()
            .filter(|line| line.contains("? no") || line.ends_with("IGNORED."));
        matches!(self.code, 0 | 4)
            && findings.all(is_hint)
            && (self.code == 0 || self.output.contains("? no"))
    }
}

fn is_hint(line: &str) -> bool {
    line.contains("could be narrower")
        || line.contains("could be shorter")
        || line.starts_with("Optimize")
}

/// Runs `e2fsck -fn`.
pub fn judge(image: &Path) -> Judgement {
    let done = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(image)
        .env("PATH", super::images::path_with_sbin())
        .env("LC_ALL", "C")
        // Tests have clocks of their own, some ahead of the host's, and a
        // mount in the future is a finding.
        .env("E2FSCK_TIME", "4000000000")
        .output()
        .expect("e2fsck is installed (scripts/setup)");
    let mut output = String::from_utf8_lossy(&done.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&done.stderr));
    Judgement {
        code: done.status.code().unwrap_or(-1),
        output,
    }
}

/// Fails with e2fsck's words unless it finds the image in order.
#[track_caller]
pub fn assert_clean(image: &Path) {
    let judgement = judge(image);
    assert!(
        judgement.is_clean(),
        "e2fsck -fn {} exits {}:\n{}",
        image.display(),
        judgement.code,
        judgement.output
    );
}

/// Fails unless it finds the image on this disk in order.
#[track_caller]
pub fn assert_clean_disk(disk: &dyn Disk) {
    let file = Image::blank(0);
    file.write_back(disk);
    assert_clean(file.path());
}

/// Fails unless what somebody left of an image and its journal is in order
/// once it is recovered. (e2fsck says nothing of an image under its guard.)
#[track_caller]
pub fn assert_recovers_clean(image: Arc<dyn Disk>, journal: Arc<dyn Dir>) {
    mount::recover(image.clone(), journal, mount::Options::default())
        .unwrap_or_else(|e| panic!("what was left does not recover: {e}"));
    assert_clean_disk(&*image);
}

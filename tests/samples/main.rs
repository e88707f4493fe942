//! Journals and archives of format version 1 open for ever: what lies in
//! `images/` is read as it was when it was put there, and a file of a version
//! that nobody knows yet is refused by its number and stays as it is.
//!
//! Should one of these tests fail after a change, the change is one of the
//! format: it needs another version, and samples of its own beside these.

#[path = "../support/mod.rs"]
mod support;

mod make;
mod says;
mod second;
mod versions;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::images::{path_with_sbin, run};
use tempfile::TempDir;

/// The samples' names: `images/NAME.tar.gz`, and what is in it in `NAME.txt`.
const SAMPLES: [&str; 4] = ["clean", "killed", "damaged", "archive"];

/// Where they are kept.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images")
}

/// A sample, unpacked.
struct Sample {
    dir: TempDir,
}

impl Sample {
    fn unpack(name: &str) -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar");
        let packed = folder().join(format!("{name}.tar.gz"));
        run(tar.arg("-xzf").arg(packed).arg("-C").arg(dir.path()));
        Sample { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn image(&self) -> PathBuf {
        self.at("disk.img")
    }
    fn journal(&self) -> PathBuf {
        self.at("disk.img.journal")
    }
    /// Its archive, if it has one.
    fn archive(&self) -> Option<PathBuf> {
        Some(self.at("archive")).filter(|folder| folder.exists())
    }

    /// Runs the program in its folder.
    fn journalfs(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_journalfs"))
            .args(args)
            .current_dir(self.dir.path())
            .env("PATH", path_with_sbin())
            .output()
            .unwrap()
    }
}

#[test]
fn samples_are_read_as_they_always_were() {
    for name in SAMPLES {
        let recorded = std::fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
        let said = says::all(&Sample::unpack(name));
        assert!(
            said == recorded,
            "{name}:\n{}",
            difference(&recorded, &said)
        );
    }
}

fn difference(recorded: &str, said: &str) -> String {
    let lines = |of: &str, other: &str, sign: &str| -> Vec<String> {
        let news = of.lines().filter(|line| !other.lines().any(|o| o == *line));
        news.map(|line| format!("{sign}{line}")).collect()
    };
    [lines(recorded, said, "-"), lines(said, recorded, "+")]
        .concat()
        .join("\n")
}

#[test]
fn the_samples_are_small() {
    let files = std::fs::read_dir(folder()).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 300 << 10, "{bytes} bytes");
}

//! A file of version 2 is refused by both numbers and left as it is; one that
//! can be made again is passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Sample, second};

/// All files of a sample.
fn files(sample: &Sample) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let folders = [Some(sample.journal()), sample.archive()]
        .into_iter()
        .flatten();
    for file in folders.flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let path = file.unwrap().path();
        // Made by who locks it.
        if !path.ends_with("lock") {
            all.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    all.insert(sample.image(), fs::read(sample.image()).unwrap());
    all
}

/// Runs what must be refused, and changes nothing.
#[track_caller]
fn assert_refused(sample: &Sample, commands: &[&[&str]]) {
    let before = files(sample);
    for args in commands {
        let done = sample.journalfs(args);
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!done.status.success(), "{args:?}");
        let found = ["version 2,", "version is 2,"]
            .iter()
            .any(|v| said.contains(v));
        assert!(found && said.contains("knows 1"), "{args:?}: {said}");
        assert!(files(sample) == before, "{args:?} has changed something");
    }
}

const ALL: &[&[&str]] = &[
    &["recover", "disk.img"],
    &["verify", "disk.img"],
    &["log", "disk.img"],
    &["segments", "disk.img"],
    &["status", "disk.img"],
    &["check", "disk.img"],
    &["salvage", "--until", "80", "disk.img"],
];

fn change(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Paths that end so, in a folder.
fn ending(folder: &Path, end: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let some: Vec<_> = all
        .filter(|path| path.to_str().unwrap().ends_with(end))
        .collect();
    assert!(!some.is_empty(), "no {end} in {}", folder.display());
    some
}

#[test]
fn a_segment_of_a_later_version_is_refused() {
    for name in ["clean", "killed"] {
        let sample = Sample::unpack(name);
        for store in ending(&sample.journal(), ".store") {
            change(&store, |bytes| {
                if second::header(bytes).is_some() {
                    bytes[8] = 2;
                    bytes[2048 + 8] = 2;
                }
            });
        }
        assert_refused(&sample, ALL);
        if name == "killed" {
            assert_refused(&sample, &[&["detach", "disk.img"]]);
        }
    }
}

#[test]
fn a_record_of_a_later_version_is_refused() {
    let sample = Sample::unpack("killed");
    let mut newest = (0, PathBuf::new(), 0, 0);
    for store in ending(&sample.journal(), ".store") {
        let bytes = fs::read(&store).unwrap();
        let Some((salt, _)) = second::header(&bytes) else {
            continue;
        };
        for frame in second::frames(&bytes, salt) {
            if !frame.meta.is_empty() && frame.lsn > newest.0 {
                newest = (frame.lsn, store.clone(), frame.at, frame.meta.len());
            }
        }
    }
    let (_, ref store, at, len) = newest;
    change(store, |bytes| {
        assert_eq!(second::u32_at(bytes, at + 76), 0, "it has no data");
        bytes[at + 80] = 2;
        let sum = second::crc(&bytes[at + 8..at + 80 + len]);
        bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    });
    let lsn = newest.0.to_string();
    let args: &[&[&str]] = &[
        &["recover", "disk.img"],
        &["verify", "disk.img"],
        &["log", "disk.img"],
        &["show", "disk.img", &lsn],
        &["check", "disk.img"],
        &["restore", "--at", &lsn, "--to", "out.img", "disk.img"],
        &["detach", "disk.img"],
    ];
    assert_refused(&sample, args);
}

#[test]
fn an_archive_of_a_later_version_is_refused() {
    let sample = Sample::unpack("archive");
    let archive = sample.archive().unwrap();
    let manifest = archive.join("manifest.json");
    change(&manifest, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let later = text.replacen("\"version\": 1", "\"version\": 2", 1);
        assert!(text != later);
        *bytes = later.into_bytes();
    });
    let args: &[&[&str]] = &[
        &["archive", "archive", "list"],
        &["archive", "archive", "verify"],
        &["archive", "archive", "prune", "--age", "1d"],
        &[
            "restore",
            "--at",
            "first",
            "--to",
            "o",
            "--archive",
            "archive",
            "disk.img",
        ],
    ];
    assert_refused(&sample, args);
}

#[test]
fn an_archived_segment_of_a_later_version_is_refused() {
    let sample = Sample::unpack("archive");
    let store = &ending(&sample.archive().unwrap(), ".store")[0];
    change(store, |bytes| {
        bytes[8] = 2;
        bytes[2048 + 8] = 2;
    });
    assert_refused(&sample, &[&["archive", "archive", "list"]]);
}

#[test]
fn what_can_be_made_again_is_passed_over() {
    let sample = Sample::unpack("archive");
    let archive = sample.archive().unwrap();
    let args = [
        "restore",
        "--force",
        "--at",
        "second",
        "--to",
        "o",
        "--archive",
        "archive",
        "disk.img",
    ];
    assert!(sample.journalfs(&args).status.success());
    let made = fs::read(sample.at("o")).unwrap();
    let ends = [
        (&archive, ".index"),
        (&archive, ".blocks"),
        (&sample.journal(), ".index"),
    ];
    for file in ends.iter().flat_map(|(folder, end)| ending(folder, end)) {
        change(&file, |bytes| bytes[8] = 2);
    }
    for store in ending(&sample.journal(), ".store") {
        change(&store, |bytes| {
            if second::header(bytes).is_none() {
                bytes[8] = 2;
            }
        });
    }
    let before = files(&sample);
    assert!(sample.journalfs(&args).status.success());
    assert!(fs::read(sample.at("o")).unwrap() == made);
    assert!(files(&sample) == before);
    assert!(sample.journalfs(&["recover", "disk.img"]).status.success());
}

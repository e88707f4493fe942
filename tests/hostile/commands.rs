//! The commands on forged journals and archives: what they read is tested
//! beside this, here also how they tell of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use journalfs::device::memory::Pages;

use crate::archives::Kept;
use crate::journals::Left;
use crate::support::random::Seeded;

/// KiB of addresses that a command may have.
const ADDRESSES: &str = "4194304";

fn put(folder: &Path, files: &BTreeMap<String, Pages>) {
    fs::create_dir(folder).unwrap();
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes.to_vec()).unwrap();
    }
}

/// Runs commands in a folder. Each ends with an exit code of ours.
fn run(folder: &Path, commands: &[&str]) {
    for command in commands {
        let ended = Command::new("sh")
            .args(["-c", "ulimit -v $1 && shift && exec \"$@\"", "sh"])
            .args([ADDRESSES, env!("CARGO_BIN_EXE_journalfs")])
            .args(command.split(' '))
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let code = ended.status.code();
        assert!(
            code.is_some_and(|code| code < 64),
            "journalfs {command}: {}: {}",
            ended.status,
            String::from_utf8_lossy(&ended.stderr)
        );
    }
}

/// A record among the first.
fn lsn(random: &mut Seeded) -> u64 {
    random.u64(1..200)
}

#[test]
fn a_forged_journal_never_makes_a_command_panic() {
    let sample = Left::killed("1k-blocks", true);
    let folder = tempfile::tempdir().unwrap();
    super::rounds("commands_on_forged_journals", |random| {
        let mut left = sample.clone();
        for _ in 0..random.usize(1..3) {
            left.change(random);
        }
        let here = folder.path().join("here");
        fs::create_dir(&here).unwrap();
        fs::write(here.join("i"), left.image.to_vec()).unwrap();
        fs::copy(here.join("i"), here.join("copy")).unwrap();
        put(&here.join("i.journal"), &left.files);
        let show = format!("show i {} --hex", lsn(random));
        let cut = format!("salvage i --force --until {}", lsn(random));
        run(
            &here,
            &[
                "log i --all",
                "log i --stat",
                "log i --json --since -5m",
                &show,
                "segments i",
                "status i",
                "status i --prometheus",
                "verify i --image",
                "check i",
                "report i -o i.html",
                "undelete i /1-9 --to given",
                "export copy --jbd2 jbd2 --journal i.journal",
                &cut,
                "recover i",
            ],
        );
        fs::remove_dir_all(&here).unwrap();
    });
}

#[test]
fn a_forged_archive_never_makes_a_command_panic() {
    let sample = Kept::sample();
    let folder = tempfile::tempdir().unwrap();
    super::rounds("commands_on_forged_archives", |random| {
        let mut kept = sample.clone();
        let edits = (0..random.usize(1..4)).map(|_| {
            let at = random.usize(0..1 << 20);
            (random.usize(0..1000), at, random.u8(..), random.u8(..))
        });
        kept.apply(
            edits.collect::<Vec<_>>().into_iter(),
            |raw, at, _, value| {
                if let Some(at) = at.checked_rem(raw.len()) {
                    raw[at] = value;
                }
            },
        );
        if random.bool() {
            digits(&mut kept.archive, random);
        }
        let here = folder.path().join("here");
        fs::create_dir(&here).unwrap();
        put(&here.join("a"), &kept.archive);
        put(&here.join("j"), &kept.journal);
        let diff = format!("diff a {} {} --journal j", lsn(random), lsn(random));
        let restore = format!("restore a --at {} --to out --journal j", lsn(random));
        run(
            &here,
            &[
                "archive a list --journal j",
                "archive a list --json",
                "archive a verify",
                "log j --archive a --stat",
                &diff,
                &restore,
                "archive a prune --size 1M",
            ],
        );
        fs::remove_dir_all(&here).unwrap();
    });
}

/// Makes one of a manifest's numbers another one.
fn digits(archive: &mut BTreeMap<String, Pages>, random: &mut Seeded) {
    for (name, pages) in archive {
        if !name.ends_with(".json") {
            continue;
        }
        let text = String::from_utf8(pages.to_vec()).unwrap_or_default();
        let mut words: Vec<&str> = text.split_inclusive([' ', ',', '\n']).collect();
        let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let found: Vec<usize> = (0..words.len()).filter(|n| number(&words[*n])).collect();
        if found.is_empty() {
            continue;
        }
        let large = format!("{},", u64::MAX >> random.u32(0..64));
        words[found[random.usize(0..found.len())]] = &large;
        *pages = Pages::from_bytes(words.concat().as_bytes());
    }
}

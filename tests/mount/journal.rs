//! Reading a journal after a failure: `log`, `show`, `segments`, `verify`.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use serde_json::Value;

use crate::daemon::{World, journalfs, said};
use crate::needs_fuse;

/// One JSON object a line.
fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn log(world: &World, more: &[&str], target: &str) -> Vec<Value> {
    let mut args = vec!["log", "--json"];
    args.extend(more);
    args.push(target);
    objects(&world.succeeds(&args))
}

/// Operation and path of each.
fn told(events: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    events
        .iter()
        .map(|event| (text(&event["op"]), text(&event["path"])))
        .collect()
}

/// Some history: directories, a file that is renamed with its folder, one
/// that is removed while open, odd names.
fn live(world: &World) {
    fs::create_dir_all(world.at("a/b")).unwrap();
    fs::write(world.at("a/b/file"), b"one").unwrap();
    File::open(world.at("a/b/file"))
        .unwrap()
        .sync_all()
        .unwrap();
    fs::rename(world.at("a"), world.at("z")).unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .open(world.at("z/b/file"))
        .unwrap();
    file.write_all(b"two").unwrap();
    let odd = world.point().join(OsStr::from_bytes(b"odd\n\xff"));
    let gone = File::create(&odd).unwrap();
    fs::remove_file(&odd).unwrap();
    gone.write_at(b"late", 0).unwrap();
}

#[test]
fn the_log_tells_every_operation_by_the_names_of_its_time() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    live(&world);
    let expected = [
        ("create", "/a"),
        ("create", "/a/b"),
        ("create", "/a/b/file"),
        ("write", "/a/b/file"),
        ("rename", "/a"),
        ("write", "/z/b/file"),
        ("create", "/odd\\x0a\\xff"),
        ("unlink", "/odd\\x0a\\xff"),
        ("write", "/odd\\x0a\\xff"),
    ]
    .map(|(op, path)| (op.to_owned(), path.to_owned()));
    let events = log(&world, &[], world.point_str());
    assert_eq!(told(&events), expected);
    let own = fs::read_to_string("/proc/self/task/self/comm").ok();
    for event in &events {
        assert_eq!(
            event["pid"].as_u64(),
            Some(u64::from(std::process::id())),
            "{event}"
        );
        let program = event["program"].as_str().unwrap();
        assert!(own.is_none() || !program.is_empty());
    }
    assert_eq!(events[4]["to"], "/z");
    assert_eq!(events[8]["deleted"], true);
    assert_eq!(
        (&events[5]["offset"], &events[5]["length"]),
        (&3.into(), &3.into())
    );
    // Synced were the first four, and what came before them.
    assert!(events[..4].iter().all(|event| event["durable"] == true));
    // The same from what a dead machine leaves, by the image and by the
    // journal's folder alone.
    world.kill();
    world.detach_dead();
    let folder = world.journal().display().to_string();
    for target in [world.image_str(), folder.as_str()] {
        let after = log(&world, &[], target);
        assert_eq!(told(&after), expected, "{target}");
    }
    let bytes = world.bytes();
    world.succeeds(&["log", "--all", world.image_str()]);
    world.succeeds(&["verify", world.image_str()]);
    world.succeeds(&["segments", world.image_str()]);
    world.succeeds(&["show", world.image_str(), "4"]);
    assert!(world.bytes() == bytes, "reading changes nothing");
}

#[test]
fn the_log_is_filtered_by_point_path_inode_operation_and_process() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    live(&world);
    world.succeeds(&["mark", world.point_str(), "here"]);
    for other in ["12", "08:30", "2026-01-01", "-5m"] {
        let line = world.fails(1, &["mark", "--", world.point_str(), other]);
        assert!(line.contains("choose another name"), "{line}");
    }
    fs::create_dir(world.at("late")).unwrap();
    fs::write(world.at("late/x"), b"x").unwrap();
    let point = world.point_str();
    let paths = |more: &[&str]| -> Vec<String> {
        let events = told(&log(&world, more, point));
        events.into_iter().map(|(_, path)| path).collect()
    };
    assert_eq!(
        paths(&["--since", "here"]),
        ["-", "/late", "/late/x", "/late/x"]
    );
    assert_eq!(paths(&["--until", "here"]).len(), 10);
    assert_eq!(paths(&["--path", "/late/*"]), ["/late/x", "/late/x"]);
    assert_eq!(paths(&["--path", "/z/**"]), ["/z/b/file"]);
    assert_eq!(paths(&["--op", "mark"]), ["-"]);
    assert_eq!(paths(&["--op", "rename,unlink"]), ["/a", "/odd\\x0a\\xff"]);
    assert_eq!(paths(&["--pid", "1"]), [""; 0]);
    assert_eq!(paths(&["--since", "-1h"]).len(), 13);
    assert_eq!(paths(&["--since", "2100-01-01T00:00:00Z"]), [""; 0]);
    let inode = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(world.at("late/x")).unwrap().ino().to_string()
    };
    assert_eq!(paths(&["--inode", &inode]), ["/late/x", "/late/x"]);
    let stat = objects(&world.succeeds(&["log", "--json", "--stat", point]));
    let of = |by: &str, key: &str| {
        let found = stat.iter().find(|row| row["by"] == by && row["key"] == key);
        found.map(|row| (row["operations"].as_u64(), row["bytes"].as_u64()))
    };
    assert_eq!(of("path", "/late/x"), Some((Some(2), Some(1))));
    assert_eq!(of("operation", "write"), Some((Some(4), Some(11))));
    assert_eq!(of("all", ""), Some((Some(13), Some(11))));
    for wrong in [
        &["log", "--op", "nonsense", point][..],
        &["log", "--since", "-5x", point],
    ] {
        world.fails(1, wrong);
    }
    world.fails(8, &["log", "--since", "no-such-mark", point]);
    let told = world.tells(0, &["log", "--since", "99999", point]);
    assert!(told.contains("nothing from record 99999 on"), "{told}");
    world.fails(8, &["log", "/"]);
    world.fails(8, &["show", point, "99999"]);
    world.umount_and_judge();
    world.fails(1, &["log", "--follow", world.image_str()]);
}

#[test]
fn following_the_log_shows_what_is_done_meanwhile_until_the_mount_ends() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    let mut follower = journalfs()
        .args(["log", "--json", "--follow", world.point_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    for name in ["first", "second"] {
        fs::create_dir(world.at(name)).unwrap();
        assert_eq!(next()["path"], format!("/{name}"));
    }
    world.umount_and_judge();
    assert!(follower.wait().unwrap().success());
}

#[test]
fn whoever_follows_as_json_is_told_which_records_came_and_went() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&["-o", "journal_size=16M"]);
    let mut follower = journalfs()
        .args(["log", "--json", "--follow", world.point_str()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || -> Option<Value> {
        let line = lines.next()?.unwrap();
        Some(serde_json::from_str(&line).unwrap())
    };
    fs::create_dir(world.at("first")).unwrap();
    let mut last = next().unwrap()["lsn"].as_u64().unwrap();
    let process = i32::try_from(follower.id()).unwrap();
    let process = nix::unistd::Pid::from_raw(process);
    nix::sys::signal::kill(process, nix::sys::signal::SIGSTOP).unwrap();
    for _ in 0..4 {
        fs::write(world.at("large"), vec![7; 12 << 20]).unwrap();
        File::open(world.at("large")).unwrap().sync_all().unwrap();
    }
    nix::sys::signal::kill(process, nix::sys::signal::SIGCONT).unwrap();
    world.umount_and_judge();
    // Each number is told, or lies in a gap, or is none that is told of.
    let mut left_out = 0;
    while let Some(event) = next() {
        let gap = &event["gap"];
        last = match gap["first"].as_u64() {
            Some(first) => {
                assert!(first > last, "{event}");
                assert_eq!(gap["why"], "not kept any more");
                left_out += 1;
                gap["last"].as_u64().unwrap()
            }
            None => {
                assert!(event["lsn"].as_u64().unwrap() > last, "{event}");
                event["lsn"].as_u64().unwrap()
            }
        };
    }
    let output = follower.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(left_out > 0 && output.status.success());
    assert!(told.contains("not kept any more"), "{told}");
}

#[test]
fn an_inode_s_log_has_the_renames_that_changed_its_name_from_outside() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    let inode = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(world.at(name)).unwrap().ino().to_string()
    };
    fs::write(world.at("old"), b"").unwrap();
    fs::write(world.at("new"), b"").unwrap();
    let old = inode("old");
    fs::rename(world.at("new"), world.at("old")).unwrap();
    let events = log(&world, &["--inode", &old], world.point_str());
    let last = events.last().unwrap();
    assert_eq!(
        (&last["op"], &last["to"]),
        (&"rename".into(), &"/old".into())
    );
    assert_eq!(last["replaced"].to_string(), old);
    world.umount_and_judge();
}

#[test]
fn a_record_is_shown_in_the_terms_of_ext4_with_what_stood_there_before() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    live(&world);
    let lsn = |op: &str| {
        let events = log(&world, &["--op", op], world.point_str());
        events.last().unwrap()["lsn"].to_string()
    };
    let shown = world.succeeds(&["show", world.point_str(), &lsn("rename")]);
    assert!(
        shown.contains("- a is inode") && shown.contains("+ z is inode"),
        "{shown}"
    );
    let shown = world.succeeds(&["show", "--json", "--hex", world.point_str(), &lsn("write")]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let changes = shown["changes"].as_array().unwrap();
    let details: Vec<&str> = (changes.iter())
        .flat_map(|change| change["details"].as_array().unwrap())
        .map(|line| line.as_str().unwrap())
        .collect();
    assert!(
        details.iter().any(|line| line.contains("size 0 → 4")),
        "{details:?}"
    );
    let late: String = b"late".iter().map(|byte| format!("{byte:02x}")).collect();
    let bytes = changes
        .iter()
        .flat_map(|change| change["bytes"].as_array().unwrap());
    let mut after = bytes.map(|range| range["after"].as_str().unwrap());
    assert!(after.any(|bytes| bytes.starts_with(&late)), "{shown}");
    world.umount_and_judge();
    // An image that is gone leaves names, entries and fields, and the parts that
    // a copy of the group descriptors in the journal tells.
    let folder = world.journal().display().to_string();
    let shown = world.succeeds(&["show", &folder, "4"]);
    assert!(shown.contains("is inode"), "{shown}");
    assert!(shown.contains("inode table of group 0"), "{shown}");
}

#[test]
fn a_journal_that_knows_no_group_says_that_its_blocks_cannot_be_named() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(world.point(), private).unwrap();
    world.umount_and_judge();
    let folder = world.journal().display().to_string();
    let events = log(&world, &["--op", "setattr"], &folder);
    let lsn = events[0]["lsn"].to_string();
    let told = world.tells(0, &["show", &folder, &lsn]);
    assert!(
        told.contains("has not all of its group descriptors"),
        "{told}"
    );
    let named = world.tells(0, &["show", world.image_str(), &lsn]);
    assert!(named.contains("inode table of group 0"), "{named}");
    assert!(!named.contains("group descriptors"), "{named}");
}

/// The record up to which `verify` says that a damaged journal can be kept.
pub fn last_good(world: &World) -> String {
    let output = journalfs()
        .args(["verify", world.image_str()])
        .output()
        .unwrap();
    let text = said(&output);
    let (_, until) = text.split_once("salvage --until ").unwrap();
    until.split(' ').next().unwrap().to_owned()
}

/// Flips a byte of the frame that holds these data.
pub fn spoil(world: &World, data: &[u8]) {
    for store in world.stores() {
        let bytes = fs::read(&store).unwrap();
        if let Some(at) = bytes.windows(data.len()).position(|window| window == data) {
            let file = OpenOptions::new().write(true).open(&store).unwrap();
            file.write_at(&[bytes[at] ^ 1], at as u64).unwrap();
            return;
        }
    }
    panic!("no segment has these data");
}

#[test]
fn damage_where_it_was_durable_is_named_and_the_rest_still_told() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    fs::write(
        world.at("safe"),
        b"these are the bytes that will be damaged",
    )
    .unwrap();
    File::open(world.at("safe")).unwrap().sync_all().unwrap();
    fs::write(world.at("later"), b"x").unwrap();
    File::open(world.at("later")).unwrap().sync_all().unwrap();
    world.succeeds(&["mark", world.point_str(), "behind"]);
    fs::write(world.at("last"), b"x").unwrap();
    world.kill();
    world.detach_dead();
    let verdict = world.succeeds(&["verify", "--json", world.image_str()]);
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    assert_ne!(verdict["verdict"], "corrupt");
    spoil(&world, b"these are the bytes");
    let output = journalfs()
        .args(["verify", world.image_str()])
        .output()
        .unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(
        text.contains("corrupt: record") && text.contains(".store at"),
        "{text}"
    );
    let output = journalfs()
        .args(["log", world.image_str()])
        .output()
        .unwrap();
    let text = said(&output);
    assert!(text.contains("create      /safe"), "{text}");
    let (before, behind) = text.split_once("was durable and is damaged").unwrap();
    assert!(!before.contains("/later"), "{text}");
    assert!(behind.contains("create      /later"), "{text}");
    assert_eq!(output.status.code(), Some(4), "{text}");
    let output = journalfs()
        .args(["log", "--json", world.image_str()])
        .output()
        .unwrap();
    let events = objects(&String::from_utf8(output.stdout).unwrap());
    let dropped = |name: &str| {
        let created = |event: &&Value| event["path"] == name && event["op"] == "create";
        let event = events.iter().find(created).unwrap();
        (event["lsn"].to_string(), event["dropped"] == true)
    };
    assert!(!dropped("/safe").1);
    let (later, is_dropped) = dropped("/later");
    assert!(is_dropped);
    let shown = world.succeeds(&["show", world.image_str(), &later]);
    assert!(shown.contains("recovery drops it"), "{shown}");
    // Marks that lie there are points too.
    let since = |mark: &str| {
        let args = ["log", "--since", mark, world.image_str()];
        journalfs().args(args).output().unwrap()
    };
    let listed = said(&since("behind"));
    assert!(listed.contains("create      /last"), "{listed}");
    assert!(!listed.contains("create      /later"), "{listed}");
    assert_eq!(since("nowhere").status.code(), Some(8));
    let shown = world.succeeds(&["show", world.image_str(), "behind"]);
    assert!(shown.contains("recovery drops it"), "{shown}");
    let status = world.tells(4, &["status", world.image_str()]);
    assert!(
        status.contains("corrupt: what was durable is damaged"),
        "{status}"
    );
    world.beyond_recovery = Some("damaged");
}

/// A file that begins with its name, and is synced.
fn synced(world: &World, name: &str) {
    let path = world.at(name);
    let mut bytes = vec![b'.'; 100_000];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    fs::write(&path, bytes).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
}

/// `log` and `show` believe a sealed index, but not of what recovery would read.
#[test]
fn damage_in_a_sealed_segment_is_told_by_all_who_read() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&["-o", "journal_size=8M"]);
    for n in 10..34 {
        synced(&world, &format!("file-{n}"));
    }
    world.kill();
    world.detach_dead();
    let image = world.image_str();
    let whole = log(&world, &[], image);
    spoil(&world, b"file-11....");
    world.tells(4, &["log", "--stat", image]);
    let listed = world.tells(4, &["log", image]);
    assert!(listed.contains("was durable and is damaged"), "{listed}");
    let args = ["log", "--json", image];
    let events =
        objects(&String::from_utf8(journalfs().args(args).output().unwrap().stdout).unwrap());
    assert_eq!(told(&events), told(&whole));
    let dropped = events.iter().filter(|event| event["dropped"] == true);
    let bad = whole
        .iter()
        .position(|event| event["path"] == "/file-11" && event["op"] == "write");
    assert_eq!(dropped.count(), whole.len() - bad.unwrap());
    let shown = world.tells(4, &["show", image, &whole[bad.unwrap()]["lsn"].to_string()]);
    assert!(
        shown.contains("its data don't match their checksum"),
        "{shown}"
    );
    let shown = world.succeeds(&["show", image, &whole[whole.len() - 1]["lsn"].to_string()]);
    assert!(shown.contains("recovery drops it"), "{shown}");
    // What is behind it is no spare file.
    let listed = world.tells(4, &["segments", image]);
    let states: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(states[1..4], ["sealed", "dropped", "dropped"], "{listed}");
    world.beyond_recovery = Some("damaged");
}

/// The first segment says which image the journal belongs to.
#[test]
fn a_verdict_is_told_although_the_image_cannot_be_compared() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&["-o", "journal_size=8M"]);
    for n in 10..22 {
        synced(&world, &format!("file-{n}"));
    }
    world.kill();
    world.detach_dead();
    let first = &world.stores()[0];
    let store = OpenOptions::new()
        .read(true)
        .write(true)
        .open(first)
        .unwrap();
    let mut header = [0; 4096];
    store.read_exact_at(&mut header, 0).unwrap();
    store.write_at(&[0; 4096], 0).unwrap();
    let told = world.tells(4, &["verify", "--image", world.image_str()]);
    assert!(
        told.contains("corrupt: record 1: its segment's header"),
        "{told}"
    );
    assert!(told.contains("nothing was compared"), "{told}");
    assert!(!told.contains("it is not the image"), "{told}");
    let name = first.file_name().unwrap().to_str().unwrap();
    let listed = world.tells(4, &["segments", world.image_str()]);
    assert!(told.contains(name) && listed.contains(&format!("{name} unreadable")));
    store.write_at(&header, 0).unwrap();
}

/// What was never written is not damaged.
#[test]
fn a_torn_journal_is_nothing_wrong_to_whoever_lists_it() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&["-o", "commit=3600"]);
    synced(&world, "durable");
    for n in 1..9 {
        fs::write(world.at(&format!("file-{n}")), [n; 9000]).unwrap();
    }
    world.kill();
    world.detach_dead();
    // A write, the create before it, and the end of the write before that.
    let stores = world.stores();
    let bytes = fs::read(&stores[0]).unwrap();
    let data = bytes.windows(4000).position(|window| window == [5; 4000]);
    let store = OpenOptions::new().write(true).open(&stores[0]).unwrap();
    store
        .write_at(&[0; 1000], data.unwrap() as u64 - 900)
        .unwrap();
    let image = world.image_str();
    let told = world.succeeds(&["verify", image]);
    assert!(told.contains("\ntorn: "), "{told}");
    let listed = world.succeeds(&["log", image]);
    assert!(listed.contains("is torn"), "{listed}");
    assert!(listed.contains("are not there either"), "{listed}");
    assert!(!listed.contains("damaged"), "{listed}");
    world.succeeds(&["log", "--json", image]);
}

#[test]
fn the_damaged_end_of_a_journal_is_given_up_with_a_copy_of_it() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    let synced = |name: &str, data: &[u8]| {
        fs::write(world.at(name), data).unwrap();
        File::open(world.at(name)).unwrap().sync_all().unwrap();
    };
    synced("before", b"kept");
    synced("spoilt", b"these are the bytes that will be damaged");
    synced("after", b"lost");
    world.kill();
    world.detach_dead();
    let refused = world.fails(32, &["salvage", "--until", "4", world.image_str()]);
    assert!(refused.contains("is not corrupt"), "{refused}");
    spoil(&world, b"these are the bytes");
    world.fails(32, &["mount", world.image_str(), world.point_str()]);
    let until = &last_good(&world);
    let bytes = world.bytes();
    let output = journalfs()
        .args(["log", "--stat", world.image_str()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let told = said(&output);
    assert!(told.contains("the sums of what is before it"), "{told}");
    // States before the damage can be seen as it is.
    let seen = world.succeeds(&["cat", "--at", until, world.image_str(), "/before"]);
    assert_eq!(seen, "kept");
    let copy = world.beside("copy");
    let image = world.image_str();
    let later: [&[&str]; 3] = [
        &["cat", "--at", "9999", image, "/before"],
        &["diff", image, until, "9999"],
        &[
            "restore",
            "--at",
            "9999",
            "--to",
            copy.to_str().unwrap(),
            image,
        ],
    ];
    for command in later {
        let output = journalfs().args(command).output().unwrap();
        assert_eq!(output.status.code(), Some(8), "{command:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        let why = format!("no state behind record {until} can be made, ask for one up to that");
        assert!(told.contains(image) && told.contains(&why), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    world.fails(32, &["salvage", "--until", "9999", world.image_str()]);
    let line = world.fails(32, &["salvage", "--until", "3", world.image_str()]);
    assert!(
        line.contains(&format!("--until {until} keeps them")),
        "{line}"
    );
    assert!(world.bytes() == bytes, "a refusal changes nothing");
    let printed = world.succeeds(&["salvage", "--until", until, world.image_str()]);
    let (_, aside) = printed.trim_end().split_once("as it was is in ").unwrap();
    for (path, was) in &bytes[1..] {
        let copy = std::path::Path::new(aside).join(path.file_name().unwrap());
        assert!(fs::read(copy).unwrap() == *was, "{}", path.display());
    }
    crate::support::e2fsck::assert_clean(&world.image());
    let status = world.tells(0, &["status", world.image_str()]);
    assert!(status.contains("salvaged: "), "{status}");
    assert!(status.contains("at least were given up"), "{status}");
    world.mount(&[]);
    assert_eq!(fs::read(world.at("before")).unwrap(), b"kept");
    assert!(!world.at("after").exists());
    world.umount_and_judge();
}

#[test]
fn a_journal_that_lacks_what_its_image_needs_is_not_called_clean() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    fs::write(world.at("file"), b"x").unwrap();
    world.kill();
    world.detach_dead();
    let store = &world.stores()[0];
    let bytes = fs::read(store).unwrap();
    fs::write(store, b"").unwrap();
    let line = world.fails(4, &["verify", world.image_str()]);
    assert!(line.contains("lags behind a journal"), "{line}");
    let status = world.tells(4, &["status", world.image_str()]);
    assert!(
        status.contains("not the one that the image lags behind"),
        "{status}"
    );
    assert!(status.contains("verdict     missing"), "{status}");
    let listed = world.tells(4, &["log", world.image_str()]);
    assert!(listed.contains("lags behind a journal"), "{listed}");
    fs::write(store, bytes).unwrap();
    world.succeeds(&["verify", world.image_str()]);
}

/// The segments before it are whole by themselves.
#[test]
fn a_journal_without_its_newest_segment_is_not_called_clean() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&["-o", "journal_size=8M"]);
    for n in 0..12 {
        let path = world.at(&format!("file-{n}"));
        fs::write(&path, vec![n; 100_000]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
    }
    world.kill();
    world.detach_dead();
    world.succeeds(&["verify", world.image_str()]);
    let segments = objects(&world.succeeds(&["segments", "--json", world.image_str()]));
    let active = segments
        .iter()
        .find(|one| one["state"] == "active")
        .unwrap();
    assert!(active["first"].as_u64().unwrap() > 1, "{segments:?}");
    let name = active["name"].as_str().unwrap();
    let (store, aside) = (world.journal().join(name), world.beside("aside"));
    fs::rename(&store, &aside).unwrap();
    for command in ["verify", "log", "status", "check", "segments"] {
        let told = world.tells(4, &[command, world.image_str()]);
        assert!(told.contains(name), "{command}: {told}");
        assert!(
            !told.contains("clean: records") && !told.contains("verdict     clean"),
            "{told}"
        );
        // Torn is what loses nothing: 4 says that something may be lost.
        assert!(!told.contains("torn"), "{told}");
    }
    let told = world.tells(4, &["verify", world.image_str()]);
    assert!(told.contains("\nmissing: record"), "{told}");
    // Recovery goes on without it, since nothing can bring it back, and says so.
    let copies = world.beside("copies");
    fs::create_dir(&copies).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([&world.image(), &world.journal(), &copies])
        .status();
    assert!(copied.unwrap().success());
    let copy = copies.join(world.image().file_name().unwrap());
    let told = world.tells(0, &["recover", copy.to_str().unwrap()]);
    assert!(told.contains(name) && told.contains("is missing"), "{told}");
    fs::rename(&aside, &store).unwrap();
    world.succeeds(&["verify", world.image_str()]);
    fs::rename(world.journal(), &aside).unwrap();
    let told = world.tells(4, &["status", world.image_str()]);
    assert!(told.contains("which is not here"), "{told}");
    fs::rename(&aside, world.journal()).unwrap();
    world.mount(&[]);
    world.umount_and_judge();
    for command in ["verify", "log", "status"] {
        world.succeeds(&[command, world.image_str()]);
    }
}

#[test]
fn a_program_is_told_that_another_became() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    let script = "echo a > shell; exec dd if=/dev/zero of=dd bs=1 count=1";
    let done = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(world.point())
        .stderr(Stdio::null())
        .status();
    assert!(done.unwrap().success());
    let told = log(&world, &["--op", "write"], world.point_str());
    let programs: Vec<&Value> = told.iter().map(|event| &event["program"]).collect();
    assert_eq!(programs, ["sh", "dd"]);
    assert_eq!(told[0]["pid"], told[1]["pid"]);
    world.umount_and_judge();
}

/// Recycled segments leave holes among those that are kept; a healthy journal
/// is no error for that, and no line for each record.
#[test]
fn records_that_were_recycled_are_one_line_of_the_log() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&["-o", "journal_size=8M"]);
    let data = vec![5; 100_000];
    for n in 0..400 {
        fs::write(world.at(&format!("file {}", n % 7)), &data).unwrap();
        if n % 40 == 0 {
            // No damage is seen beside a daemon at work.
            world.succeeds(&["verify", world.point_str()]);
        }
    }
    let listed = world.succeeds(&["log", world.point_str()]);
    let gaps = listed
        .lines()
        .filter(|line| line.contains("not kept any more"));
    assert!(gaps.count() <= 8, "{listed}");
    world.umount_and_judge();
    world.succeeds(&["log", world.image_str()]);
}

#[test]
fn a_scrub_finds_rot_in_file_data_of_the_image() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    let data: Vec<u8> = (0..40_000u32).map(|n| ((n * 7919) >> 3) as u8).collect();
    fs::write(world.at("file"), &data).unwrap();
    let refused = world.fails(8, &["verify", "--image", world.point_str()]);
    assert!(refused.contains("unmount it first"), "{refused}");
    world.umount_and_judge();
    let clean = world.succeeds(&["verify", "--image", world.image_str()]);
    assert!(clean.contains("are as it left them"), "{clean}");
    let image = fs::read(world.image()).unwrap();
    let at = image
        .windows(64)
        .position(|window| window == &data[8192..8256])
        .unwrap();
    let file = OpenOptions::new().write(true).open(world.image()).unwrap();
    file.write_at(&[data[8192] ^ 0x10], at as u64).unwrap();
    let output = journalfs()
        .args(["verify", "--image", world.image_str()])
        .output()
        .unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(
        text.contains(&format!("block {} is not as record", at / 4096)),
        "{text}"
    );
    let what = text.contains("data of inode") && text.contains(", /file, 20");
    assert!(what, "{text}");
    file.write_at(&[data[8192]], at as u64).unwrap();
    world.succeeds(&["verify", "--image", world.image_str()]);
}

/// Elements without an end of their own, and those that may leave it out.
const OPEN: [&str; 11] = [
    "meta", "br", "rect", "circle", "line", "td", "th", "tr", "thead", "html", "p",
];

/// Every other element that begins also ends, in order.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = page.split_once("</style>").unwrap().1;
    for tag in body.split('<').skip(1) {
        let name = tag
            .split(|c: char| c == '>' || c.is_whitespace())
            .next()
            .unwrap();
        let element = name.trim_start_matches('/').trim_end_matches('/');
        if OPEN.contains(&element) || tag.split('>').next().unwrap().ends_with('/') {
            continue;
        }
        match name.strip_prefix('/') {
            None => open.push(name),
            Some(closed) => assert_eq!(open.pop(), Some(closed), "<{tag}"),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_report_is_one_page_that_needs_nothing_and_runs_nobodys_script() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    fs::write(
        world.at("<script>alert(1)<&>"),
        b"these are the bytes that are synced",
    )
    .unwrap();
    let file = File::open(world.at("<script>alert(1)<&>")).unwrap();
    file.sync_all().unwrap();
    fs::write(world.at("later"), b"x").unwrap();
    let page = world.beside("report.html");
    let output = page.display().to_string();
    world.succeeds(&["report", "-o", &output, world.point_str()]);
    let live = fs::read_to_string(&page).unwrap();
    assert!(live.contains("Requests that the mount has served"));
    world.kill();
    world.detach_dead();
    world.succeeds(&["report", "-o", &output, world.image_str()]);
    let html = fs::read_to_string(&page).unwrap();
    for page in [&live, &html] {
        assert_well_formed(page);
        for outside in [
            "http:", "https:", "<script", "<link", "<img", "url(", "@import",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
    assert!(html.contains("/&lt;script&gt;alert(1)&lt;&amp;&gt;"));
    assert!(html.contains("/later") && html.contains("not known to be durable"));
    spoil(&world, b"these are the bytes");
    let damaged = journalfs()
        .args(["report", "-o", &output, world.journal().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(damaged.status.code(), Some(4), "{}", said(&damaged));
    let html = fs::read_to_string(&page).unwrap();
    assert_well_formed(&html);
    assert!(
        html.contains("recovery drops it") && html.contains("/later"),
        "behind the damage"
    );
    world.beyond_recovery = Some("damaged");
}

/// What it writes when its standard output is a terminal.
fn on_a_terminal(args: &[&str], env: &[(&str, &str)]) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = journalfs();
    for name in ["NO_COLOR", "PAGER", "LESS"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm").args(args).stdout(pty.slave);
    let mut child = command.envs(env.iter().copied()).spawn().unwrap();
    drop(command);
    let mut shown = Vec::new();
    // (A terminal that nobody holds any more ends with an error.)
    let _ = File::from(pty.master).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

#[test]
fn colour_and_a_pager_are_for_terminals() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    live(&world);
    world.kill();
    world.detach_dead();
    let log = ["log", world.image_str()];
    let pager = ("PAGER", "sed s/^/paged:/");
    let plain = on_a_terminal(&log, &[("PAGER", "cat"), ("NO_COLOR", "1")]);
    assert!(
        plain.contains("/z/b/file") && !plain.contains('\x1b'),
        "{plain}"
    );
    let coloured = on_a_terminal(&log, &[("PAGER", "cat"), ("NO_COLOR", "")]);
    assert!(coloured.contains("\x1b[33m"), "{coloured}");
    let dumb = on_a_terminal(&log, &[("PAGER", "cat"), ("TERM", "dumb")]);
    assert_eq!(dumb, plain);
    let paged = on_a_terminal(&log, &[pager]);
    assert!(
        paged.lines().all(|line| line.starts_with("paged:")),
        "{paged}"
    );
    assert!(paged.contains("/z/b/file"), "{paged}");
    // A pager that is not there hides nothing.
    let missing = ("PAGER", "no-such-pager -R");
    let plain_too = on_a_terminal(&log, &[missing, ("NO_COLOR", "1")]);
    assert_eq!(plain_too, plain);
    // What programs read is not for people.
    let json = on_a_terminal(&["log", "--json", world.image_str()], &[pager]);
    assert!(json.starts_with('{') && !json.contains('\x1b'), "{json}");

    let piped = journalfs().args(log).envs([pager]).output().unwrap();
    let piped = String::from_utf8(piped.stdout).unwrap();
    assert_eq!(piped, plain.replace("\r\n", "\n"));
}

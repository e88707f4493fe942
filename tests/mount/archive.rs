//! Archives on real mounts: history that the journal has forgotten.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::daemon::{World, journalfs, said};
use crate::journal::{last_good, spoil};
use crate::modes::wait_until;
use crate::needs_fuse;
use crate::support::e2fsck;

/// Writes and syncs so much that a journal of 8 MiB is used several times over.
fn write_much(world: &World, name: &str) {
    let data: Vec<u8> = (0..1_500_000u32)
        .map(|n| (n.wrapping_mul(7919) >> 5) as u8)
        .collect();
    for n in 0..12 {
        let path = world.at(&format!("{name}-{n}"));
        fs::write(&path, &data).unwrap();
        fs::File::open(&path).unwrap().sync_all().unwrap();
    }
}

fn list(world: &World, archive: &Path) -> Value {
    let journal = world.journal().display().to_string();
    let dir = archive.display().to_string();
    let list = ["archive", &dir, "list", "--json", "--journal", &journal];
    let printed = journalfs().args(list).output().unwrap();
    let listed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let whole = listed["gaps"].as_array().unwrap().is_empty();
    let code = if whole { 0 } else { 4 };
    assert_eq!(printed.status.code(), Some(code), "{}", said(&printed));
    listed
}

fn option(archive: &Path, more: &str) -> String {
    format!("journal_size=8M,archive={}{more}", archive.display())
}

/// The states that the newest base leads to.
fn reach(listed: &Value) -> (u64, u64) {
    let last = listed["restorable"].as_array().unwrap().last().unwrap();
    (last["from"].as_u64().unwrap(), last["to"].as_u64().unwrap())
}

#[test]
fn an_archive_has_all_that_the_journal_forgot_also_after_a_kill() {
    needs_fuse!();
    let mut world = World::new("256M");
    let archive = world.beside("archive");
    world.mount_to_kill(&["-o", &option(&archive, "")]);
    wait_until(|| archive.join("manifest.json").exists());
    write_much(&world, "first");
    world.kill();
    world.detach_dead();
    // Without a word about it: the journal remembers.
    world.mount(&["-o", "journal_size=8M"]);
    write_much(&world, "second");
    world.umount_and_judge();
    let listed = list(&world, &archive);
    let (from, to) = reach(&listed);
    assert_eq!(from, 0, "{listed}");
    let verdict = world.succeeds(&["verify", "--json", world.image_str()]);
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!(Some(to), verdict["last"].as_u64(), "{listed}");
    let kept = verdict["records"].as_u64().unwrap();
    assert!(kept < to / 2, "the journal has only {kept} of {to} records");
    // What the journal forgot can still be listed and shown.
    let log = world.succeeds(&["log", "--json", world.image_str()]);
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(first["path"], "/first-0", "{first}");
    assert!(log.lines().count() as u64 > to / 2);
    let shown = world.succeeds(&["show", world.image_str(), "1"]);
    assert!(shown.contains("session"), "{shown}");
    let dir = archive.display().to_string();
    world.succeeds(&["archive", &dir, "verify"]);
    let line = world.fails(8, &["archive", world.journal().to_str().unwrap(), "list"]);
    assert!(line.contains("is no archive"), "{line}");
    // What it forgot is in the picture too.
    let report = |more: &[&str]| {
        let page = world.beside("report.html");
        let mut args = vec!["report", "-o", page.to_str().unwrap(), world.image_str()];
        args.extend(more);
        world.succeeds(&args);
        let html = fs::read_to_string(&page).unwrap();
        html.matches("<td class='path'>/first-").count()
    };
    assert_eq!((report(&[]), report(&["--archive", "none"])), (12, 0));
    let pruned = world.fails(1, &["archive", &dir, "prune"]);
    assert!(pruned.contains("--age"), "{pruned}");

    let store = listed["segments"][1]["name"].as_str().unwrap();
    let store = fs::OpenOptions::new().write(true).open(archive.join(store));
    store.unwrap().write_at(&[0xAB; 64], 5000).unwrap();
    // No state behind what is damaged is promised.
    let told = world.tells(4, &["archive", &dir, "verify"]);
    assert!(told.contains("damaged: record"), "{told}");
    let name = listed["segments"][1]["name"].as_str().unwrap();
    assert!(told.contains(&format!("(segment {name}")), "{told}");
    let line = world.fails(8, &["verify", &dir]);
    assert!(line.contains("is an archive: journalfs archive"), "{line}");
    let verify = ["archive", &dir, "verify", "--json"];
    let verified = journalfs().args(verify).output().unwrap();
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    let gap = &verified["gaps"][0];
    let bad = gap["first"].as_u64().unwrap();
    let segment = &listed["segments"][1];
    assert!(segment["first"].as_u64().unwrap() <= bad && bad <= segment["last"].as_u64().unwrap());
    let ends = &verified["restorable"][0]["to"];
    assert_eq!(ends.as_u64(), Some(bad - 1), "{verified}");

    let damaged = |what: &str| {
        let output = journalfs().args(["archive", &dir, "verify"]).output();
        let output = output.unwrap();
        let told = said(&output);
        assert_eq!(output.status.code(), Some(4), "{told}");
        assert!(told.contains(what), "{what}: {told}");
    };
    fs::remove_file(archive.join("manifest.json")).unwrap();
    damaged("damaged: manifest.json is missing");
    world.succeeds(&["archive", &dir, "list"]);
    let base = listed["bases"][0]["name"].as_str().unwrap();
    let file = fs::OpenOptions::new().write(true).open(archive.join(base));
    file.unwrap().set_len(4 << 20).unwrap();
    damaged(&format!("damaged: {base} is cut short"));
    let copy = world.beside("short.img");
    let restore = ["restore", world.image_str(), "--at", "1", "--to"];
    let line = world.fails(8, &[&restore[..], &[copy.to_str().unwrap()]].concat());
    assert!(line.contains(&format!("{base} is cut short")), "{line}");
    assert!(!copy.exists());
    let journal = world.journal().display().to_string();
    world.fails(8, &["archive", &format!("{journal}/nowhere"), "list"]);
}

#[test]
fn a_segment_missing_from_an_archive_is_named_by_every_reader() {
    needs_fuse!();
    let mut world = World::new("256M");
    let archive = world.beside("archive");
    world.mount(&["-o", &option(&archive, "")]);
    wait_until(|| archive.join("manifest.json").exists());
    write_much(&world, "first");
    fs::remove_file(world.at("first-0")).unwrap();
    write_much(&world, "second");
    world.umount_and_judge();
    let dir = archive.display().to_string();
    let asked = ["log", "--op", "unlink", "--json", world.image_str()];
    let unlink: Value = serde_json::from_str(&world.succeeds(&asked)).unwrap();
    let unlink = unlink["lsn"].as_u64().unwrap();
    let damaged = || world.tells(4, &["archive", &dir, "verify"]);
    world.succeeds(&["archive", &dir, "verify"]);
    let listed = list(&world, &archive);
    assert_eq!(listed["gaps"].as_array().unwrap().len(), 0, "{listed}");
    let segments = listed["segments"].as_array().unwrap();
    let has_unlink = |one: &&Value| one["first"].as_u64().unwrap() <= unlink;
    let spoilt = segments.iter().rfind(has_unlink).unwrap();
    let lost = &segments[segments.len() * 3 / 4];
    assert_ne!(lost, spoilt);
    let (first, last) = (
        lost["first"].as_u64().unwrap(),
        lost["last"].as_u64().unwrap(),
    );
    let name = lost["name"].as_str().unwrap();
    let index = segments[0]["name"]
        .as_str()
        .unwrap()
        .replace(".store", ".index");
    fs::remove_file(archive.join(name)).unwrap();
    let listed = list(&world, &archive);
    let gap = &listed["gaps"][0];
    assert_eq!(
        (gap["first"].as_u64(), gap["last"].as_u64()),
        (Some(first), Some(last)),
        "{listed}"
    );
    let words = world.tells(4, &["archive", &dir, "list"]);
    assert!(
        words.contains(&format!("missing   records {first} to {last}:")),
        "{words}"
    );
    let line = damaged();
    assert!(
        line.contains(&format!("{name} is in the manifest")),
        "{line}"
    );
    let wanted = first.to_string();
    let line = world.fails(8, &["show", world.image_str(), &wanted]);
    assert!(line.contains("missing from the archive"), "{line}");
    let line = world.fails(8, &["cat", "--at", &wanted, world.image_str(), "/first-0"]);
    assert!(line.contains("missing from the archive"), "{line}");
    let log = world.tells(4, &["log", world.image_str()]);
    assert!(log.contains(&format!(
        "records {first} to {last} are missing from the archive"
    )));
    // Readers believe the index beside a segment.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(archive.join(&index));
    file.unwrap().write_at(&[0xAB; 8], 70).unwrap();
    let line = damaged();
    assert!(
        line.contains(&format!("{index} is missing or damaged")),
        "{line}"
    );
    let line = world.fails(
        8,
        &["restore", world.image_str(), "--at", "nobody", "--to", "x"],
    );
    assert!(
        line.contains("it has no marks: the oldest state is that after record"),
        "{line}"
    );
    let missing = format!("records {first} to {last} are missing from the archive");
    for how in [&["--json"][..], &["--stat"], &["--path", "/nowhere"]] {
        let mut log = vec!["log", world.image_str()];
        log.extend(how);
        let told = world.tells(4, &log);
        assert!(told.contains(&missing), "{how:?}: {told}");
    }
    let page = world.beside("report.html");
    world.tells(
        4,
        &["report", "-o", page.to_str().unwrap(), world.image_str()],
    );
    assert!(fs::read_to_string(&page).unwrap().contains(&missing));
    let line = world.fails(8, &["undelete", world.image_str(), "/nowhere"]);
    assert!(line.contains(&missing), "{line}");

    // Nothing is left of a file that can't be had whole.
    let store = archive.join(segments[0]["name"].as_str().unwrap());
    let file = fs::OpenOptions::new().write(true).open(store).unwrap();
    file.write_at(&[0xAB; 64], 500_000).unwrap();
    let copy = world.beside("copy");
    let undelete = ["undelete", world.image_str(), "/first-0", "--to"];
    let undelete = [&undelete[..], &[copy.to_str().unwrap()]].concat();
    let output = journalfs().args(undelete).output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", said(&output));
    assert!(!copy.exists());

    // The other way to lose records: what a file of the archive has no more.
    let store = archive.join(spoilt["name"].as_str().unwrap());
    let file = fs::OpenOptions::new().write(true).open(store).unwrap();
    file.set_len(4096).unwrap();
    let line = world.fails(8, &["undelete", world.image_str(), "/first-0"]);
    assert!(line.contains("not all can be: record "), "{line}");
    let log = world.tells(4, &["log", world.image_str()]);
    let name = spoilt["name"].as_str().unwrap();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(name)).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains(" more up to record "), "{told:?}");

    let base = listed["bases"][0]["name"].as_str().unwrap();
    fs::remove_file(archive.join(base)).unwrap();
    let line = world.fails(8, &["cat", "--at", "1", world.image_str(), "/first-0"]);
    assert!(
        line.contains(&format!("{base} is in the manifest")),
        "{line}"
    );
}

/// Now, as people write it.
fn now() -> String {
    let date = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"])
        .output();
    let text = String::from_utf8(date.unwrap().stdout).unwrap();
    text.trim().to_owned()
}

#[test]
fn a_session_without_its_archive_costs_only_what_was_done_then() {
    needs_fuse!();
    let mut world = World::new("256M");
    let (archive, away) = (world.beside("archive"), world.beside("away"));
    let mark = |world: &World, name: &str| {
        world.succeeds(&["mark", world.point_str(), name]);
    };
    world.mount(&["-o", &option(&archive, "")]);
    wait_until(|| archive.join("manifest.json").exists());
    write_much(&world, "first");
    fs::write(world.at("note"), "one").unwrap();
    mark(&world, "before");
    write_much(&world, "more");
    world.umount();
    fs::rename(&archive, &away).unwrap();
    world.mount(&["-o", "journal_size=8M"]);
    write_much(&world, "second");
    fs::write(world.at("note"), "two").unwrap();
    mark(&world, "alone");
    let alone = now();
    write_much(&world, "third");
    world.umount();
    fs::rename(&away, &archive).unwrap();
    world.mount(&["-o", "journal_size=8M"]);
    wait_until(|| list(&world, &archive)["bases"].as_array().unwrap().len() == 2);
    fs::write(world.at("note"), "six").unwrap();
    mark(&world, "after");
    write_much(&world, "fourth");
    write_much(&world, "fifth");
    world.umount_and_judge();

    let (image, dir) = (world.image_str(), archive.to_str().unwrap());
    for target in [image, dir] {
        let note = |at: &str| world.succeeds(&["cat", "--at", at, target, "/note"]);
        assert_eq!((&*note("before"), &*note("after")), ("one", "six"));
        let line = world.fails(8, &["cat", "--at", &alone, target, "/note"]);
        assert!(
            line.contains(&format!("nothing is known of {alone}")),
            "{line}"
        );
        assert!(line.contains("missing from the archive"), "{line}");
        let line = world.fails(8, &["cat", "--at", "alone", target, "/note"]);
        assert!(line.contains("missing from the archive"), "{line}");
        // All of both trees is compared.
        let changes = world.succeeds(&["diff", target, "before", "after"]);
        assert!(changes.contains("added     /second-0\n"), "{changes}");
        assert!(changes.contains("changed   /note  content\n"), "{changes}");
    }
    let verified = world.tells(4, &["archive", dir, "verify"]);
    assert!(!verified.contains("damaged"), "{verified}");
    assert_eq!(
        verified.matches("restores  any state").count(),
        2,
        "{verified}"
    );
}

#[test]
fn a_mount_can_archive_elsewhere_or_no_longer() {
    needs_fuse!();
    let mut world = World::new("64M");
    let (one, two) = (world.beside("one"), world.beside("two"));
    world.mount(&["-o", &option(&one, ",archive_size=64M,archive_age=2h")]);
    let prune = ["archive", one.to_str().unwrap(), "prune", "--age", "1h"];
    let line = world.fails(8, &prune);
    assert!(line.contains("prunes it"), "{line}");
    world.umount();
    // Where nobody can write, nothing is removed, and nobody is told otherwise.
    let files = || fs::read_dir(&one).unwrap().count();
    let all = files();
    let sealed = seal(&one);
    if sealed.is_some() {
        let line = world.fails(8, &prune);
        assert!(line.contains("nothing was removed"), "{line}");
        let listed = world.succeeds(&["archive", one.to_str().unwrap(), "list"]);
        assert!(listed.contains("restores"), "{listed}");
    }
    drop(sealed);
    assert_eq!(files(), all);
    world.mount(&["-o", &option(&two, "")]);
    wait_until(|| two.join("manifest.json").exists());
    world.umount();
    let before = fs::read_dir(&two).unwrap().count();
    world.mount(&["-o", "journal_size=8M,archive=none"]);
    write_much(&world, "x");
    world.umount();
    world.mount(&["-o", "journal_size=8M"]);
    write_much(&world, "y");
    world.umount_and_judge();
    assert_eq!(fs::read_dir(&two).unwrap().count(), before);
    // What it lacks now can't be had any more: a base is where it goes on.
    world.mount(&["-o", &option(&two, "")]);
    write_much(&world, "z");
    world.umount_and_judge();

    let other = World::new("64M");
    let line = other.fails(
        32,
        &[
            "mount",
            "-o",
            &option(&two, ""),
            other.image_str(),
            other.point_str(),
        ],
    );
    assert!(line.contains("another image"), "{line}");
    let archived = ["--archive", two.to_str().unwrap()];
    for read in [&["log"][..], &["restore", "--at", "1", "--to", "x"]] {
        let read = [read, &archived, &[other.image_str()]].concat();
        let line = other.fails(8, &read);
        assert!(line.contains("belongs to another image"), "{line}");
    }
    let below = other.at("archive");
    let mount = ["mount", "-o", &option(&below, ""), other.image_str()];
    let line = other.fails(32, &[&mount[..], &[other.point_str()]].concat());
    assert!(line.contains("would lie on the mount itself"), "{line}");
    let prune = ["archive", one.to_str().unwrap(), "prune", "--size", "1"];
    let said = world.succeeds(&prune);
    assert!(said.contains("0 files removed: "), "{said}");
    assert!(said.contains("the last base stays"), "{said}");
    fs::remove_dir_all(&two).unwrap();
    // Remembered, and not there: that is no reason not to mount.
    world.mount(&[]);
    let status = world.succeeds(&["status", world.point_str()]);
    assert!(status.contains("could not be had"), "{status}");
    world.umount_and_judge();
}

#[test]
fn a_history_that_has_ended_is_reached_by_its_timeline() {
    needs_fuse!();
    let mut world = World::new("64M");
    let archive = world.beside("archive");
    world.mount(&["-o", &option(&archive, "")]);
    wait_until(|| archive.join("manifest.json").exists());
    fs::write(world.at("note"), "before").unwrap();
    world.succeeds(&["mark", world.point_str(), "kept"]);
    fs::remove_file(world.at("note")).unwrap();
    world.umount();
    // Others change the image: its history begins anew, with a base.
    let changed = Command::new("tune2fs")
        .args(["-L", "others", world.image_str()])
        .output();
    assert!(changed.unwrap().status.success());
    let status = world.succeeds(&["status", world.image_str()]);
    assert!(status.contains("the next mount begins anew"), "{status}");
    assert!(!status.contains("  lag "), "{status}");
    world.mount(&[]);
    wait_until(|| {
        let listed = list(&world, &archive);
        listed["restorable"].as_array().unwrap().len() > 1
    });
    fs::write(world.at("note"), "after").unwrap();
    world.umount_and_judge();

    let listed = list(&world, &archive);
    let reaches = listed["restorable"].as_array().unwrap();
    let ended: Vec<_> = reaches.iter().filter(|one| one["ended"] == true).collect();
    assert_eq!((ended.len(), reaches.len()), (1, 2), "{listed}");
    let number = ended[0]["timeline"].to_string();
    let asked = ["--timeline", &number, "--at", "kept"];
    let cat = |more: &[&str]| {
        let mut args = vec!["cat"];
        args.extend(more);
        args.extend([world.image_str(), "/note"]);
        world.succeeds(&args)
    };
    assert_eq!(cat(&asked), "before");
    let log = ["log", "--timeline", &number, world.image_str()];
    let log = world.succeeds(&log);
    assert!(!log.contains("known to be durable"), "{log}");
    let last = reach(&listed).1.to_string();
    assert_eq!(cat(&["--at", &last]), "after");
    // What goes on has a number too, and goes on in the journal.
    let current = reaches[1]["timeline"].to_string();
    assert_eq!(cat(&["--timeline", &current, "--at", &last]), "after");
    let late = [
        "cat",
        "--timeline",
        &number,
        "--at",
        "-0s",
        world.image_str(),
    ];
    let line = world.fails(8, &[&late[..], &["/note"]].concat());
    assert!(line.contains("this history ended with record"), "{line}");
    let line = world.fails(8, &["cat", "--at", "kept", world.image_str(), "/note"]);
    assert!(line.contains("kept"), "{line}");
    assert!(line.contains(&format!("has --timeline {number}")), "{line}");
    let out = world.beside("out.img");
    let mut args = vec!["restore", "--verify", "--to", out.to_str().unwrap()];
    args.extend(asked);
    args.push(archive.to_str().unwrap());
    world.succeeds(&args);
    e2fsck::assert_clean(&out);
    let line = world.fails(
        8,
        &[
            "cat",
            "--timeline",
            "77",
            "--at",
            "1",
            world.image_str(),
            "/note",
        ],
    );
    assert!(line.contains("no states of a timeline 77"), "{line}");
    lists_both_histories(&world, &number);
    does_without(&world, &last);
}

/// By `log` and `show`: the newest, with a word about the other.
fn lists_both_histories(world: &World, number: &str) {
    let log = |more: &[&str]| {
        let mut args = vec!["log", "--op", "mark,unlink"];
        args.extend(more);
        args.push(world.image_str());
        let output = journalfs().args(args).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let (newest, told) = log(&[]);
    assert!(!newest.contains("unlink"), "{newest}");
    assert!(told.contains(&format!("--timeline {number}\n")), "{told}");
    let (ended, told) = log(&["--timeline", number]);
    assert!(ended.contains("unlink"), "{ended}");
    assert_eq!(told, "");
    let lsn = ended.trim_start().split(' ').next().unwrap();
    let shown = world.succeeds(&["show", "--timeline", number, world.image_str(), lsn]);
    assert!(shown.contains("mark"), "{shown}");
    world.fails(8, &["log", "--timeline", "77", world.image_str()]);
}

/// Readers do without an archive that the journal remembers.
fn does_without(world: &World, last: &str) {
    let none = ["--archive", "none"];
    let image = world.image_str();
    let line = world.fails(1, &["log", "--timeline", "0", none[0], none[1], image]);
    assert!(line.contains("has no archive"), "{line}");
    let mut seen = vec!["cat", "--at", last, image, "/note"];
    seen.extend(none);
    assert_eq!(world.succeeds(&seen), "after");
    let output = journalfs()
        .args(["log", image])
        .args(none)
        .output()
        .unwrap();
    assert_eq!(output.stderr, b"", "{}", said(&output));
    let line = world.fails(1, &["mount", "--archive", "none", image, world.point_str()]);
    assert!(line.contains("--at"), "{line}");
}

#[test]
fn under_a_power_switch_nothing_is_archived_and_that_is_said_first() {
    needs_fuse!();
    let mut world = World::new("64M");
    let archive = world.beside("archive");
    let options = option(&archive, "");
    let (image, point) = (world.image_str().to_owned(), world.point_str().to_owned());
    let mount = |options: &str| ["mount", "-o", options, &image, &point].map(str::to_owned);
    let refused = |world: &World, code: i32, options: &str| {
        let args = mount(options);
        world.fails(code, &args.each_ref().map(String::as_str))
    };
    world.mount(&["-o", &options]);
    world.umount();
    let said = refused(&world, 32, "powercut");
    assert!(said.contains("-o powercut,archive=none"), "{said}");
    let said = refused(&world, 1, &format!("powercut,{options}"));
    assert!(said.contains("drop one of both"), "{said}");
    world.mount(&["-o", "powercut,archive=none"]);
    world.umount_and_judge();
}

#[test]
fn salvage_leaves_the_archived_history_within_reach() {
    needs_fuse!();
    let mut world = World::new("64M");
    let archive = world.beside("archive");
    let options = option(&archive, "");
    world.mount_to_kill(&["-o", &options]);
    wait_until(|| archive.join("manifest.json").exists());
    fs::write(world.at("note"), "early").unwrap();
    world.succeeds(&["mark", world.point_str(), "early"]);
    write_much(&world, "much");
    fs::write(world.at("spoilt"), "bytes that will be damaged").unwrap();
    fs::File::open(world.at("spoilt"))
        .unwrap()
        .sync_all()
        .unwrap();
    fs::write(world.at("after"), "lost").unwrap();
    fs::File::open(world.at("after"))
        .unwrap()
        .sync_all()
        .unwrap();
    world.kill();
    world.detach_dead();
    spoil(&world, b"bytes that will");
    let until = &last_good(&world);
    let seen = |world: &World, at: &str, target: &str| {
        world.succeeds(&["cat", "--at", at, target, "/note"])
    };
    let dir = archive.to_str().unwrap();
    assert_eq!(seen(&world, "early", dir), "early");
    let salvaged = journalfs()
        .args(["salvage", "--until", until, world.image_str()])
        .output()
        .unwrap();
    assert!(
        matches!(salvaged.status.code(), Some(0 | 4)),
        "{}",
        said(&salvaged)
    );
    assert_eq!(seen(&world, "early", world.image_str()), "early");
    assert_eq!(seen(&world, "early", dir), "early");
    world.mount(&[]);
    fs::write(world.at("note"), "late").unwrap();
    world.succeeds(&["mark", world.point_str(), "late"]);
    assert_eq!(seen(&world, "late", world.point_str()), "late");
    world.umount();
    assert_eq!(seen(&world, "early", world.image_str()), "early");
    assert_eq!(seen(&world, "late", world.image_str()), "late");
}

/// Evidence copied from a machine that then goes on, and archives on.
#[test]
fn a_copy_is_not_shown_the_future_of_its_original() {
    needs_fuse!();
    let mut world = World::new("64M");
    let archive = world.beside("archive");
    world.mount_to_kill(&["-o", &option(&archive, "")]);
    wait_until(|| archive.join("manifest.json").exists());
    write_much(&world, "past");
    fs::write(world.at("note"), "before").unwrap();
    fs::File::open(world.point()).unwrap().sync_all().unwrap();
    world.kill();
    world.detach_dead();
    let copy_to = |name: &str| {
        let copy = world.beside(name);
        let from = [world.image(), world.journal()];
        fs::create_dir(&copy).unwrap();
        let copied = Command::new("cp").arg("-a").args(from).arg(&copy).status();
        assert!(copied.unwrap().success());
        copy.join("disk.img").display().to_string()
    };
    let dead = copy_to("dead");
    world.mount(&[]);
    fs::write(world.at("note"), "after").unwrap();
    // Of the opening that goes on, and behind the copy's last record.
    let live = copy_to("live");
    write_much(&world, "future");
    world.umount();
    for (copy, note) in [(&dead, "before"), (&live, "after")] {
        let verdict = world.succeeds(&["verify", "--json", copy]);
        let verdict: Value = serde_json::from_str(&verdict).unwrap();
        let last = verdict["last"].to_string();
        let output = journalfs().args(["log", "--json", copy]).output().unwrap();
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("one of the two is a copy"), "{told}");
        assert_eq!(told.matches("a copy").count(), 1, "{told}");
        assert!(listed.contains("/past-0\""), "the archive is its past");
        assert!(!listed.contains("/future"), "{listed}");
        let newest: Value = serde_json::from_str(listed.lines().last().unwrap()).unwrap();
        assert_eq!(newest["lsn"].to_string(), last, "{newest}");
        let cat = |at: &str| {
            let asked = ["cat", "--at", at, copy, "/note"];
            said(&journalfs().args(asked).output().unwrap())
        };
        assert!(cat(&last).starts_with(note), "{}", cat(&last));
        assert!(cat("99999").contains(&last), "{}", cat("99999"));
        let listed = [
            "archive",
            archive.to_str().unwrap(),
            "list",
            "--json",
            "--journal",
        ];
        let journal = format!("{copy}.journal");
        let listed = world.succeeds(&[&listed[..], &[journal.as_str()]].concat());
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(reach(&listed).1.to_string(), last, "{listed}");
        let mut mount = vec!["mount", copy.as_str(), world.point_str()];
        let line = world.fails(32, &mount);
        assert!(line.contains("an old copy"), "{line}");
        // Recovery brings a copy home, and leaves the archive alone.
        let recovered = journalfs().args(["recover", copy]).output().unwrap();
        assert!(recovered.status.success(), "{}", said(&recovered));
        let line = world.fails(32, &mount);
        assert!(line.contains("an old copy"), "{line}");
        mount.extend(["-o", "archive=none"]);
        world.succeeds(&mount);
        assert!(!world.at("future-0").exists());
        // So much that its journal forgets where it parted from the other.
        write_much(&world, "own");
        world.succeeds(&["umount", world.point_str()]);
        let options = option(&archive, "");
        let again = [&mount[..3], &["-o", &options]].concat();
        let line = world.fails(32, &again);
        assert!(line.contains("an old copy"), "{line}");
    }
    let dir = archive.display().to_string();
    world.succeeds(&["archive", &dir, "verify"]);
    let original = world.succeeds(&["log", "--op", "create", world.image_str()]);
    assert!(original.contains("/future-11"), "{original}");
}

/// What a reader makes never replaces what it reads.
#[test]
fn nothing_is_written_over_an_image_its_journal_or_its_archive() {
    needs_fuse!();
    let mut world = World::new("64M");
    let archive = world.beside("archive");
    world.mount(&["-o", &option(&archive, "")]);
    wait_until(|| archive.join("manifest.json").exists());
    write_much(&world, "first");
    world.succeeds(&["mark", world.point_str(), "written"]);
    world.umount();
    let before = world.bytes();
    let out = [
        world.image(),
        world.stores()[0].clone(),
        world.journal().join("new"),
        archive.join("manifest.json"),
        archive.join("new"),
    ];
    for out in out.iter().map(|out| out.to_str().unwrap()) {
        let line = world.fails(32, &["report", "-o", out, world.image_str()]);
        assert!(line.contains("name another file"), "{line}");
        let restore = ["restore", "--at", "1", "--force", "--to", out];
        let line = world.fails(32, &[&restore[..], &[world.image_str()]].concat());
        assert!(line.contains("name another file"), "{line}");
    }
    let nowhere = world.beside("no").join("out");
    let (out, image) = (nowhere.to_str().unwrap(), world.image_str());
    let made: [&[&str]; 3] = [
        &["report", "-o", out, image],
        &["restore", "--at", "written", "--to", out, image],
        &["cat", "--at", "written", "--to", out, image, "/first-0"],
    ];
    for command in made {
        let line = world.fails(32, command);
        let why = format!("{out}: its folder does not exist: make that, or name another file");
        assert!(line.contains(&why), "{line}");
    }
    assert!(world.bytes() == before);
}

#[test]
fn a_full_archive_stops_nobody() {
    needs_fuse!();
    let mut world = World::new("256M");
    let archive = world.beside("small");
    fs::create_dir(&archive).unwrap();
    let tmpfs = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6M", "archive"])
        .arg(&archive)
        .output()
        .unwrap();
    if !tmpfs.status.success() {
        eprintln!("skipped: no tmpfs can be mounted here");
        return;
    }
    let _gone = Unmount(&archive);
    world.mount(&["-o", &option(&archive, "")]);
    wait_until(|| archive.join("manifest.json").exists());
    write_much(&world, "x");
    let status = world.succeeds(&["status", world.point_str()]);
    assert!(status.contains("No space left"), "{status}");
    // What it lacks keeps nobody from seeing what image and journal have.
    fs::write(world.at("note"), "now").unwrap();
    world.succeeds(&["mark", world.point_str(), "now"]);
    let seen = world.succeeds(&["cat", "--at", "now", world.point_str(), "/note"]);
    assert_eq!(seen, "now");
    world.umount_and_judge();
    world.succeeds(&["archive", archive.to_str().unwrap(), "list"]);
}

/// Mounts a folder on itself for reading only.
fn seal(folder: &Path) -> Option<Unmount<'_>> {
    let mount = |options: &[&str]| {
        let mut mount = Command::new("mount");
        mount.args(options).stderr(std::process::Stdio::null());
        mount.status().is_ok_and(|done| done.success())
    };
    let path = folder.to_str().unwrap();
    let bound = mount(&["--bind", path, path]).then_some(Unmount(folder))?;
    mount(&["-o", "remount,bind,ro", path]).then_some(bound)
}

/// Takes a mount away, also when the test fails.
struct Unmount<'p>(&'p Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0)
            .status();
    }
}

//! What a journal tells of a history: at every record, from wherever one
//! begins to read, the names are those that a reference kept beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use journalfs::device::memory::MemoryDir;
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::fs::{Caller, SetAttr};
use journalfs::history::chart::Chart;
use journalfs::history::shown::{self, Change};
use journalfs::history::{Teller, Untold};
use journalfs::journal::Record;
use journalfs::log::{self, Survey};
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::system::{self, Mounted, Setup};
use journalfs::units::{InodeNo, Lsn};

/// What is expected of a record: kind, the paths that it may be told under,
/// the new name, whether it was deleted.
#[derive(Debug)]
struct Expected {
    kind: &'static str,
    paths: Vec<String>,
    to: Option<String>,
    deleted: bool,
}

/// A file system, and what everything in it is called.
struct World {
    host: Arc<Host>,
    setup: Setup,
    clock: Arc<StillClock>,
    mounted: Option<Mounted>,
    random: Random,
    /// Full path → inode. Directories are those in `dirs`.
    names: BTreeMap<String, InodeNo>,
    dirs: Vec<InodeNo>,
    /// Open files without a name, and the last that each had.
    open: Vec<(InodeNo, String)>,
    said: BTreeMap<Lsn, Expected>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let setup = Setup {
            size: 4 << 20,
            block_size: 1024,
            segment_size: 64 << 10,
            segments: 24,
            ..Setup::random(&mut random)
        };
        let clock = StillClock::new();
        let image = system::format(&setup, &clock).unwrap();
        let host = Host::new(Snapshot {
            image,
            ..Snapshot::default()
        });
        let mounted = system::mount(&host, &setup, &clock, 1).unwrap();
        World {
            host,
            setup,
            clock,
            mounted: Some(mounted),
            random,
            names: BTreeMap::new(),
            dirs: vec![InodeNo::ROOT],
            open: Vec::new(),
            said: BTreeMap::new(),
        }
    }

    fn fs(&self) -> Arc<journalfs::fs::Fs> {
        self.mounted.as_ref().unwrap().fs.clone()
    }

    /// A directory's inode and path.
    fn dir(&mut self) -> (InodeNo, String) {
        let dirs = self
            .names
            .iter()
            .filter(|(_, inode)| self.dirs.contains(inode));
        let mut all: Vec<(InodeNo, String)> =
            dirs.map(|(path, inode)| (*inode, path.clone())).collect();
        all.push((InodeNo::ROOT, String::new()));
        self.random.pick(&all).clone()
    }

    /// Any name: its path, inode, and its directory.
    fn any(&mut self) -> Option<(String, InodeNo, InodeNo)> {
        let all: Vec<(String, InodeNo)> = self.names.clone().into_iter().collect();
        if all.is_empty() {
            return None;
        }
        let (path, inode) = self.random.pick(&all).clone();
        let (parent, _) = split(&path);
        let parent = self.names.get(parent).copied().unwrap_or(InodeNo::ROOT);
        Some((path, inode, parent))
    }

    fn say(
        &mut self,
        lsn: Option<Lsn>,
        kind: &'static str,
        paths: Vec<String>,
        to: Option<String>,
    ) {
        let expected = Expected {
            kind,
            paths,
            to,
            deleted: false,
        };
        if let Some(lsn) = lsn {
            self.said.insert(lsn, expected);
        }
    }

    fn paths_of(&self, inode: InodeNo) -> Vec<String> {
        let all = self.names.iter().filter(|(_, has)| **has == inode);
        all.map(|(path, _)| path.clone()).collect()
    }

    fn step(&mut self) {
        let fs = self.fs();
        let by = Caller::default();
        let name = format!("n{}", self.random.below(6));
        match self.random.below(12) {
            0 | 1 => {
                let (dir, path) = self.dir();
                let Ok(done) = fs.mkdir(&by, dir, name.as_bytes(), 0o755, 0) else {
                    return;
                };
                let path = format!("{path}/{name}");
                self.say(done.lsn, "create", vec![path.clone()], None);
                self.dirs.push(done.value.inode);
                self.names.insert(path, done.value.inode);
            }
            2..=4 => {
                let (dir, path) = self.dir();
                let Ok(done) = fs.create(&by, dir, name.as_bytes(), 0o644, 0) else {
                    return;
                };
                let path = format!("{path}/{name}");
                self.say(done.lsn, "create", vec![path.clone()], None);
                self.names.insert(path, done.value.inode);
            }
            5 => {
                let Some((_, inode, _)) = self.any() else {
                    return;
                };
                let (dir, path) = self.dir();
                let Ok(done) = fs.link(&by, inode, dir, name.as_bytes()) else {
                    return;
                };
                let path = format!("{path}/{name}");
                self.say(done.lsn, "link", vec![path.clone()], None);
                self.names.insert(path, inode);
            }
            6 => {
                let Some((path, inode, parent)) = self.any() else {
                    return;
                };
                let name = split(&path).1.to_owned();
                let keep = self.random.below(2) == 0 && !self.dirs.contains(&inode);
                if keep {
                    fs.opened(inode);
                }
                let (done, kind) = match self.dirs.contains(&inode) {
                    true => (fs.rmdir(&by, parent, name.as_bytes()), "rmdir"),
                    false => (fs.unlink(&by, parent, name.as_bytes()), "unlink"),
                };
                let Ok(done) = done else { return };
                self.say(done.lsn, kind, vec![path.clone()], None);
                self.names.remove(&path);
                self.dirs.retain(|dir| *dir != inode);
                if keep && self.paths_of(inode).is_empty() {
                    self.open.push((inode, path));
                } else if keep {
                    fs.release(inode).unwrap();
                }
            }
            7 | 8 => self.rename(&fs, &by, &name),
            9 => {
                let Some((_, inode, _)) = self.any() else {
                    return;
                };
                let set = SetAttr {
                    mode: Some(0o600 + self.random.below(64) as u16),
                    ..SetAttr::default()
                };
                let Ok(done) = fs.setattr(&by, inode, &set) else {
                    return;
                };
                let paths = self.paths_of(inode);
                self.say(done.lsn, "setattr", paths, None);
            }
            10 => {
                let Some((inode, path)) = self.open.pop() else {
                    return;
                };
                if let Ok(done) = fs.write(&by, inode, 0, b"x", Default::default()) {
                    let expected = Expected {
                        kind: "write",
                        paths: vec![path],
                        to: None,
                        deleted: true,
                    };
                    self.said.extend(done.lsn.map(|lsn| (lsn, expected)));
                }
                fs.release(inode).unwrap();
            }
            _ => {
                let Some((_, inode, _)) = self.any() else {
                    return;
                };
                if self.dirs.contains(&inode) {
                    return;
                }
                let data = vec![7; 1 + self.random.below(3000) as usize];
                let Ok(done) = fs.write(&by, inode, 0, &data, Default::default()) else {
                    return;
                };
                let paths = self.paths_of(inode);
                self.say(done.lsn, "write", paths, None);
            }
        }
    }

    fn rename(&mut self, fs: &journalfs::fs::Fs, by: &Caller, name: &str) {
        let Some((old, inode, parent)) = self.any() else {
            return;
        };
        let (dir, path) = self.dir();
        let new = format!("{path}/{name}");
        let exchange = self.random.below(3) == 0;
        let flags = if exchange { libc::RENAME_EXCHANGE } else { 0 };
        let old_name = split(&old).1.as_bytes();
        let Ok(done) = fs.rename(by, parent, old_name, dir, name.as_bytes(), flags) else {
            return;
        };
        if done.lsn.is_none() {
            return;
        }
        self.say(done.lsn, "rename", vec![old.clone()], Some(new.clone()));
        let below = |path: &str, dir: &str| path == dir || path.starts_with(&format!("{dir}/"));
        let replaced = self.names.get(&new).copied();
        let moved: Vec<(String, InodeNo)> = self.names.clone().into_iter().collect();
        self.names
            .retain(|path, _| !below(path, &old) && !below(path, &new));
        for (path, number) in moved {
            if below(&path, &old) {
                self.names.insert(path.replacen(&old, &new, 1), number);
            } else if exchange && below(&path, &new) {
                self.names.insert(path.replacen(&new, &old, 1), number);
            }
        }
        let _ = inode;
        if let Some(replaced) = replaced.filter(|_| !exchange)
            && self.paths_of(replaced).is_empty()
        {
            self.dirs.retain(|dir| *dir != replaced);
        }
    }

    /// Unmounts and mounts again: names that were learned are forgotten.
    fn again(&mut self, nonce: u64) {
        for (inode, _) in std::mem::take(&mut self.open) {
            self.fs().release(inode).unwrap();
        }
        system::unmount(self.mounted.take().unwrap()).unwrap();
        self.mount(nonce);
    }

    /// The same after the daemon was killed.
    fn killed(&mut self, nonce: u64) {
        self.open.clear();
        let left = self.host.kill();
        self.mounted = None;
        self.host = Host::new(left);
        self.mount(nonce);
    }

    fn mount(&mut self, nonce: u64) {
        let mounted = system::mount(&self.host, &self.setup, &self.clock, nonce).unwrap();
        self.mounted = Some(mounted);
        // As a kernel does before it names a file by its number.
        let fs = self.fs();
        for (path, inode) in &self.names {
            let (parent, name) = split(path);
            let parent = self.names.get(parent).copied().unwrap_or(InodeNo::ROOT);
            assert_eq!(
                fs.lookup(&Caller::default(), parent, name.as_bytes())
                    .unwrap()
                    .inode,
                *inode
            );
        }
    }

    /// Reads from `from` on; how many records were compared.
    fn compare(&self, survey: &Survey, from: Lsn) -> usize {
        let mut compared = 0;
        let range = (from, Lsn(u64::MAX));
        Teller::default().tell(survey, survey.durable(), range, &mut |told| {
            let event = match told {
                Err(Untold::Log(log::Error::Recycled(_))) => return true,
                told => told.unwrap(),
            };
            let lsn = event.frame.lsn;
            assert!(lsn >= from);
            let Some(expected) = self.said.get(&lsn) else {
                return true;
            };
            let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
            let path = event.path.as_deref().map(text);
            // No later segment tells what a file without a name was called.
            if expected.deleted && path.is_none() && from > Lsn(1) {
                return true;
            }
            assert_eq!(event.kind(), expected.kind, "record {lsn}");
            assert!(
                path.as_ref()
                    .is_some_and(|path| expected.paths.contains(path)),
                "record {lsn} from {from}: told {path:?}, expected {expected:?}"
            );
            assert_eq!(event.to.as_deref().map(text), expected.to, "record {lsn}");
            assert_eq!(event.deleted, expected.deleted, "record {lsn}");
            compared += 1;
            true
        });
        compared
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap()
}

#[test]
fn every_record_is_told_by_the_names_of_its_time_wherever_reading_begins() {
    for seed in 1..=6 {
        let mut world = World::new(seed);
        for n in 0..1500 {
            world.step();
            if n == 300 {
                world.again(n + 2);
            }
        }
        let survey = Survey::read(world.host.folder()).unwrap();
        let segments = survey.segments().len();
        assert!(
            segments > 3,
            "seed {seed}: {segments} segments, {} records",
            survey.last()
        );
        let all = world.compare(&survey, Lsn(1));
        assert!(all > 100, "seed {seed}: only {all} records were compared");
        let first = survey.first().unwrap();
        let span = survey.last().0 - first.0;
        for part in 1..20 {
            world.compare(&survey, Lsn(first.0 + span * part / 20));
        }
        // The same by sealed indexes.
        let glance = Survey::glance(world.host.folder()).unwrap();
        assert_eq!(world.compare(&glance, Lsn(1)), all, "seed {seed}");
    }
}

#[test]
fn behind_a_gap_nothing_is_called_by_names_from_before_it() {
    let mut compared = 0;
    for seed in 1..=6 {
        let mut world = World::new(seed);
        (0..1500).for_each(|_| world.step());
        world.again(2);
        let whole = Survey::read(world.host.folder()).unwrap();
        let installed = whole
            .segments()
            .iter()
            .filter(|segment| segment.last <= whole.installed());
        let names: Vec<String> = installed.map(|segment| segment.name.clone()).collect();
        for name in names.iter().skip(1).rev().skip(1) {
            let folder = Host::new(world.host.kill()).folder();
            folder.remove(name).unwrap();
            let survey = Survey::read(folder).unwrap();
            compared += world.compare(&survey, Lsn(2));
        }
    }
    assert!(compared > 1000, "only {compared} records were compared");
}

#[test]
fn what_recovery_copies_is_understood_without_the_segment_that_it_was_copied_from() {
    let mut copied = 0;
    for seed in 1..=8 {
        let mut world = World::new(seed);
        for round in 2..6 {
            // (What is durable stays where it is, and tells of the rest.)
            (0..40).for_each(|_| world.step());
            world.fs().journal().log().unwrap().sync().unwrap();
            (0..20).for_each(|_| world.step());
            let made = *world.said.keys().last().unwrap();
            world.killed(round);
            (0..5).for_each(|_| world.step());
            world.again(round + 10);
            let folder = Host::new(world.host.kill()).folder();
            let whole = Survey::read(folder.clone()).unwrap();
            let segments = whole.segments();
            let fresh = segments
                .iter()
                .rfind(|segment| segment.base <= made)
                .unwrap();
            for segment in segments.iter().filter(|old| old.base < fresh.base) {
                folder.remove(&segment.name).unwrap();
            }
            let survey = Survey::read(folder).unwrap();
            assert_eq!(survey.first(), Some(fresh.base));
            world.compare(&survey, fresh.base);
            copied += world.said.range(fresh.base..=made).count();
        }
    }
    assert!(copied > 100, "only {copied} records were copied");
}

/// What a record changes.
fn changes(world: &World, survey: &Survey, lsn: Lsn) -> Vec<Change> {
    let sb = world.fs().superblock().clone();
    let chart = Chart::read(&*world.host.image(), sb);
    let frame = survey.frame(lsn).unwrap();
    let record = Record::decode(&frame.meta).unwrap();
    shown::changes(survey, &chart, lsn, &record, frame.data.as_ref())
}

/// The same as text.
fn text(changes: &[Change]) -> String {
    let line = |change: &Change| format!("{}: {}\n", change.what, change.details.join("\n  "));
    changes.iter().map(line).collect()
}

#[test]
fn attributes_devices_symlinks_and_indexes_are_shown_in_ext4s_terms() {
    let world = World::new(1);
    let (fs, by, root) = (world.fs(), Caller::default(), InodeNo::ROOT);
    let shown = |lsn: Option<Lsn>| {
        let survey = Survey::read(world.host.folder()).unwrap();
        text(&changes(&world, &survey, lsn.unwrap()))
    };
    let file = fs.create(&by, root, b"file", 0o644, 0).unwrap().value.inode;
    let set = |name: &[u8], value: &[u8]| {
        let done = fs.setxattr(&by, file, name, value, 0).unwrap();
        shown(done.lsn)
    };
    let told = set(b"user.a", b"one");
    assert!(told.contains("+ user.a, 3 bytes: \"one\""), "{told}");
    let told = set(b"user.a", b"two");
    assert!(told.contains("- user.a, 3 bytes: \"one\""), "{told}");
    assert!(told.contains("+ user.a, 3 bytes: \"two\""), "{told}");
    set(b"user.b", &[b'x'; 200]);
    let told = set(b"user.b", &[b'y'; 200]);
    assert!(told.contains("extended attributes: "), "{told}");
    assert!(told.contains("- user.b, 200 bytes: \"xxx"), "{told}");
    assert!(told.contains("+ user.b, 200 bytes: \"yyy"), "{told}");

    let mode = libc::S_IFCHR as u16 | 0o600;
    let device = fs.mknod(&by, root, b"null", mode, 0, 0x103).unwrap();
    let told = shown(device.lsn);
    assert!(told.contains("device 1:3"), "{told}");
    let short = fs.symlink(&by, root, b"short", b"to/there").unwrap();
    let told = shown(short.lsn);
    assert!(told.contains("target to/there"), "{told}");
    let long = fs.symlink(&by, root, b"long", &[b'l'; 100]).unwrap();
    let told = shown(long.lsn);
    assert!(told.contains("target of symlink inode"), "{told}");
    assert!(told.contains("target lll"), "{told}");

    let create = |n: u32| {
        let name = format!("{n:0>200}");
        let done = fs.create(&by, root, name.as_bytes(), 0o644, 0).unwrap();
        shown(done.lsn)
    };
    let told: String = (0..30).map(create).collect();
    assert!(told.contains("directory index: "), "{told}");
    assert!(told.contains("+ hashes from 0x"), "{told}");
}

#[test]
fn of_a_block_that_no_record_has_whole_the_changed_fields_are_told() {
    let world = World::new(1);
    let (fs, by, root) = (world.fs(), Caller::default(), InodeNo::ROOT);
    let create = |n: u32| {
        let name = format!("file{n}");
        let done = fs.create(&by, root, name.as_bytes(), 0o644, 0).unwrap();
        (name, done.value.inode, done.lsn.unwrap())
    };
    let created: Vec<_> = (0..400).map(create).collect();
    // Without the segment that has the blocks as they were at first.
    let mut files = world.host.kill().files;
    let whole = Survey::read(world.host.folder()).unwrap();
    let second = whole.segments()[1].base;
    files.remove(&whole.segments()[0].name).unwrap();
    let rest = Survey::beyond(Arc::new(MemoryDir::from_files(files))).unwrap();
    let (mut inodes, mut entries) = (0, 0);
    for (name, inode, lsn) in created.iter().filter(|(.., lsn)| *lsn >= second) {
        for change in changes(&world, rest.survey(), *lsn) {
            let told = text(std::slice::from_ref(&change));
            if !told.contains("the rest can't be told") {
                continue;
            }
            if told.contains(&format!("inode {inode}: mode 100644")) {
                assert!(change.what.starts_with("inode table of group"), "{told}");
                inodes += 1;
            }
            if told.contains(&format!("{name} is inode {inode}")) {
                assert_eq!(change.what, "directory", "{told}");
                entries += 1;
            }
        }
    }
    assert!(inodes > 0 && entries > 0, "{inodes} {entries}");
}

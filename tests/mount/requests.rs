//! How many requests of the kernel an operation costs, by the daemon's own
//! count: each that a program waits for is a switch to the daemon and back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::daemon::World;
use crate::needs_fuse;

/// Operations of a kind that are counted together.
const TIMES: u64 = 64;
/// Requests that nobody waits for.
const ASYNCHRONOUS: [&str; 3] = ["forget", "release", "releasedir"];

type Counts = BTreeMap<String, u64>;

fn counts(world: &World) -> Counts {
    let status = world.succeeds(&["status", "--json", world.point_str()]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let requests = status["requests"].as_array().unwrap().iter();
    let counted = requests.map(|one| {
        let kind = one["kind"].as_str().unwrap().to_owned();
        (kind, one["count"].as_u64().unwrap())
    });
    counted
        .filter(|(kind, _)| !ASYNCHRONOUS.contains(&kind.as_str()))
        .collect()
}

fn less(after: &Counts, before: &Counts) -> Counts {
    let grown = after.iter().map(|(kind, count)| {
        let before = before.get(kind).copied().unwrap_or(0);
        (kind.clone(), count - before)
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

/// The requests of all rounds together, without those of asking for the counts.
fn asked(world: &World, each: impl Fn(u64)) -> Counts {
    let (zero, before) = (counts(world), counts(world));
    (0..TIMES).for_each(each);
    let after = counts(world);
    less(&less(&after, &before), &less(&before, &zero))
}

/// Fails unless each round costs at most this many requests that a program
/// waits for, beside a few of the first round.
#[track_caller]
fn costs(world: &World, what: &str, most: u64, each: impl Fn(&Path, u64)) {
    let point = world.point();
    let asked = asked(world, |n| each(&point, n));
    let sum: u64 = asked.values().sum();
    assert!(
        sum <= most * TIMES + 8,
        "{what}: {sum} requests for {TIMES} times, more than {most} each: {asked:?}"
    );
    // Or nothing was counted.
    assert!(most == 0 || sum >= TIMES, "{what}: {asked:?}");
}

fn short_lived(point: &Path, n: u64) {
    let path = point.join(format!("short-{n}"));
    let mut file = File::create_new(&path).unwrap();
    file.write_all(b"few bytes").unwrap();
    drop(file);
    fs::remove_file(&path).unwrap();
}

#[test]
fn an_operation_costs_no_more_requests_than_it_must() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    costs(&world, "create, write, close, unlink", 5, short_lived);
    let file = |point: &Path, n: u64| point.join(format!("file-{n}"));
    costs(&world, "create and close", 3, |point, n| {
        drop(File::create_new(file(point, n)).unwrap());
    });
    costs(&world, "stat, warm", 0, |point, n| {
        fs::metadata(file(point, n)).unwrap();
    });
    costs(&world, "chmod", 1, |point, n| {
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(file(point, n), mode).unwrap();
    });
    costs(&world, "open, append, close", 3, |point, n| {
        let mut file = File::options().append(true).open(file(point, n)).unwrap();
        file.write_all(b"few bytes").unwrap();
    });
    costs(
        &world,
        "open, read, close, after a change",
        3,
        |point, n| {
            fs::read(file(point, n)).unwrap();
        },
    );
    costs(&world, "rename", 2, |point, n| {
        fs::rename(file(point, n), point.join(format!("moved-{n}"))).unwrap();
    });
    costs(&world, "mkdir, rmdir", 3, |point, n| {
        let path = point.join(format!("directory-{n}"));
        fs::create_dir(&path).unwrap();
        fs::remove_dir(&path).unwrap();
    });
    costs(
        &world,
        "a look at what is not there, again",
        0,
        |point, _| {
            assert!(!point.join("nothing").exists());
        },
    );
    world.umount_and_judge();
}

#[test]
fn permissions_that_the_kernel_checks_cost_two_requests_more() {
    needs_fuse!();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: allow_other needs root, or a line in fuse.conf");
        return;
    }
    let mut world = World::new("64M");
    world.mount(&["-o", "allow_other"]);
    costs(&world, "create, write, close, unlink", 7, short_lived);
    world.umount_and_judge();
}

#[test]
fn a_file_is_read_in_large_requests() {
    needs_fuse!();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can have the kernel read further ahead");
        return;
    }
    let mut world = World::new("128M");
    world.mount(&[]);
    let file = |point: &Path| point.join("file");
    fs::write(file(&world.point()), vec![7; 32 << 20]).unwrap();
    world.umount_and_judge();
    world.mount(&[]);
    let before = counts(&world);
    assert_eq!(fs::read(file(&world.point())).unwrap(), vec![7; 32 << 20]);
    let reads = less(&counts(&world), &before)["read"];
    assert!(reads < 100, "{reads} requests for 32 MiB");
    world.umount_and_judge();
}

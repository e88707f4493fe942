//! Many threads in shared folders, with a journal that is always too small,
//! killed again and again, also in the middle of recovery.
//!
//! Each thread knows its own names, wherever they lie, and which numbers its
//! operations' records can have. After a kill everything acknowledged is
//! there, and what was under way is done or not done.
//!
//! `scripts/soak --minutes N --seed S` runs it for long.

use std::fs;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crate::crew::Crew;
use crate::daemon::World;
use crate::history::{Outside, Worker};
use crate::needs_fuse;
use crate::support::{kernel, tree::Tree};

const WORKERS: usize = 6;
const SYNCERS: usize = 2;
const SHARED: [&str; 3] = ["shared-1", "shared-2", "shared-2/shared-3"];
/// Rounds until a new image: what is to be compared grows.
const ROUNDS: usize = 12;

/// What has been done.
#[derive(Debug, Default)]
struct Sum {
    rounds: usize,
    operations: usize,
    fsyncs: u64,
    killed_recoveries: usize,
}

fn soak(minutes: f64, seed: u64) {
    println!(
        "soak: {minutes} minutes, seed {seed} (again: scripts/soak --minutes {minutes} --seed {seed})"
    );
    let end = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sum = Sum::default();
    while sum.rounds == 0 || Instant::now() < end {
        let mut world = World::new("1G");
        let mut workers = prepare(&mut world, &mut random);
        for nth in 0..ROUNDS {
            workers = round(&mut world, workers, &mut random, &mut sum);
            if nth + 1 == ROUNDS || Instant::now() >= end {
                judge_by_the_kernel(&mut world);
                break;
            }
        }
        sum.operations += workers.iter().map(|worker| worker.done).sum::<usize>();
        println!("soak: {sum:?}: nothing acknowledged was lost");
    }
}

/// Folders for all, and threads whose names begin with a letter of their own.
fn prepare(world: &mut World, random: &mut fastrand::Rng) -> Vec<Worker> {
    world.mount(&[]);
    let point = world.point();
    for shared in SHARED {
        fs::create_dir(point.join(shared)).unwrap();
    }
    fs::write(point.join("anchor"), b"for fsync").unwrap();
    world.umount();
    let worker = |n: u8| {
        let mut worker = Worker::new(&point, "", fastrand::Rng::with_seed(random.u64(..)));
        worker.model.prefix = format!("{}-", char::from(b'A' + n));
        worker.model.shared = SHARED.map(str::to_owned).to_vec();
        worker.model.large = true;
        worker
    };
    (0..WORKERS as u8).map(worker).collect()
}

fn round(
    world: &mut World,
    workers: Vec<Worker>,
    random: &mut fastrand::Rng,
    sum: &mut Sum,
) -> Vec<Worker> {
    let options = *random
        .choice(&[
            "journal_size=8M",
            "journal_size=8M,cache_size=4M",
            "journal_size=16M,commit=1",
            "journal_size=8M,sync",
            "threads=1",
        ])
        .unwrap();
    world.mount_to_kill(&["-o", options]);
    let outside = Outside::of_a_lasting_host();
    let mut crew = Crew::start(&world.point(), outside, workers, SYNCERS);
    thread::sleep(Duration::from_millis(random.u64(50..1500)));
    crew.outside.cutting.store(true, SeqCst);
    world.assert_runs();
    world.kill();
    crew.outside.stop.store(true, SeqCst);
    let mut workers = crew.join();
    let last = last_record(world);
    while random.u8(..2) == 0 {
        world.start(&[]);
        thread::sleep(Duration::from_millis(random.u64(..100)));
        world.kill();
        sum.killed_recoveries += 1;
    }
    world.mount(&[]);
    for worker in &mut workers {
        worker.judge(last, true);
    }
    world.umount_and_judge();
    sum.rounds += 1;
    sum.fsyncs += crew.outside.fsyncs.load(SeqCst);
    workers
}

/// Where recovery will end.
fn last_record(world: &World) -> u64 {
    let status = world.succeeds(&["status", "--json", world.image_str()]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["appended"].as_u64().unwrap()
}

fn judge_by_the_kernel(world: &mut World) {
    world.succeeds(&["check", world.image_str()]);
    world.mount(&[]);
    let shown = Tree::of(&world.point());
    world.umount_and_judge();
    if let Some(mount) = kernel::Mount::read_only(&world.image()) {
        Tree::of(mount.path()).assert_same("kernel", &shown, "journalfs");
        mount.unmount();
    }
}

#[test]
fn many_threads_in_shared_folders_lose_nothing_to_a_row_of_kills() {
    needs_fuse!();
    let text = |name: &str| std::env::var(name).ok();
    let minutes = text("JOURNALFS_SOAK_MINUTES").and_then(|text| text.parse().ok());
    let seed = text("JOURNALFS_SEED").and_then(|text| text.parse().ok());
    soak(
        minutes.unwrap_or(0.1),
        seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
    );
}

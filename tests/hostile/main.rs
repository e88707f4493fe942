//! Forged images and journals: bytes changed at random, and every checksum
//! put right again, so that the changes are believed. Whatever they say, the
//! answer is an error or a file system, never a panic, a request that doesn't
//! end, or memory without bounds.
//!
//! `JOURNALFS_HOSTILE_SECONDS` makes each test run longer, `JOURNALFS_SEED`
//! makes it begin at the round that failed.

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod commands;
mod corpus;
mod exercise;
mod forge;
mod found;
mod journals;
mod targets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use journalfs::check;
use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use support::bench::Bench;
use support::images::Variant;
use support::random::Seeded;

use forge::Forge;

/// No round may take longer; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nor more memory than this, in KiB, in the whole process.
const MEMORY: u64 = 3 << 20;

/// Rounds with seeds that count up, for as long as asked.
fn rounds(name: &'static str, mut round: impl FnMut(&mut Seeded)) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seconds = number("JOURNALFS_HOSTILE_SECONDS").unwrap_or(5);
    let first = number("JOURNALFS_SEED").unwrap_or(0);
    let (begun, now) = (Instant::now(), Arc::new(AtomicU64::new(first)));
    watch(name, &now);
    let mut seed = first;
    while begun.elapsed() < Duration::from_secs(seconds) {
        now.store(seed, Ordering::Relaxed);
        round(&mut Seeded::from_seed(name, seed));
        let peak = peak_memory();
        assert!(peak < MEMORY, "{name}, seed {seed}: {peak} KiB of memory");
        seed += 1;
    }
    now.store(u64::MAX, Ordering::Relaxed);
    eprintln!("{name}: {} rounds", seed - first);
}

/// Ends the process when a round doesn't end.
fn watch(name: &'static str, now: &Arc<AtomicU64>) {
    let now = now.clone();
    std::thread::spawn(move || {
        let mut last = (now.load(Ordering::Relaxed), Instant::now());
        while last.0 != u64::MAX {
            std::thread::sleep(Duration::from_millis(500));
            let seed = now.load(Ordering::Relaxed);
            if seed != last.0 {
                last = (seed, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                eprintln!("{name}: the round of JOURNALFS_SEED={seed} does not end");
                std::process::exit(101);
            }
        }
    });
}

/// The most memory that this process ever had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// A small image with one of everything.
fn sample(variant: &Variant) -> Pages {
    let bench = Bench::new(variant, 8 << 20);
    exercise::fill(&bench);
    bench.judge_without_kernel("the sample");
    bench.pages()
}

#[test]
fn a_forged_image_never_makes_a_request_panic() {
    let names = [
        "upstream",
        "1k-blocks",
        "uninit-bg",
        "block-mapped",
        "ext3",
        "small-groups",
        "no-metadata-csum",
    ];
    let samples: Vec<Forge> = (names.iter())
        .map(|name| Forge::of(&sample(&Variant::named(name))))
        .collect();
    rounds("a_forged_image", |random| {
        let mut forge = samples[random.usize(0..samples.len())].clone();
        forge.change(random);
        let disk = || Arc::new(MemoryDisk::from_pages(forge.pages.clone()));
        let _ = check::run_image(&*disk());
        exercise::mount_and_work(disk(), Arc::new(MemoryDir::default()), random);
    });
}

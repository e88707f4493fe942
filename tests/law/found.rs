//! Where a campaign's findings go: each once failed (some only while an error
//! was planted), and must hold from then on.
//!
//! `scripts/crash` prints a failure as a test that can be pasted here.

use std::time::Duration;

use journalfs::fs::Atime;
use journalfs::sim::Round;
use journalfs::sim::making::Making;
use journalfs::sim::round::Failure;
use journalfs::sim::system::Setup;

use super::foreign::{self, Judges};

/// The law holds at this cut of a run on a fresh image, and at all others.
#[track_caller]
fn holds(setup: &Setup, steps: &str, cut: Option<&str>) {
    judge(Round::written(setup, steps.parse().expect("steps")), cut);
}

/// The same on an image with an internal journal.
#[track_caller]
fn holds_when_adopted(setup: &Setup, steps: &str, cut: Option<&str>) {
    if let Some(image) = foreign::with_internal_journal() {
        let mut round = Round::adopting(setup.seed, image, setup.block_size);
        (round.setup, round.workload) = (setup.clone(), steps.parse().expect("steps"));
        judge(round, cut);
    }
}

#[track_caller]
fn judge(round: Round, cut: Option<&str>) {
    let judges = Judges::new(u64::MAX);
    let again = match cut {
        Some(cut) => round.retry(&cut.parse().expect("a cut"), &judges),
        None => Ok(()),
    };
    // The run may have become shorter since.
    let beyond = |failure: &Failure| matches!(failure, Failure::Law(violation) if violation.what.starts_with("the run "));
    match again.err().filter(|failure| !beyond(failure)) {
        Some(failure) => panic!("{failure}"),
        None => match round.run() {
            Ok(counts) => assert!(counts.all.unique > 0),
            Err(failure) => panic!(
                "{}",
                round.report(failure, Duration::from_secs(20), &judges)
            ),
        },
    }
}

/// The law of mkfs holds at this cut of it, and at all others; `used` is what
/// stood there before, and what had been done with it.
#[track_caller]
fn mkfs_holds(setup: &Setup, used: Option<(&Setup, &str)>, cut: Option<&str>) {
    let used = used.map(|(setup, steps)| (setup, steps.parse().expect("steps")));
    let (making, judges) = (Making::written(setup, used), Judges::new(u64::MAX));
    let cut = cut.map(|cut| cut.parse().expect("a cut"));
    let again = cut.map_or(Ok(()), |cut| making.retry(&cut, &judges));
    if let Err(failure) = again.and_then(|()| making.run(&judges)) {
        panic!("{failure}");
    }
}

/// A small image and journal.
const SMALL: Setup = Setup {
    size: 1 << 20,
    block_size: 1024,
    segment_size: 64 << 10,
    segments: 6,
    atime: Atime::Noatime,
    discard: false,
    seed: 1,
};

#[test]
fn mkfs_brings_the_superblock_after_all_it_speaks_of() {
    // It mounted, and its directories could not be read.
    let setup = Setup {
        size: 3145728,
        block_size: 1024,
        segment_size: 65536,
        segments: 7,
        atime: Atime::Relatime,
        discard: false,
        seed: 2319023061153569779,
    };
    mkfs_holds(&setup, None, Some("power 0 5: +5"));
}

#[test]
fn the_witness_knows_a_superblock_torn_as_the_guard_goes() {
    // Once the record of a clean end was durable, it took the torn superblock
    // for damage, although a mount repairs it.
    holds(&SMALL, "", Some("power 0 33: +13"));
}

#[test]
fn mkfs_first_takes_away_what_stood_there() {
    // Planted: the old superblock spoke of what the new image had written over.
    let setup = Setup {
        size: 3145728,
        block_size: 1024,
        segment_size: 65536,
        segments: 8,
        atime: Atime::Noatime,
        discard: false,
        seed: 11143102979976685735,
    };
    let used = Setup {
        size: 2097152,
        block_size: 1024,
        segment_size: 65536,
        segments: 8,
        atime: Atime::Relatime,
        discard: false,
        seed: 6102181557109400987,
    };
    let steps = "
    ";
    mkfs_holds(&setup, Some((&used, steps)), Some("power 0 1: ~1638673148"));
}

#[test]
fn kept_frames_are_durable_before_the_header_that_counts_on_them() {
    // Planted: the header of the fresh segment took them for damage.
    let setup = Setup {
        size: 4194304,
        block_size: 1024,
        segment_size: 65536,
        segments: 6,
        atime: Atime::Noatime,
        discard: false,
        seed: 5747796768693156649,
    };
    let steps = "
        kill
    ";
    holds_when_adopted(&setup, steps, Some("power 0 30: +11 -1 +2"));
}

#[test]
fn kept_frames_are_durable_in_every_recovery_of_a_recovery() {
    // Planted: the same, in the fourth recovery in a row.
    let setup = Setup {
        size: 3145728,
        block_size: 1024,
        segment_size: 65536,
        segments: 6,
        atime: Atime::Noatime,
        discard: false,
        seed: 5747796768693156649,
    };
    let steps = "
        create ~00 755
    ";
    holds(
        &setup,
        steps,
        Some("power 0 50: +17; 34: +21; 17: +8; 4: +1 -1 +2"),
    );
}

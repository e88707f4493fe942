//! Where a campaign's findings go: each once failed, and must hold from then on.
//!
//! `scripts/crash` prints a failure as a test that can be pasted here.

use std::time::Duration;

use journalfs::fs::Atime;
use journalfs::sim::Round;
use journalfs::sim::round::Failure;
use journalfs::sim::system::Setup;

use super::foreign;

/// The law holds at this cut of a run on a fresh image, and at all others.
#[track_caller]
fn holds(setup: &Setup, steps: &str, cut: Option<&str>) {
    judge(Round::written(setup, steps.parse().expect("steps")), cut);
}

/// The same on an image with an internal journal.
#[track_caller]
#[allow(dead_code)] // until such a failure is found
fn holds_when_adopted(setup: &Setup, steps: &str, cut: Option<&str>) {
    if let Some(image) = foreign::with_internal_journal() {
        let mut round = Round::adopting(setup.seed, image, setup.block_size);
        (round.setup, round.workload) = (setup.clone(), steps.parse().expect("steps"));
        judge(round, cut);
    }
}

#[track_caller]
fn judge(round: Round, cut: Option<&str>) {
    let again = match cut {
        Some(cut) => round.retry(&cut.parse().expect("a cut")),
        None => Ok(()),
    };
    // The run may have become shorter since.
    let beyond = |failure: &Failure| matches!(failure, Failure::Law(violation) if violation.what.starts_with("the run "));
    match again.err().filter(|failure| !beyond(failure)) {
        Some(failure) => panic!("{failure}"),
        None => match round.run() {
            Ok(counts) => assert!(counts.all.unique > 0),
            Err(failure) => panic!("{}", round.report(failure, Duration::from_secs(20))),
        },
    }
}

/// A small image and journal.
const SMALL: Setup = Setup {
    size: 1 << 20,
    block_size: 1024,
    segment_size: 64 << 10,
    segments: 6,
    atime: Atime::Noatime,
    seed: 1,
};

#[test]
fn the_witness_knows_a_superblock_torn_as_the_guard_goes() {
    // Once the record of a clean end was durable, it took the torn superblock
    // for damage, although a mount repairs it.
    holds(&SMALL, "", Some("power 0 33: +13"));
}

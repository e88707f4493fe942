//! A power cut never finds a hole where something was: blocks are discarded
//! only when no recovery goes back to them.

use std::time::Duration;

use journalfs::fs::Atime;
use journalfs::sim::Round;
use journalfs::sim::law::NoForeign;
use journalfs::sim::system::Setup;

/// Whole blocks are whole pages, so that each may be punched.
const SETUP: Setup = Setup {
    size: 1 << 20,
    block_size: 4096,
    segment_size: 256 << 10,
    segments: 6,
    atime: Atime::Noatime,
    discard: true,
    seed: 1,
};

#[track_caller]
fn holds(steps: &str) {
    let round = Round::written(&SETUP, steps.parse().expect("steps"));
    if let Err(failure) = round.run() {
        panic!(
            "{}",
            round.report(failure, Duration::from_secs(20), &NoForeign)
        );
    }
}

#[test]
fn what_a_recovery_goes_back_to_is_not_punched() {
    // The removal is not durable for long, and the checkpoint no sooner.
    holds(
        "create /a 644
        write /a 0 40000 1
        create /b 644
        write /b 0 20000 2
        fsync
        checkpoint
        unlink /a
        truncate /b 5000
        write /b 30000 100 3
        checkpoint
        create /c 644
        write /c 0 10000 4
        fsync",
    );
}

#[test]
fn what_has_been_taken_again_is_not_punched() {
    holds(
        "create /a 644
        write /a 0 40000 1
        checkpoint
        unlink /a
        create /b 644
        write /b 0 40000 2
        checkpoint
        unlink /b
        fsync
        mkdir /d 755
        create /d/c 644
        write /d/c 0 30000 3
        checkpoint
        fallocate /d/c punch 4096 8192
        write /d/c 4096 4096 5
        checkpoint",
    );
}

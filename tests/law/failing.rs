//! Failing disks: each call of a run fails once, or all do from one on, and
//! the law holds. Here some of the calls; all of them in `scripts/failing`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use journalfs::device::crash::{Frontier, Plan};
use journalfs::device::memory::MemoryDisk;
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::sim::clock::StillClock;
use journalfs::sim::failing::{Counts, Round};
use journalfs::sim::random::Random;
use journalfs::sim::system::{self, Setup};

use super::seeds;
use crate::support::e2fsck;
use crate::support::images::Image;

#[test]
fn whatever_call_fails_nothing_that_was_promised_breaks() {
    let begun = Instant::now();
    let mut counts = Counts::default();
    for seed in seeds(u64::MAX / 2) {
        if begun.elapsed() > Duration::from_secs(8) {
            break;
        }
        println!("seed {seed}");
        counts += Round::new(seed)
            .all(3, &|| false)
            .unwrap_or_else(|report| panic!("{report}"));
    }
    println!("{counts:?}");
    assert!(counts.runs > 0);
}

#[test]
fn e2fsck_is_content_after_failing_disks_too() {
    for seed in seeds(3) {
        println!("seed {seed}");
        let images = Round::new(seed).mended(2).unwrap();
        assert!(images.len() > 20);
        for (fault, image) in images {
            println!("{fault}");
            let file = Image::blank(0);
            file.write_back(&MemoryDisk::from_pages(image));
            e2fsck::assert_clean(file.path());
        }
    }
}

fn host() -> (Arc<Host>, Setup) {
    let setup = Setup {
        size: 2 << 20,
        block_size: 1024,
        ..Setup::random(&mut Random::new(1))
    };
    let image = system::format(&setup, &StillClock::new()).unwrap();
    let host = Host::new(Snapshot {
        image,
        ..Snapshot::default()
    });
    (host, setup)
}

#[test]
fn a_superblock_that_only_the_hosts_cache_has_is_not_built_upon() {
    // The sync behind the guard's removal failed, or the daemon was killed
    // before it. The next session began over a superblock without a guard;
    // after a power cut the disk still had the guard, which by then was
    // neither that session's nor the one that it had begun over.
    let (host, setup) = host();
    let clock = StillClock::new();
    let mounted = system::mount(&host, &setup, &clock, 1).unwrap();
    host.faults().arm("sync@image:eio,forget".parse().unwrap());
    system::unmount(mounted).unwrap_err();
    assert!(host.faults().heal());
    let before = host.events();
    drop(system::mount(&host, &setup, &clock, 2).unwrap());
    let trace = host.trace();
    let mut frontier = Frontier::new(&host.start());
    trace[..before]
        .iter()
        .for_each(|event| frontier.pass(event));
    for event in &trace[before..] {
        frontier.pass(event);
        let left = Host::new(frontier.crash(&Plan::default()).0);
        system::mount(&left, &setup, &clock, 3).unwrap_or_else(|what| panic!("{what}"));
    }
}

//! The law itself, at every write and sync of seeded runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use journalfs::device::crash::{Frontier, Plan};
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::fs::Caller;
use journalfs::sim::Counts;
use journalfs::sim::clock::StillClock;
use journalfs::sim::law::NoForeign;
use journalfs::sim::making::Making;
use journalfs::sim::random::Random;
use journalfs::sim::strategy::Strategy;
use journalfs::sim::system::{self, Setup};
use journalfs::sim::walk::walk;
use journalfs::sim::window::Window;
use journalfs::sim::world::{Looking, World};
use journalfs::sim::{Round, Seen, Tree, sequence};
use journalfs::units::InodeNo;

use super::foreign::Judges;
use super::{foreign, seeds};
use crate::support::e2fsck;

#[test]
fn no_cut_anywhere_breaks_the_law() {
    let begun = Instant::now();
    let (mut counts, judges) = (Counts::default(), Judges::new(2000));
    let internal = foreign::with_internal_journal();
    let mut seen = Seen::default();
    for seed in seeds(u64::MAX / 2) {
        // As long as it takes to cut into everything that a journal does.
        let mut windows = Window::ALL.into_iter();
        let unseen = windows.find(|window| {
            let possible = *window != Window::Adoption || internal.is_some();
            possible && counts.within(*window) == 0
        });
        let seconds = begun.elapsed().as_secs();
        assert!(seconds < 300, "no cut fell into {unseen:?}\n{counts}");
        if seconds >= 12 && unseen.is_none() {
            break;
        }
        println!("seed {seed}");
        let patience = Duration::from_secs(60);
        let making = Making::new(seed);
        counts += (making.run(&judges))
            .unwrap_or_else(|failure| panic!("{}", making.report(failure, patience, &judges)));
        let mut random = Random::new(seed);
        let sequence = random.below(sequence::count(3));
        let adopted = (internal.iter().cloned())
            .map(|image| Round::adopting(seed, image, foreign::BLOCK_SIZE));
        let rounds = Round::sequence(sequence, *random.pick(&[1024, 2048, 4096]))
            .into_iter()
            .chain(adopted);
        for round in rounds.chain([Round::new(seed)]) {
            match round.run_with(&mut seen, &judges) {
                Ok(more) => counts += more,
                Err(failure) => panic!("{}", round.report(failure, patience, &judges)),
            }
        }
    }
    println!("{counts}");
    for (strategy, tally) in Strategy::ALL.iter().zip(counts.strategies) {
        assert!(tally.unique > 0, "nothing was lost in this way: {strategy}");
    }
    for (cuts, tally) in (1..).zip(counts.nested) {
        assert!(tally.unique > 0, "no recovery was cut {cuts} times");
    }
}

#[test]
fn an_image_that_mkfs_has_not_finished_is_none() {
    // The superblock could be on the disk before what it speaks of.
    let mut counts = Counts::default();
    for seed in seeds(12) {
        match Making::new(seed).run(&NoForeign) {
            Ok(more) => counts += more,
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    assert!(
        counts.within(Window::Mkfs) > 0 && counts.all.unique > 100,
        "{counts}"
    );
}

/// Every state that a growing prefix of what a mount does may leave.
fn prefixes(start: &Snapshot, setup: &Setup, nonce: u64) -> Vec<Snapshot> {
    let host = Host::new(start.clone());
    system::mount(&host, setup, &StillClock::afterwards(), nonce)
        .unwrap_or_else(|what| panic!("{what}"));
    let mut frontier = Frontier::new(start);
    let mut states = Vec::new();
    for event in host.trace() {
        frontier.pass(&event);
        states.push(frontier.crash(&Plan::all(frontier.pending())).0);
    }
    states
}

fn tree(start: &Snapshot, setup: &Setup, nonce: u64) -> Tree {
    let host: Arc<Host> = Host::new(start.clone());
    let mounted = system::mount(&host, setup, &StillClock::afterwards(), nonce)
        .unwrap_or_else(|what| panic!("{what}"));
    let tree = walk(&mounted.fs).unwrap();
    system::unmount(mounted).unwrap();
    e2fsck::assert_clean_disk(&*host.image());
    tree
}

#[test]
fn recovery_may_be_stopped_again_and_again() {
    // A session whose guard never reached the image was taken for used once
    // its own recovery had been stopped, and the image was refused.
    let mut random = Random::new(3);
    let setup = Setup {
        size: 1 << 20,
        block_size: 1024,
        ..Setup::random(&mut random)
    };
    let image = system::format(&setup, &StillClock::new()).unwrap();
    let steps = "create a 644\nappend a 3000 1\nfsync\nmkdir d 755\nopen 1 a\nunlink a"
        .parse()
        .unwrap();
    let world = World::run(&setup, image, &steps, Looking::Seldom).unwrap();
    let killed = world.host().kill();
    let wanted = tree(&killed, &setup, 1);
    for once in prefixes(&killed, &setup, 2) {
        for twice in prefixes(&once, &setup, 3).iter().step_by(3) {
            assert_eq!(wanted.difference(&tree(twice, &setup, 4)), None);
        }
    }
}

#[test]
fn a_write_that_finds_the_image_full_is_short_and_one_record() {
    // Its rest was tried again in a second record: a cut between the two left
    // a torn write.
    let setup = Setup {
        size: 1 << 20,
        block_size: 1024,
        segments: 8,
        ..Setup::random(&mut Random::new(4))
    };
    let image = system::format(&setup, &StillClock::new()).unwrap();
    let host = Host::new(Snapshot {
        image,
        ..Snapshot::default()
    });
    let mounted = system::mount(&host, &setup, &StillClock::new(), 1).unwrap();
    let fs = &mounted.fs;
    let (by, journal) = (Caller::default(), fs.journal());
    let file = fs
        .create(&by, InodeNo::ROOT, b"a", 0o644, 0)
        .unwrap()
        .value
        .inode;
    let mut at = 0;
    loop {
        journal.checkpoint().unwrap();
        let before = journal.watermarks().appended;
        let done = fs
            .write(&by, file, at, &[7; 7000], Default::default())
            .unwrap();
        assert_eq!(done.lsn, Some(before.next()));
        assert_eq!(journal.watermarks().appended, before.next());
        at += done.value as u64;
        if done.value < 7000 {
            break;
        }
    }
    assert_eq!(fs.getattr(file).unwrap().size, at);
    system::unmount(mounted).unwrap();
    e2fsck::assert_clean_disk(&*host.image());
}

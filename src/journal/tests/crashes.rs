//! Whatever the power does, recovery finds a prefix that has all that was durable.

use super::*;

/// Recovers, compares, and answers the last record kept.
fn assert_lawful(world: &World, snapshot: &Snapshot, durable: Lsn, what: &str) -> Lsn {
    assert_lawful_through(world, snapshot, durable, Lsn(u64::MAX), what)
}

/// Above `most`, numbers are an earlier recovery's own records.
fn assert_lawful_through(
    world: &World,
    snapshot: &Snapshot,
    durable: Lsn,
    most: Lsn,
    what: &str,
) -> Lsn {
    let host = Host::new(snapshot.clone());
    let unrecovered = Journal::open(host.folder()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let last = unrecovered.report().last.min(most);
    assert!(
        last >= durable,
        "{what}: {last} is kept, {durable} was durable"
    );
    if unrecovered.base().is_none() {
        assert_eq!(durable, Lsn(0), "{what}: the session's record is gone");
        return last;
    }
    let journal = unrecovered
        .recover(host.image(), options(99))
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_holds(&journal, world.state_at(last));
    assert_home(&host.kill().image, world.state_at(last));
    last
}

fn durable_at(world: &World, event: usize) -> Lsn {
    let known = world.durable.iter().take_while(|(at, _)| *at <= event);
    known.map(|(_, lsn)| *lsn).last().unwrap_or_default()
}

/// Cuts the power at events of the run, with the fate of what was unsynced
/// drawn anew each time.
fn cut_everywhere(world: &World, every: usize, seed: u64) -> usize {
    let mut frontier = Frontier::new(&world.host.start());
    let mut cuts = 0;
    for (at, event) in world.host.trace().iter().enumerate() {
        if at % every == 0 {
            let plan = Plan::random(frontier.pending(), seed ^ at as u64);
            let (snapshot, _) = frontier.crash(&plan);
            assert_lawful(
                world,
                &snapshot,
                durable_at(world, at),
                &format!("seed {seed}, event {at}"),
            );
            cuts += 1;
        }
        frontier.pass(event);
    }
    cuts
}

#[test]
fn every_cut_leaves_a_prefix_with_all_that_was_durable() {
    for seed in 0..6 {
        let mut world = World::seeded(seed);
        world.run(60);
        world.assert_reads_as_model();
        assert!(cut_everywhere(&world, 1, seed) > 100);
    }
}

#[test]
fn long_runs_through_many_segments_survive_cuts_too() {
    let mut world = World::seeded(77);
    world.run(1500);
    assert!(world.journal.log().unwrap().segments().len() > 1);
    cut_everywhere(&world, 61, 77);
}

#[test]
fn a_cut_during_recovery_is_recovered_from() {
    for seed in 20..26 {
        let mut world = World::seeded(seed);
        world.run(50);
        let durable = world.journal.watermarks().durable;
        let torn = world.host.cut(seed);
        let (host, _journal) = recover(&torn, 98);
        // The first recovery has chosen; a later one must choose the same.
        let kept = Journal::open(Host::new(torn).folder())
            .unwrap()
            .report()
            .last;
        let mut frontier = Frontier::new(&host.start());
        for (at, event) in host.trace().iter().enumerate() {
            let plan = Plan::random(frontier.pending(), seed ^ at as u64);
            let (snapshot, _) = frontier.crash(&plan);
            let what = format!("seed {seed}, recovery cut at {at}");
            let last = assert_lawful_through(&world, &snapshot, durable, kept, &what);
            assert_eq!(last, kept, "{what}");
            frontier.pass(event);
        }
    }
}

#[test]
fn killing_the_process_loses_nothing() {
    for seed in 30..40 {
        let mut world = World::seeded(seed);
        world.run(40);
        let last = world.step();
        let kept = assert_lawful(&world, &world.host.kill(), last, "kill");
        assert!(kept >= last);
    }
}

#[test]
fn recovering_twice_leaves_the_same_image() {
    let mut world = World::seeded(40);
    world.run(80);
    let (once, _) = recover(&world.host.cut(3), 5);
    let (twice, _) = recover(&once.kill(), 6);
    assert!(once.kill().image.to_vec() == twice.kill().image.to_vec());
}

#[test]
fn replay_in_memory_shows_the_same_and_writes_nothing() {
    let mut world = World::seeded(41);
    world.run(80);
    let host = Host::new(world.host.kill());
    let unrecovered = Journal::open(host.folder()).unwrap();
    let journal = unrecovered
        .replay_in_memory(host.image(), options(7))
        .unwrap();
    assert_holds(&journal, &world.model);
    assert!(matches!(journal.begin(), Err(Error::ReadOnly(_))));
    assert_eq!(host.events(), 0);
}

/// A run whose image never sees a sync from the checkpoint: the check above
/// must notice, or it proves nothing.
#[test]
#[should_panic(expected = "differs")]
fn a_checkpoint_without_its_image_sync_would_be_noticed() {
    for seed in 50..60 {
        let mut world = World::seeded(seed);
        world.run(60);
        let mut frontier = Frontier::new(&world.host.start());
        for (at, event) in world.host.trace().iter().enumerate() {
            if matches!(
                event,
                Event::Sync {
                    file: FileId::IMAGE
                }
            ) {
                continue;
            }
            let plan = Plan::random(frontier.pending(), at as u64);
            let (snapshot, _) = frontier.crash(&plan);
            let last = Journal::open(Host::new(snapshot.clone()).folder())
                .unwrap()
                .report()
                .last;
            if last > Lsn(0) {
                let host = Host::new(snapshot);
                match Journal::open(host.folder())
                    .unwrap()
                    .recover(host.image(), options(9))
                {
                    Ok(journal) => assert_holds(&journal, world.state_at(last)),
                    Err(Error::Stale { block, .. }) => {
                        panic!("block {block} differs, and was detected")
                    }
                    Err(_) => {}
                }
            }
            frontier.pass(event);
        }
    }
}

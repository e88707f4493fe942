//! Room, memory, and what happens at their ends.

use super::*;
use crate::device::fault::{Call, Effect, Fault};

fn fill(journal: &Journal) -> usize {
    fill_up_to(journal, 1000, 0)
}

/// So many records at most that are said to bring so much data; how many it took.
fn fill_up_to(journal: &Journal, most: usize, bulk: usize) -> usize {
    let data = vec![9; 20 * SIZE];
    for records in 0..most {
        let mut txn = match journal.begin_with(bulk) {
            Ok(txn) => txn,
            Err(Error::Full) => return records,
            Err(error) => panic!("{error}"),
        };
        txn.attach(&data, 0);
        for n in 0..20 {
            txn.put(BlockNo(20 + n), n as usize * SIZE).unwrap();
        }
        txn.commit(&Op::Orphan { inode: InodeNo(1) }).unwrap();
    }
    most
}

/// Somebody waits for room; whether it has come.
fn park(journal: &Journal) -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    journal.when_room(Box::new(move || tell.store(true, Ordering::SeqCst)));
    told
}

#[test]
fn bulk_leaves_room_to_others() {
    let world = World::seeded(1);
    assert!(fill_up_to(&world.journal, 1000, 64 << 10) > 3);
    assert_eq!(fill_up_to(&world.journal, 1, 0), 1);
    // It waits for what it would not take from others.
    let told = park(&world.journal);
    assert!(!told.load(Ordering::SeqCst));
    world.journal.checkpoint().unwrap();
    assert!(told.load(Ordering::SeqCst));
    assert_eq!(fill_up_to(&world.journal, 1, 64 << 10), 1);
}

#[test]
fn beside_fsyncs_bulk_waits_until_the_disk_keeps_up() {
    let large = Options {
        segment_size: 8 << 20,
        ..options(1)
    };
    let world = World::with(1, large);
    let journal = &world.journal;
    let now = Time { secs: 1, nanos: 0 };
    let records = (6 << 20) / (20 * SIZE);
    assert_eq!(
        fill_up_to(journal, records, 64 << 10),
        records,
        "nobody minds"
    );
    // Now somebody does, for a second.
    journal.when_durable(journal.watermarks().written, Box::new(drop));
    journal.tick_commit(now).unwrap();
    let fewer = fill_up_to(journal, records, 64 << 10);
    assert!(0 < fewer && fewer < records, "{fewer} of {records}");
    assert_eq!(fill_up_to(journal, 1, 1), 1, "a small one passes");
    let told = park(journal);
    assert!(!told.load(Ordering::SeqCst));
    journal.tick_stream().unwrap();
    assert!(told.load(Ordering::SeqCst));
    assert!(fill_up_to(journal, records, 64 << 10) > 0);
    let later = Time { secs: 3, nanos: 0 };
    journal.tick_commit(later).unwrap();
    assert_eq!(fill_up_to(journal, records, 64 << 10), records);
}

#[test]
fn a_full_log_has_room_again_after_a_checkpoint() {
    let world = World::seeded(1);
    for _ in 0..5 {
        assert!(fill(&world.journal) > 3);
        let told = park(&world.journal);
        assert!(!told.load(Ordering::SeqCst));
        world.journal.checkpoint().unwrap();
        assert!(told.load(Ordering::SeqCst));
    }
}

#[test]
fn whoever_asks_for_room_when_there_is_some_is_told_at_once() {
    let world = World::seeded(1);
    let told = park(&world.journal);
    assert!(told.load(Ordering::SeqCst));
}

#[test]
fn a_full_log_can_still_be_recovered_and_ended() {
    let world = World::seeded(2);
    fill(&world.journal);
    let (_host, journal) = recover(&world.host.kill(), 3);
    fill(&journal);
    journal.settle().unwrap();
    journal
        .end(Clean {
            fingerprint: vec![1],
            restored: vec![2],
        })
        .unwrap();
}

#[test]
fn a_full_log_survives_a_row_of_cuts_during_its_recovery() {
    let world = World::seeded(3);
    let _ = fill(&world.journal);
    let mut snapshot = world.host.kill();
    for round in 0..8 {
        let (host, journal) = recover(&snapshot, 10 + round);
        fill(&journal);
        snapshot = host.kill();
    }
}

#[test]
fn a_transaction_that_outgrows_the_limit_is_refused_and_changes_nothing() {
    let world = World::seeded(4);
    let mut txn = world.journal.begin().unwrap();
    for n in 2..BLOCKS {
        let noise: Vec<u8> = (0..SIZE)
            .map(|i| (i as u64 * 31 + n * 7) as u8 | 1)
            .collect();
        txn.block_mut(BlockNo(n)).unwrap().copy_from_slice(&noise);
    }
    assert!(txn.len() > txn.limit());
    let refused = txn.commit(&Op::Orphan { inode: InodeNo(1) });
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    world.assert_reads_as_model();
    world.journal.begin().unwrap();
}

#[test]
fn memory_for_changed_blocks_is_bounded() {
    let options = Options {
        cache_size: 16 << 10,
        ..options(5)
    };
    let mut world = World::with(5, options);
    let mut refused = 0;
    for _ in 0..200 {
        match world.journal.begin() {
            Ok(txn) => drop(txn),
            Err(Error::Full) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        world.step();
    }
    assert!(refused > 0);
    world.assert_reads_as_model();
}

#[test]
fn ticks_alone_sync_mark_checkpoint_and_clean() {
    let mut world = World::seeded(6);
    let mut now = Time { secs: 1, nanos: 0 };
    let tick = |world: &World, now: &mut Time, secs: i64| {
        now.secs += secs;
        world.journal.tick(*now).unwrap();
    };
    let last = world.step();
    tick(&world, &mut now, 1);
    assert!(world.journal.watermarks().durable < last);
    tick(&world, &mut now, 5);
    assert!(world.journal.watermarks().durable >= last);
    // The mark that makes the sync decidable.
    tick(&world, &mut now, 1);
    tick(&world, &mut now, 1);
    let marked = world.journal.watermarks().appended;
    assert!(marked > last);
    assert!(world.journal.watermarks().installed < last);
    tick(&world, &mut now, 40);
    assert!(world.journal.watermarks().installed >= last);
    // And then nothing, for ever.
    tick(&world, &mut now, 1);
    let quiet = world.host.events();
    let before = world.journal.watermarks();
    for _ in 0..100 {
        tick(&world, &mut now, 10);
    }
    assert_eq!(world.journal.watermarks(), before);
    assert!(
        world.host.events() - quiet < 200,
        "only spares may be prepared"
    );
}

#[test]
fn a_clock_set_back_does_not_put_off_the_background_sync() {
    let mut world = World::seeded(8);
    let at = |secs| Time { secs, nanos: 0 };
    let last = world.step();
    world.journal.tick(at(1_000_000)).unwrap();
    world.journal.tick(at(10)).unwrap();
    assert!(world.journal.watermarks().durable < last);
    world.journal.tick(at(15)).unwrap();
    assert!(world.journal.watermarks().durable >= last);
}

#[test]
fn background_threads_serve_fsyncs_and_make_room() {
    let world = World::seeded(7);
    let background = Background::start(&world.journal).unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let data = vec![9; 20 * SIZE];
    for _ in 0..300 {
        let (tell, told) = std::sync::mpsc::channel();
        let mut txn = loop {
            match world.journal.begin() {
                Ok(txn) => break txn,
                Err(Error::Full) => {
                    let tell = tell.clone();
                    world
                        .journal
                        .when_room(Box::new(move || tell.send(()).unwrap_or(())));
                    told.recv().unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        };
        txn.attach(&data, 0);
        (0..20).for_each(|n| txn.put(BlockNo(20 + n), n as usize * SIZE).unwrap());
        let lsn = txn.commit(&Op::Orphan { inode: InodeNo(1) }).unwrap();
        let served = served.clone();
        world.journal.when_durable(
            lsn,
            Box::new(move |done| {
                done.unwrap();
                served.fetch_add(1, Ordering::SeqCst);
            }),
        );
    }
    world.journal.sync().unwrap();
    drop(background);
    world.journal.sync().unwrap();
    assert_eq!(served.load(Ordering::SeqCst), 300);
}

#[test]
fn on_a_full_host_the_log_goes_round_in_the_files_it_has() {
    let host = empty_host();
    let journal = Journal::open(host.folder())
        .unwrap()
        .begin_anew(host.image(), options(1))
        .unwrap();
    // Room for two segments more with their indexes.
    host.faults().arm(full(2 * (64 << 10) + (16 << 10)));
    journal.begin_session(session(1), &[1; SIZE], &[]).unwrap();
    // As the keeper of a mount does.
    for _ in 0..3 {
        journal.log().unwrap().prepare().unwrap();
    }
    let data = vec![9; 10 * SIZE];
    let mut full = 0;
    for _ in 0..300 {
        let attempt = |journal: &Journal| {
            let mut txn = journal.begin()?;
            txn.attach(&data, 0);
            (0..10).try_for_each(|n| txn.put(BlockNo(20 + n), n as usize * SIZE))?;
            txn.commit(&Op::Orphan { inode: InodeNo(1) })
        };
        if let Err(error) = attempt(&journal) {
            assert!(matches!(error, Error::Full), "{error}");
            full += 1;
            assert!(matches!(journal.begin().map(drop), Err(Error::Full)));
            journal.checkpoint().unwrap();
            attempt(&journal).unwrap();
        }
    }
    assert!(full > 5);
}

/// The host's disk takes so many bytes more.
fn full(room: u64) -> Fault {
    let errno = libc::ENOSPC;
    Fault {
        call: None,
        ..Fault::new(Call::Write, Effect::Full { errno, room })
    }
}

/// How writing in records of so many blocks ends where the host has room for
/// so many bytes.
fn write_on_a_host_with(room: u64, blocks: u64) -> Result<()> {
    let host = empty_host();
    host.faults().arm(full(room));
    let journal = Journal::open(host.folder())?.begin_anew(host.image(), options(1))?;
    journal.begin_session(session(1), &[1; SIZE], &[])?;
    let data = vec![9; blocks as usize * SIZE];
    let (mut now, mut done) = (Time { secs: 1, nanos: 0 }, 0);
    while done < 100 {
        let attempt = || {
            let mut txn = journal.begin()?;
            txn.attach(&data, 0);
            (0..blocks).try_for_each(|n| txn.put(BlockNo(20 + n), n as usize * SIZE))?;
            txn.commit(&Op::Orphan { inode: InodeNo(1) })
        };
        match attempt() {
            Ok(_) => done += 1,
            Err(Error::Full) => {
                now.secs += 60;
                journal.tick(now)?;
            }
            Err(error) => return Err(error),
        }
        assert!(now.secs < 50_000, "{room} bytes: it waits for ever");
    }
    Ok(())
}

#[test]
fn on_a_host_too_full_for_another_segment_writers_hear_of_it() {
    let mut heard = 0;
    for (room, blocks) in (0..=60).flat_map(|n| [10, 30].map(|blocks| (n << 13, blocks))) {
        let end = write_on_a_host_with(room, blocks);
        println!("{room} bytes, {blocks} blocks: {end:?}");
        heard += usize::from(matches!(end, Err(Error::HostFull)));
    }
    assert!(heard > 0);
}

/// Every transaction gives two blocks the same bytes, one of them through the
/// log and one through the cache; a reader must never see them differ.
#[test]
fn readers_see_transactions_whole_while_writers_and_checkpoints_go_on() {
    let world = World::with(
        8,
        Options {
            cache_size: 64 << 10,
            ..options(8)
        },
    );
    let background = Background::start(&world.journal).unwrap();
    let done = AtomicBool::new(false);
    let write = |seed: u64| {
        let mut random = Random(seed);
        for _ in 0..400 {
            let pair = 10 + 2 * random.below(30);
            let data = vec![random.next() as u8; 2 * SIZE];
            let mut txn = loop {
                match world.journal.begin() {
                    Ok(txn) => break txn,
                    Err(Error::Full) => {
                        let (tell, told) = std::sync::mpsc::channel();
                        world
                            .journal
                            .when_room(Box::new(move || tell.send(()).unwrap_or(())));
                        told.recv().unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            txn.attach(&data, 3);
            txn.put(BlockNo(pair), 7).unwrap();
            txn.patch(BlockNo(pair + 1), 0, 0..SIZE).unwrap();
            txn.commit(&Op::Orphan { inode: InodeNo(1) }).unwrap();
        }
    };
    let read = |seed: u64| {
        let mut random = Random(seed);
        while !done.load(Ordering::SeqCst) {
            let pair = 10 + 2 * random.below(30);
            let mut both = vec![0; 2 * SIZE];
            let view = world.journal.view();
            view.read(BlockNo(pair), 0, &mut both).unwrap();
            drop(view);
            let untouched = both[0] == pair as u8 && both[SIZE] == pair as u8 + 1;
            assert!(untouched || both.iter().all(|byte| *byte == both[0]));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| read(100));
        scope.spawn(|| read(101));
        let writers: Vec<_> = (0..3).map(|n| scope.spawn(move || write(n))).collect();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        results.into_iter().for_each(|result| result.unwrap());
    });
    drop(background);
    assert!(world.journal.watermarks().installed > Lsn(100));
}

//! Watermarks, verdicts and sessions.

use super::*;
use crate::device::fault::{Call, Effect, Fault};

fn told(journal: &Journal, lsn: Lsn) -> std::sync::mpsc::Receiver<Result<()>> {
    let (tell, told) = std::sync::mpsc::channel();
    journal.when_durable(lsn, Box::new(move |done| tell.send(done).unwrap()));
    told
}

#[test]
fn one_sync_serves_all_who_wait_and_who_comes_later_need_not() {
    let mut world = World::seeded(1);
    let lsns: Vec<Lsn> = (0..5).map(|_| world.step()).collect();
    let waiting: Vec<_> = lsns.iter().map(|lsn| told(&world.journal, *lsn)).collect();
    assert!(waiting.iter().all(|told| told.try_recv().is_err()));
    let before = world.host.events();
    world.sync();
    assert!(
        waiting
            .iter()
            .all(|told| matches!(told.try_recv(), Ok(Ok(()))))
    );
    let synced = world.host.trace()[before..]
        .iter()
        .filter(|event| matches!(event, Event::Sync { .. }))
        .count();
    assert_eq!(synced, 1);
    assert!(matches!(
        told(&world.journal, lsns[4]).try_recv(),
        Ok(Ok(()))
    ));
}

/// Between its look at the durable mark and its place in the queue, a sync
/// may have made its record durable and served all who waited.
#[test]
fn who_comes_just_after_the_sync_that_covers_it_is_told_at_the_next_tick() {
    let mut world = World::seeded(1);
    let lsn = world.step();
    world.sync();
    let (tell, told) = std::sync::mpsc::channel();
    let late = Box::new(move |done| tell.send(done).unwrap());
    world.journal.0.waiting.queue_durable(lsn, late);
    world.journal.tick(Time::default()).unwrap();
    assert!(matches!(told.try_recv(), Ok(Ok(()))));
}

#[test]
fn watermarks_keep_their_order() {
    let mut world = World::seeded(2);
    for _ in 0..300 {
        world.run(1);
        let Watermarks {
            installed,
            durable,
            written,
            appended,
        } = world.journal.watermarks();
        assert!(installed <= durable && durable <= written && written <= appended);
    }
}

#[test]
fn a_failed_sync_is_final_and_everyone_hears_of_it() {
    let mut world = World::seeded(3);
    let lsn = world.step();
    let waiting = told(&world.journal, lsn);
    let errno = libc::EIO;
    let fault = Fault::new(Call::Sync, Effect::Fail { errno });
    world.host.faults().arm(fault);
    assert!(world.journal.sync().is_err());
    assert!(matches!(waiting.try_recv(), Ok(Err(_))));
    assert!(world.host.faults().heal());
    assert!(world.journal.sync().is_err());
    assert!(matches!(world.journal.begin(), Err(Error::ReadOnly(_))));
    assert!(matches!(told(&world.journal, lsn).try_recv(), Ok(Err(_))));
    let image_written = |event: &Event| {
        matches!(
            event,
            Event::Write {
                file: FileId::IMAGE,
                ..
            }
        )
    };
    assert!(world.journal.checkpoint().is_err());
    assert!(!world.host.trace().iter().any(image_written));
}

#[test]
fn blocks_go_home_only_behind_a_synced_log_that_says_so() {
    let mut world = World::seeded(4);
    world.run(30);
    let before = world.host.events();
    world.step();
    world.checkpoint();
    let trace = world.host.trace();
    let first_home = |event: &Event| {
        matches!(
            event,
            Event::Write {
                file: FileId::IMAGE,
                ..
            }
        )
    };
    let home = before
        + trace[before..]
            .iter()
            .position(first_home)
            .expect("something goes home");
    let log_syncs =
        |event: &&Event| matches!(event, Event::Sync { file } if *file != FileId::IMAGE);
    assert!(trace[before..home].iter().filter(log_syncs).count() >= 2);
    // At this very moment, with all that is unsynced lost, the log knows.
    let mut frontier = Frontier::new(&world.host.start());
    trace[..home].iter().for_each(|event| frontier.pass(event));
    let (snapshot, _) = frontier.crash(&Plan::random(frontier.pending(), 1));
    let unrecovered = Journal::open(Host::new(snapshot).folder()).unwrap();
    let last_step = *world.states.keys().next_back().unwrap();
    assert!(unrecovered.report().durable >= last_step);
    assert!(
        unrecovered.reach() >= last_step,
        "the image may be that new"
    );

    let mut frontier = Frontier::new(&world.host.start());
    trace[..before]
        .iter()
        .for_each(|event| frontier.pass(event));
    let (snapshot, _) = frontier.crash(&Plan::random(frontier.pending(), 1));
    let unrecovered = Journal::open(Host::new(snapshot).folder()).unwrap();
    assert!(
        unrecovered.reach() < last_step,
        "nothing of it was sent home"
    );
}

#[test]
fn the_pinned_block_never_goes_home() {
    let mut world = World::seeded(5);
    world.run(200);
    let mut txn = world.journal.begin().unwrap();
    txn.block_mut(PINNED).unwrap()[3] = 33;
    txn.commit(&Op::Orphan { inode: InodeNo(1) }).unwrap();
    world.checkpoint();
    assert_eq!(world.journal.pinned().unwrap()[3], 33);
    let mut home = vec![0; SIZE];
    world.host.kill().image.read(&mut home, SIZE as u64);
    assert_eq!(home, vec![1; SIZE]);
    let (_host, journal) = recover(&world.host.kill(), 6);
    assert_eq!(journal.pinned().unwrap()[3], 33);
}

/// Damages the store files at the frame of this record.
fn damage(snapshot: &mut Snapshot, journal: &Journal, lsn: Lsn) {
    let segment = journal
        .log()
        .unwrap()
        .segments()
        .into_iter()
        .rfind(|s| s.base <= lsn)
        .unwrap();
    let pages = snapshot.files.get_mut(&segment.name).unwrap();
    let meta = journal.log().unwrap().read(lsn).unwrap().meta;
    let bytes = pages.to_vec();
    let at = bytes
        .windows(meta.len())
        .position(|window| window == meta)
        .unwrap();
    pages.write(&[bytes[at + 5] ^ 0xFF], at as u64 + 5);
}

#[test]
fn a_damaged_synced_record_is_refused_by_number_and_nothing_changes() {
    let mut world = World::seeded(7);
    let first = world.step();
    world.step();
    world.sync();
    world.step();
    world.sync();
    let mut snapshot = world.host.kill();
    damage(&mut snapshot, &world.journal, first);
    let host = Host::new(snapshot);
    let unrecovered = Journal::open(host.folder()).unwrap();
    assert!(matches!(unrecovered.report().verdict, Verdict::Corrupt(_)));
    match unrecovered.recover(host.image(), options(8)) {
        Err(Error::Log(crate::log::Error::Corrupt { lsn, .. })) => assert_eq!(lsn, first),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("recovered over damage"),
    }
    assert_eq!(host.events(), 0);
}

#[test]
fn a_damaged_unsynced_record_is_cut_off_with_what_follows() {
    let mut world = World::seeded(8);
    world.step();
    world.sync();
    let kept = *world.states.keys().next_back().unwrap();
    let first = world.step();
    world.step();
    world.step();
    let mut snapshot = world.host.kill();
    damage(&mut snapshot, &world.journal, first);
    let host = Host::new(snapshot);
    let unrecovered = Journal::open(host.folder()).unwrap();
    assert!(matches!(
        unrecovered.report().verdict,
        Verdict::Torn { dropped: 2, .. }
    ));
    let journal = unrecovered.recover(host.image(), options(9)).unwrap();
    assert_holds(&journal, world.state_at(kept));
}

#[test]
fn another_copy_of_the_image_is_recognised() {
    let mut world = World::seeded(9);
    let stale = world.host.kill().image;
    world.run(60);
    world.checkpoint();
    let host = Host::new(Snapshot {
        image: stale,
        files: world.host.kill().files,
    });
    let refused = Journal::open(host.folder())
        .unwrap()
        .recover(host.image(), options(1));
    assert!(matches!(refused, Err(Error::Stale { .. })));
    assert!(refused.err().unwrap().to_string().contains("another copy"));
    assert_eq!(host.events(), 0);
}

#[test]
fn one_damaged_block_of_the_image_makes_it_no_other_copy() {
    let mut world = World::seeded(9);
    world.run(60);
    world.checkpoint();
    let left = world.host.kill();
    let samples = Journal::open(Host::new(left.clone()).folder())
        .unwrap()
        .untouched_samples()
        .unwrap();
    assert!(samples.len() > 2, "{samples:?}");
    let block = samples[0].0;
    let mut image = left.image;
    image.flip(block.0 * SIZE as u64, 1);
    let host = Host::new(Snapshot { image, ..left });
    let refused = Journal::open(host.folder())
        .unwrap()
        .recover(host.image(), options(1));
    let words = refused.err().unwrap().to_string();
    assert!(words.contains("it is damaged"), "{words}");
    assert!(words.contains(&format!("block {block} ")), "{words}");
}

#[test]
fn a_session_that_ended_well_is_resumed_with_nothing_to_replay() {
    let mut world = World::seeded(10);
    world.run(40);
    let pinned = world.journal.settle().unwrap().unwrap();
    assert!(matches!(world.journal.begin(), Err(Error::ReadOnly(_))));
    world
        .journal
        .end(Clean {
            fingerprint: vec![1],
            restored: vec![2],
        })
        .unwrap();
    let host = Host::new(world.host.cut(3));
    assert_home(&host.kill().image, &world.model);

    let unrecovered = Journal::open(host.folder()).unwrap();
    assert_eq!(unrecovered.clean().unwrap().restored, [2]);
    assert_eq!(unrecovered.base().unwrap().session, session(1));
    assert_eq!(unrecovered.report().operations, 0);
    let last = unrecovered.report().last;
    let journal = unrecovered.resume(host.image(), options(2)).unwrap();
    journal.begin_session(session(2), &pinned, &[]).unwrap();
    assert!(journal.watermarks().appended > last);
    assert_holds(&journal, &world.model);

    let unrecovered = Journal::open(host.folder()).unwrap();
    assert!(unrecovered.is_unused() && unrecovered.clean().is_none());
    assert_eq!(unrecovered.base().unwrap().session, session(2));
}

#[test]
fn the_session_is_known_however_long_it_lasts() {
    let mut world = World::seeded(11);
    for _ in 0..20 {
        world.run(100);
        world.checkpoint();
    }
    let unrecovered = Journal::open(world.host.folder()).unwrap();
    assert!(
        unrecovered.survey().segments()[0].base > Lsn(2),
        "the first segment is recycled"
    );
    assert_eq!(unrecovered.base().unwrap().session, session(1));
}

#[test]
fn a_new_timeline_keeps_nothing_and_numbers_on() {
    let mut world = World::seeded(12);
    world.run(30);
    let last = world.journal.watermarks().appended;
    let host = Host::new(world.host.kill());
    let before = host.kill().image.to_vec();
    let journal = Journal::open(host.folder())
        .unwrap()
        .begin_anew(host.image(), options(3))
        .unwrap();
    journal.begin_session(session(2), &[1; SIZE], &[]).unwrap();
    assert!(journal.watermarks().appended > last);
    assert!(host.kill().image.to_vec() == before);
    let (host, _journal) = recover(&host.kill(), 4);
    assert!(host.kill().image.to_vec() == before);
}

/// Goes through all records as a tool does, knowing only what they tell.
#[derive(Default)]
struct Told {
    segments: Vec<Lsn>,
    paths: std::collections::HashSet<(usize, InodeNo)>,
    programs: std::collections::HashSet<(usize, u32)>,
    needed: usize,
    told: usize,
}

impl Replay for Told {
    fn record(&mut self, at: &Heading, record: &Record, _: Option<&Place>) -> Result<()> {
        let Record::Operation(operation) = record else {
            return Ok(());
        };
        let segment = self.segments.partition_point(|base| *base <= at.lsn);
        for (inode, path) in &operation.paths {
            assert_eq!(path, format!("/path/{inode}").as_bytes());
            self.paths.insert((segment, *inode));
            self.told += 1;
        }
        let by = operation.op.by().unwrap();
        if let Some(program) = &operation.program {
            assert_eq!(program, format!("program {}", by.pid).as_bytes());
            self.programs.insert((segment, by.pid));
            self.told += 1;
        }
        for inode in operation.op.nameless() {
            assert!(self.paths.contains(&(segment, inode)), "record {}", at.lsn);
        }
        assert!(self.programs.contains(&(segment, by.pid)), "{}", at.lsn);
        self.needed += 2;
        Ok(())
    }
}

#[test]
fn the_first_record_of_a_segment_that_names_something_tells_its_path_and_program() {
    let options = Options {
        segments: 40,
        ..options(13)
    };
    let world = World::with(13, options);
    let name = |_: &dyn Blocks, inode: InodeNo| Some(format!("/path/{inode}").into_bytes());
    world.journal.set_namer(Box::new(name));
    let program = |pid: u32| Some(format!("program {pid}").into_bytes());
    world.journal.set_programs(Box::new(program));
    let mut random = Random(3);
    for n in 0..3000 {
        let data = vec![1; random.below(900) as usize];
        let mut txn = world.journal.begin().unwrap();
        txn.attach(&data, 0);
        let dir = |random: &mut Random| record::Name {
            parent: InodeNo(2 + random.below(5) as u32),
            name: b"x".to_vec(),
        };
        let by = record::By {
            pid: 1 + random.below(4) as u32,
            ..record::By::default()
        };
        let op = match n % 2 {
            0 => Op::Rename {
                by,
                from: dir(&mut random),
                to: dir(&mut random),
                flags: 0,
                inode: InodeNo(99),
                replaced: InodeNo(0),
                time: Time::default(),
            },
            _ => Op::Write {
                by,
                inode: InodeNo(100 + random.below(5) as u32),
                offset: 0,
                len: data.len() as u64,
                time: Time::default(),
            },
        };
        txn.commit(&op).unwrap();
        if n % 50 == 0 {
            world.journal.sync().unwrap();
        }
    }
    let log = world.journal.log().unwrap();
    let segments: Vec<Lsn> = log.segments().iter().map(|segment| segment.base).collect();
    let mut told = Told {
        segments,
        ..Told::default()
    };
    replay(log.frames(Lsn(1)), &mut told).unwrap();
    assert!(told.segments.len() > 10 && told.needed >= 6000);
    assert!(told.told < told.needed / 2);
}

#[test]
fn who_waits_for_the_guard_while_the_session_ends_changes_nothing() {
    let world = World::seeded(4);
    let journal = &world.journal;
    std::thread::scope(|scope| {
        let view = journal.view();
        let late = scope.spawn(|| journal.begin().map(drop));
        // It has its promise, and waits for the guard that the view holds.
        while journal.0.promised.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        journal.0.closing.store(true, Ordering::SeqCst);
        drop(view);
        assert!(matches!(late.join().unwrap(), Err(Error::ReadOnly(_))));
    });
}

/// A block may be freed, and be another file's, before it goes home: until
/// then the image has what the view saw, and afterwards the reader is told.
#[test]
fn what_a_view_found_is_not_read_across_a_checkpoint() {
    let host = empty_host();
    let journal = begin(&host, options(5));
    let write = |byte: u8| {
        let mut txn = journal.begin().unwrap();
        txn.block_mut(BlockNo(9)).unwrap().fill(byte);
        txn.commit(&Op::Orphan { inode: InodeNo(1) }).unwrap();
    };
    let find = || {
        let view = journal.view();
        let mut found = view.gather();
        found.zeros(1);
        view.find(BlockNo(9), SIZE - 1, SIZE + 1, &mut found)
            .unwrap();
        found
    };
    let read = |found: &Gather| {
        let mut bytes = vec![0xff; SIZE + 2];
        let same = journal.read(found, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[2]), (0, 10));
        (same, bytes[1])
    };

    let home = find();
    write(b'a');
    let cached = find();
    assert_eq!(read(&home), (true, 9));
    assert_eq!(read(&cached), (true, b'a'));

    journal.checkpoint().unwrap();
    assert_eq!(read(&home), (false, b'a'));
    assert!(!read(&cached).0);
    assert_eq!(read(&find()), (true, b'a'));
}

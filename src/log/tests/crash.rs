//! Power cut at every device event of seeded workloads, also while the log
//! is being opened after an earlier cut.
//!
//! The law of the log: after any cut the verdict is clean or torn; what is
//! kept is what was appended, without a gap, and reaches at least as far as
//! the last completed sync.

use super::*;
use crate::device::crash::{Fate, Frontier, Plan};
use crate::device::volatile::{Host, Snapshot};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What a history has promised, by the number of device events.
#[derive(Clone, Default)]
struct Promises {
    /// The frames, by Lsn: their metadata (`None`: a mark).
    records: BTreeMap<Lsn, Option<Vec<u8>>>,
    /// (events, durable) after each sync.
    synced: Vec<(usize, Lsn)>,
    /// (events, installed) after each `set_installed`.
    installed: Vec<(usize, Lsn)>,
}

impl Promises {
    fn at(list: &[(usize, Lsn)], events: usize) -> Lsn {
        list.iter()
            .rev()
            .find(|(at, _)| *at <= events)
            .map_or(Lsn(0), |(_, lsn)| *lsn)
    }
}

struct World {
    host: Arc<Host>,
    promises: Promises,
    seed: u64,
    opened: u64,
}

impl World {
    fn new(start: Snapshot, promises: Promises, seed: u64) -> World {
        World {
            host: Host::new(start),
            promises,
            seed,
            opened: 0,
        }
    }

    fn open(&mut self) -> Log {
        self.opened += 1;
        let survey = Survey::read(self.host.folder()).unwrap();
        let log = survey
            .open(options(self.seed * 1000 + self.opened))
            .unwrap();
        let last = log.watermarks().appended;
        self.promises.records.split_off(&last.next());
        self.promises.synced.push((self.host.events(), last));
        log
    }

    fn append(&mut self, log: &Log, random: &mut Random) {
        let data = vec![random.next() as u8; random.below(6000) as usize];
        let spare = random.below(8) == 0;
        let meta = format!("{}-{}", self.seed, random.next()).into_bytes();
        let slot = match spare {
            true => log.reserve_spare(meta.len(), data.len(), 1 + random.below(4096) as u32),
            false => log.reserve(meta.len(), data.len(), 1 + random.below(4096) as u32),
        };
        match slot {
            Ok(slot) => {
                let lsn = slot.lsn();
                slot.write(&meta, &data).unwrap();
                self.promises.records.insert(lsn, Some(meta));
            }
            Err(Error::Full) => self.install(log, random),
            Err(e) => panic!("{e}"),
        }
    }

    fn sync(&mut self, log: &Log) -> Durable {
        let durable = log.sync().unwrap();
        for frame in log
            .frames(Lsn(1))
            .flatten()
            .filter(|frame| frame.kind == Kind::Mark)
        {
            self.promises.records.insert(frame.lsn, None);
        }
        self.promises
            .synced
            .push((self.host.events(), durable.lsn()));
        durable
    }

    fn install(&mut self, log: &Log, random: &mut Random) {
        let durable = self.sync(log);
        let through = Lsn(durable.lsn().0.saturating_sub(random.below(4)));
        let before = self.host.events();
        log.set_installed(through, durable);
        self.promises
            .installed
            .push((before, through.max(log.watermarks().installed)));
        log.clean().unwrap();
        self.sync(log);
    }

    /// A seeded history. Marks count as records.
    fn run(&mut self, steps: u64) {
        let mut random = Random(self.seed);
        let mut log = self.open();
        for _ in 0..steps {
            match random.below(20) {
                0..=11 => self.append(&log, &mut random),
                12..=14 => drop(self.sync(&log)),
                15 => drop(self.promises.records.insert(log.mark().unwrap(), None)),
                16 => self.install(&log, &mut random),
                17 => log.prepare().unwrap(),
                18 => log.write_back(),
                _ => {
                    drop(log);
                    log = self.open();
                }
            }
        }
    }

    /// Every crash state worth a look: at each event, nothing kept, all
    /// kept, each single change missing, and seeded mixtures.
    fn crashes(&self, from: usize, seeds: u64, mut see: impl FnMut(Snapshot, usize, &str)) {
        let mut frontier = Frontier::new(&self.host.start());
        for (at, event) in self.host.trace().iter().enumerate() {
            if at >= from && (event.is_write() || !frontier.pending().is_empty()) {
                let pending = frontier.pending();
                let count = pending.len();
                see(frontier.crash(&Plan::default()).0, at, "none");
                see(frontier.crash(&Plan::all(pending)).0, at, "all");
                for seed in 0..seeds {
                    let plan = Plan::random(pending, self.seed << 20 ^ (at as u64) << 8 ^ seed);
                    see(frontier.crash(&plan).0, at, "some");
                }
                let missing = (self.seed as usize + at) % count.max(1);
                let mut plan = Plan::all(pending);
                if let Some(fate) = plan.0.get_mut(missing) {
                    *fate = Fate::Lost;
                    see(frontier.crash(&plan).0, at, "one missing");
                }
            }
            frontier.pass(event);
        }
    }

    /// Checks the law for a crash state at event `at`.
    fn check(&self, left: &Snapshot, at: usize, what: &str) -> Survey {
        let what = format!("seed {}, {what} at event {at}", self.seed);
        let dir = Arc::new(MemoryDir::from_files(left.files.clone()));
        let survey = Survey::read(dir).unwrap();
        assert!(
            !matches!(survey.verdict(), Verdict::Corrupt(_)),
            "{what}: {:?}",
            survey.verdict()
        );
        let synced = Promises::at(&self.promises.synced, at);
        assert!(
            survey.last() >= synced,
            "{what}: kept {}, synced {synced}",
            survey.last()
        );
        let installed = Promises::at(&self.promises.installed, at);
        assert!(
            survey.installed() <= installed,
            "{what}: {} is not installed",
            survey.installed()
        );
        let mut expected = survey.installed().next();
        for frame in survey.frames(expected) {
            let frame = frame.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(frame.lsn, expected, "{what}");
            if frame.kind == Kind::Record {
                let meta = self.promises.records.get(&frame.lsn).cloned().flatten();
                assert_eq!(
                    Some(&frame.meta),
                    meta.as_ref(),
                    "{what}: record {expected}"
                );
            }
            if let Some(place) = &frame.data {
                place.read(0, &mut vec![0; place.len()]).unwrap();
            }
            expected = expected.next();
        }
        assert_eq!(expected, survey.last().next(), "{what}: a gap");
        survey
    }
}

#[test]
fn a_cut_at_any_event_keeps_the_synced_prefix() {
    let mut states = 0;
    for seed in 1..=6 {
        let mut world = World::new(Snapshot::default(), Promises::default(), seed);
        world.run(60);
        world.crashes(0, 3, |left, at, what| {
            world.check(&left, at, what);
            states += 1;
        });
        world.check(&world.host.kill(), usize::MAX, "kill");
    }
    assert!(states > 1000, "{states}");
}

#[test]
fn a_cut_at_any_event_of_opening_leaves_the_old_log_or_the_new() {
    for seed in 1..=4 {
        let mut world = World::new(Snapshot::default(), Promises::default(), seed);
        world.run(40);
        let mut nth = 0;
        world.crashes(0, 1, |left, at, what| {
            nth += 1;
            if nth % 7 != 0 {
                return;
            }
            let survey = world.check(&left, at, what);
            let (last, installed) = (survey.last(), survey.installed());
            // What this recovery keeps was durable before it, or is after it.
            let synced = Promises::at(&world.promises.synced, at);
            let promises = Promises {
                records: world.promises.records.clone(),
                synced: vec![(0, synced)],
                installed: vec![(0, Promises::at(&world.promises.installed, at))],
            };
            let mut second = World::new(left, promises, seed * 100 + nth);
            let log = second.open();
            assert_eq!(log.watermarks().appended, last);
            let mut random = Random(nth);
            for _ in 0..4 {
                second.append(&log, &mut random);
            }
            second.sync(&log);
            log.mark().unwrap();
            second.crashes(0, 2, |left, at, what| {
                let survey = second.check(&left, at, what);
                assert!(survey.installed() >= installed);
            });
        });
    }
}

#[test]
fn a_cut_while_many_kept_records_are_copied_leaves_the_old_log_or_the_new() {
    let mut world = World::new(Snapshot::default(), Promises::default(), 77);
    let log = world.open();
    let mut random = Random(77);
    for _ in 0..40 {
        world.append(&log, &mut random);
    }
    // Durable, but no frame says so: the next opening has to copy them all.
    world.sync(&log);
    drop(log);
    let from = world.host.events();
    let log = world.open();
    assert!(log.segments().len() > 2);
    world.append(&log, &mut random);
    drop(log);
    // A kill, this time: what the page cache shows need not be on disk.
    world.open();
    world.crashes(from, 8, |left, at, what| drop(world.check(&left, at, what)));
}

#[test]
fn an_opening_killed_half_way_and_then_a_cut_lose_nothing() {
    // Every prefix of an opening's device events, as a killed process leaves
    // it, opened by the next one, and the power cut then.
    let mut world = World::new(Snapshot::default(), Promises::default(), 5);
    let log = world.open();
    let mut random = Random(5);
    for n in 0..14 {
        world.append(&log, &mut random);
        if n == 4 {
            world.sync(&log);
        }
    }
    world.sync(&log);
    drop(log);
    let from = world.host.events();
    world.open();
    for killed in from..=world.host.events() {
        // What is durable by then, and, pending, what else the page cache shows.
        let again = Host::killed_at(&world.host, killed);
        let promises = Promises {
            records: world.promises.records.clone(),
            synced: vec![(0, Promises::at(&world.promises.synced, from))],
            installed: Vec::new(),
        };
        let mut next = World {
            host: again,
            promises,
            seed: 1000 + killed as u64,
            opened: 0,
        };
        next.open();
        let events = next.host.events();
        next.crashes(killed, 4, |left, at, what| {
            next.check(
                &left,
                at,
                &format!("killed at {killed} of {events}, {what}"),
            );
        });
    }
}

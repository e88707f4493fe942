//! The log's part of the law: after a cut anywhere, the log is what was
//! appended up to some record, none of the synced ones is missing, and it is
//! never taken for damaged.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use journalfs::device::crash::{Fate, Frontier, Plan};
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::log::{Log, Options, Survey, Verdict};
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::units::Lsn;

/// A log under use, and what has to come back.
struct World {
    host: Arc<Host>,
    log: Log,
    random: Random,
    /// What each record says (the log's own marks say nothing).
    said: BTreeMap<Lsn, Vec<u8>>,
    /// (changes seen, record): durable from there on.
    durable: Vec<(usize, Lsn)>,
}

fn open(host: &Arc<Host>, seed: u64) -> Result<Log, String> {
    let survey = Survey::read(host.folder()).map_err(|e| e.to_string())?;
    if let Verdict::Corrupt(_) = survey.verdict() {
        return Err(format!("taken for damaged: {:?}", survey.verdict()));
    }
    let clock = StillClock::new();
    survey
        .open(Options {
            segment_size: 64 << 10,
            segments: 5,
            clock,
            seed,
            keeper: None,
        })
        .map_err(|e| e.to_string())
}

impl World {
    fn new(seed: u64) -> Self {
        let host = Host::new(Snapshot::default());
        let log = open(&host, seed | 1).unwrap();
        let (said, durable) = (BTreeMap::new(), Vec::new());
        World {
            host,
            log,
            random: Random::new(seed),
            said,
            durable,
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=11 => self.append(),
            12..=14 => drop(self.log.sync().unwrap()),
            15 => drop(self.log.mark().unwrap()),
            16 => self.install(),
            17 => self.log.prepare().unwrap(),
            18 => self.log.clean().unwrap(),
            _ => {
                // A new process on the same host, after a kill.
                self.log = open(&self.host, self.random.bits() | 1).unwrap();
            }
        }
        self.durable
            .push((self.host.events(), self.log.watermarks().durable));
    }

    fn append(&mut self) {
        let meta: Vec<u8> = (0..1 + self.random.below(2000))
            .map(|_| self.random.bits() as u8)
            .collect();
        let data =
            vec![self.random.bits() as u8; [0, 100, 5000, 9000][self.random.below(4) as usize]];
        if let Ok(slot) = self.log.reserve(meta.len(), data.len(), 4096) {
            self.said.insert(slot.lsn(), meta.clone());
            slot.write(&meta, &data).unwrap();
        }
    }

    /// As a checkpoint does: its record is durable before older ones may go.
    fn install(&mut self) {
        let through = self.log.watermarks().appended;
        self.log.sync().unwrap();
        self.log.mark().unwrap();
        self.log.sync().unwrap();
        let slot = self.log.reserve_spare(4, 0, 0).unwrap();
        self.said.insert(slot.lsn(), b"home".to_vec());
        slot.write(b"home", &[]).unwrap();
        let proof = self.log.sync().unwrap();
        self.log.set_installed(through, proof);
        self.log.mark().unwrap();
        self.log.clean().unwrap();
    }

    fn floor(&self, at: usize) -> Lsn {
        let count = self.durable.partition_point(|(events, _)| *events <= at);
        count
            .checked_sub(1)
            .map_or(Lsn(0), |last| self.durable[last].1)
    }

    /// What a cut left is a prefix of what was said.
    fn judge(&self, left: &Snapshot, floor: Lsn) -> Result<(), String> {
        let host = Host::new(left.clone());
        let survey = Survey::read(host.folder()).map_err(|e| e.to_string())?;
        self.compare(survey.frames(survey.installed().next()))?;
        let last = survey.last();
        if last < floor {
            return Err(format!("ends with record {last}, but {floor} was durable"));
        }
        drop(survey);
        let log = open(&host, 77)?;
        if log.watermarks().appended < last || log.watermarks().durable < last {
            return Err(format!(
                "opened at {:?}, but the survey kept {last}",
                log.watermarks()
            ));
        }
        self.compare(
            log.frames(log.watermarks().installed.next())
                .take_while(|f| f.as_ref().map_or(true, |f| f.lsn <= last)),
        )
    }

    fn compare(
        &self,
        frames: impl Iterator<Item = journalfs::log::Result<journalfs::log::Frame>>,
    ) -> Result<(), String> {
        for frame in frames {
            let frame = frame.map_err(|e| e.to_string())?;
            let said = self.said.get(&frame.lsn).map_or(&[][..], Vec::as_slice);
            if frame.meta != said {
                return Err(format!("record {} is not what was appended", frame.lsn));
            }
            if let Some(place) = &frame.data {
                place
                    .read(0, &mut vec![0; place.len()])
                    .map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}

fn explore(seed: u64, steps: usize, per_point: usize) -> usize {
    let mut world = World::new(seed);
    (0..steps).for_each(|_| world.step());
    let (trace, mut seen) = (world.host.trace(), HashSet::new());
    let mut frontier = Frontier::new(&world.host.start());
    for at in 0..=trace.len() {
        let pending = frontier.pending().len();
        let mut plans = vec![Plan::default(), Plan::all(frontier.pending())];
        for _ in 0..per_point {
            plans.push(Plan::random(frontier.pending(), world.random.bits()));
            let mut but_one = Plan::all(frontier.pending());
            if pending > 0 {
                but_one.0[world.random.below(pending as u64) as usize] = Fate::Lost;
            }
            plans.push(but_one);
        }
        for plan in plans {
            let (left, hash) = frontier.crash(&plan);
            if seen.insert(hash) {
                let judged = world.judge(&left, world.floor(at));
                assert_eq!(
                    judged,
                    Ok(()),
                    "seed {seed}, cut after {at} of {} changes: {plan}",
                    trace.len()
                );
            }
        }
        if let Some(event) = trace.get(at) {
            frontier.pass(event);
        }
    }
    seen.len()
}

#[test]
fn the_log_is_a_prefix_after_any_cut() {
    let seeds = super::seeds(4);
    let states: usize = seeds.clone().map(|seed| explore(seed, 60, 3)).sum();
    println!("seeds {seeds:?}: {states} states");
}

#[test]
fn of_several_fresh_segments_none_is_found_without_the_one_before() {
    // A kill left more unsynced records than one segment takes; the second
    // fresh segment was on the disk, the name of the first was not.
    explore(144, 60, 3);
}

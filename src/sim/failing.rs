//! Failing disks: one call of a run fails, or all from one on, and nothing
//! that was promised breaks.
//!
//! A run under a fault goes on as a user would: what fails has failed cleanly
//! (nothing has changed, or the file system takes no more changes), what is
//! read is the model's or an error, and an fsync that reports success is
//! believed. Then the daemon is killed or the power cut, the disks are
//! healthy again, and the law holds: nothing acknowledged is lost to a mere
//! kill, nothing synced to a power cut, and what is left is a tree of the
//! history.

use std::sync::Arc;

use super::clock::StillClock;
use super::history::History;
use super::law::guarded;
use super::random::Random;
use super::step::Step;
use super::system::{self, Setup};
use super::tree::Tree;
use super::walk::walk;
use super::workload::{Mix, Workload};
use crate::device::crash::{Frontier, Plan};
use crate::device::fault::{Call, Effect, Fault};
use crate::device::memory::Pages;
use crate::device::volatile::{Host, Snapshot};
use crate::units::Lsn;

mod run;
use run::Run;

/// What a seed makes: an image, and what is done with it.
#[derive(Clone)]
struct Trial {
    seed: u64,
    setup: Setup,
    workload: Workload,
    image: Pages,
    tree: Arc<Tree>,
}

/// What has been tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs with a fault that was met.
    pub runs: u64,
    /// Disks recovered after them.
    pub states: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.runs += more.runs;
        self.states += more.states;
    }
}

/// The ways in which a call may fail: each once, and for good.
fn troubles() -> Vec<Fault> {
    let (eio, full) = (libc::EIO, libc::ENOSPC);
    let once = |call, effect| Fault::new(call, effect).times(1);
    let fail = |call, errno| once(call, Effect::Fail { errno });
    let always = |effect| Fault {
        call: None,
        ..Fault::new(Call::Read, effect)
    };
    let short = |part| Effect::Short { errno: full, part };
    vec![
        fail(Call::Read, eio),
        fail(Call::Write, eio),
        fail(Call::Write, full),
        once(Call::Write, short(1500)),
        fail(Call::Space, eio),
        fail(Call::Space, full),
        fail(Call::Sync, eio),
        once(Call::Sync, Effect::Forget { errno: eio }),
        fail(Call::Name, eio),
        fail(Call::Name, full),
        always(Effect::Fail { errno: eio }),
        always(Effect::Full {
            errno: full,
            room: 0,
        }),
        Fault::new(Call::Write, Effect::Fail { errno: full }),
        Fault::new(Call::Sync, Effect::Forget { errno: eio }),
    ]
}

type Result<T> = std::result::Result<T, String>;

/// A seed's trial and recoveries, under all faults.
pub struct Round(Trial);

impl Round {
    /// The round of this seed.
    pub fn new(seed: u64) -> Self {
        Round(Trial::new(seed))
    }

    /// Every kind of trouble at `most` calls of the run (evenly spread), and
    /// of the recoveries. The error is a report.
    pub fn all(&self, most: u64, stop: &dyn Fn() -> bool) -> Result<Counts> {
        let mut counts = Counts::default();
        let recoveries = self.recoveries()?;
        for trouble in troubles() {
            let calls = self.reported(&trouble, self.0.calls(&trouble))?;
            for fault in spread(&trouble, calls, most).take_while(|_| !stop()) {
                counts += self.reported(&fault, self.0.run(&fault))?;
            }
            for recovery in &recoveries {
                let calls = self.reported(&trouble, recovery.calls(&trouble))?;
                for fault in spread(&trouble, calls, most).take_while(|_| !stop()) {
                    counts += self.reported(&fault, recovery.run(&fault))?;
                }
            }
        }
        Ok(counts)
    }

    /// One fault alone.
    pub fn one(&self, fault: &Fault) -> Result<Counts> {
        let mut counts = self.reported(fault, self.0.run(fault))?;
        for recovery in self.recoveries()? {
            counts += self.reported(fault, recovery.run(fault))?;
        }
        Ok(counts)
    }

    /// For a foreign judge: the images that runs under some of the faults
    /// leave, recovered and unmounted on a healthy disk.
    pub fn mended(&self, most: u64) -> Result<Vec<(Fault, Pages)>> {
        let mut images = Vec::new();
        for trouble in troubles() {
            let calls = self.reported(&trouble, self.0.calls(&trouble))?;
            for fault in spread(&trouble, calls, most) {
                let image = self.reported(&fault, self.0.mended(&fault))?;
                images.push((fault, image));
            }
        }
        Ok(images)
    }

    fn recoveries(&self) -> Result<Vec<Recovery>> {
        let none = Fault::new(Call::Read, Effect::Lie).times(0);
        self.reported(&none, self.0.recoveries())
    }

    fn reported<T>(&self, fault: &Fault, done: Result<T>) -> Result<T> {
        let Trial {
            seed,
            setup,
            workload,
            ..
        } = &self.0;
        done.map_err(|what| {
            format!(
                "violated under {fault}, seed {seed}, {setup:?}: {what}\n\
                 the steps:\n{workload}\n\
                 again: scripts/failing --seed {seed} --fault {fault}"
            )
        })
    }
}

/// The fault after 0, 1, 2, … calls, or at `most` of them.
fn spread(trouble: &Fault, calls: u64, most: u64) -> impl Iterator<Item = Fault> {
    let step = calls.div_ceil(most.max(1)).max(1);
    let numbers = (0..calls).step_by(step as usize);
    numbers.map(|after| trouble.clone().after(after))
}

impl Trial {
    /// Small, so that a run goes round its journal: it begins segments, brings
    /// blocks home, uses segments again, is killed, unmounted and mounted.
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let setup = Setup {
            size: 2 << 20,
            segments: 6,
            ..Setup::random(&mut random)
        };
        let mix = *random.pick(&[Mix::All, Mix::Names, Mix::Contents]);
        let longest = *random.pick(&[40, 40, 150]);
        let count = 10 + random.below(longest) as usize;
        let mut steps = Workload::random(random.bits(), count, mix, &Tree::root()).0;
        let punctuation = [
            Step::Fsync,
            Step::Fsync,
            Step::Checkpoint,
            Step::Tick,
            Step::Sleep { millis: 40_000 },
            Step::Tick,
            Step::Kill,
            Step::Checkpoint,
            Step::Tick,
            Step::Remount,
        ];
        for (n, step) in punctuation.into_iter().enumerate() {
            let at = (n + 1) * steps.len() / 10;
            steps.insert(at, step);
        }
        let clock = StillClock::new();
        let image = system::format(&setup, &clock).expect("an empty image can be formatted");
        let host = host_of(&image);
        let mounted =
            system::mount(&host, &setup, &clock, 0).expect("a fresh image can be mounted");
        let tree = Arc::new(walk(&mounted.fs).expect("a fresh image can be read"));
        Trial {
            seed,
            setup,
            workload: Workload(steps),
            image,
            tree,
        }
    }

    /// How many calls of a run without faults a fault may be meant for.
    fn calls(&self, fault: &Fault) -> Result<u64> {
        let run = Run::new(self, &fault.clone().after(u64::MAX)).all()?;
        Ok(run.host().faults().list()[0].passed)
    }

    /// Runs under a fault and judges what is left.
    fn run(&self, fault: &Fault) -> Result<Counts> {
        guarded(|| Ok(Run::new(self, fault).all()?.counts()))
    }

    fn mended(&self, fault: &Fault) -> Result<Pages> {
        let left = Run::new(self, fault).all()?.host().kill();
        let (host, clock) = (Host::new(left), StillClock::afterwards());
        system::unmount(system::mount(&host, &self.setup, &clock, 3)?)?;
        Ok(host.kill().image)
    }

    /// What a kill and power cuts of a run without faults leave.
    fn recoveries(&self) -> Result<Vec<Recovery>> {
        let never = Fault::new(Call::Read, Effect::Lie);
        let run = Run::new(self, &never).all()?;
        let mut random = Random::new(self.seed ^ 77);
        let trace = run.host().trace();
        let mut recoveries = Vec::new();
        for n in 0..6 {
            let at = random.below(trace.len() as u64 + 1) as usize;
            let mut frontier = Frontier::new(&run.host().start());
            trace[..at].iter().for_each(|event| frontier.pass(event));
            let plan = match n {
                0 => Plan::default(),
                1 => Plan::all(frontier.pending()),
                _ => Plan::random(frontier.pending(), random.bits()),
            };
            let mut known = Known {
                floor: latest(run.durable(), at),
                ..run.known().clone()
            };
            let left = frontier.crash(&plan).0;
            // What recoveries append has Lsns that operations had which are gone.
            let mounted = system::mount(&Host::new(left.clone()), &self.setup, &run.clock(), 1)?;
            known.history.cut(mounted.last);
            recoveries.push(Recovery {
                setup: self.setup.clone(),
                left,
                known,
            });
        }
        Ok(recoveries)
    }
}

fn host_of(image: &Pages) -> Arc<Host> {
    Host::new(Snapshot {
        image: image.clone(),
        ..Snapshot::default()
    })
}

/// What may be found.
#[derive(Clone)]
struct Known {
    history: History,
    /// What failed operations would have come to.
    doubts: Vec<Doubt>,
    /// The oldest record at which the history may end.
    floor: Lsn,
}

/// An operation that failed: its record may be there or not.
#[derive(Clone)]
struct Doubt {
    /// It would come after this record,
    after: Lsn,
    /// and not after this one (which a later mount has found to be the last).
    through: Lsn,
    /// The tree with it.
    tree: Arc<Tree>,
}

impl Known {
    /// Whether this tree may be found by a recovery through `last`.
    fn judge(&self, last: Lsn, found: &Tree) -> Result<()> {
        if last < self.floor {
            return Err(format!(
                "recovered through record {last} only, but {} had to survive",
                self.floor
            ));
        }
        let wanted = self
            .history
            .at(last)
            .ok_or_else(|| format!("recovered through {last}, before all history"))?;
        let Some(difference) = wanted.difference(found) else {
            return Ok(());
        };
        let perhaps = self.doubts.iter().any(|doubt| {
            doubt.after < last && last <= doubt.through && doubt.tree.difference(found).is_none()
        });
        match perhaps {
            true => Ok(()),
            false => Err(format!(
                "recovered through {last}, but the tree differs:\n{difference}"
            )),
        }
    }
}

/// Mounts on healthy disks and judges; then checks and unmounts.
fn judge_disks(setup: &Setup, left: &Snapshot, known: &Known, nonce: u64) -> Result<()> {
    let host = Host::new(left.clone());
    let clock = StillClock::afterwards();
    let mounted = system::mount(&host, setup, &clock, nonce)?;
    let found = walk(&mounted.fs).map_err(|e| format!("the tree cannot be read: {e}"))?;
    known.judge(mounted.last, &found)?;
    system::check(&host.kill()).map_err(|what| format!("after recovery, {what}"))?;
    system::unmount(mounted)?;
    system::check(&host.kill()).map_err(|what| format!("after the unmount, {what}"))
}

/// What a host has seen of a run, and what has to survive of it.
struct Case<'a> {
    setup: &'a Setup,
    host: &'a Host,
    /// Cuts come after so many changes or later.
    from: usize,
    known: &'a Known,
    /// (changes seen, record): durable from there on.
    durable: &'a [(usize, Lsn)],
}

impl Case<'_> {
    /// Judges what a kill now and some power cuts leave; says how many states.
    fn judge(&self, random: &mut Random) -> Result<u64> {
        let Case { setup, host, .. } = *self;
        judge_disks(setup, &host.kill(), self.known, random.bits())
            .map_err(|what| format!("then the daemon was killed: {what}"))?;
        let trace = host.trace();
        let within = (trace.len() - self.from + 1) as u64;
        let mut point = || self.from + random.below(within) as usize;
        let mut points = [point(), point(), point(), trace.len(), trace.len()];
        points.sort_unstable();
        let (mut frontier, mut passed) = (Frontier::new(&host.start()), 0);
        for (n, at) in points.into_iter().enumerate() {
            trace[passed..at]
                .iter()
                .for_each(|event| frontier.pass(event));
            passed = at;
            let plan = match n {
                0 | 4 => Plan::default(),
                _ => Plan::random(frontier.pending(), random.bits()),
            };
            let known = Known {
                floor: latest(self.durable, at),
                ..self.known.clone()
            };
            let left = frontier.crash(&plan).0;
            judge_disks(setup, &left, &known, random.bits()).map_err(|what| {
                let all = trace.len();
                format!("then the power was cut after {at} of {all} changes ({plan}): {what}")
            })?;
        }
        Ok(points.len() as u64 + 1)
    }
}

fn latest(durable: &[(usize, Lsn)], events: usize) -> Lsn {
    let count = durable.partition_point(|(at, _)| *at <= events);
    count.checked_sub(1).map_or(Lsn(0), |last| durable[last].1)
}

/// Disks that a kill or a cut left, to be opened under a fault.
struct Recovery {
    setup: Setup,
    left: Snapshot,
    known: Known,
}

impl Recovery {
    /// Mounts and unmounts under a fault: both go well or fail, and after
    /// either the disks are good for a later mount.
    fn run(&self, fault: &Fault) -> Result<Counts> {
        guarded(|| self.attempt(fault))
    }

    /// How many calls a fault may be meant for.
    fn calls(&self, fault: &Fault) -> Result<u64> {
        let host = Host::new(self.left.clone());
        host.faults().arm(fault.clone().after(u64::MAX));
        self.open_and_close(&host, fault)?;
        Ok(host.faults().list()[0].passed)
    }

    fn attempt(&self, fault: &Fault) -> Result<Counts> {
        let host = Host::new(self.left.clone());
        host.faults().arm(fault.clone());
        let done = self.open_and_close(&host, fault);
        let met = host.faults().list()[0].clone();
        match done {
            Err(what) if met.met == 0 => return Err(what),
            _ => {}
        }
        let what = met.last.unwrap_or_default();
        let mut counts = Counts {
            runs: u64::from(met.met > 0),
            states: 0,
        };
        let case = Case {
            setup: &self.setup,
            host: &host,
            from: 0,
            known: &self.known,
            durable: &[(0, self.known.floor)],
        };
        counts.states += case
            .judge(&mut Random::new(fault.after))
            .map_err(|judged| format!("{what} failed; {judged}"))?;
        Ok(counts)
    }

    fn open_and_close(&self, host: &Arc<Host>, fault: &Fault) -> Result<()> {
        let clock = StillClock::afterwards();
        let mounted = system::mount(host, &self.setup, &clock, fault.after ^ 5)?;
        let found = walk(&mounted.fs).map_err(|e| format!("the tree cannot be read: {e}"))?;
        self.known.judge(mounted.last, &found)?;
        system::unmount(mounted)
    }
}

//! A round: a set-up, a workload, its run, and every cut of it.

use std::fmt;
use std::time::{Duration, Instant};

use super::clock::StillClock;
use super::counts::Counts;
use super::explore::{Cut, Effort, Task, Violation, count_points, explore, retry};
use super::law::{Foreign, Insistent, NoForeign, guarded};
use super::random::Random;
use super::report::Report;
use super::seen::Seen;
use super::sequence;
use super::shrink::{shrink_cut, shrink_steps};
use super::system::{self, Setup};
use super::tree::Tree;
use super::workload::{Mix, Workload};
use super::world::{Era, Looking, World};
use crate::device::memory::Pages;
use crate::fs::Atime;

/// Where a round comes from; all of it follows from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A random workload.
    Seed(u64),
    /// A long random workload.
    Soak(u64),
    /// A random workload on an image with an internal journal.
    Adopted(u64),
    /// One of the bounded exhaustive ones, on an image with blocks of so many bytes.
    Sequence(u64, u32),
    /// An image that is being made.
    Mkfs(u64),
    /// Somebody wrote it down.
    Written,
}

/// What a round is made of.
#[derive(Clone)]
pub struct Round {
    /// Where it comes from.
    pub origin: Origin,
    /// Image and journal.
    pub setup: Setup,
    /// What is done.
    pub workload: Workload,
    image: Pages,
    /// The step from which on the power is cut.
    from: usize,
    /// Decides what is tried.
    seed: u64,
    /// When to stop trying, wherever it is.
    pub until: Option<Instant>,
    /// With little effort.
    pub light: bool,
}

/// Why a round failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The run itself: file system and model disagree.
    Run(String),
    /// The law, after a cut.
    Law(Box<Violation>),
}

impl Round {
    /// The round of this seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let setup = Setup::random(&mut random);
        let mix = *random.pick(&Mix::ALL);
        // Short runs are tried at every point, long ones go round the journal.
        let longest = *random.pick(&[20, 60, 120, 600]);
        let count = 10 + random.below(longest) as usize;
        let workload = Workload::random(random.bits(), count, mix, &Tree::root());
        let image = formatted(&setup);
        Round::of(Origin::Seed(seed), setup, workload, image)
    }

    /// A round of thousands of steps.
    pub fn soak(seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let setup = Setup {
            size: 3 << 20,
            ..Setup::random(&mut random)
        };
        let mix = *random.pick(&[Mix::All, Mix::Sessions]);
        let count = 1500 + random.below(1500) as usize;
        let workload = Workload::random(random.bits(), count, mix, &Tree::root());
        let image = formatted(&setup);
        Round::of(Origin::Soak(seed), setup, workload, image)
    }

    /// A round on this image, which has an internal journal.
    pub fn adopting(seed: u64, image: Pages, block_size: u32) -> Self {
        let mut random = Random::new(seed);
        let setup = Setup {
            size: image.len(),
            block_size,
            segment_size: u64::from(block_size) * 64,
            ..Setup::random(&mut random)
        };
        let count = 5 + random.below(40) as usize;
        let workload = Workload::random(random.bits(), count, Mix::Sessions, &Tree::root());
        Round::of(Origin::Adopted(seed), setup, workload, image)
    }

    /// The round of this sequence on an image with blocks of so many bytes
    /// (1024, 2048 or 4096); `None` past the last.
    pub fn sequence(number: u64, block_size: u32) -> Option<Self> {
        let (workload, from) = sequence::sequence(number)?;
        // The same in all of them, so that equal states are met once.
        let setup = Setup {
            size: 1 << 20,
            block_size,
            segment_size: u64::from(block_size) * 64,
            segments: 6,
            atime: Atime::Noatime,
            discard: false,
            seed: 1,
        };
        let image = formatted(&setup);
        let origin = Origin::Sequence(number, block_size);
        let round = Round::of(origin, setup, workload, image);
        Some(Round { from, ..round })
    }

    /// A round that somebody wrote down, on a fresh image.
    pub fn written(setup: &Setup, workload: Workload) -> Self {
        let image = formatted(setup);
        Round::of(Origin::Written, setup.clone(), workload, image)
    }

    fn of(origin: Origin, setup: Setup, workload: Workload, image: Pages) -> Self {
        let seed = match origin {
            Origin::Seed(n) | Origin::Soak(n) | Origin::Adopted(n) | Origin::Mkfs(n) => n,
            Origin::Sequence(n, _) => n,
            Origin::Written => setup.seed,
        };
        Round {
            origin,
            setup,
            workload,
            image,
            from: 0,
            seed: !seed,
            until: None,
            light: false,
        }
    }

    /// Runs and explores.
    pub fn run(&self) -> Result<Counts, Failure> {
        self.run_with(&mut Seen::default(), &NoForeign)
    }

    /// The same; doesn't recover again what was seen before, and asks other judges.
    pub fn run_with(&self, seen: &mut Seen, foreign: &dyn Foreign) -> Result<Counts, Failure> {
        self.attempt(&self.workload, self.from, seen, foreign)
    }

    /// Runs without a cut (but for the workload's own), for its eras.
    pub fn record(&self) -> Result<Vec<Era>, Failure> {
        self.eras_of(&self.workload)
    }

    /// Tries one cut again, and has all judges look at it.
    pub fn retry(&self, cut: &Cut, foreign: &dyn Foreign) -> Result<(), Failure> {
        let eras = self.record()?;
        retry(&self.setup, &eras, cut, foreign).map_err(|found| Failure::Law(Box::new(found)))
    }

    fn eras_of(&self, workload: &Workload) -> Result<Vec<Era>, Failure> {
        let run =
            || World::run(&self.setup, self.image.clone(), workload, Looking::Seldom)?.finish();
        let (_, eras) = guarded(run).map_err(Failure::Run)?;
        Ok(eras)
    }

    fn attempt(
        &self,
        workload: &Workload,
        from: usize,
        seen: &mut Seen,
        foreign: &dyn Foreign,
    ) -> Result<Counts, Failure> {
        let eras = self.eras_of(workload)?;
        let mut counts = Counts::default();
        let task = Task {
            setup: &self.setup,
            eras: &eras,
            from,
            adopts: matches!(self.origin, Origin::Adopted(_)),
            effort: match self.light {
                true => Effort::light(self.seed),
                false => Effort::of_run(self.seed, count_points(&eras)),
            },
            foreign,
            until: self.until,
        };
        explore(&task, seen, &mut counts).map_err(Failure::Law)?;
        Ok(counts)
    }

    /// A smaller way to the same failure, as a report to act upon.
    pub fn report(&self, failure: Failure, patience: Duration, foreign: &dyn Foreign) -> Report {
        let deadline = Instant::now() + patience;
        let round = Round {
            until: Some(deadline),
            light: false,
            ..self.clone()
        };
        // They are slow: only if nobody else sees it.
        let foreign: &dyn Foreign = match round.needs_foreign(&failure) {
            true => &Insistent(foreign),
            false => &NoForeign,
        };
        let fails = |steps: &Workload| {
            let tried = round.attempt(steps, 0, &mut Seen::default(), foreign);
            tried.err()
        };
        let (workload, failure) = shrink_steps(&self.workload, failure, deadline, &fails);
        let failure = match failure {
            Failure::Law(violation) => {
                Failure::Law(self.shrink_cut(&workload, violation, deadline, foreign))
            }
            run => run,
        };
        Report {
            origin: self.origin,
            setup: self.setup.clone(),
            used: None,
            workload,
            failure,
        }
    }

    fn needs_foreign(&self, failure: &Failure) -> bool {
        matches!(failure, Failure::Law(found) if self.retry(&found.cut, &NoForeign).is_ok())
    }

    fn shrink_cut(
        &self,
        workload: &Workload,
        violation: Box<Violation>,
        deadline: Instant,
        foreign: &dyn Foreign,
    ) -> Box<Violation> {
        match self.eras_of(workload) {
            Ok(eras) => Box::new(shrink_cut(*violation, deadline, &|cut| {
                retry(&self.setup, &eras, cut, foreign).err()
            })),
            Err(_) => violation,
        }
    }
}

fn formatted(setup: &Setup) -> Pages {
    system::format(setup, &StillClock::new()).expect("an empty image can be formatted")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Run(what) => write!(f, "without any cut, {what}"),
            Failure::Law(violation) => violation.fmt(f),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Seed(seed) => write!(f, "seed {seed}"),
            Origin::Soak(seed) => write!(f, "soak {seed}"),
            Origin::Adopted(seed) => write!(f, "adopted {seed}"),
            Origin::Sequence(number, blocks) => write!(f, "sequence {number} on {blocks}"),
            Origin::Mkfs(seed) => write!(f, "mkfs {seed}"),
            Origin::Written => f.write_str("a written run"),
        }
    }
}

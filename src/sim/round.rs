//! One seed, one round: a set-up, a workload, its run, and every cut of it.

use std::fmt;
use std::time::{Duration, Instant};

use super::clock::StillClock;
use super::explore::{Counts, Effort, Violation, explore, guarded, retry};
use super::random::Random;
use super::shrink::{shrink_plan, shrink_steps};
use super::system::{self, Setup};
use super::tree::Tree;
use super::workload::{Mix, Workload};
use super::world::{Era, Looking, World};
use crate::device::memory::Pages;

/// What a round is made of; all of it follows from the seed.
#[derive(Clone)]
pub struct Round {
    /// The seed.
    pub seed: u64,
    /// Image and journal.
    pub setup: Setup,
    /// What is done.
    pub workload: Workload,
    /// What is tried.
    pub effort: Effort,
    image: Pages,
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
        let longest = *random.pick(&[60, 60, 120, 600]);
        let count = 10 + random.below(longest) as usize;
        let workload = Workload::random(random.bits(), count, mix, &Tree::root());
        let image =
            system::format(&setup, &StillClock::new()).expect("an empty image can be formatted");
        Round {
            seed,
            setup,
            workload,
            effort: Effort::thorough(random.bits()),
            image,
        }
    }

    /// Runs and explores.
    pub fn run(&self) -> Result<Counts, Failure> {
        self.attempt(&self.workload)
    }

    /// Runs without a cut (but for the workload's own), for its eras.
    pub fn record(&self) -> Result<Vec<Era>, Failure> {
        self.eras_of(&self.workload)
    }

    fn eras_of(&self, workload: &Workload) -> Result<Vec<Era>, Failure> {
        let run =
            || World::run(&self.setup, self.image.clone(), workload, Looking::Seldom)?.finish();
        let (_, eras) = guarded(run).map_err(Failure::Run)?;
        Ok(eras)
    }

    fn attempt(&self, workload: &Workload) -> Result<Counts, Failure> {
        let eras = self.eras_of(workload)?;
        let mut counts = Counts::default();
        explore(&self.setup, &eras, self.effort, &mut counts).map_err(Failure::Law)?;
        Ok(counts)
    }

    /// A smaller way to the same failure, as a report to act upon.
    pub fn report(&self, failure: Failure, patience: Duration) -> Report {
        let deadline = Instant::now() + patience;
        let fails = |steps: &Workload| self.attempt(steps).err();
        let (workload, failure) = shrink_steps(&self.workload, failure, deadline, &fails);
        let failure = match failure {
            Failure::Law(violation) => {
                Failure::Law(self.shrink_cut(&workload, violation, deadline))
            }
            run => run,
        };
        Report {
            seed: self.seed,
            setup: self.setup.clone(),
            workload,
            failure,
        }
    }

    fn shrink_cut(
        &self,
        workload: &Workload,
        violation: Box<Violation>,
        deadline: Instant,
    ) -> Box<Violation> {
        let Ok(eras) = self.eras_of(workload) else {
            return violation;
        };
        let Some(era) = eras.get(violation.era) else {
            return violation;
        };
        Box::new(shrink_plan(*violation, deadline, &|tried| {
            retry(&self.setup, era, tried).err()
        }))
    }
}

/// A failure, for a reader who wants to see it again.
pub struct Report {
    /// The round's seed.
    pub seed: u64,
    /// Image and journal.
    pub setup: Setup,
    /// The steps that are left.
    pub workload: Workload,
    /// What they lead to.
    pub failure: Failure,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "the law is violated: seed {}, {:?}",
            self.seed, self.setup
        )?;
        writeln!(f, "{}", self.failure)?;
        writeln!(f, "after these steps (shrunk):\n{}", self.workload)?;
        write!(f, "again: scripts/crash --seed {} --rounds 1", self.seed)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Run(what) => write!(f, "without any cut, {what}"),
            Failure::Law(violation) => violation.fmt(f),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.killed {
            "the daemon was killed"
        } else {
            "the power was cut"
        };
        writeln!(
            f,
            "in era {}, {how} after {} changes; fates of what was pending:",
            self.era, self.at
        )?;
        writeln!(f, "  {}", self.plan)?;
        if let Some((at, plan)) = &self.again {
            writeln!(
                f,
                "and again during recovery, after {at} changes:\n  {plan}"
            )?;
        }
        write!(f, "{}", self.what)
    }
}

//! The law of mkfs: all or nothing.
//!
//! An image that mkfs had not finished when the power failed is no image, and
//! is refused in one line; or it is the finished one, to the byte; or, where
//! another one stood there, still that one. It never mounts and is wrong.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::clock::StillClock;
use super::counts::Counts;
use super::explore::{Cut, Violation};
use super::law::{Foreign, Insistent, guarded};
use super::random::Random;
use super::report::Report;
use super::round::{Failure, Origin};
use super::shrink::{shrink_cut, shrink_steps};
use super::strategy::plans;
use super::system::{self, Setup};
use super::tree::Tree;
use super::walk::walk;
use super::window::Window;
use super::workload::{Mix, Workload};
use super::world::{Looking, World};
use crate::device::crash::{Frontier, Plan};
use crate::device::memory::Pages;
use crate::device::volatile::{Event, Host, Snapshot};

/// How many choices each strategy has at a point.
const WIDTH: usize = 12;

/// One mkfs, on an empty file or over another image.
#[derive(Clone)]
pub struct Making {
    origin: Origin,
    setup: Setup,
    used: Option<Used>,
}

/// What stands there before: an image, and what was done with it.
#[derive(Clone)]
struct Used {
    setup: Setup,
    workload: Workload,
}

/// What mkfs did, and what came of it.
struct Made {
    before: Pages,
    trace: Vec<Event>,
    image: Pages,
    tree: Tree,
}

/// What a mount makes of an image.
enum Mounts {
    Well(Tree),
    /// It is not refused, and is wrong.
    Badly(String),
    Refused(String),
}

impl Making {
    /// The one that this seed decides.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6D6B_6673);
        let setup = Setup::random(&mut random);
        let used = (!random.one_in(3)).then(|| Used {
            setup: Setup::random(&mut random),
            workload: Workload::random(random.bits(), 40, Mix::All, &Tree::root()),
        });
        Making {
            origin: Origin::Mkfs(seed),
            setup,
            used,
        }
    }

    /// One that somebody wrote down; `used` is the image that stands there
    /// and what was done with it.
    pub fn written(setup: &Setup, used: Option<(&Setup, Workload)>) -> Self {
        Making {
            origin: Origin::Written,
            setup: setup.clone(),
            used: used.map(|(setup, workload)| Used {
                setup: setup.clone(),
                workload,
            }),
        }
    }

    /// Cuts the power everywhere.
    pub fn run(&self, foreign: &dyn Foreign) -> Result<Counts, Failure> {
        let made = self.make()?;
        let (mut seen, mut counts) = (HashSet::new(), Counts::default());
        let mut random = Random::new(self.setup.seed);
        let mut frontier = made.frontier(0);
        for at in 0..=made.trace.len() {
            counts.points += 1;
            counts.windows[Window::Mkfs as usize] += 1;
            for (strategy, plan) in plans(frontier.pending(), WIDTH, &mut random) {
                let (left, hash) = frontier.crash(&plan);
                // At the end more is asked for.
                let done = at == made.trace.len();
                let fresh = seen.insert((hash, done));
                counts.state(strategy, 0, fresh);
                if fresh {
                    self.judge(left.image, &made, done, foreign)
                        .map_err(|what| violated(at, plan, what))?;
                }
            }
            if let Some(event) = made.trace.get(at) {
                frontier.pass(event);
            }
        }
        Ok(counts)
    }

    /// Tries one cut again; a violation spells out what became of everything
    /// that was pending.
    pub fn retry(&self, cut: &Cut, foreign: &dyn Foreign) -> Result<(), Failure> {
        let made = self.make()?;
        let mut plan = cut.plan.clone();
        let at = cut.at.min(made.trace.len());
        let frontier = made.frontier(at);
        plan.spell_out(frontier.pending());
        let left = frontier.crash(&plan).0.image;
        self.judge(left, &made, at == made.trace.len(), foreign)
            .map_err(|what| violated(at, plan, what))
    }

    /// A smaller way to the same failure, as a report to act upon.
    pub fn report(&self, failure: Failure, patience: Duration, foreign: &dyn Foreign) -> Report {
        let (deadline, foreign) = (Instant::now() + patience, &Insistent(foreign));
        let over = |used: Option<Used>| Making {
            used,
            ..self.clone()
        };
        let (least, mut failure) = match (&self.used, over(None).run(foreign)) {
            (None, _) => (self.clone(), failure),
            (Some(_), Err(again)) => (over(None), again),
            (Some(used), Ok(_)) => {
                let with = |workload: &Workload| {
                    over(Some(Used {
                        workload: workload.clone(),
                        ..used.clone()
                    }))
                };
                let fails = |workload: &Workload| with(workload).run(foreign).err();
                let (workload, again) = shrink_steps(&used.workload, failure, deadline, &fails);
                (with(&workload), again)
            }
        };
        if let Failure::Law(violation) = failure {
            let fails = |cut: &Cut| match least.retry(cut, foreign) {
                Err(Failure::Law(violation)) => Some(*violation),
                _ => None,
            };
            failure = Failure::Law(Box::new(shrink_cut(*violation, deadline, &fails)));
        }
        let (used, workload) = match least.used {
            Some(Used { setup, workload }) => (Some(setup), workload),
            None => (None, Workload::default()),
        };
        Report {
            origin: self.origin,
            setup: least.setup,
            used,
            workload,
            failure,
        }
    }

    /// Makes the image, without any cut.
    fn make(&self) -> Result<Made, Failure> {
        guarded(|| {
            let before = self.used.as_ref().map(Used::image).transpose()?;
            let before = before.unwrap_or_default();
            let host = host_of(before.clone());
            system::make(host.image(), &self.setup, &StillClock::new())?;
            let image = host.kill().image;
            let tree = match self.mounts(image.clone()) {
                Mounts::Well(tree) => tree,
                Mounts::Badly(why) | Mounts::Refused(why) => return Err(why),
            };
            Ok(Made {
                before,
                trace: host.trace(),
                image,
                tree,
            })
        })
        .map_err(Failure::Run)
    }

    fn judge(
        &self,
        left: Pages,
        made: &Made,
        done: bool,
        foreign: &dyn Foreign,
    ) -> Result<(), String> {
        let is_finished = left == made.image;
        let judge = || match (self.mounts(left.clone()), is_finished) {
            (Mounts::Well(tree), true) => match made.tree.difference(&tree) {
                Some(difference) => Err(difference),
                None if done => foreign.judge(&left, &made.tree),
                None => Ok(()),
            },
            (Mounts::Badly(why) | Mounts::Refused(why), true) => {
                Err(format!("finished, but {why}"))
            }
            (_, false) if done => Err("it had been finished".to_owned()),
            (Mounts::Well(_), false) if left == made.before => Ok(()),
            (Mounts::Well(_), false) => Err("an unfinished image mounts".to_owned()),
            (Mounts::Badly(why), false) => Err(format!("an unfinished image mounts, and {why}")),
            (Mounts::Refused(why), false) if why.contains('\n') => {
                Err(format!("it is refused in more than one line: {why}"))
            }
            (Mounts::Refused(_), false) => Ok(()),
        };
        guarded(judge)
    }

    fn mounts(&self, image: Pages) -> Mounts {
        let host = host_of(image);
        let mounted = match system::mount(&host, &self.setup, &StillClock::afterwards(), 1) {
            Ok(mounted) => mounted,
            Err(why) => return Mounts::Refused(why),
        };
        let tree = walk(&mounted.fs).map_err(|e| format!("the tree cannot be read: {e}"));
        let sound = system::check_mounted(&mounted);
        match tree.and_then(|tree| sound.map(|()| tree)) {
            Ok(tree) => Mounts::Well(tree),
            Err(why) => Mounts::Badly(why),
        }
    }
}

impl Used {
    fn image(&self) -> Result<Pages, String> {
        let fresh = system::format(&self.setup, &StillClock::new())?;
        let world = World::run(&self.setup, fresh, &self.workload, Looking::Seldom)?;
        Ok(world.finish()?.0.image)
    }
}

impl Made {
    /// After so many changes.
    fn frontier(&self, at: usize) -> Frontier {
        let mut frontier = Frontier::new(&host_of(self.before.clone()).start());
        self.trace[..at]
            .iter()
            .for_each(|event| frontier.pass(event));
        frontier
    }
}

fn host_of(image: Pages) -> std::sync::Arc<Host> {
    Host::new(Snapshot {
        image,
        ..Snapshot::default()
    })
}

fn violated(at: usize, plan: Plan, what: String) -> Failure {
    let cut = Cut {
        era: 0,
        at,
        plan,
        killed: false,
        again: Vec::new(),
    };
    Failure::Law(Box::new(Violation { cut, what }))
}

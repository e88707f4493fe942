//! The law of mkfs: all or nothing.
//!
//! An image that mkfs had not finished when the power failed is no image, and
//! is refused in one line; or it is the finished one, to the byte; or, where
//! another one stood there, still that one. It never mounts and is wrong.

use std::collections::HashSet;

use super::clock::StillClock;
use super::counts::Counts;
use super::law::{Foreign, guarded};
use super::random::Random;
use super::strategy::plans;
use super::system::{self, Setup};
use super::tree::Tree;
use super::walk::walk;
use super::window::Window;
use super::workload::{Mix, Workload};
use super::world::{Looking, World};
use crate::device::crash::Frontier;
use crate::device::memory::Pages;
use crate::device::volatile::{Host, Snapshot};

/// How many choices each strategy has at a point.
const WIDTH: usize = 12;

/// One mkfs, on an empty file or over another image.
pub struct Making {
    seed: u64,
    setup: Setup,
    before: Pages,
}

/// What mkfs makes of it.
struct Finished {
    image: Pages,
    tree: Tree,
}

impl Making {
    /// The one that this seed decides.
    pub fn new(seed: u64) -> Result<Self, String> {
        let mut random = Random::new(seed ^ 0x6D6B_6673);
        let setup = Setup::random(&mut random);
        let before = match random.one_in(3) {
            true => Pages::default(),
            false => used_image(&mut random)?,
        };
        Ok(Making {
            seed,
            setup,
            before,
        })
    }

    /// Cuts the power everywhere; the error says where the law was broken.
    pub fn run(
        &self,
        seen: &mut HashSet<u64>,
        foreign: Option<&dyn Foreign>,
    ) -> Result<Counts, String> {
        let host = Host::new(Snapshot {
            image: self.before.clone(),
            ..Snapshot::default()
        });
        system::make(host.image(), &self.setup, &StillClock::new())?;
        let image = host.kill().image;
        let tree = self.tree_of(image.clone())?;
        let finished = Finished { image, tree };
        let (trace, mut counts) = (host.trace(), Counts::default());
        let mut random = Random::new(self.seed);
        let mut frontier = Frontier::new(&host.start());
        for at in 0..=trace.len() {
            counts.points += 1;
            counts.windows[Window::Mkfs as usize] += 1;
            for (strategy, plan) in plans(frontier.pending(), WIDTH, &mut random) {
                let (left, hash) = frontier.crash(&plan);
                let fresh = seen.insert(hash ^ u64::from(at == trace.len()));
                counts.state(strategy, 0, fresh);
                if fresh {
                    let done = at == trace.len();
                    let judge = || self.judge(left.image, &finished, done, foreign);
                    guarded(judge).map_err(|what| {
                        format!(
                            "mkfs {}, cut after {at} of {} changes: {plan}:\n{what}",
                            self.seed,
                            trace.len()
                        )
                    })?;
                }
            }
            if let Some(event) = trace.get(at) {
                frontier.pass(event);
            }
        }
        Ok(counts)
    }

    fn judge(
        &self,
        left: Pages,
        finished: &Finished,
        done: bool,
        foreign: Option<&dyn Foreign>,
    ) -> Result<(), String> {
        let is_finished = left == finished.image;
        if is_finished
            && done
            && let Some(foreign) = foreign
        {
            foreign.judge(&left, &finished.tree)?;
        }
        match (self.tree_of(left.clone()), is_finished) {
            (Ok(tree), true) => match finished.tree.difference(&tree) {
                Some(difference) => Err(difference),
                None => Ok(()),
            },
            (Err(why), true) => Err(format!("finished, but {why}")),
            (_, false) if done => Err("it had been finished".to_owned()),
            (Ok(_), false) if left == self.before => Ok(()),
            (Ok(_), false) => Err("an unfinished image mounts".to_owned()),
            (Err(why), false) if why.contains('\n') => {
                Err(format!("it is refused in more than one line: {why}"))
            }
            (Err(_), false) => Ok(()),
        }
    }

    fn tree_of(&self, image: Pages) -> Result<Tree, String> {
        let host = Host::new(Snapshot {
            image,
            ..Snapshot::default()
        });
        let mounted = system::mount(&host, &self.setup, &StillClock::afterwards(), 1)?;
        let tree = walk(&mounted.fs).map_err(|e| format!("the tree cannot be read: {e}"))?;
        system::check_mounted(&mounted)?;
        Ok(tree)
    }
}

/// An image that somebody has worked on.
fn used_image(random: &mut Random) -> Result<Pages, String> {
    let setup = Setup::random(random);
    let image = system::format(&setup, &StillClock::new())?;
    let workload = Workload::random(random.bits(), 40, Mix::All, &Tree::root());
    let (left, _) = World::run(&setup, image, &workload, Looking::Seldom)?.finish()?;
    Ok(left.image)
}

//! The law, tried at every point of a recorded run.
//!
//! Before and after each write and sync of an era the power is cut, with the
//! choices of lost writes of every [`Strategy`]; what is left is judged by
//! the law, and in some of the recoveries the power fails again, to a
//! depth of three. [`Effort`] bounds what would be too many.

use std::time::Instant;

use super::counts::{Counts, DEPTH};
use super::law::{Case, Foreign, Insistent, Recovered, guarded, look_closely, recover};
use super::random::Random;
use super::seen::Seen;
use super::strategy::{Strategy, plans};
use super::system::Setup;
use super::window::{Watch, Window};
use super::world::Era;
use crate::device::crash::{Frontier, Plan};
use crate::device::volatile::{Event, Snapshot};
use crate::units::Lsn;

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Decides all choices.
    pub seed: u64,
    /// Points of a run at which the power is cut, at most: of a longer run
    /// chance takes so many.
    pub points: usize,
    /// How many choices of lost writes each strategy has at a point: see
    /// [`super::strategy`].
    pub width: usize,
    /// One in so many states is looked at closely: checked before recovery
    /// too, recovered again, unmounted, mounted again.
    pub closely: u64,
    /// In one of so many states the power fails again during recovery.
    pub nested: u64,
    /// Cuts in such a recovery; one in so many of them leads deeper still.
    pub nested_cuts: usize,
}

impl Effort {
    /// What a campaign does with a run: few points are tried with many
    /// choices, many with few.
    pub fn of_run(seed: u64, points: usize) -> Self {
        Effort {
            seed,
            points: 500,
            width: if points < 150 { 8 } else { 3 },
            closely: 24,
            nested: 60,
            nested_cuts: 12,
        }
    }

    /// Little for each run, so that all of very many short ones can be tried.
    pub fn light(seed: u64) -> Self {
        Effort {
            seed,
            points: 12,
            width: 1,
            closely: 400,
            nested: 400,
            nested_cuts: 3,
        }
    }
}

/// A state in which the law does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where the power was cut.
    pub cut: Cut,
    /// What does not hold.
    pub what: String,
}

/// A way to a state: cuts, and what each of them lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which era of the run.
    pub era: usize,
    /// The power failed after so many changes.
    pub at: usize,
    /// What became of the changes that were pending there.
    pub plan: Plan,
    /// Whether only the daemon was killed, and the host's cache survived.
    pub killed: bool,
    /// During the recovery that followed the power failed again: after so
    /// many changes, and thus. And so on.
    pub again: Vec<(usize, Plan)>,
}

/// A run to be explored.
pub struct Task<'a> {
    /// Image and journal.
    pub setup: &'a Setup,
    /// The recorded run.
    pub eras: &'a [Era],
    /// The step from which on the power is cut.
    pub from: usize,
    /// Whether the first mount adopts an image with an internal journal.
    pub adopts: bool,
    /// How much is tried.
    pub effort: Effort,
    /// Who else judges.
    pub foreign: &'a dyn Foreign,
    /// When to stop, wherever it is.
    pub until: Option<Instant>,
}

/// Tries all eras of a run. States in `seen` are not recovered again.
pub fn explore(
    task: &Task<'_>,
    seen: &mut Seen,
    counts: &mut Counts,
) -> Result<(), Box<Violation>> {
    let points = count_points(task.eras).max(1);
    let mut explorer = Explorer {
        task,
        random: Random::new(task.effort.seed),
        seen,
        points,
        counts,
    };
    (0..task.eras.len()).try_for_each(|number| explorer.era(number))
}

/// How many points a run has.
pub fn count_points(eras: &[Era]) -> usize {
    eras.iter()
        .map(|era| era.trace.iter().filter(|event| cuttable(event)).count())
        .sum()
}

/// Tries one state of a recorded run again, such as a [`Violation`]'s, and
/// asks the other judges too. If the law is violated, the cut comes back with
/// a fate for everything that was pending.
pub fn retry(
    setup: &Setup,
    eras: &[Era],
    cut: &Cut,
    foreign: &dyn Foreign,
) -> Result<(), Violation> {
    let mut cut = cut.clone();
    judge_again(setup, eras, &mut cut, foreign).map_err(|what| Violation { cut, what })
}

fn judge_again(
    setup: &Setup,
    eras: &[Era],
    cut: &mut Cut,
    foreign: &dyn Foreign,
) -> Result<(), String> {
    let era = eras.get(cut.era).ok_or("the run has no such era")?;
    let mut frontier = Frontier::new(&era.start);
    let events = era.trace.get(..cut.at).ok_or("the run is shorter")?;
    events.iter().for_each(|event| frontier.pass(event));
    let mut history = era.history.clone();
    let mut floor = floor(era, cut.at, cut.killed);
    cut.plan.spell_out(frontier.pending());
    let (mut left, mut hash) = frontier.crash(&cut.plan);
    for (at, plan) in &mut cut.again {
        let history_then = history.clone();
        let case = Case {
            history: &history_then,
            floor,
        };
        let first = guarded(|| recover(setup, &left, &case, hash))?;
        let trace = first.host.trace();
        history.cut(first.last);
        if *at >= trace.len() {
            floor = first.last;
        }
        let mut frontier = Frontier::new(&left);
        trace
            .iter()
            .take(*at)
            .for_each(|event| frontier.pass(event));
        plan.spell_out(frontier.pending());
        (left, hash) = frontier.crash(plan);
    }
    let case = Case {
        history: &history,
        floor,
    };
    let last = guarded(|| recover(setup, &left, &case, hash))?;
    guarded(|| look_closely(setup, &left, last, &case, Some(&Insistent(foreign))))
}

fn floor(era: &Era, at: usize, killed: bool) -> Lsn {
    if killed {
        era.acknowledged_at(at)
    } else {
        era.durable_at(at)
    }
}

/// Whether a system call did this, so that there is a moment before and after it.
fn cuttable(event: &Event) -> bool {
    !matches!(event, Event::Write { mapped: true, .. } | Event::Len { .. })
}

struct Explorer<'a> {
    task: &'a Task<'a>,
    random: Random,
    seen: &'a mut Seen,
    /// Points of the whole run.
    points: usize,
    counts: &'a mut Counts,
}

/// Cuts during recovery, and what went wrong after them.
type Deeper = (Vec<(usize, Plan)>, String);

impl Explorer<'_> {
    fn era(&mut self, number: usize) -> Result<(), Box<Violation>> {
        let era = &self.task.eras[number];
        let from = match number {
            0 => era.begins(self.task.from),
            _ => 0,
        };
        let mut frontier = Frontier::new(&era.start);
        let mut watch = Watch::new(&era.start);
        for at in 0..=era.trace.len() {
            if let Some(before) = at.checked_sub(1) {
                frontier.pass(&era.trace[before]);
                watch.pass(&era.trace[before]);
            }
            let edge = [at.checked_sub(1), Some(at)]
                .into_iter()
                .any(|n| n.and_then(|n| era.trace.get(n)).is_none_or(cuttable));
            let chosen = self.random.below(self.points as u64) < self.task.effort.points as u64;
            if self.task.until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            if at >= from && chosen && edge {
                self.note_windows(number, at, &frontier, &watch);
                self.point(number, at, &frontier)?;
            }
        }
        Ok(())
    }

    fn note_windows(&mut self, number: usize, at: usize, frontier: &Frontier, watch: &Watch) {
        let era = &self.task.eras[number];
        let phase = era.phase_at(at);
        let adopting = number == 0 && self.task.adopts && phase == Some(Window::Mount);
        let mut windows: Vec<Window> = (frontier.pending().iter())
            .filter_map(|pending| watch.window(pending))
            .chain(phase)
            .chain(adopting.then_some(Window::Adoption))
            .collect();
        windows.sort_unstable();
        windows.dedup();
        self.counts.points += 1;
        for window in windows {
            self.counts.windows[window as usize] += 1;
        }
    }

    /// All choices at one point of an era.
    fn point(
        &mut self,
        number: usize,
        at: usize,
        frontier: &Frontier,
    ) -> Result<(), Box<Violation>> {
        let era = &self.task.eras[number];
        let kill = (Strategy::Kill, Plan::all(frontier.pending()));
        let others = plans(frontier.pending(), self.task.effort.width, &mut self.random);
        for (strategy, plan) in std::iter::once(kill).chain(others) {
            let killed = strategy == Strategy::Kill;
            let case = Case {
                history: &era.history,
                floor: floor(era, at, killed),
            };
            self.state(frontier, (strategy, &plan), &case, 0)
                .map_err(|(again, what)| {
                    let cut = Cut {
                        era: number,
                        at,
                        plan,
                        killed,
                        again,
                    };
                    Box::new(Violation { cut, what })
                })?;
        }
        Ok(())
    }

    /// One state, which so many cuts during recovery led to.
    fn state(
        &mut self,
        frontier: &Frontier,
        (strategy, plan): (Strategy, &Plan),
        case: &Case<'_>,
        depth: usize,
    ) -> Result<(), Deeper> {
        let here = |what| (Vec::new(), what);
        let (left, hash) = frontier.crash(plan);
        // The same disks may be asked for more at another point.
        let judged = self.seen.judge(hash, case.floor, case.history);
        self.counts.state(strategy, depth, judged.is_none());
        if let Some(judged) = judged {
            return judged.map_err(here);
        }
        let (setup, effort) = (self.task.setup, self.task.effort);
        let recovered = guarded(|| recover(setup, &left, case, hash)).map_err(here)?;
        self.seen.note(hash, recovered.last, case.history);
        let deeper = match depth {
            0 => self.random.one_in(effort.nested),
            _ => self.random.one_in(effort.nested_cuts as u64),
        };
        if deeper && depth < DEPTH {
            self.deeper(&left, &recovered, case, depth + 1)?;
        }
        let shape = recovered.shape(setup, case.history, self.task.adopts, depth);
        let foreign = self.task.foreign.want(&shape).then_some(self.task.foreign);
        if foreign.is_some() || self.random.one_in(effort.closely) {
            self.counts.closely += 1;
            guarded(|| look_closely(setup, &left, recovered, case, foreign)).map_err(here)?;
        }
        Ok(())
    }

    /// The power fails again while the system recovers.
    fn deeper(
        &mut self,
        start: &Snapshot,
        first: &Recovered,
        case: &Case<'_>,
        depth: usize,
    ) -> Result<(), Deeper> {
        // What recovery appends has Lsns that operations had which are gone.
        let mut history = case.history.clone();
        history.cut(first.last);
        let trace = first.host.trace();
        let mut points: Vec<usize> = (0..self.task.effort.nested_cuts)
            .map(|_| self.random.below(trace.len() as u64 + 1) as usize)
            .collect();
        points.sort_unstable();
        let mut frontier = Frontier::new(start);
        let mut passed = 0;
        for at in points {
            trace[passed..at]
                .iter()
                .for_each(|event| frontier.pass(event));
            passed = at;
            let case = Case {
                history: &history,
                floor: match at == trace.len() {
                    true => first.last,
                    false => case.floor,
                },
            };
            let choices = plans(frontier.pending(), 2, &mut self.random);
            let (strategy, plan) = self.random.pick(&choices).clone();
            self.state(&frontier, (strategy, &plan), &case, depth)
                .map_err(|(mut again, what)| {
                    again.insert(0, (at, plan));
                    (again, what)
                })?;
        }
        Ok(())
    }
}

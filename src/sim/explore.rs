//! The law, tried at every point of a recorded run.
//!
//! Before and after each write and sync of an era the power is cut, with many
//! choices of what was lost; the disks that are left are recovered, and
//! judged: a tree of the history, no older than the last sync, a sound image,
//! the same when recovered again, also after a cut during recovery itself.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::clock::StillClock;
use super::history::History;
use super::random::Random;
use super::system::{self, Setup};
use super::walk::walk;
use super::world::Era;
use crate::device::crash::{Fate, Frontier, Pending, Plan};
use crate::device::volatile::{Event, Host, Snapshot};
use crate::units::Lsn;

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Decides all choices.
    pub seed: u64,
    /// Points of a run at which the power is cut, at most: of a longer run
    /// chance takes so many.
    pub points: usize,
    /// Choices of lost writes at each point, beside the few that are always made.
    pub per_point: usize,
    /// One in so many states is looked at closely: the image is checked,
    /// unmounted, and recovered again.
    pub closely: u64,
    /// In one of so many states the power fails again during recovery.
    pub nested: u64,
    /// Cuts in such a recovery.
    pub nested_cuts: usize,
}

impl Effort {
    /// What a long run does at each point.
    pub fn thorough(seed: u64) -> Self {
        Effort {
            seed,
            points: 500,
            per_point: 12,
            closely: 8,
            nested: 40,
            nested_cuts: 30,
        }
    }
}

/// What has been tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub states: u64,
    /// Different from all others of the same run.
    pub unique: u64,
    /// Of them: cuts during recovery.
    pub nested: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.states += more.states;
        self.unique += more.unique;
        self.nested += more.nested;
    }
}

/// A state in which the law does not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which era of the run.
    pub era: usize,
    /// The power failed after so many changes.
    pub at: usize,
    /// What became of the changes that were pending there.
    pub plan: Plan,
    /// Whether only the daemon was killed, and the host's cache survived.
    pub killed: bool,
    /// During recovery the power failed again: after so many changes, and thus.
    pub again: Option<(usize, Plan)>,
    /// What does not hold.
    pub what: String,
}

/// What must be found.
struct Case<'a> {
    history: &'a History,
    floor: Lsn,
}

/// Tries all eras of a run.
pub fn explore(
    setup: &Setup,
    eras: &[Era],
    effort: Effort,
    counts: &mut Counts,
) -> Result<(), Box<Violation>> {
    let points = eras
        .iter()
        .map(|era| era.trace.iter().filter(|event| cuttable(event)).count())
        .sum::<usize>()
        .max(1);
    let mut explorer = Explorer {
        setup,
        effort,
        random: Random::new(effort.seed),
        seen: HashSet::new(),
        points,
        counts,
    };
    eras.iter()
        .enumerate()
        .try_for_each(|(number, era)| explorer.era(number, era))
}

/// Tries one state of a recorded run again, such as a [`Violation`]'s.
pub fn retry(setup: &Setup, era: &Era, violation: &Violation) -> Result<(), String> {
    let mut frontier = Frontier::new(&era.start);
    era.trace[..violation.at]
        .iter()
        .for_each(|event| frontier.pass(event));
    let case = Case {
        history: &era.history,
        floor: floor(era, violation.at, violation.killed),
    };
    let (left, hash) = frontier.crash(&violation.plan);
    let first = guarded(|| recover(setup, &left, &case, hash))?;
    let Some((at, plan)) = &violation.again else {
        return guarded(|| look_closely(setup, &left, first, &case));
    };
    let mut frontier = Frontier::new(&left);
    first
        .trace
        .iter()
        .take(*at)
        .for_each(|event| frontier.pass(event));
    let mut history = era.history.clone();
    history.cut(first.last);
    let case = Case {
        history: &history,
        floor: if *at >= first.trace.len() {
            first.last
        } else {
            case.floor
        },
    };
    let (left, hash) = frontier.crash(plan);
    let second = guarded(|| recover(setup, &left, &case, hash))?;
    guarded(|| look_closely(setup, &left, second, &case))
}

fn floor(era: &Era, at: usize, killed: bool) -> Lsn {
    if killed {
        era.acknowledged_at(at)
    } else {
        era.durable_at(at)
    }
}

struct Explorer<'a> {
    setup: &'a Setup,
    effort: Effort,
    random: Random,
    seen: HashSet<u64>,
    /// Points of the whole run.
    points: usize,
    counts: &'a mut Counts,
}

impl Explorer<'_> {
    fn era(&mut self, number: usize, era: &Era) -> Result<(), Box<Violation>> {
        let mut frontier = Frontier::new(&era.start);
        self.point(number, era, 0, &frontier)?;
        for (event, at) in era.trace.iter().zip(1..) {
            frontier.pass(event);
            let next = era.trace.get(at);
            let chosen = self.random.below(self.points as u64) < self.effort.points as u64;
            if chosen && (cuttable(event) || next.is_none_or(cuttable)) {
                self.point(number, era, at, &frontier)?;
            }
        }
        Ok(())
    }

    /// All choices at one point of an era.
    fn point(
        &mut self,
        number: usize,
        era: &Era,
        at: usize,
        frontier: &Frontier,
    ) -> Result<(), Box<Violation>> {
        let everything = Plan::all(frontier.pending());
        let plans = plans(frontier.pending(), self.effort.per_point, &mut self.random);
        let kills = std::iter::once((everything, true));
        for (plan, killed) in kills.chain(plans.into_iter().map(|plan| (plan, false))) {
            let case = Case {
                history: &era.history,
                floor: floor(era, at, killed),
            };
            self.state(frontier, &plan, &case, killed)
                .map_err(|(again, what)| {
                    Box::new(Violation {
                        era: number,
                        at,
                        plan,
                        killed,
                        again,
                        what,
                    })
                })?;
        }
        Ok(())
    }

    fn state(
        &mut self,
        frontier: &Frontier,
        plan: &Plan,
        case: &Case,
        killed: bool,
    ) -> Result<(), (Again, String)> {
        let (left, hash) = frontier.crash(plan);
        self.counts.states += 1;
        // The same disks may be asked for more after a kill.
        if !self.seen.insert(hash ^ u64::from(killed)) {
            return Ok(());
        }
        self.counts.unique += 1;
        let setup = self.setup;
        let recovered =
            guarded(|| recover(setup, &left, case, hash)).map_err(|what| (None, what))?;
        if self.random.one_in(self.effort.nested) {
            self.nested(&left, &recovered, case)?;
        }
        if self.random.one_in(self.effort.closely) {
            guarded(|| look_closely(setup, &left, recovered, case)).map_err(|what| (None, what))?;
        }
        Ok(())
    }

    /// The power fails again while the system recovers.
    fn nested(
        &mut self,
        start: &Snapshot,
        first: &Recovered,
        case: &Case,
    ) -> Result<(), (Again, String)> {
        // What recovery appends has Lsns that operations had which are gone.
        let mut history = case.history.clone();
        history.cut(first.last);
        let mut frontier = Frontier::new(start);
        let points: Vec<usize> = (0..self.effort.nested_cuts)
            .map(|_| self.random.below(first.trace.len() as u64 + 1) as usize)
            .collect();
        for at in 0..=first.trace.len() {
            for _ in points.iter().filter(|&&point| point == at) {
                let floor = if at == first.trace.len() {
                    first.last
                } else {
                    case.floor
                };
                let case = Case {
                    history: &history,
                    floor,
                };
                let plan = Plan::random(frontier.pending(), self.random.bits());
                let (left, hash) = frontier.crash(&plan);
                self.counts.states += 1;
                self.counts.nested += 1;
                if self.seen.insert(hash) {
                    self.counts.unique += 1;
                    let setup = self.setup;
                    guarded(|| recover(setup, &left, &case, hash))
                        .map_err(|what| (Some((at, plan)), what))?;
                }
            }
            if let Some(event) = first.trace.get(at) {
                frontier.pass(event);
            }
        }
        Ok(())
    }
}

type Again = Option<(usize, Plan)>;

/// Whether a system call did this, so that there is a moment before and after it.
fn cuttable(event: &Event) -> bool {
    !matches!(event, Event::Write { mapped: true, .. } | Event::Len { .. })
}

/// What to lose at one point.
fn plans(pending: &[Pending], budget: usize, random: &mut Random) -> Vec<Plan> {
    let all = Plan::all(pending);
    let Some(last) = pending.len().checked_sub(1) else {
        return vec![all];
    };
    let but = |n: usize, fate: Fate| {
        let mut plan = all.clone();
        plan.0[n] = fate;
        plan
    };
    let only = |chosen: &dyn Fn(&Pending) -> bool| {
        Plan(
            pending
                .iter()
                .map(|pending| {
                    if chosen(pending) {
                        Fate::Kept
                    } else {
                        Fate::Lost
                    }
                })
                .collect(),
        )
    };
    let mut plans = vec![
        Plan::default(),
        all.clone(),
        but(last, Fate::Torn(random.bits() as u32)),
        only(&|pending| matches!(pending, Event::Write { .. })),
        only(&|pending| !matches!(pending, Event::Write { .. })),
    ];
    // Few pending changes: each one is lost once, and each prefix is kept
    // once. Many: chance decides which.
    let numbers: Vec<usize> = match last < budget / 3 {
        true => (0..=last).collect(),
        false => (0..budget / 3)
            .map(|_| random.below(pending.len() as u64) as usize)
            .collect(),
    };
    for n in numbers {
        plans.push(but(n, Fate::Lost));
        plans.push(Plan(vec![Fate::Kept; n]));
        plans.push(Plan::random(pending, random.bits()));
    }
    plans
}

/// A system that came up again.
struct Recovered {
    host: std::sync::Arc<Host>,
    nonce: u64,
    trace: Vec<Event>,
    last: Lsn,
    mounted: system::Mounted,
}

/// Recovers what a cut left: law 1 and 2.
fn recover(setup: &Setup, left: &Snapshot, case: &Case, nonce: u64) -> Result<Recovered, String> {
    let host = Host::new(left.clone());
    let mounted = system::mount(&host, setup, &StillClock::afterwards(), nonce)?;
    let last = mounted.last;
    if last < case.floor {
        return Err(format!(
            "recovered through record {last} only, but {} had to survive",
            case.floor
        ));
    }
    let found = walk(&mounted.fs)
        .map_err(|e| format!("recovered through {last}; the tree cannot be read: {e}"))?;
    let wanted = case
        .history
        .at(last)
        .ok_or_else(|| format!("recovered through {last}, before all history"))?;
    match wanted.difference(&found) {
        Some(difference) => Err(format!(
            "recovered through {last}, but the tree differs:\n{difference}"
        )),
        None => Ok(Recovered {
            trace: host.trace(),
            host,
            nonce,
            last,
            mounted,
        }),
    }
}

/// Laws 3 and 4: the image is sound, and recovering again changes nothing.
fn look_closely(
    setup: &Setup,
    left: &Snapshot,
    first: Recovered,
    case: &Case,
) -> Result<(), String> {
    let mut history = case.history.clone();
    history.cut(first.last);
    let case = Case {
        history: &history,
        floor: first.last,
    };
    let Recovered {
        host,
        nonce,
        mounted,
        ..
    } = first;

    // The daemon dies after recovery: what it says is the same again.
    let killed = host.kill();
    system::check(&killed).map_err(|what| format!("after recovery, {what}"))?;
    drop(
        recover(setup, &killed, &case, nonce.wrapping_add(1))
            .map_err(|what| format!("recovered a second time: {what}"))?,
    );

    // It is unmounted: an ordinary image, and history goes on.
    system::unmount(mounted)?;
    let clean = host.kill();
    system::check(&clean).map_err(|what| format!("after the unmount, {what}"))?;
    drop(
        recover(setup, &clean, &case, nonce.wrapping_add(2))
            .map_err(|what| format!("mounted after an unmount: {what}"))?,
    );

    // `recover` twice leaves the same bytes as once.
    let host = Host::new(left.clone());
    system::recover(
        &host,
        setup,
        &StillClock::afterwards(),
        nonce.wrapping_add(3),
    )?;
    let once = host.kill();
    system::check(&once).map_err(|what| format!("after journalfs recover, {what}"))?;
    system::recover(
        &host,
        setup,
        &StillClock::afterwards(),
        nonce.wrapping_add(4),
    )?;
    system::same(&once, &host.kill()).map_err(|what| format!("recovered twice, {what}"))
}

/// A panic is a violation too.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("without a word");
        Err(format!("panicked: {said}"))
    })
}

//! A run: a workload done on the real file system and on the model at once.
//!
//! The run is recorded by *eras*, from one power cut to the next: what stood
//! on the disks, every change since, and which records had to survive from
//! which change on. The explorer cuts the power anywhere in them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::StillClock;
use super::drive::{Driver, refusal};
use super::history::History;
use super::model::{Model, Refusal};
use super::random::Random;
use super::step::Step;
use super::system::{self, Mounted, Setup};
use super::tree::Tree;
use super::walk::walk;
use super::window::Window;
use super::workload::Workload;
use crate::device::crash::{Frontier, Plan};
use crate::device::memory::Pages;
use crate::device::volatile::{Event, Host, Snapshot};
use crate::fs::{Error, Fs};
use crate::units::Lsn;

/// One life of a host, from power-on to power-off.
pub struct Era {
    /// What stood on its disks at first.
    pub start: Snapshot,
    /// What was changed.
    pub trace: Vec<Event>,
    /// The trees that recovery may find.
    pub history: History,
    /// (changes seen, record): from there on, this record was durable.
    pub durable: Vec<(usize, Lsn)>,
    /// (changes seen, record): from there on, this record was acknowledged.
    pub acknowledged: Vec<(usize, Lsn)>,
    /// (changes seen, step): from there on, this step of the workload ran.
    pub steps: Vec<(usize, usize)>,
    /// (changes seen, what the system is at): until the next of these.
    pub phases: Vec<(usize, Option<Window>)>,
}

impl Era {
    /// The record that must survive a power cut after `events` changes.
    pub fn durable_at(&self, events: usize) -> Lsn {
        latest(&self.durable, events).unwrap_or(Lsn(0))
    }
    /// The record that must survive a `kill -9` after `events` changes.
    pub fn acknowledged_at(&self, events: usize) -> Lsn {
        latest(&self.acknowledged, events).unwrap_or(Lsn(0))
    }
    /// Changes before this step of the workload (before the first: none).
    pub fn begins(&self, step: usize) -> usize {
        let mut begun = self.steps.iter().filter(|(_, number)| *number >= step);
        match (step, begun.next()) {
            (0, _) => 0,
            (_, Some((events, _))) => *events,
            (_, None) => self.trace.len(),
        }
    }
    /// Whether it was being mounted or unmounted after `events` changes.
    pub fn phase_at(&self, events: usize) -> Option<Window> {
        latest(&self.phases, events).flatten()
    }
}

fn latest<T: Copy>(notes: &[(usize, T)], events: usize) -> Option<T> {
    let count = notes.partition_point(|(at, _)| *at <= events);
    count.checked_sub(1).map(|last| notes[last].1)
}

/// How often a run looks at the whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looking {
    /// After every step.
    Always,
    /// At mounts only.
    Seldom,
}

/// A mounted file system, and who uses it.
struct Up {
    driver: Driver,
    mounted: Mounted,
}

/// A run under way.
pub struct World {
    setup: Setup,
    clock: Arc<StillClock>,
    host: Arc<Host>,
    /// `None` only while it goes down and up again.
    up: Option<Up>,
    model: Model,
    history: History,
    looking: Looking,
    now: Notes,
    eras: Vec<Era>,
    openings: u64,
    /// Steps that failed because the image was full.
    pub full: usize,
}

#[derive(Default)]
struct Notes {
    durable: Vec<(usize, Lsn)>,
    acknowledged: Vec<(usize, Lsn)>,
    steps: Vec<(usize, usize)>,
    phases: Vec<(usize, Option<Window>)>,
}

type Result<T> = std::result::Result<T, String>;

const DOWN: &str = "the file system is not mounted";

impl Up {
    fn new(mounted: Mounted) -> Self {
        Up {
            driver: Driver::new(mounted.fs.clone()),
            mounted,
        }
    }
}

impl World {
    /// Mounts an image.
    pub fn new(setup: &Setup, image: Pages, looking: Looking) -> Result<Self> {
        let clock = StillClock::new();
        let host = Host::new(Snapshot {
            image,
            files: BTreeMap::new(),
        });
        let mounted = system::mount(&host, setup, &clock, 0)?;
        let tree = walk(&mounted.fs).map_err(|e| format!("the fresh tree: {e}"))?;
        let phases = vec![(0, Some(Window::Mount)), (host.events(), None)];
        Ok(World {
            setup: setup.clone(),
            clock,
            host,
            up: Some(Up::new(mounted)),
            model: Model::of(&tree),
            history: History::starting(Lsn(0), Arc::new(tree)),
            looking,
            now: Notes {
                phases,
                ..Notes::default()
            },
            eras: Vec::new(),
            openings: 0,
            full: 0,
        })
    }

    /// Runs a whole workload; the error names the step.
    pub fn run(
        setup: &Setup,
        image: Pages,
        workload: &Workload,
        looking: Looking,
    ) -> Result<World> {
        let mut world = World::new(setup, image, looking)?;
        for (number, step) in workload.0.iter().enumerate() {
            world
                .step(number, step)
                .map_err(|what| format!("step {number} ({step}): {what}"))?;
        }
        Ok(world)
    }

    fn fs(&self) -> Result<&Fs> {
        Ok(&self.up.as_ref().ok_or(DOWN)?.mounted.fs)
    }

    fn close_all(&mut self) -> Result<()> {
        self.up
            .as_mut()
            .ok_or(DOWN)?
            .driver
            .close_all()
            .map_err(|e| e.to_string())
    }

    /// Unmounts; what is left on the disks, and the eras.
    pub fn finish(mut self) -> Result<(Snapshot, Vec<Era>)> {
        self.unmount()?;
        let left = self.host.kill();
        let notes = std::mem::take(&mut self.now);
        self.eras.push(era(&self.host, self.history, notes));
        Ok((left, self.eras))
    }

    /// Afterwards everything is home.
    fn unmount(&mut self) -> Result<()> {
        self.close_all()?;
        self.enter(Some(Window::Unmount));
        if let Some(up) = self.up.take() {
            system::unmount(up.mounted)?;
        }
        let (events, last) = (self.host.events(), self.history.last());
        self.now.durable.push((events, last));
        self.now.acknowledged.push((events, last));
        self.enter(None);
        Ok(())
    }

    fn enter(&mut self, phase: Option<Window>) {
        self.now.phases.push((self.host.events(), phase));
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Does a step and checks all that can be seen of it.
    pub fn step(&mut self, number: usize, step: &Step) -> Result<()> {
        self.now.steps.push((self.host.events(), number));
        match step {
            Step::Sleep { millis } => drop(self.clock.advance(*millis)),
            Step::Remount => self.remount()?,
            Step::Kill => self.kill()?,
            Step::Cut { seed } => self.cut(*seed)?,
            step => self.operate(step)?,
        }
        self.note()?;
        if self.looking == Looking::Always
            || matches!(step, Step::Remount | Step::Kill | Step::Cut { .. })
        {
            self.compare()?;
        }
        Ok(())
    }

    fn operate(&mut self, step: &Step) -> Result<()> {
        let now = self.clock.advance(1);
        let written = self.fs()?.journal().watermarks().written;
        let answer = self.up.as_mut().ok_or(DOWN)?.driver.step(step, now);
        let done = match &answer {
            Ok(answer) => answer.wrote,
            Err(Error::NoSpace) => {
                // How much fits is not for the model to know; but a refused
                // step must have changed nothing.
                self.full += 1;
                return Ok(());
            }
            Err(error) => {
                refusal(error).ok_or_else(|| format!("failed: {error}"))?;
                None
            }
        };
        let wanted = self.model.apply(&shortened(step, done), now);
        match (&wanted, &answer) {
            (Ok(()), Ok(answer)) => self.happened(step, answer.lsn)?,
            (Err(why), Err(error)) if *why == Refusal::Any || refusal(error) == Some(*why) => {}
            (wanted, answer) => {
                return Err(format!("should come to {wanted:?}, but came to {answer:?}"));
            }
        }
        if step.is_sync() && self.fs()?.journal().watermarks().durable < written {
            return Err(format!(
                "{step} returned, but record {written} is not durable"
            ));
        }
        Ok(())
    }

    /// Notes the tree after an operation under its Lsn.
    fn happened(&mut self, step: &Step, lsn: Option<Lsn>) -> Result<()> {
        let tree = self.model.tree();
        match (lsn, self.history.at(Lsn(u64::MAX))) {
            (Some(lsn), _) if lsn <= self.history.last() => Err(format!(
                "record {lsn} comes after record {}",
                self.history.last()
            )),
            (Some(lsn), _) => {
                self.history.push(lsn, step.verb(), Arc::new(tree));
                Ok(())
            }
            (None, Some(before)) => match before.difference(&tree) {
                Some(difference) => Err(format!("no record says that\n{difference}")),
                None => Ok(()),
            },
            (None, None) => Ok(()),
        }
    }

    fn note(&mut self) -> Result<()> {
        let (events, marks) = (self.host.events(), self.fs()?.journal().watermarks());
        if !(marks.installed <= marks.durable
            && marks.durable <= marks.written
            && marks.written <= marks.appended)
        {
            return Err(format!("the watermarks are out of order: {marks:?}"));
        }
        self.now.durable.push((events, marks.durable));
        self.now.acknowledged.push((events, self.history.last()));
        Ok(())
    }

    /// The file system shows the model's tree.
    fn compare(&self) -> Result<()> {
        let found = walk(self.fs()?).map_err(|e| format!("the tree cannot be read: {e}"))?;
        self.model
            .tree()
            .difference(&found)
            .map_or(Ok(()), |difference| {
                Err(format!("the tree differs:\n{difference}"))
            })
    }

    fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount_again()?;
        self.model.close_all();
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let last = self.mount_again()?;
        self.model.close_all();
        match self.history.last() {
            acknowledged if last < acknowledged => Err(format!(
                "recovered through record {last} only, but {acknowledged} was acknowledged"
            )),
            _ => Ok(()),
        }
    }

    /// Mounts the same disks again.
    fn mount_again(&mut self) -> Result<Lsn> {
        // What is still up dies with its memory; nothing is written.
        self.up = None;
        self.openings += 1;
        self.enter(Some(Window::Mount));
        let mounted = system::mount(&self.host, &self.setup, &self.clock, self.openings)?;
        let last = mounted.last;
        self.up = Some(Up::new(mounted));
        self.enter(None);
        Ok(last)
    }

    /// Cuts the power at some point of the era so far, and goes on from what
    /// recovery finds.
    fn cut(&mut self, seed: u32) -> Result<()> {
        let mut random = Random::new(u64::from(seed));
        let trace = self.host.trace();
        let at = trace.len() - random.below(trace.len().min(60) as u64 + 1) as usize;
        let mut frontier = Frontier::new(&self.host.start());
        trace[..at].iter().for_each(|event| frontier.pass(event));
        let (left, _) = frontier.crash(&Plan::random(frontier.pending(), random.bits()));
        let notes = std::mem::take(&mut self.now);
        let era = era(&self.host, self.history.clone(), notes);
        let floor = era.durable_at(at);
        self.eras.push(era);

        self.host = Host::new(left);
        self.now.durable.push((0, floor));
        let last = self.mount_again()?;
        if last < floor {
            return Err(format!(
                "recovered through record {last} only, but {floor} was durable"
            ));
        }
        self.history.cut(last);
        let tree: &Tree = self.history.at(last).ok_or("no tree is that old")?;
        self.model = Model::of(tree);
        Ok(())
    }
}

fn era(host: &Host, history: History, notes: Notes) -> Era {
    let Notes {
        durable,
        acknowledged,
        steps,
        phases,
    } = notes;
    Era {
        start: host.start(),
        trace: host.trace(),
        history,
        durable,
        acknowledged,
        steps,
        phases,
    }
}

/// The step that a short write came to.
pub(super) fn shortened(step: &Step, wrote: Option<usize>) -> Step {
    let mut step = step.clone();
    if let (Step::Write { len, .. } | Step::Append { len, .. }, Some(wrote)) = (&mut step, wrote) {
        *len = (*len).min(wrote as u32);
    }
    step
}

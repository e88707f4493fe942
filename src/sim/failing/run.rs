//! A run under a fault.

use std::sync::Arc;
use std::sync::mpsc::channel;

use super::super::clock::StillClock;
use super::super::drive::{Answer, Driver, refusal};
use super::super::history::History;
use super::super::model::{Model, Refusal};
use super::super::random::Random;
use super::super::step::{Step, Verbs};
use super::super::system::{self, Mounted};
use super::super::tree::{Node, Tree};
use super::super::walk::{node, walk};
use super::super::world::shortened;
use super::{Case, Counts, Doubt, Known, Result, Trial, host_of};
use crate::device::fault::{Armed, Fault};
use crate::device::volatile::Host;
use crate::fs::{Attr, Caller, Error, Fs};
use crate::units::{InodeNo, Lsn};

/// A mounted file system, and who uses it.
struct Up {
    driver: Driver,
    mounted: Mounted,
}

/// A run under a fault.
pub(super) struct Run<'a> {
    trial: &'a Trial,
    clock: Arc<StillClock>,
    host: Arc<Host>,
    /// `None` while it is down.
    up: Option<Up>,
    model: Model,
    known: Known,
    /// (changes seen, record): durable from there on.
    durable: Vec<(usize, Lsn)>,
    openings: u64,
    random: Random,
    counts: Counts,
}

impl<'a> Run<'a> {
    pub fn new(trial: &'a Trial, fault: &Fault) -> Self {
        let host = host_of(&trial.image);
        host.faults().arm(fault.clone());
        Run {
            trial,
            clock: StillClock::new(),
            host,
            up: None,
            model: Model::of(&trial.tree),
            known: Known {
                history: History::starting(Lsn(0), trial.tree.clone()),
                doubts: Vec::new(),
                floor: Lsn(0),
            },
            durable: vec![(0, Lsn(0))],
            openings: 0,
            random: Random::new(trial.seed ^ fault.after),
            counts: Counts::default(),
        }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }
    pub fn clock(&self) -> Arc<StillClock> {
        self.clock.clone()
    }
    pub fn known(&self) -> &Known {
        &self.known
    }
    pub fn durable(&self) -> &[(usize, Lsn)] {
        &self.durable
    }
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The whole run, the first mount and the last unmount included.
    pub fn all(mut self) -> Result<Self> {
        self.watched("the first mount", Self::mount)?;
        for (n, step) in self.trial.workload.0.iter().enumerate() {
            self.watched(&format!("step {n} ({step})"), |run| run.step(step))?;
        }
        self.watched("the last unmount", Self::unmount)?;
        if self.met() {
            self.counts.runs += 1;
            self.judge(0)?;
        }
        Ok(self)
    }

    fn fault(&self) -> Armed {
        self.host.faults().list().remove(0)
    }
    /// Whether the fault has come.
    fn met(&self) -> bool {
        self.fault().met > 0
    }
    /// Whether it has come for the last time.
    fn over(&self) -> bool {
        let Armed { fault, met, .. } = self.fault();
        met >= fault.times
    }

    /// Does one thing. If the fault comes in it, or a session ends or begins
    /// after it has come, the disks are judged.
    fn watched(&mut self, what: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let (met, openings) = (self.met(), self.openings);
        let from = self.host.events();
        let all = || {
            work(self)?;
            self.note();
            if self.met() && (!met || openings != self.openings) {
                self.look()?;
                self.judge(from)?;
            }
            Ok(())
        };
        all().map_err(|error: String| match self.fault().last {
            Some(last) => format!("{what}: {error}\n(failed: {last})"),
            None => format!("{what}: {error}"),
        })
    }

    fn note(&mut self) {
        // What is mounted for reading only makes nothing durable.
        let log = self
            .up
            .as_ref()
            .and_then(|up| up.mounted.fs.journal().log());
        if let Some(log) = log {
            let durable = log.watermarks().durable;
            self.durable.push((self.host.events(), durable));
        }
    }

    fn judge(&mut self, from: usize) -> Result<()> {
        let known = Known {
            floor: self.known.history.last(),
            ..self.known.clone()
        };
        let case = Case {
            setup: &self.trial.setup,
            host: &self.host,
            from,
            known: &known,
            durable: &self.durable,
        };
        self.counts.states += case.judge(&mut self.random)?;
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Sleep { millis } => drop(self.clock.advance(*millis)),
            Step::Remount => {
                self.unmount()?;
                self.mount()?;
            }
            Step::Kill | Step::Cut { .. } => self.mount()?,
            Step::Fsync => self.fsync()?,
            step => self.operate(step)?,
        }
        Ok(())
    }

    /// Mounts what the host has; whatever was up dies first. A mount that
    /// fails is tried again: the disk is healthy then.
    fn mount(&mut self) -> Result<()> {
        loop {
            self.up = None;
            self.openings += 1;
            let setup = &self.trial.setup;
            let over = self.over();
            match system::mount(&self.host, setup, &self.clock, self.openings) {
                Ok(mounted) => return self.came_up(mounted),
                Err(what) if !self.met() || over => return Err(what),
                Err(_) if !self.over() => return Ok(()),
                Err(_) => {}
            }
        }
    }

    fn came_up(&mut self, mounted: Mounted) -> Result<()> {
        let found = match walk(&mounted.fs).or_else(|_| walk(&mounted.fs)) {
            Ok(found) => found,
            Err(_) if self.met() && !self.over() => return Ok(()),
            Err(e) => return Err(format!("the tree cannot be read: {e}")),
        };
        self.known.floor = self.known.history.last();
        self.known.judge(mounted.last, &found)?;
        self.settle(mounted.last, &found);
        self.model = Model::of(&found);
        self.up = Some(Up {
            driver: Driver::new(mounted.fs.clone()),
            mounted,
        });
        Ok(())
    }

    /// What a mount finds ends the doubt: a record that the host's cache does
    /// not have is on no disk either; one that it has may still be lost.
    fn settle(&mut self, last: Lsn, found: &Tree) {
        let Known {
            history, doubts, ..
        } = &mut self.known;
        let before = history.at(last);
        if before.is_some_and(|before| before.difference(found).is_none()) {
            doubts.retain(|doubt| doubt.through < last);
            return;
        }
        history.push(last, Verbs::default(), Arc::new(found.clone()));
        for doubt in doubts {
            doubt.through = doubt.through.min(last);
        }
    }

    fn unmount(&mut self) -> Result<()> {
        let Some(mut up) = self.up.take() else {
            return Ok(());
        };
        self.openings += 1;
        let journal = up.mounted.fs.journal().clone();
        let unexcused = self.over() && journal.stopped().is_none();
        // What can't be released is an orphan: the next mount frees it.
        let closed = up.driver.close_all().map_err(|e| e.to_string());
        let unmounted = system::unmount(up.mounted);
        if unmounted.is_ok() && journal.log().is_some() {
            let last = self.known.history.last();
            self.durable.push((self.host.events(), last));
        }
        match closed.and(unmounted) {
            Err(what) if unexcused || !self.met() => Err(what),
            _ => Ok(()),
        }
    }

    /// An fsync that reports success is believed.
    fn fsync(&mut self) -> Result<()> {
        let Some(up) = &self.up else {
            return Ok(());
        };
        let journal = up.mounted.fs.journal().clone();
        let (wanted, (tell, told)) = (journal.watermarks().written, channel());
        journal.when_durable(wanted, Box::new(move |done| drop(tell.send(done))));
        let unexcused = self.over() && journal.stopped().is_none() && journal.log().is_some();
        let synced = journal.sync();
        let promised = synced.is_ok() || matches!(told.try_recv(), Ok(Ok(())));
        let durable = journal.watermarks().durable;
        match synced {
            Err(error) if unexcused || !self.met() => Err(format!("failed: {error}")),
            _ if promised && durable < wanted && journal.log().is_some() => Err(format!(
                "reported success, but record {wanted} is not durable ({durable} is)"
            )),
            _ => Ok(()),
        }
    }

    fn operate(&mut self, step: &Step) -> Result<()> {
        let now = self.clock.advance(1);
        let over = self.over();
        let Some(up) = &mut self.up else {
            return Ok(());
        };
        let journal = up.mounted.fs.journal().clone();
        let stopped = journal.stopped().is_some();
        // Once the fault is over, a file system that goes on fails nothing.
        let unexcused = over && journal.log().is_some();
        let answer = up.driver.step(step, now);
        let mut model = self.model.clone();
        if stopped {
            // What failed for good may be seen or not: whoever looks judges
            // that. But nothing changes any more.
            return match answer {
                Ok(Answer { lsn: Some(lsn), .. }) => Err(format!("has made record {lsn}")),
                _ => Ok(()),
            };
        }
        match &answer {
            Ok(done) => match model.apply(&shortened(step, done.wrote), now) {
                Ok(()) => {
                    self.model = model;
                    self.happened(done.lsn)
                }
                Err(why) => Err(format!("should be refused ({why:?})")),
            },
            // How much fits is not for the model to know.
            Err(Error::NoSpace) => Ok(()),
            Err(error) => match (refusal(error), model.apply(step, now)) {
                (Some(refused), Err(why)) if why == refused || why == Refusal::Any => Ok(()),
                (Some(refused), wanted) => Err(format!(
                    "should come to {wanted:?}, but came to {refused:?}"
                )),
                (None, _) if unexcused || !self.met() => Err(format!("failed: {error}")),
                (None, wanted) => {
                    if journal.stopped().is_some() && wanted.is_ok() {
                        self.known.doubts.push(Doubt {
                            after: self.known.history.last(),
                            through: Lsn(u64::MAX),
                            tree: Arc::new(model.tree()),
                        });
                    }
                    if matches!(step, Step::Release { .. }) {
                        // Nobody tries a release again.
                        self.model = model;
                    }
                    Ok(())
                }
            },
        }
    }

    /// Notes the tree after an operation under its Lsn.
    fn happened(&mut self, lsn: Option<Lsn>) -> Result<()> {
        let history = &mut self.known.history;
        let tree = self.model.tree();
        match (lsn, history.at(Lsn(u64::MAX))) {
            (Some(lsn), _) => history.push(lsn, Verbs::default(), Arc::new(tree)),
            (None, Some(before)) if before.difference(&tree).is_some() => {
                return Err("has changed the tree without a record".to_owned());
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// What is read is the model's, or an error (while there is a reason for one).
    fn look(&self) -> Result<()> {
        let Some(up) = &self.up else {
            return Ok(());
        };
        let fs = &up.mounted.fs;
        let now = self.model.tree();
        let doubts = self.known.doubts.iter();
        let open = doubts.filter(|doubt| doubt.through == Lsn(u64::MAX));
        let versions: Vec<&Tree> = open.map(|doubt| &*doubt.tree).chain([&now]).collect();
        match walk(fs) {
            Ok(found) => {
                let differs = versions.iter().map(|tree| tree.difference(&found));
                match differs.reduce(|one, other| one.and(other)).flatten() {
                    Some(difference) => Err(format!("the tree differs:\n{difference}")),
                    None => Ok(()),
                }
            }
            Err(error) if self.over() && fs.journal().stopped().is_none() => {
                Err(format!("the tree cannot be read: {error}"))
            }
            Err(_) => versions.iter().try_for_each(|tree| {
                let mut paths = tree.names.keys();
                paths.try_for_each(|path| look_at(fs, path, &versions))
            }),
        }
    }
}

/// One name, in a file system where others can't be read.
fn look_at(fs: &Fs, path: &[u8], versions: &[&Tree]) -> Result<()> {
    let found = match find(fs, path).and_then(|attr| node(fs, &attr)) {
        Ok(node) => Some(node),
        Err(Error::NotFound) => None,
        Err(_) => return Ok(()),
    };
    let is_known = versions.iter().any(|tree| {
        let known: Option<&Node> = tree.names.get(path).map(|number| &*tree.nodes[*number]);
        known == found.as_ref()
    });
    match is_known {
        true => Ok(()),
        false => Err(format!(
            "/{} is read as {found:?}",
            String::from_utf8_lossy(path)
        )),
    }
}

fn find(fs: &Fs, path: &[u8]) -> crate::fs::Result<Attr> {
    let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty());
    let mut at = InodeNo::ROOT;
    for name in names {
        let found = fs.lookup(&Caller::default(), at, name)?;
        fs.forget(found.inode, 1);
        at = found.inode;
    }
    fs.getattr(at)
}

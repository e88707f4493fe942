//! The law, on one state of the disks.
//!
//! Every state is recovered, compared with the model, and walked by the
//! witness as recovery left it. A state looked at closely is also checked
//! before recovery, recovered twice, unmounted, mounted again, and its
//! image handed to [`Foreign`] judges.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::clock::StillClock;
use super::history::History;
use super::seen::too_little;
use super::step::Verbs;
use super::system::{self, Setup};
use super::tree::Tree;
use super::walk::walk;
use crate::device::memory::Pages;
use crate::device::volatile::{Host, Snapshot};
use crate::fs::mount::Course;
use crate::log::Verdict;
use crate::units::Lsn;

/// What must be found.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub history: &'a History,
    /// The record that had to survive.
    pub floor: Lsn,
}

/// A system that came up again.
pub(super) struct Recovered {
    pub host: Arc<Host>,
    pub last: Lsn,
    nonce: u64,
    mounted: system::Mounted,
}

/// What sort of state recovery met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct Shape {
    pub course: Course,
    pub torn: bool,
    pub block_size: u32,
    /// Cuts during recovery that came before.
    pub depth: usize,
    /// Whether the image has an internal journal.
    pub internal_journal: bool,
    /// What had to be replayed.
    pub verbs: Verbs,
}

/// Judges that journalfs did not write.
pub trait Foreign: Sync {
    /// Whether a state of this shape should be brought to them.
    fn want(&self, shape: &Shape) -> bool;
    /// Judges an image that recovery and an unmount left; it must hold this tree.
    fn judge(&self, image: &Pages, tree: &Tree) -> Result<(), String>;
    /// The same, by those too who see only a sample.
    fn judge_thoroughly(&self, image: &Pages, tree: &Tree) -> Result<(), String> {
        self.judge(image, tree)
    }
}

/// All are asked about every state: slow, for what is known to fail.
pub struct Insistent<'a>(pub &'a dyn Foreign);

impl Foreign for Insistent<'_> {
    fn want(&self, _: &Shape) -> bool {
        true
    }
    fn judge(&self, image: &Pages, tree: &Tree) -> Result<(), String> {
        self.0.judge_thoroughly(image, tree)
    }
}

/// Nobody is asked.
pub struct NoForeign;

impl Foreign for NoForeign {
    fn want(&self, _: &Shape) -> bool {
        false
    }
    fn judge(&self, _: &Pages, _: &Tree) -> Result<(), String> {
        Ok(())
    }
}

/// Recovers what a cut left: it is a tree of the history, no older than what
/// had to survive, on a sound image.
pub(super) fn recover(
    setup: &Setup,
    left: &Snapshot,
    case: &Case<'_>,
    nonce: u64,
) -> Result<Recovered, String> {
    let host = Host::new(left.clone());
    let mounted = system::mount(&host, setup, &StillClock::afterwards(), nonce)?;
    let last = mounted.last;
    if last < case.floor {
        return Err(too_little(last, case.floor));
    }
    let found = walk(&mounted.fs)
        .map_err(|e| format!("recovered through {last}; the tree cannot be read: {e}"))?;
    let wanted = tree_at(case.history, last)?;
    if let Some(difference) = wanted.difference(&found) {
        return Err(format!(
            "recovered through {last}, but the tree differs:\n{difference}"
        ));
    }
    system::check_mounted(&mounted).map_err(|what| format!("recovered through {last}, {what}"))?;
    Ok(Recovered {
        host,
        last,
        nonce,
        mounted,
    })
}

fn tree_at(history: &History, last: Lsn) -> Result<&Arc<Tree>, String> {
    history
        .at(last)
        .ok_or_else(|| format!("recovered through {last}, before all history"))
}

impl Recovered {
    pub fn shape(&self, setup: &Setup, history: &History, adopted: bool, depth: usize) -> Shape {
        let report = self.mounted.report();
        Shape {
            course: self.mounted.course(),
            torn: !matches!(report.verdict, Verdict::Clean),
            block_size: setup.block_size,
            depth,
            internal_journal: adopted,
            verbs: history.verbs(report.home, self.last),
        }
    }
}

/// The rest of the law, for which the system goes down again.
pub(super) fn look_closely(
    setup: &Setup,
    left: &Snapshot,
    first: Recovered,
    case: &Case<'_>,
    foreign: Option<&dyn Foreign>,
) -> Result<(), String> {
    let mut history = case.history.clone();
    history.cut(first.last);
    let case = Case {
        history: &history,
        floor: first.last,
    };
    let Recovered {
        host,
        last,
        nonce,
        mounted,
    } = first;
    system::check(left).map_err(|what| format!("before recovery, {what}"))?;

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
    if let Some(foreign) = foreign {
        foreign.judge(&clean.image, tree_at(&history, last)?)?;
    }

    // `recover` twice leaves the same bytes as once.
    let host = Host::new(left.clone());
    let clock = StillClock::afterwards();
    system::recover(&host, setup, &clock, nonce.wrapping_add(3))?;
    let once = host.kill();
    system::check(&once).map_err(|what| format!("after journalfs recover, {what}"))?;
    system::recover(&host, setup, &clock, nonce.wrapping_add(4))?;
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

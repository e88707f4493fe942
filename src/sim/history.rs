//! What the tree was after each operation, by the operation's Lsn.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::step::Verbs;
use super::tree::Tree;
use crate::units::Lsn;

/// The tree after each operation, by Lsn.
#[derive(Clone, Default)]
pub struct History(Vec<Moment>);

#[derive(Clone)]
struct Moment {
    lsn: Lsn,
    verb: Verbs,
    tree: Arc<Tree>,
    digest: u64,
}

impl Moment {
    fn new(lsn: Lsn, verb: Verbs, tree: Arc<Tree>) -> Self {
        let mut hasher = DefaultHasher::new();
        tree.hash(&mut hasher);
        Moment {
            lsn,
            verb,
            tree,
            digest: hasher.finish(),
        }
    }
}

impl History {
    /// Begins with the tree before all operations above `lsn`.
    pub fn starting(lsn: Lsn, tree: Arc<Tree>) -> Self {
        History(vec![Moment::new(lsn, Verbs::default(), tree)])
    }

    /// Notes the tree after the operation `lsn`, which a step with this verb did.
    pub fn push(&mut self, lsn: Lsn, verb: Verbs, tree: Arc<Tree>) {
        self.0.push(Moment::new(lsn, verb, tree));
    }

    /// The tree after the last operation at or below `lsn`.
    pub fn at(&self, lsn: Lsn) -> Option<&Arc<Tree>> {
        let count = self.through(lsn);
        count.checked_sub(1).map(|last| &self.0[last].tree)
    }

    /// A hash of the tree that [`History::at`] answers.
    pub(super) fn digest(&self, lsn: Lsn) -> Option<u64> {
        let count = self.through(lsn);
        count.checked_sub(1).map(|last| self.0[last].digest)
    }

    /// The last operation's Lsn.
    pub fn last(&self) -> Lsn {
        self.0.last().map_or(Lsn(0), |moment| moment.lsn)
    }

    /// What was done by the operations above `after`, up to `last`.
    pub fn verbs(&self, after: Lsn, last: Lsn) -> Verbs {
        let (from, to) = (self.through(after), self.through(last));
        let done = self.0.get(from..to).unwrap_or_default().iter();
        done.fold(Verbs::default(), |all, moment| all.with(moment.verb))
    }

    /// Operations after `lsn` never happened.
    pub fn cut(&mut self, lsn: Lsn) {
        self.0.truncate(self.through(lsn));
    }

    fn through(&self, lsn: Lsn) -> usize {
        self.0.partition_point(|moment| moment.lsn <= lsn)
    }
}

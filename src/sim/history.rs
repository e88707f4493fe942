//! What the tree was after each operation, by the operation's Lsn.

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
}

impl History {
    /// Begins with the tree before all operations above `lsn`.
    pub fn starting(lsn: Lsn, tree: Arc<Tree>) -> Self {
        let verb = Verbs::default();
        History(vec![Moment { lsn, verb, tree }])
    }

    /// Notes the tree after the operation `lsn`, which a step with this verb did.
    pub fn push(&mut self, lsn: Lsn, verb: Verbs, tree: Arc<Tree>) {
        self.0.push(Moment { lsn, verb, tree });
    }

    /// The tree after the last operation at or below `lsn`.
    pub fn at(&self, lsn: Lsn) -> Option<&Arc<Tree>> {
        let count = self.through(lsn);
        count.checked_sub(1).map(|last| &self.0[last].tree)
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

//! What the tree was after each operation, by the operation's Lsn.

use std::sync::Arc;

use super::tree::Tree;
use crate::units::Lsn;

/// The tree after each operation, by Lsn.
#[derive(Clone, Default)]
pub struct History(Vec<(Lsn, Arc<Tree>)>);

impl History {
    /// Begins with the tree before all operations above `lsn`.
    pub fn starting(lsn: Lsn, tree: Arc<Tree>) -> Self {
        History(vec![(lsn, tree)])
    }

    /// Notes the tree after the operation `lsn`.
    pub fn push(&mut self, lsn: Lsn, tree: Arc<Tree>) {
        self.0.push((lsn, tree));
    }

    /// The tree after the last operation at or below `lsn`.
    pub fn at(&self, lsn: Lsn) -> Option<&Arc<Tree>> {
        let count = self.0.partition_point(|(at, _)| *at <= lsn);
        count.checked_sub(1).map(|last| &self.0[last].1)
    }

    /// The last operation's Lsn.
    pub fn last(&self) -> Lsn {
        self.0.last().map_or(Lsn(0), |(lsn, _)| *lsn)
    }

    /// Operations after `lsn` never happened.
    pub fn cut(&mut self, lsn: Lsn) {
        self.0.retain(|(at, _)| *at <= lsn);
    }
}

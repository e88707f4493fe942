//! Crash states that have been judged.
//!
//! What recovery makes of disks follows from their bytes alone. Disks that
//! are met again, at another point or in another run, need no recovery: what
//! the first one found is held against what has to be found this time.

use std::collections::HashMap;

use super::history::History;
use crate::units::Lsn;

/// What was found on disks, by the hash of their bytes.
#[derive(Default)]
pub struct Seen(HashMap<u64, Found>);

#[derive(Clone, Copy)]
struct Found {
    last: Lsn,
    digest: u64,
}

impl Seen {
    /// How many different disks.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Forgets them, for their memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Notes that these disks were recovered through `last`, to the tree that
    /// the history has there.
    pub(super) fn note(&mut self, disks: u64, last: Lsn, history: &History) {
        if let Some(digest) = history.digest(last) {
            self.0.insert(disks, Found { last, digest });
        }
    }

    /// Judges disks that were seen before; `None` if they were not. `floor`
    /// is the record that had to survive this time.
    pub(super) fn judge(
        &self,
        disks: u64,
        floor: Lsn,
        history: &History,
    ) -> Option<Result<(), String>> {
        let Found { last, digest } = *self.0.get(&disks)?;
        Some(match history.digest(last) {
            _ if last < floor => Err(too_little(last, floor)),
            Some(wanted) if wanted == digest => Ok(()),
            _ => Err(format!(
                "recovered through {last}, to a tree that another run has there, not this one"
            )),
        })
    }
}

/// Recovery kept less than had to survive.
pub(super) fn too_little(last: Lsn, floor: Lsn) -> String {
    format!("recovered through record {last} only, but {floor} had to survive")
}

#[cfg(test)]
mod tests {
    use super::super::step::Verbs;
    use super::super::tree::Tree;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn equal_disks_are_asked_for_all_that_each_point_promises() {
        let tree = Arc::new(Tree::root());
        let mut history = History::starting(Lsn(0), tree.clone());
        history.push(Lsn(3), Verbs::default(), tree.clone());
        let mut seen = Seen::default();
        assert!(seen.judge(7, Lsn(0), &history).is_none());
        seen.note(7, Lsn(3), &history);
        assert_eq!(seen.judge(7, Lsn(3), &history), Some(Ok(())));
        assert!(seen.judge(7, Lsn(4), &history).unwrap().is_err());
        let mut other = Tree::root();
        other.names.insert(b"a".to_vec(), 0);
        let other = History::starting(Lsn(0), Arc::new(other));
        assert!(seen.judge(7, Lsn(0), &other).unwrap().is_err());
    }
}

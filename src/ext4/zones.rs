//! The format's own blocks: superblocks and descriptors with their copies and
//! the room behind them, bitmaps and inode tables. (kernel: block_validity)
//!
//! No file may have them: a pointer there is damage, and whoever followed it
//! would write over all other files.

use std::sync::Arc;

use super::group::Group;
use super::superblock::Superblock;
use crate::units::{BlockNo, GroupNo};

/// Runs of the format's own blocks; by default none is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zones {
    /// First block and the one behind the last, ascending, apart.
    runs: Arc<[(u64, u64)]>,
}

impl Zones {
    /// Of all groups whose descriptors `group` can give.
    pub fn new(sb: &Superblock, mut group: impl FnMut(GroupNo) -> Option<Group>) -> Self {
        let mut all = Vec::new();
        for number in (0..sb.group_count()).map(GroupNo) {
            let mut add = |first: BlockNo, count: u32| {
                if count > 0 {
                    all.push((first.0, first.0.saturating_add(count.into())));
                }
            };
            add(sb.group_start(number), sb.base_blocks(number));
            if let Some(group) = group(number) {
                add(group.block_bitmap, 1);
                add(group.inode_bitmap, 1);
                add(group.inode_table, sb.inode_table_blocks());
            }
        }
        all.sort_unstable();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (first, end) in all {
            match runs.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => runs.push((first, end)),
            }
        }
        Zones { runs: runs.into() }
    }

    /// Whether any of `count` blocks is one of them.
    pub fn meet(&self, first: BlockNo, count: u64) -> bool {
        let end = first.0.saturating_add(count);
        let behind = self.runs.partition_point(|run| run.1 <= first.0);
        count > 0 && self.runs.get(behind).is_some_and(|run| run.0 < end)
    }

    /// Those among `count` blocks, as first block and number.
    pub fn within(&self, first: BlockNo, count: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let end = first.0.saturating_add(count);
        let behind = self.runs.partition_point(|run| run.1 <= first.0);
        let inside = self.runs[behind..]
            .iter()
            .take_while(move |run| run.0 < end);
        inside.map(move |run| {
            let from = run.0.max(first.0);
            (from, run.1.min(end) - from)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_met_at_their_edges_and_not_beside_them() {
        let zones = Zones {
            runs: [(10, 20), (30, 31)].into(),
        };
        let meets = |first, count| zones.meet(BlockNo(first), count);
        assert!(meets(10, 1) && meets(19, 1) && meets(0, 11) && meets(25, 6) && meets(0, 100));
        assert!(!meets(0, 10) && !meets(20, 10) && !meets(31, u64::MAX) && !meets(15, 0));
        let within: Vec<_> = zones.within(BlockNo(15), 100).collect();
        assert_eq!(within, [(15, 5), (30, 1)]);
    }
}

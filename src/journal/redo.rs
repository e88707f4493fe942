//! Redo: which bytes of which blocks an operation changed.
//!
//! Whole blocks would cost 20 KB for a file's creation; byte ranges cost a
//! few hundred bytes. The first change of a block after a checkpoint began
//! gives the whole block all the same, so that replay never builds on a home
//! block that a power cut may have torn.

use crate::units::BlockNo;

/// Gaps shorter than this are logged along: a range's own head costs as much.
const GAP: usize = 8;

/// One change of blocks. A record's redo is applied in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redo {
    /// The block becomes zeros.
    Zeros {
        /// Which block.
        block: BlockNo,
    },
    /// The block becomes these bytes.
    Image {
        /// Which block.
        block: BlockNo,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// Ranges of the block become these bytes.
    Edit {
        /// Which block.
        block: BlockNo,
        /// Offsets, ascending, and what stands there.
        ranges: Vec<(u16, Vec<u8>)>,
    },
    /// Whole blocks become the record's data.
    Put {
        /// The first block.
        first: BlockNo,
        /// How many.
        count: u32,
        /// Offset in the record's data.
        from: u32,
    },
    /// Part of a block becomes part of the record's data.
    Patch {
        /// Which block.
        block: BlockNo,
        /// Where in it.
        offset: u16,
        /// Offset in the record's data.
        from: u32,
        /// How many bytes.
        len: u32,
    },
    /// The blocks belong to nobody: what they hold is void.
    Free {
        /// The first block.
        first: BlockNo,
        /// How many.
        count: u64,
    },
}

impl Redo {
    /// The blocks that it touches.
    pub fn blocks(&self) -> (BlockNo, u64) {
        match self {
            Redo::Zeros { block }
            | Redo::Image { block, .. }
            | Redo::Edit { block, .. }
            | Redo::Patch { block, .. } => (*block, 1),
            Redo::Put { first, count, .. } => (*first, u64::from(*count)),
            Redo::Free { first, count } => (*first, *count),
        }
    }
}

/// The ranges in which `after` differs from `before`, which is as long, near
/// ones joined.
pub fn differences(before: &[u8], after: &[u8]) -> Vec<(u16, Vec<u8>)> {
    debug_assert_eq!(before.len(), after.len());
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while let Some(start) = next_difference(before, after, at) {
        let end = (start..after.len())
            .find(|&i| before[i] == after[i])
            .unwrap_or(after.len());
        match ranges.last_mut() {
            Some(last) if start - last.1 < GAP => last.1 = end,
            _ => ranges.push((start, end)),
        }
        at = end;
    }
    ranges
        .into_iter()
        .map(|(start, end)| (start as u16, after[start..end].to_vec()))
        .collect()
}

/// Most of a block is equal: compare in steps, then look closer.
fn next_difference(before: &[u8], after: &[u8], from: usize) -> Option<usize> {
    let closer = |at: usize| (at..after.len()).find(|&i| before[i] != after[i]);
    let (old, new) = (&before[from..], &after[from..]);
    let (old, new) = (old.as_chunks::<64>().0, new.as_chunks::<64>().0);
    let unequal = old.iter().zip(new).position(|(old, new)| differ(old, new));
    closer(from + unequal.unwrap_or(old.len()) * 64)
}

/// Without a branch for each word, so that it becomes vector instructions.
fn differ(old: &[u8; 64], new: &[u8; 64]) -> bool {
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    let (old, new) = (old.as_chunks().0, new.as_chunks().0);
    let pairs = old.iter().zip(new);
    pairs.fold(0, |all, (old, new)| all | (word(old) ^ word(new))) != 0
}

/// Bytes that an `Edit` with these ranges takes.
pub(super) fn edit_len(ranges: &[(u16, Vec<u8>)]) -> usize {
    11 + ranges
        .iter()
        .map(|(_, bytes)| 4 + bytes.len())
        .sum::<usize>()
}

/// The block as a whole: its image, or zeros and what is not zero in it,
/// whichever is shorter.
pub(super) fn whole(block: BlockNo, bytes: &[u8], into: &mut Vec<Redo>) {
    let ranges = differences(&vec![0; bytes.len()], bytes);
    if edit_len(&ranges) >= bytes.len() {
        into.push(Redo::Image {
            block,
            bytes: bytes.to_vec(),
        });
        return;
    }
    into.push(Redo::Zeros { block });
    if !ranges.is_empty() {
        into.push(Redo::Edit { block, ranges });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(before: &[u8], ranges: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = before.to_vec();
        for (offset, range) in ranges {
            bytes[*offset as usize..*offset as usize + range.len()].copy_from_slice(range);
        }
        bytes
    }

    proptest! {
        #[test]
        fn differences_turn_the_one_into_the_other(
            before in proptest::collection::vec(0u8..3, 1024),
            edits in proptest::collection::vec((0usize..1024, any::<u8>()), 0..40),
        ) {
            let mut after = before.clone();
            for (at, byte) in edits {
                after[at] = byte;
            }
            let ranges = differences(&before, &after);
            prop_assert_eq!(apply(&before, &ranges), after);
            prop_assert!(ranges.windows(2).all(|w| w[0].0 as usize + w[0].1.len() + GAP <= w[1].0 as usize));
        }
    }

    #[test]
    fn a_sparse_block_is_logged_as_zeros_and_what_stands_out() {
        let mut bytes = vec![0; 4096];
        bytes[100] = 1;
        bytes[4095] = 2;
        let mut redo = Vec::new();
        whole(BlockNo(9), &bytes, &mut redo);
        assert_eq!(
            redo,
            [
                Redo::Zeros { block: BlockNo(9) },
                Redo::Edit {
                    block: BlockNo(9),
                    ranges: vec![(100, vec![1]), (4095, vec![2])]
                }
            ]
        );
    }
}

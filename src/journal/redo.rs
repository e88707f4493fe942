//! Redo: which bytes of which blocks an operation changed.
//!
//! Whole blocks would cost 20 KB for a file's creation; byte ranges cost a
//! few hundred bytes. The first change of a block after a checkpoint began
//! gives the whole block all the same, so that replay never builds on a home
//! block that a power cut may have torn.

use crate::units::BlockNo;

/// Gaps shorter than this are logged along: a range's own head costs as much.
const GAP: usize = size_of::<u64>();
/// Bytes that are compared at once.
const STEP: usize = 256;

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
    let mut add = |start: usize, end: usize| match ranges.last_mut() {
        Some(last) if start - last.1 < GAP => last.1 = end,
        _ => ranges.push((start, end)),
    };
    // Most of a block is equal: compare in large steps, and look closer where
    // it is not. Equal bytes within a word are always too few for a gap.
    let (old, old_rest) = before.as_chunks::<STEP>();
    let (new, new_rest) = after.as_chunks::<STEP>();
    for (n, (old, new)) in old.iter().zip(new).enumerate() {
        if old == new {
            continue;
        }
        let words = old
            .as_chunks::<GAP>()
            .0
            .iter()
            .zip(new.as_chunks::<GAP>().0);
        for (word, (old, new)) in words.enumerate() {
            let unequal = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
            if unequal != 0 {
                let at = n * STEP + word * GAP;
                let (before, behind) = (unequal.trailing_zeros(), unequal.leading_zeros());
                add(at + before as usize / 8, at + GAP - behind as usize / 8);
            }
        }
    }
    let rest = after.len() - new_rest.len();
    for (n, (old, new)) in old_rest.iter().zip(new_rest).enumerate() {
        if old != new {
            add(rest + n, rest + n + 1);
        }
    }
    ranges
        .into_iter()
        .map(|(start, end)| (start as u16, after[start..end].to_vec()))
        .collect()
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

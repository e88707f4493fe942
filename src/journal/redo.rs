//! Redo: which bytes of which blocks an operation changed.
//!
//! Whole blocks would cost 20 KB for a file's creation; byte ranges cost a
//! few hundred bytes. The first change of a block after a checkpoint began
//! gives the whole block all the same, so that replay never builds on a home
//! block that a power cut may have torn.

use super::ranges::Ranges;
use crate::units::BlockNo;

/// Gaps shorter than this are logged along: a range's own head costs as much.
const GAP: usize = size_of::<u64>();
/// Bytes that are compared at once: first many, then few of those.
const STEP: usize = 256;
const SMALL: usize = 64;

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
        /// Where in it, ascending, and what stands there.
        ranges: Ranges,
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
pub fn differences(before: &[u8], after: &[u8]) -> Ranges {
    debug_assert_eq!(before.len(), after.len());
    let mut ranges: Vec<(usize, usize)> = Vec::with_capacity(8);
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
        let few = chunks::<SMALL>(old, new).enumerate();
        for (small, (old, new)) in few.filter(|(_, (old, new))| old != new) {
            for (word, (old, new)) in chunks::<GAP>(old, new).enumerate() {
                let unequal = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
                if unequal != 0 {
                    let at = n * STEP + small * SMALL + word * GAP;
                    let (before, behind) = (unequal.trailing_zeros(), unequal.leading_zeros());
                    add(at + before as usize / 8, at + GAP - behind as usize / 8);
                }
            }
        }
    }
    let rest = after.len() - new_rest.len();
    for (n, (old, new)) in old_rest.iter().zip(new_rest).enumerate() {
        if old != new {
            add(rest + n, rest + n + 1);
        }
    }
    let bytes = ranges.iter().map(|(start, end)| end - start).sum();
    let mut found = Ranges::with_capacity(ranges.len(), bytes);
    for (start, end) in ranges {
        found.push(start as u16, &after[start..end]);
    }
    found
}

/// Chunks of two as long pieces side by side.
fn chunks<'b, const LEN: usize>(
    old: &'b [u8],
    new: &'b [u8],
) -> impl Iterator<Item = (&'b [u8; LEN], &'b [u8; LEN])> {
    let (old, new) = (old.as_chunks::<LEN>().0, new.as_chunks::<LEN>().0);
    old.iter().zip(new)
}

/// Bytes that an `Edit` with these ranges takes.
pub(super) fn edit_len(ranges: &Ranges) -> usize {
    11 + 4 * ranges.len() + ranges.total()
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

    fn apply(before: &[u8], ranges: &Ranges) -> Vec<u8> {
        let mut bytes = before.to_vec();
        for (offset, range) in ranges.iter() {
            bytes[offset..offset + range.len()].copy_from_slice(range);
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
            let spans: Vec<_> = ranges.iter().map(|(at, range)| at..at + range.len()).collect();
            prop_assert!(spans.windows(2).all(|two| two[0].end + GAP <= two[1].start));
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
                    ranges: Ranges::from_iter([(100, [1]), (4095, [2])])
                }
            ]
        );
    }
}

//! What a block may have passed, so that its checksum is computed once
//! ([`crate::journal::Block::once`]) and not for each look.

/// Of what kind a block has been found to be whole.
#[derive(Clone, Copy)]
pub(super) enum Judgement {
    /// Group descriptors, all of them.
    Descriptors = 1,
    /// Directory entries,
    Leaf,
    /// the root of a directory's index,
    Root,
    /// and another block of it.
    Node,
    /// A node of an extent tree.
    Extents,
    /// A bitmap of blocks.
    BlockBitmap,
}

impl Judgement {
    /// With the seed of the checksum, which is the owner's, or a group's number.
    pub(super) fn mark(self, whose: u32) -> u64 {
        (self as u64) << 32 | u64::from(whose)
    }
}

//! What can be wrong with an image's bytes, said with the numbers.

use crate::units::{BlockNo, InodeNo};

/// Bytes that don't make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corrupt {
    /// The superblock's magic is missing.
    #[error("not an ext4 file system (magic {magic:#06x}, want 0xef53)")]
    NotExt4 {
        /// What stands at offset 0x38 of the superblock.
        magic: u16,
    },
    /// A stored checksum and the computed one differ.
    #[error("checksum of {what}: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        /// Which structure, with its number.
        what: String,
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A pointer leads outside the image, or to blocks that are the format's own.
    #[error("{what} refers to block {block}, which no file can have")]
    BlockOutside {
        /// Who refers.
        what: String,
        /// Where to.
        block: BlockNo,
    },
    /// An inode number outside the table.
    #[error("inode {inode} lies outside the inode tables")]
    InodeOutside {
        /// The number.
        inode: InodeNo,
    },
    /// A field has a value that the format does not allow.
    #[error("{what}: {field} is {value}")]
    Field {
        /// Which structure, with its number.
        what: String,
        /// The format's name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// One of the others, with its place.
    #[error("{what}{}", place(*inode, *block))]
    At {
        /// What is wrong.
        what: Box<Corrupt>,
        /// Whose bytes; 0: no inode's.
        inode: InodeNo,
        /// Where they lie; 0: in the inode itself.
        block: BlockNo,
    },
}

fn place(inode: InodeNo, block: BlockNo) -> String {
    match (inode.0, block.0) {
        (0, 0) => String::new(),
        (0, _) => format!(" (block {block})"),
        (_, 0) => format!(" (inode {inode})"),
        _ => format!(" (inode {inode}, block {block})"),
    }
}

impl Corrupt {
    /// The same with its place, unless that is told already.
    #[must_use]
    pub fn at(self, inode: InodeNo, block: BlockNo) -> Corrupt {
        match self {
            placed @ Corrupt::At { .. } => placed,
            what => Corrupt::At {
                what: Box::new(what),
                inode,
                block,
            },
        }
    }

    /// The inode concerned; 0: none.
    pub fn inode(&self) -> InodeNo {
        match self {
            Corrupt::InodeOutside { inode } | Corrupt::At { inode, .. } => *inode,
            _ => InodeNo(0),
        }
    }

    /// The block concerned; 0: none.
    pub fn block(&self) -> BlockNo {
        match self {
            Corrupt::BlockOutside { block, .. } | Corrupt::At { block, .. } => *block,
            _ => BlockNo(0),
        }
    }

    /// Whether it is a checksum that is wrong.
    pub fn is_checksum(&self) -> bool {
        match self {
            Corrupt::At { what, .. } => what.is_checksum(),
            other => matches!(other, Corrupt::Checksum { .. }),
        }
    }
}

/// Why an image can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its bytes are wrong.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// It uses what we don't know, by name.
    #[error("the image uses {0}, which journalfs does not support")]
    Unsupported(String),
}

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
    /// A pointer leads outside the image.
    #[error("{what} refers to block {block} outside the image")]
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

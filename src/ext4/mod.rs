//! The ext4 format: bytes to values and back, no I/O.
//!
//! Decoders take hostile bytes and answer a value or a [`Corrupt`]; they never
//! panic. Field names and offsets are the format's own (kernel documentation,
//! `Documentation/filesystems/ext4/`).

pub mod acl;
pub mod bitmap;
pub mod blockmap;
pub(crate) mod bytes;
pub mod checksum;
mod corrupt;
pub mod dirent;
pub mod extent;
pub mod fault;
pub mod features;
pub mod format;
pub mod group;
pub mod hash;
pub mod htree;
pub mod inode;
pub mod jbd2;
pub mod orphan;
pub mod superblock;
pub mod xattr;
pub mod zones;

pub use corrupt::{Corrupt, Unusable};
pub use superblock::Superblock;

#[cfg(test)]
mod tests;

//! The ext4 format: bytes to values and back, no I/O.
//!
//! Decoders take hostile bytes and answer a value or a [`Corrupt`]; they never
//! panic. Field names and offsets are the format's own (kernel documentation,
//! `Documentation/filesystems/ext4/`).

mod corrupt;
pub use corrupt::Corrupt;

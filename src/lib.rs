//! journalfs: an ext4-format image, mounted through FUSE, with every change
//! journaled before it is written home.
//!
//! Imports only go down:
//!
//! ```text
//! cli ──► fuse, sim ──► fs ──► journal ──► log ──► device
//!         past ───────► fs, history           (the file system as it was)
//!         check ─────────────► journal        (never fs: an independent witness)
//!         history ───────────► journal        (what records tell people)
//!         ext4: the format as pure bytes ↔ values, no I/O; used by fs, check, sim
//!         units: BlockNo, InodeNo, Lsn, …; anyone may use it
//!         sync: the locks of log and journal, for models to replace
//! ```
//!
//! `tests/layers.rs` reads the `use crate::` lines and fails on one that goes up.

pub mod check;
pub mod cli;
pub mod device;
pub mod ext4;
pub mod fs;
pub mod fuse;
pub mod history;
pub mod journal;
pub mod log;
pub mod past;
pub mod sim;
mod sync;
pub mod units;

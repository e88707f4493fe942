//! The law of crash consistency, in short bounded runs. `scripts/crash` runs
//! for longer. `JOURNALFS_SEED` and `JOURNALFS_ROUNDS` choose other runs.

#[path = "law/lockstep.rs"]
mod lockstep;
#[path = "law/log.rs"]
mod log;
mod support;

//! The law of crash consistency, in short bounded runs. `scripts/crash` runs
//! for longer.

#[path = "law/log.rs"]
mod log;

//! The law of crash consistency, in short bounded runs. `scripts/crash` runs
//! for longer. `JOURNALFS_SEED` and `JOURNALFS_ROUNDS` choose other runs.

#[path = "law/cuts.rs"]
mod cuts;
#[path = "law/discard.rs"]
mod discard;
#[path = "law/failing.rs"]
mod failing;
#[path = "law/foreign.rs"]
mod foreign;
#[path = "law/found.rs"]
mod found;
#[path = "law/jbd2.rs"]
mod jbd2;
#[path = "law/judges.rs"]
mod judges;
#[path = "law/lockstep.rs"]
mod lockstep;
#[path = "law/log.rs"]
mod log;
#[path = "law/rot.rs"]
mod rot;
mod support;

/// The seed in `JOURNALFS_SEED`, and as many from there on as
/// `JOURNALFS_ROUNDS` says.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let first = number("JOURNALFS_SEED").unwrap_or(1);
    first..first.saturating_add(number("JOURNALFS_ROUNDS").unwrap_or(usual))
}

//! The file system as it was: every state that image and journal can make is
//! the model's, and restored it is an image that e2fsck is content with.
//! `JOURNALFS_SEED` and `JOURNALFS_ROUNDS` choose other runs.

#[path = "past/archive.rs"]
mod archive;
#[path = "past/states.rs"]
mod states;
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

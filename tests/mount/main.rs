//! The daemon and its command line, on real mounts.
//!
//! Everything cleans up when a test fails: mounts are taken away, daemons
//! that a test started are killed by their own number, folders are temporary.
//! Without /dev/fuse the tests say so and skip.

#[path = "../support/mod.rs"]
mod support;

mod alike;
mod archive;
mod crew;
mod cut;
mod daemon;
mod damage;
mod discard;
mod fstab;
mod history;
mod host;
mod image;
mod journal;
mod kill;
mod model;
mod modes;
mod own;
mod past;
mod powercut;
mod requests;
mod semantics;
mod soak;
mod sync;
mod tour;
mod transport;
mod user;
mod wrong;

/// Skips a test, with a reason, where mounting can't work.
#[macro_export]
macro_rules! needs_fuse {
    () => {
        if !std::path::Path::new("/dev/fuse").exists() {
            eprintln!("skipped: /dev/fuse is missing");
            return;
        }
    };
}

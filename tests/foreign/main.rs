//! Images that others made and left, in whatever state: we must see what the
//! kernel sees, and leave what it and e2fsck are content with. Most of it
//! needs the kernel's ext4, hence root.

#[path = "../support/mod.rs"]
mod support;

mod churn;
mod dirty;
mod forged;
mod grown;
mod inherited;
mod refused;
mod shared;

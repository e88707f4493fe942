//! What all integration tests share: makers of images and the judges that
//! journalfs did not write.
//!
//! A test binary says `mod support;` and takes what it needs. Few binaries,
//! each one subject (`images`, `witness`, `mount`, `law`, …): linking costs
//! more than running. Everything here cleans up in `Drop`, also when a test
//! fails; whatever needs root or a tool that is missing prints why it is
//! skipped and answers `None`.
//!
//! ```ignore
//! let image = support::images::DEBIAN.make(64 << 20);         // mkfs.ext4 in a temporary file
//! support::e2fsck::assert_clean(image.path());                // e2fsck -fn
//! let mount = support::kernel::Mount::read_only(image.path()); // loop mount, None when not root
//! let seen = support::tree::Tree::of(mount.path());           // everything that the law compares
//! seen.assert_same("kernel", &shown, "journalfs");
//! let mut random = support::random::Seeded::new("name");      // JOURNALFS_SEED re-runs
//! ```
#![allow(dead_code)] // no binary uses all of it

pub mod bench;
pub mod e2fsck;
pub mod fill;
pub mod images;
pub mod kernel;
pub mod random;
pub mod tree;
pub mod view;

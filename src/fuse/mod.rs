//! The file system on a mount.
//!
//! ```text
//!   kernel ─► adapter (fuser) ─► core ─► fs
//!   kernel ◄─ reply (errno)   ◄─ request::Answer, now or later
//! ```
//! [`core`] knows no transport and `adapter` takes no decisions, so that
//! another transport can stand beside fuser. [`session`] is one mount from
//! its INIT to its end; [`point`] is what the host knows of mountpoints.

mod adapter;
mod answer;
pub mod core;
pub mod meter;
mod negotiate;
pub mod point;
mod processes;
mod reply;
pub mod request;
pub mod session;
pub mod tap;

pub use self::core::Core;
pub use session::{MountOptions, Session};

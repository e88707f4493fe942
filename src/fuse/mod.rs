//! The file system on a mount.
//!
//! ```text
//!   kernel ─► adapter (fuser) ─┬─► core ─► fs
//!          ─► ring ─► wire ────┘    │
//!          ◄─ reply, or wire and ring ◄─ request::Answer, now or later
//! ```
//! [`core`] knows no transport and the transports take no decisions: `adapter`
//! has requests from fuser, `ring` over io_uring where the kernel offers that;
//! [`transport`] mounts and chooses. [`session`] is one mount from its INIT to
//! its end; [`point`] is what the host knows of mountpoints.

mod adapter;
mod answer;
pub mod core;
mod fsxattr;
pub mod meter;
mod negotiate;
pub mod point;
pub mod processes;
mod processor;
mod readers;
mod reply;
pub mod request;
mod ring;
pub mod service;
pub mod session;
pub mod tap;
pub mod transport;
mod wire;

pub use self::core::Core;
pub use session::Session;
pub use transport::MountOptions;

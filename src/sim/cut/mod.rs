//! Power cuts for the users of a mount.
//!
//! journalfs keeps the order of operations, so a cut of its own device (the
//! *prefix* model) hides bugs that bite elsewhere. Two weaker models keep a
//! legal subset of the operations that were not synced and do those again, by
//! their logical headers, on the state at the mount:
//!
//! ```text
//!   mount ── op ── op ── fsync ── op ── op ── cut
//!     │      └──── the ledger ─────────────┘   │ legal: which must be there,
//!     └── the image as it was ─────────────────┘        which may be
//!                                               again: those, done on it
//! ```
//! [`Model`] says what each of them promises.

mod again;
mod ledger;
mod legal;
mod loss;
mod rig;
#[cfg(test)]
mod tests;
mod trigger;

pub use again::{Again, Outcome};
pub use ledger::{Entry, Ledger, Synced, paths};
pub use legal::{Choice, Keep, Model, Order, Part, choose, required};
pub use loss::{Loss, Lost};
pub use rig::Rig;
pub use trigger::{Pattern, When};

//! What a journal tells people: every operation with the full path that it
//! acted on, who asked for it, and whether it was durable.
//!
//! Nothing but the records is needed for that, neither the image nor a mount:
//! each segment tells the paths and programs that its records name by number.

pub mod audit;
pub mod chart;
pub mod chronicle;
mod event;
mod fragment;
mod point;
pub mod shown;
mod teller;
pub mod totals;

pub use event::Event;
pub use point::{Point, PointError, parse_age};
pub use teller::{Asked, Teller, Untold};
pub use totals::Totals;

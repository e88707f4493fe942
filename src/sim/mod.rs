//! Simulation: the law of crash consistency, tried.
//!
//! A seeded [`Workload`] runs through the real file system over disks whose
//! power can be cut; a reference [`Model`] says what must be found afterwards.

pub mod clock;
pub mod cut;
pub mod drive;
pub mod explore;
pub mod history;
pub mod model;
pub mod random;
pub mod round;
pub mod shrink;
pub mod step;
pub mod system;
pub mod tree;
pub mod walk;
pub mod workload;
pub mod world;

pub use explore::Counts;
pub use history::History;
pub use model::{Model, Refusal};
pub use round::{Failure, Report, Round};
pub use step::Step;
pub use tree::{Node, Tree};
pub use workload::{Mix, Workload};

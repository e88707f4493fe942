//! Simulation: the law of crash consistency, tried.
//!
//! A seeded [`Workload`] runs through the real file system over disks whose
//! power can be cut; a reference [`Model`] says what must be found afterwards.

pub mod clock;
pub mod model;
pub mod random;
pub mod step;
pub mod tree;
pub mod workload;

pub use model::{History, Model, Refusal};
pub use step::Step;
pub use tree::{Node, Tree};
pub use workload::{Mix, Workload};

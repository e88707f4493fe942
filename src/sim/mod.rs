//! Simulation: the law of crash consistency, tried.
//!
//! A [`Workload`] (seeded, or one of the bounded exhaustive [`sequence`]s)
//! runs through the real file system over disks whose power can be cut; a
//! reference [`Model`] says what must be found afterwards.
//!
//! ```text
//!     round ──► world: workload on file system and model ──► eras (what was written, what must survive)
//!       │                                                     │
//!       │      explore: every point × strategy × depth ◄──────┘
//!       ▼          │
//!     report ◄── law: recover, compare, check, foreign judges
//! ```

pub mod clock;
pub mod counts;
pub mod cut;
pub mod drive;
pub mod explore;
pub mod failing;
pub mod history;
pub mod law;
pub mod making;
pub mod model;
pub mod random;
pub mod report;
pub mod round;
pub mod seen;
pub mod sequence;
pub mod shrink;
pub mod step;
pub mod strategy;
pub mod system;
pub mod tree;
pub mod walk;
pub mod window;
pub mod workload;
pub mod world;

pub use counts::Counts;
pub use history::History;
pub use model::{Model, Refusal};
pub use report::Report;
pub use round::{Failure, Round};
pub use seen::Seen;
pub use step::Step;
pub use tree::{Node, Tree};
pub use workload::{Mix, Workload};

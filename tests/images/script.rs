//! The parts of the script: each takes a fresh file system and leaves it
//! changed. What it reads back is compared with what it wrote.

mod attributes;
mod files;
mod names;
mod space;

pub use attributes::*;
pub use files::*;
pub use names::*;
pub use space::*;

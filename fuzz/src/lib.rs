//! What the fuzz targets do. The forgers are those of `tests/hostile`, and
//! `cargo test --test hostile corpus` does the same with the corpus.

#![allow(dead_code)] // of the tests' support only a part is needed

#[path = "../../tests/hostile/archives.rs"]
mod archives;
#[path = "../../tests/hostile/exercise.rs"]
mod exercise;
#[path = "../../tests/hostile/forge.rs"]
mod forge;
#[path = "../../tests/hostile/journals.rs"]
mod journals;
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../../tests/hostile/targets.rs"]
pub mod targets;

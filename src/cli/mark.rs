//! `journalfs mark`.

use std::path::PathBuf;

use super::control::{Mount, Request};
use super::{Failure, Outcome};

/// Puts a named point into the log of a mount, and says its record's number.
#[derive(clap::Args)]
pub struct Args {
    /// Where it is mounted
    dir: PathBuf,
    /// 1 to 255 bytes
    name: String,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let name = args.name.clone();
    let lsn: u64 = Mount::find(&args.dir)?.ask(&Request::Mark { name })?;
    say!("{lsn}");
    Ok::<u8, Failure>(0)
}

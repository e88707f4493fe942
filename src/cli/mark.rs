//! `journalfs mark`.

use std::path::PathBuf;

use crate::history::Point;

use super::control::{Mount, Request};
use super::{Failure, Outcome};

/// Puts a named point into the log of a mount, and says its record's number.
#[derive(clap::Args)]
pub struct Args {
    /// Where it is mounted
    dir: PathBuf,
    /// 1 to 255 bytes, that are no number, time or age
    name: String,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    if !matches!(args.name.parse(), Ok(Point::Mark(_))) {
        return Err(Failure::usage(format!(
            "{}: where a mark is asked for, that would be taken for a number, a time or an age: choose another name",
            args.name
        )));
    }
    let name = args.name.clone();
    let lsn: u64 = Mount::find(&args.dir)?.ask(&Request::Mark { name })?;
    say!("{lsn}");
    Ok::<u8, Failure>(0)
}

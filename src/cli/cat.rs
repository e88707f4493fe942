//! `journalfs cat`: a file as it was.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::history::Point;
use crate::past::Taken;

use super::output::cant_make;
use super::paper::quietly;
use super::span::Asked;
use super::{Failure, Outcome, at};

/// Prints a file as it was at a point in time; with --to it gives back the
/// file, or a directory with all in it, with modes, times and attributes.
#[derive(clap::Args)]
pub struct Args {
    /// A record's number, a time (RFC 3339, or local), an age (-5m), or a mark's name
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    at: Point,
    /// Write it there, which must not exist, instead of printing it
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    asked: Asked,
    /// The file's path in the image, from its root
    path: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let found = args.asked.find()?;
    let instant = found.at(&args.at)?;
    found.say_damaged();
    let taken = Taken::find(&instant, args.path.as_os_str().as_encoded_bytes()).map_err(|e| {
        found.cant(format!(
            "{}: {e} after record {}",
            args.path.display(),
            instant.at()
        ))
    })?;
    give(&taken, args.to.as_deref(), &args.path)?;
    Ok(0)
}

/// To a file of the host, or to standard output.
pub fn give(
    taken: &Taken,
    to: Option<&std::path::Path>,
    path: &std::path::Path,
) -> Result<(), Failure> {
    match to {
        Some(to) if to.symlink_metadata().is_ok() => Err(Failure::refused(at(
            to,
            "exists already: name another file",
        ))),
        Some(to) => taken.copy_to(to).map_err(|e| match e.raw_os_error() {
            Some(_) => cant_make(to, &e),
            None => Failure::unchecked(at(path, e)),
        }),
        None if taken.is_file() => {
            let mut out = io::stdout().lock();
            let written = taken.print(&mut out).and_then(|()| out.flush());
            // (An error of the host has its number; one without is the image's.)
            quietly(written).map_err(|e| match e.raw_os_error() {
                Some(_) => Failure::system(format!("standard output: {e}")),
                None => Failure::unchecked(at(path, e)),
            })
        }
        None => Err(Failure::usage(at(
            path,
            "is not a regular file: give it a place with --to",
        ))),
    }
}

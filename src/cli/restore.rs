//! `journalfs restore`: the image as it was, as an image of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::check;
use crate::device::host::HostDisk;
use crate::history::Point;
use crate::past::{self, Instant};

use super::log::line;
use super::output::{cant_make, refuse_source};
use super::progress::Progress;
use super::span::{Asked, Found};
use super::{Failure, Outcome, at, check as checking};

/// Makes an image as it was at a point in time: an ordinary, clean ext4 file
/// system. The image, its journal and its archive stay as they are; it may be
/// mounted meanwhile.
///
/// Exit codes: 0 made, 8 the state can't be made, 32 OUT can't be written; with
/// --verify those of check.
#[derive(clap::Args)]
pub struct Args {
    /// A record's number, a time (RFC 3339, or local), an age (-5m), or a mark's name
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    at: Point,
    /// The image to make; it must not exist
    #[arg(long, value_name = "OUT")]
    to: PathBuf,
    /// Replace OUT
    #[arg(long)]
    force: bool,
    /// Check the image that was made, as journalfs check does
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    asked: Asked,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    match args.to.symlink_metadata() {
        // It would be replaced, and not written to.
        Ok(there) if !there.is_file() => {
            return Err(Failure::refused(at(
                &args.to,
                "is no regular file: name another",
            )));
        }
        Ok(_) if !args.force => {
            return Err(Failure::refused(at(
                &args.to,
                "exists already: name another file, or replace it with --force",
            )));
        }
        _ => {}
    }
    let found = args.asked.find()?;
    let instant = found.at(&args.at)?;
    found.say_damaged();
    let (name, chosen) = (Some(&*found.name), &args.asked.chosen);
    refuse_source(&args.to, name, &found.journal, chosen)?;
    let progress = Progress::of("restoring");
    write(&found, &instant, &args.to)?;
    drop(progress);
    say!("{}: {}", args.to.display(), text(&found, &instant));
    match args.verify {
        false => Ok(0),
        true => {
            let report = check::check_host(&args.to, Path::new("/nonexistent"));
            checking::print_image(&args.to, &report);
            Ok(report.exit_code())
        }
    }
}

fn text(found: &Found, instant: &Instant) -> String {
    let time = found.survey().frame(instant.at()).map(|frame| frame.time);
    let time = time.map(|time| format!(" ({})", line::utc(time)));
    format!(
        "{} as it was after record {}{}",
        found.name.display(),
        instant.at(),
        time.unwrap_or_default()
    )
}

/// Under another name until it is whole, so that OUT is never half an image.
fn write(found: &Found, instant: &Instant, out: &Path) -> Result<(), Failure> {
    let refused = |e: std::io::Error| Failure::refused(at(out, e));
    let name = out
        .file_name()
        .ok_or_else(|| Failure::usage(at(out, "names no file")))?;
    let mut part = name.to_owned();
    part.push(format!(".part-{}", std::process::id()));
    let part = out.with_file_name(part);
    let disk = HostDisk::create(&part, 0).map_err(|e| cant_make(out, &e))?;
    let made = past::restore(instant, Arc::new(disk), &mut |_| {})
        .map_err(|e| found.cant(e))
        .and_then(|()| fs::rename(&part, out).map_err(refused));
    if made.is_err() {
        let _ = fs::remove_file(&part);
    }
    made?;
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(refused)?;
    folder.sync_all().map_err(refused)
}

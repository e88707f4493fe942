//! `journalfs check`.

use std::path::{Path, PathBuf};

use crate::check;

use super::place::Place;
use super::progress::Progress;
use super::{Failure, Outcome, at};

/// Reads every frame of the journal and walks the image; changes nothing. An
/// image that lags behind its journal is judged as recovery would leave it.
///
/// Exit codes are those of fsck(8): 0 clean, 4 errors found, 8 could not check,
/// 16 wrong arguments.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object with stable keys
    #[arg(long)]
    json: bool,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// The image
    image: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let unchecked = |failure: Failure| Failure::unchecked(failure.line);
    let place = Place::find(&args.image, args.journal.as_deref()).map_err(unchecked)?;
    if place
        .is_in_use()
        .map_err(|e| Failure::unchecked(at(&place.image, e)))?
    {
        return Err(Failure::unchecked(at(
            &place.image,
            "is in use: unmount it first (journalfs umount DIR)",
        )));
    }
    let progress = Progress::of("checking");
    let report = check::check_host(&place.image, &place.journal);
    drop(progress);
    match args.json {
        true => say!(
            "{}",
            serde_json::to_string(&report).map_err(Failure::unchecked)?
        ),
        false => print_text(&place, &report),
    }
    Ok(report.exit_code())
}

/// What was found in an image.
pub fn print_image(image: &Path, report: &check::Report) {
    let image = image.display();
    for finding in &report.findings {
        say!("{image}: {finding}");
    }
    if report.suppressed > 0 {
        say!("{image}: and {} findings more", report.suppressed);
    }
    let counts = &report.counts;
    let verdict = match report.verdict() {
        check::Verdict::Clean => "clean",
        check::Verdict::Errors => "errors",
        check::Verdict::Unchecked => "could not be checked",
    };
    say!(
        "{image}: {verdict}: {}/{} inodes, {}/{} blocks of {} bytes, {} directories",
        counts.inodes_used,
        counts.inodes,
        counts.blocks_used,
        counts.blocks,
        counts.block_size,
        counts.directories,
    );
}

fn print_text(place: &Place, report: &check::Report) {
    print_image(&place.image, report);
    if let Some(journal) = &report.journal {
        say!(
            "{}: {}: {} frames in {} segments, records to {}, durable to {}, in the image to {}",
            place.journal.display(),
            journal.verdict,
            journal.frames,
            journal.segments,
            journal.last,
            journal.durable,
            journal.installed,
        );
    }
}

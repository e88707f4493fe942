//! `journalfs recover`: what a mount does first, without mounting.

use std::path::PathBuf;

use super::Outcome;
use super::open;
use super::place::Place;
use super::progress::Progress;
use super::runtime::Runtime;

/// Replays the journal without mounting: afterwards the image is an ordinary
/// ext4 file system.
#[derive(clap::Args)]
pub struct Args {
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// The image
    image: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let place = Place::find(&args.image, args.journal.as_deref())?;
    let progress = Progress::of("recovering");
    let recovery = open::recover(&place);
    drop(progress);
    let recovery = recovery?;
    say!("{}: {}", place.image.display(), recovery.text());
    if place.journal.exists() {
        Runtime {
            image: place.image.clone(),
            recovery: Some(recovery),
            ..Runtime::default()
        }
        .write(&place.journal);
    }
    Ok(0)
}

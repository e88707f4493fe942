//! `journalfs detach`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::device::Disk;
use crate::device::host::HostDir;
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::fs::guard::{self, Standing};
use crate::journal::{self, Flaw, Journal};
use crate::log;

use super::place::Place;
use super::{Failure, Outcome, at, open};

/// Gives up the journal deliberately: clears the image's guard. What the
/// image lacks is lost; run e2fsck -f on it afterwards.
#[derive(clap::Args)]
pub struct Args {
    /// The image
    image: PathBuf,
}

/// A journal of a later release may hold what this one knows nothing of.
fn refuse_newer(place: &Place) -> Result<(), Failure> {
    let opened = HostDir::open(&place.journal).map(|dir| Journal::open(Arc::new(dir)));
    use journal::Error::{Corrupt, Log};
    match opened {
        Ok(Err(
            error @ (Log(log::Error::Version { .. })
            | Corrupt {
                why: Flaw::Version { .. },
                ..
            }),
        )) => Err(Failure::refused(at(
            &place.journal,
            format!("{error}; to give it up all the same, move the folder away"),
        ))),
        _ => Ok(()),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let place = Place::find(&args.image, None)?;
    let (_lock, disk) = place.seize_image()?;
    let failed = |e: std::io::Error| Failure::refused(at(&place.image, e));
    let Standing::Guarded(_) = open::standing(&place, &disk)? else {
        return Err(Failure::refused(at(
            &place.image,
            "carries no guard: there is nothing to detach",
        )));
    };
    refuse_newer(&place)?;
    let mut raw = [0; SIZE];
    disk.read_at(&mut raw, OFFSET).map_err(failed)?;
    disk.write_at(&guard::give_up(&raw), OFFSET)
        .map_err(failed)?;
    disk.sync().map_err(failed)?;
    say!(
        "{}: detached from its journal: run e2fsck -f on it now",
        place.image.display()
    );
    Ok(0)
}

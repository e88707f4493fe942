//! `journalfs export`: what an image lacks, for machines without journalfs.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::device::host::HostDisk;
use crate::fs::mount;

use super::output::cant_make;
use super::place::Place;
use super::{Failure, Outcome, at};

/// Writes what an image lacks into an external journal of ext4, so that
/// e2fsck -j finishes the recovery on a machine without journalfs. Give it a
/// copy of the image: if that has an internal journal, its superblock is made
/// to name the new one. The journal's folder is only read. Exit codes: 0
/// written, 32 refused.
#[derive(clap::Args)]
pub struct Args {
    /// The external journal to make; there must be no such file yet
    #[arg(long, value_name = "OUT")]
    jbd2: PathBuf,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// A copy of the image, not mounted
    #[arg(value_name = "COPY")]
    image: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let place = Place::find(&args.image, args.journal.as_deref())?;
    must_be_writable(&args.image)?;
    let refused = |error: mount::Error| place.refused(&error);
    let opened = mount::open_host_copy(&place.image, &place.journal).map_err(refused)?;
    if !opened.is_guarded() {
        return Err(refused(mount::Error::LacksNothing));
    }
    let out = HostDisk::create(&args.jbd2, 0).map_err(|e| cant_make(&args.jbd2, &e))?;
    let done = opened.export(&out).map_err(refused).and_then(|exported| {
        sync_name(&args.jbd2).map_err(|e| Failure::refused(at(&args.jbd2, e)))?;
        Ok(exported)
    });
    let exported = done.inspect_err(|_| {
        let _ = std::fs::remove_file(&args.jbd2);
    })?;
    let (out, copy) = (args.jbd2.display(), args.image.display());
    say!(
        "{out}: {} blocks, all that {copy} lacks up to record {}",
        exported.blocks,
        exported.last
    );
    if exported.pointed {
        say!("{copy}: its superblock names that journal now");
    }
    say!("Take both to the other machine, and there:");
    say!("  e2fsck -f -y -j {out} {copy}");
    say!("  # nothing else: it takes has_journal, or the journal's UUID, off again by itself");
    say!("Afterwards {copy} is an ordinary ext4 image, and {out} is of no more use.");
    Ok(0)
}

/// The copy is changed: by us if it has a journal of its own, by e2fsck in any case.
fn must_be_writable(image: &Path) -> Result<(), Failure> {
    match File::options().write(true).open(image) {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::refused(at(
            image,
            format!("can't be written ({e}): give a copy of it, as by cp --sparse=always"),
        ))),
    }
}

fn sync_name(path: &Path) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

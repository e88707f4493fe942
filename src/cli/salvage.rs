//! `journalfs salvage`: goes on without the damaged end of a journal.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::check::{self, Severity};
use crate::device::host::{Access, HostDisk};
use crate::fs::mount;
use crate::log::Verdict;
use crate::units::{Clock as _, HostClock, Lsn};

use super::archiving::Archiving;
use super::place::Place;
use super::runtime::{Recovery, Runtime};
use super::source::Source;
use super::{Failure, Outcome, at, open};

/// Cuts a corrupt journal behind a record and recovers with what is before
/// it. What is cut had been durable: this loses it, deliberately. A copy of
/// the whole journal is made beside it first. Exit codes: 0 recovered, 4
/// recovered but the image needs e2fsck, 32 refused.
#[derive(clap::Args)]
pub struct Args {
    /// The last record to keep; journalfs verify names it
    #[arg(long, value_name = "LSN")]
    until: u64,
    /// Also gives up records that are whole
    #[arg(long)]
    force: bool,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// The image
    image: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let place = Place::find(&args.image, args.journal.as_deref())?;
    let image = place.image.display();
    if place.is_in_use().unwrap_or(false) {
        return Err(Failure::refused(at(
            &place.image,
            "is mounted: unmount it first, and see what is left then",
        )));
    }
    let source = Source::find(&place.image, Some(&place.journal))?;
    if place.journal.exists() && source.is_foreign()? {
        return Err(Failure::refused(source.foreign()));
    }
    let survey = open::survey(&place)?
        .ok_or_else(|| Failure::refused(at(&place.journal, "no journal here")))?;
    if !matches!(survey.verdict(), Verdict::Corrupt(_)) {
        return Err(Failure::refused(at(
            &place.journal,
            format!("is not corrupt, there is nothing to give up: journalfs recover {image}"),
        )));
    }
    let (last, lost) = (survey.last(), survey.durable());
    if Lsn(args.until) < last && !args.force {
        return Err(Failure::refused(at(
            &place.journal,
            format!(
                "records {} to {last} are whole: --until {last} keeps them, --force gives them up too",
                Lsn(args.until).next()
            ),
        )));
    }
    let refused = |error: mount::Error| place.refused(&error);
    // What is kept of the journal is the archive's as after any recovery.
    let history = Archiving::recalled(&place.journal)?;
    let wish = mount::Options {
        cut_after: Some(Lsn(args.until)),
        history,
        ..mount::Options::default()
    };
    // All that could refuse is asked before anything is written; the locks are
    // held from here on.
    let opened = mount::open_host(&place.image, Some(&place.journal), wish).map_err(refused)?;
    let home = opened.reach();
    let recovery = Recovery {
        verdict: "salvaged".to_owned(),
        dropped: format!(
            "records {} to {lost} at least were given up",
            Lsn(args.until).next()
        ),
        ..open::recovery(&opened)
    };
    let aside = aside(&place.journal);
    copy(&place.journal, &aside).map_err(|e| {
        Failure::refused(format!(
            "{}: the journal can't be copied aside, nothing was changed: {e}",
            aside.display()
        ))
    })?;
    open::go_home(&place, opened)?;
    Runtime {
        image: place.image.clone(),
        recovery: Some(recovery),
        ..Runtime::default()
    }
    .write(&place.journal);
    say!(
        "{image}: recovered up to record {}; records {} to {lost} at least are lost",
        args.until,
        Lsn(args.until).next()
    );
    say!(
        "{image}: the whole journal as it was is in {}",
        aside.display()
    );
    if home > Lsn(args.until) {
        say!(
            "{image}: parts of files that records {} to {home} changed may be as new as that, \
             since those were on their way home",
            Lsn(args.until).next()
        );
    }
    let disk = HostDisk::open(&place.image, Access::Read)
        .map_err(|e| Failure::refused(at(&place.image, e)))?;
    let report = check::run_image(&disk);
    let sound = (report.findings.iter()).all(|found| found.severity() == Severity::Note);
    if !sound {
        say!("{image}: a part of what is lost was in the image already: run e2fsck -f on it");
    }
    Ok(if sound { 0 } else { 4 })
}

/// A folder beside the journal that isn't there yet.
fn aside(journal: &Path) -> PathBuf {
    let name = |more: String| {
        let mut name = journal.as_os_str().to_owned();
        name.push(format!(".cut-{}{more}", HostClock.wall().secs));
        PathBuf::from(name)
    };
    let mut names = (1..).map(|n| name(format!("-{n}")));
    let first = name(String::new());
    match first.exists() {
        false => first,
        true => names.find(|name| !name.exists()).unwrap_or(first),
    }
}

/// Copies a folder of files; all of it is on stable storage afterwards. It has
/// its name only when it is whole.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let copied = copy_files(from, &part).and_then(|()| fs::rename(&part, to));
    if copied.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    copied?;
    match to.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let copy = to.join(entry.file_name());
            fs::copy(entry.path(), &copy)?;
            File::open(&copy)?.sync_all()?;
        }
    }
    File::open(to)?.sync_all()
}

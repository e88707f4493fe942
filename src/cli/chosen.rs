//! Which history a reader looks into, beyond what the journal has.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};

use crate::device::host::HostDir;
use crate::journal::archive::{Archive, Limits, MANIFEST};
use crate::log::{self, Found};
use crate::units::Epoch;

use super::archiving::Archiving;
use super::{Failure, at};

/// What was asked for on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Chosen {
    /// The archive's folder, instead of the one that the journal remembers; none:
    /// do without
    #[arg(long, value_name = "DIR|none")]
    archive: Option<PathBuf>,
    /// A history of the archive that ended when others changed the image, by its
    /// number in `archive DIR list --journal DIR`, instead of the one that goes on
    #[arg(long, value_name = "N")]
    timeline: Option<u32>,
    /// Whether that number is of the one that goes on.
    #[arg(skip)]
    goes_on: OnceLock<bool>,
}

impl Chosen {
    /// Whether anything was.
    pub fn is_any(&self) -> bool {
        self.archive.is_some() || self.timeline.is_some()
    }

    /// Whether it is a history that others ended by changing the image.
    pub fn is_ended(&self, journal: &Path) -> bool {
        self.timeline.is_some() && !matches!(self.timeline(journal), Ok(None))
    }

    /// The archive, if there is one to look into beside what the journal has
    /// (`kept`). One that the journal only remembers, and that can't be had, keeps
    /// nobody from looking.
    pub fn archive(&self, journal: &Path, kept: &[Found]) -> Result<Option<Archive>, Failure> {
        let Some(dir) = self.folder(journal) else {
            return Ok(None);
        };
        match self.open(&dir) {
            Err(failure) if self.archive.is_none() => {
                static SAY: Once = Once::new();
                SAY.call_once(|| ::log::warn!("without the archive: {}", failure.line));
                Ok(None)
            }
            opened => opened.map(Some),
        }
        .inspect(|archive| archive.iter().for_each(|it| say_if_ahead(it, &dir, kept)))
    }

    /// Opens it; what was named must be one. (One that the journal remembers may
    /// have just been begun.)
    fn open(&self, dir: &Path) -> Result<Archive, Failure> {
        let archive = open(dir)?;
        let empty = archive.bases().is_empty() && !is_archive(dir);
        match empty && self.archive.is_some() {
            true => Err(Failure::unchecked(at(
                dir,
                "is no archive, or an empty one",
            ))),
            false => Ok(archive),
        }
    }

    /// The timeline that is asked for, if it has ended, and the archive's folder: it
    /// alone has it.
    pub fn timeline(&self, journal: &Path) -> Result<Option<(PathBuf, Epoch)>, Failure> {
        self.timeline_before(journal, journal)
    }

    /// The same for an archive and a journal that goes on from it.
    pub fn timeline_before(
        &self,
        target: &Path,
        journal: &Path,
    ) -> Result<Option<(PathBuf, Epoch)>, Failure> {
        let Some(first) = self.timeline else {
            return Ok(None);
        };
        let folder = self.folder(target).ok_or_else(|| {
            Failure::usage("--timeline: it has no archive: name one with --archive DIR")
        })?;
        let goes_on = match self.goes_on.get() {
            Some(known) => *known,
            None => {
                let line = self.open(&folder)?.current(&kept(journal));
                let goes_on = line.is_some_and(|line| line.first == Epoch(first));
                *self.goes_on.get_or_init(|| goes_on)
            }
        };
        Ok((!goes_on).then_some((folder, Epoch(first))))
    }

    /// The archive's folder, if there is one.
    pub fn folder(&self, journal: &Path) -> Option<PathBuf> {
        match &self.archive {
            Some(dir) if dir.as_os_str() == "none" => None,
            Some(dir) => Some(dir.clone()),
            None if is_archive(journal) => Some(journal.to_owned()),
            None => Archiving::recall(journal).map(|known| known.archive),
        }
    }
}

/// The segments that a journal's folder has.
fn kept(journal: &Path) -> Vec<Found> {
    let folder = HostDir::open(journal).ok().filter(|_| !is_archive(journal));
    let found = folder.and_then(|folder| log::found(&folder).ok());
    found.unwrap_or_default()
}

/// Says, once, that records are left out which the journal's own are not.
fn say_if_ahead(archive: &Archive, dir: &Path, kept: &[Found]) {
    static SAY: Once = Once::new();
    if archive.is_ahead_of(kept) {
        SAY.call_once(|| {
            ::log::warn!(
                "{} has records that this journal did not make: one of the two is a copy, and the \
                 other went on: they are left out (give the archive's folder itself to see them)",
                dir.display()
            );
        });
    }
}

/// Opens an archive to read it.
pub fn open(dir: &Path) -> Result<Archive, Failure> {
    let cant = |e: &dyn std::fmt::Display| Failure::unchecked(at(dir, e));
    // (The host's error names it.)
    let folder = HostDir::open(dir).map_err(|e| Failure::unchecked(format!("archive: {e}")))?;
    Archive::open(Arc::new(folder), None, Limits::default()).map_err(|e| cant(&e))
}

/// Whether a folder is an archive.
pub fn is_archive(target: &Path) -> bool {
    target.join(MANIFEST).is_file()
}

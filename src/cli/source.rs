//! Where a journal is read: of a mount, of an image, or a folder alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::device::host::HostDir;
use crate::fuse::point;
use crate::log::{Survey, Verdict};

use super::place::Place;
use super::status::Live;
use super::{Failure, at};

/// How often a live journal that seems damaged is looked at again, and when.
const AGAIN: u32 = 10;
const MEANWHILE: Duration = Duration::from_millis(50);

/// A journal to be read, by itself or beside a daemon that writes it.
pub struct Source {
    /// The journal's folder.
    pub journal: PathBuf,
    /// Its image, if it was found by that.
    pub image: Option<PathBuf>,
    /// Where it is mounted.
    pub point: Option<PathBuf>,
}

impl Source {
    /// Finds it: by a mountpoint, an image, or the journal's folder itself,
    /// which is all that needs to be there.
    pub fn find(target: &Path, journal: Option<&Path>) -> Result<Source, Failure> {
        if let Ok(dir) = point::absolute(target)
            && let Some(mount) = point::find(&dir).filter(|mount| mount.kind == point::FS_TYPE)
        {
            let live = Live::ask(&dir);
            let folder = live.as_ref().map(|live| live.journal.as_path());
            let place = Place::find(Path::new(&mount.source), journal.or(folder))?;
            return Ok(Source {
                journal: place.journal,
                image: Some(place.image),
                point: Some(dir),
            });
        }
        if target.is_dir() {
            if !holds_segments(target) {
                return Err(Failure::usage(at(
                    target,
                    "no journalfs is mounted here, and it is no journal's folder: give a mountpoint, an image or a journal",
                )));
            }
            return Ok(Source {
                journal: target.to_owned(),
                image: None,
                point: None,
            });
        }
        let place = Place::find(target, journal)?;
        let mounted = point::of_image(&place.image);
        Ok(Source {
            journal: place.journal,
            image: Some(place.image),
            point: mounted.first().map(|mount| mount.point.clone()),
        })
    }

    /// What a live mount says of itself.
    pub fn live(&self) -> Option<Live> {
        Live::ask(self.point.as_ref()?)
    }

    /// Looks at the journal to list records of it.
    pub fn glance(&self) -> Result<Survey, Failure> {
        self.survey(Survey::glance)
    }

    /// Reads all of it and judges. What a daemon is just writing may look like
    /// damage, and not at another look.
    pub fn read(&self) -> Result<Survey, Failure> {
        let mut survey = self.survey(Survey::read)?;
        for _ in 0..AGAIN {
            let corrupt = matches!(survey.verdict(), Verdict::Corrupt(_));
            if !corrupt || self.point.is_none() {
                break;
            }
            thread::sleep(MEANWHILE);
            survey = self.survey(Survey::read)?;
        }
        Ok(survey)
    }

    fn survey(
        &self,
        look: impl FnOnce(Arc<dyn crate::device::Dir>) -> crate::log::Result<Survey>,
    ) -> Result<Survey, Failure> {
        let dir = HostDir::open(&self.journal).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::refused(at(
                &self.journal,
                "no journal here: name its folder with --journal DIR",
            )),
            _ => Failure::refused(format!("journal: {e}")),
        })?;
        look(Arc::new(dir)).map_err(|e| Failure::refused(at(&self.journal, e)))
    }
}

fn holds_segments(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        Path::new(&entry.file_name())
            .extension()
            .is_some_and(|e| e == "store")
    })
}

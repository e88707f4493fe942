//! Where a journal is read: of a mount, of an image, or a folder alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::device::host::{Access, HostDir, HostDisk};
use crate::device::{Dir, Disk};
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::fs::guard::{self, Raw, Standing};
use crate::fuse::point;
use crate::history::{Point, PointError};
use crate::journal::Journal;
use crate::journal::archive::Gap;
use crate::journal::record::Session;
use crate::log::{self, Bad, Beyond, Survey, Verdict};
use crate::past;
use crate::units::{Clock as _, HostClock, Lsn, Time};

use super::chosen::{self, Chosen};
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
            if let Some(view) = live.as_ref().filter(|live| live.past.is_some()) {
                return Source::find(&view.image, journal.or(Some(&view.journal)));
            }
            let folder = live.as_ref().map(|live| live.journal.as_path());
            let place = place(Path::new(&mount.source), journal.or(folder))?;
            return Ok(Source {
                journal: place.journal,
                image: Some(place.image),
                point: Some(dir),
            });
        }
        if target.is_dir() {
            if !holds_segments(target)? {
                return Err(Failure::unchecked(at(
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
        let place = place(target, journal)?;
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

    /// Whether the image lags behind another journal than this one, or behind
    /// records that are gone from it: whatever it holds then says nothing of
    /// the image. (A daemon at work has looked.)
    pub fn is_foreign(&self) -> Result<bool, Failure> {
        let Some(raw) = self.superblock()? else {
            return Ok(false);
        };
        let Standing::Guarded(uuid) = guard::standing(&raw) else {
            return Ok(false);
        };
        let Ok(state) = Journal::open(self.folder()?) else {
            return Ok(false); // told by whoever reads it
        };
        let damaged = matches!(state.survey().verdict(), Verdict::Corrupt(_));
        let session = state.base().map(|base| &base.session);
        let prior = |session: &Session| {
            state.is_unused()
                && session.prior.first_chunk().is_some_and(
                    |prior| matches!(guard::standing(prior), Standing::Guarded(of) if of == uuid),
                )
        };
        let ours = session.is_some_and(|session| session.guard == uuid || prior(session));
        Ok(!ours && !damaged)
    }

    /// Whether others have changed the image, or the journal was given up, since
    /// that left it: its history is then that of another image. (Of a guarded
    /// one [`Source::is_foreign`] tells.)
    pub fn is_superseded(&self) -> Result<bool, Failure> {
        let Some(raw) = self.superblock()? else {
            return Ok(false);
        };
        if matches!(guard::standing(&raw), Standing::Guarded(_)) {
            return Ok(false);
        }
        let Ok(state) = Journal::open(self.folder()?) else {
            return Ok(false); // told by whoever reads it
        };
        let as_left =
            (state.clean()).is_some_and(|clean| clean.fingerprint == guard::fingerprint(&raw));
        Ok(state.base().is_some() && !as_left)
    }

    /// The superblock of an image that is not mounted.
    fn superblock(&self) -> Result<Option<Raw>, Failure> {
        let (Some(image), None) = (self.image.as_deref(), &self.point) else {
            return Ok(None);
        };
        let cant = |e: &dyn std::fmt::Display| Failure::unchecked(at(image, e));
        let disk = HostDisk::open(image, Access::Read).map_err(|e| cant(&e))?;
        let mut raw = [0; SIZE];
        Ok(disk.read_at(&mut raw, OFFSET).is_ok().then_some(raw))
    }

    /// What to say if it is.
    pub fn foreign(&self) -> String {
        let image = self.image.as_deref().unwrap_or(Path::new("IMAGE"));
        at(
            image,
            format!(
                "lags behind a journal that is not the one in {}, or records of it are gone: \
                 bring its own back, or name it with --journal DIR",
                self.journal.display()
            ),
        )
    }

    /// The end of a journal that looks whole and is not.
    pub fn lost_end(&self, survey: &Survey) -> Option<Bad> {
        let found = survey.lost_end();
        found.filter(|_| self.point.is_none())
    }

    /// Looks at the journal to list records of it.
    pub fn glance(&self) -> Result<Survey, Failure> {
        self.survey(Survey::glance)
    }

    /// The same with what went to an archive.
    pub fn history(&self, chosen: &Chosen) -> Result<Survey, Failure> {
        let folder = self.chosen(chosen)?;
        Survey::glance(folder).map_err(|e| self.cant(&e))
    }

    /// The records that the archive should have and has not.
    pub fn gaps(&self, chosen: &Chosen) -> Result<Vec<Gap>, Failure> {
        let ended = chosen.timeline(&self.journal)?;
        let archive = match &ended {
            Some((folder, _)) => Some(chosen::open(folder)?),
            None => chosen.archive(&self.journal)?,
        };
        let Some(archive) = archive else {
            return Ok(Vec::new());
        };
        let journal = match ended.is_some() || chosen::is_archive(&self.journal) {
            true => Vec::new(),
            false => log::found(&*self.folder()?).map_err(|e| self.cant(&e))?,
        };
        let mut gaps = archive.gaps(journal);
        gaps.retain(|gap| match ended {
            Some((_, first)) => gap.timeline.is_called(first),
            None => gap.timeline.end.is_none(),
        });
        Ok(gaps)
    }

    /// Up to which record all is known to be durable. What an archive holds was
    /// when it was copied.
    pub fn durable(&self, survey: &Survey, chosen: &Chosen) -> Lsn {
        if chosen.is_ended() || chosen::is_archive(&self.journal) {
            return survey.last();
        }
        let live = self.live().map_or(Lsn(0), |live| Lsn(live.durable));
        survey.durable().max(live).max(self.archived(chosen))
    }

    /// The last record of the journal's own past in its archive.
    fn archived(&self, chosen: &Chosen) -> Lsn {
        let archive = chosen.archive(&self.journal).ok().flatten();
        let kept = self.folder().ok().and_then(|dir| log::found(&*dir).ok());
        let (Some(archive), Some(kept)) = (archive, kept) else {
            return Lsn(0);
        };
        let past = archive.past_of(&kept).1.into_iter();
        past.map(|found| found.last).max().unwrap_or_default()
    }

    /// The segments of the journal and its archive as one folder, or those of a
    /// timeline that has ended.
    fn chosen(&self, chosen: &Chosen) -> Result<Arc<dyn Dir>, Failure> {
        if let Some((folder, first)) = chosen.timeline(&self.journal)? {
            let archive = chosen::open(&folder)?;
            let lines = archive.timelines();
            let line = lines.iter().find(|line| line.is_called(first));
            return line.map(|line| archive.of_timeline(line)).ok_or_else(|| {
                let known = lines.iter().map(|line| line.first).collect();
                let wanted = first;
                Failure::unchecked(at(&folder, past::Error::NoTimeline { wanted, known }))
            });
        }
        let journal = self.folder()?;
        let Some(archive) = chosen.archive(&self.journal)? else {
            return Ok(journal);
        };
        match chosen::is_archive(&self.journal) {
            true => Ok(journal),
            false => archive.with_journal(journal).map_err(|e| self.cant(&e)),
        }
    }

    /// The record at a point, by [`Point::first`] or [`Point::last`]: also behind
    /// a damaged one, where marks and times lie that recovery would drop.
    pub fn record(
        &self,
        point: &Point,
        find: fn(&Point, &Survey, Time) -> Result<Lsn, PointError>,
        survey: &Survey,
        chosen: &Chosen,
    ) -> Result<Lsn, Failure> {
        let now = HostClock.wall();
        let found = find(point, survey, now);
        let known = found.as_ref().is_ok_and(|lsn| *lsn <= survey.last());
        let found = match known || survey.verdict() == &Verdict::Clean || self.point.is_some() {
            true => found,
            false => find(point, self.beyond_all(chosen)?.survey(), now),
        };
        found.map_err(|e| self.cant(&e))
    }

    /// What to say if the archive has histories that ended before the one that
    /// goes on.
    pub fn earlier(&self, chosen: &Chosen) -> Result<Option<String>, Failure> {
        let archive = match chosen.is_ended() {
            true => None,
            false => chosen.archive(&self.journal)?,
        };
        let Some(archive) = archive else {
            return Ok(None);
        };
        let ended = archive.ended(&*self.folder()?).map_err(|e| self.cant(&e))?;
        let numbers: Vec<String> = ended.iter().map(|line| line.first.to_string()).collect();
        Ok((!ended.is_empty()).then(|| {
            format!(
                "this history began when others changed the image: what was before has --timeline {}",
                numbers.join(", ")
            )
        }))
    }

    fn cant(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::unchecked(at(&self.journal, why))
    }

    /// Reads all of it and judges. What a daemon is just writing may look like
    /// damage, and not at another look.
    pub fn read(&self) -> Result<Survey, Failure> {
        self.read_again(&|| self.survey(Survey::read))
    }

    /// The same with what went to an archive.
    pub fn read_all(&self, chosen: &Chosen) -> Result<Survey, Failure> {
        self.read_again(&|| Survey::read(self.chosen(chosen)?).map_err(|e| self.cant(&e)))
    }

    fn read_again(&self, read: &dyn Fn() -> Result<Survey, Failure>) -> Result<Survey, Failure> {
        let mut survey = read()?;
        for _ in 0..AGAIN {
            let corrupt = matches!(survey.verdict(), Verdict::Corrupt(_));
            if !corrupt || self.point.is_none() {
                break;
            }
            thread::sleep(MEANWHILE);
            survey = read()?;
        }
        Ok(survey)
    }

    /// Reads also what lies behind a damaged record, to show it.
    pub fn beyond(&self) -> Result<Beyond, Failure> {
        self.survey(Survey::beyond)
    }

    /// The same with what went to an archive.
    pub fn beyond_all(&self, chosen: &Chosen) -> Result<Beyond, Failure> {
        Survey::beyond(self.chosen(chosen)?).map_err(|e| self.cant(&e))
    }

    fn survey<T>(
        &self,
        look: impl FnOnce(Arc<dyn Dir>) -> crate::log::Result<T>,
    ) -> Result<T, Failure> {
        look(self.folder()?).map_err(|e| self.cant(&e))
    }

    /// The journal's folder.
    pub fn folder(&self) -> Result<Arc<dyn Dir>, Failure> {
        let dir = HostDir::open(&self.journal).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::unchecked(at(
                &self.journal,
                "no journal here: name its folder with --journal DIR",
            )),
            _ => Failure::unchecked(format!("journal: {e}")),
        })?;
        Ok(Arc::new(dir))
    }
}

/// What to say of a lost end.
pub fn lost(bad: &Bad) -> String {
    format!(
        "record {}: {} ({}): it was there, and what was durable in it is lost: bring it back \
         before anything recovers",
        bad.lsn, bad.why, bad.segment
    )
}

/// Readers exit as fsck(8) does.
fn place(image: &Path, journal: Option<&Path>) -> Result<Place, Failure> {
    Place::find(image, journal).map_err(|failure| Failure::unchecked(failure.line))
}

fn holds_segments(dir: &Path) -> Result<bool, Failure> {
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::unchecked(at(dir, e)))?;
    let mut names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.any(|name| Path::new(&name).extension().is_some_and(|e| e == "store")))
}

//! Where a journal is read: of a mount, of an image, or a folder alone.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::device::host::{Access, HostDir, HostDisk};
use crate::device::{Dir, Disk};
use crate::ext4::Superblock;
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::fs::guard::{self, Raw, Standing};
use crate::fuse::point;
use crate::history::{Point, PointError};
use crate::journal::Journal;
use crate::journal::archive::{Archive, Gap};
use crate::journal::record::Session;
use crate::log::{self, Bad, Beyond, Found, Survey, Verdict};
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
    /// What was seen of its history last.
    looked: RefCell<Option<Rc<Looked>>>,
}

/// What a journal's history consists of, at one look.
struct Looked {
    /// What has gone to an archive.
    archive: Option<Archive>,
    /// The journal's own segments, if there is an archive that they go on from.
    kept: log::Result<Vec<Found>>,
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
            return Ok(Source::of(place.journal, Some(place.image), Some(dir)));
        }
        if target.is_dir() {
            if !holds_segments(target)? {
                return Err(Failure::unchecked(at(
                    target,
                    "no journalfs is mounted here, and it is no journal's folder: give a mountpoint, an image or a journal",
                )));
            }
            return Ok(Source::of(target.to_owned(), None, None));
        }
        let place = place(target, journal)?;
        let mounted = point::of_image(&place.image);
        let point = mounted.first().map(|mount| mount.point.clone());
        Ok(Source::of(place.journal, Some(place.image), point))
    }

    fn of(journal: PathBuf, image: Option<PathBuf>, point: Option<PathBuf>) -> Source {
        Source {
            journal,
            image,
            point,
            looked: RefCell::default(),
        }
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

    /// Looks at the journal to list records of it, and judges them as recovery
    /// would. A daemon at work has done that.
    pub fn judged(&self) -> Result<Survey, Failure> {
        self.survey(match self.live() {
            Some(_) => Survey::glance,
            None => Survey::judged,
        })
    }

    /// Only looks, to list what has come.
    pub fn glance(&self) -> Result<Survey, Failure> {
        self.survey(Survey::glance)
    }

    /// The same with what went to an archive: that had been in the image.
    pub fn history(&self, chosen: &Chosen) -> Result<Survey, Failure> {
        let archived = chosen.is_ended(&self.journal) || chosen::is_archive(&self.journal);
        let look = match archived || self.live().is_some() {
            true => Survey::glance,
            false => Survey::judged,
        };
        look(self.chosen(chosen)?).map_err(|e| self.cant(&e))
    }

    /// Looks again at what has gone to an archive, and what has not.
    fn look(&self, chosen: &Chosen) -> Result<Rc<Looked>, Failure> {
        let looked = match chosen.timeline(&self.journal)? {
            Some((folder, _)) => {
                let archive = chosen::open(&folder)?;
                self.refuse_others(&archive, &folder)?;
                Looked {
                    archive: Some(archive),
                    kept: Ok(Vec::new()),
                }
            }
            None => {
                // The journal first: what goes to the archive meanwhile is then in both.
                let kept = self.kept(chosen);
                let known = kept.as_deref().unwrap_or_default();
                let archive = chosen.archive(&self.journal, known)?;
                if let (Some(archive), Some(dir)) = (&archive, chosen.folder(&self.journal)) {
                    self.refuse_others(archive, &dir)?;
                }
                Looked { archive, kept }
            }
        };
        let looked = Rc::new(looked);
        self.looked.replace(Some(looked.clone()));
        Ok(looked)
    }

    /// Refuses an archive of another image than this one.
    fn refuse_others(&self, archive: &Archive, dir: &Path) -> Result<(), Failure> {
        let uuid = self.image.as_deref().and_then(uuid_of);
        match uuid.filter(|uuid| archive.identity() != [0; 16] && archive.identity() != *uuid) {
            None => Ok(()),
            Some(_) => Err(Failure::unchecked(at(
                dir,
                "it belongs to another image: name this one's with --archive DIR, or do without: --archive none",
            ))),
        }
    }

    /// What was seen at the last look, or is at the first.
    fn looked(&self, chosen: &Chosen) -> Result<Rc<Looked>, Failure> {
        let looked = self.looked.borrow().clone();
        looked.map_or_else(|| self.look(chosen), Ok)
    }

    /// (Finding them may mean to read all of one: only if they are needed.)
    fn kept(&self, chosen: &Chosen) -> log::Result<Vec<Found>> {
        match (chosen.folder(&self.journal), self.folder()) {
            (Some(_), Ok(folder)) => log::found(&*folder),
            _ => Ok(Vec::new()),
        }
    }

    /// The archive's folder, if there is one to look into.
    pub fn archive(&self, chosen: &Chosen) -> Result<Option<Arc<dyn Dir>>, Failure> {
        let looked = self.looked(chosen)?;
        Ok(looked.archive.as_ref().map(|archive| archive.dir().clone()))
    }

    /// The records that the archive should have and has not.
    pub fn gaps(&self, chosen: &Chosen) -> Result<Vec<Gap>, Failure> {
        let looked = self.looked(chosen)?;
        let Some(archive) = &looked.archive else {
            return Ok(Vec::new());
        };
        let ended = chosen.timeline(&self.journal)?;
        let kept = match chosen::is_archive(&self.journal) {
            true => Vec::new(),
            false => looked.kept.clone().map_err(|e| self.cant(&e))?,
        };
        let mut gaps = archive.gaps(kept);
        gaps.retain(|gap| match ended {
            Some((_, first)) => gap.timeline.is_called(first),
            None => gap.timeline.end.is_none(),
        });
        Ok(gaps)
    }

    /// Up to which record all is known to be durable. What an archive holds was
    /// when it was copied.
    pub fn durable(&self, survey: &Survey, chosen: &Chosen) -> Lsn {
        if chosen.is_ended(&self.journal) || chosen::is_archive(&self.journal) {
            return survey.last();
        }
        let live = self.live().map_or(Lsn(0), |live| Lsn(live.durable));
        survey.durable().max(live).max(self.archived(chosen))
    }

    /// The last record of the journal's own past in its archive.
    fn archived(&self, chosen: &Chosen) -> Lsn {
        let looked = self.looked(chosen).ok();
        let past = looked.as_deref().and_then(Looked::past);
        let last = past.into_iter().flatten().map(|found| found.last).max();
        last.unwrap_or_default()
    }

    /// The segments of the journal and its archive as one folder, or those of a
    /// timeline that has ended.
    fn chosen(&self, chosen: &Chosen) -> Result<Arc<dyn Dir>, Failure> {
        let looked = self.look(chosen)?;
        let journal = || self.folder();
        let Some(archive) = &looked.archive else {
            return journal();
        };
        if let Some((folder, first)) = chosen.timeline(&self.journal)? {
            let lines = archive.timelines();
            let line = lines.iter().find(|line| line.is_called(first));
            return line.map(|line| archive.of_timeline(line)).ok_or_else(|| {
                let known = lines.iter().map(|line| line.first).collect();
                let wanted = first;
                Failure::unchecked(at(&folder, past::Error::NoTimeline { wanted, known }))
            });
        }
        let kept = looked.kept.as_ref().map_err(|e| self.cant(e))?;
        match chosen::is_archive(&self.journal) {
            true => journal(),
            false => Ok(archive.with_journal(journal()?, kept)),
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
        if chosen.is_ended(&self.journal) {
            return Ok(None);
        }
        let looked = self.looked(chosen)?;
        let Some(archive) = &looked.archive else {
            return Ok(None);
        };
        let kept = looked.kept.as_ref().map_err(|e| self.cant(e))?;
        let ended = archive.ended(kept);
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

impl Looked {
    /// What the archive has of the journal's own past.
    fn past(&self) -> Option<Vec<Found>> {
        let (archive, kept) = (self.archive.as_ref()?, self.kept.as_ref().ok()?);
        Some(archive.past_of(kept).1)
    }
}

/// What to say of a lost end to those who have not recovered yet.
pub fn lost(bad: &Bad) -> String {
    format!("{}: bring it back before anything recovers", bad.lost())
}

/// An image's UUID, also of one that is in use.
fn uuid_of(image: &Path) -> Option<[u8; 16]> {
    let disk = HostDisk::open(image, Access::Read).ok()?;
    let mut raw = [0; SIZE];
    disk.read_at(&mut raw, OFFSET).ok()?;
    let sb = Superblock::decode(&guard::take_off(&raw)).ok()?;
    Some(sb.uuid)
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

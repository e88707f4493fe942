//! Which states of an image can be seen: what image, journal and archive of
//! the host have together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::device::Dir;
use crate::device::host::{Access, HostDir, HostDisk};
use crate::device::memory::MemoryDir;
use crate::fs::mount::{self, Remains};
use crate::history::Point;
use crate::log::{Survey, Verdict};
use crate::past::{self, Instant, Span};
use crate::units::{Clock as _, Epoch, HostClock, Lsn, Time};

use super::chosen::{Chosen, is_archive};
use super::log::line;
use super::place::Place;
use super::source::Source;
use super::status::Live;
use super::{Failure, at};

/// How often what a daemon is just writing is looked at again, and when.
const AGAIN: u32 = 10;
const MEANWHILE: Duration = Duration::from_millis(50);

/// What was asked for on the command line.
#[derive(clap::Args)]
pub struct Asked {
    #[command(flatten)]
    pub chosen: Chosen,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
    /// An image, the directory on which it is mounted, or an archive
    #[arg(value_name = "IMAGE|DIR")]
    pub target: PathBuf,
}

/// What was found.
pub struct Found {
    /// The states.
    pub span: Span,
    /// The image, or what else was given.
    pub name: PathBuf,
    /// The journal's folder.
    pub journal: PathBuf,
    /// A word on histories that have ended, if there are any.
    earlier: Option<String>,
    /// Whether this one has.
    ended: bool,
    /// Why there are no later states, if a damaged record is in their way.
    damaged: Option<String>,
}

impl Asked {
    /// Finds image, journal and archive, and what states they have together.
    /// Changes nothing.
    pub fn find(&self) -> Result<Found, Failure> {
        if is_archive(&self.target) {
            return self.find_in_archive();
        }
        let source = Source::find(&self.target, self.journal.as_deref())?;
        let archive = source.archive(&self.chosen)?;
        if let Some((archive, first)) = self.chosen.timeline(&source.journal)? {
            return ended(&archive, first);
        }
        let name = source
            .image
            .clone()
            .unwrap_or_else(|| source.journal.clone());
        let live = source.live();
        let mut damaged = None;
        let remains = remains(&source, live.as_ref(), &mut damaged);
        let watch = watch(&source, live.as_ref());
        let span = match (archive, remains) {
            (Some(archive), remains) => {
                let journal = match source.folder() {
                    Err(_) if !source.journal.exists() => nothing(),
                    folder => folder?,
                };
                Span::of_archive(archive, journal, remains.ok().flatten(), watch)
            }
            (None, Err(failure)) => return Err(failure),
            (None, Ok(None)) => Err(past::Error::NoImage),
            (None, Ok(Some(remains))) => Span::of_image(remains, watch),
        };
        let earlier = source.earlier(&self.chosen).ok().flatten();
        let hint = hint(earlier.as_deref());
        Ok(Found {
            span: span.map_err(|e| Failure::unchecked(at(&name, format!("{e}{hint}"))))?,
            name,
            journal: source.journal,
            earlier,
            ended: false,
            damaged,
        })
    }

    /// An archive alone is enough for what it holds.
    fn find_in_archive(&self) -> Result<Found, Failure> {
        let beside = self.journal.as_deref().unwrap_or(&self.target);
        if let Some((archive, first)) = self.chosen.timeline_before(&self.target, beside)? {
            return ended(&archive, first);
        }
        let journal = self.journal.as_deref().map_or(Ok(nothing()), open_dir)?;
        let span = Span::of_archive(open_dir(&self.target)?, journal, None, None);
        Ok(Found {
            span: span.map_err(|e| Failure::unchecked(at(&self.target, e)))?,
            name: self.target.clone(),
            journal: self.journal.as_ref().unwrap_or(&self.target).clone(),
            earlier: None,
            ended: false,
            damaged: None,
        })
    }
}

impl Found {
    /// The records.
    pub fn survey(&self) -> &Survey {
        self.span.survey()
    }

    /// The last record that belongs to the state at a point.
    pub fn record(&self, point: &Point) -> Result<Lsn, Failure> {
        let now = HostClock.wall();
        if let Point::Time(time) = point
            && *time > now
        {
            return Err(self.cant(format!("{} is yet to come", line::utc(*time))));
        }
        let last = point.last(self.survey(), now).map_err(|e| {
            Failure::unchecked(at(
                &self.journal,
                format!(
                    "{e}{}{}{}{}",
                    self.since(),
                    self.missing(),
                    self.earlier(),
                    hint(self.damaged())
                ),
            ))
        })?;
        match point {
            Point::Time(_) | Point::Ago(_) => self.refuse_unknown(point.time(now), last)?,
            Point::Lsn(_) | Point::Mark(_) => {}
        }
        Ok(last)
    }

    /// Refuses a time behind a record of which nobody can tell whether the next
    /// one was made by then.
    fn refuse_unknown(&self, wanted: Time, last: Lsn) -> Result<(), Failure> {
        let frame = self.survey().frame(last);
        if frame.is_ok_and(|frame| frame.time == wanted) {
            return Ok(());
        }
        let wanted = line::utc(wanted);
        if let Some(gap) = self.span.gaps().iter().find(|gap| gap.has(last.next())) {
            return Err(self.cant(format!("nothing is known of {wanted}: {gap}")));
        }
        match self.ended && last == self.survey().last() {
            true => Err(self.cant(format!(
                "nothing is known of {wanted}: this history ended with record {last}"
            ))),
            false => Ok(()),
        }
    }

    /// What an archive should have and has not, in words; of many gaps the newest.
    fn missing(&self) -> String {
        let gaps = self.span.gaps().iter().rev().take(3);
        gaps.map(|gap| format!(": {gap}")).collect()
    }

    /// How far back states can be made, in words.
    fn since(&self) -> String {
        let Some(oldest) = self.span.oldest() else {
            return String::new();
        };
        let frame = self.survey().frame(oldest);
        let time = frame.map_or(String::new(), |frame| {
            format!(" ({})", line::utc(frame.time))
        });
        format!(": the oldest state is that after record {oldest}{time}")
    }

    /// The state at a point.
    pub fn at(&self, point: &Point) -> Result<Instant, Failure> {
        self.after(self.record(point)?)
    }

    /// The same, to be put behind what else is said.
    pub fn earlier(&self) -> String {
        hint(self.earlier.as_deref())
    }

    /// The same of later states that a damaged record keeps from being made.
    pub fn damaged(&self) -> Option<&str> {
        self.damaged.as_deref()
    }

    /// The state after a record.
    pub fn after(&self, lsn: Lsn) -> Result<Instant, Failure> {
        use crate::{journal, log};
        self.span.at(lsn).map_err(|error| match error {
            past::Error::Gone { .. } => self.cant(format!("{error}{}", self.earlier())),
            past::Error::Journal(journal::Error::Log(log::Error::Corrupt { lsn: bad, .. })) => {
                let last = self.first_damaged(lsn, bad).prev();
                self.cant(format!("{error}: try the state after record {last}"))
            }
            past::Error::Future { wanted, .. } if self.damaged.is_some() => self.cant(format!(
                "the state after record {wanted} can't be made{}",
                hint(self.damaged())
            )),
            _ => self.cant(error),
        })
    }

    /// The first damaged record on the way to a state; `bad` is one.
    fn first_damaged(&self, at: Lsn, bad: Lsn) -> Lsn {
        let survey = self.survey();
        let from = self.span.base_of(at).unwrap_or_default();
        let mut numbers = survey.numbers(from.next()).take_while(|lsn| *lsn < bad);
        numbers
            .find(|lsn| survey.read_whole(*lsn).is_err())
            .unwrap_or(bad)
    }

    /// Says what is missing behind the states that were asked for: once they are
    /// had, or else their error says it.
    pub fn say_damaged(&self) {
        if let Some(damaged) = self.damaged() {
            ::log::warn!("{damaged}");
        }
    }

    /// Why something can't be had of it.
    pub fn cant(&self, why: impl std::fmt::Display) -> Failure {
        Failure::unchecked(at(&self.name, why))
    }
}

/// A timeline of an archive, which alone has it.
fn ended(archive: &Path, first: Epoch) -> Result<Found, Failure> {
    let span = Span::of_timeline(open_dir(archive)?, first);
    Ok(Found {
        span: span.map_err(|e| Failure::unchecked(at(archive, e)))?,
        name: archive.to_owned(),
        journal: archive.to_owned(),
        earlier: None,
        ended: true,
        damaged: None,
    })
}

fn hint(earlier: Option<&str>) -> String {
    earlier.map_or(String::new(), |earlier| format!(": {earlier}"))
}

fn nothing() -> Arc<dyn Dir> {
    Arc::new(MemoryDir::default())
}

fn open_dir(path: &Path) -> Result<Arc<dyn Dir>, Failure> {
    match HostDir::open(path) {
        Ok(dir) => Ok(Arc::new(dir)),
        Err(e) => Err(Failure::unchecked(e)),
    }
}

/// Image and journal as they are: locked, unless a daemon is at work on them. If
/// they can only be had up to a damaged record, `damaged` gets a word on that.
fn remains(
    source: &Source,
    live: Option<&Live>,
    damaged: &mut Option<String>,
) -> Result<Option<Remains>, Failure> {
    let Some(image) = &source.image else {
        return Ok(None);
    };
    let place = Place {
        image: image.clone(),
        journal: source.journal.clone(),
    };
    let mut options = mount::Options::default();
    options.fs.read_only = true;
    let unchecked = |error: mount::Error| Failure::unchecked(place.refused(&error).line);
    match (&source.point, live) {
        (Some(point), None) => Err(Failure::unchecked(at(
            point,
            "its daemon does not answer: ask as the user who mounted it, or unmount it first",
        ))),
        (Some(point), Some(live)) if live.powercut => Err(Failure::unchecked(at(
            point,
            "is mounted with -o powercut: its image and journal are not what they will be: unmount it first",
        ))),
        (Some(_), Some(live)) if !live.read_only => {
            let look = || -> Result<Remains, mount::Error> {
                let cant = |e: io::Error| mount::Error::Io {
                    what: "the image".into(),
                    source: Arc::new(e),
                };
                let disk = HostDisk::open(image, Access::Read).map_err(cant)?;
                let dir = HostDir::open(&source.journal).map_err(cant)?;
                let opened = mount::open(Arc::new(disk), Arc::new(dir), options.clone())?;
                Ok(opened.into_remains())
            };
            let mut remains = look();
            for _ in 0..AGAIN {
                if remains.is_ok() {
                    break;
                }
                thread::sleep(MEANWHILE);
                remains = look();
            }
            remains.map(Some).map_err(unchecked)
        }
        _ => {
            let open = |options| mount::open_host(image, Some(&source.journal), options);
            let opened = open(options.clone()).or_else(|error| match whole(source) {
                Some((last, bad)) => {
                    *damaged = Some(format!(
                        "record {bad} is damaged: no state behind record {last} can be made, ask for one up to that"
                    ));
                    options.cut_after = Some(last);
                    open(options)
                }
                None => Err(error),
            });
            opened
                .map(|opened| Some(opened.into_remains()))
                .map_err(unchecked)
        }
    }
}

/// The last record before the first damaged one, and that one, of a journal that
/// can't be recovered.
fn whole(source: &Source) -> Option<(Lsn, Lsn)> {
    let survey = source.read().ok()?;
    match survey.verdict() {
        Verdict::Corrupt(bad) => Some((survey.last(), bad.lsn)),
        Verdict::Clean | Verdict::Torn { .. } => None,
    }
}

/// Asks a daemon at work how new blocks of the image may be.
fn watch(source: &Source, live: Option<&Live>) -> Option<past::Live> {
    let point = source.point.clone()?;
    live.filter(|live| !live.read_only)?;
    Some(Arc::new(move || {
        Live::ask(&point).map(|live| Lsn(live.going_home))
    }))
}

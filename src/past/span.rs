//! What image, journal and archive together can show.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::watched::Watched;
use super::{Error, Instant, Result, instant, io_error};
use crate::device::Dir;
use crate::fs::mount::{Course, Held, Remains};
use crate::journal::archive::{Archive, ImageBase, Limits, Reach, reaches};
use crate::journal::record::Record;
use crate::journal::{Again, BlockIndex, Ground, Past};
use crate::log::{Kind, Survey, found};
use crate::units::{BlockNo, Epoch, Lsn};

/// Says up to which record blocks of an image in use may have gone home;
/// `None` if nobody answers.
pub type Live = Arc<dyn Fn() -> Option<Lsn> + Send + Sync>;

/// The states that can be made.
pub struct Span {
    survey: Arc<Survey>,
    image: Option<Ground>,
    live: Option<Live>,
    archive: Option<Archive>,
    /// What the archive's bases lead to.
    reached: Vec<Reach>,
    again: Option<Again>,
    held: Arc<Held>,
}

impl Span {
    /// Of an image with its journal. `live`: a daemon is working on it.
    pub fn of_image(remains: Remains, live: Option<Live>) -> Result<Span> {
        let image = ground(&remains)?;
        Ok(Span {
            survey: Arc::new(remains.unrecovered.into_survey()),
            image: Some(image),
            live,
            archive: None,
            reached: Vec::new(),
            again: None,
            held: Arc::new(remains.held),
        })
    }

    /// With the bases of an archive, and the image itself where that can serve.
    /// `journal` is the folder of what is not archived yet. Of the timeline that
    /// goes on; see [`Span::of_timeline`].
    pub fn of_archive(
        archive: Arc<dyn Dir>,
        journal: Arc<dyn Dir>,
        remains: Option<Remains>,
        live: Option<Live>,
    ) -> Result<Span> {
        let folder = archive.clone();
        let archive = Archive::open(archive, None, Limits::default())?;
        let unarchived = found(&*journal)?;
        let (bases, mut segments) = archive.past_of(&unarchived);
        segments.extend(unarchived.iter().cloned());
        let newest = segments.iter().map(|found| found.last).max();
        let mut reached = reaches(&bases, &segments);
        reached.retain(|reach| reach.timeline.end.is_none());
        // A daemon at work goes on where no record is missing.
        for reach in reached.iter_mut().filter(|reach| Some(reach.to) >= newest) {
            reach.to = Lsn(u64::MAX);
        }
        let survey = Survey::glance(archive.with_journal(journal.clone(), &unarchived))?;
        let again: Again = Arc::new(move || {
            let kept = found(&*journal)?;
            let now = Archive::open(folder.clone(), None, Limits::default());
            let now = now.map_err(|_| crate::log::Error::Recycled(Lsn(0)))?;
            Survey::glance(now.with_journal(journal.clone(), &kept))
        });
        let image = remains.as_ref().and_then(|remains| ground(remains).ok());
        let held = remains.map(|remains| remains.held).unwrap_or_default();
        Ok(Span {
            survey: Arc::new(survey),
            image,
            live,
            archive: Some(archive),
            reached,
            again: Some(again),
            held: Arc::new(held),
        })
    }

    /// What an archive has of the timeline to which this opening of the log
    /// belongs, and that has ended.
    pub fn of_timeline(archive: Arc<dyn Dir>, first: Epoch) -> Result<Span> {
        let archive = Archive::open(archive, None, Limits::default())?;
        let mut reached = reaches(&archive.bases(), &archive.segments());
        let known: BTreeSet<Epoch> = reached.iter().map(|reach| reach.timeline.first).collect();
        reached.retain(|reach| reach.timeline.is_called(first));
        let Some(timeline) = reached.first().map(|reach| reach.timeline) else {
            return Err(Error::NoTimeline {
                wanted: first,
                known: known.into_iter().collect(),
            });
        };
        Ok(Span {
            survey: Arc::new(Survey::glance(archive.of_timeline(&timeline))?),
            image: None,
            live: None,
            archive: Some(archive),
            reached,
            again: None,
            held: Arc::default(),
        })
    }

    /// The records.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The oldest state that can be made: that after this record.
    pub fn oldest(&self) -> Option<Lsn> {
        let image = self.image.iter().map(|ground| ground.through);
        image
            .chain(self.reached.iter().map(|reach| reach.from))
            .min()
    }

    /// The image as it was after a record.
    pub fn at(&self, at: Lsn) -> Result<Instant> {
        if at > self.survey.last() {
            return Err(Error::Future {
                wanted: at,
                last: self.survey.last(),
            });
        }
        let ground = self.ground(at)?;
        let block_size = ground.pinned.as_ref().map_or(0, |(_, bytes)| bytes.len());
        let stored = |base: Lsn, salt: u64| self.stored(base, salt);
        let mut past = Past::new(ground, self.survey.clone(), block_size, at, &stored)?;
        if let Some(again) = &self.again {
            past = past.looking_again(again.clone());
        }
        Instant::new(past, self.held.clone())
    }

    /// The newest base that is not too new: the image, unless it will move on,
    /// else a copy of it.
    fn ground(&self, at: Lsn) -> Result<Ground> {
        let image = self.image.as_ref().filter(|image| image.through <= at);
        let led = |reach: &&Reach| reach.from <= at && at <= reach.to;
        let fitting = self.reached.iter().filter(led).map(|reach| &reach.base);
        let base = fitting.max_by_key(|base| base.from);
        match (image, &self.live, base, self.oldest()) {
            (Some(image), None, ..) => Ok(image.clone()),
            (_, _, Some(base), _) => self.open_base(base),
            (Some(image), Some(live), None, _) => Ok(Ground {
                image: Arc::new(Watched::new(image.image.clone(), live.clone(), at)),
                ..image.clone()
            }),
            (None, _, None, Some(oldest)) if oldest <= at => Err(Error::Gap {
                wanted: at,
                last: (self.reached.iter().map(|reach| reach.to))
                    .filter(|to| *to < at)
                    .max()
                    .unwrap_or(oldest),
            }),
            (None, _, None, oldest) => Err(self.nothing_leads_to(at, oldest)),
        }
    }

    fn nothing_leads_to(&self, wanted: Lsn, oldest: Option<Lsn>) -> Error {
        let missing = self.archive.as_ref().map(Archive::missing);
        match (missing.unwrap_or_default().as_slice(), oldest) {
            ([], None) => Error::NoImage,
            ([], Some(oldest)) => Error::Gone {
                wanted,
                oldest,
                time: self.survey.frame(oldest).ok().map(|frame| frame.time),
            },
            ([first, more @ ..], _) => Error::Absent {
                wanted,
                what: match more.len() {
                    0 => first.clone(),
                    more => format!("{first}, as are {more} more"),
                },
            },
        }
    }

    fn open_base(&self, base: &ImageBase) -> Result<Ground> {
        let archive = self.archive.as_ref().expect("bases are an archive's");
        let image = archive
            .dir()
            .open(&base.name)
            .map_err(io_error(&base.name))?;
        let pinned = self.pinned(base.from)?;
        let len = image.len().map_err(io_error(&base.name))?;
        // (A block that makes no sense is refused below, by what is wrong with it.)
        let needed = instant::plain(&pinned).map_or(0, |(_, sb)| sb.bytes());
        if len < needed {
            let name = base.name.clone();
            return Err(Error::Short { name, len, needed });
        }
        Ok(Ground {
            image,
            from: base.from,
            through: base.through,
            pinned: Some((home(&pinned), pinned)),
        })
    }

    /// The pinned block as of `from`, which the record says that called
    /// everything up to there home.
    fn pinned(&self, from: Lsn) -> Result<Vec<u8>> {
        for frame in self.survey.frames(from.next()) {
            let frame = frame?;
            if frame.kind == Kind::Mark {
                continue;
            }
            match Record::decode_meaning(&frame.meta) {
                Ok(Record::Session(base) | Record::Checkpoint(base)) if base.through == from => {
                    return Ok(base.pinned);
                }
                _ => {}
            }
        }
        Err(Error::NoHistory)
    }

    /// A segment's block index, if the archive has it.
    fn stored(&self, base: Lsn, salt: u64) -> Option<BlockIndex> {
        let archive = self.archive.as_ref()?;
        let segments = archive.segments();
        let segment = segments
            .iter()
            .find(|found| found.base == base && found.salt == salt)?;
        archive.blocks(segment).ok().flatten()
    }
}

/// The image itself as a base.
fn ground(remains: &Remains) -> Result<Ground> {
    let Some(base) = remains.unrecovered.base() else {
        return Err(Error::NoHistory);
    };
    match remains.course {
        Course::First => Err(Error::NoHistory),
        Course::Anew => Err(Error::Foreign),
        Course::GoOn | Course::Recover => Ok(Ground {
            image: remains.image.clone(),
            from: base.through,
            through: remains.unrecovered.reach(),
            pinned: Some((home(&base.pinned), base.pinned.clone())),
        }),
    }
}

/// Where the superblock's block lies, by its length.
fn home(pinned: &[u8]) -> BlockNo {
    BlockNo(u64::from(pinned.len() == 1024))
}

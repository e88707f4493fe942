//! What image, journal and archive together can show.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::watched::Watched;
use super::{Error, Instant, Result, instant, io_error};
use crate::device::Dir;
use crate::fs::mount::{Course, Held, Remains};
use crate::journal::archive::{Archive, Gap, ImageBase, Limits, Reach, gaps, home, pinned};
use crate::journal::{Again, BlockIndex, Ground, Past};
use crate::log::{Survey, found};
use crate::units::{Epoch, Lsn};

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
    /// What the archive should have and has not.
    gaps: Vec<Gap>,
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
            gaps: Vec::new(),
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
        let mut gaps = gaps(&bases, &segments);
        gaps.retain(|gap| gap.timeline.end.is_none());
        let newest = segments.iter().map(|found| found.last).max();
        let mut reached = archive.restorable(&bases, &segments, Some((&journal, &unarchived)));
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
            gaps,
            again: Some(again),
            held: Arc::new(held),
        })
    }

    /// What an archive has of the timeline to which this opening of the log
    /// belongs, and that has ended.
    pub fn of_timeline(archive: Arc<dyn Dir>, first: Epoch) -> Result<Span> {
        let archive = Archive::open(archive, None, Limits::default())?;
        let mut reached = archive.restorable(&archive.bases(), &archive.segments(), None);
        let known: BTreeSet<Epoch> = reached.iter().map(|reach| reach.timeline.first).collect();
        reached.retain(|reach| reach.timeline.is_called(first));
        let Some(timeline) = reached.first().map(|reach| reach.timeline) else {
            return Err(Error::NoTimeline {
                wanted: first,
                known: known.into_iter().collect(),
            });
        };
        let mut gaps = gaps(&archive.bases(), &archive.segments());
        gaps.retain(|gap| gap.timeline == timeline);
        Ok(Span {
            survey: Arc::new(Survey::glance(archive.of_timeline(&timeline))?),
            image: None,
            live: None,
            archive: Some(archive),
            reached,
            gaps,
            again: None,
            held: Arc::default(),
        })
    }

    /// The records.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Records that an archive should have and has not.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The oldest state that can be made: that after this record.
    pub fn oldest(&self) -> Option<Lsn> {
        let image = self.image.iter().map(|ground| ground.through);
        image
            .chain(self.reached.iter().map(|reach| reach.from))
            .min()
    }

    /// The last state that can be made, if no record on the way to it is missing:
    /// a base may lie behind all records.
    pub fn last(&self) -> Lsn {
        let bases = self.reached.iter().map(|reach| reach.from);
        bases.fold(self.survey.last(), Lsn::max)
    }

    /// The image as it was after a record.
    pub fn at(&self, at: Lsn) -> Result<Instant> {
        if at > self.last() {
            return Err(Error::Future {
                wanted: at,
                last: self.last(),
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

    /// Up to which record the base has everything that a state is made from.
    pub fn base_of(&self, at: Lsn) -> Option<Lsn> {
        self.ground(at).ok().map(|ground| ground.from)
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
                archived: self.archive.is_some(),
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
        let pinned = match pinned(self.survey.frames(base.from.next()), base.from) {
            Ok(Some((_, pinned))) => pinned,
            _ if base.whole => instant::home_block(&*image)?,
            found => found.map_err(Error::from).and(Err(Error::NoHistory))?,
        };
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

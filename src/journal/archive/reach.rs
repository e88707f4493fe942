//! Which past states an archive can make.

use std::sync::Arc;

use super::base::pinned;
use super::{Archive, ImageBase};
use crate::device::Dir;
use crate::log::{Found, Survey};
use crate::units::{Epoch, Lsn, Time};

/// A history that goes on without a break in what it builds on. Another one
/// begins when the image was changed by others and the journal began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// The opening of the log with which it begins.
    pub first: Epoch,
    /// The opening with which the next one does; `None`: it goes on.
    pub end: Option<Epoch>,
}

impl Timeline {
    /// Whether an opening of the log belongs to it.
    pub fn has(&self, epoch: Epoch) -> bool {
        epoch >= self.first && self.end.is_none_or(|end| epoch < end)
    }

    /// Whether people mean it by this number: the opening with which it begins,
    /// or, of the oldest, any of its openings, since pruning may have taken the
    /// first.
    pub fn is_called(&self, number: Epoch) -> bool {
        let oldest = self.first == Epoch(0) && self.end.is_some();
        self.first == number || oldest && self.has(number)
    }
}

/// The states that one base leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// From which image.
    pub base: ImageBase,
    /// The first of them, and the last: behind these records.
    pub from: Lsn,
    /// The last.
    pub to: Lsn,
    /// When the first was made, if that is known.
    pub since: Option<Time>,
    /// When the last was made.
    pub until: Option<Time>,
    /// In which timeline.
    pub timeline: Timeline,
}

/// A run of records.
struct Run {
    base: Lsn,
    last: Lsn,
    ended: Option<Time>,
}

/// What the headers of these segments (the archive's, and those that the journal
/// still has) say that the bases lead to, oldest base first.
pub fn reaches(bases: &[ImageBase], segments: &[Found]) -> Vec<Reach> {
    let mut segments: Vec<&Found> = segments.iter().collect();
    segments.sort_by_key(|found| (found.epoch, found.base, found.last));
    let lines = timelines(&segments);
    let mut all = Vec::new();
    for base in bases {
        let Some(timeline) = lines.iter().find(|line| line.has(base.epoch)) else {
            continue;
        };
        let ours = segments.iter().filter(|found| timeline.has(found.epoch));
        let (to, until) = follow(base, ours.copied());
        // (A record behind it has the block that no checkpoint writes home.)
        if to >= base.through && (to > base.from || base.whole) {
            all.push(Reach {
                from: base.through,
                since: base.time,
                base: base.clone(),
                to,
                until,
                timeline: *timeline,
            });
        }
    }
    all
}

impl Archive {
    /// The states that can be made of these bases and segments: its own, and those
    /// of the journal, if there is one. It takes the records to tell: one of them
    /// has the superblock's block, unless the base itself does.
    pub fn restorable(
        &self,
        bases: &[ImageBase],
        segments: &[Found],
        journal: Option<(&Arc<dyn Dir>, &[Found])>,
    ) -> Vec<Reach> {
        let mut all = reaches(bases, segments);
        // One survey of a timeline does for all of its bases.
        let mut surveyed: Option<(Timeline, Option<Survey>)> = None;
        all.retain_mut(|reach| {
            if surveyed.as_ref().map(|(line, _)| *line) != Some(reach.timeline) {
                let folder = match (journal, reach.timeline.end) {
                    (Some((dir, kept)), None) => self.with_journal(dir.clone(), kept),
                    _ => self.folder_of(segments, &reach.timeline),
                };
                surveyed = Some((reach.timeline, Survey::glance(folder).ok()));
            }
            let survey = surveyed.as_ref().and_then(|(_, survey)| survey.as_ref());
            survey.is_some_and(|survey| is_led(reach, survey))
        });
        all
    }
}

/// Whether there is all that a reach takes; notes when it begins, and ends it
/// where the records do that will be read.
fn is_led(reach: &mut Reach, survey: &Survey) -> bool {
    let mut end = reach.base.from;
    for segment in survey.segments() {
        if segment.base <= end.next() {
            end = end.max(segment.last);
        }
    }
    if end < reach.to {
        reach.to = end;
        reach.until = survey.frame(end).ok().map(|frame| frame.time);
    }
    if let Ok(frame) = survey.frame(reach.from) {
        reach.since = Some(frame.time);
    }
    let from = reach.base.from;
    let pinned = || pinned(survey.frames(from.next()), from).ok().flatten();
    reach.to >= reach.from && (reach.base.whole || pinned().is_some_and(|(lsn, _)| lsn <= reach.to))
}

/// The last record up to which these segments of a timeline, sorted by epoch,
/// follow a base without a gap, and when it was made.
pub fn follow<'f>(
    base: &ImageBase,
    segments: impl Iterator<Item = &'f Found>,
) -> (Lsn, Option<Time>) {
    let (mut to, mut until) = (base.from, None);
    for run in chain(segments) {
        if run.base <= to.next() && run.last > to {
            (to, until) = (run.last, run.ended);
        }
    }
    (to, until)
}

/// The timelines of segments sorted by epoch.
pub fn timelines(segments: &[&Found]) -> Vec<Timeline> {
    let mut begins = vec![Epoch(0)];
    begins.extend(
        segments
            .iter()
            .filter(|found| found.anew)
            .map(|found| found.epoch),
    );
    begins.dedup();
    let ends = begins.iter().skip(1).map(|end| Some(*end)).chain([None]);
    begins
        .iter()
        .zip(ends)
        .map(|(first, end)| Timeline { first: *first, end })
        .collect()
}

/// The records of one timeline: a later opening counts from its base on.
fn chain<'f>(segments: impl Iterator<Item = &'f Found>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for found in segments {
        while runs.last().is_some_and(|run| run.base >= found.base) {
            runs.pop();
        }
        if let Some(run) = runs.last_mut() {
            run.last = run.last.min(found.base.prev());
        }
        runs.push(Run {
            base: found.base,
            last: found.last,
            ended: found.ended,
        });
    }
    runs
}

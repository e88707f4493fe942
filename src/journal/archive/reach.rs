//! Which past states an archive can make.

use super::ImageBase;
use crate::log::Found;
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
    /// or, of one that has ended, any of its openings, since pruning may have
    /// taken the first.
    pub fn is_called(&self, number: Epoch) -> bool {
        self.first == number || self.end.is_some() && self.has(number)
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

/// What can be made of these bases and segments (the archive's, and those that
/// the journal still has), oldest base first.
pub fn reaches(bases: &[ImageBase], segments: &[Found]) -> Vec<Reach> {
    let mut segments: Vec<&Found> = segments.iter().collect();
    segments.sort_by_key(|found| (found.epoch, found.base, found.last));
    let lines = timelines(&segments);
    let mut all = Vec::new();
    for base in bases {
        let Some(timeline) = lines.iter().find(|line| line.has(base.epoch)) else {
            continue;
        };
        let runs = chain(segments.iter().filter(|found| timeline.has(found.epoch)));
        let (mut to, mut until) = (base.from, None);
        for run in &runs {
            if run.base <= to.next() && run.last > to {
                (to, until) = (run.last, run.ended);
            }
        }
        // (A record behind it has the block that no checkpoint writes home.)
        if to >= base.through && to > base.from {
            all.push(Reach {
                from: base.through,
                base: base.clone(),
                to,
                until,
                timeline: *timeline,
            });
        }
    }
    all
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
fn chain<'f>(segments: impl Iterator<Item = &'f &'f Found>) -> Vec<Run> {
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

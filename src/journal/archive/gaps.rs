//! Records that an archive should have and has not.

use std::fmt;

use super::reach::timelines;
use super::{Archive, ImageBase, Timeline};
use crate::log::Found;
use crate::units::Lsn;

/// Records between those of a timeline that no segment has: a file has gone, or
/// nothing was archived for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first of them.
    pub first: Lsn,
    /// The last.
    pub last: Lsn,
    /// The last state that can't be made for want of them.
    pub until: Lsn,
    /// In which timeline.
    pub timeline: Timeline,
}

impl Archive {
    /// The gaps among its segments and these, which a journal still has, oldest
    /// first. What lies before its oldest base was thrown away.
    pub fn gaps(&self, journal: Vec<Found>) -> Vec<Gap> {
        let (bases, mut segments) = self.past_of(&journal);
        segments.extend(journal);
        gaps(&bases, &segments)
    }
}

/// Segments as if they ended before these records of a timeline, which can't
/// be used, and went on behind them.
pub fn without(segments: Vec<Found>, timeline: &Timeline, bad: &[Lsn]) -> Vec<Found> {
    let mut parts = segments;
    for lsn in bad {
        let hit =
            |found: &Found| timeline.has(found.epoch) && found.base <= *lsn && *lsn <= found.last;
        let (broken, whole): (Vec<Found>, Vec<Found>) = parts.into_iter().partition(hit);
        parts = whole;
        for found in broken {
            let before = Found {
                last: lsn.prev(),
                ended: None,
                ..found.clone()
            };
            let behind = Found {
                base: lsn.next(),
                ..found
            };
            parts.extend(
                [before, behind]
                    .into_iter()
                    .filter(|part| part.base <= part.last),
            );
        }
    }
    parts
}

/// The gaps among these segments, oldest first, from the oldest of the bases on.
pub fn gaps(bases: &[ImageBase], segments: &[Found]) -> Vec<Gap> {
    let mut segments: Vec<&Found> = segments.iter().collect();
    segments.sort_by_key(|found| (found.epoch, found.base, found.last));
    let mut all = Vec::new();
    for timeline in timelines(&segments) {
        let ours = bases.iter().filter(|base| timeline.has(base.epoch));
        let Some(oldest) = ours.clone().map(|base| base.from).min() else {
            continue;
        };
        let next = |last: Lsn| ours.clone().map(|base| base.through).find(|at| *at > last);
        let run = segments.iter().filter(|found| timeline.has(found.epoch));
        let newest = run.clone().map(|found| found.last).max();
        // A later opening counts from its base on: what it cut off is no gap.
        let mut end = oldest;
        for found in run.filter(|found| found.last > oldest) {
            if found.base > end.next() {
                let last = found.base.prev();
                all.push(Gap {
                    first: end.next(),
                    last,
                    until: next(last).or(newest.map(Lsn::next)).map_or(last, Lsn::prev),
                    timeline,
                });
            }
            end = found.last;
        }
    }
    all
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first, self.last);
        write!(f, "records {first} to {last} are missing from the archive")
    }
}

impl Gap {
    /// Whether a record is one of those.
    pub fn has(&self, lsn: Lsn) -> bool {
        self.first <= lsn && lsn <= self.last
    }
}

//! A history in figures, for pictures of it.

use std::collections::VecDeque;

use super::event::Event;
use super::teller::{Teller, Untold};
use super::totals::Totals;
use crate::journal::Op;
use crate::log::{self, Survey};
use crate::units::{Lsn, Time};

/// What kind of change an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// File data.
    Data,
    /// Names: made, changed, removed.
    Names,
    /// What inodes say: modes, owners, times, attributes.
    Attributes,
    /// Space: fallocate.
    Space,
    /// A mark.
    Mark,
}

impl Sort {
    /// All of them.
    pub const ALL: [Sort; 5] = [
        Sort::Data,
        Sort::Names,
        Sort::Attributes,
        Sort::Space,
        Sort::Mark,
    ];

    fn of(op: &Op) -> Option<Sort> {
        Some(match op {
            Op::Write { .. } => Sort::Data,
            Op::Create { .. }
            | Op::Link { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. } => Sort::Names,
            Op::SetAttr { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. }
            | Op::SetFlags { .. } => Sort::Attributes,
            Op::Fallocate { .. } => Sort::Space,
            Op::Mark { .. } => Sort::Mark,
            Op::Atime { .. } | Op::Orphan { .. } => return None,
        })
    }
}

/// An operation's place in time.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// When.
    pub time: Time,
    /// What.
    pub sort: Sort,
    /// Bytes of file data.
    pub bytes: u64,
}

/// The log says for the first time that records are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// When it says so: in the first record after the sync, or within a second.
    pub time: Time,
    /// Nanoseconds since the oldest of these records was made.
    pub exposed: u64,
    /// How many records.
    pub records: u64,
}

/// A history in figures.
#[derive(Default)]
pub struct Chronicle {
    /// Each operation, in order.
    pub ticks: Vec<Tick>,
    /// Each advance of what is known durable, in order.
    pub settled: Vec<Settled>,
    /// Sums.
    pub totals: Totals,
    /// Operations that are not known to be durable.
    pub unsettled: u64,
    /// What can't be told.
    pub untold: u64,
}

impl Chronicle {
    /// Goes through all that a survey keeps. `visit` sees each operation and
    /// mark as it is told.
    pub fn of(survey: &Survey, durable: Lsn, visit: &mut dyn FnMut(&Event<'_>)) -> Chronicle {
        let mut chronicle = Chronicle::default();
        let all = (Lsn(1), Lsn(u64::MAX));
        Teller::default().tell(survey, durable, all, &mut |told| {
            match told {
                Ok(event) => chronicle.add(&event, visit),
                Err(Untold::Log(log::Error::Recycled(_))) => {}
                Err(_) => chronicle.untold += 1,
            }
            true
        });
        chronicle.settled = settled(survey);
        chronicle
    }

    fn add(&mut self, event: &Event<'_>, visit: &mut dyn FnMut(&Event<'_>)) {
        let Some(sort) = event.op().and_then(Sort::of) else {
            return;
        };
        self.ticks.push(Tick {
            time: event.frame.time,
            sort,
            bytes: event.bytes(),
        });
        if sort != Sort::Mark {
            self.totals.add(event);
            self.unsettled += u64::from(!event.durable);
        }
        visit(event);
    }
}

/// When the durable mark advanced, by the frames that carry it.
fn settled(survey: &Survey) -> Vec<Settled> {
    let mut all = Vec::new();
    // Records that are not yet known durable.
    let mut waiting: VecDeque<(Lsn, Time)> = VecDeque::new();
    for frame in survey.frames(Lsn(1)).flatten() {
        let oldest = waiting.front().map(|(_, time)| *time);
        let before = waiting.len();
        while waiting
            .front()
            .is_some_and(|(lsn, _)| *lsn <= frame.durable)
        {
            waiting.pop_front();
        }
        if let (Some(oldest), true) = (oldest, waiting.len() < before) {
            all.push(Settled {
                time: frame.time,
                exposed: frame.time.nanos_since(oldest),
                records: (before - waiting.len()) as u64,
            });
        }
        if frame.kind == log::Kind::Record {
            waiting.push_back((frame.lsn, frame.time));
        }
    }
    all
}

//! Cut strategies: what to lose at one point.
//!
//! A power cut may keep any subset of what was pending, in any torn form: too
//! many to try. Each [`Strategy`] is a way of choosing that has found bugs
//! in file systems; together they try every small difference from "all" and
//! from "a prefix". With up to `width` pending changes the first five are
//! tried in full (but for pairs, of which there may be `width` too); beyond
//! that chance takes `width` of each.

use std::fmt;

use super::random::Random;
use crate::device::crash::{Fate, Pending, Plan};
use crate::device::volatile::{Event, FileId};

/// A way of choosing what a cut loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing is lost, and more is promised: only the daemon was killed.
    Kill,
    /// The oldest changes are kept, the others lost: none, each number, all.
    Prefix,
    /// One change is lost.
    OneMissing,
    /// Two changes are lost.
    TwoMissing,
    /// One write is torn: the last that was kept, or one among all.
    Torn,
    /// Everything of one kind is lost: contents, lengths and names, the
    /// image's, the journal's.
    Kinds,
    /// Each change meets a fate of its own.
    Random,
}

impl Strategy {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Strategy; 7] = [
        Strategy::Kill,
        Strategy::Prefix,
        Strategy::OneMissing,
        Strategy::TwoMissing,
        Strategy::Torn,
        Strategy::Kinds,
        Strategy::Random,
    ];
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Strategy::Kill => "kill",
            Strategy::Prefix => "prefix kept",
            Strategy::OneMissing => "one missing",
            Strategy::TwoMissing => "two missing",
            Strategy::Torn => "one torn",
            Strategy::Kinds => "one kind missing",
            Strategy::Random => "random subset",
        })
    }
}

/// The choices at one point.
pub fn plans(pending: &[Pending], width: usize, random: &mut Random) -> Vec<(Strategy, Plan)> {
    let mut plans = Vec::new();
    // Stores into maps (the disposable index) are no system calls: they go
    // with what was written before them, and chance alone parts them.
    let steps: Vec<usize> = (0..pending.len())
        .filter(|&n| !matches!(pending[n], Event::Write { mapped: true, .. }))
        .collect();
    let all = Plan::all(pending);
    let but = |lost: &[usize], fate: Fate| {
        let mut plan = all.clone();
        lost.iter().for_each(|&n| plan.0[n] = fate);
        plan
    };

    plans.push((Strategy::Prefix, Plan::default()));
    plans.push((Strategy::Prefix, all.clone()));
    let prefix = |n: usize| Plan(vec![Fate::Kept; n]);
    plans.extend(
        some(&steps, width, random)
            .into_iter()
            .map(|n| (Strategy::Prefix, prefix(n))),
    );
    plans.extend(
        some(&steps, width, random)
            .into_iter()
            .map(|n| (Strategy::OneMissing, but(&[n], Fate::Lost))),
    );
    plans.extend(
        pairs(&steps, width, random)
            .into_iter()
            .map(|pair| (Strategy::TwoMissing, but(&pair, Fate::Lost))),
    );
    let writes: Vec<usize> = (steps.iter().copied())
        .filter(|&n| pending[n].is_write())
        .collect();
    for n in some(&writes, width, random) {
        let torn = Fate::Torn(random.bits() as u32);
        let mut last = prefix(n);
        last.0.push(torn);
        plans.push((Strategy::Torn, last));
        plans.push((Strategy::Torn, but(&[n], torn)));
    }
    if steps.len() > 2 {
        let kinds: [fn(&Pending) -> bool; 4] = [
            |pending| matches!(pending, Event::Write { .. }),
            |pending| !matches!(pending, Event::Write { .. }),
            |pending| pending.file() == Some(FileId::IMAGE),
            |pending| pending.file() != Some(FileId::IMAGE),
        ];
        plans.extend(kinds.map(|lost| (Strategy::Kinds, without(pending, lost))));
    }
    if !pending.is_empty() {
        let drawn = (0..width.div_ceil(2)).map(|_| Plan::random(pending, random.bits()));
        plans.extend(drawn.map(|plan| (Strategy::Random, plan)));
    }
    plans
}

fn without(pending: &[Pending], lost: fn(&Pending) -> bool) -> Plan {
    let fate = |pending| {
        if lost(pending) {
            Fate::Lost
        } else {
            Fate::Kept
        }
    };
    Plan(pending.iter().map(fate).collect())
}

/// All of the choices if they are few, else so many that chance takes.
fn some(choices: &[usize], most: usize, random: &mut Random) -> Vec<usize> {
    match choices.len() <= most {
        true => choices.to_vec(),
        false => (0..most).map(|_| *random.pick(choices)).collect(),
    }
}

fn pairs(choices: &[usize], most: usize, random: &mut Random) -> Vec<[usize; 2]> {
    let count = choices.len() * choices.len().saturating_sub(1) / 2;
    match count <= most {
        true => (choices.iter().enumerate())
            .flat_map(|(at, &a)| choices[at + 1..].iter().map(move |&b| [a, b]))
            .collect(),
        false => (0..most)
            .map(|_| [*random.pick(choices), *random.pick(choices)])
            .filter(|[a, b]| a != b)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn write(n: u64) -> Pending {
        Event::Write {
            file: FileId(n as u32 % 2),
            offset: n * 512,
            bytes: vec![1; 512].into(),
            mapped: false,
        }
    }

    #[test]
    fn few_changes_are_tried_in_full() {
        let pending: Vec<Pending> = (0..4).map(write).collect();
        let plans = plans(&pending, 8, &mut Random::new(1));
        let of = |wanted: Strategy| -> HashSet<&Plan> {
            plans
                .iter()
                .filter(|(strategy, _)| *strategy == wanted)
                .map(|(_, plan)| plan)
                .collect()
        };
        // The empty prefix is there in two spellings.
        assert_eq!(of(Strategy::Prefix).len(), 5);
        assert_eq!(of(Strategy::OneMissing).len(), 4);
        assert_eq!(of(Strategy::TwoMissing).len(), 6);
        // The last one torn is both.
        assert_eq!(of(Strategy::Torn).len(), 7);
        assert_eq!(of(Strategy::Kinds).len(), 4);
    }

    #[test]
    fn many_changes_cost_no_more_than_the_width_allows() {
        let pending: Vec<Pending> = (0..500).map(write).collect();
        assert!(plans(&pending, 6, &mut Random::new(1)).len() <= 2 + 5 * 6 + 4 + 3);
    }
}

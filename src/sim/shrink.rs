//! Smaller ways to the same failure.

use std::time::Instant;

use super::explore::{Cut, Violation};
use super::round::Failure;
use super::workload::Workload;
use crate::device::crash::{Fate, Plan};

/// Leaves out steps, in ever smaller runs of them, as long as it still fails.
pub fn shrink_steps(
    workload: &Workload,
    failure: Failure,
    deadline: Instant,
    fails: &dyn Fn(&Workload) -> Option<Failure>,
) -> (Workload, Failure) {
    let (mut best, mut failure) = (workload.clone(), failure);
    let mut run = best.0.len() / 2;
    while run > 0 && Instant::now() < deadline {
        let mut from = best.0.len().saturating_sub(run);
        loop {
            let mut fewer = best.clone();
            fewer.0.drain(from..(from + run).min(best.0.len()));
            if let Some(again) = fails(&fewer) {
                (best, failure) = (fewer, again);
            }
            if from == 0 || Instant::now() >= deadline {
                break;
            }
            from = from.saturating_sub(run);
        }
        run = if run == 1 { 0 } else { run.div_ceil(2) };
    }
    (best, failure)
}

/// Takes away what is not needed: cuts during recovery, and of the pending
/// changes keeps as many as it can, so that those that had to be lost or
/// torn stand out.
pub fn shrink_cut(
    violation: Violation,
    deadline: Instant,
    fails: &dyn Fn(&Cut) -> Option<String>,
) -> Violation {
    let mut best = violation;
    let attempt = |best: &mut Violation, cut: Cut| {
        if Instant::now() < deadline
            && let Some(what) = fails(&cut)
        {
            *best = Violation { cut, what };
        }
    };
    while let Some(fewer) = best.cut.again.len().checked_sub(1) {
        let mut cut = best.cut.clone();
        cut.again.truncate(fewer);
        attempt(&mut best, cut);
        if best.cut.again.len() > fewer {
            break;
        }
    }
    for level in 0..=best.cut.again.len() {
        for n in 0..plan(&mut best.cut, level).0.len() {
            for milder in [Fate::Kept, Fate::Lost] {
                let fate = plan(&mut best.cut, level).0[n];
                if fate != Fate::Kept && fate != milder {
                    let mut cut = best.cut.clone();
                    plan(&mut cut, level).0[n] = milder;
                    attempt(&mut best, cut);
                }
            }
        }
    }
    best
}

fn plan(cut: &mut Cut, level: usize) -> &mut Plan {
    match level.checked_sub(1) {
        None => &mut cut.plan,
        Some(at) => &mut cut.again[at].1,
    }
}

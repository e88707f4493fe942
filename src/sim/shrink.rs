//! Smaller ways to the same failure.

use std::time::Instant;

use super::explore::Violation;
use super::round::Failure;
use super::workload::Workload;
use crate::device::crash::Fate;

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

/// Keeps of the pending changes as many as it can, so that those that had to
/// be lost or torn stand out.
pub fn shrink_plan(
    violation: Violation,
    deadline: Instant,
    fails: &dyn Fn(&Violation) -> Option<String>,
) -> Violation {
    let mut best = violation;
    for n in 0..best.plan.0.len() {
        for milder in [Fate::Kept, Fate::Lost] {
            if best.plan.0[n] == Fate::Kept
                || best.plan.0[n] == milder
                || Instant::now() >= deadline
            {
                continue;
            }
            let mut tried = best.clone();
            tried.plan.0[n] = milder;
            if let Some(what) = fails(&tried) {
                best = Violation { what, ..tried };
            }
        }
    }
    best
}

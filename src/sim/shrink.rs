//! Smaller ways to the same failure.

use std::time::Instant;

use super::explore::{Cut, Violation};
use super::round::Failure;
use super::workload::Workload;
use crate::device::crash::{Fate, Plan};

/// Leaves out steps, in ever smaller runs of them, as long as it still fails;
/// at last no single one of them can be left out.
pub fn shrink_steps(
    workload: &Workload,
    failure: Failure,
    deadline: Instant,
    fails: &dyn Fn(&Workload) -> Option<Failure>,
) -> (Workload, Failure) {
    let (mut best, mut failure) = (workload.clone(), failure);
    let mut run = best.0.len().div_ceil(2);
    while run > 0 && Instant::now() < deadline {
        let before = best.0.len();
        let mut from = best.0.len().saturating_sub(run);
        loop {
            let mut fewer = best.clone();
            fewer.0.drain(from..(from + run).min(best.0.len()));
            if fewer != best
                && let Some(again) = fails(&fewer)
            {
                (best, failure) = (fewer, again);
            }
            if from == 0 || Instant::now() >= deadline {
                break;
            }
            from = from.saturating_sub(run);
        }
        run = match run {
            1 if best.0.len() == before => 0,
            _ => run.div_ceil(2).min(best.0.len()),
        };
    }
    (best, failure)
}

/// Takes away what is not needed: cuts during recovery, and of the pending
/// changes keeps as many as it can, so that those that had to be lost or
/// torn stand out; at last none of them can be kept. `fails` spells out the
/// fate of everything that was pending.
pub fn shrink_cut(
    violation: Violation,
    deadline: Instant,
    fails: &dyn Fn(&Cut) -> Option<Violation>,
) -> Violation {
    let mut best = violation;
    let attempt = |best: &mut Violation, cut: Cut| {
        let failed = (Instant::now() < deadline).then(|| fails(&cut)).flatten();
        let found = failed.is_some();
        if let Some(failed) = failed {
            *best = failed;
        }
        found
    };
    let as_it_is = best.cut.clone();
    attempt(&mut best, as_it_is);
    let mut milder = true;
    while milder {
        milder = false;
        for level in (0..best.cut.again.len()).rev() {
            let mut cut = best.cut.clone();
            cut.again.remove(level);
            milder |= attempt(&mut best, cut);
        }
        for level in 0..=best.cut.again.len() {
            let mut run = plan(&mut best.cut, level).0.len();
            while run > 0 {
                for from in (0..plan(&mut best.cut, level).0.len()).step_by(run) {
                    for fate in [Fate::Kept, Fate::Lost] {
                        let mut cut = best.cut.clone();
                        milder |= soften(plan(&mut cut, level), from, run, fate)
                            && attempt(&mut best, cut);
                    }
                }
                run /= 2;
            }
        }
    }
    best
}

/// Gives so many changes this fate where that is milder than theirs; whether
/// that changes any.
fn soften(plan: &mut Plan, from: usize, run: usize, fate: Fate) -> bool {
    let fates = plan.0.iter_mut().skip(from).take(run);
    let harsher = fates.filter(|old| {
        matches!(
            (&**old, fate),
            (Fate::Torn(_), _) | (Fate::Lost, Fate::Kept)
        )
    });
    harsher.map(|old| *old = fate).count() > 0
}

fn plan(cut: &mut Cut, level: usize) -> &mut Plan {
    match level.checked_sub(1) {
        None => &mut cut.plan,
        Some(at) => &mut cut.again[at].1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// A law that breaks when changes 3 and 17 of 20 are lost and, in the
    /// recovery, 2 of 5 is torn.
    fn breaks(cut: &Cut) -> Option<Violation> {
        let spelled = |plan: &Plan, count| {
            let mut fates = plan.0.clone();
            fates.resize(count, Fate::Lost);
            Plan(fates)
        };
        let mut cut = cut.clone();
        cut.plan = spelled(&cut.plan, 20);
        for (_, plan) in &mut cut.again {
            *plan = spelled(plan, 5);
        }
        let lost = |n: usize| cut.plan.0[n] == Fate::Lost;
        let torn = |(_, plan): &(usize, Plan)| matches!(plan.0[2], Fate::Torn(_));
        let broken = lost(3) && lost(17) && cut.again.first().is_some_and(torn);
        let what = "broken".to_owned();
        broken.then_some(Violation { cut, what })
    }

    #[test]
    fn only_what_has_to_be_lost_stays_lost() {
        // As a prefix that ends early says it: the rest is lost.
        for text in [
            "power 0 120: +2; 12: -1 ~5 ~6; 7: +9",
            "power 0 120: ; 12: ~1 ~2 ~3 ~4 ~5",
        ] {
            let cut: Cut = text.parse().unwrap();
            let found = breaks(&cut).unwrap();
            let least = shrink_cut(found, soon(), &breaks).cut;
            let torn = &least.again[0].1.0[2];
            let Fate::Torn(seed) = torn else {
                panic!("{least}");
            };
            assert_eq!(
                least.to_string().trim_end(),
                format!("power 0 120: +3 -1 +13 -1 +2; 12: +2 ~{seed} +2")
            );
        }
    }

    #[test]
    fn only_steps_that_are_needed_stay() {
        let names: String = (0..40).map(|n| format!("create f{n} 644\n")).collect();
        let all: Workload = names.parse().unwrap();
        let needed = ["create f3 644", "create f4 644", "create f31 644"];
        let fails = |steps: &Workload| {
            let text = steps.to_string();
            let has = |step: &&str| text.lines().any(|line| line == *step);
            (needed.iter().all(has)).then(|| Failure::Run("broken".to_owned()))
        };
        let failure = fails(&all).unwrap();
        let (least, _) = shrink_steps(&all, failure, soon(), &fails);
        assert_eq!(least.to_string().trim().lines().collect::<Vec<_>>(), needed);
    }
}

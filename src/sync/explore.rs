//! Runs a model under many schedules.

use std::env;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

/// Half of the schedules are drawn anew at every step; the others keep to
/// priorities and change them three times, which finds orders that the first
/// would hardly ever draw. A failure prints its schedule, to be run again
/// with `JOURNALFS_SCHEDULE`.
pub fn explore(model: impl Fn() + Send + Sync + Copy + 'static) {
    if let Ok(schedule) = env::var("JOURNALFS_SCHEDULE") {
        return run(ReplayScheduler::new_from_encoded(&schedule), model);
    }
    let number = |name: &str| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let iterations = number("JOURNALFS_ITERATIONS").unwrap_or(200) as usize;
    let seed = number("JOURNALFS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("{iterations} schedules, seed {seed}");
    let half = iterations.div_ceil(2);
    run(RandomScheduler::new_from_seed(seed, half), model);
    run(PctScheduler::new_from_seed(seed, 3, half), model);
}

fn run(scheduler: impl Scheduler + 'static, model: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(model);
}

/// A number below `n`, part of the schedule.
pub fn below(n: u64) -> u64 {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_range(0..n)
}

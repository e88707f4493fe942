//! Tries the law of crash consistency for as long as asked (`scripts/crash`).
//!
//!     crash [--minutes N] [--rounds N] [--states N] [--seed S] [--threads N] [--steps FILE]
//!
//! Ends with exit code 1 and a report at the first violation.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use journalfs::sim::explore::Counts;
use journalfs::sim::round::{Report, Round};

/// Cuts the power of a simulated host at every write and sync of seeded
/// workloads, recovers, and judges what is left.
#[derive(Parser)]
struct Arguments {
    /// Stop after so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Stop after so many rounds (a round is one workload with all its cuts).
    #[arg(long)]
    rounds: Option<u64>,
    /// Stop after so many unique states.
    #[arg(long)]
    states: Option<u64>,
    /// The first round's seed; the others follow from it. Drawn if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Steps to run instead of the seed's own, one on a line.
    #[arg(long)]
    steps: Option<std::path::PathBuf>,
    /// Spend at most so many seconds on making a failure smaller.
    #[arg(long, default_value_t = 60)]
    shrink: u64,
}

struct Run {
    arguments: Arguments,
    seed: u64,
    steps: Option<String>,
    begun: Instant,
    rounds: AtomicU64,
    failed: AtomicBool,
    counts: Mutex<Counts>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64 >> 10)
    });
    let steps = match arguments
        .steps
        .as_ref()
        .map(std::fs::read_to_string)
        .transpose()
    {
        Ok(steps) => steps,
        Err(error) => {
            eprintln!("crash: --steps: {error}");
            return ExitCode::from(16);
        }
    };
    println!("first seed {seed}");
    let threads = arguments.threads.max(1);
    let run = Run {
        arguments,
        seed,
        steps,
        begun: Instant::now(),
        rounds: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        counts: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run.work());
        }
    });
    run.say();
    ExitCode::from(u8::from(run.failed.load(Ordering::Relaxed)))
}

impl Run {
    fn work(&self) {
        while let Some(seed) = self.next() {
            let mut round = Round::new(seed);
            if let Some(steps) = &self.steps {
                round.workload = steps.parse().expect("the steps can be read");
            }
            match round.run() {
                Ok(counts) => self.done(counts),
                Err(failure) if !self.failed.swap(true, Ordering::Relaxed) => {
                    eprintln!("seed {seed} fails; making it smaller ...\n{failure}");
                    let report: Report =
                        round.report(failure, Duration::from_secs(self.arguments.shrink));
                    eprintln!("\n{report}");
                }
                Err(_) => {}
            }
        }
    }

    /// The next round's seed, if there is to be one.
    fn next(&self) -> Option<u64> {
        let number = self.rounds.fetch_add(1, Ordering::Relaxed);
        let over = |limit: Option<u64>, so_far: u64| limit.is_some_and(|limit| so_far >= limit);
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        let one_round = self.arguments.minutes.is_none() && self.arguments.rounds.is_none();
        let ended = self.failed.load(Ordering::Relaxed)
            || over(self.arguments.rounds, number)
            || over(self.arguments.states, self.counts().unique)
            || self.arguments.minutes.is_some_and(|limit| minutes >= limit)
            || (one_round && self.arguments.states.is_none() && number > 0);
        (!ended).then(|| self.seed.wrapping_add(number))
    }

    fn counts(&self) -> Counts {
        *self
            .counts
            .lock()
            .expect("no thread panics while it counts")
    }

    fn done(&self, more: Counts) {
        let before = self.counts().unique / 20_000;
        *self
            .counts
            .lock()
            .expect("no thread panics while it counts") += more;
        if self.counts().unique / 20_000 != before {
            self.say();
        }
    }

    fn say(&self) {
        let Counts {
            states,
            unique,
            nested,
        } = self.counts();
        let seconds = self.begun.elapsed().as_secs_f64();
        println!(
            "{states} states, {unique} unique ({nested} during recovery) in {seconds:.0} s: {:.0} a second",
            unique as f64 / seconds
        );
    }
}

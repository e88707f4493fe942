//! Lets every single host call of seeded runs fail, and judges what is left
//! (`scripts/failing`).
//!
//!     failing [--minutes N] [--rounds N] [--seed S] [--threads N] [--fault FAULT]
//!
//! Ends with exit code 1 and a report at the first violation.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use journalfs::device::fault::Fault;
use journalfs::sim::failing::{Counts, Round};

/// Each call of a workload to its host fails once (and all fail from it on);
/// then the daemon is killed, the power is cut, and the law must hold.
#[derive(Parser)]
struct Arguments {
    /// Begin no round after so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Stop after so many rounds (a round is one workload with all its faults).
    #[arg(long)]
    rounds: Option<u64>,
    /// The first round's seed; the others follow from it. Drawn if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only this fault, as a report names it.
    #[arg(long)]
    fault: Option<Fault>,
    /// Of each kind of fault, at most so many calls in a run, evenly spread.
    #[arg(long, default_value_t = u64::MAX)]
    calls: u64,
}

struct Campaign {
    arguments: Arguments,
    seed: u64,
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
    println!("first seed {seed}");
    let threads = arguments.threads.max(1);
    let campaign = Campaign {
        arguments,
        seed,
        begun: Instant::now(),
        rounds: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        counts: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| campaign.work());
        }
    });
    campaign.say();
    ExitCode::from(u8::from(campaign.failed.load(Ordering::Relaxed)))
}

impl Campaign {
    fn work(&self) {
        while let Some(seed) = self.next() {
            let round = Round::new(seed);
            let done = match &self.arguments.fault {
                Some(fault) => round.one(fault),
                None => round.all(self.arguments.calls, &|| {
                    self.failed.load(Ordering::Relaxed)
                }),
            };
            match done {
                Ok(counts) => {
                    *self.counts.lock().expect("nobody panics while it counts") += counts;
                    self.say();
                }
                Err(report) => {
                    if !self.failed.swap(true, Ordering::Relaxed) {
                        eprintln!("{report}");
                    }
                }
            }
        }
    }

    /// The next round's seed, if there is to be one.
    fn next(&self) -> Option<u64> {
        let number = self.rounds.fetch_add(1, Ordering::Relaxed);
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        let Arguments {
            minutes: most,
            rounds,
            ..
        } = self.arguments;
        let ended = self.failed.load(Ordering::Relaxed)
            || rounds.is_some_and(|rounds| number >= rounds)
            || most.is_some_and(|most| minutes >= most)
            || (rounds.is_none() && most.is_none() && number > 0);
        (!ended).then(|| self.seed.wrapping_add(number))
    }

    fn say(&self) {
        let Counts { runs, states } = *self.counts.lock().expect("nobody panics while it counts");
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("{runs} runs with a fault, {states} states after them in {seconds:.0} s");
    }
}

//! Tries the law of crash consistency for as long as asked (`scripts/crash`).
//!
//! ```text
//!     crash [--minutes N] [--rounds N] [--states N] [--seed S] [--threads N]
//!           [--only KIND] [--sequences FROM..TO] [--light] [--steps FILE] [--readme FILE]
//! ```
//!
//! A campaign takes rounds of all kinds in turn. Ends with exit code 1 and a
//! report at the first violation.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use journalfs::device::memory::Pages;
use journalfs::sim::making::Making;
use journalfs::sim::random::Random;
use journalfs::sim::round::Round;
use journalfs::sim::{Counts, sequence};

#[path = "../tests/law/foreign.rs"]
#[allow(dead_code)] // what only tests take
mod foreign;
#[path = "crash/summary.rs"]
mod summary;
#[path = "../tests/support/mod.rs"]
mod support;

use foreign::Judges;
use summary::Summary;

/// Cuts the power of a simulated host at every write and sync of many
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
    /// Rounds of this kind only.
    #[arg(long)]
    only: Option<Kind>,
    /// These bounded exhaustive sequences and nothing else, such as 0..330
    /// (all of one operation).
    #[arg(long, value_parser = range)]
    sequences: Option<Range<u64>>,
    /// Few cuts of each run, so that very many sequences can be tried, such as
    /// 0..109230 (all of up to two operations).
    #[arg(long)]
    light: bool,
    /// Steps to run instead of the seed's own, one on a line.
    #[arg(long)]
    steps: Option<PathBuf>,
    /// Ask e2fsck about one in so many states, whatever their shape.
    #[arg(long, default_value_t = 1000)]
    sample: u64,
    /// Spend at most so many seconds on making a failure smaller.
    #[arg(long, default_value_t = 60)]
    shrink: u64,
    /// Write the result between the markers in this file (README.md if none
    /// is named).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "README.md")]
    readme: Option<PathBuf>,
}

/// What a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Random workloads.
    Seeds,
    /// Long random workloads.
    Soak,
    /// Images with an internal journal.
    Adopted,
    /// Bounded exhaustive sequences.
    Sequences,
    /// Unfinished images.
    Mkfs,
}

const KINDS: usize = 5;

/// Whose turn it is.
const TURNS: [Kind; 16] = {
    use Kind::*;
    [
        Seeds, Sequences, Adopted, Seeds, Sequences, Mkfs, Seeds, Sequences, //
        Seeds, Sequences, Adopted, Seeds, Sequences, Seeds, Soak, Sequences,
    ]
};

/// Sequences that a turn takes.
const BATCH: u64 = 16;

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("FROM..TO is wanted")?;
    let number = |text: &str| text.parse().map_err(|e| format!("{text:?}: {e}"));
    Ok(number(from)?..number(to)?)
}

struct Campaign {
    arguments: Arguments,
    seed: u64,
    steps: Option<String>,
    /// What the sequences' turns take from.
    sequences: Range<u64>,
    internal: Option<Pages>,
    judges: Judges,
    begun: Instant,
    turns: AtomicU64,
    /// Rounds begun, by kind.
    rounds: [AtomicU64; KINDS],
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
    // Without a range, another part of those of up to two operations for
    // every seed.
    let sequences = arguments.sequences.clone().unwrap_or_else(|| {
        let first = Random::new(seed).below(sequence::count(2));
        first..first + sequence::count(2)
    });
    let campaign = Campaign {
        judges: Judges::new(arguments.sample),
        internal: foreign::with_internal_journal(),
        arguments,
        seed,
        steps,
        sequences,
        begun: Instant::now(),
        turns: AtomicU64::new(0),
        rounds: Default::default(),
        failed: AtomicBool::new(false),
        counts: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| campaign.work());
        }
    });
    let failed = campaign.failed.load(Ordering::Relaxed);
    let summary = campaign.summary();
    println!("{summary}");
    if let (Some(readme), false) = (&campaign.arguments.readme, failed)
        && let Err(error) = summary.write_into(readme)
    {
        eprintln!("crash: {}: {error}", readme.display());
        return ExitCode::from(16);
    }
    ExitCode::from(u8::from(failed))
}

impl Campaign {
    fn work(&self) {
        // Sequences begin alike and meet the same states again and again.
        let mut seen = HashSet::new();
        while let Some(kind) = self.turn() {
            let first = self.take(kind, if kind == Kind::Sequences { BATCH } else { 1 });
            let seed = self.seed.wrapping_add(first);
            match kind {
                Kind::Seeds => self.round(self.with_steps(Round::new(seed)), &mut HashSet::new()),
                Kind::Soak => self.round(Round::soak(seed), &mut HashSet::new()),
                Kind::Adopted => {
                    if let Some(image) = self.internal.clone() {
                        let round = Round::adopting(seed, image, foreign::BLOCK_SIZE);
                        self.round(round, &mut HashSet::new());
                    }
                }
                Kind::Sequences => {
                    for n in first..first + BATCH {
                        self.sequence(self.sequences.start + n, &mut seen);
                    }
                }
                Kind::Mkfs => self.mkfs(seed),
            }
        }
    }

    /// What comes next, if anything does.
    fn turn(&self) -> Option<Kind> {
        let arguments = &self.arguments;
        let number = self.turns.fetch_add(1, Ordering::Relaxed);
        let kind = match (arguments.only, &arguments.sequences) {
            (Some(kind), _) => kind,
            (None, Some(_)) => Kind::Sequences,
            (None, None) => TURNS[number as usize % TURNS.len()],
        };
        let over = |limit: Option<u64>, so_far: u64| limit.is_some_and(|limit| so_far >= limit);
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        let bounded = arguments.minutes.is_some()
            || arguments.rounds.is_some()
            || arguments.states.is_some()
            || arguments.sequences.is_some();
        let left = self.sequences.end - self.sequences.start;
        let ended = self.failed.load(Ordering::Relaxed)
            || over(arguments.rounds, number)
            || over(arguments.states, self.counts().all.unique)
            || arguments.minutes.is_some_and(|limit| minutes >= limit)
            || (kind == Kind::Sequences && self.begun(kind) >= left)
            || (!bounded && number > 0);
        (!ended).then_some(kind)
    }

    /// The numbers of the next rounds of a kind: the first of them.
    fn take(&self, kind: Kind, count: u64) -> u64 {
        self.rounds[kind as usize].fetch_add(count, Ordering::Relaxed)
    }

    fn begun(&self, kind: Kind) -> u64 {
        let begun = self.rounds[kind as usize].load(Ordering::Relaxed);
        match kind {
            // The last batch may be cut short.
            Kind::Sequences => begun.min(self.sequences.end - self.sequences.start),
            _ => begun,
        }
    }

    fn with_steps(&self, mut round: Round) -> Round {
        if let Some(steps) = &self.steps {
            round.workload = steps.parse().expect("the steps can be read");
        }
        round
    }

    fn sequence(&self, number: u64, seen: &mut HashSet<u64>) {
        if number >= self.sequences.end || self.failed.load(Ordering::Relaxed) {
            return;
        }
        let number = match self.arguments.sequences {
            Some(_) => number,
            None => number % sequence::count(2),
        };
        if let Some(round) = Round::sequence(number) {
            self.round(round, seen);
        }
        if seen.len() > 4_000_000 {
            seen.clear();
        }
    }

    fn round(&self, mut round: Round, seen: &mut HashSet<u64>) {
        let minutes = self
            .arguments
            .minutes
            .filter(|_| self.arguments.sequences.is_none());
        round.light = self.arguments.light;
        round.until = minutes.map(|limit| self.begun + Duration::from_secs_f64(limit * 60.0));
        match round.run_with(seen, &self.judges) {
            Ok(counts) => self.done(counts),
            Err(failure) => self.fail(|| {
                eprintln!("{} fails; making it smaller ...\n{failure}", round.origin);
                round.until = None;
                let patience = Duration::from_secs(self.arguments.shrink);
                eprintln!("\n{}", round.report(failure, patience));
            }),
        }
    }

    fn mkfs(&self, seed: u64) {
        let making = Making::new(seed);
        match making.and_then(|making| making.run(&mut HashSet::new(), Some(&self.judges))) {
            Ok(counts) => self.done(counts),
            Err(what) => self.fail(|| eprintln!("the law is violated: {what}")),
        }
    }

    /// Of many failures the first is told.
    fn fail(&self, tell: impl FnOnce()) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tell();
        }
    }

    fn counts(&self) -> Counts {
        *self
            .counts
            .lock()
            .expect("no thread panics while it counts")
    }

    fn done(&self, more: Counts) {
        const OFTEN: u64 = 100_000;
        let before = self.counts().all.unique / OFTEN;
        *self
            .counts
            .lock()
            .expect("no thread panics while it counts") += more;
        if self.counts().all.unique / OFTEN != before {
            println!("{}", self.summary().head());
        }
    }

    fn summary(&self) -> Summary {
        let rounds = [
            Kind::Seeds,
            Kind::Sequences,
            Kind::Adopted,
            Kind::Soak,
            Kind::Mkfs,
        ];
        Summary {
            seed: self.seed,
            threads: self.arguments.threads.max(1),
            counts: self.counts(),
            seconds: self.begun.elapsed().as_secs_f64(),
            rounds: rounds
                .map(|kind| (format!("{kind:?}").to_lowercase(), self.begun(kind)))
                .to_vec(),
            first_sequence: self.sequences.start,
            e2fsck: self.judges.by_e2fsck.load(Ordering::Relaxed),
            kernel: self.judges.by_kernel.load(Ordering::Relaxed),
        }
    }
}

//! Tries the law of crash consistency for as long as asked (`scripts/crash`).
//!
//! ```text
//!     crash [--minutes N] [--rounds N] [--states N] [--seed S] [--threads N]
//!           [--only KIND] [--sequences FROM..TO [--scattered] [--block-size N]] [--light]
//!           [--steps FILE] [--readme FILE]
//! ```
//!
//! A campaign takes rounds of all kinds in turn. Ends with exit code 1 and a
//! report at the first violation.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use journalfs::device::memory::Pages;
use journalfs::sim::making::Making;
use journalfs::sim::round::{Failure, Round};
use journalfs::sim::sequence::{self, Order};
use journalfs::sim::{Counts, Report, Seen};

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
    /// (all of one operation) or 109230.. (all of three).
    #[arg(long, value_parser = range)]
    sequences: Option<Range<u64>>,
    /// Not one after the other, but so that whenever this ends those that were
    /// tried lie evenly over the range; the seed says where it begins.
    #[arg(long, requires = "sequences")]
    scattered: bool,
    /// Bytes of a block of the sequences' images; without a range all of
    /// these in turn, else 1024.
    #[arg(long, value_parser = block_size)]
    block_size: Option<u32>,
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
    let all = sequence::count(sequence::LONGEST);
    let range = number(from)?..if to.is_empty() { all } else { number(to)? };
    match range.start < range.end && range.end <= all {
        true => Ok(range),
        false => Err(format!("there are sequences 0..{all}")),
    }
}

const BLOCK_SIZES: [u32; 3] = [1024, 2048, 4096];

fn block_size(text: &str) -> Result<u32, String> {
    let known = BLOCK_SIZES
        .into_iter()
        .find(|size| size.to_string() == text);
    known.ok_or_else(|| format!("possible are {BLOCK_SIZES:?}"))
}

struct Campaign {
    arguments: Arguments,
    seed: u64,
    steps: Option<String>,
    /// What the sequences' turns take from, by turns.
    sequences: Vec<Order>,
    /// How many were taken of each.
    taken: Vec<AtomicU64>,
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
    // Without a range, others for every seed, and as many of three operations
    // as of one and two.
    let [two, three] = [2, 3].map(sequence::count);
    let sequences = match arguments.sequences.clone() {
        Some(range) if arguments.scattered => vec![Order::scattered(range, seed)],
        Some(range) => vec![Order::in_turn(range)],
        None => [0..two, two..three]
            .map(|range| Order::scattered(range, seed))
            .to_vec(),
    };
    let campaign = Campaign {
        judges: Judges::new(arguments.sample),
        internal: foreign::with_internal_journal(),
        arguments,
        seed,
        steps,
        taken: sequences.iter().map(|_| AtomicU64::new(0)).collect(),
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
        let mut seen = Seen::default();
        while let Some(kind) = self.turn() {
            let first = self.take(kind, if kind == Kind::Sequences { BATCH } else { 1 });
            let seed = self.seed.wrapping_add(first);
            match kind {
                Kind::Seeds => {
                    self.round(self.with_steps(Round::new(seed)), &mut Seen::default());
                }
                Kind::Soak => self.round(Round::soak(seed), &mut Seen::default()),
                Kind::Adopted => {
                    if let Some(image) = self.internal.clone() {
                        let round = Round::adopting(seed, image, foreign::BLOCK_SIZE);
                        self.round(round, &mut Seen::default());
                    }
                }
                Kind::Sequences => self.sequences(first / BATCH, &mut seen),
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
        let bounded = arguments.minutes.is_some()
            || arguments.rounds.is_some()
            || arguments.states.is_some()
            || arguments.sequences.is_some();
        let left: u64 = self.sequences.iter().map(Order::len).sum();
        let ended = self.failed.load(Ordering::Relaxed)
            || over(arguments.rounds, number)
            || over(arguments.states, self.counts().all.unique)
            || self.time_is_over()
            || (kind == Kind::Sequences && self.begun(kind) >= left)
            || (!bounded && number > 0);
        (!ended).then_some(kind)
    }

    /// The numbers of the next rounds of a kind: the first of them.
    fn take(&self, kind: Kind, count: u64) -> u64 {
        self.rounds[kind as usize].fetch_add(count, Ordering::Relaxed)
    }

    fn begun(&self, kind: Kind) -> u64 {
        self.rounds[kind as usize].load(Ordering::Relaxed)
    }

    fn with_steps(&self, mut round: Round) -> Round {
        if let Some(steps) = &self.steps {
            round.workload = steps.parse().expect("the steps can be read");
        }
        round
    }

    /// The sequences of one turn.
    fn sequences(&self, turn: u64, seen: &mut Seen) {
        let orders = self.sequences.len() as u64;
        let (which, begins) = ((turn % orders) as usize, turn / orders * BATCH);
        let usual = match &self.arguments.sequences {
            Some(_) => BLOCK_SIZES[0],
            None => BLOCK_SIZES[(turn / orders) as usize % BLOCK_SIZES.len()],
        };
        let block_size = self.arguments.block_size.unwrap_or(usual);
        let numbers = (begins..begins + BATCH).map_while(|n| self.sequences[which].number(n));
        for number in numbers {
            if self.failed.load(Ordering::Relaxed) || self.time_is_over() {
                return;
            }
            if let Some(round) = Round::sequence(number, block_size) {
                self.round(round, seen);
                self.taken[which].fetch_add(1, Ordering::Relaxed);
            }
        }
        if seen.len() > 4_000_000 {
            seen.clear();
        }
    }

    fn time_is_over(&self) -> bool {
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        self.arguments.minutes.is_some_and(|limit| minutes >= limit)
    }

    fn round(&self, mut round: Round, seen: &mut Seen) {
        let minutes = self
            .arguments
            .minutes
            .filter(|_| self.arguments.sequences.is_none());
        round.light = self.arguments.light;
        round.until = minutes.map(|limit| self.begun + Duration::from_secs_f64(limit * 60.0));
        match round.run_with(seen, &self.judges) {
            Ok(counts) => self.done(counts),
            Err(failure) => self.fail(&round.origin.to_string(), failure, |failure, patience| {
                round.report(failure, patience, &self.judges)
            }),
        }
    }

    fn mkfs(&self, seed: u64) {
        let making = Making::new(seed);
        match making.run(&self.judges) {
            Ok(counts) => self.done(counts),
            Err(failure) => self.fail(&format!("mkfs {seed}"), failure, |failure, patience| {
                making.report(failure, patience, &self.judges)
            }),
        }
    }

    /// Of many failures the first is told.
    fn fail(
        &self,
        origin: &str,
        failure: Failure,
        report: impl FnOnce(Failure, Duration) -> Report,
    ) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            eprintln!("{origin} fails; making it smaller ...\n{failure}");
            let patience = Duration::from_secs(self.arguments.shrink);
            eprintln!("\n{}", report(failure, patience));
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
        let rounds = [Kind::Seeds, Kind::Adopted, Kind::Soak, Kind::Mkfs];
        Summary {
            seed: self.seed,
            threads: self.arguments.threads.max(1),
            counts: self.counts(),
            seconds: self.begun.elapsed().as_secs_f64(),
            rounds: rounds
                .map(|kind| (format!("{kind:?}").to_lowercase(), self.begun(kind)))
                .to_vec(),
            sequences: (self.sequences.iter().zip(&self.taken))
                .map(|(order, taken)| (order.clone(), taken.load(Ordering::Relaxed)))
                .collect(),
            e2fsck: self.judges.by_e2fsck.load(Ordering::Relaxed),
            kernel: self.judges.by_kernel.load(Ordering::Relaxed),
        }
    }
}

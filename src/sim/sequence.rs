//! Bounded exhaustive workloads.
//!
//! Every sequence of one, two and three operations over a few names, each
//! followed by every way to make it durable or by none, in the spirit of
//! bounded black-box crash testing: crash bugs that were reported for real
//! file systems mostly need no more. Sequences are numbered, so that a
//! campaign can take a range and say which: first those of one operation,
//! then those of two, then those of three.

use std::fmt;
use std::ops::Range;

use super::random::Random;
use super::workload::Workload;

/// What stands there before: small and large files, one with two names and
/// attributes, an empty directory and a full one; all of it is home.
const BEFORE: &str = "\
    create a 644
    write a 0 3000 1
    create b 600
    append b 100 2
    setxattr b user.k 30 3 any
    link b l
    mkdir d 755
    create d/c 644
    append d/c 2000 4
    mkdir e 755
    symlink s a
    fsync
    checkpoint";

/// One operation each, over names that are there (a b l d d/c e s) and such
/// that aren't (x, y, d/x, d/y).
const OPERATIONS: &[&str] = &[
    "create x 644",
    "create d/x 644",
    "mkdir y 755",
    "mkdir d/y 755",
    "symlink x short",
    "symlink x a-target-that-is-too-long-for-the-inode-itself-and-takes-a-block-of-its-own-on-the-image",
    "mknod x 10644 0",
    "mknod d/x 20600 259",
    "link a x",
    "link a d/x",
    "link d/c x",
    "unlink a",
    "unlink b",
    "unlink d/c",
    "open 1 a; unlink a",
    "rmdir e",
    "rmdir d",
    "rename a x plain",
    "rename a b plain",
    "rename b l plain",
    "rename a d/x plain",
    "rename a d/c plain",
    "rename d/c a plain",
    "rename d y plain",
    "rename e d/y plain",
    "rename d e plain",
    "rename a x noreplace",
    "rename a b exchange",
    "rename a d exchange",
    "rename d e exchange",
    "write a 0 100 5",
    "write a 1000 3000 6",
    "write a 20000 100 7",
    "write x 0 100 5",
    "append a 5000 8",
    "append b 10 9",
    "append d/c 100 9",
    "truncate a 0",
    "truncate a 1500",
    "truncate a 9000",
    "truncate d/c 0",
    "fallocate a plain 8192 4096",
    "fallocate a keep 8192 4096",
    "fallocate a punch 1024 1024",
    "fallocate a zero 500 5000",
    "fallocate a zerokeep 500 5000",
    "setxattr a user.x 20 1 any",
    "setxattr a user.x 600 1 any",
    "removexattr b user.k",
    "chmod a 600",
    "chmod d 2755",
    "chown a 1000 100",
    "utimens a 1 0 5000000000 7",
    "open 2 a; write #2 0 50 3; release 2",
    "opentrunc 2 a; release 2",
];

/// What may follow on an operation: nothing, a call, the timer of the
/// background sync, a checkpoint.
const PERSISTENCE: &[&str] = &[
    "",
    "fsync",
    "fdatasync",
    "fsyncdir",
    "tick; sleep 6000; tick",
    "checkpoint",
];

/// The longest sequences.
pub const LONGEST: u32 = 3;

/// One operation with what follows on it.
const CHOICES: u64 = (OPERATIONS.len() * PERSISTENCE.len()) as u64;

/// How many sequences there are of up to so many operations.
pub const fn count(operations: u32) -> u64 {
    match operations {
        0 => 0,
        n => CHOICES.pow(n) + count(n - 1),
    }
}

/// The sequence with this number, and where it begins in the workload: at
/// the first step after what stands there before. `None` past the last.
pub fn sequence(number: u64) -> Option<(Workload, usize)> {
    let length = (1..=LONGEST).find(|&length| number < count(length))?;
    let mut rest = number - count(length - 1);
    let mut choices = Vec::new();
    for _ in 0..length {
        choices.push((rest % CHOICES) as usize);
        rest /= CHOICES;
    }
    let mut steps = lines(BEFORE);
    let begins = steps.len();
    for choice in choices.iter().rev() {
        steps.extend(lines(OPERATIONS[choice / PERSISTENCE.len()]));
        steps.extend(lines(PERSISTENCE[choice % PERSISTENCE.len()]));
    }
    let steps = steps.iter().map(|line| line.parse());
    let steps = steps.collect::<Result<_, _>>();
    Some((Workload(steps.expect("the tables hold steps")), begins))
}

/// In which order a campaign takes the sequences of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    range: Range<u64>,
    first: u64,
    step: u64,
}

impl Order {
    /// One after the other.
    pub fn in_turn(range: Range<u64>) -> Self {
        Order {
            range,
            first: 0,
            step: 1,
        }
    }

    /// So that the first few, however many, lie evenly over the whole range,
    /// and none comes twice: each goes on from the one before by the golden
    /// section of the range. The seed says where it begins.
    pub fn scattered(range: Range<u64>, seed: u64) -> Self {
        let len = range.end.saturating_sub(range.start).max(1);
        let golden = (len as f64 * 0.618_033_988_749_895) as u64;
        // Any step that shares no factor with the length meets all of them;
        // no factor with the choices, and every place of a sequence goes
        // through all of its own.
        let fits = |step: &u64| gcd(*step, len) == 1 && gcd(*step, CHOICES) == 1;
        Order {
            first: Random::new(seed).below(len),
            step: (golden.max(1)..).find(fits).unwrap_or(1) % len.max(2),
            range,
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
    /// The number of the `n`th of them; `None` past the last.
    pub fn number(&self, n: u64) -> Option<u64> {
        let len = u128::from(self.len());
        let at = u128::from(n) * u128::from(self.step) + u128::from(self.first);
        (n < self.len()).then(|| self.range.start + (at % len) as u64)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.step {
            1 => "one after the other from",
            _ => "evenly over",
        };
        write!(f, "{how} {}..{}", self.range.start, self.range.end)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lines(text: &str) -> Vec<&str> {
    text.split(['\n', ';'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::tree::Tree;
    use super::*;
    use crate::units::Time;

    #[test]
    fn every_number_is_another_sequence() {
        let (first, begins) = sequence(0).unwrap();
        assert_eq!(first.0.len(), begins + 1);
        let mut texts: Vec<String> = (0..count(1) + 400)
            .map(|number| sequence(number).unwrap().0.to_string())
            .collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len() as u64, count(1) + 400);
        assert!(sequence(count(3) - 1).is_some() && sequence(count(3)).is_none());
    }

    #[test]
    fn a_scattered_order_covers_its_range_evenly_at_any_time() {
        let three = count(2)..count(3);
        let order = Order::scattered(three.clone(), 7);
        let taken = 10 * CHOICES;
        let mut numbers: Vec<u64> = (0..taken).map(|n| order.number(n).unwrap()).collect();
        numbers.sort_unstable();
        let widest = numbers.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest.unwrap() < 3 * order.len() / taken, "{widest:?}");
        for place in [1, CHOICES, CHOICES * CHOICES] {
            let mut times = vec![0u64; CHOICES as usize];
            for number in &numbers {
                times[((number - three.start) / place % CHOICES) as usize] += 1;
            }
            assert!(times.iter().all(|&n| (5..=15).contains(&n)), "{times:?}");
        }
    }

    #[test]
    fn a_scattered_order_meets_all_and_none_twice() {
        for len in [1, 2, 7, CHOICES, 1000] {
            let order = Order::scattered(50..50 + len, len);
            let mut numbers: Vec<u64> = (0..len).map(|n| order.number(n).unwrap()).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(50..50 + len));
            assert_eq!(order.number(len), None);
        }
    }

    #[test]
    fn every_operation_does_something_by_itself() {
        let refused: Vec<&str> = (OPERATIONS.iter().copied())
            .filter(|operation| {
                let mut model = Model::of(&Tree::root());
                let steps = lines(BEFORE).into_iter().chain(lines(operation));
                let done = steps.map(|step| model.apply(&step.parse().unwrap(), Time::default()));
                done.filter(Result::is_err).count() > 0
            })
            .collect();
        // Refusals must leave no trace either.
        assert_eq!(refused, ["rmdir d", "write x 0 100 5"]);
    }
}

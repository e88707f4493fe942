//! Bounded exhaustive workloads.
//!
//! Every sequence of one, two and three operations over a few names, each
//! followed by every way to make it durable or by none, in the spirit of
//! bounded black-box crash testing: crash bugs that were reported for real
//! file systems mostly need no more. Sequences are numbered, so that a
//! campaign can take a range and say which: first those of one operation,
//! then those of two, then those of three.

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
const LONGEST: u32 = 3;

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

//! Sums over events: who wrote all this?

use std::collections::HashMap;

use super::event::Event;
use crate::journal::Op;

/// Operations and the bytes of file data that they brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub operations: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Sums by what people ask for.
#[derive(Default)]
pub struct Totals {
    /// Of everything.
    pub all: Sum,
    /// By full path; of a rename, the new one.
    pub paths: HashMap<Vec<u8>, Sum>,
    /// By operation.
    pub kinds: HashMap<&'static str, Sum>,
    /// By program and process id.
    pub processes: HashMap<(Vec<u8>, u32), Sum>,
    /// By minute since 1970.
    pub minutes: HashMap<i64, Sum>,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.operations += 1;
        // A forged record may tell of any length.
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Totals {
    /// Takes one event in.
    pub fn add(&mut self, event: &Event<'_>) {
        let bytes = event.bytes();
        self.all.add(bytes);
        self.kinds.entry(event.kind()).or_default().add(bytes);
        let minute = event.frame.time.secs.div_euclid(60);
        self.minutes.entry(minute).or_default().add(bytes);
        if let Some(path) = event.to.as_ref().or(event.path.as_ref()) {
            match self.paths.get_mut(path) {
                Some(sum) => sum.add(bytes),
                None => self.paths.entry(path.clone()).or_default().add(bytes),
            }
        }
        if let Some(by) = event.op().and_then(Op::by) {
            let program = event.program.as_deref().unwrap_or(b"?").to_vec();
            let process = self.processes.entry((program, by.pid)).or_default();
            process.add(bytes);
        }
    }
}

/// The largest first: by bytes, then operations, then key.
pub fn ranked<K: Clone + Ord>(sums: &HashMap<K, Sum>) -> Vec<(K, Sum)> {
    let mut ranked: Vec<(K, Sum)> = sums.iter().map(|(key, sum)| (key.clone(), *sum)).collect();
    ranked.sort_by(|(a, left), (b, right)| {
        let size = |sum: &Sum| (sum.bytes, sum.operations);
        size(right).cmp(&size(left)).then_with(|| a.cmp(b))
    });
    ranked
}

//! What was measured, one row for each thing that was.

use std::fs;
use std::io;
use std::path::Path;

use crate::run::Sample;
use crate::workload;

/// Short names and headings.
pub const SIDES: [(&str, &str); 8] = [
    ("ours", "journalfs"),
    ("classic", "journalfs on /dev/fuse"),
    ("journal", "ext4 data=journal"),
    ("ordered", "ext4 data=ordered"),
    ("fuse2fs", "fuse2fs"),
    ("null", "null daemon"),
    ("null-classic", "null daemon on /dev/fuse"),
    ("limit", "commit limit"),
];

/// All samples of one figure.
pub struct Row {
    pub workload: String,
    pub label: String,
    pub kind: Kind,
    pub unit: String,
    samples: Vec<(String, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of a workload.
    Rate,
    /// What else was seen of it.
    Cost,
    /// Of something that grows.
    Size,
}

/// In the order in which they were measured first.
pub fn read(results: &Path) -> io::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for line in fs::read_to_string(results)?.lines() {
        let sample: Sample = serde_json::from_str(line)?;
        let new = Row::of(&sample);
        let at = rows.iter().position(|row| row.label == new.label);
        let at = at.unwrap_or_else(|| {
            rows.push(new);
            rows.len() - 1
        });
        rows[at].samples.push((sample.side, sample.value));
    }
    Ok(rows)
}

impl Row {
    fn of(sample: &Sample) -> Row {
        let (label, kind) = match workload::find(&sample.workload) {
            Some((workload, clients)) => (workload.label(clients), Kind::Rate),
            None => (sample.workload.clone(), Kind::Size),
        };
        let (label, kind) = match sample.metric.as_str() {
            "" => (label, kind),
            metric => (format!("{label}: {metric}"), Kind::Cost),
        };
        Row {
            workload: sample.workload.clone(),
            label,
            kind,
            unit: sample.unit.clone(),
            samples: Vec::new(),
        }
    }

    pub fn median(&self, side: &str) -> Option<f64> {
        let mut all: Vec<f64> = (self.samples.iter())
            .filter(|(of, _)| of == side)
            .map(|(_, value)| *value)
            .collect();
        all.sort_by(f64::total_cmp);
        let last = all.len().checked_sub(1)?;
        Some((all[last / 2] + all[last.div_ceil(2)]) / 2.0)
    }

    /// How many times better journalfs is than a side; on the same transport,
    /// if that is a limit of one.
    pub fn ratio(&self, side: &str) -> Option<f64> {
        let ours = match side {
            "null-classic" => "classic",
            _ => "ours",
        };
        let (ours, theirs) = (self.median(ours)?, self.median(side)?);
        let ratio = match self.unit.ends_with("/s") {
            true => ours / theirs,
            false => theirs / ours,
        };
        (side != "ours" && ratio.is_finite()).then_some(ratio)
    }
}

/// Three digits.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

//! Medians and ratios.

use std::fs;
use std::io;
use std::path::Path;

use crate::run::Sample;
use crate::workload;

/// Short name and heading.
const SIDES: [(&str, &str); 6] = [
    ("ours", "journalfs"),
    ("journal", "ext4 data=journal"),
    ("ordered", "ext4 data=ordered"),
    ("fuse2fs", "fuse2fs"),
    ("null", "null daemon"),
    ("limit", "commit limit"),
];

/// All samples of one figure.
struct Row {
    label: String,
    unit: String,
    samples: Vec<(String, f64)>,
}

pub fn print(results: &Path) -> io::Result<()> {
    let rows = rows(&fs::read_to_string(results)?)?;
    let sides: Vec<_> = (SIDES.iter())
        .filter(|(side, _)| rows.iter().any(|row| row.median(side).is_some()))
        .collect();
    let headings: Vec<_> = sides.iter().map(|(_, heading)| *heading).collect();
    println!("| workload | unit | {} |", headings.join(" | "));
    println!("|---|---|{}", "--:|".repeat(sides.len()));
    for row in &rows {
        let cells: Vec<_> = sides.iter().map(|(side, _)| row.cell(side)).collect();
        println!("| {} | {} | {} |", row.label, row.unit, cells.join(" | "));
    }
    Ok(())
}

/// In the order in which they were measured first.
fn rows(text: &str) -> io::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        let sample: Sample = serde_json::from_str(line)?;
        let label = label(&sample);
        let at = rows.iter().position(|row| row.label == label);
        let at = at.unwrap_or_else(|| {
            rows.push(Row {
                label,
                unit: sample.unit.clone(),
                samples: Vec::new(),
            });
            rows.len() - 1
        });
        rows[at].samples.push((sample.side, sample.value));
    }
    Ok(rows)
}

fn label(sample: &Sample) -> String {
    let label = match workload::find(&sample.workload) {
        Some((workload, clients)) => workload.label(clients),
        None => sample.workload.clone(),
    };
    match sample.metric.as_str() {
        "" => label,
        metric => format!("{label}: {metric}"),
    }
}

impl Row {
    fn median(&self, side: &str) -> Option<f64> {
        let mut all: Vec<f64> = (self.samples.iter())
            .filter(|(of, _)| of == side)
            .map(|(_, value)| *value)
            .collect();
        all.sort_by(f64::total_cmp);
        let last = all.len().checked_sub(1)?;
        Some((all[last / 2] + all[last.div_ceil(2)]) / 2.0)
    }

    /// How many times better we are.
    fn ratio(&self, side: &str) -> Option<f64> {
        let (ours, theirs) = (self.median("ours")?, self.median(side)?);
        let more_is_better = self.unit.ends_with("/s");
        let ratio = if more_is_better {
            ours / theirs
        } else {
            theirs / ours
        };
        (side != "ours" && ratio.is_finite()).then_some(ratio)
    }

    fn cell(&self, side: &str) -> String {
        match (self.median(side), self.ratio(side)) {
            (Some(value), Some(ratio)) => format!("{} ({ratio:.2})", short(value)),
            (Some(value), None) => short(value),
            (None, _) => "–".to_owned(),
        }
    }
}

/// Three digits.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

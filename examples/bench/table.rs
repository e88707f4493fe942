//! Medians and ratios, as markdown.

use std::io;
use std::path::Path;

use crate::figures::{self, Kind, Row, SIDES, short};

pub fn print(results: &Path) -> io::Result<()> {
    let rows = figures::read(results)?;
    for (kind, heading) in [
        (Kind::Rate, "workload"),
        (Kind::Cost, "latency, and what reaches the disk"),
        (Kind::Size, "size"),
    ] {
        let rows: Vec<_> = rows.iter().filter(|row| row.kind == kind).collect();
        if !rows.is_empty() {
            table(heading, &rows);
        }
    }
    Ok(())
}

fn table(heading: &str, rows: &[&Row]) {
    let measured = |side| rows.iter().any(|row| row.median(side).is_some());
    let sides: Vec<_> = SIDES.iter().filter(|(side, _)| measured(side)).collect();
    let headings: Vec<_> = sides.iter().map(|(_, heading)| *heading).collect();
    println!("| {heading} | | {} |", headings.join(" | "));
    println!("|---|---|{}", "--:|".repeat(sides.len()));
    for row in rows {
        let cells: Vec<_> = sides.iter().map(|(side, _)| cell(row, side)).collect();
        println!("| {} | {} | {} |", row.label, row.unit, cells.join(" | "));
    }
    println!();
}

fn cell(row: &Row, side: &str) -> String {
    match (row.median(side), row.ratio(side)) {
        (Some(value), Some(ratio)) => format!("{} ({})", short(value), short(ratio)),
        (Some(value), None) => short(value),
        (None, _) => "–".to_owned(),
    }
}

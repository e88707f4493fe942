//! Rates as bars: for each workload the sides beside each other, the longest
//! the best.

use std::io;
use std::path::Path;

use crate::figures::{self, Kind, Row, SIDES, short};
use crate::workload;

const COLOURS: [&str; SIDES.len()] = [
    "#c2410c", "#f0a070", "#1d6fa5", "#7ab3d4", "#6b8e23", "#8a8a8a", "#b0b0b0", "#4d4d4d",
];
const LABELS: usize = 250;
const LONGEST: f64 = 420.0;
const BAR: usize = 11;

/// An SVG of these workloads.
pub fn write(results: &Path, to: &Path, workloads: &[String]) -> io::Result<()> {
    let rows = figures::read(results)?;
    let wanted = |row: &&Row| row.kind == Kind::Rate && workloads.contains(&row.workload);
    let groups: Vec<_> = rows.iter().filter(wanted).map(Group::of).collect();
    let (mut drawn, mut y) = (String::new(), 30);
    legend(&mut drawn, &groups);
    for group in &groups {
        group.draw(&mut drawn, y);
        y += group.bars.len() * BAR + 10;
    }
    let width = LABELS + LONGEST as usize + 60;
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {y}' width='{width}' height='{y}' font-family='sans-serif' font-size='11'>
<style>text{{fill:#222}}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}}}</style>
{drawn}</svg>
"
    );
    std::fs::write(to, svg)
}

fn legend(drawn: &mut String, groups: &[Group]) {
    let mut x = 4;
    for (side, (_, heading)) in SIDES.iter().enumerate() {
        let mut bars = groups.iter().flat_map(|group| &group.bars);
        if bars.any(|(of, _)| *of == side) {
            square(drawn, (x, 4), (10.0, 10), side);
            text(drawn, (x + 14, 13), "start", heading);
            x += 30 + heading.len() * 7;
        }
    }
}

/// One workload: bars by number of the side.
struct Group {
    label: String,
    bars: Vec<(usize, f64)>,
}

impl Group {
    fn of(row: &Row) -> Group {
        // What answers fsync from memory is no measure for what doesn't.
        let durable = workload::find(&row.workload).is_some_and(|(workload, _)| workload.durable);
        let sides = SIDES.iter().enumerate();
        Group {
            label: format!("{}, {}", row.label.replace('`', ""), row.unit),
            bars: sides
                .filter(|(_, (side, _))| !(durable && side.starts_with("null")))
                .filter_map(|(n, (side, _))| Some((n, row.median(side)?)))
                .collect(),
        }
    }

    fn draw(&self, drawn: &mut String, top: usize) {
        let middle = top + self.bars.len() * BAR / 2 + 4;
        text(drawn, (LABELS - 8, middle), "end", &self.label);
        let best = self
            .bars
            .iter()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        for (n, (side, value)) in self.bars.iter().enumerate() {
            let (y, width) = (top + n * BAR, value / best * LONGEST);
            square(drawn, (LABELS, y), (width, BAR - 1), *side);
            let behind = LABELS + width as usize + 5;
            text(drawn, (behind, y + BAR - 2), "start", &short(*value));
        }
    }
}

fn square(drawn: &mut String, (x, y): (usize, usize), (width, height): (f64, usize), side: usize) {
    let colour = COLOURS[side];
    drawn.push_str(&format!(
        "<rect x='{x}' y='{y}' width='{width:.0}' height='{height}' fill='{colour}'/>\n"
    ));
}

fn text(drawn: &mut String, (x, y): (usize, usize), anchor: &str, words: &str) {
    drawn.push_str(&format!(
        "<text x='{x}' y='{y}' text-anchor='{anchor}'>{words}</text>\n"
    ));
}

//! Charts as SVG: they take their colours from the page's style.

use std::fmt::Write;

use super::page::{bytes, nanos};
use crate::history::chronicle::{Settled, Sort, Tick};
use crate::log::{SegmentInfo, SegmentState};
use crate::units::{Lsn, Time};

/// Width of all charts, and of the room for their scale.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
/// Columns of a timeline.
const COLUMNS: usize = 120;

/// A stretch of time as columns.
pub struct Axis {
    from: i64,
    to: i64,
}

impl Axis {
    /// Over all of these instants; `None` if there is none.
    pub fn over(times: impl Iterator<Item = Time>) -> Option<Axis> {
        let (mut from, mut to) = (i64::MAX, i64::MIN);
        for time in times {
            from = from.min(time.as_nanos());
            to = to.max(time.as_nanos());
        }
        (from <= to).then_some(Axis { from, to })
    }

    /// Nanoseconds.
    fn span(&self) -> f64 {
        (self.to as f64 - self.from as f64).max(1.0)
    }

    fn share(&self, time: Time) -> f64 {
        (time.as_nanos() as f64 - self.from as f64) / self.span()
    }

    fn column(&self, time: Time) -> usize {
        ((self.share(time) * COLUMNS as f64) as usize).min(COLUMNS - 1)
    }

    fn x(&self, time: Time) -> f64 {
        LEFT + self.share(time) * (WIDTH - LEFT)
    }

    /// Labels below a chart: seconds since the beginning.
    fn labels(&self, y: f64, out: &mut String) {
        for n in 0..=4 {
            let at = f64::from(n) / 4.0;
            let x = LEFT + at * (WIDTH - LEFT);
            let anchor = match n {
                0 => "start",
                4 => "end",
                _ => "middle",
            };
            let label = nanos((self.span() * at) as u64);
            let _ = write!(
                out,
                "<text x='{x:.0}' y='{y:.0}' text-anchor='{anchor}'>+{label}</text>"
            );
        }
    }
}

fn open(height: f64, label: &str) -> String {
    format!("<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{label}'>")
}

/// A scale's line and its label.
fn rule(y: f64, label: &str, out: &mut String) {
    let _ = write!(
        out,
        "<line class='rule' x1='{LEFT}' x2='{WIDTH}' y1='{y:.1}' y2='{y:.1}'/>\
         <text x='{:.0}' y='{:.1}' text-anchor='end'>{label}</text>",
        LEFT - 8.0,
        y + 4.0
    );
}

/// Operations of each sort, one column above the other.
pub fn operations(axis: &Axis, ticks: &[Tick]) -> String {
    let mut columns = vec![[0u64; Sort::ALL.len()]; COLUMNS];
    for tick in ticks {
        columns[axis.column(tick.time)][tick.sort as usize] += 1;
    }
    let most = columns
        .iter()
        .map(|column| column.iter().sum::<u64>())
        .max();
    let most = most.unwrap_or(0).max(1);
    let (top, height) = (10.0, 170.0);
    let mut out = open(top + height + 26.0, "operations over time");
    rule(top, &most.to_string(), &mut out);
    rule(top + height, "0", &mut out);
    let wide = (WIDTH - LEFT) / COLUMNS as f64;
    for (n, column) in columns.iter().enumerate() {
        let mut y = top + height;
        for (sort, count) in Sort::ALL
            .iter()
            .zip(column)
            .filter(|(_, count)| **count > 0)
        {
            let tall = *count as f64 / most as f64 * height;
            y -= tall;
            let _ = write!(
                out,
                "<rect class='{}' x='{:.1}' y='{y:.1}' width='{:.1}' height='{tall:.1}'><title>{count} {}</title></rect>",
                class(*sort),
                LEFT + n as f64 * wide,
                wide - 1.0,
                name(*sort)
            );
        }
    }
    axis.labels(top + height + 20.0, &mut out);
    out + "</svg>"
}

/// Bytes of file data.
pub fn written(axis: &Axis, ticks: &[Tick]) -> String {
    let mut columns = vec![0u64; COLUMNS];
    for tick in ticks {
        let column = &mut columns[axis.column(tick.time)];
        *column = column.saturating_add(tick.bytes);
    }
    let most = columns.iter().copied().max().unwrap_or(0).max(1);
    let (top, height) = (10.0, 90.0);
    let mut out = open(top + height + 26.0, "bytes of file data over time");
    rule(top, &bytes(most), &mut out);
    rule(top + height, "0", &mut out);
    let wide = (WIDTH - LEFT) / COLUMNS as f64;
    for (n, count) in columns.iter().enumerate().filter(|(_, count)| **count > 0) {
        let tall = *count as f64 / most as f64 * height;
        let _ = write!(
            out,
            "<rect class='data' x='{:.1}' y='{:.1}' width='{:.1}' height='{tall:.1}'><title>{}</title></rect>",
            LEFT + n as f64 * wide,
            top + height - tall,
            wide - 1.0,
            bytes(*count)
        );
    }
    axis.labels(top + height + 20.0, &mut out);
    out + "</svg>"
}

/// How long records stood unsynced, on a logarithmic scale from 10 µs to 100 s.
pub fn exposure(axis: &Axis, settled: &[Settled]) -> String {
    let (top, height) = (10.0, 170.0);
    let mut out = open(top + height + 26.0, "how long changes stood unsynced");
    let y = |nanos: u64| {
        let decades = (nanos.clamp(10_000, 100_000_000_000) as f64 / 10_000.0).log10();
        top + height - decades / 7.0 * height
    };
    for (at, label) in [
        (10_000, "10 µs"),
        (1_000_000, "1 ms"),
        (100_000_000, "100 ms"),
        (10_000_000_000, "10 s"),
    ] {
        rule(y(at), label, &mut out);
    }
    // As many dots as can be told apart.
    let every = settled.len().div_ceil(2000).max(1);
    let mut worst: Vec<Settled> = Vec::new();
    for piece in settled.chunks(every) {
        worst.extend(piece.iter().max_by_key(|settled| settled.exposed));
    }
    for dot in worst {
        let radius = 2.0 + (dot.records as f64).log10().max(0.0) * 1.5;
        let _ = write!(
            out,
            "<circle class='dot' cx='{:.1}' cy='{:.1}' r='{radius:.1}'><title>{} records, the oldest for {}</title></circle>",
            axis.x(dot.time),
            y(dot.exposed),
            dot.records,
            nanos(dot.exposed)
        );
    }
    axis.labels(top + height + 20.0, &mut out);
    out + "</svg>"
}

/// Segments in the order of their records, as wide as they have of them, and
/// how far things have come.
pub fn segments(segments: &[SegmentInfo], marks: [(&str, Lsn); 3]) -> String {
    let held = |segment: &&SegmentInfo| segment.last >= segment.base;
    let first = segments
        .iter()
        .find(held)
        .map_or(1, |segment| segment.base.0);
    let last = segments.iter().map(|segment| segment.last.0).max();
    let last = last.unwrap_or(1).max(first);
    let x = |lsn: u64| {
        let share = (lsn.max(first) - first) as f64 / ((last - first) as f64 + 1.0);
        LEFT + share.min(1.0) * (WIDTH - LEFT)
    };
    let (top, height) = (10.0, 44.0);
    let mut out = open(top + height + 84.0, "segments and watermarks");
    for segment in segments.iter().filter(held) {
        let (from, to) = (x(segment.base.0), x(segment.last.0.saturating_add(1)));
        let state = match segment.state {
            SegmentState::Active => "active",
            SegmentState::Sealed => "sealed",
            SegmentState::Installed => "installed",
        };
        let _ = write!(
            out,
            "<rect class='{state}' x='{from:.1}' y='{top}' width='{:.1}' height='{height}' rx='2'>\
             <title>{}: {state}, records {} to {}, epoch {}</title></rect>",
            (to - from - 1.0).max(0.5),
            segment.name,
            segment.base,
            segment.last,
            segment.epoch
        );
    }
    for (n, (what, lsn)) in marks.into_iter().enumerate() {
        let x = x(lsn.0.saturating_add(1));
        let y = top + height + 20.0 + n as f64 * 22.0;
        let (anchor, dx) = if x > WIDTH / 2.0 {
            ("end", -6.0)
        } else {
            ("start", 6.0)
        };
        let _ = write!(
            out,
            "<line class='mark' x1='{x:.1}' x2='{x:.1}' y1='{}' y2='{y:.1}'/>\
             <text x='{:.1}' y='{y:.1}' text-anchor='{anchor}'>{what} {lsn}</text>",
            top - 6.0,
            x + dx
        );
    }
    out + "</svg>"
}

/// The name of a sort in the style.
pub fn class(sort: Sort) -> &'static str {
    match sort {
        Sort::Data => "data",
        Sort::Names => "names",
        Sort::Attributes => "attributes",
        Sort::Space => "space",
        Sort::Mark => "marks",
    }
}

/// The name of a sort for people.
pub fn name(sort: Sort) -> &'static str {
    match sort {
        Sort::Data => "writes",
        Sort::Names => "names made, changed, removed",
        Sort::Attributes => "attributes",
        Sort::Space => "fallocate",
        Sort::Mark => "marks",
    }
}

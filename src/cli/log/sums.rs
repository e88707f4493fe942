//! `--stat`: sums as tables for people, as objects for programs.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;

use super::line;
use crate::history::totals::{Sum, Totals, ranked};
use crate::units::Time;

/// Rows of a table; programs get all.
const ROWS: usize = 20;

/// A sum's stable keys.
#[derive(Serialize)]
struct Object<'s> {
    by: &'s str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    operations: u64,
    bytes: u64,
}

/// One JSON object a sum.
pub fn objects(totals: &Totals, out: &mut dyn Write) -> io::Result<()> {
    let mut row = |by: &str, key: String, pid: Option<u32>, sum: Sum| -> io::Result<()> {
        let object = Object {
            by,
            key,
            pid,
            operations: sum.operations,
            bytes: sum.bytes,
        };
        serde_json::to_writer(&mut *out, &object)?;
        out.write_all(b"\n")
    };
    row("all", String::new(), None, totals.all)?;
    for (kind, sum) in ranked(&totals.kinds) {
        row("operation", kind.to_owned(), None, sum)?;
    }
    for ((program, pid), sum) in ranked(&totals.processes) {
        row("process", line::text(&program).into_owned(), Some(pid), sum)?;
    }
    for (path, sum) in ranked(&totals.paths) {
        row("path", line::text(&path).into_owned(), None, sum)?;
    }
    for (minute, sum) in by_time(&totals.minutes) {
        row("minute", line::utc(start(minute)), None, sum)?;
    }
    Ok(())
}

/// Tables of the largest.
pub fn tables(totals: &Totals, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{} operations, {} bytes of data",
        totals.all.operations, totals.all.bytes
    )?;
    let kinds = ranked(&totals.kinds);
    table(out, "operation", kinds, |kind| (*kind).to_owned())?;
    table(out, "process", ranked(&totals.processes), |(name, pid)| {
        format!("{}[{pid}]", line::text(name))
    })?;
    table(out, "path", ranked(&totals.paths), |path| {
        line::text(path).into_owned()
    })?;
    let mut common = line::Common::new();
    table(out, "minute", by_time(&totals.minutes), |minute| {
        let text = common.second(start(*minute));
        text.strip_suffix(":00").unwrap_or(text).to_owned()
    })
}

fn table<K>(
    out: &mut dyn Write,
    by: &str,
    rows: Vec<(K, Sum)>,
    mut name: impl FnMut(&K) -> String,
) -> io::Result<()> {
    writeln!(out, "\n  operations          bytes  {by}")?;
    for (key, sum) in rows.iter().take(ROWS) {
        writeln!(
            out,
            "{:>12} {:>14}  {}",
            sum.operations,
            sum.bytes,
            name(key)
        )?;
    }
    match rows.len().checked_sub(ROWS) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(
            out,
            "{:>12} {:>14}  and {more} more (--json has all)",
            "", ""
        ),
    }
}

fn by_time(minutes: &HashMap<i64, Sum>) -> Vec<(i64, Sum)> {
    let mut rows: Vec<(i64, Sum)> = minutes.iter().map(|(at, sum)| (*at, *sum)).collect();
    rows.sort_by_key(|(minute, _)| *minute);
    rows
}

fn start(minute: i64) -> Time {
    Time {
        secs: minute.saturating_mul(60),
        nanos: 0,
    }
}

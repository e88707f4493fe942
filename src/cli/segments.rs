//! `journalfs segments`.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::log::{Beyond, SegmentState, Verdict};
use crate::units::Lsn;

use super::chosen::is_archive;
use super::log::line;
use super::paper::{self, Paper};
use super::source::{Source, lost};
use super::{Failure, Outcome, at};

/// Lists a journal's segments, oldest first: their records and what they are
/// for. Reads only, also beside a daemon at work. Exit codes: 0, 4 records are
/// damaged or missing, 8 could not look.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line, with stable keys
    #[arg(long)]
    json: bool,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// An image, the directory on which it is mounted, or a journal's folder
    #[arg(value_name = "IMAGE|DIR")]
    target: PathBuf,
}

/// A segment's stable keys.
#[derive(Serialize)]
struct Object {
    name: String,
    /// `active`, `sealed` (still needed), `installed` (in the image), `dropped`
    /// (behind a bad record), `spare`, `unreadable`; of an archive, `archived`.
    state: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
    /// First and last record; none in an empty segment or a spare.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_time: Option<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let source = Source::find(&args.target, args.journal.as_deref())?;
    let archived = is_archive(&source.journal);
    let live = source.live().is_some();
    let judged = match archived {
        true => source.glance()?,
        false => source.judged()?,
    };
    let (beyond, kept) = match judged.verdict() {
        Verdict::Torn { .. } | Verdict::Corrupt(_) if !live => {
            (Some(source.beyond()?), judged.last())
        }
        _ => (None, Lsn(u64::MAX)),
    };
    let survey = beyond.as_ref().map_or(&judged, Beyond::survey);
    let segments = survey.segments().iter().map(|segment| {
        let holds = segment.last >= segment.base;
        Object {
            name: segment.name.clone(),
            state: match segment.state {
                _ if archived => "archived",
                _ if segment.base > kept => "dropped",
                SegmentState::Active => "active",
                SegmentState::Sealed => "sealed",
                SegmentState::Installed => "installed",
            },
            bytes: segment.bytes,
            epoch: Some(segment.epoch.0),
            first: holds.then_some(segment.base.0),
            last: holds.then_some(segment.last.0),
            begun: Some(line::utc(segment.begun)),
            last_time: segment.last_time.filter(|_| holds).map(line::utc),
        }
    });
    let mut objects: Vec<Object> = segments.collect();
    objects.extend(survey.spares().into_iter().map(|spare| Object {
        name: spare.name,
        state: match spare.unreadable {
            true => "unreadable",
            false => "spare",
        },
        bytes: spare.bytes,
        epoch: None,
        first: None,
        last: None,
        begun: None,
        last_time: None,
    }));
    let mut paper = Paper::new(!args.json);
    let written = if args.json {
        objects.iter().try_for_each(|object| {
            serde_json::to_writer(&mut paper, object)?;
            paper.write_all(b"\n")
        })
    } else {
        table(&objects, &mut paper)
    };
    paper::quietly(written.and_then(|()| paper.close())).map_err(Failure::system)?;
    let bad = match judged.verdict() {
        Verdict::Corrupt(bad) if !live => {
            let at = format!("{} at {}", bad.segment, bad.offset);
            Some(format!(
                "record {} is damaged or missing: {} ({at})",
                bad.lsn, bad.why
            ))
        }
        _ if archived => None,
        _ => source.lost_end(&judged).as_ref().map(lost),
    };
    match bad {
        Some(bad) => Err(Failure::with_code(4, at(&source.journal, bad))),
        None => Ok(0),
    }
}

fn table(objects: &[Object], out: &mut Paper) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<26} {:<10} {:>9} {:>6} {:>10} {:>10}  {:<30}  last time",
        "segment", "state", "bytes", "epoch", "first", "last", "begun"
    )?;
    let number = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    for object in objects {
        writeln!(
            out,
            "{:<26} {:<10} {:>9} {:>6} {:>10} {:>10}  {:<30}  {}",
            object.name,
            object.state,
            object.bytes,
            number(object.epoch.map(u64::from)),
            number(object.first),
            number(object.last),
            object.begun.as_deref().unwrap_or("-"),
            object.last_time.as_deref().unwrap_or("-")
        )?;
    }
    Ok(())
}

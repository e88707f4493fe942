//! `journalfs show`: one record, whole.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::device::Disk;
use crate::device::host::{Access, HostDisk};
use crate::ext4::superblock::{OFFSET, SIZE, Superblock};
use crate::history::chart::Chart;
use crate::history::shown::{self, Bytes, Change};
use crate::history::{Event, Point, Teller};
use crate::journal::Record;
use crate::log::{self, Beyond, Kind, Survey, Verdict};
use crate::units::Lsn;

use super::chosen::Chosen;
use super::log::line::{self, Common};
use super::paper::{self, Paper};
use super::source::Source;
use super::{Failure, Outcome, at};

/// Shows a record whole: what was asked for, and each change of a block in
/// ext4's terms, with what stood there before where an earlier record tells.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object with stable keys
    #[arg(long)]
    json: bool,
    /// Also the bytes
    #[arg(long)]
    hex: bool,
    #[command(flatten)]
    chosen: Chosen,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// An image, the directory on which it is mounted, or a journal's folder
    #[arg(value_name = "IMAGE|DIR")]
    target: PathBuf,
    /// The record's number, or a mark's name
    #[arg(value_name = "LSN")]
    lsn: Point,
}

/// A change's stable keys.
#[derive(Serialize)]
struct Object<'c> {
    block: u64,
    count: u64,
    how: &'c [&'static str],
    what: &'c str,
    details: &'c [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Vec<Range>>,
}

/// A range's stable keys; bytes in hexadecimal.
#[derive(Serialize)]
struct Range {
    offset: usize,
    before: Option<String>,
    after: String,
}

/// Whether a record is behind a bad one, and what of its own data is damaged.
type Found<'a> = (bool, Option<&'a str>);

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let source = Source::find(&args.target, args.journal.as_deref())?;
    let survey = source.history(&args.chosen)?;
    let lsn = source.record(&args.lsn, Point::first, &survey, &args.chosen)?;
    // Behind a bad record too, where there is one.
    let beyond = match lsn > survey.last() && survey.verdict() != &Verdict::Clean {
        true => Some(source.beyond_all(&args.chosen)?),
        false => None,
    };
    let survey = beyond.as_ref().map_or(&survey, Beyond::survey);
    let dropped = beyond.is_some();
    let gaps = match survey.frame(lsn) {
        Err(log::Error::Recycled(_)) => source.gaps(&args.chosen)?,
        _ => Vec::new(),
    };
    let frame = survey.frame(lsn).map_err(|error| {
        let error = match gaps.iter().find(|gap| gap.has(lsn)) {
            Some(gap) => format!(
                "record {lsn} is missing from the archive, as are all from {} to {}",
                gap.first, gap.last
            ),
            None => error.to_string(),
        };
        let kept = match survey.first() {
            Some(first) => format!("it has records {first} to {}", survey.last()),
            None => "it has no records".to_owned(),
        };
        Failure::unchecked(at(&source.journal, format!("{error}: {kept}")))
    })?;
    if frame.kind == Kind::Mark {
        return mark(args, &frame);
    }
    let cant = |why: &dyn std::fmt::Display| {
        Failure::unchecked(at(
            &source.journal,
            format!("record {lsn} can't be understood: {why}"),
        ))
    };
    let record = Record::decode(&frame.meta).map_err(|why| cant(&why))?;
    let image = source.image.as_deref();
    let image = image.filter(|_| !args.chosen.is_ended(&source.journal));
    let chart = chart(image, survey).ok_or_else(|| {
        cant(&"neither the image nor the journal has a superblock that can be read")
    })?;
    let changes = shown::changes(survey, &chart, lsn, &record, frame.data.as_ref());
    let flaw = survey.read_whole(lsn).err().map(|error| error.to_string());
    let found = (dropped, flaw.as_deref());
    if !chart.is_whole() && changes.iter().any(|change| change.what == "contents") {
        eprintln!(
            "journalfs: what is called contents may be a bitmap or an inode table: the image is not \
             here, and the journal has not all of its group descriptors"
        );
    }
    let mut paper = Paper::new(!args.json);
    let mut written = Ok(());
    let durable = source.durable(survey, &args.chosen);
    Teller::default().tell(survey, durable, (lsn, lsn), &mut |told| {
        written = match told {
            Ok(event) if args.json => object((&event, found), &changes, args.hex, &mut paper),
            Ok(event) => text((&event, found), &changes, args.hex, &mut paper),
            Err(error) => writeln!(paper, "{error}"),
        };
        written.is_ok()
    });
    paper::quietly(written.and_then(|()| paper.close())).map_err(Failure::system)?;
    Ok(if flaw.is_some() { 4 } else { 0 })
}

/// A mark of the log's own says nothing but how far things were.
fn mark(args: &Args, frame: &crate::log::Frame) -> Outcome {
    let (lsn, durable, installed) = (frame.lsn, frame.durable, frame.installed);
    let time = line::utc(frame.time);
    match args.json {
        true => say!(
            "{}",
            serde_json::json!({
                "lsn": lsn.0, "epoch": frame.epoch.0, "time": time, "op": "durable",
                "durable_through": durable.0, "installed_through": installed.0,
            })
        ),
        false => say!(
            "{lsn:>8}  {time}  says that all up to {durable} was durable then, and up to {installed} in the image"
        ),
    }
    Ok(0)
}

/// The image's parts, by the image, or by the superblock that the journal has.
fn chart(image: Option<&Path>, survey: &Survey) -> Option<Chart> {
    let disk = image.and_then(|image| HostDisk::open(image, Access::Read).ok());
    if let Some(disk) = disk {
        let mut raw = [0; SIZE];
        if disk.read_at(&mut raw, OFFSET).is_ok()
            && let Ok(sb) = Superblock::decode(&raw)
        {
            return Some(Chart::read(&disk, sb));
        }
    }
    let anchors = survey
        .frames(Lsn(1))
        .flatten()
        .filter_map(|frame| match Record::decode_meaning(&frame.meta).ok()? {
            Record::Session(base) | Record::Checkpoint(base) => Some(base.session.prior),
            _ => None,
        });
    let mut superblocks = anchors.filter_map(|raw| Superblock::decode(raw.first_chunk()?).ok());
    let mut chart = superblocks.next().map(Chart::without_image)?;
    shown::place_parts(survey, &mut chart);
    Some(chart)
}

fn object(
    (event, (dropped, flaw)): (&Event<'_>, Found<'_>),
    changes: &[Change],
    hex: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut head = Vec::new();
    line::object(event, dropped, &mut head)?;
    let mut whole: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&head)?;
    if let Some(flaw) = flaw {
        whole.insert("damaged".to_owned(), flaw.into());
    }
    let changes: Vec<Object<'_>> = (changes.iter())
        .map(|change| Object {
            block: change.block.0,
            count: change.count,
            how: &change.how,
            what: &change.what,
            details: &change.details,
            bytes: hex.then(|| change.bytes.iter().map(range).collect()),
        })
        .collect();
    whole.insert("changes".to_owned(), serde_json::to_value(changes)?);
    serde_json::to_writer(&mut *out, &whole)?;
    out.write_all(b"\n")
}

fn range(bytes: &Bytes) -> Range {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Range {
        offset: bytes.at,
        before: bytes.before.as_deref().map(hex),
        after: hex(&bytes.after),
    }
}

fn text(
    (event, (dropped, flaw)): (&Event<'_>, Found<'_>),
    changes: &[Change],
    hex: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut line = String::new();
    line::columns(event, &mut Common::new(), &mut line);
    out.write_all(line.as_bytes())?;
    let durable = if event.durable { "" } else { "not " };
    writeln!(
        out,
        "\n{:>8}  {durable}known to be durable{}; epoch {}",
        "",
        if dropped {
            "; behind a bad record: recovery drops it"
        } else {
            ""
        },
        event.frame.epoch
    )?;
    if let Some(flaw) = flaw {
        writeln!(out, "{:>8}  {flaw}", "")?;
    }
    for change in changes {
        let last = change.block.0 + change.count.saturating_sub(1);
        let blocks = match change.count {
            1 => format!("block {}", change.block),
            _ => format!("blocks {} to {last}", change.block),
        };
        writeln!(
            out,
            "  {blocks}: {} ({})",
            change.what,
            change.how.join(", ")
        )?;
        for detail in &change.details {
            writeln!(out, "    {detail}")?;
        }
        if hex {
            for bytes in &change.bytes {
                dump(bytes, out)?;
            }
        }
    }
    Ok(())
}

/// Lines of 16 bytes: `-` before, `+` after.
fn dump(bytes: &Bytes, out: &mut dyn Write) -> io::Result<()> {
    let versions = [
        ('-', bytes.before.as_deref()),
        ('+', Some(bytes.after.as_slice())),
    ];
    for (sign, version) in versions {
        let Some(version) = version else { continue };
        for (n, row) in version.chunks(16).enumerate() {
            let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            let plain: String = (row.iter())
                .map(|byte| match byte {
                    0x20..=0x7E => char::from(*byte),
                    _ => '.',
                })
                .collect();
            let at = bytes.at + n * 16;
            writeln!(out, "    {sign} {at:04x}  {:<47}  {plain}", hex.join(" "))?;
        }
    }
    Ok(())
}

//! `journalfs archive`: what an archive holds, whether it is whole, and
//! throwing away what is not needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::check::{self, Severity};
use crate::device::Dir;
use crate::device::host::HostDir;
use crate::fs::mount::{self, Lock, Uuid};
use crate::history::{audit, parse_age};
use crate::journal::archive::{Archive, Gap, ImageBase, Limits, Reach, gaps, without};
use crate::journal::blocks::BlockIndex;
use crate::log::{self, Survey};
use crate::past::{self, Span};
use crate::units::{Clock as _, HostClock, Lsn};

use super::chosen::is_archive;
use super::log::line;
use super::progress::Progress;
use super::verify::MOST;
use super::{Failure, Outcome, at, size};

/// Looks after an archive (mount -o archive=DIR): the states that it leads to,
/// whether it is whole, and what need not be kept.
///
/// Exit codes: 0 all is well, 4 something is damaged or missing, 8 could not
/// look.
#[derive(clap::Args)]
pub struct Args {
    /// The archive's folder
    dir: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Lists bases, segments, and the states that can be restored if all of them
    /// are whole, which verify finds out
    List {
        /// One JSON object with stable keys
        #[arg(long)]
        json: bool,
        /// A journal's folder, whose records go on from the archive's
        #[arg(long, value_name = "DIR")]
        journal: Option<PathBuf>,
    },
    /// Reads every byte of its segments, and compares its parts
    Verify {
        /// One JSON object with stable keys
        #[arg(long)]
        json: bool,
    },
    /// Throws away whole beginnings: bases, and the segments that only they need
    Prune {
        /// States older than this need not be reached: 12h, 30d
        #[arg(long, value_name = "AGE", value_parser = age)]
        age: Option<Duration>,
        /// As much as it takes to get below this size, but never the last base
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        size: Option<u64>,
    },
}

fn age(text: &str) -> Result<Duration, String> {
    let nanos = parse_age(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos
        .map(Duration::from_nanos)
        .ok_or_else(|| "an age looks like 90s, 5m, 12h or 30d".to_owned())
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let dir = HostDir::open(&args.dir).map_err(|e| Failure::unchecked(format!("archive: {e}")))?;
    let dir: Arc<dyn Dir> = Arc::new(dir);
    let cant = |e: &dyn std::fmt::Display| Failure::unchecked(at(&args.dir, e));
    // Nobody adds to it, or has, while it is pruned.
    let _lock = match &args.action {
        Action::Prune { .. } => Lock::in_folder(&args.dir, false)
            .map_err(|e| match e {
                mount::Error::InUse(_) => {
                    cant(&format!("a mount archives into it, and prunes it: {e}"))
                }
                _ => cant(&format!(
                    "can't be written, nothing was removed: {e}: prune as its owner, where it is writable"
                )),
            })?,
        _ => None,
    };
    let archive = Archive::open(dir, None, Limits::default()).map_err(|e| cant(&e))?;
    // A journal's folder has segments too.
    if archive.bases().is_empty() && !is_archive(&args.dir) {
        return Err(cant(&"is no archive, or an empty one"));
    }
    match &args.action {
        Action::List { json, journal } => list(&args.dir, &archive, *json, journal.as_deref()),
        Action::Verify { json } => verify(&args.dir, &archive, *json),
        Action::Prune { age, size } => {
            let limits = Limits {
                age: *age,
                size: *size,
            };
            if limits == Limits::default() {
                return Err(Failure::usage(
                    "prune: say how much to keep: --age or --size",
                ));
            }
            let now = HostClock.wall();
            let gone = archive.prune(limits, now).map_err(|e| cant(&e))?;
            let left = match (archive.exceeds(limits, now), archive.bases().len()) {
                (false, _) => "",
                (true, 0..=1) => ": it has more than that, but the last base stays",
                (true, _) => ": it has more than that, but what is to stay needs its oldest base",
            };
            say!("{}: {gone} files removed{left}", args.dir.display());
            Ok(0)
        }
    }
}

/// Stable keys of a list.
#[derive(Serialize)]
struct Object {
    archive: PathBuf,
    /// The image's UUID.
    image: String,
    bases: Vec<BaseObject>,
    segments: Vec<SegmentObject>,
    restorable: Vec<ReachObject>,
    gaps: Vec<GapObject>,
}

/// Records that are missing between others, and the last state that can't be
/// restored for want of them.
#[derive(Serialize)]
struct GapObject {
    first: u64,
    last: u64,
    until: u64,
    timeline: u32,
}

#[derive(Serialize)]
struct BaseObject {
    name: String,
    from: u64,
    through: u64,
    epoch: u32,
    time: Option<String>,
    bytes: u64,
}

#[derive(Serialize)]
struct SegmentObject {
    name: String,
    epoch: u32,
    first: u64,
    last: u64,
    begun: String,
    last_time: Option<String>,
    bytes: u64,
}

/// States that can be restored, by the records behind which they are.
#[derive(Serialize)]
struct ReachObject {
    from: u64,
    to: u64,
    from_time: Option<String>,
    to_time: Option<String>,
    base: String,
    /// The opening with which the timeline begins.
    timeline: u32,
    /// It has ended: others changed the image.
    ended: bool,
}

fn list(dir: &Path, archive: &Archive, json: bool, journal: Option<&Path>) -> Outcome {
    let mut theirs = Vec::new();
    let mut folder: Option<Arc<dyn Dir>> = None;
    if let Some(journal) = journal {
        let cant = |e: &dyn std::fmt::Display| Failure::unchecked(at(journal, e));
        let opened = HostDir::open(journal).map_err(|e| cant(&e))?;
        theirs = log::found(&opened).map_err(|e| cant(&e))?;
        folder = Some(Arc::new(opened));
    }
    let (bases, mut known) = archive.past_of(&theirs);
    known.extend(theirs.iter().cloned());
    let journal = folder.as_ref().map(|folder| (folder, &theirs[..]));
    let reaches = archive.restorable(&bases, &known, journal);
    let object = object(dir, archive, &reaches, gaps(&bases, &known));
    match json {
        true => say!(
            "{}",
            serde_json::to_string(&object).map_err(Failure::system)?
        ),
        false => say_text!("{}", text(&object)),
    }
    let whole = object.gaps.is_empty() && archive.missing().is_empty();
    for missing in archive.missing() {
        ::log::warn!("{missing}");
    }
    Ok(if whole { 0 } else { 4 })
}

fn object(dir: &Path, archive: &Archive, reaches: &[Reach], gaps: Vec<Gap>) -> Object {
    let gaps = gaps.into_iter().map(|gap| GapObject {
        first: gap.first.0,
        last: gap.last.0,
        until: gap.until.0,
        timeline: gap.timeline.first.0,
    });
    let bases = archive.bases().into_iter().map(|base| BaseObject {
        name: base.name,
        from: base.from.0,
        through: base.through.0,
        epoch: base.epoch.0,
        time: base.time.map(line::utc),
        bytes: base.bytes,
    });
    let segments = archive.segments().into_iter().map(|found| SegmentObject {
        name: found.name,
        epoch: found.epoch.0,
        first: found.base.0,
        last: found.last.0,
        begun: line::utc(found.begun),
        last_time: found.ended.map(line::utc),
        bytes: found.bytes,
    });
    let restorable = reaches.iter().map(|reach| ReachObject {
        from: reach.from.0,
        to: reach.to.0,
        from_time: reach.since.map(line::utc),
        to_time: reach.until.map(line::utc),
        base: reach.base.name.clone(),
        timeline: reach.timeline.first.0,
        ended: reach.timeline.end.is_some(),
    });
    Object {
        archive: dir.to_owned(),
        image: Uuid(archive.identity()).to_string(),
        bases: bases.collect(),
        segments: segments.collect(),
        restorable: restorable.collect(),
        gaps: gaps.collect(),
    }
}

fn text(object: &Object) -> String {
    let mut lines = vec![format!(
        "{}: of the image with UUID {}",
        object.archive.display(),
        object.image
    )];
    let time = |time: &Option<String>| match time {
        Some(time) => format!(" ({time})"),
        None => String::new(),
    };
    for base in &object.bases {
        lines.push(format!(
            "  base      of record {} to {}{}, {} KiB",
            base.from,
            base.through,
            time(&base.time),
            base.bytes.div_ceil(1024)
        ));
    }
    if let (Some(first), Some(last)) = (object.segments.first(), object.segments.last()) {
        let bytes = (object.segments.iter()).fold(0, |sum: u64, segment| {
            sum.saturating_add(segment.bytes) // a forged manifest may say anything
        });
        lines.push(format!(
            "  segments  {}, records {} ({}) to {}{}, {} MiB",
            object.segments.len(),
            first.first,
            first.begun,
            last.last,
            time(&last.last_time),
            bytes >> 20
        ));
    }
    for reach in &object.restorable {
        lines.push(format!(
            "  restores  any state from record {}{} to {}{}{}",
            reach.from,
            time(&reach.from_time),
            reach.to,
            time(&reach.to_time),
            match reach.ended {
                true => format!(", with --timeline {}", reach.timeline),
                false => String::new(),
            }
        ));
    }
    for gap in &object.gaps {
        lines.push(format!(
            "  missing   records {} to {}: no state from record {} to {} can be restored",
            gap.first, gap.last, gap.first, gap.until
        ));
    }
    if object.restorable.is_empty() {
        lines.push("  restores  nothing: no base leads to records that are here".to_owned());
    }
    lines.join("\n") + "\n"
}

/// Stable keys of a check.
#[derive(Serialize)]
struct Verified {
    archive: PathBuf,
    /// Records that are whole, in segments that still count.
    records: u64,
    bytes: u64,
    /// What is not as it should be, in words.
    damaged: Vec<String>,
    /// What can be restored in spite of that.
    restorable: Vec<ReachObject>,
    gaps: Vec<GapObject>,
}

fn verify(dir: &Path, archive: &Archive, json: bool) -> Outcome {
    let mut verified = Verified {
        archive: dir.to_owned(),
        records: 0,
        bytes: 0,
        damaged: archive.missing(),
        restorable: Vec::new(),
        gaps: Vec::new(),
    };
    let known = read_records(dir, archive, &mut verified)?;
    compare_indexes(archive, &mut verified);
    compare_record_indexes(archive, &mut verified);
    let reaches = archive.restorable(&archive.bases(), &known, None);
    let reaches = look_at_bases(reaches, archive, &mut verified);
    let bases: Vec<ImageBase> = reaches.iter().map(|reach| reach.base.clone()).collect();
    let object = object(dir, archive, &reaches, gaps(&bases, &known));
    let listed = text(&object);
    (verified.restorable, verified.gaps) = (object.restorable, object.gaps);
    if archive.identity() == [0; 16] {
        let what = "manifest.json is missing or can't be read: the next mount that archives here writes it again";
        verified.damaged.push(what.to_owned());
    }
    match json {
        true => say!(
            "{}",
            serde_json::to_string(&verified).map_err(Failure::system)?
        ),
        false => {
            say!(
                "{}: {} records are whole, {} bytes",
                dir.display(),
                verified.records,
                verified.bytes
            );
            for damaged in verified.damaged.iter().take(MOST) {
                say!("damaged: {damaged}");
            }
            if let Some(more @ 1..) = verified.damaged.len().checked_sub(MOST) {
                say!("damaged: and {more} more (--json has all)");
            }
            say_text!("{listed}");
        }
    }
    let sound = verified.damaged.is_empty() && verified.gaps.is_empty();
    Ok(if sound { 0 } else { 4 })
}

/// Every frame, timeline by timeline. Answers the segments as if what is bad in
/// them were missing.
fn read_records(
    dir: &Path,
    archive: &Archive,
    verified: &mut Verified,
) -> Result<Vec<log::Found>, Failure> {
    let mut known = archive.segments();
    for timeline in archive.timelines() {
        let survey = Survey::glance(archive.of_timeline(&timeline))
            .map_err(|e| Failure::unchecked(at(dir, e)))?;
        let progress = Progress::through("reading", survey.numbers(Lsn(1)).count() as u64);
        let audit = audit::audit(&survey, &mut |_| progress.step());
        drop(progress);
        verified.records += audit.whole;
        verified.bytes += audit.bytes;
        let bad: Vec<Lsn> = audit.damaged.iter().map(|damage| damage.lsn).collect();
        known = without(known, &timeline, &bad);
        let damaged = audit.damaged.into_iter().map(|damage| damage.why);
        verified.damaged.extend(damaged);
    }
    Ok(known)
}

/// Each base, with the records that make it whole, is an image to be checked.
/// (Of the contents of files there are no checksums.) Answers those that lead
/// to states.
fn look_at_bases(reaches: Vec<Reach>, archive: &Archive, verified: &mut Verified) -> Vec<Reach> {
    let mut good = Vec::new();
    for reach in reaches {
        let span = Span::of_timeline(archive.dir().clone(), reach.timeline.first);
        let why = match span.and_then(|span| span.at(reach.from)) {
            Ok(instant) => {
                let findings = check::run_image(&*instant.disk()).findings;
                let mut wrong = findings.iter().filter(|f| f.severity() != Severity::Note);
                match wrong.next() {
                    Some(finding) => Some(format!("{}: {finding}", reach.base.name)),
                    None => {
                        good.push(reach);
                        None
                    }
                }
            }
            Err(error @ past::Error::Short { .. }) => Some(error.to_string()),
            Err(error) => Some(format!("{}: {error}", reach.base.name)),
        };
        verified.damaged.extend(why);
    }
    good
}

/// Block indexes are made of the records: they must say the same.
fn compare_indexes(archive: &Archive, verified: &mut Verified) {
    for found in archive.segments() {
        let name = archive.blocks_of(&found);
        let said = match archive.blocks(&found) {
            Ok(Some(index)) => match remade(archive, &found) {
                Some(remade) if remade != index => "is not what its segment says",
                _ => continue,
            },
            Ok(None) => "is missing or damaged: views of the past are slower without it",
            Err(_) => "can't be read",
        };
        verified.damaged.push(format!("{name} {said}"));
    }
}

/// So are the indexes, which readers believe.
fn compare_record_indexes(archive: &Archive, verified: &mut Verified) {
    for found in archive.segments() {
        let said = match log::index_agrees(&**archive.dir(), &found.name) {
            Ok(Some(true)) => continue,
            // Of a segment with holes that is no wonder, and they were told.
            Ok(Some(false)) if remade(archive, &found).is_none() => continue,
            Ok(Some(false)) => "is not what its segment says",
            Ok(None) => "is missing or damaged: the archive is read more slowly without it",
            Err(_) => "can't be read",
        };
        let stem = found.name.trim_end_matches(".store");
        verified.damaged.push(format!("{stem}.index {said}"));
    }
}

/// `None`: the segment is damaged, which was said.
fn remade(archive: &Archive, found: &log::Found) -> Option<BlockIndex> {
    let segment = log::read_in(&**archive.dir(), &found.name).ok()??;
    BlockIndex::of(found.base, found.salt, segment.frames()).ok()
}

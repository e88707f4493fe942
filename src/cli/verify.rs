//! `journalfs verify`: reads every byte of a journal, and judges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::device::host::{Access, HostDir, HostDisk};
use crate::device::{Dir, Disk};
use crate::ext4::superblock::{OFFSET, SIZE, Superblock};
use crate::fs::guard::{self, Standing};
use crate::history::audit::{self, Audit, Damage};
use crate::history::chart::Chart;
use crate::history::{Teller, shown};
use crate::journal::{Journal, Mismatch, Options, Record, Scrub, Unrecovered};
use crate::log::{Bad, Survey, Verdict};
use crate::units::{BlockNo, Lsn, Time};

use super::chosen::is_archive;
use super::log::line;
use super::progress::Progress;
use super::source::Source;
use super::{Failure, Outcome, at};

/// Reads every record of a journal and says whether all that was durable is
/// there: clean, torn (cut by the power, nothing that was synced is lost),
/// missing (its end is not there), or corrupt. Changes nothing. Exit codes: 0
/// clean or torn, 4 something is damaged or missing, 8 could not look.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object with stable keys
    #[arg(long)]
    json: bool,
    /// Also compares the image with what the journal says was brought there
    #[arg(long)]
    image: bool,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// An image, the directory on which it is mounted, or a journal's folder
    #[arg(value_name = "IMAGE|DIR")]
    target: PathBuf,
}

/// Stable keys.
#[derive(Serialize)]
struct Object {
    journal: PathBuf,
    /// `clean`, `torn`, `missing` or `corrupt`.
    verdict: &'static str,
    /// Records that are whole, and the bytes that they hold.
    records: u64,
    bytes: u64,
    first_time: Option<String>,
    last_time: Option<String>,
    durable: u64,
    installed: u64,
    last: u64,
    /// The first record that is bad, if the log isn't whole.
    bad: Option<BadObject>,
    /// Whole records behind the bad one.
    dropped: u64,
    damaged: Vec<DamagedObject>,
    /// With --image: blocks compared, and those that differ.
    image: Option<ImageObject>,
}

#[derive(Serialize)]
struct BadObject {
    lsn: u64,
    /// The time of the record before it.
    after: Option<String>,
    segment: String,
    offset: u64,
    why: &'static str,
}

#[derive(Serialize)]
struct DamagedObject {
    lsn: u64,
    why: String,
    /// It is in the image: only history is lost.
    installed: bool,
}

#[derive(Serialize)]
struct ImageObject {
    blocks: u64,
    differ: Vec<MismatchObject>,
}

#[derive(Serialize)]
struct MismatchObject {
    block: u64,
    lsn: u64,
    /// The record's time, and the file's path then.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// What the block is, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
}

/// An image beside its journal.
struct Compared {
    scrub: Scrub,
    differ: Vec<Differs>,
}

/// A block that is not as its last record left it.
#[derive(Default)]
struct Differs {
    block: BlockNo,
    lsn: Lsn,
    time: Option<Time>,
    path: Option<Vec<u8>>,
    what: Option<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let source = Source::find(&args.target, args.journal.as_deref())?;
    if is_archive(&source.journal) {
        return Err(Failure::unchecked(at(
            &source.journal,
            format!(
                "is an archive: journalfs archive {} verify",
                source.journal.display()
            ),
        )));
    }
    if source.is_foreign()? {
        return Err(Failure::with_code(4, source.foreign()));
    }
    let image = match args.image {
        true => Some(comparable(&source)?),
        false => None,
    };
    let survey = source.read()?;
    let progress = Progress::through("reading", survey.numbers(Lsn(1)).count() as u64);
    let audit = audit::audit(&survey, &mut |_| progress.step());
    drop(progress);
    let dropped = dropped(&source, &survey)?;
    // What can't be compared is no reason to keep the verdict.
    let compared = image.map(|image| compare(&source, &survey, image));
    let lost = source.lost_end(&survey);
    let told = compared
        .as_ref()
        .and_then(|compared| compared.as_ref().ok());
    let object = object(
        &source.journal,
        (&survey, lost.as_ref()),
        &audit,
        dropped,
        told,
    );
    match args.json {
        true => say!(
            "{}",
            serde_json::to_string(&object).map_err(Failure::system)?
        ),
        false => say_text!("{}", text(&source, &survey, &audit, dropped, told)),
    }
    let sound = audit.damaged.is_empty()
        && lost.is_none()
        && !matches!(survey.verdict(), Verdict::Corrupt(_))
        && told.is_none_or(|compared| compared.differ.is_empty());
    match compared {
        Some(Err(failure)) if sound => Err(failure),
        Some(Err(failure)) => Err(Failure::with_code(4, failure.line)),
        _ => Ok(if sound { 0 } else { 4 }),
    }
}

/// The image that is to be compared.
fn comparable(source: &Source) -> Result<&Path, Failure> {
    let image = source.image.as_deref().ok_or_else(|| {
        Failure::unchecked(at(
            &source.journal,
            "--image: give the image, and its journal with --journal DIR",
        ))
    })?;
    if let Some(point) = &source.point {
        return Err(Failure::unchecked(at(
            point,
            "--image: the image changes under a mount: unmount it first",
        )));
    }
    Ok(image)
}

/// Compares the image with the records that are in it.
fn compare(source: &Source, survey: &Survey, image: &Path) -> Result<Compared, Failure> {
    let cant = |e: &dyn std::fmt::Display| Failure::unchecked(at(image, e));
    let disk: Arc<dyn Disk> = Arc::new(HostDisk::open(image, Access::Read).map_err(|e| cant(&e))?);
    let dir: Arc<dyn Dir> = Arc::new(HostDir::open(&source.journal).map_err(|e| cant(&e))?);
    let state = Journal::open(dir).map_err(|e| cant(&e))?;
    let mut raw = [0; SIZE];
    disk.read_at(&mut raw, OFFSET).map_err(|e| cant(&e))?;
    if !belongs(&raw, &state) {
        let gone =
            matches!(survey.verdict(), Verdict::Corrupt(_)) || source.lost_end(survey).is_some();
        return Err(Failure::unchecked(at(
            image,
            match gone {
                true => {
                    "--image: what would tell that the journal is this image's is not there any more: nothing was compared"
                }
                false => {
                    "--image: it is not the image that this journal left, or others have changed it since: there is nothing to compare"
                }
            },
        )));
    }
    let sb = Superblock::decode(&raw).map_err(|e| cant(&e))?;
    let len = disk.len().map_err(|e| cant(&e))?;
    let mut options = Options::for_image(len, sb.block_size as usize);
    options.pinned = Some(sb.home().0);
    let scrub = state.scrub(disk.clone(), options).map_err(|e| cant(&e))?;
    let differ = match scrub.mismatches.is_empty() {
        true => Vec::new(),
        false => explain(&scrub, survey, &Chart::read(&*disk, sb)),
    };
    Ok(Compared { scrub, differ })
}

/// What the records say of the blocks that differ.
fn explain(scrub: &Scrub, survey: &Survey, chart: &Chart) -> Vec<Differs> {
    let mismatches = scrub.mismatches.iter();
    let mut differ: Vec<Differs> = mismatches
        .map(|Mismatch { block, lsn }| Differs {
            block: *block,
            lsn: *lsn,
            ..Differs::default()
        })
        .collect();
    let mut of: BTreeMap<Lsn, Vec<usize>> = BTreeMap::new();
    for (n, mismatch) in differ.iter().enumerate() {
        of.entry(mismatch.lsn).or_default().push(n);
    }
    let (Some(first), Some(last)) = (of.keys().next().copied(), of.keys().last().copied()) else {
        return differ;
    };
    Teller::default().tell(survey, survey.durable(), (first, last), &mut |told| {
        if let Ok(event) = told
            && let Some(blocks) = of.get(&event.frame.lsn)
        {
            let record = Record::decode(&event.frame.meta).ok();
            for n in blocks {
                let mismatch = &mut differ[*n];
                let block = mismatch.block;
                mismatch.time = Some(event.frame.time);
                mismatch.path = event.to.as_ref().or(event.path.as_ref()).cloned();
                mismatch.what =
                    (record.as_ref()).and_then(|record| shown::what(chart, record, block));
            }
        }
        true
    });
    differ
}

/// Comparing with another image, or with one that others changed since, would
/// mean nothing.
fn belongs(raw: &[u8; SIZE], state: &Unrecovered) -> bool {
    match guard::standing(raw) {
        Standing::Guarded(uuid) => state.base().is_some_and(|base| base.session.guard == uuid),
        _ => state
            .clean()
            .is_some_and(|clean| clean.fingerprint == guard::fingerprint(raw)),
    }
}

/// Whole records behind the first bad one.
pub(super) fn dropped(source: &Source, survey: &Survey) -> Result<u64, Failure> {
    match survey.verdict() {
        Verdict::Clean => Ok(0),
        Verdict::Torn { dropped, .. } => Ok(*dropped),
        Verdict::Corrupt(bad) => {
            let beyond = source.beyond()?;
            let behind = beyond.survey().numbers(bad.lsn.next());
            let is_whole = |lsn: &Lsn| beyond.survey().read_whole(*lsn).is_ok();
            Ok(behind.filter(is_whole).count() as u64)
        }
    }
}

fn object(
    journal: &Path,
    (survey, lost): (&Survey, Option<&Bad>),
    audit: &Audit,
    dropped: u64,
    compared: Option<&Compared>,
) -> Object {
    let bad = match survey.verdict() {
        _ if lost.is_some() => lost,
        Verdict::Clean => None,
        Verdict::Torn { first: bad, .. } | Verdict::Corrupt(bad) => Some(bad),
    };
    let utc = |time: Option<Time>| time.map(line::utc);
    Object {
        journal: journal.to_owned(),
        verdict: match survey.verdict() {
            _ if lost.is_some() => "missing",
            Verdict::Clean => "clean",
            Verdict::Torn { .. } => "torn",
            Verdict::Corrupt(_) => "corrupt",
        },
        records: audit.whole,
        bytes: audit.bytes,
        first_time: utc(audit.span.map(|(first, _)| first)),
        last_time: utc(audit.span.map(|(_, last)| last)),
        durable: survey.durable().0,
        installed: survey.installed().0,
        last: survey.last().0,
        bad: bad.map(|bad| BadObject {
            lsn: bad.lsn.0,
            after: utc(bad.after),
            segment: bad.segment.clone(),
            offset: bad.offset,
            why: bad.why,
        }),
        dropped,
        damaged: (audit.damaged.iter())
            .map(|damage| DamagedObject {
                lsn: damage.lsn.0,
                why: damage.why.clone(),
                installed: damage.installed,
            })
            .collect(),
        image: compared.map(|compared| ImageObject {
            blocks: compared.scrub.blocks,
            differ: (compared.differ.iter())
                .map(|differs| MismatchObject {
                    block: differs.block.0,
                    lsn: differs.lsn.0,
                    time: utc(differs.time),
                    path: (differs.path.as_deref()).map(|path| line::text(path).into_owned()),
                    what: differs.what.clone(),
                })
                .collect(),
        }),
    }
}

/// Lines of one kind that are printed; programs get all.
pub const MOST: usize = 20;

fn text(
    source: &Source,
    survey: &Survey,
    audit: &Audit,
    dropped: u64,
    compared: Option<&Compared>,
) -> String {
    let journal = source.journal.display();
    let span = match audit.span {
        Some((first, last)) => format!(", from {} to {}", line::utc(first), line::utc(last)),
        None => String::new(),
    };
    let mut lines = vec![format!(
        "{journal}: {} records are whole, {} bytes{span}",
        audit.whole, audit.bytes
    )];
    lines.extend(judgement(source, survey, dropped));
    let (old, new): (Vec<&Damage>, Vec<&Damage>) =
        audit.damaged.iter().partition(|damage| damage.installed);
    let damages = |damages: &[&Damage], what: &str, lines: &mut Vec<String>| {
        for damage in damages.iter().take(MOST) {
            lines.push(format!("damaged: {}: {what}", damage.why));
        }
        if let Some(more @ 1..) = damages.len().checked_sub(MOST) {
            lines.push(format!("damaged: and {more} more (--json has all)"));
        }
    };
    damages(&old, "it is in the image, only history is lost", &mut lines);
    damages(&new, "it is not in the image yet", &mut lines);
    if let Some(compared) = compared {
        lines.extend(scrubbed(source, compared));
    }
    lines.join("\n") + "\n"
}

/// The verdict: what, where, when, what is lost, and how to go on.
pub(super) fn judgement(source: &Source, survey: &Survey, dropped: u64) -> Vec<String> {
    let image = source.image.as_deref().unwrap_or(Path::new("IMAGE"));
    let image = image.display();
    let target = source.image.as_deref().unwrap_or(&source.journal).display();
    let place = |bad: &Bad| {
        let after = bad
            .after
            .map(|time| format!(", after {}", line::utc(time)))
            .unwrap_or_default();
        format!("{} ({} at {}{after})", bad.why, bad.segment, bad.offset)
    };
    let (durable, last) = (survey.durable(), survey.last());
    if let Some(bad) = source.lost_end(survey) {
        return vec![
            format!("missing: {}", bad.lost()),
            format!("  bring it back, or go on with all up to {last}: journalfs recover {image}"),
        ];
    }
    match survey.verdict() {
        Verdict::Clean => vec![format!(
            "clean: records to {last}, durable to {durable}, in the image to {}",
            survey.installed()
        )],
        // What a daemon is just writing looks the same.
        Verdict::Torn { .. } if source.point.is_some() => vec![format!(
            "clean: records to {last}, durable to {durable}; the daemon is writing more"
        )],
        Verdict::Torn { first, .. } => vec![
            format!("torn: record {}: {}", first.lsn, place(first)),
            format!(
                "  the power went before it was synced; {dropped} later records are whole, none of them was synced either"
            ),
            format!(
                "  nothing durable is lost: recovery keeps all up to {last}, durable was {durable}"
            ),
            format!("  to go on: journalfs recover {image}, or mount it"),
        ],
        Verdict::Corrupt(bad) => vec![
            format!("corrupt: record {}: {}", bad.lsn, place(bad)),
            format!(
                "  it had been durable; what is lost begins with it and reaches to {} at least; \
                 {dropped} records behind it are whole",
                durable.max(bad.lsn)
            ),
            format!("  to see what it followed, and those: journalfs log {target}"),
            "  to go on: restore image and journal from one backup of both;".to_owned(),
            match survey.first().filter(|first| *first < bad.lsn) {
                _ if source.point.is_some() => "  or unmount it, and look again".to_owned(),
                Some(_) => format!(
                    "  or give up what follows: journalfs salvage --until {} {image}",
                    bad.lsn.prev()
                ),
                None => format!(
                    "  or give up all of it: journalfs detach {image}, then e2fsck -f {image}"
                ),
            },
        ],
    }
}

fn scrubbed(source: &Source, Compared { scrub, differ }: &Compared) -> Vec<String> {
    let image = source.image.as_deref().unwrap_or(Path::new("IMAGE"));
    let image = image.display();
    if scrub.blocks == 0 {
        return vec![format!(
            "{image}: nothing to compare: no block was last changed by a record that is in the image for certain"
        )];
    }
    if differ.is_empty() {
        return vec![format!(
            "{image}: all {} blocks that the journal knows are as it left them",
            scrub.blocks
        )];
    }
    let mut lines: Vec<String> = (differ.iter().take(MOST))
        .map(|differs| {
            let (block, lsn) = (differs.block, differs.lsn);
            let path = differs.path.as_deref().map(line::text);
            let time = differs.time.map(line::utc);
            let about = [differs.what.clone(), path.map(Into::into), time];
            let about: Vec<String> = about.into_iter().flatten().collect();
            let about = match about.is_empty() {
                true => String::new(),
                false => format!(" ({})", about.join(", ")),
            };
            format!(
                "{image}: block {block} is not as record {lsn} left it{about}: journalfs show --hex {image} {lsn}"
            )
        })
        .collect();
    if let Some(more @ 1..) = differ.len().checked_sub(MOST) {
        lines.push(format!("{image}: and {more} more blocks (--json has all)"));
    }
    lines.push(format!(
        "{image}: {} of {} blocks that the journal knows differ",
        differ.len(),
        scrub.blocks
    ));
    lines.push(
        "  the image was changed or has rotted since: of data, show --hex has what was written; metadata e2fsck -f checks"
            .to_owned(),
    );
    lines
}

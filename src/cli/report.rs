//! `journalfs report`: a history in one page.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;

use crate::fuse::meter::Counted;
use crate::history::chronicle::Chronicle;
use crate::history::{Event, Teller};
use crate::log::{SegmentInfo, Survey, Verdict};
use crate::units::{Clock as _, HostClock, Lsn, Time};

use super::chosen::Chosen;
use super::log::line::{self, Cells};
use super::output::{cant_make, refuse_source};
use super::progress::Progress;
use super::source::Source;
use super::{Failure, Outcome, verify};

mod chart;
mod page;

/// Operations that are shown one by one: the last ones.
const MOMENTS: usize = 50;

/// Draws a journal's history: what was done and when, how long it stood
/// unsynced, by whom, and the last moments before the end. One file of HTML,
/// which needs nothing else.
///
/// Reads only, on a mount or on copies of image and journal, also damaged ones.
/// Exit codes: 0, 4 something is damaged or missing (the page says what), 8 could
/// not look, 32 FILE can't be written.
#[derive(clap::Args)]
pub struct Args {
    /// The page; an older one is replaced
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    chosen: Chosen,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// An image, the directory on which it is mounted, or a journal's folder
    #[arg(value_name = "IMAGE|DIR")]
    target: PathBuf,
}

/// All that the page shows.
struct Report {
    /// What it is about, and where its journal lies.
    subject: String,
    journal: String,
    made: Time,
    mounted: bool,
    verdict: &'static str,
    /// The verdict in words.
    judgement: Vec<String>,
    /// Records that should be there are not.
    bereft: bool,
    installed: Lsn,
    durable: Lsn,
    last: Lsn,
    segments: Vec<SegmentInfo>,
    chronicle: Chronicle,
    moments: VecDeque<Moment>,
    /// Of a mount, what it served.
    requests: Vec<Counted>,
}

/// One of the last operations.
struct Moment {
    cells: Cells,
    time: Time,
    durable: bool,
    /// Behind a bad record: recovery drops it.
    dropped: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let source = Source::find(&args.target, args.journal.as_deref())?;
    let image = source.image.as_deref();
    refuse_source(&args.output, image, &source.journal, &args.chosen)?;
    let progress = Progress::of("reading");
    let report = look(&source, &args.chosen)?;
    drop(progress);
    let whole = !matches!(report.verdict, "corrupt" | "missing");
    let sound = whole && report.chronicle.untold == 0 && !report.bereft;
    fs::write(&args.output, page::html(&report)).map_err(|e| cant_make(&args.output, &e))?;
    Ok(if sound { 0 } else { 4 })
}

fn look(source: &Source, chosen: &Chosen) -> Result<Report, Failure> {
    let survey = source.read_all(chosen)?;
    let live = source.live().filter(|_| !chosen.is_ended(&source.journal));
    let durable = source.durable(&survey, chosen);
    let mut moments = VecDeque::new();
    let mut keep = |event: &Event<'_>, dropped: bool| {
        moments.push_back(Moment {
            cells: line::cells(event),
            time: event.frame.time,
            durable: event.durable,
            dropped,
        });
        if moments.len() > MOMENTS {
            moments.pop_front();
        }
    };
    let chronicle = Chronicle::of(&survey, durable, &mut |event| keep(event, false));
    if live.is_none() && survey.verdict() != &Verdict::Clean {
        let beyond = source.beyond_all(chosen)?;
        let behind = (survey.last().next(), Lsn(u64::MAX));
        Teller::default().tell(beyond.survey(), durable, behind, &mut |told| {
            if let Ok(event) = told
                && event.op().is_some_and(|op| op.is_operation())
            {
                keep(&event, true);
            }
            true
        });
    }
    let gaps = source.gaps(chosen)?;
    let mut report = report(source, &survey, durable, chronicle, moments);
    report.bereft = !gaps.is_empty();
    report
        .judgement
        .extend(gaps.iter().map(ToString::to_string));
    if !chosen.is_ended(&source.journal) && source.is_foreign()? {
        (report.verdict, report.bereft) = ("missing", true);
        report.judgement = vec![source.foreign()];
    }
    Ok(report)
}

fn report(
    source: &Source,
    survey: &Survey,
    durable: Lsn,
    chronicle: Chronicle,
    moments: VecDeque<Moment>,
) -> Report {
    let subject = source.image.as_ref().unwrap_or(&source.journal);
    Report {
        subject: subject.display().to_string(),
        journal: source.journal.display().to_string(),
        made: HostClock.wall(),
        mounted: source.point.is_some(),
        verdict: match survey.verdict() {
            _ if source.lost_end(survey).is_some() => "missing",
            Verdict::Clean => "clean",
            // What a daemon is just writing looks the same.
            Verdict::Torn { .. } if source.point.is_some() => "clean",
            Verdict::Torn { .. } => "torn",
            Verdict::Corrupt(_) => "corrupt",
        },
        judgement: verify::judgement(source, survey, verify::dropped(source, survey).unwrap_or(0)),
        installed: survey.installed(),
        bereft: false,
        durable,
        last: survey.last(),
        segments: survey.segments().to_vec(),
        chronicle,
        moments,
        requests: source.live().map_or(Vec::new(), |live| live.requests),
    }
}

//! `journalfs status`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs::Fs;
use crate::fs::guard::Standing;
use crate::fuse::core::STATUS_XATTR;
use crate::fuse::meter::{Counted, Meter};
use crate::fuse::point;
use crate::log::{Survey, Verdict};

use super::archiving::Archiving;
use super::options::Options;
use super::place::Place;
use super::runtime::{Recovery, Runtime};
use super::source::{Source, lost};
use super::{Failure, Outcome, at, open};

mod prometheus;

/// Says whether an image is mounted, how far it lags behind its journal, and
/// what the last recovery found. Exit codes: 0, 4 what the image needs of its
/// journal is damaged or missing, 8 could not look.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object with stable keys
    #[arg(long)]
    json: bool,
    /// The text format that Prometheus reads
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// An image, the directory on which it is mounted, or a journal's folder
    #[arg(value_name = "IMAGE|DIR")]
    target: PathBuf,
}

/// What a live mount says of itself, through the virtual attribute of its
/// root directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    pub pid: u32,
    pub image: PathBuf,
    pub journal: PathBuf,
    pub mountpoint: PathBuf,
    /// Mounted so, without room to recover, or stopped by an error since.
    pub read_only: bool,
    /// Whether stock tools are kept off.
    pub guarded: bool,
    /// Mounted with a power switch: nothing reaches the image before the end.
    pub powercut: bool,
    /// The last record.
    pub appended: u64,
    /// All up to here is in the host's cache: `kill -9` can't take it.
    pub written: u64,
    /// All up to here is on stable storage.
    pub durable: u64,
    /// All up to here is in the image.
    pub checkpoint: u64,
    /// Blocks of the image may be as late as this record, and not later.
    pub going_home: u64,
    /// It shows the state after this record, and nothing else.
    pub past: Option<u64>,
    pub segments: u64,
    pub journal_bytes: u64,
    pub recovery: Option<Recovery>,
    /// Where history goes that the journal has no room for.
    pub archive: Option<PathBuf>,
    /// Why nothing is archived now.
    pub archive_error: Option<String>,
    /// Damage that was met, in words.
    pub damage: Option<String>,
    /// What requests come through, in words.
    pub transport: Option<String>,
    /// Requests served since it was mounted, by kind.
    pub requests: Vec<Counted>,
}

/// Everything that the command says.
#[derive(Clone, Debug, Default, Serialize)]
struct Status {
    /// None: a journal's folder alone was looked at.
    image: Option<PathBuf>,
    journal: PathBuf,
    mounted: bool,
    mountpoint: Option<PathBuf>,
    pid: Option<u32>,
    read_only: Option<bool>,
    /// Whether stock tools are kept off: the image lags behind its journal.
    guarded: Option<bool>,
    /// Whether it is an ext4 image whose own (internal) journal has not been
    /// replayed yet.
    unreplayed: Option<bool>,
    /// Whether it lags behind another journal than this one.
    foreign: Option<bool>,
    /// Whether others have changed it since this journal left it.
    superseded: Option<bool>,
    /// What should be there and is not, in words.
    missing: Option<String>,
    /// Whether the mount has a power switch.
    powercut: Option<bool>,
    checkpoint: Option<u64>,
    durable: Option<u64>,
    written: Option<u64>,
    appended: Option<u64>,
    /// Records that are not yet in the image.
    lag: Option<u64>,
    epoch: Option<u32>,
    verdict: Option<String>,
    segments: Option<u64>,
    journal_bytes: Option<u64>,
    recovery: Option<Recovery>,
    /// Where history goes that the journal has no room for, and why nothing
    /// goes there now, in words.
    archive: Option<PathBuf>,
    archive_error: Option<String>,
    /// Damage that a mount has met, in words.
    damage: Option<String>,
    /// What a mount's requests come through, in words.
    transport: Option<String>,
    requests: Vec<Counted>,
    /// Where a look at the image's past is mounted that was asked, and the record
    /// behind which that shows it.
    #[serde(skip)]
    view: Option<(PathBuf, u64)>,
}

impl Live {
    /// What a mount has to say.
    pub fn of(
        fs: &Fs,
        place: &Place,
        point: &Path,
        options: &Options,
        recovery: &Recovery,
    ) -> Live {
        let (journal, read_only) = (fs.journal(), options.read_only);
        let damage = fs.damage().map(|damage| damage.what.to_string());
        let marks = journal.watermarks();
        let segments = journal.segments();
        let archiving = Archiving::recall(&place.journal)
            .filter(|_| !options.read_only && !options.powercut && journal.log().is_some());
        let archive_error = match (journal.archive(), &archiving) {
            (Some(archive), _) => archive.failing().map(|e| e.to_string()),
            (None, Some(_)) => Some("it could not be had when this was mounted".to_owned()),
            (None, None) => None,
        };
        Live {
            pid: std::process::id(),
            image: place.image.clone(),
            journal: place.journal.clone(),
            mountpoint: point.to_owned(),
            read_only: read_only
                || journal.log().is_none()
                || journal.stopped().is_some()
                || damage.is_some(),
            guarded: open::is_guarded(place).unwrap_or(!read_only),
            powercut: options.powercut,
            appended: marks.appended.0,
            written: marks.written.0,
            durable: marks.durable.0,
            checkpoint: marks.installed.0,
            going_home: journal.going_home().0,
            past: None,
            segments: segments.len() as u64,
            journal_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            recovery: Some(recovery.clone()),
            archive: archiving.map(|to| to.archive),
            archive_error,
            damage,
            transport: None,
            requests: Vec::new(),
        }
    }

    /// The same with what was served.
    pub fn with_requests(self, meter: &Meter) -> Live {
        Live {
            requests: meter.counted(),
            transport: meter.transport().map(str::to_owned),
            ..self
        }
    }

    /// As the virtual attribute has it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Asks a mount; `None` if it does not answer us.
    pub fn ask(point: &Path) -> Option<Live> {
        serde_json::from_slice(&xattr::get(point, STATUS_XATTR).ok()??).ok()
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let status = look(args)?;
    match args.json {
        true => say!(
            "{}",
            serde_json::to_string(&status).map_err(Failure::system)?
        ),
        false if args.prometheus => say_text!("{}", prometheus::text(&status)),
        false => say_text!("{}", status.text()),
    }
    let corrupt = status.verdict.as_deref() == Some("corrupt");
    Ok(if status.missing.is_some() || corrupt {
        4
    } else {
        0
    })
}

fn look(args: &Args) -> Result<Status, Failure> {
    let view = point::absolute(&args.target)
        .ok()
        .and_then(|dir| Live::ask(&dir));
    let view = view.and_then(|view| Some((view.mountpoint, view.past?)));
    Ok(Status {
        view,
        ..look_at(args)?
    })
}

fn look_at(args: &Args) -> Result<Status, Failure> {
    let source = Source::find(&args.target, args.journal.as_deref())?;
    match (&source.point, &source.image) {
        (Some(point), Some(image)) => of_mount(&source, point, image),
        _ => at_rest(&source),
    }
}

fn of_mount(source: &Source, point: &Path, image: &Path) -> Result<Status, Failure> {
    if let Some(live) = source.live() {
        return Ok(live.into());
    }
    // Root can't ask a user's mount, and a dead one does not answer.
    let place = Place {
        image: image.to_owned(),
        journal: source.journal.clone(),
    };
    match place.is_in_use() {
        Ok(true) => Ok(Status {
            mounted: true,
            mountpoint: Some(point.to_owned()),
            pid: Runtime::read(&place.journal).map(|runtime| runtime.pid),
            guarded: open::is_guarded(&place).ok(),
            image: Some(place.image),
            journal: place.journal,
            ..Status::default()
        }),
        _ => at_rest(source),
    }
}

fn at_rest(source: &Source) -> Result<Status, Failure> {
    let mut status = Status {
        image: source.image.clone(),
        journal: source.journal.clone(),
        recovery: Runtime::read(&source.journal).and_then(|runtime| runtime.recovery),
        archive: Archiving::recall(&source.journal).map(|to| to.archive),
        ..Status::default()
    };
    if let Some(image) = &source.image {
        let place = Place {
            image: image.clone(),
            journal: source.journal.clone(),
        };
        let standing =
            open::standing_of(&place).map_err(|failure| Failure::unchecked(failure.line))?;
        status.guarded = Some(matches!(standing, Standing::Guarded(_)));
        status.unreplayed = Some(standing == Standing::Unreplayed);
        if !source.journal.exists() {
            status.missing = (status.guarded == Some(true)).then(|| {
                at(
                    &source.journal,
                    "the image lags behind its journal, which is not here: bring it back, or name it with --journal DIR",
                )
            });
            return Ok(status);
        }
        status.foreign = Some(source.is_foreign()?);
        status.superseded = Some(source.is_superseded()?);
    }
    let survey = source.read()?;
    let (installed, last) = (survey.installed().0, survey.last().0);
    status.checkpoint = Some(installed);
    status.durable = Some(survey.durable().0);
    status.written = Some(last);
    status.appended = Some(last);
    let ours = status.foreign != Some(true) && status.superseded != Some(true);
    let known = ours && !matches!(survey.verdict(), Verdict::Corrupt(_));
    // Behind the checkpoint of an unguarded image lies only bookkeeping.
    status.lag = status
        .guarded
        .filter(|_| known)
        .map(|guarded| match guarded {
            true => last.saturating_sub(installed),
            false => 0,
        });
    status.epoch = Some(survey.epoch().0);
    let lost_end = source.lost_end(&survey);
    let verdict = match (status.foreign, &lost_end) {
        (Some(true), _) | (_, Some(_)) => "missing",
        _ => verdict(&survey),
    };
    status.verdict = Some(verdict.to_owned());
    status.missing = match status.foreign {
        Some(true) => Some(source.foreign()),
        _ => lost_end.as_ref().map(lost),
    };
    status.segments = Some(survey.segments().len() as u64);
    status.journal_bytes = Some(survey.segments().iter().map(|segment| segment.bytes).sum());
    Ok(status)
}

fn verdict(survey: &Survey) -> &'static str {
    match survey.verdict() {
        Verdict::Clean => "clean",
        Verdict::Torn { .. } => "torn",
        Verdict::Corrupt(_) => "corrupt",
    }
}

impl From<Live> for Status {
    fn from(live: Live) -> Self {
        Status {
            mounted: true,
            guarded: Some(live.guarded),
            powercut: Some(live.powercut),
            unreplayed: Some(false),
            foreign: Some(false),
            superseded: Some(false),
            lag: Some(live.appended.saturating_sub(live.checkpoint)),
            image: Some(live.image),
            journal: live.journal,
            mountpoint: Some(live.mountpoint),
            pid: Some(live.pid),
            read_only: Some(live.read_only),
            checkpoint: Some(live.checkpoint),
            durable: Some(live.durable),
            written: Some(live.written),
            appended: Some(live.appended),
            segments: Some(live.segments),
            journal_bytes: Some(live.journal_bytes),
            recovery: live.recovery,
            requests: live.requests,
            transport: live.transport,
            archive: live.archive,
            archive_error: live.archive_error,
            damage: live.damage,
            epoch: None,
            verdict: None,
            missing: None,
            view: None,
        }
    }
}

impl Status {
    fn text(&self) -> String {
        let subject = self.image.as_deref().unwrap_or(&self.journal);
        let mut text = format!("{}\n", subject.display());
        let mut line = |name: &str, what: String| text.push_str(&format!("  {name:<12}{what}\n"));
        if self.image.is_some() {
            line("mounted", self.mounted_text());
        }
        match self.guarded {
            _ if self.powercut == Some(true) => line(
                "powercut",
                "on: the image stays as it was at the mount until the end; kill -9 loses all"
                    .to_owned(),
            ),
            Some(true) => line(
                "guard",
                "on: the image lags behind its journal, stock tools refuse it".to_owned(),
            ),
            Some(false) if self.unreplayed == Some(true) => line(
                "guard",
                "off: an ext4 image with a journal of its own, which the next mount (or e2fsck) replays"
                    .to_owned(),
            ),
            Some(false) => line("guard", "off: an ordinary ext4 image".to_owned()),
            None => {}
        }
        let foreign = match self.foreign {
            Some(true) => {
                " (not the one that the image lags behind, or records of it are gone: bring its own back, or name it with --journal DIR)"
            }
            _ if self.superseded == Some(true) => {
                " (of what the image was before others changed it: the next mount begins anew)"
            }
            _ => "",
        };
        line("journal", format!("{}{foreign}", self.journal.display()));
        if let (Some(checkpoint), Some(durable), Some(written), Some(appended)) =
            (self.checkpoint, self.durable, self.written, self.appended)
        {
            line(
                "records",
                format!(
                    "checkpoint {checkpoint} ≤ durable {durable} ≤ written {written} ≤ appended {appended}"
                ),
            );
        }
        if let Some(lag) = self.lag {
            line("lag", format!("{lag} records not yet in the image"));
        }
        if let (Some(segments), Some(bytes)) = (self.segments, self.journal_bytes) {
            line("segments", format!("{segments}, {} MiB", bytes >> 20));
        }
        if let Some(verdict) = &self.verdict {
            let more = match verdict.as_str() {
                "clean" => "",
                "missing" if self.foreign != Some(true) => ": its end is not there",
                "missing" => ": not all that the image needs is in this journal",
                "torn" => ": a power cut took what was not synced, the next mount cuts there",
                _ => {
                    ": what was durable is damaged, nothing mounts this: journalfs verify tells more"
                }
            };
            line("verdict", format!("{verdict}{more}"));
        }
        if let Some(missing) = self.missing.as_ref().filter(|_| self.foreign != Some(true)) {
            line("missing", missing.clone());
        }
        if let Some(recovery) = &self.recovery {
            line("last mount", recovery.text());
        }
        if let Some(archive) = &self.archive {
            let error = match &self.archive_error {
                Some(why) => format!(": takes nothing now: {why}"),
                None => String::new(),
            };
            line("archive", format!("{}{error}", archive.display()));
        }
        if let Some(transport) = &self.transport {
            line("transport", transport.clone());
        }
        let mut name = "requests";
        for counted in &self.requests {
            line(name, served(counted));
            name = "";
        }
        if let Some(damage) = &self.damage {
            line(
                "damage",
                format!("{damage}: nothing is changed any more; unmount, then e2fsck -f"),
            );
        }
        text
    }

    fn mounted_text(&self) -> String {
        let view = self.view.as_ref().map(|(point, lsn)| {
            format!(
                " ({} shows it as it was after record {lsn})",
                point.display()
            )
        });
        let view = view.unwrap_or_default();
        let Some(point) = self.mountpoint.as_ref().filter(|_| self.mounted) else {
            return format!("no{view}");
        };
        let pid = self
            .pid
            .map(|pid| format!(", process {pid}"))
            .unwrap_or_default();
        let mode = match self.read_only {
            Some(true) => ", read-only",
            Some(false) => ", read-write",
            None => "",
        };
        format!("on {}{mode}{pid}{view}", point.display())
    }
}

/// How many, and how long they took.
fn served(counted: &Counted) -> String {
    let mean = counted.nanos / counted.count.max(1) / 1000;
    let most = match counted.quantile(0.99) {
        Some(micros) => format!(", 99% within {micros} µs"),
        None => String::new(),
    };
    let errors = match counted.errors {
        0 => String::new(),
        errors => format!(", {errors} with an error"),
    };
    format!(
        "{:<12}{:>9}, {mean} µs each{most}, slowest {} µs{errors}",
        counted.kind,
        counted.count,
        counted.slowest / 1000
    )
}

impl Recovery {
    /// In a few words.
    pub fn text(&self) -> String {
        let replayed = match (self.operations, self.transactions) {
            (0, 0) => "nothing to replay".to_owned(),
            (0, n) => format!("{n} transactions of the image's own journal replayed"),
            (n, _) => format!("{n} operations replayed, up to record {}", self.last),
        };
        let dropped = if self.dropped.is_empty() {
            String::new()
        } else {
            format!("; {}", self.dropped)
        };
        format!("{}: {replayed}{dropped}", self.verdict)
    }
}

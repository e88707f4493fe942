//! `journalfs log`: what happened.

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::history::{Asked, Event, Point, Teller, Totals, Untold};
use crate::journal::Op;
use crate::journal::archive::Gap;
use crate::journal::record::Record;
use crate::log::{self, Survey, Verdict};
use crate::units::Lsn;

use super::chosen::Chosen;
use super::paper::{self, Paper};
use super::source::{Source, lost};
use super::{Failure, Outcome, at};

pub mod line;
mod sums;

/// How often a live journal is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// Lists the operations of a journal, oldest first: number, time, operation,
/// full path as it was called then, process, user and group.
///
/// Reads only, also beside a daemon at work. P is a record's number, a time
/// (2026-11-25T08:30:00Z, or local time without the Z), an age (-5m), or the
/// name of a mark.
///
/// Exit codes: 0, 4 records are damaged or missing, 8 could not look. (Data that
/// are in the image already are read by verify and show alone.)
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line, with stable keys
    #[arg(long)]
    json: bool,
    /// From this point on
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    since: Option<Point>,
    /// Up to this point
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    until: Option<Point>,
    /// Only of these paths, as they are printed: * and ? don't match a slash, **
    /// does
    #[arg(long, value_name = "GLOB")]
    path: Vec<glob::Pattern>,
    /// Only of this inode, also where a rename replaces it or exchanges its name
    #[arg(long, value_name = "N")]
    inode: Option<u32>,
    /// Only these: create, write, rename …; several with commas
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    op: Vec<String>,
    /// Only asked for by this process
    #[arg(long, value_name = "N")]
    pid: Option<u32>,
    /// Also what is not an operation: sessions, checkpoints, access times, the
    /// freeing of removed files
    #[arg(long)]
    all: bool,
    /// Sums per operation, process, path and minute instead of a list
    #[arg(long)]
    stat: bool,
    /// Goes on with what is done on the mount, until it ends
    #[arg(long, conflicts_with_all = ["until", "stat", "timeline"])]
    follow: bool,
    #[command(flatten)]
    chosen: Chosen,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// An image, the directory on which it is mounted, or a journal's folder
    #[arg(value_name = "IMAGE|DIR")]
    target: PathBuf,
}

/// Kinds that `--op` may name.
const KINDS: [&str; 18] = [
    "create",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "write",
    "setattr",
    "fallocate",
    "setxattr",
    "removexattr",
    "setflags",
    "mark",
    "atime",
    "orphan",
    "session",
    "install",
    "checkpoint",
    "clean",
];

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    if let Some(odd) = args.op.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(Failure::usage(format!(
            "--op {odd}: no such operation; there are {}",
            KINDS.join(", ")
        )));
    }
    let source = Source::find(&args.target, args.journal.as_deref())?;
    let survey = source.history(&args.chosen)?;
    if let Some(earlier) = source.earlier(&args.chosen)? {
        eprintln!("journalfs: {earlier}");
    }
    let from = match &args.since {
        Some(point) => source.record(point, Point::first, &survey, &args.chosen)?,
        None => Lsn(1),
    };
    let until = match &args.until {
        Some(point) => source.record(point, Point::last, &survey, &args.chosen)?,
        None => Lsn(u64::MAX),
    };
    let gaps = source.gaps(&args.chosen)?;
    let asked = |gap: &&Gap| gap.first <= until && from <= gap.last;
    for gap in gaps.iter().filter(asked) {
        eprintln!("journalfs: {gap}");
    }
    let bereft = gaps.iter().any(|gap| asked(&gap));
    if from > survey.last().next() && survey.verdict() == &Verdict::Clean && !args.follow {
        ::log::warn!(
            "there is nothing from record {from} on: the last is {}",
            survey.last()
        );
    }
    // A daemon at work knows nothing of a history that has ended.
    let live = source
        .live()
        .filter(|_| !args.chosen.is_ended(&source.journal));
    if args.stat {
        let durable = source.durable(&survey, &args.chosen);
        let code = stat(args, (&survey, durable), (from, until), live.is_some())?;
        let code = if bereft { 4 } else { code };
        if until > survey.last() && !args.chosen.is_ended(&source.journal) {
            whole(&source, &survey)?;
        }
        return Ok(code);
    }
    if args.follow && live.is_none() {
        return Err(Failure::usage(
            "--follow: it is not mounted, or its daemon does not answer: nothing can come",
        ));
    }
    let paper = Paper::new(!args.json && !args.follow);
    let mut lister = Lister {
        args,
        paper,
        common: line::Common::new(),
        line: String::new(),
        durable: None,
        recycled: None,
        damaged: None,
        gaps,
        bad: None,
        live: live.is_some(),
        dropped: false,
        torn: false,
        failed: Ok(()),
        untold: 0,
    };
    let mut teller = Teller::default();
    let durable = source.durable(&survey, &args.chosen);
    lister.list(&mut teller, &survey, durable, (from, until));
    if args.follow {
        lister.follow(&mut teller, &source, survey.last())?;
    } else if until > survey.last() {
        lister.ending(&survey);
        if lister.dropped {
            let beyond = source.beyond_all(&args.chosen)?;
            let behind = survey.last().next().max(from);
            lister.list(&mut teller, beyond.survey(), durable, (behind, until));
        }
    }
    let untold = lister.untold;
    let written = lister.failed.and_then(|()| lister.paper.close());
    paper::quietly(written).map_err(Failure::system)?;
    if until > survey.last() && !args.chosen.is_ended(&source.journal) {
        whole(&source, &survey)?;
    }
    // As fsck(8): errors were found, and left.
    Ok(if untold > 0 || bereft { 4 } else { 0 })
}

/// Records in a row that are damaged in one way.
struct Damaged {
    last: Lsn,
    count: u64,
    /// The file, and what does not hold.
    how: (String, &'static str),
    /// What to say of the first.
    said: String,
}

/// Writes events as they come.
struct Lister<'a> {
    args: &'a Args,
    paper: Paper,
    common: line::Common,
    /// What is written next.
    line: String,
    /// Whether the last line was of a durable record.
    durable: Option<bool>,
    /// Records that have been overwritten, or behind a cut never were written,
    /// just before.
    recycled: Option<(Lsn, Lsn)>,
    /// Records in a row that are damaged in one way, just before.
    damaged: Option<Damaged>,
    /// What the archive should have.
    gaps: Vec<Gap>,
    /// The bad record that the verdict names: told once.
    bad: Option<Lsn>,
    /// Beside a daemon at work.
    live: bool,
    /// What comes now lies behind a record that is bad: recovery drops it.
    dropped: bool,
    /// And that is the power's doing.
    torn: bool,
    failed: io::Result<()>,
    untold: u64,
}

impl Lister<'_> {
    fn list(&mut self, teller: &mut Teller, survey: &Survey, durable: Lsn, range: (Lsn, Lsn)) {
        let args = self.args;
        args.tell(teller, (survey, durable), range, &mut |told| {
            let written = match told {
                Ok(event) if self.args.wants(&event) => {
                    let before = self.damage().and_then(|()| self.gap());
                    before.and_then(|()| self.line(&event))
                }
                Ok(_) => Ok(()),
                Err(Untold::Log(log::Error::Recycled(lsn))) => self.is_not_kept(lsn),
                Err(Untold::Log(log::Error::Corrupt { lsn, .. })) if self.torn => {
                    self.is_not_kept(lsn)
                }
                Err(untold) => self.cant(&untold),
            };
            self.failed = written;
            self.failed.is_ok()
        });
        if self.failed.is_ok() {
            self.failed = self.damage().and_then(|()| self.gap());
        }
    }

    fn is_not_kept(&mut self, lsn: Lsn) -> io::Result<()> {
        if self.bad != Some(lsn) {
            self.lack(lsn, lsn);
        }
        Ok(())
    }

    fn line(&mut self, event: &Event<'_>) -> io::Result<()> {
        if self.args.json {
            return line::object(event, self.dropped, &mut self.paper);
        }
        // Where a cut would have come, or did.
        if self.durable == Some(true) && !event.durable && !self.dropped {
            self.note("what follows was not known to be durable")?;
        }
        self.durable = Some(event.durable);
        let dim = self.paper.colour && (!event.durable || self.dropped);
        self.line.clear();
        if dim {
            self.line.push_str("\x1b[33m");
        }
        line::columns(event, &mut self.common, &mut self.line);
        if dim {
            self.line.push_str("\x1b[0m");
        }
        self.line.push('\n');
        self.paper.write_all(self.line.as_bytes())
    }

    /// These records have been overwritten.
    fn lack(&mut self, first: Lsn, last: Lsn) {
        let first = self.recycled.map_or(first, |(first, _)| first);
        self.recycled = Some((first, last));
    }

    /// Old segments are used again in any order: that some records between
    /// others are not there any more is nothing wrong.
    fn gap(&mut self) -> io::Result<()> {
        let Some((first, last)) = self.recycled.take() else {
            return Ok(());
        };
        let why = match self.gaps.iter().any(|gap| gap.has(first)) {
            _ if self.torn => "not there either",
            true => "missing from the archive",
            false => "not kept any more",
        };
        let said = match first == last {
            true => format!("record {first} is {why}"),
            false => format!("records {first} to {last} are {why}"),
        };
        if !self.args.json {
            return self.note(&said);
        }
        // Whoever follows took it that nothing is left out.
        if self.args.follow {
            eprintln!("journalfs: {said}");
        }
        line::gap((first, last), why, &mut self.paper)
    }

    /// A line that is no record; programs find such things by `verify`.
    fn note(&mut self, what: &str) -> io::Result<()> {
        match (self.args.json, self.paper.colour) {
            (true, _) => Ok(()),
            (false, true) => writeln!(self.paper, "\x1b[1m-- {what}\x1b[0m"),
            (false, false) => writeln!(self.paper, "-- {what}"),
        }
    }

    /// A file that is cut short has thousands of such records.
    fn cant(&mut self, untold: &Untold) -> io::Result<()> {
        self.untold += 1;
        let found = match untold {
            Untold::Log(log::Error::Corrupt {
                lsn, segment, why, ..
            }) => Some((lsn, segment.clone(), *why)),
            Untold::Log(log::Error::Missing(lsn)) => Some((lsn, String::new(), "missing")),
            _ => None,
        };
        let mut run = None;
        if let Some((lsn, segment, why)) = found {
            if self.bad == Some(*lsn) {
                return Ok(());
            }
            if let Some(run) = &mut self.damaged
                && (run.last.next(), &run.how.0, run.how.1) == (*lsn, &segment, why)
            {
                (run.last, run.count) = (*lsn, run.count + 1);
                return Ok(());
            }
            run = Some(Damaged {
                last: *lsn,
                count: 1,
                how: (segment, why),
                said: untold.to_string(),
            });
        }
        self.damage()?;
        match run {
            None => self.complain(&untold.to_string()),
            run => {
                self.damaged = run;
                Ok(())
            }
        }
    }

    /// Says what has been damaged just before.
    fn damage(&mut self) -> io::Result<()> {
        match self.damaged.take() {
            None => Ok(()),
            Some(run) if run.count == 1 => self.complain(&run.said),
            Some(run) => {
                let (last, more) = (run.last, run.count - 1);
                self.complain(&format!(
                    "{}, and {more} more up to record {last}",
                    run.said
                ))
            }
        }
    }

    fn complain(&mut self, what: &str) -> io::Result<()> {
        if self.args.json {
            ::log::warn!("{what}");
            return Ok(());
        }
        self.note(what)
    }

    /// What comes behind the last record.
    fn ending(&mut self, survey: &Survey) {
        if self.failed.is_err() {
            return;
        }
        let said = match survey.verdict() {
            Verdict::Clean => return,
            // A daemon at work may have written more meanwhile.
            _ if self.live => return,
            // Told when all has been listed.
            Verdict::Torn { .. } if survey.lost_end().is_some() => {
                self.dropped = true;
                return;
            }
            Verdict::Torn { first, .. } => {
                (self.torn, self.bad) = (true, Some(first.lsn));
                self.recycled = None;
                format!(
                    "record {} is torn ({} at {}): the power went before it was synced, recovery cuts here and drops what follows",
                    first.lsn, first.segment, first.offset
                )
            }
            Verdict::Corrupt(bad) => {
                self.untold += 1;
                self.bad = Some(bad.lsn);
                format!(
                    "record {} was durable and is damaged: {} ({} at {}): journalfs verify tells more; what follows was found behind it",
                    bad.lsn, bad.why, bad.segment, bad.offset
                )
            }
        };
        self.failed = match survey.verdict() {
            Verdict::Corrupt(_) => self.complain(&said),
            _ => self.note(&said),
        };
        self.dropped = true;
    }

    /// Goes on as the mount does.
    fn follow(
        &mut self,
        teller: &mut Teller,
        source: &Source,
        mut last: Lsn,
    ) -> Result<(), Failure> {
        while self.failed.is_ok() {
            self.failed = self.paper.flush();
            thread::sleep(EVERY);
            let live = source.live();
            let written = live.as_ref().map(|live| Lsn(live.written));
            if written.is_none_or(|written| written > last) {
                let survey = source.glance()?;
                // Whole segments may have come and gone between two looks.
                if let Some(first) = survey.first().filter(|first| *first > last.next()) {
                    self.lack(last.next(), first.prev());
                }
                let durable = live
                    .as_ref()
                    .map_or(survey.durable(), |live| Lsn(live.durable));
                self.list(teller, &survey, durable, (last.next(), Lsn(u64::MAX)));
                last = last.max(survey.last());
            }
            if live.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Says if more should be there than what was told.
fn whole(source: &Source, survey: &Survey) -> Result<(), Failure> {
    if source.is_foreign()? {
        return Err(Failure::with_code(4, source.foreign()));
    }
    match source.lost_end(survey) {
        Some(bad) => Err(Failure::with_code(4, at(&source.journal, lost(&bad)))),
        None => Ok(()),
    }
}

fn stat(args: &Args, (survey, durable): (&Survey, Lsn), range: (Lsn, Lsn), live: bool) -> Outcome {
    let mut totals = Totals::default();
    let (mut untold, mut unreadable) = (0, 0u64);
    if let Verdict::Corrupt(bad) = survey.verdict()
        && range.1 > survey.last()
        && !live
    {
        untold += 1;
        ::log::warn!(
            "record {} was durable and is damaged: these are the sums of what is before it",
            bad.lsn
        );
    }
    let from = (survey, durable);
    args.tell(&mut Teller::default(), from, range, &mut |told| {
        match told {
            Ok(event) if args.wants(&event) => totals.add(&event),
            Ok(_) => {}
            Err(Untold::Log(log::Error::Recycled(_))) => {}
            Err(error) => {
                unreadable += 1;
                if unreadable == 1 {
                    ::log::warn!("{error}");
                }
            }
        }
        true
    });
    if let Some(more @ 1..) = unreadable.checked_sub(1) {
        ::log::warn!("and {more} more (log without --stat names them)");
    }
    let mut paper = Paper::new(!args.json);
    let written = match args.json {
        true => sums::objects(&totals, &mut paper),
        false => sums::tables(&totals, &mut paper),
    };
    paper::quietly(written.and_then(|()| paper.close())).map_err(Failure::system)?;
    Ok(if untold + unreadable > 0 { 4 } else { 0 })
}

impl Args {
    fn wants(&self, event: &Event<'_>) -> bool {
        let mut paths = event.path.iter().chain(&event.to);
        self.wants_record(event.record)
            && (self.path.is_empty() || paths.any(|path| self.wants_path(path)))
    }

    fn wants_record(&self, record: &Record) -> bool {
        let op = record.op();
        let common = op.is_some_and(|op| op.is_operation() || matches!(op, Op::Mark { .. }));
        let kind = match self.op.is_empty() {
            true => common || self.all,
            false => self.op.iter().any(|kind| kind == record.kind()),
        };
        let acts_on = |inode: &u32| {
            let own = op.and_then(Op::inode);
            let mut inodes = own.into_iter().chain(op.and_then(line::replaced));
            inodes.any(|has| has.0 == *inode)
        };
        kind && self.inode.as_ref().is_none_or(acts_on)
            && self
                .pid
                .is_none_or(|pid| op.and_then(Op::by).is_some_and(|by| by.pid == pid))
    }

    fn wants_path(&self, path: &[u8]) -> bool {
        let options = glob::MatchOptions {
            require_literal_separator: true,
            ..glob::MatchOptions::default()
        };
        let path = line::text(path);
        let matches = |glob: &glob::Pattern| glob.matches_with(&path, options);
        self.path.iter().any(matches)
    }

    /// Tells the events that are wanted, and maybe others.
    fn tell(
        &self,
        teller: &mut Teller,
        (survey, durable): (&Survey, Lsn),
        range: (Lsn, Lsn),
        visit: &mut dyn FnMut(Result<Event<'_>, Untold>) -> bool,
    ) {
        let path: &dyn Fn(&[u8]) -> bool = &|path| self.wants_path(path);
        let asked = Asked {
            record: &|record| self.wants_record(record),
            path: (!self.path.is_empty()).then_some(path),
        };
        teller.tell_asked(survey, durable, range, &asked, visit);
    }
}

//! The journal's part of a check: every frame, the verdict, and the image as
//! its journal would leave it.

use std::sync::Arc;

use super::finding::Finding;
use super::report::{self, Report};
use super::source::{Plain, Through};
use super::superblock::{Super, uuid_text};
use super::walk;
use crate::device::{Dir, Disk};
use crate::journal::{Journal, Options, Unrecovered};
use crate::log::{Error, Survey, Verdict};
use crate::units::Lsn;

/// Checks both.
pub fn run(image: Arc<dyn Disk>, dir: Arc<dyn Dir>) -> Report {
    let mut ours = Report::default();
    let state = match Journal::open(dir) {
        Ok(state) => state,
        Err(e) => {
            ours.add(Finding::JournalUnreadable {
                error: e.to_string(),
            });
            return both(ours, walk::run(&Plain(&*image)));
        }
    };
    let frames = frames(state.survey(), &mut ours);
    ours.journal = Some(summary(state.survey(), frames));
    let theirs = recovered(image, state, &mut ours);
    both(ours, theirs)
}

/// An image whose journal is not here: fine, unless it lags behind it.
pub fn without(image: &dyn Disk) -> Report {
    let mut report = walk::run(&Plain(image));
    let guard = report.findings.iter().find_map(|finding| match finding {
        Finding::Guarded { uuid } => Some(uuid.clone()),
        _ => None,
    });
    if let Some(uuid) = guard {
        report.findings = vec![Finding::JournalMissing { uuid }];
    }
    report
}

/// The journal's findings first, then the image's.
fn both(mut journal: Report, image: Report) -> Report {
    journal.counts = image.counts;
    journal.suppressed += image.suppressed;
    for finding in image.findings {
        journal.add(finding);
    }
    journal
}

/// Reads every frame with its data; answers how many are as they should be.
fn frames(survey: &Survey, report: &mut Report) -> u64 {
    judge(survey, report);
    let mut whole = 0;
    for lsn in survey.numbers(Lsn(1)) {
        match survey.read_whole(lsn) {
            Ok(_) => whole += 1,
            Err(Error::Recycled(_)) => {}
            Err(e) if lsn <= survey.installed() => {
                report.add(Finding::JournalFrame {
                    lsn: lsn.0,
                    error: e.to_string(),
                });
            }
            Err(e) => report.add(Finding::JournalCorrupt {
                lsn: lsn.0,
                error: e.to_string(),
            }),
        }
    }
    whole
}

fn judge(survey: &Survey, report: &mut Report) {
    if let Some(bad) = survey.lost_end() {
        report.add(Finding::JournalEnd {
            lsn: bad.lsn.0,
            error: bad.lost(),
        });
        return;
    }
    match survey.verdict() {
        Verdict::Clean => {}
        Verdict::Torn { first, dropped } => {
            report.add(Finding::JournalTorn {
                lsn: first.lsn.0,
                dropped: *dropped,
            });
        }
        Verdict::Corrupt(bad) => {
            let error = format!(
                "{} (segment {}, offset {})",
                bad.why, bad.segment, bad.offset
            );
            report.add(Finding::JournalCorrupt {
                lsn: bad.lsn.0,
                error,
            });
        }
    }
}

fn summary(survey: &Survey, frames: u64) -> report::Journal {
    let verdict = match survey.verdict() {
        _ if survey.lost_end().is_some() => "missing",
        Verdict::Clean => "clean",
        Verdict::Torn { .. } => "torn",
        Verdict::Corrupt(_) => "corrupt",
    };
    report::Journal {
        verdict: verdict.to_owned(),
        epoch: survey.epoch().0,
        segments: survey.segments().len() as u64,
        frames,
        durable: survey.durable().0,
        installed: survey.installed().0,
        last: survey.last().0,
    }
}

/// The image as it is, or if it is guarded, as recovery would leave it.
fn recovered(image: Arc<dyn Disk>, state: Unrecovered, report: &mut Report) -> Report {
    let mut found = Report::default();
    let sb = walk::superblock(&Plain(&*image), &mut found);
    let session = state.base().map(|base| &base.session);
    let torn = found
        .findings
        .iter()
        .any(|f| matches!(f, Finding::Checksum { .. } | Finding::NotExt4 { .. }));
    let (sb, guard) = match (sb, session) {
        // A superblock torn by the power is repaired from the session's copy,
        // also when it was torn as the session ended and the guard went.
        (_, Some(session)) if torn => match Super::of_bytes(&session.guarded) {
            Some(sb) => (sb, session.guard),
            None => return walk::run(&Plain(&*image)),
        },
        (Some(sb), _) if sb.guard.is_some() => (sb, sb.guard.unwrap_or_default()),
        _ => return walk::run(&Plain(&*image)),
    };
    // A session that recorded nothing may not have reached the image yet,
    // which then still carries the guard of the one before.
    let ours = session.is_some_and(|session| {
        let prior = Super::of_bytes(&session.prior).and_then(|prior| prior.guard);
        session.guard == guard || (state.is_unused() && prior == Some(guard))
    });
    if !ours {
        let journal = session.map_or("without a session".to_owned(), |session| {
            uuid_text(&session.guard)
        });
        report.add(Finding::JournalForeign {
            image: uuid_text(&guard),
            journal,
        });
        return Report {
            counts: found.counts,
            ..Report::default()
        };
    }
    match replay(image, state, &sb) {
        Ok(judged) => judged,
        Err(e) => {
            report.add(Finding::JournalUnreadable {
                error: e.to_string(),
            });
            Report::default()
        }
    }
}

fn replay(image: Arc<dyn Disk>, state: Unrecovered, sb: &Super) -> crate::journal::Result<Report> {
    // Not what the superblock says: it may be forged.
    let len = image.len().map_err(|source| crate::journal::Error::Io {
        what: "length of the image".to_owned(),
        source: Arc::new(source),
    })?;
    let mut options = Options::for_image(len, sb.block_size);
    options.pinned = Some(sb.home());
    let journal = state.replay_in_memory(image, options)?;
    Ok(walk::run(&Through {
        blocks: &journal.view(),
        len,
    }))
}

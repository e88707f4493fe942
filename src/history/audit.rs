//! Reading every byte of a journal: what is whole, what is not, and what
//! follows from that.

use crate::journal::{self, Record};
use crate::log::{Error, Kind, Survey};
use crate::units::{Lsn, Time};

/// A record that isn't as it was written.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Which record.
    pub lsn: Lsn,
    /// What does not hold, and where.
    pub why: String,
    /// It is in the image already: only history is lost with it.
    pub installed: bool,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Records that are as they were written, the log's own marks included.
    pub whole: u64,
    /// Bytes of their metadata and data.
    pub bytes: u64,
    /// Records that could be read, and have been overwritten meanwhile.
    pub recycled: u64,
    /// Those that are not whole, in order.
    pub damaged: Vec<Damage>,
    /// The first and the last whole record's time.
    pub span: Option<(Time, Time)>,
}

/// Reads all records that a survey keeps, with their data; `step` is told
/// each one's number.
pub fn audit(survey: &Survey, step: &mut dyn FnMut(Lsn)) -> Audit {
    let mut audit = Audit::default();
    for lsn in survey.numbers(Lsn(1)) {
        step(lsn);
        let why = match look(survey, lsn) {
            Ok((time, bytes)) => {
                audit.whole += 1;
                audit.bytes += bytes;
                let begun = audit.span.map_or(time, |(first, _)| first);
                audit.span = Some((begun, time));
                continue;
            }
            Err(Flaw::Log(Error::Recycled(_))) => {
                audit.recycled += 1;
                continue;
            }
            Err(Flaw::Log(error)) => error.to_string(),
            Err(Flaw::Meaning(why)) => format!("record {lsn} can't be understood: {why}"),
        };
        audit.damaged.push(Damage {
            lsn,
            why,
            installed: lsn <= survey.installed(),
        });
    }
    audit
}

enum Flaw {
    Log(Error),
    Meaning(journal::Flaw),
}

fn look(survey: &Survey, lsn: Lsn) -> Result<(Time, u64), Flaw> {
    let frame = survey.read_whole(lsn).map_err(Flaw::Log)?;
    if frame.kind == Kind::Record {
        Record::decode(&frame.meta).map_err(Flaw::Meaning)?;
    }
    let data = frame.data.as_ref().map_or(0, |data| data.len());
    Ok((frame.time, (frame.meta.len() + data) as u64))
}

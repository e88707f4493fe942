//! A point in the log, as people name it.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time as TimeOfDay};
use jiff::tz::TimeZone;

use crate::journal::record::{Op, Record};
use crate::log::{Kind, Survey};
use crate::units::{Lsn, Time};

/// A record's number, a time, an age, or the name of a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// Behind this record.
    Lsn(Lsn),
    /// At this instant.
    Time(Time),
    /// So many nanoseconds ago.
    Ago(i64),
    /// At the newest mark of this name.
    Mark(String),
}

/// Why a text names no point, or a point is not there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PointError {
    /// It looks like an age and isn't.
    #[error("{0}: not an age: say -90s, -5m, -2h or -1d")]
    Age(String),
    /// It looks like a time and isn't.
    #[error(
        "{0}: not a time: say 2026-11-25T08:30:00Z, or 2026-11-25T08:30 or 08:30 in local time"
    )]
    Time(String),
    /// No such mark.
    #[error("no mark {wanted} in the journal: {}", marks(.known))]
    Mark {
        /// What was asked for.
        wanted: String,
        /// Those there are, newest first.
        known: Vec<String>,
    },
    /// It lies before all that is known: what was then, nobody can tell.
    #[error("nothing is known of {}: the oldest record, {oldest}, is of {}", stamp(*.wanted), stamp(*.time))]
    Before {
        /// What was asked for.
        wanted: Time,
        /// The oldest record.
        oldest: Lsn,
        /// When it was made.
        time: Time,
    },
    /// The records from there are not kept any more.
    #[error("record {wanted} is not in the journal any more: the oldest is {oldest}")]
    Gone {
        /// What was asked for.
        wanted: Lsn,
        /// What there is.
        oldest: Lsn,
    },
}

impl FromStr for Point {
    type Err = PointError;

    /// All digits: a record's number. `-5m`: an age. What begins like a date
    /// is a time, RFC 3339 or without an offset in local time; `08:30` is
    /// today's. All else is a mark's name.
    fn from_str(text: &str) -> Result<Point, PointError> {
        if let Ok(lsn) = text.parse() {
            return Ok(Point::Lsn(Lsn(lsn)));
        }
        if let Some(age) = text.strip_prefix('-') {
            return parse_age(age)
                .map(Point::Ago)
                .ok_or_else(|| PointError::Age(text.to_owned()));
        }
        if text.contains(':')
            && text
                .chars()
                .all(|c| c.is_ascii_digit() || c == ':' || c == '.')
        {
            return parse_today(text).ok_or_else(|| PointError::Time(text.to_owned()));
        }
        let dated = text.len() >= 10
            && text.is_char_boundary(10)
            && DateTime::from_str(&text[..10]).is_ok();
        if !dated {
            return Ok(Point::Mark(text.to_owned()));
        }
        let time = Timestamp::from_str(text).or_else(|_| {
            DateTime::from_str(text)?
                .to_zoned(TimeZone::system())
                .map(|zoned| zoned.timestamp())
        });
        match time {
            Ok(time) => Ok(Point::at(time)),
            Err(_) => Err(PointError::Time(text.to_owned())),
        }
    }
}

/// `08:30` or `08:30:15` of this day in local time.
fn parse_today(text: &str) -> Option<Point> {
    let time = TimeOfDay::from_str(text).ok()?;
    let today = Timestamp::now().to_zoned(TimeZone::system()).date();
    let zoned = today.to_datetime(time).to_zoned(TimeZone::system()).ok()?;
    Some(Point::at(zoned.timestamp()))
}

/// `90s`, `5m`, `2h`, `1d` in nanoseconds.
pub fn parse_age(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let count: i64 = text[..text.len() - 1].parse().ok()?;
    count
        .checked_mul(seconds)?
        .checked_mul(1_000_000_000)
        .filter(|age| *age >= 0)
}

impl Point {
    fn at(time: Timestamp) -> Point {
        let nanos = time.as_nanosecond();
        let nanos = nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Point::Time(Time::from_nanos(nanos))
    }

    /// The first record at or behind the point, where `now` is the time by
    /// which ages are reckoned. One past the last record if there is none.
    pub fn first(&self, survey: &Survey, now: Time) -> Result<Lsn, PointError> {
        match self {
            Point::Lsn(lsn) => Ok(*lsn),
            Point::Mark(name) => find_mark(survey, name),
            Point::Time(_) | Point::Ago(_) => Ok(survey
                .find_time(self.time(now))
                .unwrap_or(survey.last().next())),
        }
    }

    /// The last record that belongs to the state at the point: of a time, the
    /// last one not made later. Before the first record there is no such state:
    /// since when the image had been what that record found, none tells.
    pub fn last(&self, survey: &Survey, now: Time) -> Result<Lsn, PointError> {
        match self {
            Point::Lsn(lsn) => Ok(*lsn),
            Point::Mark(name) => find_mark(survey, name),
            Point::Time(_) | Point::Ago(_) => {
                let after = Time::from_nanos(self.time(now).as_nanos().saturating_add(1));
                let next = survey.find_time(after);
                if let Some(oldest) = next.filter(|next| Some(*next) <= survey.first())
                    && let Ok(frame) = survey.frame(oldest)
                {
                    return Err(PointError::Before {
                        wanted: self.time(now),
                        oldest,
                        time: frame.time,
                    });
                }
                Ok(next.map_or(survey.last(), Lsn::prev))
            }
        }
    }

    /// When it is, if it is a time or an age.
    pub fn time(&self, now: Time) -> Time {
        match self {
            Point::Time(time) => *time,
            Point::Ago(age) => Time::from_nanos(now.as_nanos().saturating_sub(*age)),
            Point::Lsn(_) | Point::Mark(_) => Time::default(),
        }
    }
}

fn stamp(time: Time) -> String {
    let stamp = Timestamp::from_nanosecond(time.as_nanos().into());
    stamp.map_or_else(|_| "then".to_owned(), |stamp| format!("{stamp:.3}"))
}

/// Marks in words, the newest of many.
fn marks(known: &[String]) -> String {
    const SOME: usize = 5;
    let some = known[..known.len().min(SOME)].join(", ");
    match known.len() {
        0 => "it has no marks".to_owned(),
        1..=SOME => format!("it has {some}"),
        _ => format!("the newest are {some}: journalfs log --op mark lists them all"),
    }
}

/// The newest mark of a name.
fn find_mark(survey: &Survey, wanted: &str) -> Result<Lsn, PointError> {
    let (mut found, mut known) = (None, Vec::new());
    // What can't be read is none.
    for frame in survey.frames(Lsn(1)).flatten() {
        if frame.kind == Kind::Record
            && let Ok(Record::Operation(operation)) = Record::decode_meaning(&frame.meta)
            && let Op::Mark { name, .. } = &operation.op
        {
            match name == wanted.as_bytes() {
                true => found = Some(frame.lsn),
                false => known.push(String::from_utf8_lossy(name).escape_debug().to_string()),
            }
        }
    }
    known.reverse();
    let wanted = wanted.to_owned();
    found.ok_or(PointError::Mark { wanted, known })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_number_an_age_a_time_or_a_name() {
        let parse = |text: &str| text.parse::<Point>();
        assert_eq!(parse("318"), Ok(Point::Lsn(Lsn(318))));
        assert_eq!(parse("-5m"), Ok(Point::Ago(300_000_000_000)));
        assert_eq!(
            parse("2026-11-25T08:30:00Z"),
            Ok(Point::Time(Time {
                secs: 1_795_595_400,
                nanos: 0
            }))
        );
        assert!(matches!(parse("2026-11-25T08:30"), Ok(Point::Time(_))));
        assert!(matches!(parse("2026-11-25"), Ok(Point::Time(_))));
        assert_eq!(
            parse("before-upgrade"),
            Ok(Point::Mark("before-upgrade".into()))
        );
        assert_eq!(parse("-5x"), Err(PointError::Age("-5x".into())));
        assert_eq!(
            parse("2026-11-25T99:00"),
            Err(PointError::Time("2026-11-25T99:00".into()))
        );
        assert!(matches!(parse("08:30"), Ok(Point::Time(_))));
        assert_eq!(parse("25:99"), Err(PointError::Time("25:99".into())));
        assert!(parse("-99999999999999999d").is_err());
        assert!(matches!(parse("ünïcödé-ünï"), Ok(Point::Mark(_))));
    }
}

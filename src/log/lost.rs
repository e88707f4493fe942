//! A log whose end is missing, and that looks whole all the same: what the
//! folder tells of segments that are not there.

use std::collections::BTreeSet;

use super::folder::{self, Spare};
use super::segment::Segment;
use super::{Bad, Survey, Verdict};
use crate::units::{Lsn, Time};

impl Bad {
    /// What a lost end means. Whether a file that was cut short had more records,
    /// nothing tells.
    pub fn lost(&self) -> String {
        let Bad {
            lsn,
            segment,
            offset,
            why,
            ..
        } = self;
        match *offset {
            0 => format!("record {lsn}: {why} ({segment}): what was durable in it is lost"),
            _ => format!(
                "record {lsn}, if there was one: {why} ({segment} at {offset}): \
                 what was durable behind that is lost"
            ),
        }
    }
}

impl Survey {
    /// The end of a log that looks whole, or torn, and is not: another segment was behind
    /// the newest one, durably, or that would not have been sealed or retired;
    /// or its file is shorter than it was when it was begun. No power failure
    /// does that. (Copies in an archive, whose indexes are all sealed, have
    /// other names.)
    pub fn lost_end(&self) -> Option<Bad> {
        let corrupt = matches!(self.verdict(), Verdict::Corrupt(_));
        let newest = self.pieces.last().filter(|_| !corrupt)?;
        let (segment, file) = (&newest.segment, &self.files[newest.file]);
        let header = &segment.header;
        let next = self.last.next();
        let bad = |segment: String, offset, why| Bad {
            lsn: next,
            after: None,
            segment,
            offset,
            why,
        };
        // A segment of which a record is known to be durable had its own name
        // then: if it has a spare's, it was given up, which the active one
        // never is. (What an opening copied is durable before the name is, but
        // only that segment's own header says so.)
        let retired = Spare::number_of_store(&file.name).is_some() && self.proven >= header.base;
        let own = file.name == Segment::store_name(header.base);
        if (retired || own) && file.len < header.size {
            let why = "the segment's file is cut short";
            return Some(bad(file.name.clone(), file.len, why));
        }
        if self.verdict() != &Verdict::Clean {
            return None;
        }
        let index = Segment::index_name(header.base);
        let sealed = match own {
            true => folder::sealed_index(&*self.dir, &index, header),
            false => None,
        };
        if sealed.is_none() && !retired && !self.has_names_beyond() {
            return None;
        }
        let after = sealed.and_then(|entries| entries.last().map(|entry| entry.time));
        Some(Bad {
            after: after.map(Time::from_nanos),
            ..bad(
                Segment::store_name(next),
                0,
                "the segment that begins with it is missing",
            )
        })
    }

    /// Whether an index is named for a segment behind the last record, and there
    /// is no such segment. (A store may have its name before its header.)
    fn has_names_beyond(&self) -> bool {
        let bases: BTreeSet<Lsn> = (self.pieces.iter())
            .map(|piece| piece.segment.header.base)
            .collect();
        let beyond = |name: &String| {
            let base = Segment::base_in(name).filter(|_| name.ends_with(".index"));
            base.is_some_and(|base| base > self.last && !bases.contains(&base))
        };
        self.dir.list().is_ok_and(|names| names.iter().any(beyond))
    }
}

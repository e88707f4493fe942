//! Reading the records that a survey found.

use super::segment::{Frame, Seen};
use super::store::Window;
use super::{Error, Frames, Result, Survey, frame};
use crate::units::{Lsn, Time};

/// Reads records of a survey by way of a piece of a store in memory.
pub struct Reader<'s> {
    survey: &'s Survey,
    /// The survey's piece that was read last.
    open: Option<(usize, Window<'s>)>,
}

impl<'s> Reader<'s> {
    /// One record, to be looked at.
    pub fn see(&mut self, lsn: Lsn) -> Result<Seen<'_>> {
        let survey = self.survey;
        let at = survey.piece_of(lsn)?;
        let segment = &survey.pieces[at].segment;
        let (_, window) = match self.open.take() {
            Some(open) if open.0 == at => self.open.insert(open),
            _ => self.open.insert((at, segment.window()?)),
        };
        let seen = segment.see(lsn, window);
        seen.map_err(|error| survey.as_found(at, error))
    }

    /// One record.
    pub fn read(&mut self, lsn: Lsn) -> Result<Frame> {
        Ok(self.see(lsn)?.frame())
    }
}

impl Survey {
    /// The oldest record that still can be read, if there is any.
    pub fn first(&self) -> Option<Lsn> {
        let first = self
            .pieces
            .iter()
            .find(|piece| piece.segment.index.len() > 0)?;
        Some(first.segment.header.base)
    }
    /// The kept records from `from` (or the first that still exists) on, in
    /// order. Below `installed` some may be damaged: an error for each.
    pub fn frames(&self, from: Lsn) -> Frames<'_> {
        let mut reader = self.reader();
        Frames::new(self.numbers(from), move |lsn| reader.read(lsn))
    }
    /// For whoever reads many records, in their order.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            survey: self,
            open: None,
        }
    }
    /// The numbers of these records. Between two segments that lie further
    /// apart than a segment has room for there are none.
    pub fn numbers(&self, from: Lsn) -> impl Iterator<Item = Lsn> + '_ {
        let from = from.max(self.first().unwrap_or(self.last.next()));
        self.pieces.iter().flat_map(move |piece| {
            let header = &piece.segment.header;
            let room = header.size / frame::HEADER as u64;
            let last = piece.through.min(self.last).0.min(header.base.0 + room);
            (header.base.max(from).0..=last).map(Lsn)
        })
    }
    /// One record.
    pub fn frame(&self, lsn: Lsn) -> Result<Frame> {
        let at = self.piece_of(lsn)?;
        let read = self.pieces[at].segment.read(lsn);
        read.map_err(|error| self.as_found(at, error))
    }

    /// An error with the name of the file that it is about: a copy of a segment
    /// may have another name than the segment. A record that the survey no
    /// longer met, because the file was being overwritten, is not missing.
    fn as_found(&self, at: usize, error: Error) -> Error {
        let segment = &self.pieces[at].segment;
        match error {
            Error::Missing(lsn) if segment.header.is_overwritten(&*segment.disk) => {
                Error::Recycled(lsn)
            }
            Error::Corrupt {
                lsn, offset, why, ..
            } => Error::Corrupt {
                lsn,
                segment: self.files[self.pieces[at].file].name.clone(),
                offset,
                why,
            },
            other => other,
        }
    }

    /// The same, with its data verified too.
    pub fn read_whole(&self, lsn: Lsn) -> Result<Frame> {
        let frame = self.frame(lsn)?;
        if let Some(data) = &frame.data {
            let mut piece = vec![0; data.len().min(64 << 10)];
            for from in (0..data.len()).step_by(piece.len()) {
                let n = piece.len().min(data.len() - from);
                let read = data.read(from, &mut piece[..n]);
                read.map_err(|error| match self.piece_of(lsn) {
                    Ok(at) => self.as_found(at, error),
                    Err(_) => error,
                })?;
            }
        }
        Ok(frame)
    }

    /// The piece that holds a record.
    fn piece_of(&self, lsn: Lsn) -> Result<usize> {
        if lsn > self.last || lsn == Lsn(0) {
            return Err(Error::Missing(lsn));
        }
        let next = self
            .pieces
            .partition_point(|piece| piece.segment.header.base <= lsn);
        match next.checked_sub(1) {
            Some(at) if lsn <= self.pieces[at].through && !self.is_gap(next, lsn) => Ok(at),
            _ => Err(Error::Recycled(lsn)),
        }
    }

    /// Whether the segment of this record has been overwritten: files are
    /// recycled in any order, and a left-over one before it still has its
    /// header. `next` is the piece that follows.
    fn is_gap(&self, next: usize, lsn: Lsn) -> bool {
        let (Some(here), Some(next)) = (self.pieces.get(next - 1), self.pieces.get(next)) else {
            return false;
        };
        lsn <= self.installed
            && lsn > here.segment.last()
            && next.segment.header.before != here.segment.header.salt
    }
    /// The first kept record made at or after `time`.
    pub fn find_time(&self, time: Time) -> Option<Lsn> {
        super::find_time(
            self.pieces.iter().map(|piece| &piece.segment),
            time,
            self.last,
        )
    }
}

//! Keeping segments elsewhere: whoever archives a log gets each segment
//! before its file is used again.

use std::sync::Arc;

use super::folder::{self, File};
use super::frame::PAGE;
use super::index::{self, Entry};
use super::segment::{ANEW, Frame, Header, Segment, SegmentInfo, SegmentState};
use super::{Error, Result};
use crate::device::{Dir, Disk};
use crate::units::{Epoch, Lsn, Time};

/// Takes segments before they are overwritten.
pub trait Keeper: Send + Sync {
    /// Has it safe when this returns. With an error the segment stays in the
    /// log, as long as there is room beside it.
    fn keep(&self, segment: &Sealed) -> Result<()>;
    /// There is no room for it any more: it goes without having been kept.
    fn lose(&self, segment: &Sealed);
}

/// A segment that gets no more records.
pub struct Sealed(pub(super) Arc<Segment>);

impl Sealed {
    /// What is in it.
    pub fn info(&self) -> SegmentInfo {
        self.0.info(self.0.last(), SegmentState::Installed)
    }

    /// Whether a new timeline begins with it.
    pub fn begins_anew(&self) -> bool {
        self.0.header.has(ANEW)
    }

    /// Its records, in order.
    pub fn frames(&self) -> impl Iterator<Item = Result<Frame>> + '_ {
        let base = self.0.header.base.0;
        (base..=self.0.last().0).map(|lsn| self.0.read(Lsn(lsn)))
    }

    /// Writes its store into a file, as far as there are frames; synced. (Not
    /// shared with the original, which will be overwritten in place.)
    pub fn copy_store(&self, to: &dyn Disk) -> Result<()> {
        let copy = || {
            let len = self.0.disk.len()?;
            let mut bytes = vec![0; 1 << 20];
            let end = self.end().unwrap_or(len).min(len);
            let mut at = 0;
            while at < end {
                let piece = &mut bytes[..(end - at).min(1 << 20) as usize];
                self.0.disk.read_at(piece, at)?;
                to.write_at(piece, at)?;
                at += piece.len() as u64;
            }
            to.set_len(len)?;
            to.sync()
        };
        copy().map_err(|e| self.0.io("copy", e))
    }

    /// Writes its index into a file, sealed and synced.
    pub fn copy_index(&self, to: &dyn Disk) -> Result<()> {
        let (salt, base) = (self.0.header.salt, self.0.header.base.0);
        let bytes = index::sealed(salt, base, &self.entries());
        let write = || {
            to.write_at(&bytes, 0)?;
            to.sync()
        };
        write().map_err(|e| self.0.io("index", e))
    }

    fn entries(&self) -> Vec<Entry> {
        let entries = (0..self.0.index.len()).filter_map(|at| self.0.index.get(at));
        entries.collect()
    }

    /// Where its last frame ends; `None` if a frame's end can't be told.
    fn end(&self) -> Option<u64> {
        match self.0.last() < self.0.header.base {
            true => Some(PAGE),
            false => Some(self.0.front(self.0.last()).ok()?.0.end()),
        }
    }
}

/// A file that holds a segment, by its header; whatever else it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file's name.
    pub name: String,
    /// The opening that wrote it.
    pub epoch: Epoch,
    /// Its first record.
    pub base: Lsn,
    /// Its last record, by its sealed index or else by its frames.
    pub last: Lsn,
    /// The number that binds its frames to it.
    pub salt: u64,
    /// The salt of the segment before it.
    pub before: u64,
    /// Whether a new timeline begins with it.
    pub anew: bool,
    /// When it was begun.
    pub begun: Time,
    /// When its last record was made.
    pub ended: Option<Time>,
    /// Bytes of the store file.
    pub bytes: u64,
}

/// The segments that a folder's files hold, in no order that means anything.
/// Files that hold none are passed over.
pub fn found(dir: &dyn Dir) -> Result<Vec<Found>> {
    let files = folder::files(dir)?.into_iter();
    let found = files.filter_map(|file| look(dir, file).transpose());
    found.collect()
}

/// The segment that one file holds, to be read.
pub fn read_in(dir: &dyn Dir, name: &str) -> Result<Option<Sealed>> {
    let Some(file) = folder::open(dir, name)? else {
        return Ok(None);
    };
    let Some(header) = file.header().copied() else {
        return Ok(None);
    };
    let entries = entries(dir, &file, &header)?;
    Ok(Some(Sealed(Arc::new(Segment {
        header,
        disk: file.disk,
        index: index::Index::of(entries),
    }))))
}

/// The segment that one file holds, if it does.
pub fn found_in(dir: &dyn Dir, name: &str) -> Result<Option<Found>> {
    match folder::open(dir, name)? {
        Some(file) => look(dir, file),
        None => Ok(None),
    }
}

fn look(dir: &dyn Dir, file: File) -> Result<Option<Found>> {
    let Some(header) = file.header().copied() else {
        return Ok(None);
    };
    let entries = entries(dir, &file, &header)?;
    Ok(Some(Found {
        name: file.name,
        epoch: header.epoch,
        base: header.base,
        last: Lsn(header.base.0 + entries.len() as u64).prev(),
        salt: header.salt,
        before: header.before,
        anew: header.has(ANEW),
        begun: Time::from_nanos(header.time),
        ended: entries.last().map(|entry| Time::from_nanos(entry.time)),
        bytes: file.len,
    }))
}

/// Whether the index beside a segment's store says what the store does; `None`
/// if there is none that is whole.
pub fn index_agrees(dir: &dyn Dir, name: &str) -> Result<Option<bool>> {
    let Some(file) = folder::open(dir, name)? else {
        return Ok(None);
    };
    let Some(header) = file.header() else {
        return Ok(None);
    };
    let sealed = folder::sealed_index(dir, &folder::index_of(name), header);
    let scanned = scanned(&file, header)?;
    Ok(sealed.map(|sealed| sealed == scanned))
}

/// By the sealed index, or else by reading the store.
fn entries(dir: &dyn Dir, file: &File, header: &Header) -> Result<Vec<Entry>> {
    if let Some(entries) = folder::sealed_index(dir, &folder::index_of(&file.name), header) {
        return Ok(entries);
    }
    scanned(file, header)
}

fn scanned(file: &File, header: &Header) -> Result<Vec<Entry>> {
    let scan = super::store::scan(&*file.disk, header, Lsn(u64::MAX), Lsn(0));
    let scan = scan.map_err(|e| Error::io(format!("read of segment {}", file.name), e))?;
    Ok(scan.entries)
}

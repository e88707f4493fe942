//! Opening: no process appends to a segment of an earlier one.
//!
//! After a failed sync Linux marks pages clean, so frames that can be read
//! need not be on disk; and a stale tail must never line up with new frames.
//! So every opening starts a fresh segment, with a new salt and the next
//! epoch, that goes on right behind the last record *proven* durable. What is
//! kept above that is copied into it. The order makes any crash harmless:
//!
//! 1. frames into files that belong to nothing, synced, with their names if
//!    there are several
//! 2. their headers, the last one last, each synced
//! 3. names, then the folder is synced
//!
//! Before the last header is on disk the old chain is the log, afterwards
//! the new one. Only then are left-overs put aside for recycling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::folder::{self, Content, File, Spare, Spares};
use super::frame::{self, FrameHeader, Kind, PAGE};
use super::index::{self, Entry, Index};
use super::keep::Sealed;
use super::segment::{ANEW, Header, OPENING, Segment};
use super::survey::{Piece, Survey};
use super::tail::{Tail, salt};
use super::{Error, Log, Options, Result};
use crate::units::{Epoch, Lsn};

/// Whoever knows what records mean, and sees to it that those in a fresh segment
/// can be understood without the segment that they were copied from.
pub trait Retell {
    /// What a record that is copied into the segment with this base is to carry
    /// instead of its `meta`; it has `data` bytes of data besides.
    fn retell(&self, meta: &[u8], data: usize, segment: Lsn) -> Vec<u8>;
    /// The next record, of those that are copied and of those before them from
    /// their segment's beginning on. A copied one as it is now, with the base
    /// of its new segment.
    fn pass(&mut self, meta: &[u8], segment: Option<Lsn>);
}

/// Nobody: they are copied as they are.
pub(super) struct AsTheyAre;

impl Retell for AsTheyAre {
    fn retell(&self, meta: &[u8], _: usize, _: Lsn) -> Vec<u8> {
        meta.to_vec()
    }
    fn pass(&mut self, _: &[u8], _: Option<Lsn>) {}
}

pub(super) fn open(survey: Survey, options: Options, retell: &mut dyn Retell) -> Result<Log> {
    let from = survey.proven.max(survey.installed).min(survey.last).next();
    let installed = survey.installed;
    Opening::new(survey, options, from, installed, 0)?.run(retell)
}

pub(super) fn open_anew(mut survey: Survey, options: Options) -> Result<Log> {
    survey.last = survey.highest;
    let from = survey.last.next();
    let installed = survey.last;
    Opening::new(survey, options, from, installed, ANEW)?.run(&mut AsTheyAre)
}

struct Opening {
    survey: Survey,
    options: Options,
    epoch: Epoch,
    /// The first record of the fresh segment.
    from: Lsn,
    installed: Lsn,
    flags: u32,
    spares: Spares,
    time: i64,
    fresh: Vec<Fresh>,
}

/// A fresh segment in the making.
struct Fresh {
    spare: Spare,
    header: Header,
    end: u64,
    index: Index,
}

impl Opening {
    fn new(
        survey: Survey,
        options: Options,
        from: Lsn,
        installed: Lsn,
        flags: u32,
    ) -> Result<Opening> {
        options.check()?;
        let mut spares = Spares::numbered_above(&*survey.dir)?;
        adopt_spares(&survey, &options, &mut spares);
        let times = survey.pieces.iter().map(|piece| {
            let last = piece
                .segment
                .index
                .len()
                .checked_sub(1)
                .and_then(|at| piece.segment.index.get(at));
            last.map_or(piece.segment.header.time, |entry| {
                entry.time.max(piece.segment.header.time)
            })
        });
        let time = times.max().unwrap_or(i64::MIN);
        let epoch = Epoch(survey.epoch.0.checked_add(1).expect("epochs exhausted"));
        Ok(Opening {
            survey,
            options,
            epoch,
            from,
            installed,
            flags,
            spares,
            time,
            fresh: Vec::new(),
        })
    }

    fn run(mut self, retell: &mut dyn Retell) -> Result<Log> {
        self.begin_segment(0)?;
        self.copy_frames(retell)?;
        self.sync_frames()?;
        self.write_headers()?;
        self.name_files()?;
        self.finish()
    }

    /// Old segments that stay part of the log: those before `from`.
    fn kept_pieces(&self) -> impl Iterator<Item = &Piece> {
        let anew = self.flags & ANEW != 0;
        self.survey.pieces.iter().filter(move |piece| {
            !anew && piece.segment.header.base < self.from && !self.survey.is_retired(piece)
        })
    }

    fn begin_segment(&mut self, needed: u64) -> Result<()> {
        let size = self
            .options
            .segment_size
            .max(PAGE + needed.next_multiple_of(PAGE));
        let spare = match size == self.options.segment_size {
            true => self.spares.take(&*self.survey.dir, size, 0)?,
            false => {
                let number = self.spares.number();
                Spare::allocate(&*self.survey.dir, number, size)?
            }
        };
        let base = self.fresh.last().map_or(self.from, |fresh| {
            Lsn(fresh.header.base.0 + fresh.index.len())
        });
        let wall = self.options.clock.wall().as_nanos();
        self.time = self.time.saturating_add(1).max(wall);
        let (before, before_end) = match self.fresh.last() {
            Some(fresh) => (fresh.header.salt, fresh.end),
            None => self.predecessor()?,
        };
        let header = Header {
            epoch: self.epoch,
            salt: salt(&self.options, self.epoch, base, wall),
            base,
            before,
            before_end,
            kept: self.survey.last,
            // The truth of this moment, not of the one after: a header that
            // is read back from the page cache after a kill must not vouch
            // for itself.
            durable: self.from.prev(),
            installed: self.installed,
            time: self.time,
            wall,
            size,
            flags: self.flags,
        };
        self.fresh.push(Fresh {
            spare,
            header,
            end: PAGE,
            index: Index::default(),
        });
        Ok(())
    }

    /// Salt of the segment that holds the record before `from`, and where
    /// that record ends.
    fn predecessor(&self) -> Result<(u64, u64)> {
        let Some(piece) = self.kept_pieces().last() else {
            return Ok((0, 0));
        };
        let before = self.from.prev();
        let end = match before >= piece.segment.header.base && before > self.installed {
            true => piece.segment.front(before)?.0.end(),
            false => 0,
        };
        Ok((piece.segment.header.salt, end))
    }

    fn copy_frames(&mut self, retell: &mut dyn Retell) -> Result<()> {
        if self.from > self.survey.last {
            return Ok(());
        }
        let old = self.segment_of(self.from)?;
        let mut lsn = old.header.base;
        // No more than it has, whatever its header says.
        while lsn < self.from && lsn <= old.last() {
            // (What is home already may have been damaged since.)
            if let Ok((header, front)) = old.front(lsn)
                && header.kind == Kind::Record
            {
                retell.pass(&front[frame::HEADER..header.meta_end()], None);
            }
            lsn = lsn.next();
        }
        lsn = self.from;
        while lsn <= self.survey.last {
            self.copy_frame(lsn, retell)?;
            lsn = lsn.next();
        }
        Ok(())
    }

    /// The old segment that holds a record.
    fn segment_of(&self, lsn: Lsn) -> Result<Arc<Segment>> {
        let pieces = &self.survey.pieces;
        let at = pieces.partition_point(|piece| piece.segment.header.base <= lsn);
        let piece = at.checked_sub(1).and_then(|at| pieces.get(at));
        piece.map_or(Err(Error::Missing(lsn)), |piece| Ok(piece.segment.clone()))
    }

    /// Writes one kept frame into the fresh segment: same record, same epoch
    /// and time; new salt and place, and maybe more told.
    fn copy_frame(&mut self, lsn: Lsn, retell: &mut dyn Retell) -> Result<()> {
        let old = self.segment_of(lsn)?;
        let (header, front) = old.front(lsn)?;
        let (meta, sums) = front[frame::HEADER..].split_at(header.meta_len as usize);
        let retold = |meta: &[u8], segment| match header.kind {
            Kind::Record => retell.retell(meta, header.data_len as usize, segment),
            Kind::Mark => meta.to_vec(),
        };
        let Some(fresh) = self.fresh.last() else {
            return Err(Error::Missing(lsn));
        };
        let mut told = retold(meta, fresh.header.base);
        let longer = |told: &[u8]| FrameHeader {
            meta_len: told.len() as u32,
            ..header
        };
        let size = fresh.header.size;
        let fits =
            fresh.end + longer(&told).len() <= size && fresh.index.len() < index::capacity(size);
        if !fits {
            told = retold(meta, lsn);
            self.begin_segment(longer(&told).len())?;
        }
        let header = longer(&told);
        let Some(fresh) = self.fresh.last_mut() else {
            return Err(Error::Missing(lsn));
        };
        let mut bytes = vec![0; header.len() as usize];
        let data = header.front_len()..header.front_len() + header.data_len as usize;
        let from = old.place(lsn)? + front.len() as u64;
        let read = old.disk.read_at(&mut bytes[data], from);
        read.map_err(|e| old.io("read", e))?;
        let copy = FrameHeader {
            salt: fresh.header.salt,
            at: fresh.end,
            durable: header.durable.max(fresh.header.durable),
            installed: header.installed.max(self.installed),
            ..header
        };
        bytes[frame::HEADER..header.meta_end()].copy_from_slice(&told);
        bytes[header.meta_end()..header.front_len()].copy_from_slice(sums);
        let raw = copy.encode(&bytes[frame::HEADER..header.front_len()], &[]);
        bytes[..raw.len()].copy_from_slice(&raw);
        let name = Spare::store_name(fresh.spare.number);
        fresh
            .spare
            .disk
            .write_at(&bytes, copy.at)
            .map_err(Error::io_on("write", &name))?;
        fresh.index.push(Entry {
            offset: copy.at,
            time: copy.time,
        });
        fresh.end = copy.end();
        if header.kind == Kind::Record {
            retell.pass(&told, Some(fresh.header.base));
        }
        Ok(())
    }

    fn sync_frames(&mut self) -> Result<()> {
        for fresh in self.fresh.iter().filter(|fresh| fresh.end > PAGE) {
            fresh
                .spare
                .disk
                .sync()
                .map_err(Error::io_on("sync", &Spare::store_name(fresh.spare.number)))?;
        }
        if self.fresh.len() > 1 {
            // New files: were one's name lost but the last header's file
            // found, a segment would be missing in between.
            let dir = &self.survey.dir;
            dir.sync()
                .map_err(Error::io_on("sync", "the journal's folder"))?;
        }
        Ok(())
    }

    /// The headers, each synced before the next: the log is the new one when
    /// the last is there, and then all before it must be.
    fn write_headers(&mut self) -> Result<()> {
        let last = self.fresh.len() - 1;
        for (at, fresh) in self.fresh.iter_mut().enumerate() {
            if at < last {
                fresh.header.flags |= OPENING;
            }
            let name = Spare::store_name(fresh.spare.number);
            fresh
                .spare
                .disk
                .write_at(&fresh.header.encode(), 0)
                .map_err(Error::io_on("write", &name))?;
            fresh
                .spare
                .disk
                .sync()
                .map_err(Error::io_on("sync", &name))?;
        }
        Ok(())
    }

    /// Gives every file the name of what it holds, left-overs first, and
    /// syncs the folder.
    fn name_files(&mut self) -> Result<()> {
        let kept: BTreeMap<usize, Lsn> = self
            .kept_pieces()
            .map(|piece| (piece.file, piece.segment.header.base))
            .collect();
        let taken: BTreeSet<String> = self
            .spares
            .ready
            .iter()
            .map(|s| Spare::store_name(s.number))
            .collect();
        let mine: BTreeSet<String> = self
            .fresh
            .iter()
            .map(|f| Spare::store_name(f.spare.number))
            .collect();
        let dir = self.survey.dir.clone();
        let rename = |from: &str, to: &str| match from == to {
            true => Ok(()),
            false => dir.rename(from, to).map_err(Error::io_on("renaming", from)),
        };
        // Two kept segments can't have each other's name, but a left-over can
        // stand in the way of any of them.
        let mut aside = Vec::new();
        for (at, file) in self.survey.files.iter().enumerate() {
            let gone =
                kept.contains_key(&at) || taken.contains(&file.name) || mine.contains(&file.name);
            if !gone {
                let number = self.spares.number();
                rename(&file.name, &Spare::store_name(number))?;
                aside.push((number, at));
            }
        }
        for (at, base) in &kept {
            rename(&self.survey.files[*at].name, &Segment::store_name(*base))?;
        }
        for fresh in &self.fresh {
            let base = fresh.header.base;
            rename(
                &Spare::store_name(fresh.spare.number),
                &Segment::store_name(base),
            )?;
        }
        // Without this the fresh segment's name could be lost, and with it
        // every record in it.
        dir.sync()
            .map_err(Error::io_on("sync", "the journal's folder"))?;
        for (number, at) in aside {
            self.spares
                .ready
                .extend(self.survey.files[at].spare(number, &self.options));
        }
        Ok(())
    }

    /// As many spares as there may be, and at least one, so that the next
    /// recovery finds a file even if the host is full by then.
    fn settle_spares(&mut self, live: usize) -> Result<()> {
        let most = (self.options.segments as usize).saturating_sub(live).max(1);
        let ready = &mut self.spares.ready;
        ready.sort_by_key(|spare| !spare.filled);
        ready.truncate(most);
        if ready.is_empty() {
            let (number, size) = (self.spares.number(), self.options.segment_size);
            match Spare::allocate(&*self.survey.dir, number, size) {
                Ok(spare) => self.spares.ready.push(spare),
                // A recovery must come through also on a full host.
                Err(e) if e.host_is_full() && self.survey.epoch > Epoch(0) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Log> {
        let mut chain = BTreeMap::new();
        let mut keep = BTreeSet::new();
        for piece in self.kept_pieces() {
            let header = piece.segment.header;
            let name = Segment::index_name(header.base);
            let most = self
                .from
                .since(header.base)
                .unwrap_or(0)
                .min(piece.segment.index.len());
            let entries: Vec<Entry> = (0..most)
                .filter_map(|at| piece.segment.index.get(at))
                .collect();
            let dir = &*self.survey.dir;
            let sealed = folder::sealed_index(dir, &name, &header);
            let agrees = sealed.as_ref() == Some(&entries);
            let index = Index::of(entries);
            if !agrees {
                // Without it a later process reads the store.
                let _ = index::write(dir, &name, &index.sealed(header.salt, header.base.0));
            }
            keep.extend([Segment::store_name(header.base), name]);
            let disk = piece.segment.disk.clone();
            chain.insert(
                header.base,
                Arc::new(Segment {
                    header,
                    disk,
                    index,
                }),
            );
        }
        let last = self.fresh.len() - 1;
        let mut active = None;
        for (at, fresh) in std::mem::take(&mut self.fresh).into_iter().enumerate() {
            let Header { salt, base, .. } = fresh.header;
            let sealed = match at < last {
                true => fresh.index.sealed(salt, base.0),
                false => Vec::new(), // grows
            };
            let _ = index::write(&*self.survey.dir, &Segment::index_name(base), &sealed);
            keep.extend([Segment::store_name(base), Segment::index_name(base)]);
            let segment = Arc::new(Segment {
                header: fresh.header,
                disk: fresh.spare.disk,
                index: fresh.index,
            });
            chain.insert(base, segment.clone());
            active = Some((segment, fresh.end));
        }
        self.settle_spares(chain.len())?;
        for spare in &self.spares.ready {
            keep.insert(Spare::store_name(spare.number));
        }
        folder::sweep(&*self.survey.dir, &keep)?;
        let Some((segment, end)) = active else {
            return Err(Error::Missing(self.from));
        };
        let tail = Tail::new(
            segment,
            end,
            self.survey.last,
            self.time,
            self.spares,
            chain.len(),
        );
        Ok(Log::new(
            self.survey.dir,
            self.options,
            self.epoch,
            tail,
            chain,
            self.installed,
        ))
    }
}

/// Files that may be overwritten before the new chain is durable: those that
/// call themselves spare and hold nothing that the log needs.
fn adopt_spares(survey: &Survey, options: &Options, spares: &mut Spares) {
    let pieces: BTreeMap<usize, &Piece> = survey
        .pieces
        .iter()
        .map(|piece| (piece.file, piece))
        .collect();
    for (at, file) in survey.files.iter().enumerate() {
        let idle = match (&file.content, pieces.get(&at)) {
            (Content::Spare { .. }, _) => true,
            (_, Some(piece)) => survey.is_retired(piece),
            (Content::Segment(header), None) => header.epoch < survey.epoch,
            (Content::Unknown, None) => false,
        };
        if let (true, Some(number)) = (idle, Spare::number_of_store(&file.name)) {
            spares.ready.extend(file.spare(number, options));
        }
    }
}

impl Survey {
    /// Segments that an opening takes out of the log, as far as they are whole:
    /// their files wait for their next use, and hold what they did.
    pub fn retired(&self) -> impl Iterator<Item = Sealed> + '_ {
        let retired = self.pieces.iter().filter(|piece| self.is_retired(piece));
        let sealed = retired
            .filter(|piece| piece.segment.last() >= piece.through)
            .map(|piece| Sealed(piece.segment.clone()));
        sealed.filter(|segment| segment.frames().all(|frame| frame.is_ok()))
    }

    /// The oldest segment that an opening keeps.
    pub fn oldest_kept(&self) -> Option<Sealed> {
        let mut pieces = self.pieces.iter();
        let kept = pieces.find(|piece| !self.is_retired(piece))?;
        Some(Sealed(kept.segment.clone()))
    }

    /// Whether a segment had been taken out of the log: its file got a
    /// spare's name only after the mark that allows it was durable.
    fn is_retired(&self, piece: &Piece) -> bool {
        let name = &self.files[piece.file].name;
        piece.through <= self.installed && Spare::number_of_store(name).is_some()
    }
}

impl File {
    /// The file as a spare, if it has the right size.
    fn spare(&self, number: u64, options: &Options) -> Option<Spare> {
        let filled = match self.content {
            Content::Segment(_) => true,
            Content::Spare { filled } => filled,
            Content::Unknown => false,
        };
        let disk = self.disk.clone();
        (self.len == options.segment_size).then_some(Spare {
            number,
            disk,
            filled,
        })
    }
}

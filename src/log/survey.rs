//! The survey: what a folder of segments holds, read without changing
//! anything, and the verdict on it.
//!
//! Which segments belong together is told by their headers alone: all of one
//! epoch, by base; the first of them names, by salt, the segment of an
//! earlier epoch that it goes on from. Whatever else lies in the folder is
//! left over from before.
//!
//! Then two numbers decide. D, the highest durable mark found: up to here a
//! sync once succeeded. X, the first record above `installed` that is bad or
//! missing. A power failure can only explain X > D.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::folder::{self, Content, File};
use super::index::Index;
use super::keep::Sealed;
use super::open::{AsTheyAre, Retell};
use super::segment::{ANEW, Header, OPENING, Segment, SegmentInfo, SegmentState};
use super::store::{self, Scan, Witness};
use super::{Durable, Error, Log, Options, Result};
use crate::device::Dir;
use crate::units::{Epoch, Lsn, Time};

const NOT_THERE: &str = "its frame is missing or damaged";
const HEADLESS: &str = "its segment's header can't be read";

/// A record that can't be had, and where it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// The first bad or missing record.
    pub lsn: Lsn,
    /// When the record before it was made, if that one can be read.
    pub after: Option<Time>,
    /// The segment's file name.
    pub segment: String,
    /// Byte offset in the store file.
    pub offset: u64,
    /// What does not hold.
    pub why: &'static str,
}

/// What a survey concludes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log ends where its last record ends.
    Clean,
    /// Power failed before a sync: the log is cut before this record.
    Torn {
        /// The first record cut off.
        first: Bad,
        /// Whole frames behind it, dropped too.
        dropped: u64,
    },
    /// A record that was durable once is damaged or missing.
    Corrupt(Bad),
}

/// A file that is no part of the log.
#[derive(Clone, Debug)]
pub struct SpareInfo {
    /// Its name.
    pub name: String,
    /// Bytes of it.
    pub bytes: u64,
    /// It has a segment's name, and its first page makes no sense.
    pub unreadable: bool,
}

/// What a folder of segments holds.
pub struct Survey {
    pub(super) dir: Arc<dyn Dir>,
    pub(super) files: Vec<File>,
    /// The log's segments, oldest first.
    pub(super) pieces: Vec<Piece>,
    pub(super) epoch: Epoch,
    /// D: what the verdict goes by.
    durable: Lsn,
    /// What an earlier process had synced *in segments that it had safely
    /// opened*: these records need not be written again.
    pub(super) proven: Lsn,
    pub(super) installed: Lsn,
    pub(super) last: Lsn,
    /// The highest Lsn seen anywhere, kept or not.
    pub(super) highest: Lsn,
    verdict: Verdict,
    /// An index was believed of records that are not installed.
    believing: bool,
    infos: Vec<SegmentInfo>,
}

/// How much of a folder is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Every frame that is not installed.
    All,
    /// Sealed indexes are believed.
    Indexes,
    /// Every frame, also those behind a bad one.
    Beyond,
}

/// A log with all of its frames that are whole, also those behind the first bad
/// one: to be looked at. Nothing may go on from it, hence no `Survey` to have.
pub struct Beyond(Survey);

impl Beyond {
    /// What was found; the verdict is that of [`Survey::read`].
    pub fn survey(&self) -> &Survey {
        &self.0
    }
}

/// A segment and the part of it that counts.
pub(super) struct Piece {
    /// Its place in `Survey::files`.
    pub file: usize,
    pub segment: Arc<Segment>,
    /// Records above this are the next segment's.
    pub through: Lsn,
}

impl Survey {
    /// Reads a folder; an empty one is a valid empty log.
    pub fn read(dir: Arc<dyn Dir>) -> Result<Survey> {
        // A live log may recycle segments while an outside reader is at it;
        // what looks like damage then is gone at another look.
        Self::steadily(dir, Depth::All)
    }

    /// The same for whoever only wants to read records, and soon: a sealed
    /// index is believed, so that most of the store is not looked at. Records
    /// are verified as they are read; the verdict is not to be relied on.
    pub fn glance(dir: Arc<dyn Dir>) -> Result<Survey> {
        Self::steadily(dir, Depth::Indexes)
    }

    /// The same with the verdict of [`Survey::read`]: believed are only indexes of
    /// what is installed. What is not, recovery reads too.
    pub fn judged(dir: Arc<dyn Dir>) -> Result<Survey> {
        let glance = Self::glance(dir.clone())?;
        match glance.believing {
            true => Self::read(dir),
            false => Ok(glance),
        }
    }

    /// All that can be read, past whatever is damaged. Records behind the
    /// verdict's bad one may be missing, or of a later epoch that was cut off.
    pub fn beyond(dir: Arc<dyn Dir>) -> Result<Beyond> {
        Self::look(dir, Depth::Beyond).map(Beyond)
    }

    fn steadily(dir: Arc<dyn Dir>, depth: Depth) -> Result<Survey> {
        for _ in 0..4 {
            let survey = Self::look(dir.clone(), depth)?;
            if survey.verdict == Verdict::Clean || !survey.has_moved_on()? {
                return Ok(survey);
            }
        }
        Self::look(dir, depth)
    }

    /// Whether the folder holds other segments than it did.
    fn has_moved_on(&self) -> Result<bool> {
        let salts = |files: &[File]| -> BTreeSet<u64> {
            files
                .iter()
                .filter_map(|file| Some(file.header()?.salt))
                .collect()
        };
        Ok(salts(&self.files) != salts(&folder::files(&*self.dir)?))
    }

    fn look(dir: Arc<dyn Dir>, depth: Depth) -> Result<Survey> {
        let files = folder::files(&*dir)?;
        let chain = lineage(&files);
        let known = chain
            .iter()
            .map(|link| link.header.installed_by_itself())
            .max()
            .unwrap_or_default();
        let mut scans = Vec::new();
        for link in &chain {
            scans.push(read_segment(&*dir, &files[link.file], link, known, depth)?);
        }
        let witness = hear_witnesses(&files, &chain)?;
        Ok(judge(dir, files, chain, scans, witness, depth))
    }

    /// The log's segments, oldest first.
    pub fn segments(&self) -> &[SegmentInfo] {
        &self.infos
    }
    /// Files that wait for their next use, or hold what no longer belongs to
    /// the log.
    pub fn spares(&self) -> Vec<SpareInfo> {
        let used: BTreeSet<usize> = self.pieces.iter().map(|piece| piece.file).collect();
        let spare = self.files.iter().enumerate();
        spare
            .filter(|(at, _)| !used.contains(at))
            .map(|(_, file)| SpareInfo {
                name: file.name.clone(),
                bytes: file.disk.len().unwrap_or(0),
                unreadable: file.is_headless(),
            })
            .collect()
    }
    /// The newest epoch seen (0: the folder is empty).
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// The highest Lsn known to have been durable.
    pub fn durable(&self) -> Lsn {
        self.durable
    }
    /// The highest Lsn that a frame or header says is installed.
    pub fn installed(&self) -> Lsn {
        self.installed
    }
    /// The last record that is kept.
    pub fn last(&self) -> Lsn {
        self.last
    }
    /// Whether the log is whole.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Opens the log for appending: a fresh segment of a new epoch, to which
    /// what is kept but not proven durable is copied. Afterwards everything
    /// kept is durable. Refuses a corrupt log.
    pub fn open(self, options: Options) -> Result<Log> {
        self.open_retold(options, &mut AsTheyAre)
    }

    /// The same, with a say in what copied records carry.
    pub fn open_retold(self, options: Options, retell: &mut dyn Retell) -> Result<Log> {
        match &self.verdict {
            Verdict::Corrupt(bad) => Err(Error::Corrupt {
                lsn: bad.lsn,
                segment: bad.segment.clone(),
                offset: bad.offset,
                why: bad.why,
            }),
            _ => super::open::open(self, options, retell),
        }
    }

    /// Opens a new timeline: nothing earlier is kept, and everything up to
    /// `last` counts as installed. Lsns go on, above all that were ever seen.
    pub fn open_anew(self, options: Options) -> Result<Log> {
        super::open::open_anew(self, options)
    }

    /// The same log, given up behind a record that is kept: what follows counts
    /// neither as a record nor as a witness. `None` if not all up to there is
    /// readable, or is in the image already.
    pub fn cut_after(mut self, last: Lsn) -> Option<Survey> {
        let readable = last <= self.last && last >= self.installed;
        if !readable || self.numbers(Lsn(1)).last() < Some(last) {
            return None;
        }
        self.pieces
            .retain(|piece| piece.segment.header.base <= last.next());
        for piece in &mut self.pieces {
            piece.through = piece.through.min(last);
        }
        (self.last, self.verdict) = (last, Verdict::Clean);
        self.durable = self.durable.min(last);
        self.proven = self.proven.min(last);
        self.infos = describe(&self.files, &self.pieces, self.installed);
        Some(self)
    }

    /// The log's segments as a whole, for whoever keeps them elsewhere.
    pub fn sealed(&self) -> impl Iterator<Item = Sealed> + '_ {
        self.pieces
            .iter()
            .map(|piece| Sealed(piece.segment.clone()))
    }

    /// What the survey proves durable without any further write.
    pub fn proof(&self) -> Durable {
        Durable(self.proven.min(self.last))
    }
}

impl Header {
    /// Up to where the header alone says that records are installed.
    fn installed_by_itself(&self) -> Lsn {
        match self.has(ANEW) {
            true => self.installed.max(self.base.prev()),
            false => self.installed,
        }
    }
}

/// A segment of the log, in its order.
struct Link {
    file: usize,
    header: Header,
    through: Lsn,
}

/// The segments that belong together, oldest first.
fn lineage(files: &[File]) -> Vec<Link> {
    let mut headers: Vec<(usize, Header)> = files
        .iter()
        .enumerate()
        .filter_map(|(at, file)| Some((at, *file.header()?)))
        .collect();
    headers.sort_by_key(|(_, header)| (header.epoch, header.base));
    headers.dedup_by_key(|(_, header)| (header.epoch, header.base));
    // An opening that wrote several segments counts once its last is there. (One of
    // which an archive has a segment had come to that.)
    let complete = (headers.iter())
        .filter(|(file, header)| !header.has(OPENING) || files[*file].is_archived());
    let Some((_, newest)) = complete.max_by_key(|(_, header)| header.epoch) else {
        return Vec::new();
    };

    let mut links: Vec<Link> = Vec::new();
    let (mut epoch, mut through) = (newest.epoch, Lsn(u64::MAX));
    loop {
        // Of one epoch, newest first, up to the one that the epoch after goes on from.
        let end = through;
        for (file, header) in headers
            .iter()
            .rev()
            .filter(|(_, h)| h.epoch == epoch && h.base <= end)
        {
            links.push(Link {
                file: *file,
                header: *header,
                through,
            });
            through = header.base.prev();
        }
        let Some(oldest) = links.last().map(|link| link.header) else {
            break;
        };
        let before = headers
            .iter()
            .find(|(_, h)| h.salt == oldest.before && h.epoch < epoch)
            .or_else(|| {
                // An archive without it has what was before all the same.
                let mut earlier = headers.iter().rev();
                earlier.find(|(file, h)| h.epoch < epoch && files[*file].is_archived())
            });
        match before {
            Some((_, before)) if !oldest.has(ANEW) => epoch = before.epoch,
            _ => break,
        }
    }
    links.reverse();
    links
}

/// The frames of one segment. A segment wholly installed is not judged, and
/// its sealed index will do; also for whoever trusts it.
fn read_segment(
    dir: &dyn Dir,
    file: &File,
    link: &Link,
    installed: Lsn,
    depth: Depth,
) -> Result<Scan> {
    if link.through <= installed || depth == Depth::Indexes {
        // A power failure may have given the store another name than its index.
        let names = [
            folder::index_of(&file.name),
            Segment::index_name(link.header.base),
        ];
        let mut sealed = (names.iter()).filter_map(|n| folder::sealed_index(dir, n, &link.header));
        if let Some(mut entries) = sealed.next() {
            let most = link.through.0.saturating_sub(link.header.base.prev().0);
            entries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            return Ok(Scan {
                entries,
                believed: true,
                ..Scan::default()
            });
        }
    }
    let mut scan = store::scan(&*file.disk, &link.header, link.through, installed)
        .map_err(|e| Error::io(format!("read of segment {}", file.name), e))?;
    // A live log overwrites only what is in the image. (Where the newest segment
    // ends is not known: another look finds those after it.)
    if link.through < Lsn(u64::MAX) && link.header.is_overwritten(&*file.disk) {
        scan.installed = scan.installed.max(link.through);
    }
    Ok(scan)
}

/// Listens to frames in files whose own header is lost.
fn hear_witnesses(files: &[File], chain: &[Link]) -> Result<Witness> {
    let epoch = chain.last().map_or(Epoch(0), |link| link.header.epoch);
    let mut all = Witness::default();
    for file in files
        .iter()
        .filter(|file| matches!(file.content, Content::Unknown))
    {
        let heard = store::witness(&*file.disk, epoch)
            .map_err(|e| Error::io(format!("read of segment {}", file.name), e))?;
        all.durable = all.durable.max(heard.durable);
        all.last = all.last.max(heard.last);
        all.epoch = all.epoch.max(heard.epoch);
    }
    Ok(all)
}

fn judge(
    dir: Arc<dyn Dir>,
    files: Vec<File>,
    chain: Vec<Link>,
    mut scans: Vec<Scan>,
    witness: Witness,
    depth: Depth,
) -> Survey {
    let epochs = files.iter().filter_map(|file| Some(file.header()?.epoch));
    let epoch = epochs.max().unwrap_or_default().max(witness.epoch);
    let headers = || chain.iter().map(|link| &link.header);
    let marks = scans
        .iter()
        .map(|scan| scan.durable)
        .chain(headers().map(|h| h.durable));
    let proven = marks.max().unwrap_or_default().max(witness.durable);
    let durable = headers()
        .map(|h| h.kept)
        .max()
        .unwrap_or_default()
        .max(proven);
    let marks = scans
        .iter()
        .map(|scan| scan.installed)
        .chain(headers().map(Header::installed_by_itself));
    let read = || chain.iter().zip(&scans);
    let seen = |(link, scan): (&Link, &Scan)| scan.next(link.header.base).prev();
    let archived = read()
        .filter(|(link, _)| files[link.file].is_archived())
        .map(|(link, scan)| seen((link, scan)).min(link.through));
    let installed = marks.chain(archived).max().unwrap_or_default();
    let believing = read().any(|(link, scan)| scan.believed && link.through > installed);
    let seen = read().map(seen);
    let seen = seen.max().unwrap_or_default().max(installed);
    let highest = seen.max(witness.last).max(durable);

    let bad = first_bad(&chain, &scans, installed, &files);
    let bad =
        bad.or_else(|| unexplained_end(&chain, &scans, durable.max(witness.last), seen, &files));
    let last = match &bad {
        Some(bad) if depth != Depth::Beyond => bad.lsn.prev(),
        _ => seen,
    };

    let mut dropped = 0;
    for (link, scan) in chain.iter().zip(&mut scans) {
        let keep = last.next().since(link.header.base).unwrap_or(0) as usize;
        if keep < scan.entries.len() {
            dropped += scan
                .entries
                .drain(keep..)
                .filter(|entry| entry.offset != 0)
                .count() as u64;
            dropped -= scan.spoilt.iter().filter(|(lsn, _)| *lsn > last).count() as u64;
        }
    }
    let headless = chain.is_empty();
    let verdict = match bad {
        None => Verdict::Clean,
        Some(bad) if headless || bad.lsn <= durable => Verdict::Corrupt(bad), // synced once: not the power's doing
        Some(first) => Verdict::Torn { first, dropped }, // power failed before the sync: cut here
    };

    let mut pieces = Vec::new();
    for (link, scan) in chain.into_iter().zip(scans) {
        if link.header.base <= last.next() {
            let disk = files[link.file].disk.clone();
            let segment = Segment {
                header: link.header,
                disk,
                index: Index::of(scan.entries),
            };
            pieces.push(Piece {
                file: link.file,
                segment: Arc::new(segment),
                through: link.through.min(last),
            });
        }
    }
    let infos = describe(&files, &pieces, installed);
    Survey {
        dir,
        files,
        pieces,
        epoch,
        durable,
        proven,
        installed,
        last,
        highest,
        verdict,
        believing,
        infos,
    }
}

/// X, if a record is bad or missing with later ones there, or if something
/// that was to be a frame stands at the end.
fn first_bad(chain: &[Link], scans: &[Scan], installed: Lsn, files: &[File]) -> Option<Bad> {
    let mut expected = installed.next();
    let mut after = None;
    for (number, (link, scan)) in chain.iter().zip(scans).enumerate() {
        let (base, next) = (link.header.base, scan.next(link.header.base));
        let name = &files[link.file].name;
        let bad = |lsn, after, segment: &str, offset, why| {
            Some(Bad {
                lsn,
                after,
                segment: segment.to_owned(),
                offset,
                why,
            })
        };
        if link.through < expected {
            continue;
        }
        if base > expected {
            return match headless(files, Lsn(0), expected) {
                Some(segment) => bad(expected, after, segment, 0, HEADLESS),
                None => bad(
                    expected,
                    after,
                    name,
                    0,
                    "the segment before this one is missing",
                ),
            };
        }
        let spoilt = scan
            .spoilt
            .iter()
            .map(|(lsn, at)| (*lsn, *at, "its data don't match their checksum"));
        let holes = scan
            .holes
            .iter()
            .map(|(lsn, at)| (hole_end(scan, base, *lsn, expected), *at));
        let holes = holes.filter_map(|(lsn, at)| Some((lsn?, at, NOT_THERE)));
        let first = spoilt
            .chain(holes)
            .filter(|(lsn, ..)| *lsn >= expected)
            .min();
        if let Some((lsn, at, why)) = first {
            let before = lsn
                .prev()
                .since(base)
                .and_then(|n| scan.entries.get(n as usize));
            let after = before.map(|entry| Time::from_nanos(entry.time));
            return bad(lsn, after, name, at, why);
        }
        after = scan
            .entries
            .last()
            .map(|entry| Time::from_nanos(entry.time))
            .or(after);
        let newest = number + 1 == chain.len();
        let lsn = next.max(expected);
        if (newest && scan.torn_tail && next >= expected) || (!newest && next <= link.through) {
            let follows = |later: &Link| later.header.before == link.header.salt;
            return match chain.get(number + 1).is_none_or(follows) {
                true => bad(lsn, after, name, scan.end, NOT_THERE),
                false => match headless(files, base, lsn) {
                    Some(segment) => bad(lsn, after, segment, 0, HEADLESS),
                    None => bad(
                        lsn,
                        after,
                        &Segment::store_name(next),
                        0,
                        "its segment is missing",
                    ),
                },
            };
        }
        expected = next.max(expected);
    }
    None
}

/// A file that must be the segment of a record, if its header only could be read;
/// not one that begins at `above` or before.
fn headless(files: &[File], above: Lsn, lsn: Lsn) -> Option<&str> {
    let headless = files.iter().filter(|file| file.is_headless());
    let named = headless.filter_map(|file| Some((Segment::base_in(&file.name)?, &file.name)));
    let fitting = named.filter(|(base, _)| *base > above && *base <= lsn);
    fitting.max().map(|(_, name)| name.as_str())
}

/// The first Lsn of a hole that lies at or above `expected`.
fn hole_end(scan: &Scan, base: Lsn, start: Lsn, expected: Lsn) -> Option<Lsn> {
    let first = start.max(expected);
    let entry = scan
        .entries
        .get(usize::try_from(first.since(base)?).ok()?)?;
    (entry.offset == 0).then_some(first)
}

/// Records that must have been there behind the last one seen.
fn unexplained_end(
    chain: &[Link],
    scans: &[Scan],
    known: Lsn,
    seen: Lsn,
    files: &[File],
) -> Option<Bad> {
    if known <= seen && !(chain.is_empty() && known > Lsn(0)) {
        return None;
    }
    let after = scans
        .iter()
        .rev()
        .find_map(|scan| scan.entries.last())
        .map(|entry| Time::from_nanos(entry.time));
    Some(match chain.last().zip(scans.last()) {
        Some((link, scan)) => {
            let lsn = seen.next();
            let (segment, offset, why) = match headless(files, link.header.base, lsn) {
                Some(segment) => (segment, 0, HEADLESS),
                None => (files[link.file].name.as_str(), scan.end, NOT_THERE),
            };
            Bad {
                lsn,
                after,
                segment: segment.to_owned(),
                offset,
                why,
            }
        }
        None => {
            let unknown = files
                .iter()
                .find(|file| matches!(file.content, Content::Unknown));
            let segment = unknown.map(|file| file.name.clone()).unwrap_or_default();
            Bad {
                lsn: Lsn(1),
                after,
                segment,
                offset: 0,
                why: "no segment's header can be read",
            }
        }
    })
}

fn describe(files: &[File], pieces: &[Piece], installed: Lsn) -> Vec<SegmentInfo> {
    let newest = pieces.len().saturating_sub(1);
    let state = |at: usize, through: Lsn| match at {
        _ if at == newest => SegmentState::Active,
        _ if through <= installed => SegmentState::Installed,
        _ => SegmentState::Sealed,
    };
    let info = |(at, piece): (usize, &Piece)| {
        let last = piece.through.min(piece.segment.last());
        SegmentInfo {
            name: files[piece.file].name.clone(),
            ..piece.segment.info(last, state(at, piece.through))
        }
    };
    pieces.iter().enumerate().map(info).collect()
}

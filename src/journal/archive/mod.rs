//! The archive: history beyond what the journal keeps.
//!
//! Redo can't go backwards, so a past state needs a *base*, an image as it
//! was earlier, and all records since. The archive is a folder of both:
//! copies of segments, made before the journal uses their files again, and
//! copies of the image, taken while it is in use.
//!
//! ```text
//!     base S ≤ E          segments                        the journal
//!     |----|--------------------------------------|---------------------|
//!     S    E   each state from E on can be made ..................  last
//! ```
//! A copy of an image in use is no image of one moment: blocks of it are as of
//! records between S, home when copying began, and E, the newest on its way
//! home when it ended. Redone from S on they all become what they were at E:
//! the first change of a block after S brings it whole.
//!
//! The archive holds up nobody: should it fail, the file system goes on
//! without it, and a new base is taken when it works again. FORMAT.md has the
//! files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::blocks::BlockIndex;
use super::{Error, Result};
use crate::device::{Dir, Disk};
use crate::log::{self, Found, Keeper, Sealed};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::units::{Epoch, Lsn, Time};

mod base;
mod gaps;
mod kin;
mod manifest;
mod reach;
mod union;

pub use base::{ImageBase, home, pinned};
pub use gaps::{Gap, gaps, without};
pub use manifest::NAME as MANIFEST;
pub use reach::{Reach, Timeline, reaches};

use kin::End;
use manifest::Manifest;
use union::Union;

/// How long it is left alone after it failed.
const REST: Duration = Duration::from_secs(3);
/// How long it may exceed its limits before it is looked at again.
const PATIENCE: Duration = Duration::from_secs(10);
/// A file is written under its name with this behind it until it is whole.
const PART: &str = ".part";

/// Bytes of a block index that are read at most; of a longer one nothing is
/// believed.
const BLOCKS_LONGEST: u64 = 256 << 20;

/// How much an archive keeps. What a state within these limits needs is never
/// thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// States older than this need not be reached any more.
    pub age: Option<Duration>,
    /// Bytes that it should not exceed, if it can do with less.
    pub size: Option<u64>,
}

/// An archive's folder.
pub struct Archive {
    dir: Arc<dyn Dir>,
    identity: [u8; 16],
    limits: Limits,
    missing: Vec<String>,
    state: Mutex<State>,
    /// Blocks as of this record may be on their way home.
    installing: AtomicU64,
    /// Whoever copies an image should give up.
    stopping: AtomicBool,
}

/// What it holds.
#[derive(Clone, Default)]
struct State {
    segments: BTreeMap<(Epoch, Lsn), Found>,
    bases: Vec<ImageBase>,
    /// Bytes of segments taken since the newest base.
    grown: u64,
    /// A segment went without having been kept, since the newest base.
    lost: bool,
    /// Why it takes nothing, the last time that it was tried.
    failing: Option<Arc<str>>,
    /// When that was.
    tried: Option<Instant>,
    /// When there was more than the limits want, and nothing could go.
    unspent: Option<Instant>,
}

impl Archive {
    /// Opens a folder, maybe an empty one, for the image with this UUID; `None`
    /// takes it as it is. Nothing is changed.
    pub fn open(dir: Arc<dyn Dir>, identity: Option<[u8; 16]>, limits: Limits) -> Result<Archive> {
        let noted = Manifest::read(&*dir)?;
        if let (Some(noted), Some(wanted)) = (&noted, identity)
            && noted.identity != wanted
        {
            return Err(refused("it belongs to another image"));
        }
        let identity = identity.or(noted.as_ref().map(|noted| noted.identity));
        let noted = noted.unwrap_or_default();
        let segments: BTreeMap<_, _> = log::found(&*dir)?
            .into_iter()
            .map(|found| ((found.epoch, found.base), found))
            .collect();
        let bases = base::found(&*dir, &noted)?;
        let missing = noted.missing(&bases, segments.values());
        let since = bases.last().map_or(Lsn(0), |base| base.from);
        let grown = segments.values().filter(|found| found.last > since);
        let state = State {
            grown: grown.map(|found| found.bytes).sum(),
            lost: noted.lost,
            segments,
            bases,
            ..State::default()
        };
        Ok(Archive {
            dir,
            identity: identity.unwrap_or_default(),
            limits,
            missing,
            state: Mutex::new(state),
            installing: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    /// Bases, oldest first.
    pub fn bases(&self) -> Vec<ImageBase> {
        self.state.lock().bases.clone()
    }

    /// Segments, by epoch and first record.
    pub fn segments(&self) -> Vec<Found> {
        self.state.lock().segments.values().cloned().collect()
    }

    /// The UUID of the image that it belongs to.
    pub fn identity(&self) -> [u8; 16] {
        self.identity
    }

    /// The timelines that its segments belong to, oldest first.
    pub fn timelines(&self) -> Vec<Timeline> {
        let segments = self.segments();
        let all = reach::timelines(&segments.iter().collect::<Vec<_>>());
        let used = |line: &Timeline| segments.iter().any(|found| line.has(found.epoch));
        all.into_iter().filter(used).collect()
    }

    /// What it has of a journal's own past, which that may be a part of: bases
    /// and segments.
    pub fn past_of(&self, journal: &[Found]) -> (Vec<ImageBase>, Vec<Found>) {
        let (mut bases, mut segments) = (self.bases(), self.segments());
        let end = End::of(&segments, journal);
        bases.retain(|base| end.has_base(base));
        segments.retain(|found| end.has(found));
        (bases, segments)
    }

    /// Whether others went on in it where this journal ends: a copy is what
    /// one of them is.
    pub fn is_ahead_of(&self, journal: &[Found]) -> bool {
        self.past_of(journal).1.len() < self.segments().len()
    }

    /// Those of them that have ended, where a journal goes on.
    pub fn ended(&self, journal: &[Found]) -> Vec<Timeline> {
        let mine = self.past_of(journal).1;
        let mut ended = lines(&mine, journal);
        ended.retain(|line| line.end.is_some() && mine.iter().any(|found| line.has(found.epoch)));
        ended
    }

    /// That which a journal goes on with.
    pub fn current(&self, journal: &[Found]) -> Option<Timeline> {
        lines(&self.past_of(journal).1, journal).pop()
    }

    /// The name of the block index that goes with a segment.
    pub fn blocks_of(&self, found: &Found) -> String {
        format!("{}.blocks", found.name.trim_end_matches(".store"))
    }

    /// A segment's block index; `None` if it is not there or not whole.
    pub fn blocks(&self, found: &Found) -> Result<Option<BlockIndex>> {
        let name = self.blocks_of(found);
        let read = || {
            let disk = self.dir.open(&name)?;
            let mut bytes = vec![0; disk.len()?.min(BLOCKS_LONGEST) as usize];
            disk.read_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes: Vec<u8> = match read() {
            Ok(bytes) => bytes,
            Err(e) if std::io::Error::kind(&e) == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(&name)(e)),
        };
        let index = BlockIndex::decode(&bytes).ok();
        Ok(index.filter(|index| (index.base(), index.salt()) == (found.base, found.salt)))
    }

    /// What the manifest has and the folder has not, in words.
    pub fn missing(&self) -> Vec<String> {
        self.missing.clone()
    }

    /// Its folder.
    pub fn dir(&self) -> &Arc<dyn Dir> {
        &self.dir
    }

    /// Why nothing can be added, if so.
    pub fn failing(&self) -> Option<Arc<str>> {
        self.state.lock().failing.clone()
    }

    /// Its newest record, behind the opening of the log in which it was made.
    pub fn newest(&self) -> (Epoch, Lsn) {
        let state = self.state.lock();
        let newest = state.segments.values().next_back();
        newest.map_or_else(Default::default, |found| (found.epoch, found.last))
    }

    /// The newest opening of a log that it knows.
    pub fn epoch(&self) -> Epoch {
        let state = self.state.lock();
        let bases = state.bases.iter().map(|base| base.epoch);
        let segments = state.segments.keys().map(|(epoch, _)| *epoch);
        bases.chain(segments).max().unwrap_or_default()
    }

    /// What a journal's folder still has (`kept`) and the archive has of its past,
    /// as one folder to survey. Read only.
    pub fn with_journal(&self, journal: Arc<dyn Dir>, kept: &[Found]) -> Arc<dyn Dir> {
        let past = self.past_of(kept).1;
        let names = past.into_iter().map(|found| found.name);
        Arc::new(Union::new(Some(journal), self.dir.clone(), names))
    }

    /// The archive's segments of a timeline that has ended.
    pub fn of_timeline(&self, timeline: &Timeline) -> Arc<dyn Dir> {
        self.folder_of(&self.segments(), timeline)
    }

    /// Those of these segments of its own that are of a timeline, as a folder.
    fn folder_of(&self, segments: &[Found], timeline: &Timeline) -> Arc<dyn Dir> {
        let ours = segments.iter().filter(|found| timeline.has(found.epoch));
        let names = ours.map(|found| found.name.clone());
        Arc::new(Union::new(None, self.dir.clone(), names))
    }

    /// A log goes on: takes what it still has and is about to forget. If records
    /// are missing all the same between the newest base and those that the log
    /// keeps, another base is where history goes on.
    pub(super) fn go_on(&self, survey: &log::Survey) {
        let oldest = self.bases().first().map(|base| base.from);
        for segment in survey.retired() {
            let info = segment.info();
            let known = |state: &State| state.segments.contains_key(&(info.epoch, info.base));
            let behind = oldest.is_some_and(|from| info.last > from);
            if behind && !known(&self.state.lock()) {
                let _ = self.keep(&segment); // said
            }
        }
        if let Some(kept) = survey.oldest_kept()
            && !self.leads_to(&kept)
        {
            self.state.lock().lost = true;
        }
    }

    /// Whether the newest base and the segments behind it lead to a log's.
    fn leads_to(&self, kept: &Sealed) -> bool {
        let state = self.state.lock();
        let Some(base) = state.bases.last() else {
            return false;
        };
        let segments: Vec<&Found> = state.segments.values().collect();
        let info = kept.info();
        let begins = match kept.begins_anew() {
            true => info.epoch,
            false => reach::timelines(&segments)
                .last()
                .map_or(Epoch(0), |line| line.first),
        };
        base.epoch >= begins && reach::follow(base, segments.into_iter()).0.next() >= info.base
    }

    /// A log is given up for a new timeline: takes all its segments. No base
    /// so far leads to what comes.
    pub(super) fn end_timeline(&self, survey: &log::Survey) {
        for segment in survey.sealed() {
            if self.keep(&segment).is_err() {
                self.lose(&segment);
            }
        }
        self.state.lock().lost = true;
    }

    /// Blocks as of this record, no later, are about to go home.
    pub(super) fn note_installing(&self, through: Lsn) {
        self.installing.fetch_max(through.0, Ordering::SeqCst);
    }

    /// Makes an unfinished copy of the image give up.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Forgets that it failed just now.
    #[cfg(test)]
    pub(in crate::journal) fn wake(&self) {
        self.state.lock().tried = None;
    }

    fn take(&self, segment: &Sealed) -> Result<()> {
        let info = segment.info();
        let mut state = self.state.lock();
        let key = (info.epoch, info.base);
        match state.segments.get(&key) {
            Some(known) if known.salt != info.salt => {
                return Err(refused("it holds another history of this image"));
            }
            Some(known) if known.last >= info.last => return Ok(()),
            _ => {}
        }
        let name = format!("{:010}-{:020}", info.epoch.0, info.base.0);
        let store = format!("{name}.store");
        self.file(&format!("{name}.index"), |disk| segment.copy_index(disk))?;
        // Of a damaged segment there is none; what is whole in it may do.
        if let Ok(blocks) = BlockIndex::of(info.base, info.salt, segment.frames()) {
            self.file(&format!("{name}.blocks"), |disk| {
                write(disk, &blocks.encode())
            })?;
        }
        // The store last: what has one is complete.
        self.file(&store, |disk| segment.copy_store(disk))?;
        self.dir.sync().map_err(io("sync"))?;
        let found = log::found_in(&*self.dir, &store)?;
        let found = found.ok_or_else(|| refused("a copy reads back as nothing"))?;
        state.grown += found.bytes;
        state.segments.insert(key, found);
        self.note(&state)
    }

    /// Writes a file that has its name only when it is whole.
    fn file(&self, name: &str, write: impl FnOnce(&dyn Disk) -> log::Result<()>) -> Result<()> {
        let part = format!("{name}{PART}");
        let _ = self.dir.remove(&part);
        let disk = self.dir.create(&part).map_err(io(name))?;
        let written = write(&*disk).map_err(Error::from);
        let named = written.and_then(|()| self.dir.rename(&part, name).map_err(io(name)));
        if named.is_err() {
            let _ = self.dir.remove(&part);
        }
        named
    }

    /// Writes down what there is, for people and for a quick opening.
    fn note(&self, state: &State) -> Result<()> {
        let manifest = Manifest::of(self.identity, state);
        let bytes = manifest.encode();
        self.file(manifest::NAME, |disk| write(disk, &bytes))?;
        self.dir.sync().map_err(io("sync"))
    }

    /// Whether it failed just now: copying much in vain, again and again, would
    /// take the disk from those who need it.
    fn rests(&self) -> bool {
        let state = self.state.lock();
        state.failing.is_some() && state.tried.is_some_and(|at| at.elapsed() < REST)
    }

    /// Says once that it fails, and why; and once that it works again.
    fn say(&self, result: &Result<()>) {
        let mut state = self.state.lock();
        state.tried = Some(Instant::now());
        match (result, &state.failing) {
            (Err(error), None) => {
                ::log::warn!(
                    "the archive takes nothing: {error}: the journal keeps what it has room for; \
                     once the archive works again it begins with a new copy of the image"
                );
                state.failing = Some(error.to_string().into());
            }
            (Ok(()), Some(_)) => {
                ::log::warn!("the archive works again");
                state.failing = None;
            }
            _ => {}
        }
    }

    /// Throws away what lies beyond its own limits.
    pub(super) fn keep_within_limits(&self, now: Time) -> Result<()> {
        // That nothing may go is told by a look at all of it: not at each tick.
        let unspent = self.state.lock().unspent;
        if unspent.is_some_and(|at| at.elapsed() < PATIENCE) {
            return Ok(());
        }
        let gone = self.prune(self.limits, now)?;
        let unspent = gone == 0 && self.exceeds(self.limits, now);
        self.state.lock().unspent = unspent.then(Instant::now);
        Ok(())
    }

    /// Whether there is more than the limits want.
    pub fn exceeds(&self, limits: Limits, now: Time) -> bool {
        let state = self.state.lock();
        let oldest = state.bases.first().and_then(|base| base.time);
        limits.has_too_much(&state) || limits.has_passed(oldest, now)
    }

    /// Whether the oldest base may go, with all that only it needed: never with
    /// states within the age to be kept, nor with the last that can be made.
    fn is_spent(&self, state: &State, limits: Limits, now: Time) -> bool {
        let [oldest, rest @ ..] = &state.bases[..] else {
            return false;
        };
        let Some(next) = rest.first() else {
            return false;
        };
        let (large, old) = (
            limits.has_too_much(state),
            limits.has_passed(next.time, now),
        );
        if !large && !old {
            return false;
        }
        let segments: Vec<Found> = state.segments.values().cloned().collect();
        let reaches = self.restorable(&state.bases, &segments, None);
        let led = |base: &ImageBase| reaches.iter().find(|reach| reach.base == *base);
        let replaced = || match (led(oldest), led(next)) {
            (None, _) => true,
            (Some(gone), _) if limits.has_passed(gone.until, now) => true,
            (Some(gone), Some(stays)) => {
                (stays.timeline, stays.to.max(gone.to)) == (gone.timeline, stays.to)
            }
            (Some(_), None) => false,
        };
        rest.iter().any(|base| led(base).is_some()) && (large || replaced())
    }

    /// Throws away what lies beyond the limits; a base goes with all that only
    /// it needed, never the last one. Answers how many files went.
    pub fn prune(&self, limits: Limits, now: Time) -> Result<usize> {
        let mut state = self.state.lock();
        let mut gone = 0;
        while self.is_spent(&state, limits, now) {
            let [oldest, next, ..] = &state.bases[..] else {
                break;
            };
            let (oldest, from, epoch) = (oldest.name.clone(), next.from, next.epoch);
            // The manifest first: what it names must be there.
            state.bases.remove(0);
            let spent: Vec<Found> = (state.segments.values())
                .filter(|found| found.last <= from && found.epoch <= epoch)
                .cloned()
                .collect();
            for found in &spent {
                state.segments.remove(&(found.epoch, found.base));
            }
            self.note(&state)?;
            let names = spent.iter().flat_map(|found| {
                let stem = found.name.trim_end_matches(".store");
                [".store", ".index", ".blocks"].map(|kind| format!("{stem}{kind}"))
            });
            for name in names.chain([oldest]) {
                match self.dir.remove(&name) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(io(&name)(e));
                    }
                    _ => gone += 1,
                }
            }
        }
        Ok(gone)
    }
}

/// The timelines of an archive's segments and a journal's.
fn lines(archived: &[Found], journal: &[Found]) -> Vec<Timeline> {
    let mut all: Vec<&Found> = archived.iter().chain(journal).collect();
    all.sort_by_key(|found| (found.epoch, found.base));
    reach::timelines(&all)
}

fn write(disk: &dyn Disk, bytes: &[u8]) -> log::Result<()> {
    let written = disk.write_at(bytes, 0).and_then(|()| disk.sync());
    written.map_err(|e| log::Error::Io {
        what: "write".to_owned(),
        source: Arc::new(e),
    })
}

impl Limits {
    fn has_too_much(&self, state: &State) -> bool {
        self.size.is_some_and(|most| size(state) > most)
    }

    /// Whether states of this time need not be reached any more.
    fn has_passed(&self, time: Option<Time>, now: Time) -> bool {
        let age = self.age.map(|age| i64::try_from(age.as_nanos()));
        age.zip(time).is_some_and(|(age, time)| {
            time.as_nanos() <= now.as_nanos().saturating_sub(age.unwrap_or(i64::MAX))
        })
    }
}

/// Bytes of all files.
fn size(state: &State) -> u64 {
    let bases: u64 = state.bases.iter().map(|base| base.bytes).sum();
    let segments: u64 = state.segments.values().map(|found| found.bytes).sum();
    bases + segments
}

impl Keeper for Archive {
    fn keep(&self, segment: &Sealed) -> log::Result<()> {
        let taken = match self.rests() {
            true => Err(refused("it failed just now")),
            false => {
                let taken = self.take(segment);
                self.say(&taken);
                taken
            }
        };
        taken.map_err(|error| match error {
            Error::Log(error) => error,
            other => log::Error::Io {
                what: "archive".to_owned(),
                source: Arc::new(std::io::Error::other(other.to_string())),
            },
        })
    }

    fn lose(&self, segment: &Sealed) {
        let info = segment.info();
        let mut state = self.state.lock();
        if !state.lost {
            ::log::warn!(
                "records {} to {} leave the journal without having been archived",
                info.base,
                info.last
            );
        }
        state.lost = true;
    }
}

fn refused(why: &str) -> Error {
    Error::Io {
        what: "archive".to_owned(),
        source: Arc::new(std::io::Error::other(why.to_owned())),
    }
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let what = format!("{what} in the archive");
    move |source| Error::Io {
        what,
        source: Arc::new(source),
    }
}

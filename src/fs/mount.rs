//! Opening an image with its journal, and closing it again.
//!
//! Each step can be cut off by the power, and what is found then is decided
//! from the image's guard and the journal's last session alone:
//!
//! ```text
//!     image             journal                         course
//!     unguarded         ended well, fingerprint equal   go on
//!     unguarded         anything else                   another timeline: begin anew
//!     guarded by U      last session is U               recover
//!     guarded by U      last session is unused, was     recover (its guard never
//!                       begun over U                    reached the image)
//!     guarded by U      none, or another                refuse, naming U
//!     torn              last session's copies           repair, then as guarded
//! ```
//! An unguarded image is never replayed into: somebody else may have changed
//! it since.

use std::any::Any;
use std::sync::Arc;

use super::guard::{self, Raw, Standing};
use super::{Fs, Options as FsOptions};
use crate::device::{Dir, Disk};
use crate::ext4::group::Group;
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::ext4::{Superblock, Unusable};
use crate::journal::record::{Clean, Session};
use crate::journal::{self, Background, Blocks, Journal, Report, Unrecovered};
use crate::units::{BlockNo, Clock, GroupNo, HostClock, Lsn, Time};

mod host;
pub use host::{Lock, journal_folder, open_host, open_host_through, refuse_loop_device};

/// Why an image is not opened. Each is one line: what, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The host's word.
        source: Arc<std::io::Error>,
    },
    /// Not an image, or one that we can't read.
    #[error(transparent)]
    Unusable(Unusable),
    /// It may be read, but not written.
    #[error("feature {0} is not supported for writing: mount it with --read-only")]
    Unwritable(String),
    /// Somebody left it unfinished.
    #[error("the image was not unmounted cleanly: run e2fsck -f on it first")]
    Unclean,
    /// Somebody noted errors in it.
    #[error("errors are noted in the image: {0}run e2fsck -f on it first")]
    HasErrors(&'static str),
    /// Its internal journal has to be replayed.
    #[error("the image's own journal needs recovery: run e2fsck -p on it first")]
    Unreplayed,
    /// It has a journal on another device.
    #[error("the image has a journal on another device (UUID {0}): that is not supported")]
    External(Uuid),
    /// Its journal is not here.
    #[error(
        "the image lags behind a journal (UUID {0}) that is not here: \
         put the journal's folder back, or name it with --journal"
    )]
    NoJournal(Uuid),
    /// The journal is another image's, or of another time.
    #[error(
        "the image lags behind journal {image}, but the folder holds journal {found}: it belongs to another image"
    )]
    OtherJournal {
        /// Whom the image's guard names.
        image: Uuid,
        /// The journal's last session.
        found: Uuid,
    },
    /// The superblock is damaged, and the rest is not what the journal remembers.
    #[error("the superblock is damaged, and the image is not the one that the journal belongs to")]
    Unrecognised,
    /// Somebody has it.
    #[error("{0}")]
    InUse(String),
    /// The journal's error.
    #[error(transparent)]
    Journal(journal::Error),
    /// While freeing what was left over.
    #[error(transparent)]
    Fs(super::Error),
}

impl Error {
    fn host_is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let source = match self {
            Error::Io { source, .. } => source,
            Error::Journal(journal::Error::Io { source, .. }) => source,
            Error::Journal(journal::Error::Log(crate::log::Error::Io { source, .. })) => source,
            // After checkpoints that could give no room: the log needs another file.
            Error::Fs(super::Error::Full) => return true,
            _ => return false,
        };
        matches!(source.kind(), StorageFull | QuotaExceeded)
    }
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Self {
        Error::Journal(error)
    }
}
impl From<super::Error> for Error {
    fn from(error: super::Error) -> Self {
        Error::Fs(error)
    }
}
impl From<crate::ext4::Corrupt> for Error {
    fn from(corrupt: crate::ext4::Corrupt) -> Self {
        Error::Unusable(corrupt.into())
    }
}

/// The result of opening or closing.
pub type Result<T> = std::result::Result<T, Error>;

/// A UUID, as people write it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            let dash = if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}
impl std::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// How an image is opened.
#[derive(Clone)]
pub struct Options {
    /// How the file system behaves; `read_only` decides the opening too.
    pub fs: FsOptions,
    /// Where it will be mounted, for `s_last_mounted`.
    pub point: Vec<u8>,
    /// Bytes of a segment; by the image's size if `None`.
    pub segment_size: Option<u64>,
    /// Number of segments; by the image's size if `None`.
    pub segments: Option<u32>,
    /// Bytes of memory for blocks.
    pub cache_size: usize,
    /// Seconds until unsynced records are synced unasked.
    pub commit_seconds: u32,
    /// Source of all times.
    pub clock: Arc<dyn Clock>,
    /// 0: salts and UUIDs from the host's randomness; a simulation gives
    /// another seed to every opening.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            fs: FsOptions::default(),
            point: Vec::new(),
            segment_size: None,
            segments: None,
            cache_size: 128 << 20,
            commit_seconds: 5,
            clock: Arc::new(HostClock),
            seed: 0,
        }
    }
}

impl Options {
    fn journal(&self, image_len: u64, sb: &Superblock) -> journal::Options {
        let sized = journal::Options::for_image(image_len, sb.block_size as usize);
        journal::Options {
            pinned: Some(sb.home().0),
            segment_size: self.segment_size.unwrap_or(sized.segment_size),
            segments: self.segments.unwrap_or(sized.segments),
            cache_size: self.cache_size,
            commit_seconds: self.commit_seconds,
            clock: self.clock.clone(),
            seed: self.seed,
            ..sized
        }
    }
}

/// What is to be done with an image and its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The journal has no past.
    First,
    /// Its past is this image's.
    GoOn,
    /// Its past is of another timeline and ends here.
    Anew,
    /// The image lags behind it.
    Recover,
}

/// An image and its journal, looked at; nothing has been changed.
pub struct Opened {
    image: Arc<dyn Disk>,
    dir: Arc<dyn Dir>,
    unrecovered: Unrecovered,
    options: Options,
    /// The superblock's bytes on the image.
    found: Raw,
    /// The same, or the journal's copy if they are torn.
    good: Raw,
    sb: Superblock,
    course: Course,
    held: Held,
}

/// Locks and the like, kept until the image is closed.
type Held = Vec<Box<dyn Any + Send + Sync>>;

/// Looks at an image and its journal's folder, and refuses what can't be
/// mounted as the options say. Changes nothing.
pub fn open(image: Arc<dyn Disk>, dir: Arc<dyn Dir>, options: Options) -> Result<Opened> {
    let unrecovered = Journal::open(dir.clone())?;
    let found = read_superblock(&*image)?;
    let good = repaired(&*image, &found, &unrecovered)?;
    let sb = Superblock::decode(&good).map_err(Error::Unusable)?;
    let course = course(&good, &unrecovered)?;
    let opened = Opened {
        image,
        dir,
        unrecovered,
        options,
        found,
        good,
        sb,
        course,
        held: Vec::new(),
    };
    opened.refuse_short_image()?;
    if !opened.options.fs.read_only {
        opened.refuse_unwritable()?;
    }
    Ok(opened)
}

/// Replays what an image lacks and leaves it an ordinary one. `None`: there
/// was nothing to do, and nothing has been written.
pub fn recover(
    image: Arc<dyn Disk>,
    dir: Arc<dyn Dir>,
    options: Options,
) -> Result<Option<Report>> {
    open(image, dir, options)?.recover()
}

impl Opened {
    /// What will be done.
    pub fn course(&self) -> Course {
        self.course
    }
    /// What the journal's folder holds.
    pub fn report(&self) -> &Report {
        self.unrecovered.report()
    }
    /// The image's superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }
    /// Whether the image carries a guard.
    pub fn is_guarded(&self) -> bool {
        matches!(guard::standing(&self.good), Standing::Guarded(_))
    }

    fn refuse_short_image(&self) -> Result<()> {
        let (len, need) = (
            length(&*self.image)?,
            self.sb.blocks_count * u64::from(self.sb.block_size),
        );
        match len < need {
            true => Err(Error::Io {
                what: format!("the image has {len} bytes, its superblock says {need}"),
                source: Arc::new(std::io::ErrorKind::UnexpectedEof.into()),
            }),
            false => Ok(()),
        }
    }

    fn refuse_unwritable(&self) -> Result<()> {
        let features = self.sb.features.unwritable();
        if !features.is_empty() {
            return Err(Error::Unwritable(features.join(", ")));
        }
        match self.course {
            Course::Recover => Ok(()),
            _ if guard::has_errors(&self.good) => Err(Error::HasErrors("")),
            _ if !guard::is_sound(&self.good) => Err(Error::Unclean),
            _ => Ok(()),
        }
    }

    /// Mounts as the options say; for reading only, with everything replayed
    /// in memory, if the host has no space to recover the image
    /// ([`Mounted::degraded`] tells).
    pub fn mount(mut self) -> Result<Mounted> {
        if self.options.fs.read_only {
            return self.mount_read_only();
        }
        if guard::has_errors(&self.found) && !guard::is_torn(&self.found, &self.good) {
            return Err(Error::HasErrors("run journalfs recover, then "));
        }
        if self.course != Course::Recover {
            return self.mount_despite_errors();
        }
        let (image, dir, mut options) =
            (self.image.clone(), self.dir.clone(), self.options.clone());
        // Kept here, or a degraded mount would be left without its locks.
        let held = std::mem::take(&mut self.held);
        let mut mounted = match self.mount_despite_errors() {
            Err(error) if error.host_is_full() => {
                // Its guard stays, and the journal keeps everything.
                options.fs.read_only = true;
                let mut mounted = open(image, dir, options)?.mount_read_only()?;
                mounted.degraded = Some(error);
                mounted
            }
            other => other?,
        };
        mounted.held = held;
        Ok(mounted)
    }

    fn mount_despite_errors(self) -> Result<Mounted> {
        let Opened {
            image,
            dir: _,
            unrecovered,
            options,
            found,
            good,
            sb,
            course,
            held,
        } = self;
        let report = unrecovered.report().clone();
        let kept = options.journal(length(&*image)?, &sb);
        let journal = match course {
            Course::First | Course::Anew => unrecovered.begin_anew(image.clone(), kept)?,
            Course::GoOn => unrecovered.resume(image.clone(), kept)?,
            Course::Recover => unrecovered.recover(image.clone(), kept)?,
        };
        let began = options.clock.wall();
        let sb = begin_session(&*image, &journal, &sb, &found, &good, &options)?;
        let fs = Arc::new(Fs::new(journal, sb, options.fs, options.clock.clone()));
        retry_when_full(&fs, || fs.collect_orphans().map(drop))?;
        Ok(Mounted {
            image,
            fs,
            options,
            course,
            report,
            began,
            background: None,
            degraded: None,
            held,
        })
    }

    /// Replays what the image lacks and leaves it an ordinary one. `None`:
    /// there was nothing to do, and nothing has been written.
    pub fn recover(self) -> Result<Option<Report>> {
        if self.course != Course::Recover {
            return Ok(None);
        }
        let mounted = self.mount_despite_errors()?;
        let report = mounted.report.clone();
        mounted.close()?;
        Ok(Some(report))
    }

    /// A replay in memory: nothing is written anywhere.
    fn mount_read_only(self) -> Result<Mounted> {
        let Opened {
            image,
            unrecovered,
            options,
            sb,
            course,
            held,
            ..
        } = self;
        let report = unrecovered.report().clone();
        let kept = options.journal(length(&*image)?, &sb);
        let journal = match course {
            Course::First | Course::Anew | Course::GoOn => Journal::read_only(image.clone(), kept)?,
            Course::Recover => unrecovered.replay_in_memory(image.clone(), kept)?,
        };
        let began = options.clock.wall();
        let fs = Arc::new(Fs::new(journal, sb, options.fs, options.clock.clone()));
        Ok(Mounted {
            image,
            fs,
            options,
            course,
            report,
            began,
            background: None,
            degraded: None,
            held,
        })
    }
}

/// An open file system, with what has to happen at its end.
pub struct Mounted {
    image: Arc<dyn Disk>,
    fs: Arc<Fs>,
    options: Options,
    course: Course,
    report: Report,
    began: Time,
    background: Option<Background>,
    degraded: Option<Error>,
    held: Held,
}

impl Mounted {
    /// The file system.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }
    /// What was done at the opening.
    pub fn course(&self) -> Course {
        self.course
    }
    /// What the journal's folder held then. `report.last` is the last record
    /// of the past.
    pub fn report(&self) -> &Report {
        &self.report
    }
    /// The last record of the past: what recovery cut the history at.
    pub fn last(&self) -> Lsn {
        self.report.last
    }

    /// Why it is mounted for reading only although it should not be.
    pub fn degraded(&self) -> Option<&Error> {
        self.degraded.as_ref()
    }

    /// Starts the threads that a mount needs.
    pub fn start_background(&mut self) -> Result<()> {
        if self.background.is_none() && !self.options.fs.read_only {
            let threads = Background::start(self.fs.journal());
            self.background = Some(threads.map_err(io_error("starting threads"))?);
        }
        Ok(())
    }

    /// Brings everything home and takes the guard off. If a step fails, the
    /// guard stays on, and a later recovery finishes the work.
    pub fn close(self) -> Result<()> {
        let Mounted {
            image,
            fs,
            options,
            began,
            background,
            held,
            ..
        } = self;
        drop(background);
        if !options.fs.read_only {
            retry_when_full(&fs, || fs.tidy())?;
            end_session(&*image, &fs, began, &options)?;
        }
        drop(held);
        Ok(())
    }
}

/// Without threads nobody else makes room. On a full host a checkpoint may
/// have none to give: that must become an error, not a wait for ever.
fn retry_when_full(fs: &Fs, work: impl Fn() -> super::Result<()>) -> Result<()> {
    let journal = fs.journal();
    let (mut last, mut idle) = (journal.watermarks().appended, 0);
    loop {
        match work() {
            Err(super::Error::Full) if idle < 3 => journal.checkpoint()?,
            other => return Ok(other?),
        }
        let now = journal.watermarks().appended;
        idle = if now == last { idle + 1 } else { 0 };
        last = now;
    }
}

/// Session record durable, then the guard, then everything else.
fn begin_session(
    image: &dyn Disk,
    journal: &Journal,
    sb: &Superblock,
    found: &Raw,
    good: &Raw,
    options: &Options,
) -> Result<Superblock> {
    let (home, at) = sb.home();
    let mut pinned = match journal.pinned() {
        Some(pinned) => pinned.to_vec(),
        None => journal.view().block(home)?.to_vec(),
    };
    let mut current: Raw = pinned[at..at + SIZE]
        .try_into()
        .expect("a superblock lies within its block");
    if !guard::is_torn(found, good) {
        guard::merge_errors(&mut current, found);
    }
    let uuid = fresh_uuid(options, journal.watermarks().appended);
    let guarded = guard::put_on(&current, uuid);
    pinned[at..at + SIZE].copy_from_slice(&guarded);
    let session = Session {
        guard: uuid,
        prior: good.to_vec(),
        guarded: guarded.to_vec(),
    };
    journal.begin_session(session, &pinned, &witnesses(journal, sb)?)?;
    write_superblock(image, found, &guarded)?;
    Superblock::decode(&guarded).map_err(Error::Unusable)
}

/// Blocks by which the image is recognised should its superblock be torn:
/// the first descriptors, and the inode table with the root directory.
fn witnesses(journal: &Journal, sb: &Superblock) -> Result<Vec<BlockNo>> {
    let (block, at) = sb.descriptor_place(GroupNo(0));
    let group = Group::decode(&journal.view().block(block)?[at..], sb, GroupNo(0))?;
    Ok(vec![block, group.inode_table])
}

/// Log home, record durable, then the guard off.
fn end_session(image: &dyn Disk, fs: &Fs, began: Time, options: &Options) -> Result<()> {
    let (journal, sb) = (fs.journal(), fs.superblock());
    let pinned = journal.settle()?.unwrap_or_default();
    let (_, at) = sb.home();
    let current = pinned
        .get(at..at + SIZE)
        .and_then(|raw| Raw::try_from(raw).ok());
    let mut current = current.ok_or(Error::Unrecognised)?;
    let found = read_superblock(image)?;
    if !guard::is_torn(&found, &current) {
        guard::merge_errors(&mut current, &found);
    }
    let (free_blocks, free_inodes) = free_counts(fs)?;
    let restored = guard::restore(
        &current,
        &guard::Visit {
            mounted: began,
            unmounted: options.clock.wall(),
            point: &options.point,
            written: journal.written_home(),
            free_blocks,
            free_inodes,
        },
    );
    journal.end(Clean {
        fingerprint: guard::fingerprint(&restored),
        restored: restored.to_vec(),
    })?;
    write_superblock(image, &found, &restored)
}

/// The superblock's counts are sums: no operation keeps them.
fn free_counts(fs: &Fs) -> Result<(u64, u32)> {
    let (view, sb) = (fs.journal().view(), fs.superblock());
    let (mut blocks, mut inodes) = (0, 0);
    for number in (0..sb.group_count()).map(GroupNo) {
        let (block, at) = sb.descriptor_place(number);
        let group = Group::decode(&view.block(block)?[at..], sb, number)?;
        blocks += u64::from(group.free_blocks);
        inodes += group.free_inodes;
    }
    Ok((blocks, inodes))
}

/// The table in this file's head.
fn course(good: &Raw, journal: &Unrecovered) -> Result<Course> {
    let session = journal.base().map(|base| &base.session);
    match (guard::standing(good), session) {
        (Standing::Unreplayed, _) => Err(Error::Unreplayed),
        (Standing::External(uuid), _) => Err(Error::External(Uuid(uuid))),
        (Standing::Guarded(uuid), None) if journal.report().last == Lsn(0) => {
            Err(Error::NoJournal(Uuid(uuid)))
        }
        (Standing::Guarded(uuid), session) => {
            journal.refuse_damage()?;
            match session {
                Some(session) if session.guard == uuid => Ok(Course::Recover),
                Some(session) if journal.is_unused() && began_over(session, uuid) => {
                    Ok(Course::Recover)
                }
                Some(session) => Err(Error::OtherJournal {
                    image: Uuid(uuid),
                    found: Uuid(session.guard),
                }),
                None => Err(Error::NoJournal(Uuid(uuid))),
            }
        }
        (Standing::Plain, None) if journal.report().last == Lsn(0) => Ok(Course::First),
        (Standing::Plain, None) => Ok(Course::Anew),
        (Standing::Plain, Some(session)) => {
            let ended_here = journal
                .clean()
                .is_some_and(|clean| clean.fingerprint == guard::fingerprint(good));
            let never_began = journal.is_unused() && session.prior == *good;
            match (ended_here || never_began) && journal.refuse_damage().is_ok() {
                true => Ok(Course::GoOn),
                false => Ok(Course::Anew),
            }
        }
    }
}

/// Whether the image carried this guard when the session began.
fn began_over(session: &Session, uuid: [u8; 16]) -> bool {
    let prior = Raw::try_from(session.prior.as_slice());
    prior.is_ok_and(|prior| guard::standing(&prior) == Standing::Guarded(uuid))
}

/// The superblock, from the journal's copy if a cut has torn it. Whether it
/// is this image at all, other blocks must say then.
fn repaired(image: &dyn Disk, found: &Raw, journal: &Unrecovered) -> Result<Raw> {
    let Some(base) = journal.base() else {
        return Ok(*found);
    };
    let Ok(known) = Raw::try_from(base.session.guarded.as_slice()) else {
        return Ok(*found);
    };
    if !guard::is_torn(found, &known) {
        return Ok(*found);
    }
    let sb = Superblock::decode(&known).map_err(Error::Unusable)?;
    let mut block = vec![0; sb.block_size as usize];
    let mut recognised = guard::names_the_same(found, &known);
    for (number, crc) in journal.untouched_samples()? {
        let place = number.0.checked_mul(u64::from(sb.block_size));
        let read = place.is_some_and(|place| image.read_at(&mut block, place).is_ok());
        recognised |= read && crc32fast::hash(&block) == crc;
    }
    if recognised {
        Ok(known)
    } else {
        Err(Error::Unrecognised)
    }
}

fn read_superblock(image: &dyn Disk) -> Result<Raw> {
    let mut raw = [0; SIZE];
    match length(image)? {
        len if len < OFFSET + SIZE as u64 => {
            return Err(Error::Unusable(
                crate::ext4::Corrupt::NotExt4 { magic: 0 }.into(),
            ));
        }
        _ => image
            .read_at(&mut raw, OFFSET)
            .map_err(io_error("read of the superblock"))?,
    }
    Ok(raw)
}

/// Writes the sectors that differ, so that no other is in flight when the
/// power fails.
fn write_superblock(image: &dyn Disk, found: &Raw, now: &Raw) -> Result<()> {
    const SECTOR: usize = 512;
    for (n, (before, after)) in found.chunks(SECTOR).zip(now.chunks(SECTOR)).enumerate() {
        if before != after {
            let at = OFFSET + (n * SECTOR) as u64;
            image
                .write_at(after, at)
                .map_err(io_error("write of the superblock"))?;
        }
    }
    image.sync().map_err(io_error("sync of the superblock"))
}

fn length(image: &dyn Disk) -> Result<u64> {
    image.len().map_err(io_error("length of the image"))
}

fn io_error(what: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let what = what.to_owned();
    move |source| Error::Io {
        what,
        source: Arc::new(source),
    }
}

/// A guard's name: random, or, in a simulation, different at every opening.
fn fresh_uuid(options: &Options, appended: Lsn) -> [u8; 16] {
    let mut uuid = [0; 16];
    let random = options.seed == 0
        && std::fs::File::open("/dev/urandom")
            .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut uuid))
            .is_ok();
    if !random {
        let now = options.clock.wall().as_nanos() as u64;
        let mut state = options.seed ^ appended.0.rotate_left(32) ^ now.rotate_left(17);
        for half in uuid.chunks_mut(8) {
            state = state
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(0x1405_7B7E_F767_814F);
            half.copy_from_slice(&(state ^ state >> 29).to_le_bytes());
        }
    }
    // Version 4, variant 1: what uuid(1) makes.
    uuid[6] = uuid[6] & 0x0F | 0x40;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

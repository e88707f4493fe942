//! Opening an image with its journal, and closing it again.
//!
//! Each step can be cut off by the power; the next opening decides what to do
//! from what it finds (see [`Course`]).

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;

use super::guard::{self, Raw, Standing};
use super::jbd2::{self, Pending};
use super::{Fs, Options as FsOptions};
use crate::device::{Dir, Disk};
use crate::ext4::features::compat;
use crate::ext4::superblock::SIZE;
use crate::ext4::{Superblock, fault};
use crate::journal::archive::Limits;
use crate::journal::{self, Archive, Background, Journal, Report, Unrecovered};
use crate::log::Bad;
use crate::units::{Clock, Epoch, HostClock, Lsn, Time};

mod course;
mod error;
mod export;
mod host;
mod session;
mod vital;
pub use course::Course;
use error::io_error;
pub use error::{Error, Result, Uuid};
pub use export::Exported;
pub use host::{
    Lock, journal_folder, open_host, open_host_copy, open_host_through, refuse_loop_device,
};

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
    /// Whether the host gets back the space of freed blocks.
    pub discard: bool,
    /// Source of all times.
    pub clock: Arc<dyn Clock>,
    /// 0: salts and UUIDs from the host's randomness; a simulation gives
    /// another seed to every opening.
    pub seed: u64,
    /// Gives up the journal's records behind this one, also durable ones.
    pub cut_after: Option<Lsn>,
    /// Where history goes that the journal has no room for.
    pub history: Option<History>,
}

/// An archive's folder.
#[derive(Clone)]
pub struct History {
    /// The folder.
    pub dir: Arc<dyn Dir>,
    /// How much it keeps.
    pub limits: Limits,
    /// Up to where the journal archived there, if it has gone on without since:
    /// its last record then, and that one's opening of the log.
    pub left: Option<(Epoch, Lsn)>,
    /// Its lock, kept as long as this.
    pub held: Arc<dyn Any + Send + Sync>,
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
            discard: false,
            clock: Arc::new(HostClock),
            seed: 0,
            cut_after: None,
            history: None,
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
            discard: self.discard,
            clock: self.clock.clone(),
            seed: self.seed,
            ..sized
        }
    }
}

/// An image and its journal, looked at; nothing has been changed.
pub struct Opened {
    image: Arc<dyn Disk>,
    dir: Arc<dyn Dir>,
    unrecovered: Unrecovered,
    options: Options,
    /// The superblock's bytes on the image.
    found: Raw,
    /// The same, or the journal's copy if they are torn, or what the image's
    /// own journal would make of them.
    good: Raw,
    sb: Superblock,
    course: Course,
    /// What the image's own journal still has.
    pending: Option<Arc<Pending>>,
    held: Held,
}

/// Locks and the like, kept until the image is closed.
pub type Held = Vec<Box<dyn Any + Send + Sync>>;

/// Looks at an image and its journal's folder, and refuses what can't be
/// mounted as the options say. Changes nothing.
pub fn open(image: Arc<dyn Disk>, dir: Arc<dyn Dir>, options: Options) -> Result<Opened> {
    let unrecovered = match options.cut_after {
        None => Journal::open(dir.clone())?,
        Some(last) => Journal::open_cut_after(dir.clone(), last)?.ok_or(Error::CantCut(last))?,
    };
    let found = session::read_superblock(&*image)?;
    let good = course::repaired(&*image, &found, &unrecovered)?;
    let sb = Superblock::decode(&good).map_err(Error::Unusable)?;
    let course = Course::of(&good, &unrecovered)?;
    let mut opened = Opened {
        image,
        dir,
        unrecovered,
        options,
        found,
        good,
        sb,
        course,
        pending: None,
        held: Vec::new(),
    };
    opened.refuse_short_image()?;
    if guard::standing(&opened.good) == Standing::Unreplayed {
        opened.read_own_journal()?;
        opened.refuse_short_image()?;
    }
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

    /// The end of a journal that looks whole and is not.
    pub fn lost_end(&self) -> Option<Bad> {
        self.unrecovered.survey().lost_end()
    }
    /// The newest opening of the log, and its last record.
    pub fn end(&self) -> (Epoch, Lsn) {
        let survey = self.unrecovered.survey();
        (survey.epoch(), survey.last())
    }
    /// Goes on without the archive, and then true, if that is another journal's.
    pub fn parts_from_history(&mut self) -> Result<bool> {
        match archive(&self.options, &self.sb, &*self.dir, &self.unrecovered) {
            Err(Error::OtherHistory) => {
                self.options.history = None;
                Ok(true)
            }
            opened => opened.map(|_| false),
        }
    }
    /// Whether there is an archive to go on with.
    pub fn has_history(&self) -> bool {
        self.options.history.is_some()
    }
    /// The newest record as of which blocks may be on the image.
    pub fn reach(&self) -> Lsn {
        self.unrecovered.reach()
    }
    /// The image's superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }
    /// Whether the image carries a guard.
    pub fn is_guarded(&self) -> bool {
        matches!(guard::standing(&self.good), Standing::Guarded(_))
    }

    /// The image's own journal, if it has to be replayed first.
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_deref()
    }

    /// Finds out what the image's own journal would do, and sees the
    /// superblock as it would leave it.
    fn read_own_journal(&mut self) -> Result<()> {
        let plain = jbd2::plain(self.image.clone(), self.sb.block_size)?;
        let pending = Pending::read(self.image.clone(), &self.sb, &self.good, &plain.view());
        let pending = pending.map_err(Error::Unreplayable)?;
        let home = pending.home().map_err(io_error("read of the superblock"))?;
        let (_, at) = self.sb.home();
        self.good.copy_from_slice(&home[at..at + SIZE]);
        guard::merge_errors(&mut self.good, &self.found);
        self.sb = Superblock::decode(&self.good).map_err(Error::Unusable)?;
        self.pending = Some(Arc::new(pending));
        Ok(())
    }

    fn refuse_short_image(&self) -> Result<()> {
        let (len, need) = (length(&*self.image)?, self.sb.bytes());
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
            _ if self.pending.as_deref().is_some_and(Pending::failed) => Err(Error::HasErrors("")),
            _ if !guard::is_sound(&self.good) => Err(Error::Unclean),
            _ => Ok(()),
        }
    }

    /// Refuses what could not be used, while nothing has been written.
    fn refuse_unfit(&self) -> Result<()> {
        let image: Arc<dyn Disk> = match &self.pending {
            Some(pending) => Arc::new(pending.overlay()),
            None => self.image.clone(),
        };
        let plain = jbd2::plain(image, self.sb.block_size)?;
        vital::root(&self.sb, &plain.view())?;
        vital::orphans(&self.sb, &plain.view())?;
        // (One with transactions has just been read.)
        if self.pending.is_none() && self.sb.features.compat(compat::HAS_JOURNAL) {
            vital::own_journal(&self.sb, &plain.view())?;
        }
        Ok(())
    }

    /// Mounts as the options say; for reading only, with everything replayed
    /// in memory, if the host has no space to recover the image
    /// ([`Mounted::degraded`] tells).
    pub fn mount(mut self) -> Result<Mounted> {
        if self.course != Course::Recover {
            self.refuse_unfit()?;
        }
        if self.options.fs.read_only {
            return self.mount_read_only()?.unless_damaged();
        }
        if guard::has_errors(&self.found) && !guard::is_torn(&self.found, &self.good) {
            return Err(Error::HasErrors("run journalfs recover, then "));
        }
        if self.course != Course::Recover {
            return self.mount_despite_errors()?.unless_damaged();
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
        mounted.unless_damaged()
    }

    fn mount_despite_errors(self) -> Result<Mounted> {
        let Opened {
            image,
            dir,
            unrecovered,
            options,
            found,
            good,
            sb,
            course,
            pending,
            held,
        } = self;
        let report = unrecovered.report().clone();
        let mut kept = options.journal(length(&*image)?, &sb);
        kept.archive = archive(&options, &sb, &*dir, &unrecovered)?;
        let replayed = pending.map(replay).transpose()?;
        let journal = match course {
            Course::First | Course::Anew => unrecovered.begin_anew(image.clone(), kept)?,
            Course::GoOn => unrecovered.resume(image.clone(), kept)?,
            Course::Recover => unrecovered.recover(image.clone(), kept)?,
        };
        let began = options.clock.wall();
        if matches!(course, Course::GoOn | Course::Recover) {
            session::confirm_superblock(&*image, &good)?;
        }
        let sb = session::begin(&*image, &journal, &sb, &found, &good, replayed, &options)?;
        let fs = Arc::new(Fs::new(journal, sb, options.fs, options.clock.clone()));
        match retry_when_full(&fs, || fs.noting(fs.collect_orphans()).map(drop)) {
            Err(Error::Fs(super::Error::Corrupt(_))) => {} // noted
            other => other?,
        }
        empty_own_journal(&fs)?;
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
        if self.course != Course::Recover && self.pending.is_none() {
            return Ok(None);
        }
        let mounted = self.mount_despite_errors()?;
        let report = mounted.report.clone();
        mounted.close()?;
        Ok(Some(report))
    }

    /// Image and journal, for whoever wants to see the image as it was.
    pub fn into_remains(self) -> Remains {
        Remains {
            image: self.image,
            unrecovered: self.unrecovered,
            course: self.course,
            held: self.held,
        }
    }

    /// Its locks, for one who needs the image longer than the file system does.
    pub fn take_held(&mut self) -> Held {
        std::mem::take(&mut self.held)
    }

    /// A replay in memory: nothing is written anywhere.
    fn mount_read_only(self) -> Result<Mounted> {
        let Opened {
            image,
            unrecovered,
            options,
            sb,
            course,
            pending,
            held,
            ..
        } = self;
        let image = match pending {
            Some(pending) => Arc::new(pending.overlay()),
            None => image,
        };
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

/// What an earlier state of an image is made of; nothing has been changed.
pub struct Remains {
    /// The image.
    pub image: Arc<dyn Disk>,
    /// What its journal holds.
    pub unrecovered: Unrecovered,
    /// Whether the one is the other's history.
    pub course: Course,
    /// Locks: nobody changes the image while they are held.
    pub held: Held,
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

    /// Leaves an image alone in which errors are noted (in a record that was
    /// just replayed), whose orphans show some, or that has no root.
    fn unless_damaged(self) -> Result<Self> {
        let root = vital::root(self.fs.superblock(), &self.fs.journal().view());
        if let Err(error) = root {
            self.close()?;
            return Err(error);
        }
        let error = match (self.fs.damage(), self.fs.journal().pinned()) {
            (Some(damage), _) => Error::Damaged(damage.what.clone()),
            (None, Some(block)) if self.options.fs.read_only || !self.notes_errors(&block) => {
                return Ok(self);
            }
            (None, None) => return Ok(self),
            (None, Some(_)) => Error::HasErrors(""),
        };
        self.close()?;
        Err(error)
    }

    fn notes_errors(&self, block: &[u8]) -> bool {
        let (_, at) = self.fs.superblock().home();
        fault::is_noted(&block[at..])
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
            retry_when_full(&fs, || fs.close_all())?;
            session::end(&*image, &fs, began, &options)?;
        }
        drop(held);
        Ok(())
    }
}

/// Brings home what the image's own journal has; answers the superblock's
/// block, which our journal must know before it is written.
fn replay(pending: Arc<Pending>) -> Result<Vec<u8>> {
    let failed = || io_error("replay of the image's own journal");
    pending.install().map_err(failed())?;
    pending.home().map_err(failed())
}

/// Under our guard the image's own journal means nothing, and without it, it
/// must be empty. At once, so that one who gives our journal up finds no old
/// one that waits to be replayed.
fn empty_own_journal(fs: &Fs) -> Result<()> {
    let emptied = Cell::new(false);
    retry_when_full(fs, || {
        emptied.set(jbd2::empty(fs)?);
        Ok(())
    })?;
    if emptied.get() {
        fs.journal().checkpoint()?;
    }
    Ok(())
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

/// Opens the archive, which must know this journal's past or none.
fn archive(
    options: &Options,
    sb: &Superblock,
    journal: &dyn Dir,
    unrecovered: &Unrecovered,
) -> Result<Option<Arc<Archive>>> {
    let Some(history) = &options.history else {
        return Ok(None);
    };
    let archive = Archive::open(history.dir.clone(), Some(sb.uuid), history.limits)?;
    let kept = crate::log::found(journal).map_err(crate::journal::Error::from)?;
    let ahead = archive.epoch() > unrecovered.survey().epoch() || archive.is_ahead_of(&kept);
    if ahead || history.left.is_some_and(|left| archive.newest() > left) {
        return Err(Error::OtherHistory);
    }
    Ok(Some(Arc::new(archive)))
}

fn length(image: &dyn Disk) -> Result<u64> {
    image.len().map_err(io_error("length of the image"))
}

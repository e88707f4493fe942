//! Opening an image on the host: locks, journal, recovery; and closing it.

use std::path::Path;
use std::sync::Arc;

use crate::device::host::{Access, HostDir, HostDisk};
use crate::device::{Dir, Disk, powercut};
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::fs::guard::{self, Standing};
use crate::fs::jbd2::Pending;
use crate::fs::mount::{self, Course, Held, Mounted};
use crate::fs::{self, Fs};
use crate::journal;
use crate::log::{Survey, Verdict};
use crate::sim::cut::Rig;

use super::archiving::Archiving;
use super::options::{Options, Wish};
use super::place::Place;
use super::runtime::Recovery;
use super::{Failure, at};

/// An open image; close it to leave an ordinary one.
pub struct Opened {
    mounted: Mounted,
    recovery: Recovery,
    place: Place,
    rig: Option<Rigged>,
}

/// A power switch, and the locks: the rig writes to the image last.
struct Rigged {
    rig: Arc<Rig>,
    _held: Held,
}

impl Opened {
    /// Why it is mounted for reading only although it should not be.
    pub fn degraded(&self) -> Option<String> {
        let why = self.mounted.degraded()?;
        Some(still_lags(&self.place.image, why))
    }

    /// Locks an image and its journal, and replays what is needed.
    pub fn open(place: &Place, wish: &Options, point: &[u8]) -> Result<Opened, Failure> {
        let refused = |error: mount::Error| place.refused(&error);
        // What the journal recycles meanwhile would be missing from the archive.
        if wish.powercut
            && wish.archive != Wish::Nowhere
            && let Some(known) = Archiving::recall(&place.journal)
        {
            return Err(Failure::refused(at(
                &place.image,
                format!(
                    "its history goes to {}, and -o powercut archives nothing: \
                     -o powercut,archive=none leaves a gap there",
                    known.archive.display()
                ),
            )));
        }
        let archiving = match wish.read_only || wish.powercut {
            true => None,
            false => Archiving::wanted(place, wish)?,
        };
        let asked = matches!(wish.archive, Wish::To(_));
        let history = archiving.as_ref().map(|it| it.open(&place.journal, asked));
        let history = history.transpose()?.flatten();
        let archives = history.is_some();
        let (mut opened, recovery, rig) = match wish.powercut {
            false => {
                let options = mount::Options {
                    history,
                    ..options(wish, point)
                };
                let opened = mount::open_host(&place.image, Some(&place.journal), options)
                    .map_err(refused)?;
                let recovery = recovery(&opened);
                sweep(place, wish)?;
                (opened, recovery, None)
            }
            true => {
                // The image below must lack nothing while a layer covers it.
                let recovery = recover(place)?;
                let (mut opened, rig) =
                    open_rigged(place, options(wish, point)).map_err(refused)?;
                let _held = opened.take_held();
                (opened, recovery, Some(Rigged { rig, _held }))
            }
        };
        if !recovery.dropped.is_empty() {
            log::warn!("{}: {}", place.image.display(), recovery.dropped);
        }
        let with = archiving.as_ref().filter(|_| archives);
        let with = with.map(|it| it.archive.as_path());
        let unnoted = |e| Failure::refused(at(&place.journal, e));
        if archives && opened.parts_from_history().map_err(refused)? {
            return Err(refused(mount::Error::OtherHistory));
        }
        if !wish.read_only {
            Archiving::leave(&place.journal, with, opened.end()).map_err(unnoted)?;
        }
        let mut mounted = opened.mount().map_err(refused)?;
        if let Some(why) = mounted.degraded() {
            let image = place.image.display();
            log::warn!("{image}: mounted for reading only, since it can't be recovered: {why}");
        }
        if !wish.read_only && !wish.powercut {
            Archiving::remember(&place.journal, archiving.as_ref()).map_err(unnoted)?;
            if let Some(with) = with {
                Archiving::join(&place.journal, with).map_err(unnoted)?;
            }
        }
        mounted.start_background().map_err(refused)?;
        Ok(Opened {
            mounted,
            recovery,
            place: place.clone(),
            rig,
        })
    }

    /// The power switch, with `-o powercut`.
    pub fn rig(&self) -> Option<&Arc<Rig>> {
        self.rig.as_ref().map(|rigged| &rigged.rig)
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<Fs> {
        self.mounted.fs()
    }

    /// What was found and done.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Brings everything home and takes the guard off. With a power switch:
    /// `settling` is called before the image begins to change.
    pub fn close(self, settling: impl FnOnce()) -> Result<(), Failure> {
        let image = self.place.image;
        let closed = self.mounted.close();
        settling();
        // Also after a failure: what is stable and what the host would still
        // write must get to the disks, for a recovery to find it there.
        let settled = self.rig.map_or(Ok(()), |rigged| rigged.rig.settle());
        settled.map_err(|e| {
            Failure::refused(at(
                &image,
                format!("what was done under -o powercut can't be brought to the image: {e}"),
            ))
        })?;
        closed.map_err(|e| Failure::refused(still_lags(&image, &e)))
    }
}

fn still_lags(image: &Path, why: &mount::Error) -> String {
    let image = image.display();
    format!("{image}: the image still lags behind its journal: {why}: journalfs recover {image}")
}

/// Opens both with a power switch under them.
fn open_rigged(place: &Place, options: mount::Options) -> mount::Result<(mount::Opened, Arc<Rig>)> {
    let mut rig = None;
    // Not beside the image: that may be a device.
    let folder = match place.journal.parent() {
        Some(parent) if !place.journal.exists() => parent,
        _ => &place.journal,
    };
    let through = |image: Arc<dyn Disk>, dir: Arc<dyn Dir>| {
        let made = Arc::new(Rig::over(image, dir, folder, options.clone())?);
        rig = Some(made.clone());
        Ok((made.image(), made.folder()))
    };
    let opened =
        mount::open_host_through(&place.image, Some(&place.journal), options.clone(), through)?;
    Ok((opened, rig.expect("opened through a rig")))
}

/// Takes away what a daemon with a power switch left when it was killed; the
/// journal is ours.
fn sweep(place: &Place, wish: &Options) -> Result<(), Failure> {
    if wish.read_only || !place.journal.exists() {
        return Ok(());
    }
    let swept = HostDir::open(&place.journal).and_then(|dir| powercut::sweep(&dir));
    swept.map_err(|e| Failure::refused(at(&place.journal, e)))
}

/// Replays what an image lacks; nothing is changed of one that lacks nothing.
pub fn recover(place: &Place) -> Result<Recovery, Failure> {
    if !place.journal.exists() && stands_alone(place)? {
        return Ok(Recovery {
            verdict: "clean".to_owned(),
            ..Recovery::default()
        });
    }
    let refused = |error: mount::Error| place.refused(&error);
    let history = Archiving::recalled(&place.journal)?;
    let wish = mount::Options {
        history,
        ..options(&Options::default(), b"")
    };
    let opened = mount::open_host(&place.image, Some(&place.journal), wish).map_err(refused)?;
    let recovery = recovery(&opened);
    go_home(place, opened)?;
    Ok(recovery)
}

/// Recovers, and archives as the journal remembers, unless it is a copy whose
/// original has gone on there.
pub fn go_home(place: &Place, mut opened: mount::Opened) -> Result<(), Failure> {
    let refused = |error: mount::Error| place.refused(&error);
    let unnoted = |e| Failure::refused(at(&place.journal, e));
    let known = Archiving::recall(&place.journal).map(|known| known.archive);
    if opened.parts_from_history().map_err(refused)? {
        log::warn!(
            "nothing is archived this time: {}",
            mount::Error::OtherHistory
        );
    }
    let with = known.as_deref().filter(|_| opened.has_history());
    if opened.course() == Course::Recover {
        Archiving::leave(&place.journal, with, opened.end()).map_err(unnoted)?;
    }
    opened.recover().map_err(refused)?;
    with.map_or(Ok(()), |with| Archiving::join(&place.journal, with))
        .map_err(unnoted)
}

fn options(wish: &Options, point: &[u8]) -> mount::Options {
    let usual = mount::Options::default();
    // Eight segments, as the journal cuts its usual size too.
    let segment = wish
        .journal_size
        .map(|size| journal::Options::segment_size(size).clamp(1 << 20, 1 << 30));
    mount::Options {
        fs: fs::Options {
            access: wish.access(),
            atime: wish.atime,
            nodiratime: wish.nodiratime,
            grpid: wish.grpid,
            read_only: wish.read_only,
            resuid: wish.resuid,
            resgid: wish.resgid,
            minixdf: wish.minixdf,
            max_dir_size_kb: wish.max_dir_size_kb,
        },
        point: point.to_vec(),
        segment_size: segment,
        segments: wish
            .journal_size
            .zip(segment)
            .map(|(size, segment)| (size / segment).max(4) as u32),
        cache_size: wish
            .cache_size
            .map_or(usual.cache_size, |size| size as usize),
        discard: wish.discard,
        commit_seconds: wish.commit.unwrap_or(usual.commit_seconds),
        ..usual
    }
}

pub fn recovery(opened: &mount::Opened) -> Recovery {
    let report = opened.report();
    let mut said = Recovery {
        verdict: "clean".to_owned(),
        last: report.last.0,
        durable: report.durable.0,
        home: report.home.0,
        operations: if opened.course() == Course::Recover {
            report.operations
        } else {
            0
        },
        transactions: opened.pending().map_or(0, Pending::transactions),
        dropped: String::new(),
    };
    match &report.verdict {
        Verdict::Torn { first, dropped } if opened.course() == Course::Recover => {
            said.verdict = "torn".to_owned();
            said.dropped = format!(
                "the journal was cut at record {} ({}, {} at {}); {dropped} later frames dropped, none of them synced",
                first.lsn, first.why, first.segment, first.offset
            );
        }
        Verdict::Corrupt(_) => said.verdict = "corrupt".to_owned(),
        _ => {}
    }
    if let Some(bad) = opened
        .lost_end()
        .filter(|_| opened.course() == Course::Recover)
    {
        said.verdict = "missing".to_owned();
        said.dropped = bad.lost();
    }
    said
}

/// Whether stock tools are kept off an image: it lags behind its journal.
pub fn is_guarded(place: &Place) -> Result<bool, Failure> {
    Ok(matches!(standing_of(place)?, Standing::Guarded(_)))
}

/// What an image's superblock says of journals.
pub fn standing_of(place: &Place) -> Result<Standing, Failure> {
    let disk = HostDisk::open(&place.image, Access::Read)
        .map_err(|e| Failure::refused(at(&place.image, e)))?;
    standing(place, &disk)
}

/// Whether an image lacks nothing of any journal.
fn stands_alone(place: &Place) -> Result<bool, Failure> {
    Ok(standing_of(place)? == Standing::Plain)
}

/// The same of an open image.
pub fn standing(place: &Place, disk: &dyn Disk) -> Result<Standing, Failure> {
    let mut raw = [0; SIZE];
    match disk.read_at(&mut raw, OFFSET) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Failure::refused(at(&place.image, "is not an ext4 image")))
        }
        Err(e) => Err(Failure::refused(at(&place.image, e))),
        Ok(()) if raw[0x38..0x3A] != [0x53, 0xEF] => {
            Err(Failure::refused(at(&place.image, "is not an ext4 image")))
        }
        Ok(()) => Ok(guard::standing(&raw)),
    }
}

/// What the journal's folder holds, if there is one; reads only.
pub fn survey(place: &Place) -> Result<Option<Survey>, Failure> {
    let dir = match HostDir::open(&place.journal) {
        Ok(dir) => dir,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::refused(format!("journal: {e}"))),
    };
    Survey::read(Arc::new(dir))
        .map(Some)
        .map_err(|e| Failure::refused(at(&place.journal, e)))
}

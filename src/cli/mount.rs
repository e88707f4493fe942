//! `journalfs mount`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::device::Disk;
use crate::device::host::{Access, HostDisk};
use crate::ext4::Superblock;
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::fs::{Damage, guard};
use crate::fuse::meter::Meter;
use crate::fuse::session;
use crate::fuse::tap::Tap;
use crate::fuse::transport::{self, MountFlag};
use crate::fuse::{Core, MountOptions, Session, point};
use crate::history::Point;

use super::archiving::Archiving;
use super::chosen::Chosen;
use super::control::Control;
use super::open::Opened;
use super::options::{Options, Wish};
use super::place::Place;
use super::power::Power;
use super::runtime::Runtime;
use super::span::Asked;
use super::status::Live;
use super::{Failure, Outcome, at, background, commands, mkfs, size, view};

/// Mounts an image; every change is journaled before it reaches the image.
///
/// Goes into the background once the file system answers, and prints nothing
/// then. Warnings of the daemon go to daemon.log in the journal's folder.
#[derive(clap::Args)]
pub struct Args {
    /// Options, separated by commas: ro, rw, relatime, noatime, strictatime,
    /// commit=SECONDS, sync, dirsync, errors=remount-ro, allow_other,
    /// default_permissions, fakeroot, discard, powercut, threads=N, pinned,
    /// transport=auto|classic|uring, cache_size=SIZE,
    /// journal_size=SIZE, archive=DIR, archive=none, archive_age=AGE,
    /// archive_size=SIZE, nodiratime, grpid, nogrpid, resuid=UID, resgid=GID,
    /// minixdf, bsddf, max_dir_size_kb=N, dev, nodev, suid,
    /// nosuid, exec, noexec; what fstab says to others (noauto, nofail, user,
    /// x-…) and what ext4 calls what is so anyway (acl, data=ordered, …) is
    /// passed over
    #[arg(short = 'o', value_name = "OPT,…", verbatim_doc_comment)]
    options: Vec<String>,
    /// Stay in the foreground, and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// The same as -o ro: nothing is written, a lagging image is replayed in memory
    #[arg(long)]
    read_only: bool,
    /// The journal's folder, instead of IMAGE.journal
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Show the state at a point in time (a record's number, a time, -5m, or a
    /// mark's name), for reading only, beside a mount of the image if there is one
    #[arg(
        long,
        value_name = "POINT",
        allow_hyphen_values = true,
        conflicts_with = "create"
    )]
    at: Option<Point>,
    #[command(flatten)]
    chosen: Chosen,
    /// Make the image first
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    create: Option<u64>,
    #[arg(long, hide = true)]
    in_background: bool,
    /// An ext4 image: a file or a block device
    image: PathBuf,
    /// Where to mount it
    dir: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let options = args.options()?;
    transport::possible().map_err(Failure::system)?;
    match (args.foreground, args.in_background) {
        (true, _) => serve(args, &options, || Ok(())),
        (false, false) => background::start(),
        (false, true) => Ok(in_background(args, &options)),
    }
}

/// The daemon: what goes wrong before it is ready is told to the process that
/// waits for it, later errors go to the log.
fn in_background(args: &Args, options: &Options) -> u8 {
    background::enter();
    let mut ready = false;
    let outcome = serve(args, options, || {
        ready = true;
        let log = match options.read_only {
            true => PathBuf::from("/dev/null"), // beside the journal nothing is written either
            false => Place::find(&args.image, args.journal.as_deref())?
                .journal
                .join("daemon.log"),
        };
        background::tell_ready(&log).map_err(Failure::system)
    });
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            match ready {
                true => log::error!("{}", failure.line),
                false => background::tell_failure(&failure),
            }
            failure.code
        }
    }
}

impl Args {
    /// What can't be read is told by whoever opens the image, or mended by the
    /// journal.
    fn asked_by_image(&self) -> Result<Options, Failure> {
        let mut raw = [0; SIZE];
        let mut read = || HostDisk::open(&self.image, Access::Read)?.read_at(&mut raw, OFFSET);
        match self.at.is_none() && self.create.is_none() && read().is_ok() {
            true if Superblock::decode(&guard::take_off(&raw)).is_ok() => Options::of_image(&raw),
            _ => Ok(Options::default()),
        }
    }

    fn options(&self) -> Result<Options, Failure> {
        let given = self.options.iter().map(String::as_str);
        let mut options = self.asked_by_image()?.and(given)?;
        options.read_only |= self.read_only || self.at.is_some();
        if self.at.is_none() && self.chosen.is_any() {
            return Err(Failure::usage(
                "--archive and --timeline are for a look back: give it a point with --at, or archive with -o archive=DIR",
            ));
        }
        if options.powercut && options.read_only {
            return Err(Failure::usage(
                "-o powercut: nothing can be lost of a read-only mount: drop one of both",
            ));
        }
        if options.powercut && matches!(options.archive, Wish::To(_)) {
            return Err(Failure::usage(
                "-o powercut archives nothing: drop one of both",
            ));
        }
        if self.create.is_some() && options.read_only {
            return Err(Failure::usage(
                "--create: an image made to be mounted read-only would stay empty: drop one of both",
            ));
        }
        Ok(options)
    }
}

/// Mounts, serves until unmounted, and closes the image.
fn serve(args: &Args, options: &Options, ready: impl FnOnce() -> Result<(), Failure>) -> Outcome {
    // Before any thread, so that signals come to the one that waits for them.
    session::block_signals().map_err(Failure::system)?;
    let point = point::prepare(&args.dir).map_err(|e| Failure::refused(unusable(&e)))?;
    if let Some(at) = &args.at {
        let asked = Asked {
            target: args.image.clone(),
            journal: args.journal.clone(),
            chosen: args.chosen.clone(),
        };
        return view::serve(&asked, at, &point, options, ready);
    }
    if let Some(size) = args.create {
        mkfs::create(&args.image, size)?;
    }
    let place = Place::find(&args.image, args.journal.as_deref())?;
    let archive = match &options.archive {
        _ if options.read_only => None,
        Wish::To(dir) => Some(dir.clone()),
        Wish::AsBefore => Archiving::recall(&place.journal).map(|known| known.archive),
        Wish::Nowhere => None,
    };
    place.must_be_outside(&point, archive.as_deref())?;
    place.must_be_text(&point)?;
    let opened = Opened::open(&place, options, point.as_os_str().as_encoded_bytes())?;
    let runtime = runtime(&place, &point, options, &opened);
    let power = match opened.rig() {
        Some(rig) => Some(Power::on(rig.clone(), opened.fs().clone()).map_err(Failure::system)?),
        None => None,
    };
    let core = core(&place, &point, options, &opened, power.clone());
    let session = match Session::mount(core, &point, &mount_options(place.image.clone(), options)) {
        Ok(session) => session,
        Err(error) => {
            opened.close(|| ())?;
            return Err(Failure::refused(error));
        }
    };
    let mut control = None;
    if !options.read_only {
        runtime.write(&place.journal);
        control = listen(&place, &opened, power.clone());
    }
    ready()?;
    let served = session.run();
    drop(control);
    // A cut that has been armed may come while everything is brought home.
    let fs = opened.fs().clone();
    let closed = opened.close(|| power.iter().for_each(|power| power.end()));
    let say = |error| Runtime {
        error,
        ..runtime.clone()
    };
    match &closed {
        Err(failure) => drop(say(Some(failure.line.clone())).write(&place.journal)),
        Ok(()) => match fs.damage().filter(|_| !options.read_only) {
            Some(damage) => say(Some(damaged(&place, &damage))).replace(&place.journal),
            None if power.is_some() => say(None).replace(&place.journal),
            None => {}
        },
    }
    closed?;
    served
        .map(|()| 0)
        .map_err(|e| Failure::refused(at(&point, e)))
}

fn damaged(place: &Place, damage: &Damage) -> String {
    let (image, what) = (place.image.display(), &damage.what);
    format!("{image}: the image is corrupt: {what}: run e2fsck -f on it")
}

fn unusable(error: &point::Error) -> String {
    match error {
        point::Error::Unreachable { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            format!("{error}: make the mountpoint first (mkdir)")
        }
        point::Error::NotDirectory(_) => {
            format!("{error}: a file system is mounted on a directory")
        }
        other => other.to_string(),
    }
}

fn runtime(place: &Place, point: &Path, options: &Options, opened: &Opened) -> Runtime {
    Runtime {
        pid: std::process::id(),
        image: place.image.clone(),
        mountpoint: point.to_owned(),
        read_only: options.read_only,
        recovery: Some(opened.recovery().clone()),
        // No guard will tell of it, and a full host lets nothing be written.
        error: match options.powercut {
            true => Some(format!(
                "{}: what was done under -o powercut is lost: the daemon ended early",
                place.image.display()
            )),
            false => opened.degraded(),
        },
    }
}

/// Without an ear the file system works all the same.
fn listen(place: &Place, opened: &Opened, power: Option<Arc<Power>>) -> Option<Control> {
    let serve = commands::serve(opened.fs().clone(), power.clone());
    match Control::listen(&place.journal, serve) {
        Ok(control) => {
            power
                .iter()
                .for_each(|power| power.is_heard_at(control.path.clone()));
            Some(control)
        }
        Err(error) => {
            log::warn!(
                "{}: no control socket, so mark, cut, unsynced and inject won't work: {error}",
                place.journal.display()
            );
            None
        }
    }
}

fn core(
    place: &Place,
    point: &Path,
    options: &Options,
    opened: &Opened,
    power: Option<Arc<Power>>,
) -> Arc<Core> {
    let fs = opened.fs().clone();
    let (place, point, asked) = (place.clone(), point.to_owned(), options.clone());
    let (told, recovery) = (fs.clone(), opened.recovery().clone());
    let meter = Arc::new(Meter::default());
    let counted = meter.clone();
    let status = move || {
        let live = Live::of(&told, &place, &point, &asked, &recovery);
        live.with_requests(&counted).to_json()
    };
    let tap = power.map(|power| power as Arc<dyn Tap>);
    Core::new(fs, options.sync, Box::new(status), meter, tap)
}

/// What the kernel is told of a mount of `source`.
pub(super) fn mount_options(source: PathBuf, options: &Options) -> MountOptions {
    let mut flags = options.flags.clone();
    if options.sync {
        flags.push(MountFlag::Sync);
    }
    if options.atime == crate::fs::Atime::Noatime {
        flags.push(MountFlag::NoAtime);
    }
    MountOptions {
        source,
        allow_other: options.allow_other,
        default_permissions: options.default_permissions,
        read_only: options.read_only,
        flags,
        threads: options.threads,
        pinned: options.pinned,
        transport: options.transport,
    }
}

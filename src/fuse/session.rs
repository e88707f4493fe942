//! One mount, from its INIT to its end.

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use fuser::{Config, INodeNo, MountOption, Notifier, SessionACL};
use nix::sys::signal::{SigSet, Signal};

use crate::fs::{self, Fs};

use super::adapter::Adapter;
use super::core::Core;
use super::negotiate::Negotiate;
use super::point;
use super::processes::Processes;
use super::reply::node_of;
use super::ring::{self, Rings, Server, Serving};
use super::service::Service;

/// How often freeing that waits is tried again.
const TIDY: Duration = Duration::from_secs(1);

/// How a file system is to be mounted.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// The image's full path: the source in the mount table.
    pub source: PathBuf,
    /// Users other than the one who mounts may enter; the kernel then checks
    /// permissions and ACLs.
    pub allow_other: bool,
    /// The kernel checks permissions.
    pub default_permissions: bool,
    /// No changes.
    pub read_only: bool,
    /// What the kernel itself minds: `noexec`, `suid`, `noatime`, …
    pub flags: Vec<MountFlag>,
    /// Threads that serve requests from /dev/fuse; 0: as many as there are
    /// processors, 2 to 8.
    pub threads: usize,
    /// How requests are to come.
    pub transport: Transport,
}

/// How requests come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over io_uring, if the kernel offers that.
    #[default]
    Auto,
    /// Through /dev/fuse.
    Classic,
    /// Over io_uring, or there is no mount.
    Uring,
}

/// An option that only the kernel minds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as mount(8) has them
pub enum MountFlag {
    Dev,
    NoDev,
    Suid,
    NoSuid,
    Exec,
    NoExec,
    NoAtime,
    Sync,
    DirSync,
}

impl MountFlag {
    fn option(self) -> MountOption {
        match self {
            MountFlag::Dev => MountOption::Dev,
            MountFlag::NoDev => MountOption::NoDev,
            MountFlag::Suid => MountOption::Suid,
            MountFlag::NoSuid => MountOption::NoSuid,
            MountFlag::Exec => MountOption::Exec,
            MountFlag::NoExec => MountOption::NoExec,
            MountFlag::NoAtime => MountOption::NoAtime,
            MountFlag::Sync => MountOption::Sync,
            MountFlag::DirSync => MountOption::DirSync,
        }
    }
}

/// Why a mount did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no FUSE, or this place does not show it.
    #[error(
        "/dev/fuse is missing: load the fuse module (modprobe fuse), or pass the device into the container"
    )]
    NoDevice,
    /// Users usually may; here they may not.
    #[error("/dev/fuse can't be opened ({0}): its mode must let you (root: chmod 666 /dev/fuse)")]
    Closed(io::Error),
    /// An ordinary user needs the helper.
    #[error("fusermount3 is not installed: an ordinary user mounts through it (package fuse3)")]
    NoHelper,
    /// `/etc/fuse.conf` does not let users do this.
    #[error("allow_other needs the line user_allow_other in /etc/fuse.conf, or root")]
    AllowOther,
    /// It was asked for, and can't be.
    #[error("-o transport=uring: {0}: leave the option out for /dev/fuse")]
    NoRing(io::Error),
    /// The kernel or fusermount3 refused.
    #[error("{} can't be mounted on: {why}", point.display())]
    Refused {
        /// The mountpoint.
        point: PathBuf,
        /// Their words.
        why: String,
    },
}

/// Whether mounting can work at all, asked before an image is touched.
pub fn possible() -> Result<(), Error> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::NoDevice,
        _ => Error::Closed(e),
    })?;
    if !nix::unistd::geteuid().is_root() && !point::has_fusermount() {
        return Err(Error::NoHelper);
    }
    Ok(())
}

/// A mounted file system; it answers once [`Session::run`] is called.
pub struct Session {
    inner: fuser::Session<Adapter<Core>>,
    rings: Option<Serving>,
    fs: Arc<Fs>,
    point: PathBuf,
    /// Kept while the mount is served.
    notifier: Arc<Notifier>,
}

impl Session {
    /// Mounts a core. `point` is a full path to a directory.
    pub fn mount(core: Arc<Core>, point: &Path, options: &MountOptions) -> Result<Session, Error> {
        let me = nix::unistd::geteuid();
        // Without allow_other nobody but the mounting user gets in, and root
        // may list any directory; a kernel that checks by itself need not ask.
        let kernel_checks = options.allow_other || options.default_permissions;
        let negotiate = Negotiate {
            kernel_acls: options.allow_other,
            no_opendir: kernel_checks || me.is_root(),
            longest_write: core.fs().longest_write(),
            over_rings: false,
        };
        let fs = core.fs().clone();
        let processes = Arc::new(Processes::default());
        let programs = processes.clone();
        fs.journal()
            .set_programs(Box::new(move |process| programs.program(process)));
        let mounted = core.clone();
        let (inner, rings) = connect(core, processes, negotiate, point, options)?;
        mounted.meter().set_transport(match &rings {
            Some(rings) => format!("io_uring, {} rings of {}", rings.len(), ring::DEPTH),
            None => format!("/dev/fuse, {} threads", threads(options)),
        });
        let notifier = Arc::new(inner.notifier());
        forget_modes_of_stripped(&fs, &notifier);
        Ok(Session {
            inner,
            rings,
            fs,
            point: point.to_owned(),
            notifier,
        })
    }

    /// Serves until it is unmounted, by whomever: `umount`, or a SIGTERM or
    /// SIGINT to this process, which unmounts and lets running programs end.
    pub fn run(self) -> io::Result<()> {
        let Session {
            inner,
            rings,
            fs,
            point,
            notifier,
        } = self;
        let mount = point::find(&point);
        unmount_on_signals(point.clone())?;
        let (ended, end) = mpsc::channel();
        let tidying = thread::Builder::new()
            .name("tidy".to_owned())
            .spawn(move || tidy(&fs, &end))?;
        let served = serve(inner);
        // Whatever still waits for an answer is answered first.
        rings.into_iter().for_each(Serving::join);
        drop((ended, notifier));
        let _ = tidying.join();
        // Not if it ended by being unmounted, as it should.
        if mount.is_some() && point::find(&point) == mount {
            let _ = point::unmount(&point, true);
        }
        served
    }
}

/// Mounts, over io_uring if that is wanted and can be had.
fn connect<S: Service>(
    service: Arc<S>,
    processes: Arc<Processes>,
    mut negotiate: Negotiate,
    point: &Path,
    options: &MountOptions,
) -> Result<(fuser::Session<Adapter<S>>, Option<Serving>), Error> {
    let prepared = match options.transport {
        Transport::Classic => None,
        wanted => {
            negotiate.over_rings = true;
            let server = Arc::new(Server {
                service: service.clone(),
                processes: processes.clone(),
                negotiate,
            });
            match Rings::prepare(server) {
                Ok(rings) => Some(rings),
                Err(error) if wanted == Transport::Uring => return Err(Error::NoRing(error)),
                Err(error) => {
                    log::debug!("no transport over io_uring: {error}");
                    negotiate.over_rings = false;
                    None
                }
            }
        }
    };
    let adapter = Adapter::new(service, processes, negotiate);
    let agreed = adapter.over_rings.clone();
    let inner = fuser::Session::new(adapter, point, &config(options))
        .map_err(|e| refused(point, options, &e))?;
    let started = match prepared {
        Some(rings) if agreed.load(Ordering::Acquire) => rings.start(inner.as_fd()),
        _ => return Ok((inner, None)),
    };
    match started {
        Ok(serving) => Ok((inner, Some(serving))),
        Err(error) if options.transport == Transport::Uring => Err(Error::NoRing(error)),
        Err(error) => {
            log::debug!("no transport over io_uring: {error}");
            agreed.store(false, Ordering::Release);
            Ok((inner, None))
        }
    }
}

/// The kernel leaves it to us to take suid and sgid away at a write or
/// fallocate, but goes on believing the mode that it knows, and would run the
/// changed file with them.
fn forget_modes_of_stripped(fs: &Fs, notifier: &Arc<Notifier>) {
    let notifier = Arc::downgrade(notifier);
    fs.tell_when_stripped(Box::new(move |inode| {
        if let Some(notifier) = notifier.upgrade() {
            // (A negative offset: the data stay.)
            let _ = notifier.inval_inode(INodeNo(node_of(inode)), -1, 0);
        }
    }));
}

/// Serves requests until the mount's end. A session of fuser's then unmounts
/// by path also what is unmounted already, and so takes away whatever was
/// mounted there meanwhile: the part of it that does is never dropped.
fn serve<S: Service>(inner: fuser::Session<Adapter<S>>) -> io::Result<()> {
    let session = Box::leak(Box::new(inner.spawn()?));
    let serving = mem::replace(&mut session.guard, thread::spawn(|| Ok(())));
    serving.join().unwrap_or_else(|_| {
        Err(io::Error::other(
            "a thread that serves requests has panicked",
        ))
    })
}

/// Goes on with the freeing of large files that found the journal full, until
/// the mount ends.
fn tidy(fs: &Fs, end: &mpsc::Receiver<()>) {
    while end.recv_timeout(TIDY) == Err(mpsc::RecvTimeoutError::Timeout) {
        match fs.noting(fs.tidy()) {
            Ok(()) | Err(fs::Error::Full) => {}
            Err(error) => log::debug!("freeing what was removed: {error}"),
        }
    }
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    // Root's mount(2) takes the name as it is; fusermount3 splits at commas.
    let name = match nix::unistd::geteuid().is_root() {
        true => options.source.to_string_lossy().into_owned(),
        false => point::escape_commas(&options.source),
    };
    let mut mount = vec![
        MountOption::FSName(name), // Not Subtype: fuser leaves that out where it calls mount(2) itself.
        MountOption::CUSTOM("subtype=journalfs".to_owned()),
    ];
    mount.push(if options.read_only {
        MountOption::RO
    } else {
        MountOption::RW
    });
    if options.default_permissions || options.allow_other {
        mount.push(MountOption::DefaultPermissions);
    }
    mount.extend(options.flags.iter().map(|flag| flag.option()));
    config.mount_options = mount;
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let threads = threads(options);
    config.n_threads = Some(threads);
    config.clone_fd = threads > 1;
    config
}

fn threads(options: &MountOptions) -> usize {
    match options.threads {
        0 => thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)),
        n => n,
    }
}

fn refused(point: &Path, options: &MountOptions, error: &io::Error) -> Error {
    let words = error.to_string();
    if options.allow_other && words.contains("user_allow_other") {
        return Error::AllowOther;
    }
    let why = words
        .trim()
        .trim_start_matches("fusermount3: ")
        .replace('\n', "; ");
    Error::Refused {
        point: point.to_owned(),
        why,
    }
}

/// Blocks the two signals in this thread and all that it starts from now on.
/// Called before any thread exists, so that no thread dies of them.
pub fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.add(Signal::SIGHUP);
    set
}

/// The first signal unmounts; while programs hold files open the mount only
/// leaves the tree, and ends with the last of them. A second signal cuts them
/// off.
fn unmount_on_signals(point: PathBuf) -> io::Result<()> {
    let wait = move || {
        for round in 0.. {
            let Ok(signal) = signals().wait() else { return };
            log::info!("{}: unmounting on {signal}", point.display());
            let done = match round {
                0 => point::unmount(&point, false).or_else(|_| point::unmount(&point, true)),
                _ => abort(&point),
            };
            if let Err(error) = done {
                log::warn!("{error}");
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)?;
    Ok(())
}

fn abort(point: &Path) -> Result<(), point::Error> {
    match nix::mount::umount2(point, nix::mount::MntFlags::MNT_FORCE) {
        Ok(()) => Ok(()),
        Err(_) => point::unmount(point, true),
    }
}

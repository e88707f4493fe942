//! A mount and what its requests come through: rings of io_uring where the
//! kernel offers them, else /dev/fuse.

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use fuser::{Config, MountOption, Notifier, SessionACL};

use super::adapter::Adapter;
use super::negotiate::Negotiate;
use super::point;
use super::processes::Processes;
use super::ring::{self, Rings, Server, Serving};
use super::service::Service;

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
    /// Each of those threads keeps to a processor of its own.
    pub pinned: bool,
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

/// A mounted service; it answers once [`Mounted::run`] is called.
pub struct Mounted<S: Service> {
    inner: fuser::Session<Adapter<S>>,
    rings: Option<Serving>,
    threads: usize,
    pinned: bool,
}

impl<S: Service> Mounted<S> {
    /// Mounts. `point` is a full path to a directory; a write of at most
    /// `longest_write` bytes is one request.
    pub fn new(
        service: Arc<S>,
        processes: Arc<Processes>,
        longest_write: usize,
        point: &Path,
        options: &MountOptions,
    ) -> Result<Self, Error> {
        let mut negotiate = Negotiate {
            kernel_acls: options.allow_other,
            longest_write,
            over_rings: options.transport != Transport::Classic,
        };
        let server = Server {
            service: service.clone(),
            processes: processes.clone(),
            negotiate,
        };
        let prepared = match negotiate.over_rings {
            true => options.unless_wanted(Rings::prepare(server))?,
            false => None,
        };
        negotiate.over_rings = prepared.is_some();
        let adapter = Adapter::new(service, processes, negotiate, options.pinned);
        let agreed = adapter.over_rings.clone();
        let inner = fuser::Session::new(adapter, point, &config(options))
            .map_err(|e| refused(point, options, &e))?;
        let started = prepared.map(|rings| match agreed.load(Ordering::Acquire) {
            true => rings.start(inner.as_fd()),
            false => Err(io::Error::other("the kernel did not agree to it")),
        });
        let rings = match started {
            Some(started) => options.unless_wanted(started)?,
            None => None,
        };
        agreed.store(rings.is_some(), Ordering::Release);
        Ok(Mounted {
            inner,
            rings,
            threads: threads(options),
            pinned: options.pinned,
        })
    }

    /// What requests come through, in words for people.
    pub fn transport(&self) -> String {
        match &self.rings {
            Some(rings) => format!("io_uring, {} rings of {}", rings.len(), ring::DEPTH),
            None if self.pinned => format!("/dev/fuse, {} pinned threads", self.threads),
            None => format!("/dev/fuse, {} threads", self.threads),
        }
    }

    /// Tells the kernel what it must forget.
    pub fn notifier(&self) -> Notifier {
        self.inner.notifier()
    }

    /// Serves requests until the mount's end. A session of fuser's then
    /// unmounts by path also what is unmounted already, and so takes away
    /// whatever was mounted there meanwhile: the part of it that does is never
    /// dropped.
    pub fn run(self) -> io::Result<()> {
        let session = Box::leak(Box::new(self.inner.spawn()?));
        let serving = mem::replace(&mut session.guard, thread::spawn(|| Ok(())));
        let served = serving.join().unwrap_or_else(|_| {
            Err(io::Error::other(
                "a thread that serves requests has panicked",
            ))
        });
        // Whatever still waits for an answer is answered first.
        self.rings.into_iter().for_each(Serving::join);
        match served {
            // To the thread that was being handed a request as the mount ended;
            // the others hear ENODEV, and fuser takes only that for the end.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            served => served,
        }
    }
}

impl MountOptions {
    /// Goes on without rings, unless they alone are wanted.
    fn unless_wanted<T>(&self, made: io::Result<T>) -> Result<Option<T>, Error> {
        match made {
            Ok(made) => Ok(Some(made)),
            Err(error) if self.transport == Transport::Uring => Err(Error::NoRing(error)),
            Err(error) => {
                log::debug!("no transport over io_uring: {error}");
                Ok(None)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Attr, Caller, Error as FsError, Kind};
    use crate::fuse::request::{Answer, Reply, Request};
    use crate::fuse::service::{Entry, Patience, Work};
    use crate::units::{InodeNo, Time};

    /// A root directory with nothing in it.
    struct Empty;

    impl Service for Empty {
        fn serve<A>(
            self: &Arc<Self>,
            by: Caller,
            request: Request<'_>,
            answer: A,
            _: Option<&dyn Fn(Work)>,
        ) where
            A: FnOnce(Answer) + Send + 'static,
        {
            let epoch = Time { secs: 0, nanos: 0 };
            answer(match request {
                Request::GetAttr { inode } => Ok(Reply::Attr(Attr {
                    inode,
                    generation: 0,
                    kind: Kind::Directory,
                    perm: 0o750,
                    links: 2,
                    uid: by.uid,
                    gid: by.gid,
                    rdev: 0,
                    size: 0,
                    blocks: 0,
                    atime: epoch,
                    mtime: epoch,
                    ctime: epoch,
                    crtime: epoch,
                    flags: 0,
                })),
                Request::Access { .. } => Ok(Reply::Done),
                _ => Err(FsError::Unsupported),
            });
        }

        fn read(
            &self,
            _: InodeNo,
            _: u64,
            _: Patience,
            _: &mut [u8],
        ) -> crate::fs::Result<Option<usize>> {
            Err(FsError::Unsupported)
        }

        fn list(
            &self,
            _: &Caller,
            _: InodeNo,
            _: u64,
            _: bool,
            _: Patience,
            _: &mut dyn FnMut(Entry<'_>) -> bool,
        ) -> crate::fs::Result<bool> {
            Ok(true)
        }
    }

    fn mount(point: &Path, transport: Transport) -> Result<Mounted<Empty>, Error> {
        let options = MountOptions {
            source: "empty".into(),
            transport,
            ..MountOptions::default()
        };
        let processes = Arc::new(Processes::default());
        Mounted::new(Arc::new(Empty), processes, 4096, point, &options)
    }

    /// Asks it for an answer, and unmounts it.
    fn assert_serves(mounted: Mounted<Empty>, point: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let serving = thread::spawn(move || mounted.run());
        let mode = std::fs::metadata(point).map(|meta| meta.permissions().mode());
        point::unmount(point, true).unwrap();
        serving.join().unwrap().unwrap();
        assert_eq!(mode.unwrap() & 0o777, 0o750);
    }

    #[test]
    fn a_registration_that_fails_half_way_leaves_dev_fuse() {
        if let Err(why) = possible() {
            return eprintln!("skipped: {why}");
        }
        if let Err(why) = ring::offered().and(io_uring::IoUring::new(2).map(drop)) {
            return eprintln!("skipped: {why}");
        }
        let folder = tempfile::tempdir().unwrap();
        let point = folder.path();

        let mounted = mount(point, Transport::Uring).unwrap();
        assert!(mounted.rings.is_some());
        assert_serves(mounted, point);

        let last = super::super::processor::possible().unwrap() - 1;
        for spoiled in [0, last] {
            ring::SPOILED.store(spoiled, Ordering::SeqCst);
            let mounted = mount(point, Transport::Auto).unwrap();
            assert!(mounted.rings.is_none());
            assert_serves(mounted, point);

            let refused = mount(point, Transport::Uring).err().unwrap();
            assert!(matches!(refused, Error::NoRing(_)), "{refused}");
            assert_eq!(point::find(point).map(|mount| mount.point), None);
        }
        ring::SPOILED.store(usize::MAX, Ordering::SeqCst);
    }
}

//! One mount, from its INIT to its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use nix::sys::signal::{SigSet, Signal};

use crate::fs::{self, Fs};

use super::core::Core;
use super::point;
use super::processes::Processes;
use super::reply::node_of;
use super::service::Work;
use super::transport::{Error, MountOptions, Mounted};

/// How often freeing that waits is tried again.
const TIDY: Duration = Duration::from_secs(1);

/// In KiB: several of the largest requests, so that one is on its way while
/// another is answered.
const READ_AHEAD: u32 = 4096;

/// A mounted file system; it answers once [`Session::run`] is called.
pub struct Session {
    mounted: Mounted<Core>,
    core: Arc<Core>,
    point: PathBuf,
    /// Kept while the mount is served.
    notifier: Arc<Notifier>,
}

impl Session {
    /// Mounts a core. `point` is a full path to a directory.
    pub fn mount(core: Arc<Core>, point: &Path, options: &MountOptions) -> Result<Session, Error> {
        let fs = core.fs().clone();
        let processes = Arc::new(Processes::default());
        let programs = processes.clone();
        fs.journal()
            .set_programs(Box::new(move |process| programs.program(process)));
        let longest = fs.longest_write();
        let mounted = Mounted::new(core.clone(), processes, longest, point, options)?;
        core.meter().set_transport(mounted.transport());
        let notifier = Arc::new(mounted.notifier());
        forget_attributes_of_changed(&fs, &notifier);
        Ok(Session {
            mounted,
            core,
            point: point.to_owned(),
            notifier,
        })
    }

    /// Serves until it is unmounted, by whomever: `umount`, or a SIGTERM or
    /// SIGINT to this process, which unmounts and lets running programs end.
    pub fn run(self) -> io::Result<()> {
        let Session {
            mounted,
            core,
            point,
            notifier,
        } = self;
        let fs = core.fs().clone();
        let mount = point::find(&point);
        if let Some(Err(error)) = mount.as_ref().map(|mount| mount.read_ahead(READ_AHEAD)) {
            log::debug!("reading ahead as ever: {error}");
        }
        unmount_on_signals(point.clone())?;
        let (patient, retries) = mpsc::channel();
        core.set_patient(Some(patient));
        let tidying = thread::Builder::new()
            .name("tidy".to_owned())
            .spawn(move || tidy(&fs, &retries))?;
        let served = mounted.run();
        core.set_patient(None);
        drop(notifier);
        let _ = tidying.join();
        // Not if it ended by being unmounted, as it should.
        if mount.is_some() && point::find(&point) == mount {
            let _ = point::unmount(&point, true);
        }
        served
    }
}

/// The kernel leaves it to us to take suid and sgid away at a write or
/// fallocate, but goes on believing the mode that it knows, and would run the
/// changed file with them; and chattr(1) changes a time that it has.
fn forget_attributes_of_changed(fs: &Fs, notifier: &Arc<Notifier>) {
    let notifier = Arc::downgrade(notifier);
    fs.tell_when_changed(Box::new(move |inode| {
        if let Some(notifier) = notifier.upgrade() {
            // (A negative offset: the data stay.)
            let _ = notifier.inval_inode(INodeNo(node_of(inode)), -1, 0);
        }
    }));
}

/// Goes on with the freeing of large files that found the journal full, and does
/// requests again that found no space, until the mount ends.
fn tidy(fs: &Fs, retries: &mpsc::Receiver<(Duration, Work)>) {
    let mut waiting: Vec<(Instant, Work)> = Vec::new();
    loop {
        let first = waiting.iter().map(|(due, _)| *due).min();
        let patience = first.map(|due| due.saturating_duration_since(Instant::now()));
        match retries.recv_timeout(patience.unwrap_or(TIDY)) {
            Ok((moment, retry)) => {
                waiting.push((Instant::now() + moment, retry));
                if first.is_none_or(|due| due > Instant::now()) {
                    continue;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return waiting.into_iter().for_each(|(_, retry)| retry());
            }
        }
        match fs.noting(fs.tidy()) {
            Ok(()) | Err(fs::Error::Full) => {}
            Err(error) => log::debug!("freeing what was removed: {error}"),
        }
        let now = Instant::now();
        for (_, retry) in waiting.extract_if(.., |(due, _)| *due <= now) {
            retry();
        }
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

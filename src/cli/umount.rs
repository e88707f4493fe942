//! `journalfs umount`: takes the mount away and waits until the image is an
//! ordinary ext4 file system again. (umount(2) alone returns before that.)

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::fs::mount::journal_folder;
use crate::fuse::point::{self, Mount};

use super::place::{self, Place};
use super::progress::Progress;
use super::runtime::Runtime;
use super::status::Live;
use super::view;
use super::{Failure, Outcome, at};

/// Unmounts, and waits until the image is clean and the daemon has gone.
///
/// Exit codes: 0, 1 nothing is mounted there, 32 it is still mounted, or it is
/// not but the image lags behind its journal (as after journalfs cut, or when the
/// daemon died): journalfs recover makes it whole.
#[derive(clap::Args)]
pub struct Args {
    /// The mountpoint.
    dir: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let dir = point::absolute(&args.dir).map_err(|e| Failure::refused(at(&args.dir, e)))?;
    let mount = ours(&dir)?;
    let image = PathBuf::from(&mount.source);
    // Asked while it can still answer; root may not ask a user's mount.
    let live = Live::ask(&dir);
    let daemon = live.as_ref().and_then(|live| handle_on(live.pid));
    let dead = point::is_dead(&dir);
    unmount(&dir, dead).map_err(|e| Failure::refused(advice(&e)))?;
    // A look at the past leaves nothing behind.
    if live.as_ref().is_some_and(|live| live.past.is_some()) {
        wait_for_end(daemon.as_ref());
        return Ok(0);
    }
    if view::is_view(&mount.source) {
        return Ok(0);
    }
    if dead {
        return Err(Failure::refused(at(
            &dir,
            format!(
                "the daemon had died; the mount is gone, the image is not yet whole: journalfs recover {}",
                image.display()
            ),
        )));
    }
    let journal = live.as_ref().map(|live| live.journal.clone());
    let journal_at = journal.clone().unwrap_or_else(|| journal_folder(&image));
    let progress = Progress::of("bringing everything home");
    place::wait_until_free(&image, &journal_at)
        .map_err(|e| Failure::refused(at(&image, format!("can't be waited for: {e}"))))?;
    wait_for_end(daemon.as_ref());
    drop(progress);
    // It has written nothing, so that a lagging image still lags.
    if mount.read_only && live.as_ref().is_none_or(|live| live.read_only) {
        return Ok(0);
    }
    succeeded(&Place::find(&image, journal.as_deref())?, live.as_ref())
}

/// Whoever only looks (df, a file manager) keeps a mount busy for an instant:
/// busy is believed after half a second.
fn unmount(dir: &Path, dead: bool) -> Result<(), point::Error> {
    for _ in 0..10 {
        match point::unmount(dir, dead) {
            Err(point::Error::Busy(_)) => thread::sleep(Duration::from_millis(50)),
            other => return other,
        }
    }
    point::unmount(dir, dead)
}

fn ours(dir: &Path) -> Result<Mount, Failure> {
    match point::find(dir) {
        Some(mount) if mount.kind == point::FS_TYPE => Ok(mount),
        Some(mount) => Err(Failure::usage(at(
            dir,
            format!(
                "is a mount of type {}, not of journalfs: umount it",
                mount.kind
            ),
        ))),
        None => Err(Failure::usage(at(
            dir,
            "is not a mountpoint: nothing to unmount",
        ))),
    }
}

fn advice(error: &point::Error) -> String {
    match error {
        point::Error::Busy(_) => format!("{error}: close it (fuser -vm shows which) and try again"),
        other => other.to_string(),
    }
}

/// So long a process that has given up its lock may take to end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 3,
    tv_nsec: 0,
};

/// A handle on the daemon's process, taken while it still runs, so that its
/// number can't come to mean another; `None` where the number says nothing to
/// us (another namespace of processes).
fn handle_on(pid: u32) -> Option<OwnedFd> {
    let number = Pid::from_raw(pid.try_into().ok()?)?;
    let daemon = pidfd_open(number, PidfdFlags::empty()).ok()?;
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = exe.file_name()?.as_encoded_bytes();
    name.starts_with(b"journalfs").then_some(daemon)
}

/// The lock has been released; the process ends in its own time, and holds
/// its host (and room there: segments that are removed, what a power switch
/// keeps aside) until it has closed everything. That is after it has lost its
/// memory and with it `/proc/PID/exe`: only the handle tells.
fn wait_for_end(daemon: Option<&OwnedFd>) {
    if let Some(daemon) = daemon {
        let mut ended = [PollFd::new(daemon, PollFlags::IN)];
        let _ = retry_on_intr(|| poll(&mut ended, Some(&PATIENCE)));
    }
}

/// A guarded image means that the daemon could not finish: says why. (With a
/// power switch the image may be what it was before, without a guard.)
fn succeeded(place: &Place, live: Option<&Live>) -> Outcome {
    let guarded = super::open::is_guarded(place)?;
    let told = Runtime::read(&place.journal)
        .filter(|told| live.map_or(guarded, |live| live.pid == told.pid))
        .and_then(|told| told.error);
    match (guarded, told) {
        (false, None) => Ok(0),
        (_, Some(why)) => Err(Failure::refused(format!("unmounted, but {why}"))),
        (true, None) => Err(Failure::refused(at(
            &place.image,
            format!(
                "unmounted, but the image still lags behind its journal: \
                 the daemon could not bring everything home: journalfs recover {}",
                place.image.display()
            ),
        ))),
    }
}

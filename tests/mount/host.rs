//! A host whose power can be cut: XFS or ext4 in a sparse file, loop-mounted.
//!
//! `xfs_io -x -c shutdown` makes the kernel forget whatever the file system
//! had not yet sent to its disk, its own log included, and refuse everything
//! from then on; it works on both. Mounted again, the file system recovers as
//! it would after a power cut. (What it had sent but not flushed is kept: a
//! loop device has no cache of its own that could be lost.)

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::images::path_with_sbin;
use crate::support::kernel;

/// Which file system the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Xfs,
    Ext4,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Xfs => "xfs",
            Kind::Ext4 => "ext4",
        }
    }
}

/// The host's file system, mounted or not; dropped, nothing of it is left.
pub struct Host {
    kind: Kind,
    folder: tempfile::TempDir,
}

impl Host {
    /// Whether such hosts can be had here; if not, says why.
    pub fn allowed(kind: Kind) -> bool {
        let tools = ["xfs_io".to_owned(), format!("mkfs.{}", kind.name())];
        let missing = tools.iter().find(|tool| run(tool, &["-V"]).is_err());
        if let Some(tool) = missing {
            eprintln!("skipped: no {tool} (scripts/setup host)");
        }
        missing.is_none() && kernel::allowed()
    }

    /// Made and mounted.
    pub fn new(kind: Kind) -> Host {
        let folder = tempfile::Builder::new()
            .prefix("journalfs-host-")
            .tempdir()
            .unwrap();
        let host = Host { kind, folder };
        let store = File::create(host.store()).unwrap();
        store.set_len(512 << 20).unwrap();
        let mkfs = format!("mkfs.{}", kind.name());
        run(&mkfs, &["-q", host.store().to_str().unwrap()]).unwrap();
        fs::create_dir(host.path()).unwrap();
        host.power_up();
        host
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    /// The power fails, now.
    #[track_caller]
    pub fn cut(&self) {
        let point = self.path();
        run("xfs_io", &["-x", "-c", "shutdown", point.to_str().unwrap()]).unwrap();
    }

    /// Everything in its cache goes to its disk.
    pub fn sync(&self) {
        let folder = File::open(self.path()).unwrap();
        nix::unistd::syncfs(folder).unwrap();
    }

    /// Takes away what the cut has left. Busy is not final: a test beside
    /// this one may hold our open files between fork and exec.
    #[track_caller]
    pub fn power_down(&self) {
        let mut words = String::new();
        for _ in 0..50 {
            match run("umount", &[self.path().to_str().unwrap()]) {
                Ok(()) => return,
                Err(e) => words = e,
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{words}");
    }

    /// The power comes back: the host's own recovery runs. (While a test beside
    /// this one has a copy of all mounts, what comes back is what was cut.)
    #[track_caller]
    pub fn power_up(&self) {
        let (store, point) = (self.store(), self.path());
        let (store, point) = (store.to_str().unwrap(), point.to_str().unwrap());
        let mut dead = None;
        for _ in 0..50 {
            run(
                "mount",
                &["-t", self.kind.name(), "-o", "loop", store, point],
            )
            .unwrap();
            match std::fs::read_dir(point).and_then(|names| names.collect::<Result<Vec<_>, _>>()) {
                Ok(_) => return,
                Err(error) => dead = Some(error),
            }
            self.power_down();
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{point} stays dead: {dead:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let point = self.path();
        let point = point.to_str().unwrap();
        if run("umount", &[point]).is_err() {
            // Not mounted, or still in use by what a failed test leaves.
            let _ = run("umount", &["-l", point]);
        }
    }
}

/// Runs a tool; what it complains of if it fails.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let done = Command::new(program)
        .args(args)
        .env("PATH", path_with_sbin())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program} {}: {}{}",
            args.join(" "),
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        )),
    }
}

/// Unmounts what a killed daemon has left.
pub fn clear_dead(point: &Path) {
    let _ = run("umount", &[point.to_str().unwrap()]);
}

//! The second foreign judge: the kernel's ext4 on a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::images::{path_with_sbin, run};

/// A loop mount of an image; dropped, it is gone, loop device included
/// (mount(8) marks it to clear itself).
pub struct Mount {
    point: tempfile::TempDir,
    mounted: bool,
}

impl Mount {
    /// Mounts to look. The loop device is read-only too: nothing reaches the image.
    pub fn read_only(image: &Path) -> Option<Self> {
        Self::with_options(image, "loop,ro")
    }

    /// Mounts to work on it.
    pub fn read_write(image: &Path) -> Option<Self> {
        Self::with_options(image, "loop,rw")
    }

    /// Mounts with these options of mount(8). `None` when this process may
    /// not mount; a refusal by the file system itself fails the test.
    #[track_caller]
    pub fn with_options(image: &Path, options: &str) -> Option<Self> {
        if !allowed() {
            return None;
        }
        match Self::attempt(image, options) {
            Ok(mount) => Some(mount),
            Err(words) => panic!("mount -t ext4 -o {options} {}: {words}", image.display()),
        }
    }

    /// The same, for tests in which the kernel shall refuse: its words.
    pub fn attempt(image: &Path, options: &str) -> Result<Self, String> {
        let point = tempfile::Builder::new()
            .prefix("journalfs-loop-")
            .tempdir()
            .expect("a temporary folder");
        let done = Command::new("mount")
            .args(["-t", "ext4", "-o", options])
            .arg(image)
            .arg(point.path())
            .env("PATH", path_with_sbin())
            .env("LC_ALL", "C")
            .output()
            .expect("mount runs");
        match done.status.success() {
            true => Ok(Mount {
                point,
                mounted: true,
            }),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// A path inside.
    pub fn at(&self, name: &str) -> PathBuf {
        self.point.path().join(name)
    }

    /// The power fails, as far as this mount goes: what has not reached the
    /// image never will. With `flush`, its journal gets there first. `held` is
    /// open until then.
    #[track_caller]
    pub fn cut(self, flush: bool, held: impl Sized) {
        let shutdown = if flush { "shutdown -f" } else { "shutdown" };
        run(Command::new("xfs_io")
            .args(["-x", "-c", shutdown])
            .arg(self.path()));
        drop(held);
        self.unmount();
    }

    /// The loop device.
    pub fn device(&self) -> String {
        run(Command::new("findmnt")
            .args(["-n", "-o", "SOURCE"])
            .arg(self.path()))
        .trim()
        .to_owned()
    }

    /// Unmounts and says so if that fails (dropping keeps silent). Busy is not
    /// final: a test beside this one may be starting a program, which holds all
    /// our open files between fork and exec.
    #[track_caller]
    pub fn unmount(mut self) {
        let mut words = self.umount(&[]);
        for _ in 0..50 {
            if !words.contains("busy") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            words = self.umount(&[]);
        }
        assert!(
            !self.mounted,
            "umount {}: {words}",
            self.point.path().display()
        );
    }

    fn umount(&mut self, options: &[&str]) -> String {
        let done = Command::new("umount")
            .args(options)
            .arg(self.point.path())
            .env("PATH", path_with_sbin())
            .output();
        match done {
            Ok(done) if done.status.success() => {
                self.mounted = false;
                String::new()
            }
            Ok(done) => String::from_utf8_lossy(&done.stderr).into_owned(),
            Err(e) => e.to_string(),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted && !self.umount(&[]).is_empty() {
            self.umount(&["-l"]);
        }
        if self.mounted {
            eprintln!("{} stays mounted", self.point.path().display());
        }
    }
}

/// Whether loop mounts are possible here; if not, says why the test skips.
pub fn allowed() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: loop mounts need root");
        return false;
    }
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: no /dev/loop-control");
        return false;
    }
    true
}

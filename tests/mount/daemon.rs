//! A mount for a test, with its image, its journal and its daemon.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support;

/// The program under test.
pub fn journalfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_journalfs"));
    command
        .env("LC_ALL", "C")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// What a command said, for messages.
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// An image in a temporary folder with a mountpoint beside it. In the end
/// `journalfs recover` and e2fsck look at the image.
pub struct World {
    folder: tempfile::TempDir,
    image: PathBuf,
    pub daemon: Option<Child>,
    /// Why `journalfs recover` must refuse the image in the end: nothing else
    /// may.
    pub beyond_recovery: Option<&'static str>,
}

impl World {
    /// With an image of this size, made by `journalfs mkfs`.
    #[track_caller]
    pub fn new(size: &str) -> World {
        let world = World::empty();
        world.succeeds(&["mkfs", "--size", size, world.image_str()]);
        world
    }

    /// Without an image.
    pub fn empty() -> World {
        let folder = tempfile::Builder::new()
            .prefix("journalfs-mount-")
            .tempdir()
            .unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        World {
            image: folder.path().join("disk.img"),
            folder,
            daemon: None,
            beyond_recovery: None,
        }
    }

    /// With an image, and hence its journal, in another folder.
    #[track_caller]
    pub fn on(host: &Path, size: &str) -> World {
        let mut world = World::empty();
        world.image = host.join("disk.img");
        world.succeeds(&["mkfs", "--size", size, world.image_str()]);
        world
    }

    /// With a copy of another image.
    pub fn with_image(image: &support::images::Image) -> World {
        let world = World::empty();
        let status = Command::new("cp")
            .arg("--sparse=always")
            .args([image.path(), &world.image()])
            .status();
        assert!(status.unwrap().success());
        world
    }

    /// A path in the world's folder, beside the image.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    /// The image.
    pub fn image(&self) -> PathBuf {
        self.image.clone()
    }
    /// The image's path as an argument.
    pub fn image_str(&self) -> &'static str {
        // Leaked: arguments are easier to list as plain strings, and tests are few.
        self.image().display().to_string().leak()
    }
    /// The mountpoint.
    pub fn point(&self) -> PathBuf {
        self.beside("mnt")
    }
    /// The mountpoint's path as an argument.
    pub fn point_str(&self) -> &'static str {
        self.point().display().to_string().leak()
    }
    /// A path on the mount.
    pub fn at(&self, name: &str) -> PathBuf {
        self.point().join(name)
    }
    /// The journal's folder.
    pub fn journal(&self) -> PathBuf {
        journalfs::fs::mount::journal_folder(&self.image)
    }

    /// Runs a command that must succeed; what it printed.
    #[track_caller]
    pub fn succeeds(&self, args: &[&str]) -> String {
        let output = journalfs().args(args).output().unwrap();
        assert!(
            output.status.success(),
            "journalfs {}: {}",
            args.join(" "),
            said(&output)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command that must end with this code, as readers do that find
    /// something damaged; all that it says.
    #[track_caller]
    pub fn tells(&self, code: i32, args: &[&str]) -> String {
        let output = journalfs().args(args).output().unwrap();
        let told = said(&output);
        let ended = output.status.code();
        assert_eq!(ended, Some(code), "journalfs {}: {told}", args.join(" "));
        told
    }

    /// Runs a command that must fail with this code and one line; the line.
    #[track_caller]
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = journalfs().args(args).output().unwrap();
        let text = said(&output);
        assert_eq!(
            output.status.code(),
            Some(code),
            "journalfs {}: {text}",
            args.join(" ")
        );
        assert_eq!(text.lines().count(), 1, "not one line: {text}");
        assert!(text.starts_with("journalfs: "), "{text}");
        text
    }

    /// Mounts in the background, as users do.
    #[track_caller]
    pub fn mount(&self, options: &[&str]) {
        let mut args = vec!["mount"];
        args.extend(options);
        args.extend([self.image_str(), self.point_str()]);
        let printed = self.succeeds(&args);
        assert_eq!(printed, "", "mount prints nothing on success");
        assert!(self.is_mounted());
    }

    /// Mounts in the foreground, with a daemon that the test may kill.
    #[track_caller]
    pub fn mount_to_kill(&mut self, options: &[&str]) {
        self.start(options);
        let patience = Instant::now() + Duration::from_secs(60);
        while !self.is_mounted() {
            let daemon = self.daemon.as_mut().unwrap();
            if let Some(status) = daemon.try_wait().unwrap() {
                panic!("the daemon ended before it mounted: {status}");
            }
            assert!(Instant::now() < patience, "the daemon does not mount");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts a daemon and does not wait for it.
    pub fn start(&mut self, options: &[&str]) {
        let mut command = journalfs();
        command
            .args(["mount", "-f"])
            .args(options)
            .args([self.image_str(), self.point_str()])
            .stderr(self.log());
        self.daemon = Some(command.spawn().unwrap());
    }

    /// Where daemons that a test kills complain: shown if the test fails.
    pub fn log(&self) -> fs::File {
        let mut log = fs::OpenOptions::new();
        log.create(true).append(true);
        log.open(self.beside("daemon.log")).unwrap()
    }

    /// SIGKILL to the daemon.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// The daemon that the test may kill has not ended by itself.
    #[track_caller]
    pub fn assert_runs(&mut self) {
        if let Some(daemon) = &mut self.daemon
            && let Some(status) = daemon.try_wait().unwrap()
        {
            panic!("the daemon has ended by itself: {status}");
        }
    }

    /// Unmounts, and waits for the daemon if it is a child.
    #[track_caller]
    pub fn umount(&mut self) {
        self.take_away();
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.wait().unwrap();
            assert!(status.success(), "the daemon ended with {status}");
        }
        assert!(!self.is_mounted());
    }

    #[track_caller]
    fn take_away(&self) {
        self.unmount_with(journalfs().arg("umount"));
    }

    /// Has a program take the mount away. Busy is not final: a test beside
    /// this one may be starting a program, which holds all our open files
    /// between fork and exec.
    #[track_caller]
    pub fn unmount_with(&self, umount: &mut Command) {
        umount.arg(self.point()).env("LC_ALL", "C");
        for _ in 0..50 {
            let output = umount.output().unwrap();
            match said(&output) {
                words if words.contains("is busy") => thread::sleep(Duration::from_millis(100)),
                words => return assert!(output.status.success(), "{umount:?}: {words}"),
            }
        }
        panic!("{} stays busy", self.point().display());
    }

    /// Unmounts and asks e2fsck.
    #[track_caller]
    pub fn umount_and_judge(&mut self) {
        self.umount();
        support::e2fsck::assert_clean(&self.image());
    }

    /// Takes away what is mounted without a daemon, however often.
    pub fn detach_dead(&self) {
        for _ in 0..3 {
            let detached = Command::new("umount")
                .arg("-l")
                .arg(self.point())
                .stderr(Stdio::null())
                .status();
            if !detached.is_ok_and(|status| status.success()) {
                break;
            }
        }
        let _ = Command::new("fusermount3")
            .arg("-uzq")
            .arg(self.point())
            .stderr(Stdio::null())
            .status();
    }

    /// What was left of the image recovers, and e2fsck finds nothing.
    fn judge(&self) {
        let recover = &["recover", self.image_str()];
        match self.beyond_recovery {
            Some(why) => {
                let line = self.fails(32, recover);
                assert!(line.contains(why), "{line}");
            }
            None => {
                self.succeeds(recover);
                support::e2fsck::assert_clean(&self.image());
            }
        }
    }

    /// Whether a daemon has the image.
    pub fn in_use(&self) -> bool {
        journalfs::fs::mount::Lock::on(&self.image(), true).is_err()
    }

    /// The journal's segments that hold records, by name.
    pub fn stores(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.journal())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut stores: Vec<PathBuf> = names
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                name.ends_with(".store") && !name.starts_with("spare")
            })
            .collect();
        stores.sort();
        stores
    }

    /// All bytes of image and journal (but not what the daemon tells others).
    pub fn bytes(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = vec![(self.image(), fs::read(self.image()).unwrap())];
        let names = fs::read_dir(self.journal())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut names: Vec<PathBuf> = names
            .filter(|path| path.extension().is_some_and(|e| e == "store"))
            .collect();
        names.sort();
        all.extend(
            names
                .into_iter()
                .map(|path| (path.clone(), fs::read(&path).unwrap())),
        );
        all
    }

    /// Whether something living is mounted at the mountpoint.
    pub fn is_mounted(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|about| about.dev());
        match (device(&self.point()), device(self.folder.path())) {
            // A dead mount's root may still answer stat(2) from the cache.
            _ if journalfs::fuse::point::is_dead(&self.point()) => false,
            (Ok(inside), Ok(outside)) => inside != outside,
            _ => false,
        }
    }

    /// Number of the daemon's process, as the mount tells it.
    pub fn pid(&self) -> i32 {
        let status = self.succeeds(&["status", "--json", self.point_str()]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["pid"].as_i64().unwrap() as i32
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = fs::read_to_string(self.beside("daemon.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        self.detach_dead();
        // A daemon in the background ends by itself, and must do so before
        // its files go.
        let patience = Instant::now() + Duration::from_secs(20);
        while self.image().exists() && self.in_use() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(10));
        }
        if self.image().exists() && !thread::panicking() {
            self.judge();
        }
    }
}

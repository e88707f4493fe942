//! Mountpoints: what the host says of them, and taking a mount away.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::statfs;

/// The type under which our mounts appear in the mount table.
pub const FS_TYPE: &str = "fuse.journalfs";

/// Why a mountpoint can't be used, or a mount not be taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is missing, or out of reach.
    #[error("{}: {source}", path.display())]
    Unreachable {
        /// The mountpoint.
        path: PathBuf,
        /// The host's word.
        source: io::Error,
    },
    /// Only a directory can carry a file system.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// A dead mount of something that isn't ours.
    #[error("{} is a dead mount of type {kind}: unmount it first", path.display())]
    Foreign {
        /// The mountpoint.
        path: PathBuf,
        /// Its type in the mount table.
        kind: String,
    },
    /// It is in use.
    #[error("{} is busy: a program has a file open or its working directory there", .0.display())]
    Busy(PathBuf),
    /// The host refused.
    #[error("{} can't be unmounted: {why}", path.display())]
    Refused {
        /// The mountpoint.
        path: PathBuf,
        /// The host's words.
        why: String,
    },
}

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Its type.
    pub kind: String,
    /// What; for ours, the image.
    pub source: OsString,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// `major:minor` of its device; the connection's number is the minor.
    pub device: String,
}

impl Mount {
    /// Has the kernel read files at least so many KiB ahead. FUSE gives it 128,
    /// less than a request may have; only root may say more.
    pub fn read_ahead(&self, kib: u32) -> io::Result<()> {
        let setting = format!("/sys/class/bdi/{}/read_ahead_kb", self.device);
        let now: Option<u32> = fs::read_to_string(&setting)?.trim().parse().ok();
        match now.is_some_and(|now| now < kib) {
            true => fs::write(&setting, kib.to_string()),
            false => Ok(()),
        }
    }
}

/// The topmost mount at exactly this path.
pub fn find(point: &Path) -> Option<Mount> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse)
        .rfind(|mount| mount.point == point)
}

/// All mounts of ours whose source is this image.
pub fn of_image(image: &Path) -> Vec<Mount> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let ours = |mount: &Mount| mount.kind == FS_TYPE && mount.source == image.as_os_str();
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse)
        .filter(ours)
        .collect()
}

/// `36 35 0:50 / /mnt rw,nosuid shared:1 - fuse.journalfs /disk.img rw,user_id=0`
fn parse(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = words.iter().position(|word| *word == b"-")?;
    Some(Mount {
        point: PathBuf::from(unescape(words.get(4)?)),
        kind: String::from_utf8_lossy(words.get(dash + 1)?).into_owned(),
        source: unescape(words.get(dash + 2)?),
        read_only: words
            .get(5)?
            .split(|&byte| byte == b',')
            .any(|word| word == b"ro"),
        device: String::from_utf8_lossy(words.get(2)?).into_owned(),
    })
}

/// The table writes blanks and backslashes as `\040`.
fn unescape(word: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\');
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())
        {
            Some(escaped) => {
                plain.push(escaped);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

/// The path in full, also when the mount there is dead: then its parent is
/// resolved, as the kernel's table has it.
pub fn absolute(point: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(point) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            let point = std::path::absolute(point)?;
            match (point.parent(), point.file_name()) {
                (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
                _ => Ok(point),
            }
        }
        other => other,
    }
}

/// Whether the daemon behind a mount has gone and left the mount. (The kernel
/// may still answer stat(2) from its cache, but not statfs(2). While a daemon
/// is being killed, what it was asked is aborted, or over io_uring canceled.)
pub fn is_dead(point: &Path) -> bool {
    matches!(
        statfs(point),
        Err(Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ECANCELED)
    )
}

/// Makes sure that a file system can be mounted here: our own dead mount is
/// cleared away. Answers the path in full.
pub fn prepare(point: &Path) -> Result<PathBuf, Error> {
    let unreachable = |source| Error::Unreachable {
        path: point.to_owned(),
        source,
    };
    let full = absolute(point).map_err(unreachable)?;
    loop {
        match fs::metadata(&full) {
            _ if is_dead(&full) => clear_dead(&full)?,
            Ok(meta) if meta.is_dir() => return Ok(full),
            Ok(_) => return Err(Error::NotDirectory(full)),
            Err(e) => return Err(unreachable(e)),
        }
    }
}

fn clear_dead(point: &Path) -> Result<(), Error> {
    match find(point) {
        Some(mount) if mount.kind == FS_TYPE => unmount(point, true),
        Some(mount) => Err(Error::Foreign {
            path: point.to_owned(),
            kind: mount.kind,
        }),
        None => Err(Error::Unreachable {
            path: point.to_owned(),
            source: Errno::ENOTCONN.into(),
        }),
    }
}

/// Takes a mount away; a lazy one vanishes at once and ends when its last
/// user leaves. Works for root and, through fusermount3, for its owner.
pub fn unmount(point: &Path, lazy: bool) -> Result<(), Error> {
    let flags = if lazy {
        MntFlags::MNT_DETACH
    } else {
        MntFlags::empty()
    };
    match umount2(point, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(Error::Busy(point.to_owned())),
        Err(Errno::EPERM) => fusermount(point, lazy),
        Err(e) => Err(Error::Refused {
            path: point.to_owned(),
            why: e.desc().to_owned(),
        }),
    }
}

fn fusermount(point: &Path, lazy: bool) -> Result<(), Error> {
    let refused = |why: String| Error::Refused {
        path: point.to_owned(),
        why,
    };
    let done = Command::new("fusermount3")
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(point)
        .output()
        .map_err(|e| refused(format!("fusermount3: {e}")))?;
    let words = String::from_utf8_lossy(&done.stderr);
    match done.status.success() {
        true => Ok(()),
        false if words.contains("busy") => Err(Error::Busy(point.to_owned())),
        false => Err(refused(words.trim().replace('\n', "; "))),
    }
}

/// Whether an ordinary user's mounts have their helper.
pub fn has_fusermount() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/bin", "/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .any(|dir| dir.join("fusermount3").is_file())
}

/// A mount option's value, where fusermount3 splits at commas.
pub fn escape_commas(value: &Path) -> String {
    let text = String::from_utf8_lossy(value.as_os_str().as_bytes());
    text.replace('\\', "\\\\").replace(',', "\\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let line = b"36 35 0:50 / /mnt/a\\040b rw,nosuid shared:1 - fuse.journalfs /disk\\134.img rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert_eq!(mount.kind, FS_TYPE);
        assert_eq!(mount.source, "/disk\\.img");
        assert_eq!((mount.device.as_str(), mount.read_only), ("0:50", false));
        let line = b"36 35 0:50 / /mnt ro,nosuid - fuse.journalfs /disk.img ro,user_id=0";
        assert!(parse(line).unwrap().read_only);
        assert_eq!(parse(b"36 35 0:50 /"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_root_directory_is_mounted() {
        assert!(find(Path::new("/")).is_some());
        assert_eq!(find(Path::new("/no/such")), None);
    }
}

//! On a host: who else may have the image, and where its journal lies.
//!
//! Locks belong to open file descriptions, so they outlive a fork and end
//! with the process, however it ends. The kernel's loop driver knows nothing
//! of them; it is asked through /sys.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::{Error, Opened, Options, Result, io_error, open};
use crate::device::host::{Access, HostDir, HostDisk};
use crate::device::{Dir, Disk};

/// Where an image's journal lies unless another place is named.
pub fn journal_folder(image: &Path) -> PathBuf {
    let mut name: OsString = image.as_os_str().to_owned();
    name.push(".journal");
    name.into()
}

/// [`open`] for files: locks the image and the folder, refuses an image that
/// a loop device has. The folder is made when the journal needs it, and not
/// for an image that is refused.
pub fn open_host(image: &Path, journal: Option<&Path>, options: Options) -> Result<Opened> {
    open_host_through(image, journal, options, |image, folder| Ok((image, folder)))
}

/// The same through something that stands between the file system and the
/// host's disks.
pub fn open_host_through(
    image: &Path,
    journal: Option<&Path>,
    options: Options,
    through: impl FnOnce(Arc<dyn Disk>, Arc<dyn Dir>) -> io::Result<(Arc<dyn Disk>, Arc<dyn Dir>)>,
) -> Result<Opened> {
    let read_only = options.fs.read_only;
    let lock = Lock::on(image, read_only)?;
    refuse_loop_device(image)?;
    let access = if read_only {
        Access::Read
    } else {
        Access::ReadWrite
    };
    let disk: Arc<dyn Disk> = Arc::new(HostDisk::open(image, access).map_err(in_use(image))?);
    let folder = journal.map_or_else(|| journal_folder(image), Path::to_owned);
    let folder = Arc::new(Folder::at(folder, read_only)?);
    let (disk, dir) = through(disk, folder.clone()).map_err(io_error("scratch files"))?;
    let mut opened = open(disk, dir, options)?;
    opened.held.push(Box::new((lock, folder)));
    Ok(opened)
}

/// [`open`] for the copy of an image, which is ours alone, beside a journal
/// that is only read.
pub fn open_host_copy(image: &Path, journal: &Path) -> Result<Opened> {
    let lock = Lock::on(image, false)?;
    refuse_loop_device(image)?;
    let disk = HostDisk::open(image, Access::ReadWrite).map_err(in_use(image))?;
    let folder = Arc::new(Folder::at(journal.to_owned(), true)?);
    let mut options = Options::default();
    options.fs.read_only = true;
    let mut opened = open(Arc::new(disk), folder.clone(), options)?;
    opened.held.push(Box::new((lock, folder)));
    Ok(opened)
}

/// A lock on a file, held while it lives.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Shared by readers, or one writer's alone.
    pub fn on(path: &Path, shared: bool) -> Result<Lock> {
        let file = OpenOptions::new().read(true).write(!shared).open(path);
        let file = file.map_err(io_error(&path.display().to_string()))?;
        Self::take(file, path, shared)
    }

    /// On a file made for the purpose.
    pub fn in_folder(folder: &Path, shared: bool) -> Result<Option<Lock>> {
        let path = folder.join("lock");
        let file = match shared {
            true => OpenOptions::new().read(true).open(&path),
            false => OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path),
        };
        match file {
            Ok(file) => Self::take(file, folder, shared).map(Some),
            // A reader may lack the right to, and then nothing is lost.
            Err(_) if shared => Ok(None),
            Err(e) => Err(io_error(&path.display().to_string())(e)),
        }
    }

    fn take(file: File, path: &Path, shared: bool) -> Result<Lock> {
        let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
        let whole = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(Lock { _file: file }),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(Error::InUse(format!(
                "{} is in use by another journalfs",
                path.display()
            ))),
            Err(e) => Err(io_error(&format!("lock of {}", path.display()))(e.into())),
        }
    }
}

/// The kernel refuses a second owner of a block device.
fn in_use(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.display().to_string();
    move |e| match e.kind() {
        io::ErrorKind::ResourceBusy => {
            Error::InUse(format!("{path} is mounted or otherwise in use"))
        }
        _ => Error::Io {
            what: "the image".into(),
            source: Arc::new(e),
        },
    }
}

/// A file behind a loop device is the kernel's while that exists. A reader
/// refuses too: it would see a state between two writes.
pub fn refuse_loop_device(image: &Path) -> Result<()> {
    let about = std::fs::metadata(image).map_err(io_error(&image.display().to_string()))?;
    if about.file_type().is_block_device() {
        return Ok(());
    }
    let Ok(devices) = std::fs::read_dir("/sys/block") else {
        return Ok(());
    };
    for device in devices.flatten() {
        let Ok(backing) = std::fs::read_to_string(device.path().join("loop/backing_file")) else {
            continue;
        };
        let same = std::fs::metadata(backing.trim_end_matches('\n'))
            .is_ok_and(|other| (other.dev(), other.ino()) == (about.dev(), about.ino()));
        if same {
            let (image, device) = (image.display(), device.file_name());
            let device = device.to_string_lossy();
            return Err(Error::InUse(format!(
                "{image} is in use by /dev/{device}: losetup -d /dev/{device} frees it"
            )));
        }
    }
    Ok(())
}

/// The journal's folder, made when a first file is to be created in it.
struct Folder {
    path: PathBuf,
    made: OnceLock<(HostDir, Option<Lock>)>,
}

impl Folder {
    fn at(path: PathBuf, read_only: bool) -> Result<Folder> {
        let made = OnceLock::new();
        match HostDir::open(&path) {
            Ok(folder) => {
                let lock = Lock::in_folder(&path, read_only)?;
                let _ = made.set((folder, lock));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error("the journal's folder")(e)),
        }
        Ok(Folder { path, made })
    }

    fn folder(&self) -> io::Result<&HostDir> {
        self.made
            .get()
            .map(|(folder, _)| folder)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make(&self) -> io::Result<&HostDir> {
        if self.made.get().is_none() {
            let folder = HostDir::create(&self.path)?;
            let lock = Lock::in_folder(&self.path, false).map_err(io::Error::other)?;
            let _ = self.made.set((folder, lock));
        }
        self.folder()
    }
}

impl Dir for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        self.folder().map_or_else(|_| Ok(Vec::new()), Dir::list)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Dir::open(self.folder()?, name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Dir::create(self.make()?, name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder()?.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder()?.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        Dir::sync(self.make()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::memory::Pages;
    use crate::device::volatile::{self, Snapshot};
    use crate::fs::Caller;
    use crate::fs::mkfs::{MkfsOptions, mkfs};
    use crate::units::InodeNo;

    fn opened(image: &Path) -> Result<Opened> {
        open_host(image, None, Options::default())
    }

    #[test]
    fn a_mount_that_a_full_host_made_read_only_keeps_its_locks() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        let disk: Arc<dyn Disk> = Arc::new(HostDisk::create(&path, 0).unwrap());
        let size = 2 << 20;
        let options = MkfsOptions {
            size,
            ..MkfsOptions::default()
        };
        mkfs(&disk, &options).unwrap();
        let session = opened(&path).unwrap().mount().unwrap();
        let (by, root) = (Caller::default(), InodeNo::ROOT);
        session.fs().create(&by, root, b"a", 0o644, 0).unwrap();
        drop(session);

        let mut again = opened(&path).unwrap();
        let full = volatile::Host::new(Snapshot {
            image: Pages::from_bytes(&std::fs::read(&path).unwrap()),
            ..Snapshot::default()
        });
        full.faults().arm("write@image:enospc".parse().unwrap());
        again.image = full.image();
        let degraded = again.mount().unwrap();
        assert!(degraded.degraded().is_some());
        assert!(matches!(opened(&path), Err(Error::InUse(_))));
        drop(degraded);
        // A child that another test is just starting has them a little longer.
        let free = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            opened(&path).is_ok()
        });
        assert!(free);
    }
}

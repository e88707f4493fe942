//! Where an image and its journal lie on the host, who has them, and why they
//! can't be had.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::device::host::{Access, HostDisk};
use crate::ext4::{Corrupt, Unusable};
use crate::fs::mount::{self, Lock};
use crate::fuse::point;

use super::{Failure, at};

/// Where an image and its journal lie; nothing is open yet.
#[derive(Clone, Debug)]
pub struct Place {
    /// The image's full path.
    pub image: PathBuf,
    /// The journal's folder, which may not exist yet.
    pub journal: PathBuf,
}

impl Place {
    /// Finds both. The image must exist.
    pub fn find(image: &Path, journal: Option<&Path>) -> Result<Place, Failure> {
        let full = fs::canonicalize(image).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failure::refused(at(
                image,
                "no such image: make one with journalfs mkfs, or mount --create SIZE",
            )),
            _ => Failure::refused(at(image, e)),
        })?;
        let kind = fs::metadata(&full)
            .map_err(|e| Failure::refused(at(&full, e)))?
            .file_type();
        if kind.is_dir() {
            return Err(Failure::refused(at(
                image,
                "is a directory: give the image's file",
            )));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Failure::refused(at(
                image,
                "is neither a file nor a block device",
            )));
        }
        let journal = match journal {
            Some(dir) => full_path(dir).map_err(|e| Failure::refused(at(dir, e)))?,
            None => mount::journal_folder(&full),
        };
        Ok(Place {
            image: full,
            journal,
        })
    }

    /// None of them may lie where the mount will cover it: the daemon would wait
    /// for itself.
    pub fn must_be_outside(&self, point: &Path, archive: Option<&Path>) -> Result<(), Failure> {
        let archive = archive.map(|dir| full_path(dir).unwrap_or_else(|_| dir.to_owned()));
        let archive = archive.iter().map(|dir| ("archive", dir));
        let ours = [("image", &self.image), ("journal", &self.journal)];
        for (what, path) in ours.into_iter().chain(archive) {
            if path.starts_with(point) {
                return Err(Failure::refused(format!(
                    "{}: the {what} would lie on the mount itself ({}): keep it elsewhere",
                    path.display(),
                    point.display()
                )));
            }
        }
        Ok(())
    }

    /// The mount table and `status` have names as text, by which others find
    /// a mount again.
    pub fn must_be_text(&self, point: &Path) -> Result<(), Failure> {
        let odd = [self.image.as_path(), &self.journal, point];
        match odd.into_iter().find(|path| path.to_str().is_none()) {
            Some(path) => Err(Failure::refused(at(path, "is not UTF-8: rename it"))),
            None => Ok(()),
        }
    }

    /// Whether the image is a device instead of a file.
    pub fn is_block_device(&self) -> bool {
        fs::metadata(&self.image).is_ok_and(|about| about.file_type().is_block_device())
    }

    /// Opens the image for us alone.
    pub fn seize_image(&self) -> Result<(Lock, HostDisk), Failure> {
        let lock = Lock::on(&self.image, false).map_err(|e| self.refused(&e))?;
        mount::refuse_loop_device(&self.image).map_err(|e| self.refused(&e))?;
        let disk = HostDisk::open(&self.image, Access::ReadWrite).map_err(Failure::refused)?;
        Ok((lock, disk))
    }

    /// Whether a journalfs has the image: tries its lock, and gives it back.
    pub fn is_in_use(&self) -> io::Result<bool> {
        let file = File::open(&self.image)?;
        let mut probe = whole(libc::F_RDLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut probe))?;
        Ok(i32::from(probe.l_type) != libc::F_UNLCK)
    }

    /// Why the image can't be opened, in one line.
    pub fn refused(&self, error: &mount::Error) -> Failure {
        use std::io::ErrorKind;
        let image = self.image.display();
        // Some errors name the file already.
        let error_text = error.to_string();
        let said = error_text.strip_prefix(&format!("{image}: "));
        let said = said.unwrap_or(&error_text);
        let line = match (error, source(error).map(|source| source.kind())) {
            (mount::Error::InUse(why), _) => match point::of_image(&self.image).first() {
                Some(mount) => format!(
                    "{image}: is in use: mounted on {0}: journalfs umount {0}",
                    mount.point.display()
                ),
                None => format!("{why}: unmount it there first"),
            },
            (_, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) => format!(
                "{}: no space for the journal: free some, name another place with --journal DIR, \
                 or make it smaller with -o journal_size=SIZE",
                self.journal.display()
            ),
            (_, Some(ErrorKind::PermissionDenied)) => {
                format!("{image}: {said}: it must be readable and writable")
            }
            (_, Some(ErrorKind::ReadOnlyFilesystem)) => {
                format!("{image}: {said}: only a mount with -o ro writes nothing")
            }
            (mount::Error::Unusable(Unusable::Corrupt(Corrupt::NotExt4 { .. })), _) => {
                format!(
                    "{image}: {error}: make an image with journalfs mkfs (--force overwrites what is there)"
                )
            }
            (mount::Error::Unusable(Unusable::Corrupt(_)), _) => {
                format!("{image}: the image is corrupt: {said}: run e2fsck -f on it first")
            }
            _ => format!("{image}: {said}"),
        };
        Failure::refused(line)
    }
}

/// The host's error behind it, if it is one.
fn source(error: &mount::Error) -> Option<&io::Error> {
    use crate::{journal, log};
    match error {
        mount::Error::Io { source, .. } => Some(source),
        mount::Error::Journal(
            journal::Error::Io { source, .. } | journal::Error::Log(log::Error::Io { source, .. }),
        ) => Some(source),
        _ => None,
    }
}

/// Waits until nobody holds a lock on the image or its journal. Blocks in the
/// kernel.
pub fn wait_until_free(image: &Path, journal: &Path) -> io::Result<()> {
    wait_for_lock(image)?;
    match wait_for_lock(&journal.join("lock")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn wait_for_lock(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    loop {
        match fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole(libc::F_RDLCK))) {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

fn whole(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// A path in full although its last part may not exist yet.
fn full_path(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let path = std::path::absolute(path)?;
            let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
            Ok(fs::canonicalize(path.parent().unwrap_or(Path::new("/")))?.join(name))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let place = Place::find(&image, None).unwrap();
        assert!(!place.is_in_use().unwrap());
        let held = place.seize_image().unwrap();
        assert!(place.is_in_use().unwrap());
        let refused = place.seize_image().err().unwrap();
        assert!(refused.line.contains("is in use"), "{}", refused.line);
        drop(held);
        assert!(!place.is_in_use().unwrap());
    }

    #[test]
    fn a_journal_may_not_lie_below_the_mountpoint() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap();
        let place = Place::find(&image, Some(&dir.path().join("mnt/journal"))).err();
        assert!(place.is_some(), "its parent is missing");
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let place = Place::find(&image, Some(&dir.path().join("mnt/journal"))).unwrap();
        let point = fs::canonicalize(dir.path().join("mnt")).unwrap();
        assert!(place.must_be_outside(&point, None).is_err());
        let elsewhere = Path::new("/elsewhere");
        assert!(place.must_be_outside(elsewhere, None).is_ok());
        let archive = dir.path().join("mnt/archive");
        let place = Place::find(&image, None).unwrap();
        assert!(place.must_be_outside(&point, Some(&archive)).is_err());
        assert!(place.must_be_outside(elsewhere, Some(&archive)).is_ok());
    }
}

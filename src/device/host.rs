//! Disks and folders of the host.
//!
//! Everything is plain positioned I/O on one file descriptor; a file's
//! errors name it. Locks are not taken here: [`HostDisk::file`] and
//! [`HostDir::file`] lend the descriptor to whoever takes them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::PosixFadviseAdvice::POSIX_FADV_WILLNEED;
use nix::fcntl::{FallocateFlags, posix_fadvise};

use super::{Dir, Disk};

/// A file or block device of the host.
pub struct HostDisk {
    file: File,
    path: PathBuf,
    waits: Apart,
}

/// The same file or folder, opened another time, if that can be. An error of
/// write-back is told once through each opening: whoever only waits must not be
/// told in place of who syncs.
#[derive(Default)]
struct Apart(OnceLock<Option<File>>);

impl Apart {
    fn from(&self, file: &File) -> Option<&File> {
        let open = || File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
        self.0.get_or_init(open).as_ref()
    }
}

/// Whether a disk may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read; writes fail.
    Read,
    /// Read and written. Of a block device, we want to be the only user.
    ReadWrite,
}

impl HostDisk {
    /// Opens an existing file or block device.
    pub fn open(path: &Path, access: Access) -> io::Result<HostDisk> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        let mut open = || {
            let device = std::fs::metadata(path)?.file_type().is_block_device();
            if device && access == Access::ReadWrite {
                // The kernel then refuses while the device is mounted, and
                // refuses to mount it while we have it.
                options.custom_flags(libc::O_EXCL);
            }
            options.open(path)
        };
        Self::named(open(), path)
    }

    /// Creates a file (`AlreadyExists` if there is one) of zeros.
    pub fn create(path: &Path, len: u64) -> io::Result<HostDisk> {
        let create = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?;
            file.set_len(len)?;
            Ok(file)
        };
        Self::named(create(), path)
    }

    /// An empty file without a name, in this folder: gone with the process.
    pub fn scratch(folder: &Path) -> io::Result<HostDisk> {
        let open = |flags: i32, path: &Path| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .mode(0o600)
                .custom_flags(flags);
            options.create_new(flags == 0).open(path)
        };
        let unnamed = open(libc::O_TMPFILE, folder).or_else(|_| {
            // Not every host has such files.
            let path = folder.join(format!(".journalfs-scratch-{}", std::process::id()));
            let file = open(0, &path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        });
        Self::named(unnamed, folder)
    }

    fn named(file: io::Result<File>, path: &Path) -> io::Result<HostDisk> {
        let file = file.map_err(naming(path))?;
        let path = path.to_owned();
        let waits = Apart::default();
        Ok(HostDisk { file, path, waits })
    }

    /// The open file, for locking and for questions about it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// sync_file_range(2): starts write-back, or waits for it.
    #[allow(unsafe_code)]
    fn sync_range(file: &File, offset: u64, len: u64, how: libc::c_uint) -> io::Result<()> {
        let (offset, len) = (signed(offset)?, signed(len)?);
        // SAFETY: the call touches no memory of ours; the descriptor is open.
        let done = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, how) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let (offset, len) = (signed(offset)?, signed(len)?);
        loop {
            match nix::fcntl::fallocate(&self.file, flags, offset, len) {
                Err(nix::errno::Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// What a host without fallocate needs: the bytes themselves.
    fn extend_with_zeros(&self, end: u64) -> io::Result<()> {
        let zeros = vec![0; 1 << 20];
        let mut at = Disk::len(self)?;
        while at < end {
            let len = (end - at).min(zeros.len() as u64);
            self.file.write_all_at(&zeros[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

/// An error that names the file and keeps its kind.
fn naming(path: &Path) -> impl Fn(io::Error) -> io::Error + use<> {
    let path = path.to_owned();
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn signed(n: u64) -> io::Result<i64> {
    i64::try_from(n).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

impl Disk for HostDisk {
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        use rustix::fs::{SeekFrom, seek};
        use rustix::io::Errno;
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(from) => Ok(Some((from, seek(&self.file, SeekFrom::Hole(from))?))),
            Err(Errno::NXIO) => Ok(None),
            // A device, or a host that does not tell.
            Err(_) => {
                let len = Disk::len(self)?;
                Ok((offset < len).then_some((offset, len)))
            }
        }
    }
    fn host_file(&self) -> Option<&File> {
        Some(&self.file)
    }
    fn len(&self) -> io::Result<u64> {
        let about = self.file.metadata()?;
        match about.file_type().is_block_device() {
            // Its inode has no length; the end of the device has.
            true => io::Seek::seek(&mut &self.file, io::SeekFrom::End(0)),
            false => Ok(about.len()),
        }
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let len = buf.len();
        let mut bufs = [io::IoSliceMut::new(buf)];
        match preadv2(&self.file, &mut bufs, offset, ReadWriteFlags::NOWAIT) {
            // Less: the rest is not in the host's cache, or behind the end.
            Ok(read) => Ok(read == len),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            // A host that can't tell.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.read_at(buf, offset).map(|()| true),
            Err(error) => Err(error.into()),
        }
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let slices: Vec<io::IoSlice> = bufs
            .iter()
            .filter(|b| !b.is_empty())
            .map(|b| io::IoSlice::new(b))
            .collect();
        let mut left = &slices[..];
        let mut at = offset;
        while !left.is_empty() {
            let batch = &left[..left.len().min(libc::UIO_MAXIOV as usize)];
            let mut done = match nix::sys::uio::pwritev(&self.file, batch, signed(at)?) {
                Err(nix::errno::Errno::EINTR) => continue,
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                other => other?,
            };
            at += done as u64;
            while let Some(first) = left.first().filter(|first| first.len() <= done) {
                done -= first.len();
                left = &left[1..];
            }
            if let Some((first, rest)) = left.split_first().filter(|_| done > 0) {
                // Cut short within a buffer: the rest of it singly.
                self.file.write_all_at(&first[done..], at)?;
                at += (first.len() - done) as u64;
                left = rest;
            }
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.fallocate(FallocateFlags::empty(), offset, len) {
            Err(e) if unsupported(&e) => self.extend_with_zeros(offset + len),
            other => other,
        }
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        self.fallocate(hole, offset, len)
    }
    fn read_ahead(&self, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (signed(offset), signed(len)) {
            let _ = posix_fadvise(&self.file, offset, len, POSIX_FADV_WILLNEED);
        }
    }
    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        Self::sync_range(&self.file, offset, len, libc::SYNC_FILE_RANGE_WRITE)
    }
    fn wait_back(&self, offset: u64, len: u64) {
        if let Some(file) = self.waits.from(&self.file) {
            // An error is told by the sync.
            let _ = Self::sync_range(file, offset, len, libc::SYNC_FILE_RANGE_WAIT_BEFORE);
        }
    }
    fn sync(&self) -> io::Result<()> {
        // Not repeated on EINTR either: an error of fdatasync is final.
        self.file.sync_data()
    }
}

/// A folder of the host.
pub struct HostDir {
    path: PathBuf,
    folder: File,
    ahead: Apart,
}

impl HostDir {
    /// Opens an existing folder.
    pub fn open(path: &Path) -> io::Result<HostDir> {
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path);
        let folder = open.map_err(naming(path))?;
        Ok(HostDir {
            path: path.to_owned(),
            folder,
            ahead: Apart::default(),
        })
    }

    /// Opens the folder, making it first if there is none: with mode 0700,
    /// since it holds what all users of the mount write, and its name synced.
    pub fn create(path: &Path) -> io::Result<HostDir> {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => {
                other.map_err(naming(path))?;
                let parent = path
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                File::open(parent)
                    .and_then(|parent| parent.sync_all())
                    .map_err(naming(parent))?;
            }
        }
        Self::open(path)
    }

    /// The open folder, for locking.
    pub fn file(&self) -> &File {
        &self.folder
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, name: &str) -> PathBuf {
        debug_assert!(!name.contains('/'));
        self.path.join(name)
    }
}

impl Dir for HostDir {
    fn list(&self) -> io::Result<Vec<String>> {
        let list = || {
            let names = std::fs::read_dir(&self.path)?;
            let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let mut names = names.collect::<io::Result<Vec<String>>>()?;
            names.sort();
            Ok(names)
        };
        list().map_err(naming(&self.path))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let path = self.at(name);
        // Readers of a journal that they may not write get what they can.
        let disk = match HostDisk::open(&path, Access::ReadWrite) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                HostDisk::open(&path, Access::Read)
            }
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                HostDisk::open(&path, Access::Read)
            }
            other => other,
        };
        Ok(Arc::new(disk?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let path = self.at(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(HostDisk::named(options.open(&path), &path)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let from = self.at(from);
        std::fs::rename(&from, self.at(to)).map_err(naming(&from))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.at(name);
        std::fs::remove_file(&path).map_err(naming(&path))
    }
    fn sync(&self) -> io::Result<()> {
        self.folder.sync_all().map_err(naming(&self.path))
    }
    fn sync_ahead(&self) {
        if let Some(folder) = self.ahead.from(&self.folder) {
            let _ = folder.sync_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::MemoryDir;

    #[test]
    fn a_host_folder_does_what_a_folder_in_memory_does() {
        let place = tempfile::tempdir().unwrap();
        let host = HostDir::create(&place.path().join("new")).unwrap();
        for dir in [&host as &dyn Dir, &MemoryDir::default()] {
            assert!(dir.list().unwrap().is_empty());
            assert_eq!(dir.open("a").err().unwrap().kind(), io::ErrorKind::NotFound);
            let disk = dir.create("a").unwrap();
            assert_eq!(
                dir.create("a").err().unwrap().kind(),
                io::ErrorKind::AlreadyExists
            );
            disk.write_vectored_at(&[b"one", b"", b"two", b"three"], 5)
                .unwrap();
            assert_eq!(disk.len().unwrap(), 16);
            let mut all = [1; 16];
            disk.read_at(&mut all, 0).unwrap();
            assert_eq!(&all, b"\0\0\0\0\0onetwothree");
            let past = disk.read_at(&mut all, 1).err().unwrap();
            assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
            disk.allocate(0, 8192).unwrap();
            assert_eq!(disk.len().unwrap(), 8192);
            disk.read_ahead(0, 8192);
            disk.write_back(0, 8192).unwrap();
            disk.wait_back(0, 8192);
            disk.discard(0, 4096).unwrap();
            disk.read_at(&mut all, 0).unwrap();
            assert_eq!(all, [0; 16]);
            disk.set_len(10).unwrap();
            disk.sync().unwrap();
            dir.create("b").unwrap();
            dir.rename("a", "b").unwrap();
            assert_eq!(dir.list().unwrap(), ["b"]);
            assert_eq!(dir.open("b").unwrap().len().unwrap(), 10);
            dir.sync_ahead();
            dir.sync().unwrap();
            dir.remove("b").unwrap();
            assert_eq!(
                dir.remove("b").err().unwrap().kind(),
                io::ErrorKind::NotFound
            );
        }
    }

    #[test]
    fn a_new_folder_is_for_its_owner_alone_and_errors_name_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let dir = HostDir::create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let error = dir.open("nothing").err().unwrap();
        assert!(error.to_string().contains("journal/nothing"), "{error}");
        HostDir::create(&path).unwrap();
    }
}

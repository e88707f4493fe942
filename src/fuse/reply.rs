//! From answers to what the kernel understands. The only place with errno.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo};

use super::fsxattr;
use crate::fs::{Attr, Error, Kind};
use crate::units::{InodeNo, Time};

/// Nobody else changes the image: the kernel may keep what it knows.
pub const TTL: Duration = Duration::from_secs(24 * 3600);

/// What an ioctl tells of an inode's attributes: its command (linux/fs.h),
/// whose size is that of the caller's long or struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// FS_IOC_GETFLAGS: what lsattr(1) shows.
    Flags,
    /// FS_IOC_FSGETXATTR, which the kernel asks before it sets flags.
    ExtendedFlags,
    /// FS_IOC_GETVERSION: the generation, which `lsattr -v` shows.
    Version,
}

impl Told {
    /// By the command, of 64-bit and 32-bit callers.
    pub fn by(command: u32) -> Option<Told> {
        match command {
            0x8008_6601 | 0x8004_6601 => Some(Told::Flags),
            0x801C_581F => Some(Told::ExtendedFlags),
            0x8008_7601 | 0x8004_7601 => Some(Told::Version),
            _ => None,
        }
    }

    /// The ioctl's result. (A flag or a version is an int, whatever the
    /// command's size says.)
    pub fn of(self, attr: &Attr) -> Vec<u8> {
        match self {
            Told::Flags => attr.flags.to_ne_bytes().into(),
            Told::ExtendedFlags => fsxattr::encode(attr.flags).into(),
            Told::Version => attr.generation.to_ne_bytes().into(),
        }
    }
}

/// The number that the kernel gets for an error.
pub fn number_of(error: &Error) -> i32 {
    match error {
        Error::NotFound => libc::ENOENT,
        Error::Exists => libc::EEXIST,
        Error::NotDirectory => libc::ENOTDIR,
        Error::IsDirectory => libc::EISDIR,
        Error::NotEmpty => libc::ENOTEMPTY,
        Error::Access => libc::EACCES,
        Error::NotPermitted => libc::EPERM,
        Error::NoSpace => libc::ENOSPC,
        Error::TooBig => libc::EFBIG,
        Error::NameTooLong => libc::ENAMETOOLONG,
        Error::TooManyLinks => libc::EMLINK,
        Error::Invalid => libc::EINVAL,
        Error::NoAttribute => libc::ENODATA,
        Error::Range => libc::ERANGE,
        Error::ValueTooBig => libc::E2BIG,
        Error::Unsupported => libc::ENOTSUP,
        Error::NoDevice => libc::ENXIO,
        Error::Stale => libc::ESTALE,
        Error::Busy => libc::EBUSY,
        Error::ReadOnly(_) => libc::EROFS,
        // Parked, not answered; should one escape, the caller may try again.
        Error::Full => libc::EAGAIN,
        Error::Corrupt(_) | Error::Journal(_) => libc::EIO,
    }
}

/// The same for fuser.
pub fn errno(error: &Error) -> Errno {
    Errno::from_i32(number_of(error))
}

/// The kernel's number of an inode: it calls the root 1, ext4 calls it 2 (and
/// never shows its inode 1, the list of bad blocks).
pub fn node_of(inode: InodeNo) -> u64 {
    match inode {
        InodeNo::ROOT => 1,
        other => u64::from(other.0),
    }
}

/// The inode that the kernel means; 0, which nobody has, for nonsense.
pub fn inode_of(node: u64) -> InodeNo {
    match node {
        1 => InodeNo::ROOT,
        2 => InodeNo(0),
        other => InodeNo(u32::try_from(other).unwrap_or(0)),
    }
}

/// Attributes as the kernel wants them.
pub fn attributes(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(node_of(attr.inode)),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.crtime),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// Attributes as stat(2) tells them: also the root by ext4's number.
pub fn told(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode.0.into()),
        ..attributes(attr)
    }
}

/// "There is no such name, and you may remember that": inode 0.
pub fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// A listed name whose inode can't be read: attributes that the kernel
/// refuses, by a size that no file has. It then lists the name with type and
/// number, forgets the node, and looks it up when somebody asks. (Node 0 would
/// say the same by the book, but fuser lists that as number 0, and such names
/// readdir(3) skips.)
pub fn unreadable(node: INodeNo, kind: FileType) -> FileAttr {
    FileAttr {
        ino: node,
        kind,
        size: u64::MAX,
        ..nothing()
    }
}

/// An inode's generation.
pub fn generation(attr: &Attr) -> Generation {
    Generation(u64::from(attr.generation))
}

/// A kind as the kernel numbers it.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Regular => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    match u64::try_from(time.secs) {
        Ok(secs) => UNIX_EPOCH + Duration::from_secs(secs) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.secs.unsigned_abs()) + nanos,
    }
}

/// The inverse, for times that the kernel brings. fuser 0.18 turns seconds
/// before 1970 and nanoseconds around: it hands over −s − n where −s + n is
/// meant, which is undone here.
pub fn time(at: SystemTime) -> Time {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            Time {
                secs: -secs,
                nanos: before.subsec_nanos(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_two_numbers_and_nobody_else_has_either() {
        assert_eq!(node_of(InodeNo::ROOT), 1);
        assert_eq!(inode_of(1), InodeNo::ROOT);
        assert_eq!(inode_of(2), InodeNo(0));
        assert_eq!(inode_of(1 << 40), InodeNo(0));
        assert_eq!(inode_of(node_of(InodeNo(11))), InodeNo(11));
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let half_before = Time {
            secs: -1,
            nanos: 500_000_000,
        };
        let said = system_time(half_before);
        assert_eq!(
            UNIX_EPOCH.duration_since(said).unwrap(),
            Duration::from_millis(500)
        );
        // What fuser makes of (-1, 500_000_000) on the way in:
        assert_eq!(
            time(UNIX_EPOCH - Duration::new(1, 500_000_000)),
            half_before
        );
    }
}

//! What a record says: the operation, in terms that suffice to do it again.

use crate::units::{InodeNo, Lsn, Time};

/// Who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// User id on the mount.
    pub uid: u32,
    /// Group id on the mount.
    pub gid: u32,
    /// Process id, 0 when journalfs itself acts.
    pub pid: u32,
}

/// A name in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The directory.
    pub parent: InodeNo,
    /// The name's bytes: 1 ..= 255, no `/`, no NUL.
    pub name: Vec<u8>,
}

/// One operation. Times are the ones that it stored, so that doing it again
/// gives the same tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the arguments of the POSIX calls of the same name
pub enum Op {
    /// A regular file, fifo, socket, device (`mode` has the type), directory or symlink (`target`).
    Create { by: By, at: Name, inode: InodeNo, mode: u16, uid: u32, gid: u32, rdev: u32, target: Vec<u8>, time: Time },
    Link { by: By, at: Name, inode: InodeNo, time: Time },
    Unlink { by: By, at: Name, inode: InodeNo, time: Time },
    Rmdir { by: By, at: Name, inode: InodeNo, time: Time },
    /// `flags` as in renameat2(2); `replaced` is what stood at `to` (0: nothing).
    Rename { by: By, from: Name, to: Name, flags: u32, inode: InodeNo, replaced: InodeNo, time: Time },
    /// The bytes are the record's data.
    Write { by: By, inode: InodeNo, offset: u64, len: u64, time: Time },
    /// Only what is `Some` changes. `size` truncates or extends.
    SetAttr {
        by: By,
        inode: InodeNo,
        mode: Option<u16>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<Time>,
        mtime: Option<Time>,
        ctime: Time,
    },
    /// `mode` as in fallocate(2).
    Fallocate { by: By, inode: InodeNo, mode: u32, offset: u64, len: u64, time: Time },
    SetXattr { by: By, inode: InodeNo, name: Vec<u8>, value: Vec<u8>, flags: u32, time: Time },
    RemoveXattr { by: By, inode: InodeNo, name: Vec<u8>, time: Time },
    /// An access time noted for a read; not an operation in the law's sense.
    Atime { inode: InodeNo, time: Time },
    /// A step of freeing an unlinked or truncated file's blocks; not an operation in the law's sense.
    Orphan { inode: InodeNo },
    /// A named point in the log.
    Mark { name: Vec<u8>, time: Time },
    /// What lies at or below `through` is home. (`anchors`: checksums of a few blocks.)
    Checkpoint { through: Lsn },
}

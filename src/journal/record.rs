//! What a record says.
//!
//! Most records are an operation: a logical header ([`Op`], enough to do it
//! again), the paths and programs that it is the first to name in its segment,
//! and a physical [`Redo`], by which recovery repeats it without understanding
//! it. The others are the journal's own: a session begins, a
//! checkpoint is home, a session ended well.
//!
//! The bytes are specified in `FORMAT.md`; `codec.rs` writes and reads them.

use super::redo::Redo;
use crate::units::{BlockNo, InodeNo, Lsn, Time};

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
    Create {
        by: By,
        at: Name,
        inode: InodeNo,
        mode: u16,
        uid: u32,
        gid: u32,
        rdev: u32,
        target: Vec<u8>,
        time: Time,
    },
    Link {
        by: By,
        at: Name,
        inode: InodeNo,
        time: Time,
    },
    Unlink {
        by: By,
        at: Name,
        inode: InodeNo,
        time: Time,
    },
    Rmdir {
        by: By,
        at: Name,
        inode: InodeNo,
        time: Time,
    },
    /// `flags` as in renameat2(2); `replaced` is what stood at `to` (0: nothing).
    Rename {
        by: By,
        from: Name,
        to: Name,
        flags: u32,
        inode: InodeNo,
        replaced: InodeNo,
        time: Time,
    },
    /// The bytes are the record's data.
    Write {
        by: By,
        inode: InodeNo,
        offset: u64,
        len: u64,
        time: Time,
    },
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
    Fallocate {
        by: By,
        inode: InodeNo,
        mode: u32,
        offset: u64,
        len: u64,
        time: Time,
    },
    SetXattr {
        by: By,
        inode: InodeNo,
        name: Vec<u8>,
        value: Vec<u8>,
        flags: u32,
        time: Time,
    },
    RemoveXattr {
        by: By,
        inode: InodeNo,
        name: Vec<u8>,
        time: Time,
    },
    /// chattr(1): `flags` is all of `i_flags` as it became.
    SetFlags {
        by: By,
        inode: InodeNo,
        flags: u32,
        time: Time,
    },
    /// An access time noted for a read; not an operation in the law's sense.
    Atime { inode: InodeNo, time: Time },
    /// A step of freeing an unlinked or truncated file's blocks; not an operation in the law's sense.
    Orphan { inode: InodeNo },
    /// A named point in the log.
    Mark { name: Vec<u8>, time: Time },
}

impl Op {
    /// Its name in logs and `--op`.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Create { .. } => "create",
            Op::Link { .. } => "link",
            Op::Unlink { .. } => "unlink",
            Op::Rmdir { .. } => "rmdir",
            Op::Rename { .. } => "rename",
            Op::Write { .. } => "write",
            Op::SetAttr { .. } => "setattr",
            Op::Fallocate { .. } => "fallocate",
            Op::SetXattr { .. } => "setxattr",
            Op::RemoveXattr { .. } => "removexattr",
            Op::SetFlags { .. } => "setflags",
            Op::Atime { .. } => "atime",
            Op::Orphan { .. } => "orphan",
            Op::Mark { .. } => "mark",
        }
    }

    /// Whether it changes the tree as the law compares it.
    pub fn is_operation(&self) -> bool {
        !matches!(self, Op::Atime { .. } | Op::Orphan { .. } | Op::Mark { .. })
    }

    /// Who asked; nobody did for what journalfs does by itself.
    pub fn by(&self) -> Option<&By> {
        match self {
            Op::Create { by, .. }
            | Op::Link { by, .. }
            | Op::Unlink { by, .. }
            | Op::Rmdir { by, .. }
            | Op::Rename { by, .. }
            | Op::Write { by, .. }
            | Op::SetAttr { by, .. }
            | Op::Fallocate { by, .. }
            | Op::SetXattr { by, .. }
            | Op::RemoveXattr { by, .. }
            | Op::SetFlags { by, .. } => Some(by),
            Op::Atime { .. } | Op::Orphan { .. } | Op::Mark { .. } => None,
        }
    }

    /// The inode that it acts on; none for a mark.
    pub fn inode(&self) -> Option<InodeNo> {
        match self {
            Op::Create { inode, .. }
            | Op::Link { inode, .. }
            | Op::Unlink { inode, .. }
            | Op::Rmdir { inode, .. }
            | Op::Rename { inode, .. }
            | Op::Write { inode, .. }
            | Op::SetAttr { inode, .. }
            | Op::Fallocate { inode, .. }
            | Op::SetXattr { inode, .. }
            | Op::RemoveXattr { inode, .. }
            | Op::SetFlags { inode, .. }
            | Op::Atime { inode, .. }
            | Op::Orphan { inode } => Some(*inode),
            Op::Mark { .. } => None,
        }
    }

    /// The inodes whose paths its segment must tell for it to be understood:
    /// its directories, or what it names by number alone.
    pub fn nameless(&self) -> impl Iterator<Item = InodeNo> {
        let alone = match self {
            Op::Orphan { .. } => None, // has lost its name
            _ if self.directories().next().is_some() => None,
            _ => self.inode(),
        };
        self.directories().chain(alone)
    }

    /// The inode that loses a name by it, maybe its last; not a directory's
    /// only one.
    pub fn bereft(&self) -> Option<InodeNo> {
        match self {
            Op::Unlink { inode, .. } => Some(*inode),
            Op::Rename {
                replaced, flags, ..
            } if *flags & libc::RENAME_EXCHANGE == 0 => {
                Some(*replaced).filter(|inode| *inode != InodeNo(0))
            }
            _ => None,
        }
    }

    /// The directories that it names.
    pub fn directories(&self) -> impl Iterator<Item = InodeNo> {
        let (first, second) = match self {
            Op::Create { at, .. }
            | Op::Link { at, .. }
            | Op::Unlink { at, .. }
            | Op::Rmdir { at, .. } => (Some(at.parent), None),
            Op::Rename { from, to, .. } => (
                Some(from.parent),
                (to.parent != from.parent).then_some(to.parent),
            ),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// One frame's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Something happened to the tree.
    Operation(Operation),
    /// A read-write session begins.
    Session(Base),
    /// Everything up to some record is home; durable only after the image was synced.
    Checkpoint(Base),
    /// The session ended well.
    Clean(Clean),
    /// Blocks as they were after this record, no later, are about to go home:
    /// durable before the first of them does.
    Install(Lsn),
}

/// An operation with its redo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What happened.
    pub op: Op,
    /// Full paths of inodes that `op` names, where this is the first record of
    /// its segment to name them: paths resolve without the image.
    pub paths: Vec<(InodeNo, Vec<u8>)>,
    /// What the process that asked was running, where the segment has not told
    /// that yet: its name as in `/proc/PID/comm`.
    pub program: Option<Vec<u8>>,
    /// Which bytes of which blocks changed, in this order.
    pub redo: Vec<Redo>,
}

impl Record {
    /// The operation, if it is one.
    pub fn op(&self) -> Option<&Op> {
        match self {
            Record::Operation(operation) => Some(&operation.op),
            Record::Session(_) | Record::Checkpoint(_) | Record::Clean(_) | Record::Install(_) => {
                None
            }
        }
    }

    /// Its name in logs and `--op`: an operation's [`Op::kind`], or `session`,
    /// `checkpoint`, `clean`, `install`.
    pub fn kind(&self) -> &'static str {
        match self {
            Record::Operation(operation) => operation.op.kind(),
            Record::Session(_) => "session",
            Record::Checkpoint(_) => "checkpoint",
            Record::Clean(_) => "clean",
            Record::Install(_) => "install",
        }
    }
}

impl Operation {
    /// Whether it changes names, or tells any that later records use.
    pub fn tells_names(&self) -> bool {
        let names = self.op.directories().next().is_some();
        names || !self.paths.is_empty() || self.program.is_some()
    }
}

/// What identifies a session. To the journal the anchors are opaque bytes
/// (`fs` puts superblocks there); both are durable here before either is
/// written home, so that a torn one can be repaired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// What the image carries while it lags behind this session.
    pub guard: [u8; 16],
    /// The anchor as found.
    pub prior: Vec<u8>,
    /// The anchor with the guard.
    pub guarded: Vec<u8>,
}

/// Where replay starts. Each one repeats the session, since the segment with
/// the session's own record is recycled in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Whose records follow.
    pub session: Session,
    /// All records up to here are home.
    pub through: Lsn,
    /// The pinned block as of `through`; it is the one block not written home.
    pub pinned: Vec<u8>,
    /// CRC-32 of a few blocks that were written, to recognise a stale copy of the image.
    pub samples: Vec<(BlockNo, u32)>,
}

/// A session's end: durable before the guard is taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clean {
    /// By which the next session recognises the image (opaque here).
    pub fingerprint: Vec<u8>,
    /// The anchor without the guard.
    pub restored: Vec<u8>,
}

//! The file system: POSIX meaning over the journal's transactions.
//!
//! [`Fs`] has a method for each request that a transport may bring. Each
//! changing method is one transaction and answers [`Done`]: the value, and
//! the record's Lsn. Nothing here blocks on a sync, on journal space
//! ([`Error::Full`]: park the request) or on a checkpoint.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::ext4::Superblock;
use crate::ext4::inode::Inode;
use crate::journal::record::By;
use crate::journal::{Blocks, Journal, Txn, View};
use crate::units::{Clock, InodeNo, Lsn, Time};

pub mod alloc;
mod attr;
mod blockmap;
mod caller;
mod create;
mod damage;
pub mod dir;
pub mod file;
mod free;
pub mod guard;
pub mod inode;
pub mod jbd2;
mod judgement;
mod layout;
pub mod map;
pub mod mkfs;
pub mod mount;
mod name;
pub mod orphan;
mod path;
mod perm;
pub mod rename;
mod space;
mod statfs;
mod tree;
#[cfg(test)]
pub(crate) mod world;
pub mod xattr;

pub use caller::{Caller, Groups, ProcessTable};
pub use damage::Damage;
pub use file::{Whence, WriteFlags};
pub use statfs::Statfs;

/// The file system of one image. It keeps nothing of the image in memory:
/// every request decodes the blocks it needs, as of its own transaction or
/// view. What it does keep is who has what open.
pub struct Fs {
    journal: Arc<Journal>,
    sb: Superblock,
    options: Options,
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
    changed: OnceLock<Changed>,
    hints: Arc<path::Hints>,
    /// Groups without free inodes.
    full: alloc::Full,
    /// Blocks that no file can have, once they are counted.
    overhead: OnceLock<u64>,
    before: orphan::Before,
    noted: damage::Noted,
}

/// Hears of a file whose attributes have changed unasked.
pub type Changed = Box<dyn Fn(InodeNo) + Send + Sync>;

/// How a file system is to behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Who checks permissions.
    pub access: Access,
    /// When reading a file notes its access time.
    pub atime: Atime,
    /// Never when a directory is read.
    pub nodiratime: bool,
    /// New files get their directory's group, whether it has the setgid bit or
    /// not, which is not handed down then.
    pub grpid: bool,
    /// Refuse every change.
    pub read_only: bool,
    /// Who else than root may use the reserved blocks, if not whom the
    /// superblock names.
    pub resuid: Option<u32>,
    /// The same of a group.
    pub resgid: Option<u32>,
    /// statfs(2) counts the format's own blocks too.
    pub minixdf: bool,
    /// Directories of this many KiB grow no more; 0: all may.
    pub max_dir_size_kb: u32,
}

/// Who checks permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The kernel does (`default_permissions`).
    #[default]
    Kernel,
    /// We do.
    Check,
    /// Nobody: the mounting user acts as root on any tree.
    Fakeroot,
}

/// When reading a file notes its access time (`relatime` and so on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// When it would otherwise look older than the last change, or is a day old.
    #[default]
    Relatime,
    /// Never.
    Noatime,
    /// Always.
    Strict,
}

/// What is known of inodes only while the file system is mounted.
#[derive(Default)]
struct Tables {
    /// References that the kernel holds.
    lookups: HashMap<InodeNo, u64>,
    /// What inodes were that have gone while the kernel refers to them, with
    /// all their attributes inside.
    gone: HashMap<InodeNo, Inode>,
    /// Open handles. They need no limit of their own (ENFILE): a handle is a
    /// count here, and the kernel, which keeps far more of each, has its own
    /// (RLIMIT_NOFILE, fs.file-max).
    opens: HashMap<InodeNo, u32>,
    /// Inodes whose blocks are still being freed, in steps; all are on the
    /// orphan chain. Nothing may extend such a file before that is done.
    pending: BTreeSet<InodeNo>,
    /// Inodes without a name that somebody still has; on the orphan chain too.
    held: BTreeSet<InodeNo>,
    /// How often an inode came to one of the two.
    arrivals: u64,
    /// Blocks above the reserve, as of the last count.
    room: Room,
}

/// A lower bound for what others than root may still take, so that a large
/// image isn't counted for each write. It is forgotten after a while, since
/// not all that takes blocks is subtracted.
#[derive(Default)]
struct Room {
    left: u64,
    trust: u32,
}

impl Tables {
    /// A removed inode as it was in the end, while it is referred to.
    fn gone(&self, number: InodeNo) -> Option<Inode> {
        self.gone.get(&number).cloned()
    }

    fn remember_gone(&mut self, last: Inode) {
        if self.lookups.contains_key(&last.number) {
            self.gone.insert(last.number, last);
        }
    }

    /// Whether an inode is open, or has no name but is still referred to: then
    /// it may be opened yet.
    fn is_had(&self, number: InodeNo) -> bool {
        self.opens.contains_key(&number)
            || self.held.contains(&number) && self.lookups.contains_key(&number)
    }

    /// One handle less. True: it was the last.
    fn close(&mut self, number: InodeNo) -> bool {
        match self.opens.get_mut(&number) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => self.opens.remove(&number).is_some(),
        }
    }
}

impl Fs {
    /// Over an opened journal; `sb` is the image's superblock.
    pub fn new(
        journal: impl Into<Arc<Journal>>,
        sb: Superblock,
        options: Options,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let journal: Arc<Journal> = journal.into();
        let zones = alloc::zones(&journal.view(), &sb);
        let sb = Superblock { zones, ..sb };
        let hints = Arc::new(path::Hints::default());
        let (known, geometry) = (hints.clone(), sb.clone());
        journal.set_namer(Box::new(move |blocks, inode| {
            known.path(blocks, &geometry, inode)
        }));
        let geometry = sb.clone();
        journal.set_free_runs(Box::new(move |blocks, first, count| {
            free::runs(blocks, &geometry, first, count)
        }));
        Fs {
            journal,
            sb,
            options,
            clock,
            tables: Mutex::default(),
            changed: OnceLock::new(),
            hints,
            full: alloc::Full::default(),
            overhead: OnceLock::new(),
            before: orphan::Before::default(),
            noted: damage::Noted::default(),
        }
    }

    /// The journal below.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }
    /// The image's geometry.
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }
    /// How it behaves.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whom to tell of attributes that something has changed which doesn't
    /// answer with them: suid and sgid taken away, and chattr(1). The first who
    /// asks is told.
    pub fn tell_when_changed(&self, whom: Changed) {
        let _ = self.changed.set(whom);
    }
    fn tell_changed(&self, number: InodeNo) {
        if let Some(tell) = self.changed.get() {
            tell(number);
        }
    }

    /// Begins a change.
    fn begin(&self) -> Result<Txn<'_>> {
        self.begin_with(0)
    }
    /// Begins one that brings so many bytes of data.
    fn begin_with(&self, data: usize) -> Result<Txn<'_>> {
        self.writable()?;
        Ok(self.journal.begin_with(data)?)
    }
    /// The state to read.
    fn view(&self) -> View<'_> {
        self.journal.view()
    }
    /// The time of an operation: read once, used for all its times.
    fn now(&self) -> Time {
        self.clock.wall()
    }
    /// How many blocks a caller must leave free: the kernel's own, and unless he
    /// may use them the reserved ones.
    fn kept(&self, by: &Caller) -> u64 {
        let own = alloc::kernel_reserve(&self.sb);
        match self.privileged(by) {
            true => own,
            false => own + self.sb.reserved_blocks,
        }
    }
    /// Whether a caller may use the reserved blocks.
    fn privileged(&self, by: &Caller) -> bool {
        let (options, sb) = (&self.options, &self.sb);
        let group = options.resgid.unwrap_or(sb.reserved_gid.into());
        options.access == Access::Fakeroot
            || by.uid == 0
            || by.uid == options.resuid.unwrap_or(sb.reserved_uid.into())
            || (group != 0 && by.in_group(group))
    }
    /// The same for one who wants `want` blocks now: none to look after if there
    /// are far more.
    fn kept_from(&self, blocks: &dyn Blocks, by: &Caller, want: u64) -> Result<u64> {
        const PLENTY: u64 = 4096;
        let kept = self.kept(by);
        if kept == 0 {
            return Ok(0);
        }
        let mut tables = self.tables.lock();
        let room = &mut tables.room;
        if room.trust == 0 || room.left < want + PLENTY {
            let (free, _) = alloc::totals(blocks, &self.sb)?;
            *room = Room {
                left: free
                    .saturating_sub(alloc::kernel_reserve(&self.sb) + self.sb.reserved_blocks),
                trust: 1000,
            };
        }
        if room.left < want + PLENTY {
            return Ok(kept);
        }
        room.left -= want;
        room.trust -= 1;
        Ok(0)
    }
    /// Whether an inode's number must not be used again yet: the kernel or an
    /// open handle still means the file that had it.
    fn busy(&self, inode: InodeNo) -> bool {
        let tables = self.tables.lock();
        tables.lookups.contains_key(&inode) || tables.opens.contains_key(&inode)
    }
}

impl From<&Caller> for By {
    fn from(by: &Caller) -> Self {
        By {
            uid: by.uid,
            gid: by.gid,
            pid: by.process(),
        }
    }
}

/// What a changing operation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// The value for the caller.
    pub value: T,
    /// The record that made it so; `None` if nothing had to change.
    pub lsn: Option<Lsn>,
    /// What was changed asks for durability before the answer (chattr +S, +D).
    pub durable: bool,
}

impl<T> Done<T> {
    /// Nothing had to change.
    fn nothing(value: T) -> Self {
        Done {
            value,
            lsn: None,
            durable: false,
        }
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// An inode's attributes, as stat(2) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Attr {
    pub inode: InodeNo,
    pub generation: u32,
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky: 0 ..= 0o7777.
    pub perm: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    /// As makedev(3) on Linux gives it; 0 unless a device.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    /// Creation.
    pub crtime: Time,
    /// `FS_*_FL` flags as FS_IOC_GETFLAGS shows them.
    pub flags: u32,
}

/// What setattr changes; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Through an open handle: whether the caller may write was settled when
    /// it was opened.
    pub by_handle: bool,
}

impl SetAttr {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        (self.mode.is_none() && self.uid.is_none() && self.gid.is_none())
            && (self.size.is_none() && self.atime.is_none() && self.mtime.is_none())
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    /// UTIME_NOW: write permission suffices.
    Now,
    /// An explicit time: only the owner may.
    At(Time),
}

/// Why an operation was refused. (errno appears in one place, `fuse/reply.rs`.)
#[derive(Debug, thiserror::Error, Clone)]
#[allow(missing_docs)] // named after the errno that each becomes
#[non_exhaustive]
pub enum Error {
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("permission denied")]
    Access,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("no space left in the image")]
    NoSpace,
    #[error("file too large")]
    TooBig,
    #[error("name too long")]
    NameTooLong,
    #[error("too many links")]
    TooManyLinks,
    #[error("invalid argument")]
    Invalid,
    #[error("no such attribute")]
    NoAttribute,
    #[error("result does not fit")]
    Range,
    /// E2BIG
    #[error("attribute value too big")]
    ValueTooBig,
    #[error("not supported")]
    Unsupported,
    #[error("no such device or address")]
    NoDevice,
    #[error("stale inode")]
    Stale,
    /// EBUSY
    #[error("busy")]
    Busy,
    /// EROFS
    #[error("read-only: {0}")]
    ReadOnly(std::sync::Arc<str>),
    /// Not an error for the caller of the mount: park the request until a
    /// checkpoint has made room, then do it again.
    #[error("the journal is full until a checkpoint has been made")]
    Full,
    /// The image's bytes are wrong: what and where. EIO (EUCLEAN has no better name in FUSE).
    #[error("the image is corrupt: {0}")]
    Corrupt(crate::ext4::Corrupt),
    #[error(transparent)]
    Journal(crate::journal::Error),
}

/// A file system operation's result.
pub type Result<T> = std::result::Result<T, Error>;

impl From<crate::journal::Error> for Error {
    fn from(error: crate::journal::Error) -> Self {
        match error {
            crate::journal::Error::Full => Error::Full,
            crate::journal::Error::HostFull => Error::NoSpace,
            crate::journal::Error::CantDiscard => Error::Unsupported,
            crate::journal::Error::ReadOnly(why) => Error::ReadOnly(why),
            other => damage::of_journal(other),
        }
    }
}

impl From<crate::ext4::Corrupt> for Error {
    fn from(corrupt: crate::ext4::Corrupt) -> Self {
        Error::Corrupt(corrupt)
    }
}

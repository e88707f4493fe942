//! What a transport brings and what it takes back.
//!
//! A [`Request`] borrows the transport's buffer; one that has to wait for room
//! in the journal becomes its own ([`Request::into_owned`]) and leaves the
//! buffer to the next. A [`Reply`] says nothing of how it is encoded.

use std::borrow::Cow;

use super::fsxattr;
use crate::fs::{Attr, Error, SetAttr, Statfs, Whence, WriteFlags};
use crate::units::InodeNo;

/// Bytes of the transport's buffer, or a copy of them.
pub type Bytes<'a> = Cow<'a, [u8]>;

/// One request, decoded.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the fields are the arguments of the POSIX calls of the same name
pub enum Request<'a> {
    Lookup {
        parent: InodeNo,
        name: Bytes<'a>,
    },
    GetAttr {
        inode: InodeNo,
    },
    SetAttr {
        inode: InodeNo,
        set: SetAttr,
    },
    ReadLink {
        inode: InodeNo,
    },
    Create {
        parent: InodeNo,
        name: Bytes<'a>,
        mode: u32,
        umask: u32,
        flags: i32,
    },
    MakeNode {
        parent: InodeNo,
        name: Bytes<'a>,
        mode: u32,
        umask: u32,
        rdev: u32,
    },
    MakeDir {
        parent: InodeNo,
        name: Bytes<'a>,
        mode: u32,
        umask: u32,
    },
    Symlink {
        parent: InodeNo,
        name: Bytes<'a>,
        target: Bytes<'a>,
    },
    Link {
        inode: InodeNo,
        parent: InodeNo,
        name: Bytes<'a>,
    },
    Unlink {
        parent: InodeNo,
        name: Bytes<'a>,
    },
    RemoveDir {
        parent: InodeNo,
        name: Bytes<'a>,
    },
    Rename {
        from: InodeNo,
        name: Bytes<'a>,
        to: InodeNo,
        new_name: Bytes<'a>,
        flags: u32,
    },
    Open {
        inode: InodeNo,
        flags: i32,
    },
    Release {
        inode: InodeNo,
    },
    OpenDir {
        inode: InodeNo,
    },
    ReleaseDir {
        inode: InodeNo,
    },
    Read {
        inode: InodeNo,
        offset: u64,
        size: u32,
        crooked: bool,
    },
    /// `durable`: the caller is told only when the write is on stable storage.
    /// `crooked`: see [`Request::is_crooked`].
    Write {
        inode: InodeNo,
        offset: u64,
        data: Bytes<'a>,
        flags: WriteFlags,
        durable: bool,
        crooked: bool,
    },
    /// fsync, fdatasync and fsyncdir alike: a sync of the journal serves all.
    /// `data_only`: the caller did not ask for attributes.
    Sync {
        inode: InodeNo,
        data_only: bool,
    },
    Fallocate {
        inode: InodeNo,
        mode: i32,
        offset: u64,
        len: u64,
    },
    Seek {
        inode: InodeNo,
        offset: u64,
        whence: Whence,
    },
    Statfs,
    /// FITRIM: gives the host back what is free among these bytes.
    Trim {
        start: u64,
        len: u64,
        least: u64,
    },
    GetXattr {
        inode: InodeNo,
        name: Bytes<'a>,
    },
    ListXattr {
        inode: InodeNo,
    },
    SetXattr {
        inode: InodeNo,
        name: Bytes<'a>,
        value: Bytes<'a>,
        flags: u32,
    },
    RemoveXattr {
        inode: InodeNo,
        name: Bytes<'a>,
    },
    /// FS_IOC_SETFLAGS, of chattr(1), or FS_IOC_FSSETXATTR, which has some of
    /// the flags only.
    SetFlags {
        inode: InodeNo,
        flags: u32,
        among: u32,
    },
    Access {
        inode: InodeNo,
        mask: u32,
    },
    /// References that the kernel gives back; its answer goes nowhere.
    Forget {
        inode: InodeNo,
        count: u64,
    },
}

/// What a request is answered with, if not with an error.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Reply {
    /// An inode that the kernel now holds one more reference to.
    Entry(Attr),
    /// There is no such name, and the kernel may remember that.
    NoEntry,
    Attr(Attr),
    /// A new file, opened.
    Created(Attr),
    /// `appends`: nothing else, so that it must not be mapped with MAP_SHARED.
    Opened {
        appends: bool,
    },
    Bytes(Vec<u8>),
    Written(u32),
    Offset(u64),
    Statfs(Statfs),
    /// Bytes given back.
    Trimmed(u64),
    Done,
}

/// A request's answer.
pub type Answer = Result<Reply, Error>;

fn own(bytes: Bytes<'_>) -> Bytes<'static> {
    Cow::Owned(bytes.into_owned())
}

impl Request<'_> {
    /// Whether a write to a file opened with these flags must be durable
    /// before it is answered. Through the page cache the kernel sends an FSYNC
    /// of its own after a synchronous write; past it (which also is the way to a
    /// file that must not be mapped), nobody does.
    pub fn is_durable(flags: i32) -> bool {
        flags & (libc::O_DIRECT | libc::O_APPEND) != 0
            && flags & (libc::O_DSYNC | libc::O_SYNC) != 0
    }

    /// The number of a handle (`fh` of linux/fuse.h) that is to append only;
    /// others have 0.
    pub const APPENDS: u64 = 1;

    /// How a write came, by its flags in the protocol (`write_flags` of
    /// linux/fuse.h), its handle and the flags that this has now.
    pub fn write_flags(how: u32, handle: u64, flags: i32) -> WriteFlags {
        const CACHE: u32 = 1 << 0;
        const KILL_SUIDGID: u32 = 1 << 2;
        WriteFlags {
            kill_priv: how & KILL_SUIDGID != 0,
            astray: handle == Self::APPENDS && flags & libc::O_APPEND == 0,
            mapped: how & CACHE != 0,
        }
    }

    /// Whether this goes past the page cache and is not of whole sectors, of 512
    /// bytes, as nearly every disk has them.
    pub fn is_crooked(flags: i32, offset: u64, len: u64) -> bool {
        flags & libc::O_DIRECT != 0 && !(offset | len).is_multiple_of(512)
    }

    /// What an ioctl asks for that tells no attributes (`Told` knows those), or
    /// the errno that it gets.
    pub fn of_ioctl(inode: InodeNo, command: u32, data: &[u8]) -> Result<Request<'static>, i32> {
        match (command, data.as_chunks().0) {
            // FS_IOC_SETFLAGS, by chattr(1); the kernel passes on four bytes.
            (0x4008_6602 | 0x4004_6602, _) => {
                let flags = data.first_chunk().ok_or(libc::EINVAL)?;
                let flags = u32::from_ne_bytes(*flags);
                Ok(Request::SetFlags {
                    inode,
                    flags,
                    among: u32::MAX,
                })
            }
            (0x401C_5820, _) => {
                let (flags, project) = fsxattr::decode(data.first_chunk().ok_or(libc::EINVAL)?);
                match project {
                    0 => Ok(Request::SetFlags {
                        inode,
                        flags,
                        among: fsxattr::flags(),
                    }),
                    _ => Err(libc::ENOTSUP), // an image with projects is read-only
                }
            }
            // FITRIM, by fstrim(8), with a struct fstrim_range.
            (0xC018_5879, &[start, len, least]) => {
                let [start, len, least] = [start, len, least].map(u64::from_ne_bytes);
                Ok(Request::Trim { start, len, least })
            }
            _ => Err(libc::ENOTTY),
        }
    }

    /// The same, no longer tied to the transport's buffer.
    pub fn into_owned(self) -> Request<'static> {
        use Request::*;
        match self {
            Lookup { parent, name } => Lookup {
                parent,
                name: own(name),
            },
            GetAttr { inode } => GetAttr { inode },
            SetAttr { inode, set } => SetAttr { inode, set },
            ReadLink { inode } => ReadLink { inode },
            Create {
                parent,
                name,
                mode,
                umask,
                flags,
            } => Create {
                parent,
                name: own(name),
                mode,
                umask,
                flags,
            },
            MakeNode {
                parent,
                name,
                mode,
                umask,
                rdev,
            } => MakeNode {
                parent,
                name: own(name),
                mode,
                umask,
                rdev,
            },
            MakeDir {
                parent,
                name,
                mode,
                umask,
            } => MakeDir {
                parent,
                name: own(name),
                mode,
                umask,
            },
            Symlink {
                parent,
                name,
                target,
            } => Symlink {
                parent,
                name: own(name),
                target: own(target),
            },
            Link {
                inode,
                parent,
                name,
            } => Link {
                inode,
                parent,
                name: own(name),
            },
            Unlink { parent, name } => Unlink {
                parent,
                name: own(name),
            },
            RemoveDir { parent, name } => RemoveDir {
                parent,
                name: own(name),
            },
            Rename {
                from,
                name,
                to,
                new_name,
                flags,
            } => Rename {
                from,
                name: own(name),
                to,
                new_name: own(new_name),
                flags,
            },
            Open { inode, flags } => Open { inode, flags },
            Release { inode } => Release { inode },
            OpenDir { inode } => OpenDir { inode },
            ReleaseDir { inode } => ReleaseDir { inode },
            Read {
                inode,
                offset,
                size,
                crooked,
            } => Read {
                inode,
                offset,
                size,
                crooked,
            },
            Write {
                inode,
                offset,
                data,
                flags,
                durable,
                crooked,
            } => Write {
                inode,
                offset,
                data: own(data),
                flags,
                durable,
                crooked,
            },
            Sync { inode, data_only } => Sync { inode, data_only },
            Fallocate {
                inode,
                mode,
                offset,
                len,
            } => Fallocate {
                inode,
                mode,
                offset,
                len,
            },
            Seek {
                inode,
                offset,
                whence,
            } => Seek {
                inode,
                offset,
                whence,
            },
            Statfs => Statfs,
            Trim { start, len, least } => Trim { start, len, least },
            GetXattr { inode, name } => GetXattr {
                inode,
                name: own(name),
            },
            ListXattr { inode } => ListXattr { inode },
            SetXattr {
                inode,
                name,
                value,
                flags,
            } => SetXattr {
                inode,
                name: own(name),
                value: own(value),
                flags,
            },
            RemoveXattr { inode, name } => RemoveXattr {
                inode,
                name: own(name),
            },
            SetFlags {
                inode,
                flags,
                among,
            } => SetFlags {
                inode,
                flags,
                among,
            },
            Access { inode, mask } => Access { inode, mask },
            Forget { inode, count } => Forget { inode, count },
        }
    }
}

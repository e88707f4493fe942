//! Requests from bytes, and ([`encode`]) answers to bytes, for a transport that
//! decodes by itself.
//!
//! Source of the layouts: `linux/fuse.h` of the kernel's user-space interface
//! (protocol 7.45), all in the host's byte order. A request has a header, the
//! arguments of its operation, and a payload of names or data; an answer has a
//! header and a payload. Nothing that the kernel sends makes this panic: fields
//! beyond an end read as zero, and a name without its end is refused.

use crate::fs::{SetAttr, SetTime, Whence};
use crate::units::{InodeNo, Time};

use super::reply::{Told, inode_of};
use super::request::Request;

mod encode;

pub use encode::{Form, Listing};

const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_KEEP_CACHE: u32 = 1 << 1;

/// `struct fuse_in_header`, as far as it is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    opcode: u32,
    unique: u64,
    node: u64,
    /// File-system user id of whoever asks.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Number of the task that asks.
    pub pid: u32,
}

/// What the kernel asks for.
#[derive(Debug)]
pub enum Asked<'a> {
    /// To be served, and the answer encoded by the form.
    Request(Request<'a>, Form),
    /// A part of a directory, of at most so many bytes.
    List {
        inode: InodeNo,
        from: u64,
        size: usize,
        plus: bool,
    },
    /// Answered with this error at once.
    Refused(i32),
}

impl Header {
    /// From the first 40 bytes of a request.
    pub fn read(bytes: &[u8]) -> Header {
        let fields = Fields(bytes);
        Header {
            opcode: fields.u32(4),
            unique: fields.u64(8),
            node: fields.u64(16),
            uid: fields.u32(24),
            gid: fields.u32(28),
            pid: fields.u32(32),
        }
    }

    /// Decodes the request of this header. `args`: its operation's arguments;
    /// `payload`: what follows them.
    pub fn decode<'a>(&self, args: &[u8], payload: &'a [u8]) -> Asked<'a> {
        self.try_decode(args, payload)
            .unwrap_or(Asked::Refused(libc::EINVAL))
    }

    fn try_decode<'a>(&self, args: &[u8], payload: &'a [u8]) -> Option<Asked<'a>> {
        use Request as R;
        let (args, inode) = (Fields(args), inode_of(self.node));
        let mut names = Names(payload);
        let (request, form) = match self.opcode {
            1 => (
                R::Lookup {
                    parent: inode,
                    name: names.next()?,
                },
                Form::Entry,
            ),
            3 => (R::GetAttr { inode }, Form::Attr),
            4 => (
                R::SetAttr {
                    inode,
                    set: set_attr(args),
                },
                Form::Attr,
            ),
            5 => (R::ReadLink { inode }, Form::Data),
            6 => {
                let (name, target) = (names.next()?, names.next()?);
                let parent = inode;
                (
                    R::Symlink {
                        parent,
                        name,
                        target,
                    },
                    Form::Entry,
                )
            }
            8 => (
                R::MakeNode {
                    parent: inode,
                    name: names.next()?,
                    mode: args.u32(0),
                    rdev: args.u32(4),
                    umask: args.u32(8),
                },
                Form::Entry,
            ),
            9 => (
                R::MakeDir {
                    parent: inode,
                    name: names.next()?,
                    mode: args.u32(0),
                    umask: args.u32(4),
                },
                Form::Entry,
            ),
            10 => (
                R::Unlink {
                    parent: inode,
                    name: names.next()?,
                },
                Form::Empty,
            ),
            11 => (
                R::RemoveDir {
                    parent: inode,
                    name: names.next()?,
                },
                Form::Empty,
            ),
            // RENAME and RENAME2, which has flags.
            12 | 45 => (
                R::Rename {
                    from: inode,
                    name: names.next()?,
                    to: inode_of(args.u64(0)),
                    new_name: names.next()?,
                    flags: if self.opcode == 45 { args.u32(8) } else { 0 },
                },
                Form::Empty,
            ),
            13 => (
                R::Link {
                    inode: inode_of(args.u64(0)),
                    parent: inode,
                    name: names.next()?,
                },
                Form::Entry,
            ),
            14 => (
                R::Open {
                    inode,
                    flags: args.i32(0),
                },
                Form::Opened(FOPEN_KEEP_CACHE),
            ),
            15 => (
                R::Read {
                    inode,
                    offset: args.u64(8),
                    size: args.u32(16),
                    crooked: R::is_crooked(args.i32(32), args.u64(8), args.u32(16).into()),
                },
                Form::Data,
            ),
            16 => {
                let (size, flags) = (args.u32(16) as usize, args.i32(32));
                (
                    R::Write {
                        inode,
                        offset: args.u64(8),
                        data: payload.get(..size)?.into(),
                        flags: R::write_flags(args.u32(20), args.u64(0), flags),
                        durable: R::is_durable(flags),
                        crooked: R::is_crooked(flags, args.u64(8), size as u64),
                    },
                    Form::Written,
                )
            }
            17 => (R::Statfs, Form::Statfs),
            18 => (R::Release { inode }, Form::Empty),
            // FSYNC and FSYNCDIR
            20 | 30 => (
                R::Sync {
                    inode,
                    data_only: args.u32(8) & 1 != 0,
                },
                Form::Empty,
            ),
            21 => {
                let (size, flags) = (args.u32(0) as usize, args.u32(4));
                let name = names.next()?;
                let value = names.0.get(..size)?.into();
                (
                    R::SetXattr {
                        inode,
                        name,
                        value,
                        flags,
                    },
                    Form::Empty,
                )
            }
            22 => (
                R::GetXattr {
                    inode,
                    name: names.next()?,
                },
                Form::Xattr(args.u32(0)),
            ),
            23 => (R::ListXattr { inode }, Form::Xattr(args.u32(0))),
            24 => (
                R::RemoveXattr {
                    inode,
                    name: names.next()?,
                },
                Form::Empty,
            ),
            27 => (R::OpenDir { inode }, Form::Opened(0)),
            // READDIR and READDIRPLUS
            28 | 44 => {
                return Some(Asked::List {
                    inode,
                    from: args.u64(8),
                    size: args.u32(16) as usize,
                    plus: self.opcode == 44,
                });
            }
            29 => (R::ReleaseDir { inode }, Form::Empty),
            34 => (
                R::Access {
                    inode,
                    mask: args.u32(0),
                },
                Form::Empty,
            ),
            35 => (
                R::Create {
                    parent: inode,
                    name: names.next()?,
                    flags: args.i32(0),
                    mode: args.u32(4),
                    umask: args.u32(8),
                },
                Form::Created,
            ),
            39 => return Some(ioctl(inode, args, payload)),
            43 => (
                R::Fallocate {
                    inode,
                    offset: args.u64(8),
                    len: args.u64(16),
                    mode: args.i32(24),
                },
                Form::Empty,
            ),
            46 => {
                let whence = match args.i32(16) {
                    libc::SEEK_DATA => Whence::Data,
                    libc::SEEK_HOLE => Whence::Hole,
                    _ => return Some(Asked::Refused(libc::EINVAL)),
                };
                let Ok(offset) = u64::try_from(args.u64(8) as i64) else {
                    return Some(Asked::Refused(libc::ENXIO));
                };
                (
                    R::Seek {
                        inode,
                        offset,
                        whence,
                    },
                    Form::Offset,
                )
            }
            // FLUSH (nothing hangs on close(2): writes were answered when
            // recorded), copies and locks, which the kernel then does itself,
            // and what no kernel had when this was written.
            _ => return Some(Asked::Refused(libc::ENOSYS)),
        };
        Some(Asked::Request(request, form))
    }
}

fn ioctl<'a>(inode: InodeNo, args: Fields<'_>, payload: &[u8]) -> Asked<'a> {
    let data = &payload[..payload.len().min(args.u32(24) as usize)];
    if let Some(told) = Told::by(args.u32(12)) {
        return Asked::Request(Request::GetAttr { inode }, Form::Told(told));
    }
    match Request::of_ioctl(inode, args.u32(12), data) {
        Ok(request) => {
            let form = match &request {
                Request::Trim { start, least, .. } => Form::Trimmed {
                    start: *start,
                    least: *least,
                },
                _ => Form::Ioctl,
            };
            Asked::Request(request, form)
        }
        Err(errno) => Asked::Refused(errno),
    }
}

fn set_attr(args: Fields<'_>) -> SetAttr {
    let valid = args.u32(0);
    let has = |bit: u32| valid & (1 << bit) != 0;
    let time = |bit, now, secs, nanos| {
        has(bit).then(|| match has(now) {
            true => SetTime::Now,
            false => SetTime::At(Time {
                secs: args.u64(secs) as i64,
                nanos: args.u32(nanos).min(999_999_999),
            }),
        })
    };
    SetAttr {
        mode: has(0).then(|| (args.u32(68) & 0o7777) as u16),
        uid: has(1).then(|| args.u32(76)),
        gid: has(2).then(|| args.u32(80)),
        size: has(3).then(|| args.u64(16)),
        atime: time(4, 7, 32, 56),
        mtime: time(5, 8, 40, 60),
        by_handle: has(6),
    }
}

/// Fields by their offsets.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let field = self.0.get(at..).and_then(<[u8]>::first_chunk);
        field.copied().unwrap_or([0; N])
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    fn i32(self, at: usize) -> i32 {
        i32::from_ne_bytes(self.array(at))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_ne_bytes(self.array(at))
    }
}

/// Names that end with a zero.
struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    fn next(&mut self) -> Option<super::request::Bytes<'a>> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::WriteFlags;
    use crate::fuse::request::Reply;
    use proptest::prelude::*;

    /// A request's header, for an operation on node 1.
    pub(super) fn header(opcode: u32) -> Header {
        let mut bytes = [0; 40];
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&77u64.to_ne_bytes());
        bytes[16] = 1;
        Header::read(&bytes)
    }

    fn decode<'a>(opcode: u32, args: &[u32], payload: &'a [u8]) -> Asked<'a> {
        let args: Vec<u8> = args.iter().flat_map(|n| n.to_ne_bytes()).collect();
        header(opcode).decode(&args, payload)
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            opcode in 0u32..60,
            args in proptest::collection::vec(any::<u8>(), 0..130),
            payload in proptest::collection::vec(0u8..3, 0..40),
            room in 0usize..200,
        ) {
            if let Asked::Request(_, form) = header(opcode).decode(&args, &payload) {
                let mut payload = vec![0; room];
                for reply in [Reply::Done, Reply::NoEntry, Reply::Bytes(args.clone())] {
                    if let Ok(len) = form.encode(&Ok(reply), &mut payload) {
                        prop_assert!(len <= room);
                    }
                }
            }
        }
    }

    #[test]
    fn names_end_with_zeros_and_are_refused_without() {
        let flags = [0, 0, 0, 0];
        let renamed = decode(45, &[1, 0, 2, 0], b"old\0new\0");
        assert!(matches!(
            renamed,
            Asked::Request(
                Request::Rename { from: InodeNo::ROOT, to: InodeNo::ROOT, flags: 2, name, new_name },
                Form::Empty
            ) if *name == *b"old" && *new_name == *b"new"
        ));
        assert!(matches!(
            decode(12, &flags, b"old\0new"),
            Asked::Refused(libc::EINVAL)
        ));
        assert!(matches!(decode(1, &[], b""), Asked::Refused(libc::EINVAL)));
    }

    #[test]
    fn a_write_has_the_bytes_that_it_names() {
        let args = [0, 0, 4096, 0, 3, 1 << 2, 0, 0, 0, 0];
        let written = decode(16, &args, b"abcdef");
        assert!(matches!(
            written,
            Asked::Request(
                Request::Write { offset: 4096, flags: WriteFlags { kill_priv: true, astray: false, mapped: false }, durable: false, data, .. },
                Form::Written
            ) if *data == *b"abc"
        ));
        assert!(matches!(
            decode(16, &args, b"ab"),
            Asked::Refused(libc::EINVAL)
        ));
    }

    #[test]
    fn a_time_to_set_may_lie_before_1970() {
        let secs = (-2i64) as u64;
        let mut args = [0u32; 22];
        args[0] = 1 << 4 | 1 << 5 | 1 << 8;
        (args[8], args[9], args[14]) = (secs as u32, (secs >> 32) as u32, 500_000_000);
        let Asked::Request(Request::SetAttr { set, .. }, Form::Attr) = decode(4, &args, b"") else {
            panic!("no SETATTR");
        };
        let nanos = 500_000_000;
        assert!(matches!(set.atime, Some(SetTime::At(time)) if time == Time { secs: -2, nanos }));
        assert!(matches!(set.mtime, Some(SetTime::Now)));
        assert_eq!((set.mode, set.size, set.by_handle), (None, None, false));
    }
}

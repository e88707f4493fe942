//! Answers as bytes: a header, and a payload of fields, names or data.

use crate::fs::{Attr, Kind};
use crate::units::InodeNo;

use super::super::reply::{TTL, Told, node_of, number_of};
use super::super::request::{Answer, Reply, Request};
use super::super::service::Entry;
use super::{FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, Header};

/// Bytes of `struct fuse_out_header`.
const OUT_HEADER: usize = 16;
/// Bytes of `struct fuse_entry_out`, and of the attributes at its end.
const ENTRY_OUT: usize = 128;
const ATTR: usize = 88;
const DIRENT: usize = 24;

/// How an answer is encoded.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Nothing but whether it succeeded.
    Empty,
    Entry,
    Attr,
    Created,
    /// With `FOPEN_*` flags.
    Opened(u32),
    Data,
    /// An extended attribute's value, or its length if the caller has no room.
    Xattr(u32),
    Written,
    Offset,
    Statfs,
    /// What an ioctl tells of the attributes.
    Told(Told),
    /// An ioctl without a result.
    Ioctl,
    /// FITRIM, whose argument comes back with the bytes given back in it.
    Trimmed {
        start: u64,
        least: u64,
    },
}

impl Header {
    /// Writes the header of an answer with `payload` bytes, or of an error
    /// (0: none).
    pub fn answer(&self, errno: i32, payload: usize, header: &mut [u8]) {
        let mut out = Out::new(header);
        out.u32((OUT_HEADER + payload) as u32);
        out.u32(errno.wrapping_neg() as u32);
        out.u64(self.unique);
    }
}

impl Form {
    /// Encodes an answer into a payload: its length, or an errno. A payload
    /// that has no room is EIO: the kernel never asks for more than it gives.
    pub fn encode(self, answer: &Answer, payload: &mut [u8]) -> Result<usize, i32> {
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return Err(number_of(error)),
        };
        let mut out = Out::new(payload);
        match (self, reply) {
            (Form::Empty, _) => {}
            (Form::Entry, Reply::Entry(attr)) => out.entry(attr),
            // "There is no such name, and you may remember that": node 0.
            (Form::Entry, _) => {
                out.zeros(16);
                out.u64(TTL.as_secs());
                out.zeros(ENTRY_OUT - 24);
            }
            (Form::Attr, Reply::Attr(attr)) => {
                out.u64(TTL.as_secs());
                out.u64(0);
                out.attr(attr.inode.0.into(), attr);
            }
            (Form::Created, Reply::Created(attr)) => {
                out.entry(attr);
                out.opened(0, FOPEN_KEEP_CACHE);
            }
            (Form::Opened(flags), Reply::Opened { appends: true }) => {
                out.opened(Request::APPENDS, flags | FOPEN_DIRECT_IO);
            }
            (Form::Opened(flags), _) => out.opened(0, flags),
            (Form::Data, Reply::Bytes(bytes)) => out.bytes(bytes),
            (Form::Xattr(0), Reply::Bytes(bytes)) => out.u64(bytes.len() as u64),
            (Form::Xattr(size), Reply::Bytes(bytes)) if bytes.len() <= size as usize => {
                out.bytes(bytes);
            }
            (Form::Xattr(_), Reply::Bytes(_)) => return Err(libc::ERANGE),
            (Form::Written, Reply::Written(len)) => out.u64(u64::from(*len)),
            (Form::Offset, Reply::Offset(at)) => out.u64(*at),
            (Form::Statfs, Reply::Statfs(s)) => {
                for n in [s.blocks, s.free, s.available, s.inodes, s.free_inodes] {
                    out.u64(n);
                }
                for n in [s.block_size, s.name_max, s.block_size] {
                    out.u32(n);
                }
                out.zeros(28);
            }
            (Form::Told(told), Reply::Attr(attr)) => out.ioctl(&told.of(attr)),
            (Form::Ioctl, _) => out.ioctl(&[]),
            (Form::Trimmed { start, least }, Reply::Trimmed(len)) => {
                out.ioctl([start, *len, least].map(u64::to_ne_bytes).as_flattened());
            }
            _ => return Err(libc::EIO),
        }
        out.len().ok_or(libc::EIO)
    }
}

/// A listing under way in a payload.
pub struct Listing<'p> {
    payload: &'p mut [u8],
    len: usize,
    plus: bool,
}

impl<'p> Listing<'p> {
    /// Into a payload, with attributes if `plus`.
    pub fn new(payload: &'p mut [u8], plus: bool) -> Self {
        Listing {
            payload,
            len: 0,
            plus,
        }
    }

    /// Takes an entry, if there is room for it.
    pub fn add(&mut self, entry: &Entry<'_>) -> bool {
        let head = if self.plus { ENTRY_OUT } else { 0 } + DIRENT;
        let len = (head + entry.name.len()).next_multiple_of(8);
        let Some(room) = self.payload.get_mut(self.len..self.len + len) else {
            return false;
        };
        let mut out = Out::new(room);
        match (&entry.attr, self.plus) {
            (_, false) => {}
            (Some(attr), true) => out.entry(attr),
            (None, true) => out.unreadable(entry.inode, entry.kind),
        }
        out.u64(entry.inode.0.into());
        out.u64(entry.cookie);
        out.u32(entry.name.len() as u32);
        out.u32(mode_of(entry.kind) >> 12);
        out.bytes(entry.name);
        out.zeros(len - head - entry.name.len());
        self.len += len;
        true
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.len
    }
}

fn mode_of(kind: Kind) -> u32 {
    match kind {
        Kind::Regular => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
    }
}

/// Writes fields one behind the other, and notices when there is no room.
struct Out<'p> {
    to: &'p mut [u8],
    /// Beyond the end of `to` if something did not fit.
    len: usize,
}

impl<'p> Out<'p> {
    fn new(to: &'p mut [u8]) -> Self {
        Out { to, len: 0 }
    }

    fn len(&self) -> Option<usize> {
        (self.len <= self.to.len()).then_some(self.len)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(to) = self.to.get_mut(self.len..end) {
            to.copy_from_slice(bytes);
        }
        self.len = end;
    }

    fn zeros(&mut self, count: usize) {
        let end = self.len + count;
        if let Some(to) = self.to.get_mut(self.len..end) {
            to.fill(0);
        }
        self.len = end;
    }

    fn u32(&mut self, n: u32) {
        self.bytes(&n.to_ne_bytes());
    }

    fn u64(&mut self, n: u64) {
        self.bytes(&n.to_ne_bytes());
    }

    /// `struct fuse_entry_out`
    fn entry(&mut self, attr: &Attr) {
        self.u64(node_of(attr.inode));
        self.u64(u64::from(attr.generation));
        self.u64(TTL.as_secs());
        self.u64(TTL.as_secs());
        self.u64(0); // nanoseconds of both
        self.attr(node_of(attr.inode), attr);
    }

    /// An entry whose inode can't be read: as [`crate::fuse::reply::unreadable`].
    fn unreadable(&mut self, inode: InodeNo, kind: Kind) {
        self.u64(node_of(inode));
        self.zeros(ENTRY_OUT - ATTR - 8);
        self.u64(node_of(inode));
        self.u64(u64::MAX);
        self.zeros(44);
        self.u32(mode_of(kind));
        self.zeros(ATTR - 64);
    }

    /// `struct fuse_attr`, with the number that stat(2) tells.
    fn attr(&mut self, number: u64, attr: &Attr) {
        let times = [attr.atime, attr.mtime, attr.ctime];
        for n in [number, attr.size, attr.blocks] {
            self.u64(n);
        }
        for time in times {
            self.u64(time.secs as u64);
        }
        for time in times {
            self.u32(time.nanos);
        }
        let mode = mode_of(attr.kind) | u32::from(attr.perm);
        for n in [mode, attr.links, attr.uid, attr.gid, attr.rdev, 4096, 0] {
            self.u32(n);
        }
    }

    /// `struct fuse_open_out`
    fn opened(&mut self, handle: u64, flags: u32) {
        self.u64(handle);
        self.u32(flags);
        self.u32(0);
    }

    /// `struct fuse_ioctl_out` and what the ioctl gives.
    fn ioctl(&mut self, result: &[u8]) {
        self.zeros(8);
        self.u32(1);
        self.u32(1);
        self.bytes(result);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::header;
    use super::*;

    #[test]
    fn an_answer_names_its_request_and_its_error() {
        let mut out = [0; 16];
        header(1).answer(libc::ENOENT, 0, &mut out);
        assert_eq!(out[..4], 16u32.to_ne_bytes());
        assert_eq!(out[4..8], (-libc::ENOENT).to_ne_bytes());
        assert_eq!(out[8..], 77u64.to_ne_bytes());
    }

    #[test]
    fn a_listing_takes_what_has_room_in_whole_entries() {
        let entry = |name| Entry {
            cookie: 5,
            name,
            inode: InodeNo(12),
            kind: Kind::Directory,
            attr: None,
        };
        let mut payload = [0xff; 80];
        let mut listing = Listing::new(&mut payload, false);
        assert!(listing.add(&entry(b"one")));
        assert!(listing.add(&entry(b"the other")));
        assert!(!listing.add(&entry(b"third")));
        assert_eq!(listing.len(), 32 + 40);
    }
}

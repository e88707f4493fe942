//! A file or a tree, taken out of an instant to the host.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Instant, Result};
use crate::fs::{self as ext4fs, Access, Attr, Caller, Fs, Kind, Whence};
use crate::units::{InodeNo, Time};

/// Bytes read at a time.
const PIECE: u32 = 1 << 20;
/// Symbolic links on the way, at most, as the kernel has it.
const LINKS: usize = 40;

/// A file, directory or whatever else, as it was.
pub struct Taken {
    fs: Arc<Fs>,
    attr: Attr,
}

impl Taken {
    /// Finds a path from the root; symbolic links are followed, within the
    /// image, but for the last.
    pub fn find(instant: &Instant, path: &[u8]) -> Result<Taken> {
        let fs = instant.fs(Access::Fakeroot)?;
        let attr = walk(&fs, path)?;
        Ok(Taken { fs, attr })
    }

    /// What it was.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Whether it was a regular file.
    pub fn is_file(&self) -> bool {
        self.attr.kind == Kind::Regular
    }

    /// Writes a file's bytes.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        while at < self.attr.size {
            let bytes = self.fs.read(self.attr.inode, at, PIECE).map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            out.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Makes the same on the host, with all that is in it; `to` must not
    /// exist, and does not after an error. Owners and attributes of the system
    /// are kept where the caller may set them. An error of the host has its
    /// number; one without is the image's.
    pub fn copy_to(&self, to: &Path) -> io::Result<()> {
        if to.symlink_metadata().is_ok() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let mut copy = Copy {
            fs: &self.fs,
            links: HashMap::new(),
        };
        // Half of it would look like all. (But never what somebody else has just made.)
        copy.put(&self.attr, to).inspect_err(|e| {
            let _ = match self.attr.kind {
                _ if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
                Kind::Directory => fs::remove_dir_all(to),
                _ => fs::remove_file(to),
            };
        })
    }
}

/// The inode that a path leads to.
fn walk(fs: &Fs, path: &[u8]) -> Result<Attr> {
    let by = Caller::default();
    let mut at = fs.getattr(InodeNo::ROOT)?;
    let mut above = Vec::new();
    let mut todo: Vec<Vec<u8>> = names(path).rev().collect();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == b".." {
            at = above.pop().unwrap_or(at);
            continue;
        }
        let next = fs.lookup(&by, at.inode, &name)?;
        fs.forget(next.inode, 1);
        if next.kind == Kind::Symlink && !todo.is_empty() {
            links += 1;
            if links > LINKS {
                return Err(ext4fs::Error::Invalid.into());
            }
            let target = fs.readlink(next.inode)?;
            if target.starts_with(b"/") {
                above.clear();
                at = fs.getattr(InodeNo::ROOT)?;
            }
            todo.extend(names(&target).rev());
            continue;
        }
        above.push(std::mem::replace(&mut at, next));
    }
    Ok(at)
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    let names = path.split(|byte| *byte == b'/');
    names
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
}

struct Copy<'f> {
    fs: &'f Fs,
    /// Where inodes with several names have been put.
    links: HashMap<InodeNo, PathBuf>,
}

impl Copy<'_> {
    fn put(&mut self, attr: &Attr, to: &Path) -> io::Result<()> {
        if let Some(known) = self.links.get(&attr.inode) {
            return fs::hard_link(known, to);
        }
        match attr.kind {
            Kind::Directory => {
                fs::create_dir(to)?;
                for (name, child) in self.children(attr.inode)? {
                    self.put(&child, &to.join(OsStr::from_bytes(&name)))?;
                }
            }
            Kind::Regular => self.contents(attr, to)?,
            Kind::Symlink => {
                let target = self.fs.readlink(attr.inode).map_err(failed)?;
                symlink(OsStr::from_bytes(&target), to)?;
            }
            _ => special(attr, to)?,
        }
        if attr.links > 1 && attr.kind != Kind::Directory {
            self.links.insert(attr.inode, to.to_owned());
        }
        self.dress(attr, to)
    }

    fn children(&self, dir: InodeNo) -> io::Result<Vec<(Vec<u8>, Attr)>> {
        let mut children = Vec::new();
        let by = Caller::default();
        let mut damaged = None;
        let listed = self
            .fs
            .readdirplus(&by, dir, 0, &mut |_, name, inode, _, attr| {
                match attr {
                    Some(attr) if name != b"." && name != b".." => {
                        children.push((name.to_vec(), *attr));
                    }
                    Some(_) => {}
                    None => damaged = Some(inode),
                }
                damaged.is_none()
            });
        listed.map_err(failed)?;
        match damaged {
            Some(inode) => Err(io::Error::other(format!("inode {inode} can't be read"))),
            None => Ok(children),
        }
    }

    /// Holes stay holes.
    fn contents(&self, attr: &Attr, to: &Path) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let file = File::options().write(true).create_new(true).open(to)?;
        file.set_len(attr.size)?;
        let mut at = 0;
        while at < attr.size {
            let Ok(start) = self.fs.seek(attr.inode, at, Whence::Data) else {
                break;
            };
            let end = self
                .fs
                .seek(attr.inode, start, Whence::Hole)
                .map_err(failed)?;
            at = start;
            while at < end {
                let len = (end - at).min(PIECE.into()) as u32;
                let bytes = self.fs.read(attr.inode, at, len).map_err(failed)?;
                if bytes.is_empty() {
                    break;
                }
                file.write_all_at(&bytes, at)?;
                at += bytes.len() as u64;
            }
            at = at.max(end);
        }
        Ok(())
    }

    /// Owner, mode, attributes and times, in this order: each may undo one
    /// before.
    fn dress(&self, attr: &Attr, to: &Path) -> io::Result<()> {
        let link = attr.kind == Kind::Symlink;
        let (uid, gid) = (Some(attr.uid), Some(attr.gid));
        let _ = if link {
            lchown(to, uid, gid)
        } else {
            chown(to, uid, gid)
        };
        if !link {
            fs::set_permissions(to, Permissions::from_mode(attr.perm.into()))?;
        }
        for (name, value) in self.attributes(attr.inode)? {
            let set = xattr::set(to, OsStr::from_bytes(&name), &value);
            if name.starts_with(b"user.") && !link {
                set?;
            }
        }
        let time = |time: Time| rustix::fs::Timespec {
            tv_sec: time.secs,
            tv_nsec: time.nanos.into(),
        };
        let times = rustix::fs::Timestamps {
            last_access: time(attr.atime),
            last_modification: time(attr.mtime),
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(rustix::fs::CWD, to, &times, flags)?)
    }

    fn attributes(&self, inode: InodeNo) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let by = Caller::default();
        let names = self.fs.listxattr(&by, inode).map_err(failed)?;
        let names = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        names
            .map(|name| {
                let value = self.fs.getxattr(&by, inode, name).map_err(failed)?;
                Ok((name.to_vec(), value))
            })
            .collect()
    }
}

/// Fifos, sockets and devices.
fn special(attr: &Attr, to: &Path) -> io::Result<()> {
    use rustix::fs::FileType;
    let kind = match attr.kind {
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Socket => FileType::Socket,
        _ => FileType::Fifo,
    };
    let mode = rustix::fs::Mode::from_raw_mode(attr.perm.into());
    Ok(rustix::fs::mknodat(
        rustix::fs::CWD,
        to,
        kind,
        mode,
        attr.rdev.into(),
    )?)
}

fn failed(error: ext4fs::Error) -> io::Error {
    io::Error::other(error.to_string())
}

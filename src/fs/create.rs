//! New inodes: regular files, devices, directories, symlinks.
//!
//! What a new inode inherits from its directory: the group and the setgid
//! bit, if the directory has that bit (with `-o grpid` always the group, and
//! never the bit); the access control list, if it has a
//! default one (then the umask counts for nothing); most of chattr(1)'s flags.

use super::attr::{attr, kind};
use super::inode::{self, store};
use super::name::{check_name, grow_links};
use super::{Attr, Caller, Done, Error, Fs, Result, alloc, dir, map, xattr};
use crate::ext4::checksum::crc32c;
use crate::ext4::inode::{Inode, flag, mode};
use crate::ext4::xattr::{ACL_ACCESS, ACL_DEFAULT};
use crate::journal::record::Name;
use crate::journal::{Op, Txn};
use crate::units::{FileBlock, InodeNo, Time};

const SGID: u16 = 0o2000;
/// Targets up to this length lie in `i_block`, with a NUL behind them.
const SHORT_TARGET: usize = 59;

/// What is to be made.
struct New<'a> {
    /// Type and permission bits, before the umask.
    mode: u16,
    umask: u16,
    rdev: u32,
    target: &'a [u8],
}

impl Fs {
    /// A regular file (`mode`: permission bits).
    pub fn create(
        &self,
        by: &Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u16,
        umask: u16,
    ) -> Result<Done<Attr>> {
        let mode = mode & 0o7777 | mode::REGULAR;
        self.make(
            by,
            parent,
            name,
            New {
                mode,
                umask,
                rdev: 0,
                target: b"",
            },
        )
    }

    /// Anything but a directory or a symlink, by the type bits of `mode`.
    pub fn mknod(
        &self,
        by: &Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u16,
        umask: u16,
        rdev: u32,
    ) -> Result<Done<Attr>> {
        let (mode, rdev) = match mode & mode::TYPE {
            0 => (mode | mode::REGULAR, 0),
            mode::REGULAR | mode::FIFO | mode::SOCKET => (mode, 0),
            mode::CHAR | mode::BLOCK => {
                self.is_root(by)?;
                (mode, rdev)
            }
            mode::DIRECTORY => return Err(Error::NotPermitted),
            _ => return Err(Error::Invalid),
        };
        self.make(
            by,
            parent,
            name,
            New {
                mode,
                umask,
                rdev,
                target: b"",
            },
        )
    }

    /// A directory (`mode`: permission bits).
    pub fn mkdir(
        &self,
        by: &Caller,
        parent: InodeNo,
        name: &[u8],
        mode: u16,
        umask: u16,
    ) -> Result<Done<Attr>> {
        let mode = mode & 0o7777 | mode::DIRECTORY;
        self.make(
            by,
            parent,
            name,
            New {
                mode,
                umask,
                rdev: 0,
                target: b"",
            },
        )
    }

    /// A symlink.
    pub fn symlink(
        &self,
        by: &Caller,
        parent: InodeNo,
        name: &[u8],
        target: &[u8],
    ) -> Result<Done<Attr>> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.contains(&0) {
            return Err(Error::Invalid);
        }
        if target.len() >= self.sb.block_size as usize {
            return Err(Error::NameTooLong);
        }
        self.make(
            by,
            parent,
            name,
            New {
                mode: mode::SYMLINK | 0o777,
                umask: 0,
                rdev: 0,
                target,
            },
        )
    }

    fn make(&self, by: &Caller, parent: InodeNo, name: &[u8], new: New<'_>) -> Result<Done<Attr>> {
        check_name(name)?;
        let time = self.now();
        let mut txn = self.begin()?;
        let mut dir = self.directory(&txn, by, parent)?;
        if dir::lookup(&txn, &self.sb, &dir, name)?.is_some() {
            return Err(Error::Exists);
        }
        self.may_add(&txn, by, &dir)?;

        let mut inode = self.new_inode(&mut txn, by, &mut dir, &new, time)?;
        self.fill(&mut txn, by, &mut inode, &dir, &new)?;
        let file_type = kind(&inode)?.in_entry();
        self.insert(&mut txn, by, &mut dir, name, inode.number, file_type)?;
        (dir.mtime, dir.ctime) = (time, time);
        inode::create(&mut txn, &self.sb, &inode)?;
        store(&mut txn, &self.sb, &dir)?;
        let lsn = txn.commit(&Op::Create {
            by: by.into(),
            at: Name {
                parent,
                name: name.to_vec(),
            },
            inode: inode.number,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            rdev: new.rdev,
            target: new.target.to_vec(),
            time,
        })?;
        self.hints.note(inode.number, parent, name);
        Ok(Done {
            value: attr(&inode)?,
            lsn: Some(lsn),
            durable: dir.is_dirsync(),
        })
    }

    /// An inode with owner, mode and access control lists.
    fn new_inode(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        dir: &mut Inode,
        new: &New<'_>,
        time: Time,
    ) -> Result<Inode> {
        let directory = new.mode & mode::TYPE == mode::DIRECTORY;
        if directory {
            grow_links(&self.sb, dir)?;
        }
        let busy = |number| self.busy(number);
        let number = alloc::new_inode(txn, &self.sb, &self.full, dir.number, directory, &busy)?;
        let generation = self.generation(number, time);
        let mut inode = Inode::new(number, new.mode, generation, time, &self.sb);
        inode.flags |= flag::inherited(dir.flags, inode.kind());
        let (sgid, grpid) = (dir.mode & SGID != 0, self.options.grpid);
        inode.uid = by.uid;
        inode.gid = if sgid || grpid { dir.gid } else { by.gid };
        inode.links = if directory { 2 } else { 1 };
        if sgid && !grpid && directory {
            inode.mode |= SGID;
        }
        self.inherit_lists(txn, by, dir, &mut inode, new.umask)?;
        // Who isn't in the group can't make programs that run as it.
        if sgid
            && inode.mode & (SGID | 0o010) == SGID | 0o010
            && !directory
            && !self.speaks_for_group(by, inode.gid)
        {
            inode.mode &= !SGID;
        }
        Ok(inode)
    }

    /// Applies the directory's default list, or else the umask.
    fn inherit_lists(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        dir: &Inode,
        inode: &mut Inode,
        umask: u16,
    ) -> Result<()> {
        if inode.kind() == mode::SYMLINK {
            return Ok(());
        }
        let Some(default) = xattr::default_list(txn, &self.sb, dir)? else {
            inode.mode &= !(umask & 0o777);
            return Ok(());
        };
        let (acl, mode) = default.inherited(inode.mode);
        inode.mode = mode;
        let keep = self.kept(by);
        if inode.kind() == mode::DIRECTORY {
            xattr::store_list(txn, &self.sb, inode, ACL_DEFAULT, &default, keep)?;
        }
        if !acl.is_just_mode() {
            xattr::store_list(txn, &self.sb, inode, ACL_ACCESS, &acl, keep)?;
        }
        Ok(())
    }

    /// Gives the inode what its type needs.
    fn fill(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        inode: &mut Inode,
        dir: &Inode,
        new: &New<'_>,
    ) -> Result<()> {
        match inode.kind() {
            mode::DIRECTORY => dir::init(txn, &self.sb, inode, dir.number, self.kept(by)),
            mode::CHAR | mode::BLOCK => {
                inode.set_device(new.rdev);
                Ok(())
            }
            mode::SYMLINK => self.fill_symlink(txn, inode, new.target, self.kept(by)),
            _ => Ok(()),
        }
    }

    fn fill_symlink(
        &self,
        txn: &mut Txn<'_>,
        inode: &mut Inode,
        target: &[u8],
        keep: u64,
    ) -> Result<()> {
        inode.size = target.len() as u64;
        if target.len() <= SHORT_TARGET {
            inode.block[..target.len()].copy_from_slice(target);
            return Ok(());
        }
        if self.sb.has_extents() {
            inode.init_extents();
        }
        let (block, _) = map::allocate(txn, &self.sb, inode, FileBlock(0), 1, false, keep)?;
        txn.fresh(block)?[..target.len()].copy_from_slice(target);
        Ok(())
    }

    /// Tells an inode from earlier ones of its number. Drawn from the time,
    /// so that a run on an injected clock repeats to the byte.
    fn generation(&self, number: InodeNo, time: Time) -> u32 {
        let seed = crc32c(self.sb.csum_seed, &number.0.to_le_bytes());
        let seed = crc32c(seed, &time.secs.to_le_bytes());
        crc32c(seed, &time.nanos.to_le_bytes())
    }
}

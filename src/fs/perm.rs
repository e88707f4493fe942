//! Who may do what.
//!
//! With [`Access::Check`] mode bits, access control lists, ownership and the
//! sticky bit are judged here; with [`Access::Kernel`] the kernel has done
//! that before it asked, and with [`Access::Fakeroot`] nobody does. What
//! marks an inode immutable or append-only holds for everyone, root too.

use super::{Access, Caller, Error, Fs, Result, xattr};
use crate::ext4::inode::{Inode, flag, mode};
use crate::journal::Blocks;
use crate::units::InodeNo;

/// Permission to read.
pub const READ: u16 = 4;
/// Permission to write.
pub const WRITE: u16 = 2;
/// Permission to execute, or to search a directory.
pub const EXEC: u16 = 1;

const STICKY: u16 = 0o1000;

impl Fs {
    /// access(2): whether the caller may do all of `mask` (0: the inode exists).
    pub fn access(&self, by: &Caller, inode: InodeNo, mask: u32) -> Result<()> {
        let view = self.view();
        let (inode, _) = self.load_or_gone(&view, inode)?;
        let mask = mask as u16 & 7;
        self.may(&view, by, &inode, mask)?;
        let special = matches!(
            inode.kind(),
            mode::REGULAR | mode::DIRECTORY | mode::SYMLINK
        );
        match mask & WRITE != 0 && special {
            true => {
                self.writable()?;
                self.mutable(&inode)
            }
            false => Ok(()),
        }
    }

    /// Fails unless the caller may do all of `want`.
    pub(super) fn may(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        inode: &Inode,
        want: u16,
    ) -> Result<()> {
        if self.options.access != Access::Check {
            return Ok(());
        }
        let allowed = match by.uid {
            0 => want & EXEC == 0 || inode.kind() == mode::DIRECTORY || inode.mode & 0o111 != 0,
            uid if uid == inode.uid => want & !(inode.mode >> 6) & 7 == 0,
            _ => self.others_may(blocks, by, inode, want)?,
        };
        if allowed { Ok(()) } else { Err(Error::Access) }
    }

    /// The same, for one who isn't the owner.
    fn others_may(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        inode: &Inode,
        want: u16,
    ) -> Result<bool> {
        // Where the group bits (the mask) give nothing, a list can't either.
        if inode.mode & 0o070 != 0
            && let Some(acl) = xattr::access_list(blocks, &self.sb, inode)?
        {
            let in_group = |id: Option<u32>| by.in_group(id.unwrap_or(inode.gid));
            return Ok(acl.permits(want, by.uid, false, &in_group));
        }
        // Groups are looked up only where they make a difference.
        let (group, other) = (inode.mode >> 3 & 7, inode.mode & 7);
        let differ = (group ^ other) & want != 0;
        let bits = if differ && by.in_group(inode.gid) {
            group
        } else {
            other
        };
        Ok(want & !bits & 7 == 0)
    }

    /// Whether the caller, whoever checks permissions, might take suid and
    /// sgid away: by a chown as the owner, or by writing.
    pub(super) fn might_strip(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        inode: &Inode,
    ) -> Result<bool> {
        match self.stands_for_root(by) || by.uid == inode.uid {
            true => Ok(true),
            false => self.others_may(blocks, by, inode, WRITE),
        }
    }

    /// Whether ownership doesn't matter: the caller is root, or stands for it,
    /// or the kernel has judged already.
    fn is_exempt(&self, by: &Caller) -> bool {
        self.options.access != Access::Check || by.uid == 0
    }

    /// Fails unless the caller is the owner or root.
    pub(super) fn owns(&self, by: &Caller, inode: &Inode) -> Result<()> {
        match self.is_exempt(by) || by.uid == inode.uid {
            true => Ok(()),
            false => Err(Error::NotPermitted),
        }
    }

    /// Fails unless the caller is root.
    pub(super) fn is_root(&self, by: &Caller) -> Result<()> {
        if self.is_exempt(by) {
            Ok(())
        } else {
            Err(Error::NotPermitted)
        }
    }

    /// Whether the caller may hand on the group's rights (setgid): a member,
    /// or root.
    pub(super) fn speaks_for_group(&self, by: &Caller, gid: u32) -> bool {
        self.stands_for_root(by) || by.in_group(gid)
    }

    /// Whether the caller is root or counts as root, whoever checks permissions:
    /// for rights that only ext4 asks for.
    pub(super) fn stands_for_root(&self, by: &Caller) -> bool {
        by.uid == 0 || self.options.access == Access::Fakeroot
    }

    /// Fails if the inode is marked immutable.
    pub(super) fn mutable(&self, inode: &Inode) -> Result<()> {
        if inode.has(flag::IMMUTABLE) {
            Err(Error::NotPermitted)
        } else {
            Ok(())
        }
    }

    /// Fails if the inode is marked immutable or append-only.
    pub(super) fn alterable(&self, inode: &Inode) -> Result<()> {
        if inode.has(flag::IMMUTABLE | flag::APPEND) {
            Err(Error::NotPermitted)
        } else {
            Ok(())
        }
    }

    /// Fails unless names may be added to the directory.
    pub(super) fn may_add(&self, blocks: &dyn Blocks, by: &Caller, dir: &Inode) -> Result<()> {
        self.may(blocks, by, dir, WRITE | EXEC)?;
        self.mutable(dir)
    }

    /// Fails unless this inode's name may be taken out of the directory.
    pub(super) fn may_take(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        dir: &Inode,
        victim: &Inode,
    ) -> Result<()> {
        self.may(blocks, by, dir, WRITE | EXEC)?;
        self.alterable(dir)?;
        self.alterable(victim)?;
        if dir.mode & STICKY != 0 && by.uid != dir.uid {
            self.owns(by, victim)?;
        }
        Ok(())
    }
}

//! Attributes: what stat(2) shows, and what chmod, chown, utimens and
//! truncate change.

use super::inode::{load_file, store};
use super::orphan::Later;
use super::perm::WRITE;
use super::{Attr, Caller, Done, Error, Fs, Kind, Result, SetAttr, SetTime, layout, xattr};
use crate::ext4::Corrupt;
use crate::ext4::inode::{Inode, flag, mode};
use crate::ext4::xattr::ACL_ACCESS;
use crate::journal::{Blocks, Op, Txn};
use crate::units::{BlockNo, InodeNo};

const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;
const GROUP_EXEC: u16 = 0o010;

impl Fs {
    /// stat(2). A removed inode that the kernel still holds, as some
    /// program's working directory, is as it was in the end.
    pub fn getattr(&self, inode: InodeNo) -> Result<Attr> {
        match load_file(&self.view(), &self.sb, inode) {
            Ok(inode) => attr(&inode),
            Err(Error::Stale) => attr(&self.tables.lock().gone(inode).ok_or(Error::Stale)?),
            Err(error) => Err(error),
        }
    }

    /// chmod, chown, truncate and utimens in one: only what is `Some` changes.
    /// If nothing is, suid and sgid are to go: the kernel asks for that before
    /// a write, and at a chown that changes nobody. Who may do neither is not
    /// told apart, and so nothing happens then.
    pub fn setattr(&self, by: &Caller, inode: InodeNo, set: &SetAttr) -> Result<Done<Attr>> {
        if set.size.is_some() {
            self.settle(inode)?;
        }
        let time = self.now();
        let mut txn = self.begin()?;
        let (mut inode, gone) = self.load_or_gone(&txn, inode)?;
        self.may_change(&txn, by, &inode, set)?;
        let before = inode.mode;
        let strips = set.is_empty() && self.might_strip(&txn, by, &inode)?;
        if set.uid.is_some() || set.gid.is_some() || strips {
            self.change_owner(&mut txn, by, &mut inode, set)?;
        }
        if let Some(mode) = set.mode {
            self.change_mode(&mut txn, by, &mut inode, mode)?;
        }
        let later = match set.size {
            Some(size) => self.change_size(&mut txn, by, &mut inode, size)?,
            None => Later::default(),
        };
        let at = |set: SetTime| match set {
            SetTime::Now => time,
            SetTime::At(time) => inode.nearest(time),
        };
        let atime = set.atime.map(at);
        let mtime = set.mtime.map(at).or(set.size.map(|_| time));
        inode.atime = atime.unwrap_or(inode.atime);
        inode.mtime = mtime.unwrap_or(inode.mtime);
        inode.ctime = time;
        if gone {
            let value = attr(&inode)?;
            return self.keep_gone(inode, value);
        }
        store(&mut txn, &self.sb, &inode)?;
        let lsn = txn.commit(&Op::SetAttr {
            by: by.into(),
            inode: inode.number,
            // As it became: with what an owner or a size took away.
            mode: (set.mode.is_some() || inode.mode != before).then_some(inode.mode & 0o7777),
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime,
            mtime,
            ctime: time,
        })?;
        self.finish(later)?;
        Ok(Done {
            value: attr(&inode)?,
            lsn: Some(lsn),
            durable: inode.is_sync(),
        })
    }

    /// Whether it has one of these flags.
    pub fn has_flag(&self, inode: InodeNo, flags: u32) -> bool {
        load_file(&self.view(), &self.sb, inode).is_ok_and(|inode| inode.has(flags))
    }

    /// An inode; or, and then true, a removed directory that somebody is still
    /// in, as it was in the end. What is changed of it goes to [`Fs::keep_gone`].
    pub(super) fn load_or_gone(
        &self,
        blocks: &dyn Blocks,
        number: InodeNo,
    ) -> Result<(Inode, bool)> {
        match load_file(blocks, &self.sb, number) {
            Err(Error::Stale) => {
                let last = self.tables.lock().gone(number);
                let last = last.filter(|last| last.kind() == mode::DIRECTORY);
                Ok((last.ok_or(Error::Stale)?, true))
            }
            found => Ok((found?, false)),
        }
    }

    /// Keeps what a removed directory has become. Nothing of it is in the
    /// image, and so the transaction is given up, with any block that was taken
    /// for attributes.
    pub(super) fn keep_gone<T>(&self, inode: Inode, value: T) -> Result<Done<T>> {
        if inode.file_acl != 0 {
            return Err(Error::NoSpace);
        }
        self.tables.lock().remember_gone(inode);
        Ok(Done::nothing(value))
    }

    /// chattr(1): what `i_flags` are to be, as to those `among` them. Flags that
    /// can be seen and not changed are passed over, since programs give back
    /// what they got; others that an inode can't have are refused.
    pub fn set_flags(
        &self,
        by: &Caller,
        inode: InodeNo,
        flags: u32,
        among: u32,
    ) -> Result<Done<Attr>> {
        let time = self.now();
        let mut txn = self.begin()?;
        let mut inode = load_file(&txn, &self.sb, inode)?;
        self.owns(by, &inode)?;
        let flags = inode.flags & flag::VISIBLE & !among | flags & among;
        let (changed, was_sync) = ((flags ^ inode.flags) & flag::CHANGEABLE, inode.is_sync());
        if changed & (flag::IMMUTABLE | flag::APPEND) != 0 {
            self.is_root(by)?;
        }
        let impossible = match inode.kind() {
            mode::DIRECTORY => flag::CASEFOLD,
            _ => flag::CASEFOLD | flag::DIRSYNC | flag::TOPDIR | flag::PROJINHERIT,
        };
        if flags & (impossible | !flag::VISIBLE) != 0 {
            return Err(Error::Unsupported);
        }
        if inode.has(flag::IMMUTABLE) && flags & flag::IMMUTABLE != 0 && changed != 0 {
            return Err(Error::NotPermitted);
        }
        if changed & flag::JOURNAL_DATA != 0 && !self.stands_for_root(by) {
            return Err(Error::NotPermitted);
        }
        if changed & flag::EXTENTS != 0 {
            layout::turn(&txn, &self.sb, &mut inode)?;
        }
        inode.flags ^= changed & !flag::EXTENTS;
        inode.ctime = time;
        store(&mut txn, &self.sb, &inode)?;
        let lsn = txn.commit(&Op::SetFlags {
            by: by.into(),
            inode: inode.number,
            flags: inode.flags,
            time,
        })?;
        self.tell_changed(inode.number);
        Ok(Done {
            value: attr(&inode)?,
            lsn: Some(lsn),
            durable: was_sync || inode.is_sync(),
        })
    }

    /// Fails unless the caller may change all of this.
    fn may_change(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        inode: &Inode,
        set: &SetAttr,
    ) -> Result<()> {
        self.mutable(inode)?;
        let times = [set.atime, set.mtime];
        let explicit = times
            .iter()
            .flatten()
            .any(|time| matches!(time, SetTime::At(_)));
        if set.mode.is_some()
            || set.uid.is_some()
            || set.gid.is_some()
            || set.size.is_some()
            || explicit
        {
            self.alterable(inode)?;
        }
        if set.uid.is_some_and(|uid| uid != inode.uid) {
            self.is_root(by)?;
        }
        if set
            .gid
            .is_some_and(|gid| gid != inode.gid && !by.in_group(gid))
        {
            self.is_root(by)?;
        }
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || explicit {
            self.owns(by, inode)?;
        }
        if set.size.is_some() && !set.by_handle {
            self.may(blocks, by, inode, WRITE)?;
        }
        let touches = set.size.is_none() && times.iter().any(Option::is_some);
        if touches && self.owns(by, inode).is_err() {
            self.may(blocks, by, inode, WRITE)?;
        }
        Ok(())
    }

    /// chown(2), which takes a program's privileges away.
    fn change_owner(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        inode: &mut Inode,
        set: &SetAttr,
    ) -> Result<()> {
        let kept = kept_priv(by, inode);
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        if inode.kind() != mode::DIRECTORY {
            inode.mode = inode.mode & !(SUID | SGID) | kept;
            xattr::kill_capability(txn, &self.sb, inode)?;
        }
        Ok(())
    }

    /// chmod(2): an access control list changes with the bits.
    fn change_mode(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        inode: &mut Inode,
        mode: u16,
    ) -> Result<()> {
        inode.mode = inode.mode & mode::TYPE | mode & 0o7777;
        if !self.speaks_for_group(by, inode.gid) {
            inode.mode &= !SGID;
        }
        if let Some(mut acl) = xattr::access_list(txn, &self.sb, inode)? {
            acl.set_mode(inode.mode);
            xattr::store_list(txn, &self.sb, inode, ACL_ACCESS, &acl, self.kept(by))?;
        }
        Ok(())
    }

    /// truncate(2).
    fn change_size(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        inode: &mut Inode,
        size: u64,
    ) -> Result<Later> {
        if by.uid != 0 {
            kill_priv(by, inode);
        }
        xattr::kill_capability(txn, &self.sb, inode)?;
        self.resize(txn, inode, size)
    }
}

impl Kind {
    /// From the type bits of `i_mode`.
    pub fn of_mode(mode: u16) -> Option<Self> {
        Some(match mode & mode::TYPE {
            mode::REGULAR => Kind::Regular,
            mode::DIRECTORY => Kind::Directory,
            mode::SYMLINK => Kind::Symlink,
            mode::CHAR => Kind::CharDevice,
            mode::BLOCK => Kind::BlockDevice,
            mode::FIFO => Kind::Fifo,
            mode::SOCKET => Kind::Socket,
            _ => return None,
        })
    }

    /// From a directory entry's `file_type`; `None`: the inode knows.
    pub fn of_entry(file_type: u8) -> Option<Self> {
        Some(match file_type {
            1 => Kind::Regular,
            2 => Kind::Directory,
            3 => Kind::CharDevice,
            4 => Kind::BlockDevice,
            5 => Kind::Fifo,
            6 => Kind::Socket,
            7 => Kind::Symlink,
            _ => return None,
        })
    }

    /// As a directory entry's `file_type`.
    pub fn in_entry(self) -> u8 {
        match self {
            Kind::Regular => 1,
            Kind::Directory => 2,
            Kind::CharDevice => 3,
            Kind::BlockDevice => 4,
            Kind::Fifo => 5,
            Kind::Socket => 6,
            Kind::Symlink => 7,
        }
    }
}

/// As the kernel does when a file's data change: suid goes, and sgid where it
/// means running, or where the caller does not speak for the group. Whether
/// any was there.
pub(super) fn kill_priv(by: &Caller, inode: &mut Inode) -> bool {
    let before = inode.mode;
    inode.mode = inode.mode & !(SUID | SGID) | kept_priv(by, inode);
    inode.mode != before
}

/// What it leaves.
fn kept_priv(by: &Caller, inode: &Inode) -> u16 {
    match inode.mode & SGID != 0
        && inode.mode & GROUP_EXEC == 0
        && (by.uid == 0 || by.in_group(inode.gid))
    {
        true => SGID,
        false => 0,
    }
}

/// What an inode is.
pub(super) fn kind(inode: &Inode) -> Result<Kind> {
    Kind::of_mode(inode.mode).ok_or_else(|| {
        let (what, value) = (format!("inode {}", inode.number), inode.mode.into());
        Corrupt::Field {
            what,
            field: "i_mode",
            value,
        }
        .at(inode.number, BlockNo(0))
        .into()
    })
}

/// An inode as stat(2) shows it.
pub(super) fn attr(inode: &Inode) -> Result<Attr> {
    let kind = kind(inode)?;
    let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Ok(Attr {
        inode: inode.number,
        generation: inode.generation,
        kind,
        perm: inode.mode & 0o7777,
        links: inode.links.into(),
        uid: inode.uid,
        gid: inode.gid,
        rdev: if device { inode.device() } else { 0 },
        size: inode.size,
        blocks: inode.blocks,
        atime: inode.nearest(inode.atime),
        mtime: inode.nearest(inode.mtime),
        ctime: inode.nearest(inode.ctime),
        crtime: inode.nearest(inode.crtime),
        flags: inode.flags & flag::VISIBLE,
    })
}

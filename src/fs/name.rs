//! Names: find, link, unlink, list.

use super::attr::{attr, kind};
use super::file::read_at;
use super::inode::{load_file, named, store};
use super::orphan::Later;
use super::perm::{EXEC, READ};
use super::{Attr, Caller, Done, Error, Fs, Kind, Result, dir, map};
use crate::ext4::dirent::NAME_MAX;
use crate::ext4::features::ro_compat;
use crate::ext4::inode::{Inode, flag, mode};
use crate::ext4::{Corrupt, Superblock};
use crate::journal::record::Name;
use crate::journal::{self, Blocks, Op, Txn, ready};
use crate::units::{BlockNo, InodeNo, Time};

/// Gets an entry of a directory: the cookie behind it, name, inode, type; and
/// answers whether to go on.
pub type EachName<'a> = dyn FnMut(u64, &[u8], InodeNo, Kind) -> bool + 'a;

/// The same with the inode's attributes, if it can be read.
pub type EachAttr<'a> = dyn FnMut(u64, &[u8], InodeNo, Kind, Option<&Attr>) -> bool + 'a;

/// Gets an entry: the cookie behind it, inode, `file_type`, name.
type Each<'a> = dyn FnMut(&dyn Blocks, u64, InodeNo, u8, &[u8]) -> bool + 'a;

/// The most links an inode may have.
const LINK_MAX: u16 = 65000;

impl Fs {
    /// Finds a name.
    pub fn lookup(&self, by: &Caller, parent: InodeNo, name: &[u8]) -> Result<Attr> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let view = self.view();
        let dir = self.directory(&view, by, parent)?;
        let entry = dir::lookup(&view, &self.sb, &dir, name)?.ok_or(Error::NotFound)?;
        let inode = named(&view, &self.sb, dir.number, entry.inode)?;
        if !matches!(name, b"." | b"..") {
            self.hints.note(inode.number, parent, name);
        }
        attr(&inode)
    }

    /// Another name for an inode that isn't a directory.
    pub fn link(
        &self,
        by: &Caller,
        inode: InodeNo,
        parent: InodeNo,
        name: &[u8],
    ) -> Result<Done<Attr>> {
        check_name(name)?;
        let time = self.now();
        let mut txn = self.begin()?;
        let mut dir = self.directory(&txn, by, parent)?;
        let mut inode = load_file(&txn, &self.sb, inode)?;
        if dir::lookup(&txn, &self.sb, &dir, name)?.is_some() {
            return Err(Error::Exists);
        }
        self.may_add(&txn, by, &dir)?;
        self.alterable(&inode)?;
        match (inode.kind(), inode.links) {
            (mode::DIRECTORY, _) => return Err(Error::NotPermitted),
            (_, 0) => return Err(Error::NotFound),
            (_, LINK_MAX..) => return Err(Error::TooManyLinks),
            _ => inode.links += 1,
        }
        let file_type = kind(&inode)?.in_entry();
        self.insert(&mut txn, by, &mut dir, name, inode.number, file_type)?;
        inode.ctime = time;
        (dir.mtime, dir.ctime) = (time, time);
        store(&mut txn, &self.sb, &inode)?;
        store(&mut txn, &self.sb, &dir)?;
        let at = Name {
            parent,
            name: name.to_vec(),
        };
        let lsn = txn.commit(&Op::Link {
            by: by.into(),
            at,
            inode: inode.number,
            time,
        })?;
        self.hints.note(inode.number, parent, name);
        Ok(Done {
            value: attr(&inode)?,
            lsn: Some(lsn),
            durable: dir.is_dirsync(),
        })
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, by: &Caller, parent: InodeNo, name: &[u8]) -> Result<Done<()>> {
        check_name(name)?;
        let time = self.now();
        let mut txn = self.begin()?;
        let mut dir = self.directory(&txn, by, parent)?;
        let place = dir::locate(&txn, &self.sb, &dir, name)?.ok_or(Error::NotFound)?;
        let mut inode = named(&txn, &self.sb, dir.number, place.entry.inode)?;
        self.may_take(&txn, by, &dir, &inode)?;
        if inode.kind() == mode::DIRECTORY {
            return Err(Error::IsDirectory);
        }
        dir::remove(&mut txn, &self.sb, &dir, &place)?;
        (dir.mtime, dir.ctime) = (time, time);
        store(&mut txn, &self.sb, &dir)?;
        inode.ctime = time;
        let later = self.unlink_inode(&mut txn, &mut inode, time, false)?;
        let at = Name {
            parent,
            name: name.to_vec(),
        };
        let lsn = txn.commit(&Op::Unlink {
            by: by.into(),
            at,
            inode: inode.number,
            time,
        })?;
        self.finish(later)?;
        Ok(Done {
            value: (),
            lsn: Some(lsn),
            durable: dir.is_dirsync(),
        })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, by: &Caller, parent: InodeNo, name: &[u8]) -> Result<Done<()>> {
        match name {
            b"." => return Err(Error::Invalid),
            b".." => return Err(Error::NotEmpty),
            _ => check_name(name)?,
        }
        let time = self.now();
        let mut txn = self.begin()?;
        let mut dir = self.directory(&txn, by, parent)?;
        let place = dir::locate(&txn, &self.sb, &dir, name)?.ok_or(Error::NotFound)?;
        let mut inode = named(&txn, &self.sb, dir.number, place.entry.inode)?;
        self.may_take(&txn, by, &dir, &inode)?;
        if inode.kind() != mode::DIRECTORY {
            return Err(Error::NotDirectory);
        }
        if !dir::is_empty(&txn, &self.sb, &inode)? {
            return Err(Error::NotEmpty);
        }
        dir::remove(&mut txn, &self.sb, &dir, &place)?;
        shrink_links(&mut dir);
        (dir.mtime, dir.ctime) = (time, time);
        store(&mut txn, &self.sb, &dir)?;
        inode.ctime = time;
        let later = self.unlink_inode(&mut txn, &mut inode, time, false)?;
        let at = Name {
            parent,
            name: name.to_vec(),
        };
        let lsn = txn.commit(&Op::Rmdir {
            by: by.into(),
            at,
            inode: inode.number,
            time,
        })?;
        self.finish(later)?;
        Ok(Done {
            value: (),
            lsn: Some(lsn),
            durable: dir.is_dirsync(),
        })
    }

    /// A symlink's target.
    pub fn readlink(&self, inode: InodeNo) -> Result<Vec<u8>> {
        let view = self.view();
        let inode = load_file(&view, &self.sb, inode)?;
        if inode.kind() != mode::SYMLINK {
            return Err(Error::Invalid);
        }
        if inode.size == 0 || inode.size > u64::from(self.sb.block_size) {
            let what = format!("symlink {}", inode.number);
            return Err(Corrupt::Field {
                what,
                field: "i_size",
                value: inode.size,
            }
            .at(inode.number, BlockNo(0))
            .into());
        }
        let mut target = vec![0; inode.size as usize];
        match map::has_blocks(&inode) {
            true => read_at(&view, &self.sb, &inode, 0, &mut target)?,
            false => target.copy_from_slice(&inode.block[..inode.size as usize]),
        }
        drop(view);
        self.touch(&inode)?;
        Ok(target)
    }

    /// Lists a directory from a cookie on (0: from its start). `each` gets the
    /// cookie behind an entry and the entry, and answers whether to go on.
    pub fn readdir(
        &self,
        by: &Caller,
        inode: InodeNo,
        from: u64,
        each: &mut EachName<'_>,
    ) -> Result<()> {
        self.list(
            by,
            inode,
            from,
            &mut |view, cookie, entry, file_type, name| {
                let kind = match Kind::of_entry(file_type) {
                    Some(kind) => kind,
                    None => self.kind_of(view, inode, entry),
                };
                !ready::is_lacking() && each(cookie, name, entry, kind)
            },
        )
    }

    /// The same with attributes; an inode that can't be read has none, and
    /// the names behind it come all the same.
    pub fn readdirplus(
        &self,
        by: &Caller,
        inode: InodeNo,
        from: u64,
        each: &mut EachAttr<'_>,
    ) -> Result<()> {
        self.list(
            by,
            inode,
            from,
            &mut |view, cookie, entry, file_type, name| {
                let found = named(view, &self.sb, inode, entry).and_then(|inode| attr(&inode));
                if ready::is_lacking() {
                    return false;
                }
                let kind = match &found {
                    Ok(attr) => attr.kind,
                    Err(_) => Kind::of_entry(file_type).unwrap_or(Kind::Regular),
                };
                if found.is_ok() && !matches!(name, b"." | b"..") {
                    self.hints.note(entry, inode, name);
                }
                each(cookie, name, entry, kind, found.ok().as_ref())
            },
        )
    }

    /// What a directory's entry without a type refers to. Who wants to know
    /// more of an inode that can't be read is told then: names are listed
    /// whatever is behind them, as they are where entries have types.
    fn kind_of(&self, blocks: &dyn Blocks, dir: InodeNo, entry: InodeNo) -> Kind {
        let inode = named(blocks, &self.sb, dir, entry);
        inode
            .and_then(|inode| kind(&inode))
            .unwrap_or(Kind::Regular)
    }

    fn list(&self, by: &Caller, inode: InodeNo, from: u64, each: &mut Each<'_>) -> Result<()> {
        if from == 0 {
            // Before it is listed, since a part may do if the rest has to be waited for.
            let dir = self.listed(&self.view(), by, inode)?;
            self.touch(&dir)?;
        }
        let view = self.view();
        let dir = self.listed(&view, by, inode)?;
        dir::list(
            &view,
            &self.sb,
            &dir,
            from,
            &mut |cookie, inode, file_type, name| each(&view, cookie, inode, file_type, name),
        )?;
        match ready::is_lacking() {
            true => Err(journal::Error::Lacking.into()),
            false => Ok(()),
        }
    }

    /// An inode lost a name (a directory its only one): without any it goes,
    /// now or when nobody has it any more. Stores it. `replaced`: see
    /// [`Fs::unlinked`].
    pub(super) fn unlink_inode(
        &self,
        txn: &mut Txn<'_>,
        inode: &mut Inode,
        time: Time,
        replaced: bool,
    ) -> Result<Later> {
        inode.links = match inode.kind() {
            mode::DIRECTORY => 0,
            _ => inode.links.saturating_sub(1),
        };
        if inode.links == 0 {
            return self.unlinked(txn, inode, time, replaced);
        }
        store(txn, &self.sb, inode)?;
        Ok(Later::default())
    }

    /// Adds a name to a directory, which may have to grow for it.
    pub(super) fn insert(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        dir: &mut Inode,
        name: &[u8],
        inode: InodeNo,
        file_type: u8,
    ) -> Result<()> {
        let (before, reserve) = (dir.size, self.kept(by));
        dir::insert(txn, &self.sb, dir, name, inode, file_type, reserve)?;
        let most = u64::from(self.options.max_dir_size_kb);
        // As ext4 asks before each new block: is it that large already?
        let last = dir.size.saturating_sub(self.sb.block_size.into());
        match most > 0 && dir.size > before && last >> 10 >= most {
            true => Err(Error::NoSpace),
            false => Ok(()),
        }
    }

    /// A directory in which the caller may look for names.
    pub(super) fn directory(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        number: InodeNo,
    ) -> Result<Inode> {
        let (inode, _) = self.load_or_gone(blocks, number)?;
        if inode.kind() != mode::DIRECTORY {
            return Err(Error::NotDirectory);
        }
        // Removed, but somebody is in it: nothing else can be or come there.
        if inode.links == 0 {
            return Err(Error::NotFound);
        }
        self.may(blocks, by, &inode, EXEC)?;
        Ok(inode)
    }

    /// A directory that the caller may list.
    fn listed(&self, blocks: &dyn Blocks, by: &Caller, number: InodeNo) -> Result<Inode> {
        let inode = load_file(blocks, &self.sb, number)?;
        if inode.kind() != mode::DIRECTORY {
            return Err(Error::NotDirectory);
        }
        if inode.links == 0 {
            return Err(Error::NotFound);
        }
        self.may(blocks, by, &inode, READ)?;
        Ok(inode)
    }
}

/// Fails unless the name may be given to something.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" => Err(Error::NotFound),
        b"." | b".." => Err(Error::Exists),
        _ if name.len() > NAME_MAX => Err(Error::NameTooLong),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(Error::Invalid),
        _ => Ok(()),
    }
}

/// One subdirectory more. With dir_nlink an indexed directory with too many
/// says 1, for "many", and keeps to it.
pub(super) fn grow_links(sb: &Superblock, dir: &mut Inode) -> Result<()> {
    let many = sb.features.ro_compat(ro_compat::DIR_NLINK) && dir.has(flag::INDEX);
    dir.links = match dir.links {
        1 => 1,
        links if links < LINK_MAX - 1 => links + 1,
        _ if many => 1,
        links if links < LINK_MAX => links + 1,
        _ => return Err(Error::TooManyLinks),
    };
    Ok(())
}

/// One subdirectory less.
pub(super) fn shrink_links(dir: &mut Inode) {
    if dir.links > 2 {
        dir.links -= 1;
    }
}

//! Extended attributes of inodes: first in the inode, then in a block of
//! their own, which inodes may share until one changes it.
//!
//! Access control lists live here too, since programs see them as attributes;
//! setting one changes the mode bits with it.

use super::alloc::{free_blocks, new_blocks};
use super::damage::at as placed;
use super::inode::{store, want_compat};
use super::perm::{READ, WRITE};
use super::{Access, Caller, Done, Error, Fs, Result};
use crate::ext4::Superblock;
use crate::ext4::acl::Acl;
use crate::ext4::features::compat;
use crate::ext4::inode::{Inode, mode};
use crate::ext4::xattr::{
    ACL_ACCESS, ACL_DEFAULT, Attribute, AttributeBlock, Name, decode_inode, encode_inode,
    set_refcount,
};
use crate::journal::{Blocks, Op, Txn};
use crate::units::{BlockNo, InodeNo};

/// setxattr(2): the attribute must not exist yet.
pub const CREATE: u32 = 1;
/// setxattr(2): the attribute must exist.
pub const REPLACE: u32 = 2;

/// The longest value of any attribute (XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65536;
/// The longest full name (XATTR_NAME_MAX).
const NAME_MAX: usize = 255;

/// `e_name_index` of the other prefixes that have rules.
const USER: u8 = 1;
const TRUSTED: u8 = 4;
const SECURITY: u8 = 6;
/// Of the Hurd; to Linux whoever may read or write the file.
const GNU: u8 = 10;

impl Fs {
    /// getxattr(2).
    pub fn getxattr(&self, by: &Caller, inode: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
        let view = self.view();
        let (inode, _) = self.load_or_gone(&view, inode)?;
        let name = parse(name)?;
        match name.index {
            USER if !may_have_user_attributes(&inode) => return Err(Error::NoAttribute),
            USER | GNU => self.may(&view, by, &inode, READ)?,
            TRUSTED => self.is_root(by).map_err(|_| Error::NoAttribute)?,
            _ => {}
        }
        let value = get(&view, &self.sb, &inode, &name)?.ok_or(Error::NoAttribute)?;
        match name.index {
            ACL_ACCESS | ACL_DEFAULT => Ok(Acl::from_disk(&value)?.to_wire()),
            _ => Ok(value),
        }
    }

    /// listxattr(2): the names, each ended by a NUL.
    pub fn listxattr(&self, by: &Caller, inode: InodeNo) -> Result<Vec<u8>> {
        let view = self.view();
        let (inode, _) = self.load_or_gone(&view, inode)?;
        let mut all = Vec::new();
        for name in list(&view, &self.sb, &inode)? {
            let hidden = match name.index {
                USER => !may_have_user_attributes(&inode),
                // (The kernel lets a list through as it is, also where it checks.)
                TRUSTED => by.uid != 0 && self.options.access != Access::Fakeroot,
                _ => false,
            };
            if let Some(full) = name.full().filter(|_| !hidden) {
                all.extend(full);
                all.push(0);
            }
        }
        Ok(all)
    }

    /// setxattr(2) with its flags ([`CREATE`], [`REPLACE`]).
    pub fn setxattr(
        &self,
        by: &Caller,
        inode: InodeNo,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<Done<()>> {
        if value.len() > VALUE_MAX {
            return Err(Error::ValueTooBig);
        }
        if flags & !(CREATE | REPLACE) != 0 {
            return Err(Error::Invalid);
        }
        let full = name;
        let name = parse(full)?;
        let time = self.now();
        let mut txn = self.begin()?;
        let (mut inode, gone) = self.load_or_gone(&txn, inode)?;
        self.may_set(&txn, by, &inode, &name)?;
        let before = (inode.mode, get(&txn, &self.sb, &inode, &name)?);
        if matches!(name.index, ACL_ACCESS | ACL_DEFAULT) {
            self.set_list(&mut txn, by, &mut inode, &name, value)?;
            if (inode.mode, get(&txn, &self.sb, &inode, &name)?) == before {
                return Ok(Done::nothing(())); // as ext4: an equal value is no change
            }
        } else {
            match (before.1, flags) {
                // (Linux lets both be asked for, which nothing fulfils.)
                (Some(_), flags) if flags & CREATE != 0 => return Err(Error::Exists),
                (None, flags) if flags & REPLACE != 0 => return Err(Error::NoAttribute),
                (Some(old), _) if old == value => return Ok(Done::nothing(())),
                _ => set(
                    &mut txn,
                    &self.sb,
                    &mut inode,
                    &name,
                    Some(value),
                    self.kept(by),
                )?,
            }
        }
        inode.ctime = time;
        if gone {
            return self.keep_gone(inode, ());
        }
        store(&mut txn, &self.sb, &inode)?;
        let durable = inode.is_sync();
        let (inode, name, value) = (inode.number, full.to_vec(), value.to_vec());
        let lsn = txn.commit(&Op::SetXattr {
            by: by.into(),
            inode,
            name,
            value,
            flags,
            time,
        })?;
        Ok(Done {
            value: (),
            lsn: Some(lsn),
            durable,
        })
    }

    /// removexattr(2).
    pub fn removexattr(&self, by: &Caller, inode: InodeNo, name: &[u8]) -> Result<Done<()>> {
        let full = name;
        let name = parse(full)?;
        let time = self.now();
        let mut txn = self.begin()?;
        let (mut inode, gone) = self.load_or_gone(&txn, inode)?;
        self.may_set(&txn, by, &inode, &name)?;
        if get(&txn, &self.sb, &inode, &name)?.is_none() {
            // Linux is content when there is no list to remove.
            return match name.index {
                ACL_ACCESS | ACL_DEFAULT => Ok(Done::nothing(())),
                _ => Err(Error::NoAttribute),
            };
        }
        set(&mut txn, &self.sb, &mut inode, &name, None, self.kept(by))?;
        inode.ctime = time;
        if gone {
            return self.keep_gone(inode, ());
        }
        store(&mut txn, &self.sb, &inode)?;
        let op = Op::RemoveXattr {
            by: by.into(),
            inode: inode.number,
            name: full.to_vec(),
            time,
        };
        Ok(Done {
            value: (),
            lsn: Some(txn.commit(&op)?),
            durable: inode.is_sync(),
        })
    }

    /// Fails unless the caller may change this attribute.
    fn may_set(&self, blocks: &dyn Blocks, by: &Caller, inode: &Inode, name: &Name) -> Result<()> {
        self.alterable(inode)?;
        match name.index {
            USER if !may_have_user_attributes(inode) => Err(Error::NotPermitted),
            USER => {
                // In a sticky directory others may write, but not mark it.
                if inode.kind() == mode::DIRECTORY && inode.mode & 0o1000 != 0 {
                    self.owns(by, inode)?;
                }
                self.may(blocks, by, inode, WRITE)
            }
            ACL_ACCESS | ACL_DEFAULT if inode.kind() == mode::SYMLINK => Err(Error::Unsupported),
            ACL_ACCESS | ACL_DEFAULT => self.owns(by, inode),
            TRUSTED | SECURITY => self.is_root(by),
            GNU => self.may(blocks, by, inode, WRITE),
            _ => Err(Error::Unsupported),
        }
    }

    /// Sets or, with an empty list, removes an access control list.
    fn set_list(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        inode: &mut Inode,
        name: &Name,
        wire: &[u8],
    ) -> Result<()> {
        let mut acl = Acl::from_wire(wire).ok_or(Error::Invalid)?;
        match name.index {
            ACL_DEFAULT if acl.is_some() && inode.kind() != mode::DIRECTORY => {
                return Err(Error::Access);
            }
            ACL_ACCESS => {
                if let Some(list) = &acl {
                    inode.mode = inode.mode & !0o777 | list.mode();
                    if !self.speaks_for_group(by, inode.gid) {
                        inode.mode &= !0o2000;
                    }
                }
                acl = acl.filter(|list| !list.is_just_mode());
            }
            _ => {}
        }
        let value = acl.map(|list| list.to_disk());
        set(txn, &self.sb, inode, name, value.as_deref(), self.kept(by))
    }
}

fn parse(full: &[u8]) -> Result<Name> {
    if full.is_empty() || full.len() > NAME_MAX {
        return Err(Error::Range);
    }
    if full.contains(&0) || matches!(full, b"user." | b"trusted." | b"security." | b"gnu.") {
        return Err(Error::Invalid);
    }
    Name::parse(full).ok_or(Error::Unsupported)
}

fn may_have_user_attributes(inode: &Inode) -> bool {
    matches!(inode.kind(), mode::REGULAR | mode::DIRECTORY)
}

/// A file's access control list.
pub fn access_list(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Result<Option<Acl>> {
    acl(blocks, sb, inode, ACL_ACCESS)
}

/// The list that new files in a directory get.
pub fn default_list(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Result<Option<Acl>> {
    acl(blocks, sb, inode, ACL_DEFAULT)
}

fn acl(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode, index: u8) -> Result<Option<Acl>> {
    let value = get(
        blocks,
        sb,
        inode,
        &Name {
            index,
            rest: Vec::new(),
        },
    )?;
    let acl = value.map(|value| Acl::from_disk(&value)).transpose();
    placed(inode.number, BlockNo(0), acl)
}

/// Stores or removes a list under [`ACL_ACCESS`] or [`ACL_DEFAULT`].
pub(super) fn store_list(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    index: u8,
    acl: &Acl,
    keep: u64,
) -> Result<()> {
    set(
        txn,
        sb,
        inode,
        &Name {
            index,
            rest: Vec::new(),
        },
        Some(&acl.to_disk()),
        keep,
    )
}

/// An attribute's value, as the disk has it.
pub fn get(
    blocks: &dyn Blocks,
    sb: &Superblock,
    inode: &Inode,
    name: &Name,
) -> Result<Option<Vec<u8>>> {
    let find = |all: Vec<Attribute>| all.into_iter().find(|a| a.name == *name).map(|a| a.value);
    if let Some(value) = find(inside(inode)?) {
        return Ok(Some(value));
    }
    Ok(outside(blocks, sb, inode)?.and_then(|block| find(block.attributes)))
}

/// The names of all attributes.
pub fn list(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Result<Vec<Name>> {
    let mut all = inside(inode)?;
    all.extend(outside(blocks, sb, inode)?.map_or_else(Vec::new, |block| block.attributes));
    Ok(all.into_iter().map(|attribute| attribute.name).collect())
}

/// Sets an attribute, or removes it. Storing the inode is left to the caller.
pub fn set(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    name: &Name,
    value: Option<&[u8]>,
    keep: u64,
) -> Result<()> {
    let old_inside = self::inside(inode)?;
    let old_outside = outside(txn, sb, inode)?.map_or_else(Vec::new, |block| block.attributes);
    let without = |all: &[Attribute]| {
        all.iter()
            .filter(|a| a.name != *name)
            .cloned()
            .collect::<Vec<_>>()
    };
    let (mut inside, mut out) = (without(&old_inside), without(&old_outside));
    if let Some(value) = value {
        inside.push(Attribute {
            name: name.clone(),
            value: value.to_vec(),
        });
        if !encode_inode(&mut inode.tail, &inside) {
            out.extend(inside.pop());
        }
    }
    // What stays in the inode fits there, unless its values overlapped.
    if !encode_inode(&mut inode.tail, &inside) {
        return Err(Error::NoSpace);
    }
    if out != old_outside {
        if !AttributeBlock::fits(sb.block_size as usize, &out) {
            return Err(Error::NoSpace);
        }
        store_outside(txn, sb, inode, out, keep)?;
    }
    want_compat(txn, sb, compat::EXT_ATTR)
}

/// An inode that is about to go, as somebody who is still in it shall see it.
/// Its attributes are all inside, where a directory has as much room for them
/// as it had with a block.
pub(super) fn last_of(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Inode {
    let directory = inode.kind() == mode::DIRECTORY;
    let mut last = Inode {
        links: 0,
        size: if directory { 0 } else { inode.size },
        blocks: 0,
        file_acl: 0,
        ..inode.clone()
    };
    if directory {
        // (Offsets of values have 16 bits.)
        let room = last.tail.len() + sb.block_size as usize;
        last.tail.resize(room.min(u16::MAX.into()), 0);
    }
    if let (Ok(mut all), Ok(Some(block))) = (inside(inode), outside(blocks, sb, inode)) {
        all.extend(block.attributes);
        encode_inode(&mut last.tail, &all);
    }
    last
}

/// Drops the inode's reference to its attribute block. Storing the inode is
/// left to the caller.
pub fn free_all(txn: &mut Txn<'_>, sb: &Superblock, inode: &mut Inode) -> Result<()> {
    store_outside(txn, sb, inode, Vec::new(), 0)
}

/// Forgets a program's privileges (`security.capability`), as every change of
/// its contents or owner must. Whether there were any.
pub fn kill_capability(txn: &mut Txn<'_>, sb: &Superblock, inode: &mut Inode) -> Result<bool> {
    let name = Name {
        index: SECURITY,
        rest: b"capability".to_vec(),
    };
    let there = get(txn, sb, inode, &name)?.is_some();
    if there {
        set(txn, sb, inode, &name, None, 0)?;
    }
    Ok(there)
}

fn seed(sb: &Superblock) -> Option<u32> {
    sb.has_metadata_csum().then_some(sb.csum_seed)
}

/// The attributes that the inode has room for.
fn inside(inode: &Inode) -> Result<Vec<Attribute>> {
    placed(inode.number, BlockNo(0), decode_inode(&inode.tail))
}

fn outside(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Result<Option<AttributeBlock>> {
    if inode.file_acl == 0 {
        return Ok(None);
    }
    let number = BlockNo(inode.file_acl);
    let block = blocks.block(number)?;
    let decoded = AttributeBlock::decode(&block, number, seed(sb));
    placed(inode.number, number, decoded).map(Some)
}

/// Lets the inode's block hold exactly these attributes: in place if nobody
/// shares it, else in a block of its own; none, no block.
fn store_outside(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    attributes: Vec<Attribute>,
    keep: u64,
) -> Result<()> {
    let old = outside(txn, sb, inode)?.map(|block| (BlockNo(inode.file_acl), block.refcount));
    let whole = AttributeBlock {
        refcount: 1,
        attributes,
    };
    if whole.attributes.is_empty() {
        release(txn, sb, old)?;
        if old.is_some() {
            inode.blocks = inode.blocks.saturating_sub(u64::from(sb.block_size / 512));
        }
        inode.file_acl = 0;
        return Ok(());
    }
    let number = match old {
        Some((number, 1)) => number,
        _ => {
            let (number, _) = new_blocks(txn, sb, goal(sb, inode), 1, keep)?;
            txn.fresh(number)?;
            release(txn, sb, old)?;
            if old.is_none() {
                inode.blocks += u64::from(sb.block_size / 512);
            }
            inode.file_acl = number.0;
            number
        }
    };
    whole.encode(txn.block_mut(number)?, number, seed(sb));
    Ok(())
}

/// One reference less to an attribute block; the last one frees it.
fn release(txn: &mut Txn<'_>, sb: &Superblock, old: Option<(BlockNo, u32)>) -> Result<()> {
    match old {
        None => Ok(()),
        Some((number, 1)) => free_blocks(txn, sb, number, 1),
        Some((number, refcount)) => {
            set_refcount(txn.block_mut(number)?, number, refcount - 1, seed(sb));
            Ok(())
        }
    }
}

/// Near the inode.
fn goal(sb: &Superblock, inode: &Inode) -> BlockNo {
    match sb.group_of_inode(inode.number) {
        Ok((group, _)) => sb.group_start(group),
        Err(_) => BlockNo(sb.first_data_block),
    }
}

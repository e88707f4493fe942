//! What no mount can do without: a root directory, and the journal's inode
//! that the superblock names. The kernel refuses images that lack one.

use super::super::{Error as FsError, inode, jbd2, map, orphan};
use super::{Error, Result};
use crate::ext4::inode::{Inode, mode};
use crate::ext4::{Corrupt, Superblock};
use crate::journal::Blocks;
use crate::units::{BlockNo, FileBlock, InodeNo};

/// Refuses an image, or what its journal makes of it, that has no root.
pub(super) fn root(sb: &Superblock, view: &dyn Blocks) -> Result<()> {
    let wrong = |field, value: u64| {
        let what = "the root directory".into();
        Error::Damaged(Corrupt::Field { what, field, value }.at(InodeNo::ROOT, BlockNo(0)))
    };
    let inode = found(sb, view, InodeNo::ROOT).map_err(damaged)?;
    let Some(inode) = inode else {
        return Err(wrong("i_mode or i_links_count", 0));
    };
    refuse(&inode, mode::DIRECTORY, wrong)?;
    match map::find(view, sb, &inode, FileBlock(0)).map_err(damaged)? {
        map::Mapping::Mapped { .. } => Ok(()),
        _ => Err(wrong("i_block[0]", 0)),
    }
}

/// Refuses an image whose chain of orphans can't be followed.
pub(super) fn orphans(sb: &Superblock, view: &dyn Blocks) -> Result<()> {
    orphan::list(view, sb).map(drop).map_err(damaged)
}

/// Refuses an image whose superblock names an inode that can't be its journal.
pub(super) fn own_journal(sb: &Superblock, view: &dyn Blocks) -> Result<()> {
    let number = InodeNo(sb.journal_inode);
    let wrong = |field, value: u64| {
        let what = format!("the journal's inode (s_journal_inum {number})");
        Error::Damaged(Corrupt::Field { what, field, value })
    };
    let inode = match sb.group_of_inode(number) {
        Ok(_) => found(sb, view, number).map_err(damaged)?,
        Err(_) => {
            let (what, field, value) = ("superblock".into(), "s_journal_inum", number.0.into());
            return Err(Error::Damaged(Corrupt::Field { what, field, value }));
        }
    };
    let Some(inode) = inode else {
        return Err(wrong("i_mode", 0));
    };
    refuse(&inode, mode::REGULAR, wrong)?;
    let (_, head) = jbd2::head(sb, view, &inode).map_err(Error::BadJournal)?;
    let present = inode.size / u64::from(sb.block_size);
    match present < u64::from(head.len) {
        true => Err(wrong("i_size", inode.size)),
        false => Ok(()),
    }
}

/// An inode; `None` if it is not in use.
fn found(
    sb: &Superblock,
    view: &dyn Blocks,
    number: InodeNo,
) -> super::super::Result<Option<Inode>> {
    match inode::load(view, sb, number) {
        Err(FsError::Stale) => Ok(None),
        other => other.map(Some),
    }
}

fn refuse(inode: &Inode, kind: u16, wrong: impl Fn(&'static str, u64) -> Error) -> Result<()> {
    let checks = [
        (inode.kind() == kind, "i_mode", u64::from(inode.mode)),
        (inode.links > 0, "i_links_count", 0),
        (inode.size > 0, "i_size", 0),
        (inode.blocks > 0 || kind != mode::DIRECTORY, "i_blocks", 0),
    ];
    match checks.into_iter().find(|(holds, ..)| !holds) {
        None => Ok(()),
        Some((_, field, value)) => Err(wrong(field, value)),
    }
}

fn damaged(error: FsError) -> Error {
    match error {
        FsError::Corrupt(corrupt) => Error::Damaged(corrupt),
        other => Error::Fs(other),
    }
}

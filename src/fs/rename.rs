//! rename(2), with the flags of renameat2(2).
//!
//! One transaction takes the name from one directory and gives it to another
//! (or the same), replaces or exchanges what stood there, and turns `..` and
//! the link counts of parents with a directory that moves.

use super::attr::kind;
use super::dir::{self, Place};
use super::inode::{named, store};
use super::name::{check_name, grow_links, shrink_links};
use super::orphan::Later;
use super::perm::WRITE;
use super::{Caller, Done, Error, Fs, Result};
use crate::ext4::Corrupt;
use crate::ext4::inode::{Inode, mode};
use crate::journal::record::Name;
use crate::journal::{Blocks, Op, Txn};
use crate::units::{BlockNo, InodeNo, Time};

/// Fail if the new name exists.
pub const NOREPLACE: u32 = 1;
/// Both names exist and change places.
pub const EXCHANGE: u32 = 2;

/// Deeper trees than this are circles.
const DEPTH: usize = 1 << 20;

/// The two directories, which may be one.
struct Parents {
    from: Inode,
    to: Option<Inode>,
}

/// A name's inode, and where the name stands.
struct Entry {
    inode: Inode,
    place: Place,
}

impl Parents {
    fn to(&self) -> &Inode {
        self.to.as_ref().unwrap_or(&self.from)
    }
    fn to_mut(&mut self) -> &mut Inode {
        self.to.as_mut().unwrap_or(&mut self.from)
    }
    fn differ(&self) -> bool {
        self.to.is_some()
    }
}

impl Fs {
    /// Renames; `flags`: 0, [`NOREPLACE`] or [`EXCHANGE`].
    pub fn rename(
        &self,
        by: &Caller,
        from: InodeNo,
        name: &[u8],
        to: InodeNo,
        new_name: &[u8],
        flags: u32,
    ) -> Result<Done<()>> {
        // Whiteouts too: what Linux says of a flag that a file system lacks.
        if !matches!(flags, 0 | NOREPLACE | EXCHANGE) {
            return Err(Error::Invalid);
        }
        for name in [name, new_name] {
            check_name(name).map_err(|error| {
                if matches!(name, b"." | b"..") {
                    Error::Busy
                } else {
                    error
                }
            })?;
        }
        let time = self.now();
        let mut txn = self.begin()?;
        let mut parents = Parents {
            from: self.directory(&txn, by, from)?,
            to: if from == to {
                None
            } else {
                Some(self.directory(&txn, by, to)?)
            },
        };
        let mut moved = self
            .entry(&txn, &parents.from, name)?
            .ok_or(Error::NotFound)?;
        let mut there = self.entry(&txn, parents.to(), new_name)?;
        match (&there, flags) {
            (Some(_), NOREPLACE) => return Err(Error::Exists),
            (None, EXCHANGE) => return Err(Error::NotFound),
            _ => {}
        }
        let inodes = (&moved.inode, there.as_ref().map(|there| &there.inode));
        self.refuse_loops(&txn, &parents, inodes, flags)?;
        if there
            .as_ref()
            .is_some_and(|there| there.inode.number == moved.inode.number)
        {
            return Ok(Done::nothing(()));
        }
        self.may_move(&txn, by, &parents, inodes, flags)?;

        let later = match &mut there {
            Some(other) if flags == EXCHANGE => {
                self.exchange(&mut txn, &mut parents, &mut moved, other, time)?
            }
            other => self.replace(
                &mut txn,
                by,
                &mut parents,
                &mut moved,
                (new_name, other.as_mut()),
                time,
            )?,
        };
        for parent in [Some(&mut parents.from), parents.to.as_mut()]
            .into_iter()
            .flatten()
        {
            (parent.mtime, parent.ctime) = (time, time);
            store(&mut txn, &self.sb, parent)?;
        }
        let lsn = txn.commit(&Op::Rename {
            by: by.into(),
            from: Name {
                parent: from,
                name: name.to_vec(),
            },
            to: Name {
                parent: to,
                name: new_name.to_vec(),
            },
            flags,
            inode: moved.inode.number,
            replaced: there
                .as_ref()
                .map_or(InodeNo(0), |there| there.inode.number),
            time,
        })?;
        self.hints.note(moved.inode.number, to, new_name);
        if let Some(there) = there.as_ref().filter(|_| flags & EXCHANGE != 0) {
            self.hints.note(there.inode.number, from, name);
        }
        self.finish(later)?;
        Ok(Done {
            value: (),
            lsn: Some(lsn),
            durable: parents.from.is_dirsync() || parents.to().is_dirsync(),
        })
    }

    fn entry(&self, blocks: &dyn Blocks, dir: &Inode, name: &[u8]) -> Result<Option<Entry>> {
        let Some(place) = dir::locate(blocks, &self.sb, dir, name)? else {
            return Ok(None);
        };
        let inode = named(blocks, &self.sb, dir.number, place.entry.inode)?;
        Ok(Some(Entry { inode, place }))
    }

    /// A directory can't come to lie below itself.
    fn refuse_loops(
        &self,
        blocks: &dyn Blocks,
        parents: &Parents,
        (moved, there): (&Inode, Option<&Inode>),
        flags: u32,
    ) -> Result<()> {
        if moved.kind() == mode::DIRECTORY
            && self.lies_within(blocks, parents.to(), moved.number)?
        {
            return Err(Error::Invalid);
        }
        let Some(there) = there.filter(|there| there.kind() == mode::DIRECTORY) else {
            return Ok(());
        };
        match self.lies_within(blocks, &parents.from, there.number)? {
            true if flags == EXCHANGE => Err(Error::Invalid),
            true => Err(Error::NotEmpty),
            false => Ok(()),
        }
    }

    /// Whether a directory is `outer`, or lies somewhere below it.
    fn lies_within(&self, blocks: &dyn Blocks, inner: &Inode, outer: InodeNo) -> Result<bool> {
        let mut at = inner.clone();
        for _ in 0..DEPTH {
            if at.number == outer {
                return Ok(true);
            }
            if at.number == InodeNo::ROOT {
                return Ok(false);
            }
            let (_, parent) = dir::dots(blocks, &self.sb, &at)?;
            at = named(blocks, &self.sb, at.number, parent)?;
        }
        let what = format!("directory {}", inner.number);
        Err(Corrupt::Field {
            what,
            field: "..",
            value: at.number.0.into(),
        }
        .at(inner.number, BlockNo(0))
        .into())
    }

    fn may_move(
        &self,
        blocks: &dyn Blocks,
        by: &Caller,
        parents: &Parents,
        (moved, there): (&Inode, Option<&Inode>),
        flags: u32,
    ) -> Result<()> {
        self.may_take(blocks, by, &parents.from, moved)?;
        match there {
            Some(there) => self.may_take(blocks, by, parents.to(), there)?,
            None => self.may_add(blocks, by, parents.to())?,
        }
        // Its `..` changes: that is writing to it.
        if parents.differ() {
            let turns = [Some(moved), there.filter(|_| flags == EXCHANGE)];
            for turned in turns
                .into_iter()
                .flatten()
                .filter(|inode| inode.kind() == mode::DIRECTORY)
            {
                self.may(blocks, by, turned, WRITE)?;
            }
        }
        let Some(there) = there.filter(|_| flags != EXCHANGE) else {
            return Ok(());
        };
        match (
            moved.kind() == mode::DIRECTORY,
            there.kind() == mode::DIRECTORY,
        ) {
            (true, false) => Err(Error::NotDirectory),
            (false, true) => Err(Error::IsDirectory),
            (true, true) if !dir::is_empty(blocks, &self.sb, there)? => Err(Error::NotEmpty),
            _ => Ok(()),
        }
    }

    /// The plain kind: what stood at the new name loses it.
    fn replace(
        &self,
        txn: &mut Txn<'_>,
        by: &Caller,
        parents: &mut Parents,
        moved: &mut Entry,
        (new_name, there): (&[u8], Option<&mut Entry>),
        time: Time,
    ) -> Result<Later> {
        let Entry {
            inode: moved,
            place,
        } = moved;
        let file_type = kind(moved)?.in_entry();
        let directory = moved.kind() == mode::DIRECTORY;
        // The old name first: the new one may take its room.
        dir::remove(txn, &self.sb, &parents.from, place)?;
        if directory {
            shrink_links(&mut parents.from);
        }
        let to = parents.to_mut();
        let later = match there {
            Some(Entry {
                inode: there,
                place,
            }) => {
                dir::replace(txn, &self.sb, to, place, moved.number, file_type)?;
                if there.kind() == mode::DIRECTORY {
                    shrink_links(to);
                }
                there.ctime = time;
                self.unlink_inode(txn, there, time, true)?
            }
            None => {
                self.insert(txn, by, to, new_name, moved.number, file_type)?;
                Later::default()
            }
        };
        if directory {
            grow_links(&self.sb, to)?;
        }
        self.arrive(txn, parents.differ(), parents.to().number, moved, time)?;
        Ok(later)
    }

    fn exchange(
        &self,
        txn: &mut Txn<'_>,
        parents: &mut Parents,
        moved: &mut Entry,
        there: &mut Entry,
        time: Time,
    ) -> Result<Later> {
        let (first, second) = (&moved.place, &there.place);
        let (moved, there) = (&mut moved.inode, &mut there.inode);
        let types = [kind(moved)?.in_entry(), kind(there)?.in_entry()];
        dir::replace(txn, &self.sb, &parents.from, first, there.number, types[1])?;
        dir::replace(txn, &self.sb, parents.to(), second, moved.number, types[0])?;
        match (
            moved.kind() == mode::DIRECTORY,
            there.kind() == mode::DIRECTORY,
        ) {
            (true, false) => {
                shrink_links(&mut parents.from);
                grow_links(&self.sb, parents.to_mut())?;
            }
            (false, true) => {
                shrink_links(parents.to_mut());
                grow_links(&self.sb, &mut parents.from)?;
            }
            _ => {}
        }
        self.arrive(txn, parents.differ(), parents.to().number, moved, time)?;
        self.arrive(txn, parents.differ(), parents.from.number, there, time)?;
        Ok(Later::default())
    }

    /// An inode has its new place.
    fn arrive(
        &self,
        txn: &mut Txn<'_>,
        elsewhere: bool,
        parent: InodeNo,
        inode: &mut Inode,
        time: Time,
    ) -> Result<()> {
        if elsewhere && inode.kind() == mode::DIRECTORY {
            dir::set_parent(txn, &self.sb, inode, parent)?;
        }
        inode.ctime = time;
        store(txn, &self.sb, inode)
    }
}

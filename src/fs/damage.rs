//! Damage found while mounted.
//!
//! Whoever meets it gets an error; from then on nothing is changed any more
//! (`errors=remount-ro`), since what is wrong in one place may have spread to
//! others. Reads go on, and what was acknowledged before is still synced and
//! brought home. The image is marked as ext4 marks it, so that e2fsck looks
//! at all of it: at once in a record, by which a recovery knows too, and in
//! the image itself when the guard goes.

use std::sync::Arc;

use parking_lot::Mutex;

use super::inode::superblock_mut;
use super::{Error, Fs, Result};
use crate::ext4::Corrupt;
use crate::ext4::fault::{self, Fault};
use crate::journal::{self, Op};
use crate::units::{BlockNo, InodeNo, Time};

/// A mark's name has no more bytes.
const MARK_MOST: usize = 255;

/// The first damage that was met.
#[derive(Clone, Debug)]
pub struct Damage {
    /// What is wrong.
    pub what: Corrupt,
    /// When it was found.
    pub time: Time,
}

/// What was met so far.
#[derive(Default)]
pub(super) struct Noted(Mutex<Option<Entry>>);

struct Entry {
    damage: Arc<Damage>,
    recorded: bool,
}

impl Damage {
    /// As the superblock tells of it.
    pub(super) fn fault(&self) -> Fault {
        Fault {
            time: self.time,
            inode: self.what.inode(),
            block: self.what.block(),
            checksum: self.what.is_checksum(),
        }
    }

    fn why_read_only(&self) -> Arc<str> {
        format!("the image is corrupt: {}", self.what).into()
    }
}

impl Fs {
    /// Notes an operation's error if it tells of damage: the first time the
    /// file system turns read-only.
    pub fn noting<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Corrupt(what)) = &result {
            self.note_damage(what);
        }
        result
    }

    /// The first damage that was met.
    pub fn damage(&self) -> Option<Arc<Damage>> {
        self.noted.0.lock().as_ref().map(|e| e.damage.clone())
    }

    /// Whether it was mounted for reading only.
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// Fails if nothing may be changed.
    pub(super) fn writable(&self) -> Result<()> {
        match (self.options.read_only, self.damage()) {
            (true, _) => Err(Error::ReadOnly("mounted for reading only".into())),
            (false, Some(damage)) => Err(Error::ReadOnly(damage.why_read_only())),
            (false, None) => Ok(()),
        }
    }

    fn note_damage(&self, what: &Corrupt) {
        let damage = Arc::new(Damage {
            what: what.clone(),
            time: self.now(),
        });
        let mut noted = self.noted.0.lock();
        if noted.is_some() {
            return;
        }
        *noted = Some(Entry {
            damage,
            recorded: self.options.read_only,
        });
        drop(noted);
        match self.options.read_only {
            true => log::error!("the image is corrupt: {what}"),
            false => log::error!(
                "the image is corrupt: {what}: nothing is changed any more; unmount it and run e2fsck -f on it"
            ),
        }
        self.record_damage();
    }

    /// Records it, if the journal has room; [`Fs::tidy`] tries again.
    pub(super) fn record_damage(&self) {
        let damage = match &*self.noted.0.lock() {
            Some(entry) if !entry.recorded => entry.damage.clone(),
            _ => return,
        };
        match self.write_damage(&damage) {
            Err(Error::Full) => return,
            Err(error) => log::debug!("a record of the damage: {error}"),
            Ok(()) => {}
        }
        if let Some(entry) = &mut *self.noted.0.lock() {
            entry.recorded = true;
        }
    }

    fn write_damage(&self, damage: &Damage) -> Result<()> {
        let mut txn = self.journal.begin()?;
        fault::note(superblock_mut(&mut txn, &self.sb)?, &damage.fault());
        let mut name = format!("errors: {}", damage.what).into_bytes();
        name.truncate(MARK_MOST); // all of it is ASCII
        let time = damage.time;
        txn.commit(&Op::Mark { name, time })?;
        Ok(())
    }
}

/// A decoder's word on bytes of a block (0: in the inode), for an inode (0: none).
pub(super) fn at<T>(
    inode: InodeNo,
    block: BlockNo,
    decoded: std::result::Result<T, Corrupt>,
) -> Result<T> {
    decoded.map_err(|what| what.at(inode, block).into())
}

/// A pointer that leads outside the image is damage of whatever has it.
pub(super) fn of_journal(error: journal::Error) -> Error {
    match error {
        journal::Error::Outside { block, .. } => Error::Corrupt(Corrupt::BlockOutside {
            what: "a pointer".into(),
            block,
        }),
        other => Error::Journal(other),
    }
}

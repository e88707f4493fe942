//! What is to be done with an image and its journal: decided from the image's
//! guard and the journal's last session alone.
//!
//! ```text
//!     image             journal                         course
//!     unguarded         ended well, fingerprint equal   go on
//!     unguarded         another file system still       refuse, naming that
//!                       lacks what it holds
//!     unguarded         anything else                   another timeline: begin anew
//!     its own journal   as if unguarded, but that       the same, on what that
//!     needs recovery    history can't go on             journal leaves
//!     guarded by U      last session is U               recover
//!     guarded by U      last session is unused, was     recover (its guard never
//!                       begun over U                    reached the image)
//!     guarded by U      none, or another                refuse, naming U
//!     torn              last session's copies           repair, then as guarded
//! ```
//! An unguarded image is never replayed into: somebody else may have changed
//! it since.

use super::super::guard::{self, Raw, Standing};
use super::{Error, Result, Uuid};
use crate::device::Disk;
use crate::ext4::Superblock;
use crate::journal::Unrecovered;
use crate::journal::record::Session;
use crate::units::Lsn;

/// What is to be done with an image and its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Course {
    /// The journal has no past.
    First,
    /// Its past is this image's.
    GoOn,
    /// Its past is of another timeline and ends here.
    Anew,
    /// The image lags behind it.
    Recover,
}

impl Course {
    /// The table in this file's head.
    pub(super) fn of(good: &Raw, journal: &Unrecovered) -> Result<Course> {
        let session = journal.base().map(|base| &base.session);
        match (guard::standing(good), session) {
            (Standing::External(uuid), _) => Err(Error::External(Uuid(uuid))),
            (Standing::Guarded(uuid), None) if journal.report().last == Lsn(0) => {
                Err(Error::NoJournal(Uuid(uuid)))
            }
            (Standing::Guarded(uuid), session) => {
                journal.refuse_damage()?;
                match session {
                    Some(session) if session.guard == uuid => Ok(Course::Recover),
                    Some(session) if journal.is_unused() && began_over(session, uuid) => {
                        Ok(Course::Recover)
                    }
                    Some(session) => Err(Error::OtherJournal {
                        image: Uuid(uuid),
                        found: Uuid(session.guard),
                    }),
                    None => Err(Error::NoJournal(Uuid(uuid))),
                }
            }
            (Standing::Plain | Standing::Unreplayed, None) if journal.report().last == Lsn(0) => {
                Ok(Course::First)
            }
            (Standing::Plain | Standing::Unreplayed, None) => Ok(Course::Anew),
            (standing @ (Standing::Plain | Standing::Unreplayed), Some(session)) => {
                let ended_here = journal
                    .clean()
                    .is_some_and(|clean| clean.fingerprint == guard::fingerprint(good));
                let never_began = journal.is_unused() && session.prior == *good;
                if standing == Standing::Plain
                    && (ended_here || never_began)
                    && journal.refuse_damage().is_ok()
                {
                    return Ok(Course::GoOn);
                }
                match lacking(session, journal) {
                    Some(other) if !guard::names_the_same(&other, good) => {
                        Err(Error::OthersLack(Uuid(guard::file_system(&other))))
                    }
                    _ => Ok(Course::Anew),
                }
            }
        }
    }
}

/// The superblock of the image that lags behind the journal, if one does.
fn lacking(session: &Session, journal: &Unrecovered) -> Option<Raw> {
    let lags = journal.clean().is_none() && journal.report().operations > 0;
    Raw::try_from(session.guarded.as_slice())
        .ok()
        .filter(|_| lags)
}

/// Whether the image carried this guard when the session began.
fn began_over(session: &Session, uuid: [u8; 16]) -> bool {
    let prior = Raw::try_from(session.prior.as_slice());
    prior.is_ok_and(|prior| guard::standing(&prior) == Standing::Guarded(uuid))
}

/// The superblock, from the journal's copy if a cut has torn it. Whether it
/// is this image at all, other blocks must say then.
pub(super) fn repaired(image: &dyn Disk, found: &Raw, journal: &Unrecovered) -> Result<Raw> {
    let Some(base) = journal.base() else {
        return Ok(*found);
    };
    let Ok(known) = Raw::try_from(base.session.guarded.as_slice()) else {
        return Ok(*found);
    };
    if !guard::is_torn(found, &known) {
        return Ok(*found);
    }
    let sb = Superblock::decode(&known).map_err(Error::Unusable)?;
    let mut block = vec![0; sb.block_size as usize];
    let mut recognised = guard::names_the_same(found, &known);
    for (number, crc) in journal.untouched_samples()? {
        let place = number.0.checked_mul(u64::from(sb.block_size));
        let read = place.is_some_and(|place| image.read_at(&mut block, place).is_ok());
        recognised |= read && crc32fast::hash(&block) == crc;
    }
    if recognised {
        Ok(known)
    } else {
        Err(Error::Unrecognised)
    }
}

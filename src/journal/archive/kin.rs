//! Which of an archive's records are a journal's own past. A copy of image and
//! journal remembers the archive too, and there the original may have gone on.

use super::ImageBase;
use crate::log::Found;
use crate::units::{Epoch, Lsn};

/// Where a journal's past ends in an archive: at the newest segment that can
/// belong to it, by epoch, first record and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End(Epoch, Lsn, Lsn);

impl From<&Found> for End {
    fn from(found: &Found) -> End {
        End(found.epoch, found.base, found.last)
    }
}

impl End {
    /// By the segments that a journal still has. What has none has no past
    /// that could be told from another's: all is taken for its own.
    pub fn of(archived: &[Found], journal: &[Found]) -> End {
        const NOWHERE: Lsn = Lsn(u64::MAX);
        let newest = journal.iter().map(End::from).max();
        let newest = newest.unwrap_or(End(Epoch(u32::MAX), NOWHERE, NOWHERE));
        // Both went on from the same record: each opened the log anew for
        // that, and both counted that opening alike.
        let parted = journal.iter().filter(|mine| {
            let theirs = archived.iter().filter(|found| found.epoch == mine.epoch);
            theirs.into_iter().any(|found| parted(found, mine))
        });
        let parted =
            parted.map(|mine| End(Epoch(mine.epoch.0.saturating_sub(1)), NOWHERE, NOWHERE));
        parted.chain([newest]).min().unwrap_or(newest)
    }

    pub fn has(self, found: &Found) -> bool {
        End::from(found) <= self
    }

    pub fn has_base(self, base: &ImageBase) -> bool {
        base.epoch <= self.0
    }
}

/// Whether two segments of one epoch can't be of one log.
fn parted(archived: &Found, mine: &Found) -> bool {
    match archived.base == mine.base {
        true => archived.salt != mine.salt,
        false => archived.last.next() == mine.base && archived.salt != mine.before,
    }
}

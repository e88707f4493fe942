//! The guard: while the image lags behind its journal, stock tools refuse it.
//!
//! ```text
//!                      (a) no internal journal       (b) internal journal 8
//!     s_feature_compat     HAS_JOURNAL set               (is set)
//!     s_feature_incompat   RECOVER set                   RECOVER set
//!     s_journal_uuid       fresh in each session         fresh in each session
//!     s_journal_inum       0                             stays 8
//!     s_journal_dev        0                             0xfffe, no such device
//! ```
//! The kernel then looks for a journal that it cannot find, and refuses, for
//! reading too; e2fsck stops with exit code 12 or 8 and changes nothing. With
//! inode 8 kept and no device named, the kernel would mount it read-write.
//!
//! No bit is invented, so that a clean unmount can take all of it back: what
//! stood there before follows from the form alone. The bytes of the home
//! superblock change only here, when the guard comes and when it goes.

use crate::ext4::bytes::{le16, le32, put16, put32};
use crate::ext4::checksum::crc32c;
use crate::ext4::features::{compat, incompat, ro_compat};
use crate::ext4::superblock::{self, SIZE, STATE_CLEAN, STATE_ERRORS};
use crate::units::Time;

/// A superblock's bytes.
pub type Raw = [u8; SIZE];

const MTIME: usize = 0x2C;
const WTIME: usize = 0x30;
const MNT_COUNT: usize = 0x34;
const MAGIC: usize = 0x38;
const STATE: usize = 0x3A;
const COMPAT: usize = 0x5C;
const INCOMPAT: usize = 0x60;
const RO_COMPAT: usize = 0x64;
const UUID: std::ops::Range<usize> = 0x68..0x78;
const LAST_MOUNTED: std::ops::Range<usize> = 0x88..0xC8;
const JOURNAL_UUID: std::ops::Range<usize> = 0xD0..0xE0;
const JOURNAL_INUM: usize = 0xE0;
const JOURNAL_DEV: usize = 0xE4;
const KBYTES_WRITTEN: usize = 0x178;
/// `s_error_count` to the end of `s_last_error_func`, and the high parts of
/// the errors' times with their codes.
const ERRORS: [std::ops::Range<usize>; 2] = [0x194..0x200, 0x278..0x27C];
const WTIME_HI: usize = 0x274;
const MTIME_HI: usize = 0x275;
const CHECKSUM: usize = 0x3FC;

/// A device that does not exist.
const NOWHERE: u32 = 0xFFFE;

/// What a superblock says of journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is to be replayed.
    Plain,
    /// It lags behind the journal of this session.
    Guarded([u8; 16]),
    /// Its internal journal has to be replayed first.
    Unreplayed,
    /// It has a journal on another device.
    External([u8; 16]),
}

/// Reads what a superblock says of journals. RECOVER alone does not decide:
/// a tool that tried and failed may have cleared it (Debian's fuse2fs does).
pub fn standing(raw: &Raw) -> Standing {
    let uuid: [u8; 16] = raw[JOURNAL_UUID].try_into().expect("16 bytes");
    let named = uuid != [0; 16];
    let journal = le32(raw, COMPAT) & compat::HAS_JOURNAL != 0;
    let recover = le32(raw, INCOMPAT) & incompat::RECOVER != 0;
    match (journal, le32(raw, JOURNAL_INUM), le32(raw, JOURNAL_DEV)) {
        (true, 0, 0) if named => Standing::Guarded(uuid),
        (true, 1.., NOWHERE) if named => Standing::Guarded(uuid),
        (true, 0, _) => Standing::External(uuid),
        (true, 1.., _) | (false, _, _) if recover => Standing::Unreplayed,
        (true, 1.., _) | (false, _, _) => Standing::Plain,
    }
}

/// The superblock with a guard.
pub fn put_on(raw: &Raw, uuid: [u8; 16]) -> Raw {
    let mut guarded = *raw;
    set(&mut guarded, COMPAT, compat::HAS_JOURNAL);
    set(&mut guarded, INCOMPAT, incompat::RECOVER);
    guarded[JOURNAL_UUID].copy_from_slice(&uuid);
    if has_internal_journal(raw) {
        put32(&mut guarded, JOURNAL_DEV, NOWHERE);
    }
    superblock::seal(&mut guarded);
    guarded
}

/// The superblock without it.
pub fn take_off(raw: &Raw) -> Raw {
    let mut free = *raw;
    clear(&mut free, INCOMPAT, incompat::RECOVER);
    // Left over, it fails e2fsck.
    free[JOURNAL_UUID].fill(0);
    match has_internal_journal(raw) {
        true => put32(&mut free, JOURNAL_DEV, 0),
        false => clear(&mut free, COMPAT, compat::HAS_JOURNAL),
    }
    superblock::seal(&mut free);
    free
}

/// The guarded superblock of an image for which the journal that its guard
/// names has been made: stock tools find that, and our own guard it still is.
pub fn with_external(raw: &Raw) -> Raw {
    let mut external = *raw;
    set(&mut external, COMPAT, compat::HAS_JOURNAL);
    set(&mut external, INCOMPAT, incompat::RECOVER);
    put32(&mut external, JOURNAL_INUM, 0);
    put32(&mut external, JOURNAL_DEV, 0);
    superblock::seal(&mut external);
    external
}

/// The superblock of an image whose journal is given up: the guard off, and
/// errors noted, so that e2fsck looks at everything.
pub fn give_up(raw: &Raw) -> Raw {
    let mut free = take_off(raw);
    let state = le16(&free, STATE) | STATE_ERRORS;
    put16(&mut free, STATE, state);
    superblock::seal(&mut free);
    free
}

fn has_internal_journal(raw: &Raw) -> bool {
    le32(raw, COMPAT) & compat::HAS_JOURNAL != 0 && le32(raw, JOURNAL_INUM) != 0
}

/// What a session adds to the superblock that it leaves.
pub struct Visit<'a> {
    /// When it was mounted.
    pub mounted: Time,
    /// When it was unmounted.
    pub unmounted: Time,
    /// Where it was mounted.
    pub point: &'a [u8],
    /// Bytes written to the image meanwhile.
    pub written: u64,
    /// Free blocks of all groups.
    pub free_blocks: u64,
    /// Free inodes of all groups.
    pub free_inodes: u32,
}

/// The superblock at the end of a session: guard off, counts and times right.
/// `s_lastcheck` stays: nothing was checked.
pub fn restore(raw: &Raw, visit: &Visit<'_>) -> Raw {
    let mut sb = take_off(raw);
    let mounts = le16(&sb, MNT_COUNT).saturating_add(1);
    put16(&mut sb, MNT_COUNT, mounts);
    put_time(&mut sb, MTIME, MTIME_HI, visit.mounted);
    put_time(&mut sb, WTIME, WTIME_HI, visit.unmounted);
    let written = kbytes_written(&sb).saturating_add(visit.written.div_ceil(1024));
    sb[KBYTES_WRITTEN..KBYTES_WRITTEN + 8].copy_from_slice(&written.to_le_bytes());
    let point = &visit.point[..visit.point.len().min(LAST_MOUNTED.len() - 1)];
    if !point.is_empty() {
        sb[LAST_MOUNTED].fill(0);
        sb[LAST_MOUNTED][..point.len()].copy_from_slice(point);
    }
    superblock::set_free_counts(&mut sb, visit.free_blocks, visit.free_inodes);
    sb
}

/// Errors that another tool noted on the guarded image must not get lost.
pub fn merge_errors(into: &mut Raw, found: &Raw) {
    if le16(found, STATE) & STATE_ERRORS != 0 {
        let state = le16(into, STATE) | STATE_ERRORS;
        put16(into, STATE, state);
    }
    if le32(found, ERRORS[0].start) != 0 {
        for range in ERRORS {
            into[range.clone()].copy_from_slice(&found[range]);
        }
    }
    superblock::seal(into);
}

/// Whether it was unmounted well, and nobody has noted errors.
pub fn is_sound(raw: &Raw) -> bool {
    le16(raw, STATE) & (STATE_CLEAN | STATE_ERRORS) == STATE_CLEAN
}

/// Whether errors are noted.
pub fn has_errors(raw: &Raw) -> bool {
    le16(raw, STATE) & STATE_ERRORS != 0
}

/// By what a superblock that we left is recognised: nobody has written to it
/// who follows ext4's rules. It decides only whether history goes on.
pub fn fingerprint(raw: &Raw) -> Vec<u8> {
    // Not with its own checksum behind it: that sum is the same for all.
    let mut print = crc32c(!0, &raw[..CHECKSUM]).to_le_bytes().to_vec();
    for field in [
        WTIME..WTIME + 4,
        MTIME..MTIME + 4,
        MNT_COUNT..MNT_COUNT + 2,
        KBYTES_WRITTEN..KBYTES_WRITTEN + 8,
    ] {
        print.extend_from_slice(&raw[field]);
    }
    print
}

/// Whether a superblock is damaged as a write cut short damages it, judged by
/// one known to be good.
pub fn is_torn(raw: &Raw, known: &Raw) -> bool {
    let summed = le32(known, RO_COMPAT) & ro_compat::METADATA_CSUM != 0;
    let sum = crc32c(!0, &raw[..CHECKSUM]);
    le16(raw, MAGIC) != le16(known, MAGIC) || (summed && sum != le32(raw, CHECKSUM))
}

/// The file system's UUID.
pub fn file_system(raw: &Raw) -> [u8; 16] {
    raw[UUID].try_into().expect("16 bytes")
}

/// Whether the part that names the file system is there.
pub fn names_the_same(raw: &Raw, known: &Raw) -> bool {
    le16(raw, MAGIC) == le16(known, MAGIC) && raw[UUID] == known[UUID]
}

fn kbytes_written(raw: &Raw) -> u64 {
    u64::from(le32(raw, KBYTES_WRITTEN)) | u64::from(le32(raw, KBYTES_WRITTEN + 4)) << 32
}

fn put_time(raw: &mut Raw, low: usize, high: usize, time: Time) {
    put32(raw, low, time.secs as u32);
    raw[high] = (time.secs >> 32) as u8;
}

fn set(raw: &mut Raw, word: usize, bits: u32) {
    let now = le32(raw, word);
    put32(raw, word, now | bits);
}

fn clear(raw: &mut Raw, word: usize, bits: u32) {
    let now = le32(raw, word);
    put32(raw, word, now & !bits);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(internal: bool, summed: bool) -> Raw {
        let mut raw = [0; SIZE];
        put16(&mut raw, MAGIC, 0xEF53);
        put16(&mut raw, STATE, STATE_CLEAN);
        put32(&mut raw, 0x4C, 1);
        if internal {
            set(&mut raw, COMPAT, compat::HAS_JOURNAL);
            put32(&mut raw, JOURNAL_INUM, 8);
        }
        if summed {
            set(&mut raw, RO_COMPAT, ro_compat::METADATA_CSUM);
        }
        superblock::seal(&mut raw);
        raw
    }

    fn all() -> impl Iterator<Item = Raw> {
        [(false, false), (false, true), (true, false), (true, true)]
            .into_iter()
            .map(|(internal, summed)| plain(internal, summed))
    }

    #[test]
    fn a_guard_taken_off_leaves_what_was_there_before() {
        for raw in all() {
            assert_eq!(take_off(&put_on(&raw, [7; 16])), raw);
            assert_eq!(take_off(&put_on(&put_on(&raw, [7; 16]), [8; 16])), raw);
        }
    }

    #[test]
    fn a_guard_is_recognised_also_when_a_tool_has_cleared_recover() {
        for raw in all() {
            assert_eq!(standing(&raw), Standing::Plain);
            let mut guarded = put_on(&raw, [7; 16]);
            assert_eq!(standing(&guarded), Standing::Guarded([7; 16]));
            assert!(!is_torn(&guarded, &raw));
            clear(&mut guarded, INCOMPAT, incompat::RECOVER);
            assert_eq!(standing(&guarded), Standing::Guarded([7; 16]));
        }
    }

    #[test]
    fn journals_that_are_not_ours_are_told_apart() {
        let mut internal = plain(true, true);
        set(&mut internal, INCOMPAT, incompat::RECOVER);
        assert_eq!(standing(&internal), Standing::Unreplayed);
        let mut external = plain(true, true);
        put32(&mut external, JOURNAL_INUM, 0);
        put32(&mut external, JOURNAL_DEV, 0x801);
        external[JOURNAL_UUID].fill(3);
        assert_eq!(standing(&external), Standing::External([3; 16]));
    }

    #[test]
    fn errors_noted_meanwhile_are_kept() {
        let mut found = plain(false, true);
        put16(&mut found, STATE, STATE_CLEAN | STATE_ERRORS);
        put32(&mut found, 0x194, 2);
        found[0x1E0] = b'x';
        let mut ours = plain(false, true);
        merge_errors(&mut ours, &found);
        assert!(has_errors(&ours) && !is_sound(&ours));
        assert_eq!((le32(&ours, 0x194), ours[0x1E0]), (2, b'x'));
        assert!(!is_torn(&ours, &ours));
    }

    #[test]
    fn a_session_leaves_its_counts_and_times() {
        let raw = put_on(&plain(true, true), [9; 16]);
        let visit = Visit {
            mounted: Time {
                secs: 5_000_000_000,
                nanos: 0,
            },
            unmounted: Time {
                secs: 5_000_000_001,
                nanos: 0,
            },
            point: b"/mnt",
            written: 5000,
            free_blocks: 77,
            free_inodes: 11,
        };
        let sb = restore(&raw, &visit);
        assert_eq!(standing(&sb), Standing::Plain);
        assert_eq!(le16(&sb, MNT_COUNT), 1);
        assert_eq!(
            u64::from(le32(&sb, MTIME)) | u64::from(sb[MTIME_HI]) << 32,
            5_000_000_000
        );
        assert_eq!(kbytes_written(&sb), 5);
        assert_eq!(&sb[LAST_MOUNTED][..5], b"/mnt\0");
        assert_eq!(superblock::free_counts(&sb), (77, 11));
        assert_ne!(fingerprint(&sb), fingerprint(&raw));
    }

    #[test]
    fn a_label_written_in_the_same_second_changes_the_fingerprint() {
        let labelled = |name: u8| {
            let mut raw = [0; SIZE];
            raw[0x78] = name;
            let sum = crc32c(!0, &raw[..CHECKSUM]);
            raw[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
            fingerprint(&raw)
        };
        assert_ne!(labelled(b'a'), labelled(b'b'));
    }
}

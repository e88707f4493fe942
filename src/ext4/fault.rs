//! What a superblock remembers of errors: how many there were, and of the
//! first and the last one when and where (`s_error_count` and what follows;
//! "Super Block" in the kernel's Documentation/filesystems/ext4).

use super::bytes::{le16, le32, put16, put32};
use super::superblock::{STATE_ERRORS, seal};
use crate::units::{BlockNo, InodeNo, Time};

const STATE: usize = 0x3A;
const COUNT: usize = 0x194;

/// Where one error's fields lie.
struct Fields {
    time: usize,
    time_hi: usize,
    inode: usize,
    block: usize,
    function: usize,
    line: usize,
    code: usize,
}

const FIRST: Fields = Fields {
    time: 0x198,
    time_hi: 0x278,
    inode: 0x19C,
    block: 0x1A0,
    function: 0x1A8,
    line: 0x1C8,
    code: 0x27A,
};
const LAST: Fields = Fields {
    time: 0x1CC,
    time_hi: 0x279,
    inode: 0x1D0,
    block: 0x1D8,
    function: 0x1E0,
    line: 0x1D4,
    code: 0x27B,
};

/// Who found it, where the kernel names one of its functions.
const FUNCTION: &[u8; 32] = b"journalfs\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Codes as dumpe2fs words them.
const BAD_CHECKSUM: u8 = 4;
const CORRUPTED: u8 = 5;

/// An error that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub time: Time,
    /// The inode concerned; 0: none.
    pub inode: InodeNo,
    /// The block concerned; 0: none.
    pub block: BlockNo,
    /// A checksum is wrong, and not (only) what it covers.
    pub checksum: bool,
}

/// Marks a superblock's 1024 bytes as of a file system with errors.
pub fn note(raw: &mut [u8], fault: &Fault) {
    let state = le16(raw, STATE) | STATE_ERRORS;
    put16(raw, STATE, state);
    let count = le32(raw, COUNT);
    if count == 0 {
        put(raw, &FIRST, fault);
    }
    put(raw, &LAST, fault);
    put32(raw, COUNT, count.saturating_add(1));
    seal(raw);
}

/// Whether errors are noted.
pub fn is_noted(raw: &[u8]) -> bool {
    le16(raw, STATE) & STATE_ERRORS != 0
}

fn put(raw: &mut [u8], at: &Fields, fault: &Fault) {
    put32(raw, at.time, fault.time.secs as u32);
    raw[at.time_hi] = (fault.time.secs >> 32) as u8;
    put32(raw, at.inode, fault.inode.0);
    put32(raw, at.block, fault.block.0 as u32);
    put32(raw, at.block + 4, (fault.block.0 >> 32) as u32);
    raw[at.function..at.function + FUNCTION.len()].copy_from_slice(FUNCTION);
    put32(raw, at.line, 0);
    raw[at.code] = if fault.checksum {
        BAD_CHECKSUM
    } else {
        CORRUPTED
    };
}

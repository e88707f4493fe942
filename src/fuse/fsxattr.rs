//! `struct fsxattr` of linux/fs.h: an inode's flags as FS_IOC_FSGETXATTR and
//! FS_IOC_FSSETXATTR have them, beside things that ext4 has not.

use crate::ext4::inode::flag;

/// Bytes of the struct.
pub const SIZE: usize = 28;
const PROJECT: usize = 12;

/// `i_flags` and `fsx_xflags` of the same meaning: immutable, append-only,
/// sync, noatime, nodump, dax, and that what is made inherits the project.
const SAME: [(u32, u32); 7] = [
    (flag::IMMUTABLE, 0x8),
    (flag::APPEND, 0x10),
    (flag::SYNC, 0x20),
    (flag::NOATIME, 0x40),
    (flag::NODUMP, 0x80),
    (flag::DAX, 0x8000),
    (flag::PROJINHERIT, 0x200),
];

/// The flags that it has.
pub fn flags() -> u32 {
    SAME.iter().fold(0, |all, (flag, _)| all | flag)
}

/// Of an inode with these flags; extent sizes, extents and project: none.
pub fn encode(flags: u32) -> [u8; SIZE] {
    let set = SAME.iter().filter(|(flag, _)| flags & flag != 0);
    let xflags = set.fold(0u32, |all, (_, xflag)| all | xflag);
    let mut raw = [0; SIZE];
    raw[..4].copy_from_slice(&xflags.to_ne_bytes());
    raw
}

/// The flags that an inode is to have, and its project.
pub fn decode(raw: &[u8; SIZE]) -> (u32, u32) {
    let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    let xflags = word(0);
    let set = SAME.iter().filter(|(_, xflag)| xflags & xflag != 0);
    (set.fold(0, |all, (flag, _)| all | flag), word(PROJECT))
}

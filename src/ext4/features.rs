//! Feature bits: their names, and which of them we honour.
//!
//! An unknown INCOMPAT bit means that we would misread the image: refuse, by
//! name. An unknown RO_COMPAT bit means that we would damage it: read only.
//! COMPAT bits may be ignored.

use std::fmt;

/// The three feature words of a superblock.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// May be ignored.
    pub compat: u32,
    /// Must be known before reading.
    pub incompat: u32,
    /// Must be known before writing.
    pub ro_compat: u32,
}

/// Bits of the compat word.
#[allow(missing_docs)]
pub mod compat {
    pub const HAS_JOURNAL: u32 = 0x4;
    pub const EXT_ATTR: u32 = 0x8;
    pub const RESIZE_INODE: u32 = 0x10;
    pub const DIR_INDEX: u32 = 0x20;
    pub const SPARSE_SUPER2: u32 = 0x200;
    pub const FAST_COMMIT: u32 = 0x400;
    pub const ORPHAN_FILE: u32 = 0x1000;
}

/// Bits of the incompat word.
#[allow(missing_docs)]
pub mod incompat {
    pub const FILETYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const JOURNAL_DEV: u32 = 0x8;
    pub const EXTENTS: u32 = 0x40;
    pub const BIT64: u32 = 0x80;
    pub const FLEX_BG: u32 = 0x200;
    pub const CSUM_SEED: u32 = 0x2000;

    pub(super) const SUPPORTED: u32 = FILETYPE | RECOVER | EXTENTS | BIT64 | FLEX_BG | CSUM_SEED;
}

/// Bits of the ro_compat word.
#[allow(missing_docs)]
pub mod ro_compat {
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const LARGE_FILE: u32 = 0x2;
    pub const HUGE_FILE: u32 = 0x8;
    pub const GDT_CSUM: u32 = 0x10;
    pub const DIR_NLINK: u32 = 0x20;
    pub const EXTRA_ISIZE: u32 = 0x40;
    pub const METADATA_CSUM: u32 = 0x400;
    pub const ORPHAN_PRESENT: u32 = 0x1_0000;

    pub(super) const SUPPORTED: u32 = SPARSE_SUPER
        | LARGE_FILE
        | HUGE_FILE
        | GDT_CSUM
        | DIR_NLINK
        | EXTRA_ISIZE
        | METADATA_CSUM
        | ORPHAN_PRESENT;
}

const COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x40, "lazy_bg"),
    (0x80, "exclude_inode"),
    (0x100, "snapshot_bitmap"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];

const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extents"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];

const RO_COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x4, "btree_dir"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x80, "has_snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

impl Features {
    /// Whether any bit of `mask` is set in the compat word.
    pub fn compat(self, mask: u32) -> bool {
        self.compat & mask != 0
    }
    /// Whether any bit of `mask` is set in the incompat word.
    pub fn incompat(self, mask: u32) -> bool {
        self.incompat & mask != 0
    }
    /// Whether any bit of `mask` is set in the ro_compat word.
    pub fn ro_compat(self, mask: u32) -> bool {
        self.ro_compat & mask != 0
    }

    /// Names of set incompat bits that we can't honour: don't touch the image.
    pub fn unreadable(self) -> Vec<String> {
        names(
            self.incompat & !incompat::SUPPORTED,
            INCOMPAT_NAMES,
            "FEATURE_I",
        )
    }
    /// Names of set ro_compat bits that we can't honour: don't write.
    pub fn unwritable(self) -> Vec<String> {
        names(
            self.ro_compat & !ro_compat::SUPPORTED,
            RO_COMPAT_NAMES,
            "FEATURE_R",
        )
    }
    /// The names of all set bits, as dumpe2fs prints them.
    pub fn names(self) -> Vec<String> {
        let mut all = names(self.compat, COMPAT_NAMES, "FEATURE_C");
        all.extend(names(self.incompat, INCOMPAT_NAMES, "FEATURE_I"));
        all.extend(names(self.ro_compat, RO_COMPAT_NAMES, "FEATURE_R"));
        all
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

/// Names of the bits of a word; an unnamed bit as `PREFIX` and its number.
fn names(word: u32, table: &[(u32, &str)], prefix: &str) -> Vec<String> {
    let bits = (0..32).filter(|n| word & (1 << n) != 0);
    bits.map(|n| match table.iter().find(|(bit, _)| *bit == 1 << n) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{prefix}{n}"),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_named() {
        let odd = Features {
            compat: 0,
            incompat: 0x8000 | 0x2 | 0x8000_0000,
            ro_compat: 0x200 | 0x1,
        };
        assert_eq!(odd.unreadable(), ["inline_data", "FEATURE_I31"]);
        assert_eq!(odd.unwritable(), ["bigalloc"]);
    }
}

//! What the check can say about an image, each with its place and numbers.

use std::fmt;

use serde::{Serialize, Serializer};

/// A structure of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Place {
    Superblock,
    /// The superblock and descriptors that a group holds: copies, but for group 0.
    Descriptors {
        group: u32,
    },
    Group {
        group: u32,
    },
    BlockBitmap {
        group: u32,
    },
    InodeBitmap {
        group: u32,
    },
    InodeTable {
        group: u32,
    },
    Inode {
        inode: u32,
    },
    /// A block of an inode's extent tree or block map.
    MapBlock {
        inode: u32,
        block: u64,
    },
    /// A block of a directory, counted in the directory.
    DirectoryBlock {
        inode: u32,
        at: u32,
    },
    /// Extended attributes in the inode.
    InodeXattrs {
        inode: u32,
    },
    XattrBlock {
        inode: u32,
        block: u64,
    },
    OrphanList,
    OrphanBlock {
        block: u64,
    },
    MultiMount,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Place::Superblock => write!(f, "superblock"),
            Place::Descriptors { group } => {
                write!(f, "superblock and descriptors in group {group}")
            }
            Place::Group { group } => write!(f, "group {group}"),
            Place::BlockBitmap { group } => write!(f, "block bitmap of group {group}"),
            Place::InodeBitmap { group } => write!(f, "inode bitmap of group {group}"),
            Place::InodeTable { group } => write!(f, "inode table of group {group}"),
            Place::Inode { inode } => write!(f, "inode {inode}"),
            Place::MapBlock { inode, block } => write!(f, "map block {block} of inode {inode}"),
            Place::DirectoryBlock { inode, at } => {
                write!(f, "block {at} of directory inode {inode}")
            }
            Place::InodeXattrs { inode } => write!(f, "attributes in inode {inode}"),
            Place::XattrBlock { inode, block } => {
                write!(f, "attribute block {block} of inode {inode}")
            }
            Place::OrphanList => write!(f, "orphan list"),
            Place::OrphanBlock { block } => write!(f, "orphan file block {block}"),
            Place::MultiMount => write!(f, "multi-mount block"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// The image is inconsistent.
    Error,
    /// Something could not be judged.
    Unchecked,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(missing_docs)] // Display says what each means
#[non_exhaustive]
pub enum Finding {
    Unreadable {
        place: Place,
        error: String,
    },
    Unsupported {
        what: String,
    },
    NotExt4 {
        magic: u16,
    },
    ShortImage {
        blocks: u64,
        present: u64,
    },
    NeedsReplay {
        transactions: u32,
    },
    NotReplayable {
        why: String,
    },
    Guarded {
        uuid: String,
    },
    Orphans {
        count: u64,
    },
    Checksum {
        place: Place,
        stored: u32,
        computed: u32,
    },
    Field {
        place: Place,
        field: &'static str,
        value: u64,
        want: Option<u64>,
    },
    Outside {
        place: Place,
        block: u64,
    },
    UsedTwice {
        place: Place,
        first: u64,
        count: u64,
    },
    MarkedFree {
        first: u64,
        count: u64,
    },
    MarkedUsed {
        first: u64,
        count: u64,
    },
    UsedUninit {
        place: Place,
        group: u32,
    },
    Padding {
        place: Place,
    },
    InodeMarkedFree {
        inode: u32,
    },
    InodeMarkedUsed {
        inode: u32,
    },
    Map {
        place: Place,
        at: u64,
        why: &'static str,
    },
    Hole {
        directory: u32,
        at: u32,
    },
    Record {
        place: Place,
        offset: u32,
        why: &'static str,
    },
    Entry {
        directory: u32,
        name: String,
        inode: u32,
        why: &'static str,
    },
    Htree {
        place: Place,
        why: &'static str,
        value: u64,
    },
    Xattr {
        place: Place,
        offset: u32,
        why: &'static str,
    },
    Links {
        inode: u32,
        stored: u32,
        counted: u32,
    },
    Nameless {
        inode: u32,
    },
    Unreachable {
        directory: u32,
    },
    Parent {
        directory: u32,
        dotdot: u32,
        parent: u32,
    },
    Orphan {
        inode: u32,
        why: &'static str,
    },
    Symlink {
        inode: u32,
        why: &'static str,
    },
    JournalUnreadable {
        error: String,
    },
    JournalForeign {
        image: String,
        journal: String,
    },
    JournalMissing {
        uuid: String,
    },
    JournalFrame {
        lsn: u64,
        error: String,
    },
    JournalCorrupt {
        lsn: u64,
        error: String,
    },
    JournalEnd {
        lsn: u64,
        error: String,
    },
    JournalTorn {
        lsn: u64,
        dropped: u64,
    },
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            // (History that nobody needs any more for recovery.)
            Finding::JournalFrame { .. } => Severity::Note,
            Finding::NeedsReplay { .. }
            | Finding::Guarded { .. }
            | Finding::Orphans { .. }
            | Finding::JournalTorn { .. } => Severity::Note,
            Finding::Unreadable { .. }
            | Finding::Unsupported { .. }
            | Finding::NotExt4 { .. }
            | Finding::NotReplayable { .. }
            | Finding::JournalMissing { .. }
            | Finding::JournalUnreadable { .. } => Severity::Unchecked,
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Unreadable { place, error } => write!(f, "{place}: can't be read: {error}"),
            Finding::Unsupported { what } => write!(f, "can't check an image with {what}"),
            Finding::NotExt4 { magic } => {
                write!(
                    f,
                    "not an ext4 file system (magic {magic:#06x}, want 0xef53)"
                )
            }
            Finding::ShortImage { blocks, present } => {
                write!(
                    f,
                    "the superblock counts {blocks} blocks, the image holds {present}"
                )
            }
            Finding::NeedsReplay { transactions } => {
                write!(
                    f,
                    "lacks {transactions} transactions of its own journal: journalfs recover replays them"
                )
            }
            Finding::NotReplayable { why } => {
                write!(
                    f,
                    "the image's own journal needs recovery, and {why}: run e2fsck -f on it"
                )
            }
            Finding::Guarded { uuid } => write!(f, "guarded: lags behind journal {uuid}"),
            Finding::Orphans { count } => {
                write!(f, "{count} orphans wait to be freed at the next mount")
            }
            Finding::Checksum {
                place,
                stored,
                computed,
            } => {
                write!(
                    f,
                    "{place}: checksum is {stored:#010x}, should be {computed:#010x}"
                )
            }
            Finding::Field {
                place,
                field,
                value,
                want: Some(want),
            } => {
                write!(f, "{place}: {field} is {value}, should be {want}")
            }
            Finding::Field {
                place,
                field,
                value,
                want: None,
            } => {
                write!(f, "{place}: {field} is {value}, which makes no sense")
            }
            Finding::Outside { place, block } => {
                write!(f, "{place}: block {block} lies outside the image")
            }
            Finding::UsedTwice {
                place,
                first,
                count,
            } => {
                write!(
                    f,
                    "{place}: {count} blocks from {first} on belong to somebody else too"
                )
            }
            Finding::MarkedFree { first, count } => {
                write!(
                    f,
                    "{count} blocks from {first} on are in use, but marked free"
                )
            }
            Finding::MarkedUsed { first, count } => {
                write!(
                    f,
                    "{count} blocks from {first} on belong to nobody, but are marked in use"
                )
            }
            Finding::UsedUninit { place, group } => {
                write!(
                    f,
                    "{place} uses a part of group {group} that is flagged as never used"
                )
            }
            Finding::Padding { place } => write!(f, "{place}: padding at its end is not all ones"),
            Finding::InodeMarkedFree { inode } => {
                write!(f, "inode {inode} is in use, but marked free")
            }
            Finding::InodeMarkedUsed { inode } => {
                write!(
                    f,
                    "inode {inode} has no links and is no orphan, but is marked in use"
                )
            }
            Finding::Map { place, at, why } => write!(f, "{place}: at file block {at}: {why}"),
            Finding::Hole { directory, at } => {
                write!(f, "directory inode {directory} lacks block {at}")
            }
            Finding::Record { place, offset, why } => {
                write!(f, "{place}: entry at byte {offset}: {why}")
            }
            Finding::Entry {
                directory,
                name,
                inode,
                why,
            } => {
                write!(
                    f,
                    "entry {name:?} (inode {inode}) in directory inode {directory}: {why}"
                )
            }
            Finding::Htree { place, why, value } => write!(f, "{place}: index: {why} ({value})"),
            Finding::Xattr { place, offset, why } => {
                write!(f, "{place}: entry at byte {offset}: {why}")
            }
            Finding::Links {
                inode,
                stored,
                counted,
            } => {
                write!(
                    f,
                    "inode {inode}: link count is {stored}, should be {counted}"
                )
            }
            Finding::Nameless { inode } => {
                write!(f, "inode {inode} is in use, but no directory names it")
            }
            Finding::Unreachable { directory } => {
                write!(
                    f,
                    "directory inode {directory} can't be reached from the root"
                )
            }
            Finding::Parent {
                directory,
                dotdot,
                parent,
            } => {
                write!(
                    f,
                    "directory inode {directory}: \"..\" is inode {dotdot}, should be {parent}"
                )
            }
            Finding::Orphan { inode, why } => write!(f, "orphan inode {inode}: {why}"),
            Finding::Symlink { inode, why } => write!(f, "symlink inode {inode}: {why}"),
            Finding::JournalUnreadable { error } => write!(f, "journal: {error}"),
            Finding::JournalForeign { image, journal } => {
                write!(
                    f,
                    "the image waits for journal {image}, this one is {journal}"
                )
            }
            Finding::JournalMissing { uuid } => {
                write!(f, "the image lags behind journal {uuid}, which is not here")
            }
            Finding::JournalFrame { lsn, error } => {
                write!(
                    f,
                    "journal: record {lsn} is home, but can't be read: {error}"
                )
            }
            Finding::JournalCorrupt { lsn, error } => {
                write!(
                    f,
                    "journal: record {lsn} was durable once and is damaged: {error}"
                )
            }
            Finding::JournalEnd { error, .. } => write!(f, "journal: {error}"),
            Finding::JournalTorn { lsn, dropped } => {
                write!(
                    f,
                    "journal: torn at record {lsn}; {dropped} unsynced frames will be dropped"
                )
            }
        }
    }
}

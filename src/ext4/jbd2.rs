//! ext4's own journal, jbd2: what its blocks say, and what a replay would
//! write.
//!
//! ```text
//!     superblock | descriptor, data … | revocations | commit | descriptor …
//!     0          first                                          … end (wraps to first)
//! ```
//! All numbers are big-endian. Every block but data begins with a magic, its
//! type and its transaction's number; a transaction is whole when its commit
//! is there. Source: kernel documentation, `filesystems/ext4/journal.rst`;
//! what that does not say (tags with checksums of version 2 have two bytes
//! more, an escaped block's checksum is that of its bytes in the journal, the
//! CRC-32 of version 1 is the one that begins at the high bit, fast commits
//! begin one block behind the area's start) was found in journals written by
//! the kernel and by debugfs, which the tests below hold.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::le16;
use super::checksum::{crc32_be, crc32c};
use super::{Corrupt, Unusable};
use crate::units::BlockNo;

mod external;
pub use external::External;

const MAGIC: u32 = 0xC03B_3998;
/// Bytes of a journal's superblock, and the least that a block has.
const SUPER: usize = 1024;
/// Bytes in front of a block's tags.
const HEADER: usize = 12;

/// `h_blocktype`.
mod kind {
    pub const DESCRIPTOR: u32 = 1;
    pub const COMMIT: u32 = 2;
    pub const SUPER_V1: u32 = 3;
    pub const SUPER_V2: u32 = 4;
    pub const REVOKE: u32 = 5;
}

/// Bits of `s_feature_compat` and `s_feature_incompat`.
mod feature {
    pub const COMPAT_CHECKSUM: u32 = 0x1;
    pub const REVOKE: u32 = 0x1;
    pub const BIT64: u32 = 0x2;
    pub const ASYNC_COMMIT: u32 = 0x4;
    pub const CSUM_V2: u32 = 0x8;
    pub const CSUM_V3: u32 = 0x10;
    pub const FAST_COMMIT: u32 = 0x20;
    pub const KNOWN: u32 = REVOKE | BIT64 | ASYNC_COMMIT | CSUM_V2 | CSUM_V3 | FAST_COMMIT;
}

/// A tag's flags.
mod tag {
    pub const ESCAPED: u32 = 0x1;
    pub const SAME_UUID: u32 = 0x2;
    pub const LAST: u32 = 0x8;
}

/// `s_checksum_type`.
const CRC32: u8 = 1;
const CRC32C: u8 = 4;

/// Blocks for fast commits where the superblock does not say.
const FAST_COMMITS: u32 = 256;
/// The tag that begins an area of fast commits.
const FAST_COMMIT_HEAD: u16 = 9;

/// Which checksums a journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sums {
    None,
    /// Commits carry the CRC-32 of their transaction's descriptors and data.
    OfTransactions,
    /// Every block has one; 16 bits of it for data.
    V2,
    /// The same, with 32 bits.
    V3,
}

/// A journal's superblock, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Super {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the journal, this one included.
    pub len: u32,
    /// The journal notes that the file system failed (`s_errno`).
    pub failed: bool,
    /// The transaction that the log begins with.
    pub sequence: u32,
    /// Where the log begins; 0: it is empty.
    start: u32,
    /// The first block of the log, and the one behind its last.
    first: u32,
    end: u32,
    sums: Sums,
    wide: bool,
    async_commit: bool,
    fast_commits: bool,
    /// Where checksums begin.
    seed: u32,
}

impl Super {
    /// Decodes the journal's first block.
    pub fn decode(raw: &[u8]) -> Result<Self, Unusable> {
        if raw.len() < SUPER {
            return Err(wrong("length", raw.len() as u64).into());
        }
        let (magic, kind) = (be32(raw, 0), be32(raw, 4));
        if magic != MAGIC {
            return Err(wrong("h_magic", u64::from(magic)).into());
        }
        if !matches!(kind, kind::SUPER_V1 | kind::SUPER_V2) {
            return Err(wrong("h_blocktype", u64::from(kind)).into());
        }
        let word = |at| {
            if kind == kind::SUPER_V2 {
                be32(raw, at)
            } else {
                0
            }
        };
        let (compat, incompat) = (word(0x24), word(0x28));
        let unknown = incompat & !feature::KNOWN | word(0x2C);
        if unknown != 0 {
            return Err(Unusable::Unsupported(format!(
                "journal features {unknown:#x}"
            )));
        }
        let sums = sums(raw, compat, incompat)?;
        let len = be32(raw, 0x10);
        let fast_commits = incompat & feature::FAST_COMMIT != 0;
        let kept = match (fast_commits, word(0x54)) {
            (false, _) => 0,
            (true, 0) => FAST_COMMITS,
            (true, blocks) => blocks,
        };
        let (block_size, first, start) = (be32(raw, 0xC), be32(raw, 0x14), be32(raw, 0x1C));
        let end = len.saturating_sub(kept);
        let possible = block_size.is_power_of_two() && (1024..=65536).contains(&block_size);
        let checks = [
            (possible, "s_blocksize", block_size),
            (first >= 1 && first < end, "s_first", first),
            (
                start == 0 || (first..end).contains(&start),
                "s_start",
                start,
            ),
        ];
        if let Some((_, field, value)) = checks.into_iter().find(|(holds, ..)| !holds) {
            return Err(wrong(field, u64::from(value)).into());
        }
        Ok(Super {
            block_size,
            len,
            failed: be32(raw, 0x20) != 0,
            sequence: be32(raw, 0x18),
            start,
            first,
            end,
            sums,
            wide: incompat & feature::BIT64 != 0,
            async_commit: incompat & feature::ASYNC_COMMIT != 0,
            fast_commits,
            seed: crc32c(!0, &raw[0x30..0x40]),
        })
    }

    /// Whether there is nothing in the log. (Fast commits may wait all the same.)
    pub fn is_empty(&self) -> bool {
        self.start == 0
    }

    /// The first block of the area of fast commits, if there is one.
    pub fn fast_commits(&self) -> Option<u32> {
        self.fast_commits.then_some(self.end + 1)
    }

    /// Writes into the journal's first block that its log is empty. The next
    /// transaction's number is one that no block of the old log has.
    pub fn empty(&self, raw: &mut [u8]) {
        let next = self.sequence.wrapping_add(self.end).wrapping_add(1);
        raw[0x18..0x1C].copy_from_slice(&next.to_be_bytes());
        raw[0x1C..0x20].fill(0);
        if matches!(self.sums, Sums::V2 | Sums::V3) {
            let sum = sum_of_super(raw);
            raw[0xFC..0x100].copy_from_slice(&sum.to_be_bytes());
        }
    }

    fn has_sums(&self) -> bool {
        matches!(self.sums, Sums::V2 | Sums::V3)
    }

    /// Bytes of a block that tags and revocations may use.
    fn room(&self, block: &[u8]) -> usize {
        block.len() - if self.has_sums() { 4 } else { 0 }
    }

    /// A descriptor's or revocation block's checksum stands in its last bytes.
    fn check(&self, block: &[u8], what: &str, sequence: u32) -> Result<(), Corrupt> {
        let at = block.len() - 4;
        match self.has_sums() {
            true => self.compare(block, at, what, sequence),
            false => Ok(()),
        }
    }

    /// Compares a block's checksum, which stands at `at` and counts as zeros.
    fn compare(&self, block: &[u8], at: usize, what: &str, sequence: u32) -> Result<(), Corrupt> {
        let sum = crc32c(self.seed, &block[..at]);
        let computed = crc32c(crc32c(sum, &[0; 4]), &block[at + 4..]);
        same(be32(block, at), computed, || of(what, sequence))
    }

    /// Bytes of a tag, its UUID left out.
    fn tag_size(&self) -> usize {
        let high = if self.wide { 4 } else { 0 };
        match self.sums {
            Sums::V3 => 16,
            Sums::V2 => 10 + high,
            Sums::None | Sums::OfTransactions => 8 + high,
        }
    }

    /// The tags of a descriptor block.
    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let (mut at, mut tags) = (HEADER, Vec::new());
        while at + self.tag_size() <= self.room(block) {
            let raw = &block[at..at + self.tag_size()];
            let high = match (self.wide, self.sums) {
                (false, _) => 0,
                (true, _) => be32(raw, 8),
            };
            let (flags, sum) = match self.sums {
                Sums::V3 => (be32(raw, 4), be32(raw, 12)),
                _ => (u32::from(be16(raw, 6)), u32::from(be16(raw, 4))),
            };
            tags.push(Tag {
                block: BlockNo(u64::from(high) << 32 | u64::from(be32(raw, 0))),
                escaped: flags & tag::ESCAPED != 0,
                sum,
            });
            at += self.tag_size();
            if flags & tag::SAME_UUID == 0 {
                at += 16;
            }
            if flags & tag::LAST != 0 {
                break;
            }
        }
        tags
    }

    /// Checks a data block's checksum.
    fn check_data(&self, data: &[u8], tag: &Tag, sequence: u32) -> Result<(), Corrupt> {
        let computed = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), data);
        let what = || of(&format!("block {}", tag.block), sequence);
        match self.sums {
            Sums::V3 => same(tag.sum, computed, what),
            Sums::V2 => same(tag.sum, computed & 0xFFFF, what),
            Sums::None | Sums::OfTransactions => Ok(()),
        }
    }

    /// The blocks that a revocation block names.
    fn revoked(&self, block: &[u8], sequence: u32) -> Result<Vec<BlockNo>, Corrupt> {
        let (from, used) = (HEADER + 4, be32(block, HEADER) as usize);
        if !(from..=self.room(block)).contains(&used) {
            return Err(Corrupt::Field {
                what: of("revocations", sequence),
                field: "r_count",
                value: used as u64,
            });
        }
        let each = if self.wide { 8 } else { 4 };
        let numbers = block[from..used]
            .chunks_exact(each)
            .map(|raw| match self.wide {
                true => u64::from(be32(raw, 0)) << 32 | u64::from(be32(raw, 4)),
                false => u64::from(be32(raw, 0)),
            });
        Ok(numbers.map(BlockNo).collect())
    }

    /// Checks a commit block; `whole` is the CRC-32 of what it commits.
    fn check_commit(&self, block: &[u8], whole: u32, sequence: u32) -> Result<(), Corrupt> {
        match (self.sums, block[0xC], block[0xD], be32(block, 0x10)) {
            (Sums::V2 | Sums::V3, ..) => self.compare(block, 0x10, "commit", sequence),
            (Sums::None, ..) | (Sums::OfTransactions, 0, 0, 0) => Ok(()),
            (Sums::OfTransactions, CRC32, 4, stored) => {
                same(stored, whole, || of("blocks", sequence))
            }
            (Sums::OfTransactions, other, ..) => Err(Corrupt::Field {
                what: of("commit", sequence),
                field: "h_chksum_type",
                value: u64::from(other),
            }),
        }
    }
}

fn sums(raw: &[u8], compat: u32, incompat: u32) -> Result<Sums, Unusable> {
    let sums = match incompat & (feature::CSUM_V2 | feature::CSUM_V3) {
        0 if compat & feature::COMPAT_CHECKSUM != 0 => return Ok(Sums::OfTransactions),
        0 => return Ok(Sums::None),
        feature::CSUM_V2 => Sums::V2,
        feature::CSUM_V3 => Sums::V3,
        both => return Err(wrong("s_feature_incompat", u64::from(both)).into()),
    };
    if raw[0x50] != CRC32C {
        return Err(Unusable::Unsupported(format!(
            "journal checksums of type {}",
            raw[0x50]
        )));
    }
    same(be32(raw, 0xFC), sum_of_super(raw), || {
        "the journal's superblock".into()
    })?;
    Ok(sums)
}

fn sum_of_super(raw: &[u8]) -> u32 {
    let sum = crc32c(crc32c(!0, &raw[..0xFC]), &[0; 4]);
    crc32c(sum, &raw[0x100..SUPER])
}

/// Where a block belongs, from a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    block: BlockNo,
    escaped: bool,
    sum: u32,
}

/// Where in the journal a block's newest bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The journal's block.
    pub at: u32,
    /// Its first four bytes are the magic, for which zeros stand there.
    pub escaped: bool,
}

impl Source {
    /// Gives the block's bytes, as read from the journal, what was taken from them.
    pub fn restore(&self, bytes: &mut [u8]) {
        if self.escaped {
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        }
    }
}

/// What a replay would write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Blocks of the file system, and where their bytes are.
    pub blocks: BTreeMap<BlockNo, Source>,
    /// Whole transactions.
    pub transactions: u32,
    /// The transaction that would have followed.
    next: u32,
}

impl Replay {
    /// Whether the area of fast commits, which begins with `block`, holds what
    /// must be done behind this replay.
    pub fn fast_commits_follow(&self, block: &[u8]) -> bool {
        let tid = || u32::from_le_bytes([block[8], block[9], block[10], block[11]]);
        block.len() >= HEADER && le16(block, 0) == FAST_COMMIT_HEAD && tid() == self.next
    }

    /// Takes over what a transaction did. Its revocations undo what it and
    /// the ones before it wrote: a later one that writes the block again
    /// comes later.
    fn absorb(&mut self, done: Transaction) {
        self.blocks.extend(done.written);
        for block in done.revoked {
            self.blocks.remove(&block);
        }
        self.transactions += 1;
    }
}

/// Reads a log from its start to where it ends: at the first transaction that
/// is not whole. `read` fills a buffer with a block of the journal; `blocks`
/// is how many the file system has. Reads every block once at most.
///
/// A bad checksum in the last transaction may be the work of the power, which
/// failed before that was on the disk: such a transaction never was. But a
/// commit is written when all that it commits is stable (unless the journal
/// says otherwise), and the next transaction after it: where these are whole,
/// something has been damaged later, and nothing is to be replayed.
pub fn scan<E: From<Corrupt>>(
    sb: &Super,
    blocks: u64,
    read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
) -> Result<Replay, E> {
    let mut log = Log {
        sb,
        read,
        blocks,
        at: sb.start,
        left: if sb.is_empty() { 0 } else { sb.end - sb.first },
        block: vec![0; sb.block_size as usize],
    };
    let mut replay = Replay::default();
    let (mut sequence, mut time) = (sb.sequence, (0, 0));
    while let Some(done) = log.transaction(sequence)? {
        let stale = done.time < time;
        let torn = match (&done.damage, &done.damaged_commit) {
            (None, None) => None,
            (None, Some(commit)) => Some((commit, true)),
            (Some(damage), _) => Some((damage, sb.async_commit)),
        };
        if let Some((damage, possible)) = torn {
            // (An older log's leftovers have older times.)
            match stale || possible && !log.goes_on(sequence.wrapping_add(1))? {
                true => break,
                false => return Err(damage.clone().into()),
            }
        }
        time = done.time;
        replay.absorb(done);
        sequence = sequence.wrapping_add(1);
    }
    replay.next = sequence;
    Ok(replay)
}

/// A log that is being read.
struct Log<'s, R> {
    sb: &'s Super,
    read: R,
    blocks: u64,
    at: u32,
    /// Blocks that it can still have.
    left: u32,
    block: Vec<u8>,
}

/// A transaction with its commit.
#[derive(Default)]
struct Transaction {
    written: Vec<(BlockNo, Source)>,
    revoked: BTreeSet<BlockNo>,
    /// CRC-32 of descriptors and data.
    sum: u32,
    /// Seconds and nanoseconds.
    time: (u64, u32),
    /// The first thing that is not as its checksum says.
    damage: Option<Corrupt>,
    damaged_commit: Option<Corrupt>,
}

impl<E: From<Corrupt>, R: FnMut(u32, &mut [u8]) -> Result<(), E>> Log<'_, R> {
    /// The transaction that begins here; `None` if the log ends before its commit.
    fn transaction(&mut self, sequence: u32) -> Result<Option<Transaction>, E> {
        let mut open = Transaction {
            sum: !0,
            ..Transaction::default()
        };
        while self.advance()?.is_some() {
            match self.header(sequence) {
                Some(kind::DESCRIPTOR) => {
                    if self.descriptor(&mut open, sequence)?.is_none() {
                        return Ok(None);
                    }
                }
                Some(kind::REVOKE) => self.revocations(&mut open, sequence),
                Some(kind::COMMIT) => {
                    open.damaged_commit =
                        (self.sb.check_commit(&self.block, open.sum, sequence)).err();
                    if self.sb.sums == Sums::OfTransactions {
                        open.damage = open.damage.or(open.damaged_commit.take());
                    }
                    let seconds = u64::from(be32(&self.block, 0x30)) << 32;
                    let seconds = seconds | u64::from(be32(&self.block, 0x34));
                    open.time = (seconds, be32(&self.block, 0x38));
                    return Ok(Some(open));
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Takes a descriptor's tags and the blocks that follow it.
    fn descriptor(&mut self, open: &mut Transaction, sequence: u32) -> Result<Option<()>, E> {
        note(open, self.sb.check(&self.block, "descriptor", sequence));
        self.sum(open);
        for tag in self.sb.tags(&self.block) {
            let Some(at) = self.advance()? else {
                return Ok(None);
            };
            note(open, self.sb.check_data(&self.block, &tag, sequence));
            self.sum(open);
            if tag.block.0 >= self.blocks {
                let (what, block) = (of("a block", sequence), tag.block);
                note(open, Err(Corrupt::BlockOutside { what, block }));
            }
            let escaped = tag.escaped;
            open.written.push((tag.block, Source { at, escaped }));
        }
        Ok(Some(()))
    }

    fn revocations(&mut self, open: &mut Transaction, sequence: u32) {
        note(open, self.sb.check(&self.block, "revocations", sequence));
        match self.sb.revoked(&self.block, sequence) {
            // (Others can't have been written.)
            Ok(blocks) => open
                .revoked
                .extend(blocks.iter().filter(|b| b.0 < self.blocks)),
            Err(damage) => note(open, Err(damage)),
        }
    }

    fn sum(&self, open: &mut Transaction) {
        if self.sb.sums == Sums::OfTransactions {
            open.sum = crc32_be(open.sum, &self.block);
        }
    }

    /// Whether a transaction begins here.
    fn goes_on(&mut self, sequence: u32) -> Result<bool, E> {
        Ok(self.advance()?.is_some() && self.header(sequence).is_some())
    }

    /// The type of a block of this transaction; `None` if it is none.
    fn header(&self, sequence: u32) -> Option<u32> {
        let head = [0, 4, 8].map(|at| be32(&self.block, at));
        (head[0] == MAGIC && head[2] == sequence).then_some(head[1])
    }

    /// Reads the next block, and says which it was; `None` behind the last.
    fn advance(&mut self) -> Result<Option<u32>, E> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        let at = self.at;
        (self.read)(at, &mut self.block)?;
        self.left = left;
        self.at = match at + 1 == self.sb.end {
            true => self.sb.first,
            false => at + 1,
        };
        Ok(Some(at))
    }
}

/// The first damage counts.
fn note(open: &mut Transaction, checked: Result<(), Corrupt>) {
    if let (None, Err(damage)) = (&open.damage, checked) {
        open.damage = Some(damage);
    }
}

fn same(stored: u32, computed: u32, what: impl FnOnce() -> String) -> Result<(), Corrupt> {
    match stored == computed {
        true => Ok(()),
        false => Err(Corrupt::Checksum {
            what: what(),
            stored,
            computed,
        }),
    }
}

fn of(what: &str, sequence: u32) -> String {
    format!("{what} of journal transaction {sequence}")
}

fn wrong(field: &'static str, value: u64) -> Corrupt {
    Corrupt::Field {
        what: "the journal's superblock".into(),
        field,
        value,
    }
}

fn be16(raw: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([raw[at], raw[at + 1]])
}

fn be32(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

fn put_be32(raw: &mut [u8], at: usize, value: u32) {
    raw[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;

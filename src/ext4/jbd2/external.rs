//! An external journal, made to be replayed once.
//!
//! ```text
//!     (1 KiB of nothing), ext2 superblock | jbd2 superblock | descriptor, data … | commit | …
//!     0                                     1               2
//! ```
//! The layout is that of `mke2fs -O journal_dev`: a superblock that says by
//! one feature that the rest is a journal, behind whose block the journal
//! begins (with blocks of 1 KiB both lie one block later). Numbers of blocks
//! count from the start of the device, that of jbd2's superblock too.
//!
//! Each transaction is replayed whole or not at all, and one has no largest
//! size: the bounds that the kernel keeps are for a journal that goes round.

use std::ops::Range;

use super::{CRC32C, HEADER, MAGIC, SUPER, feature, kind, put_be32, sum_of_super, tag};
use crate::ext4::bytes::{put16, put32};
use crate::ext4::checksum::crc32c;
use crate::units::{BlockNo, Time};

/// Bytes of a tag with a checksum of 32 bits.
const TAG: usize = 16;
/// The fewest blocks of a journal that the kernel and e2fsck take.
const LEAST: u64 = 1024;
/// The first transaction's number.
const FIRST: u32 = 1;

/// A writer of such a journal. Makes its blocks; where they go, its caller
/// knows.
pub struct External {
    uuid: [u8; 16],
    user: [u8; 16],
    block_size: usize,
    blocks: u32,
    made: Time,
    /// The next transaction, and the block that it begins with.
    sequence: u32,
    at: u32,
}

impl External {
    /// A journal with this UUID, for the file system `user`, that takes
    /// transactions of so many blocks each; `made` is the time that it tells.
    /// `None` if it would have more blocks than 32 bits count. Blocks have
    /// 1024, 2048 or 4096 bytes.
    pub fn new(
        uuid: [u8; 16],
        user: [u8; 16],
        block_size: usize,
        transactions: &[u64],
        made: Time,
    ) -> Option<External> {
        let per_descriptor = descriptor_tags(block_size).len() as u64;
        let room = |blocks: &u64| blocks + blocks.div_ceil(per_descriptor) + 1;
        let start = u64::from(journal_start(block_size)) + 1;
        // One more, in which the log is seen to end.
        let need = start + transactions.iter().map(room).sum::<u64>() + 1;
        Some(External {
            uuid,
            user,
            block_size,
            blocks: u32::try_from(need.max(LEAST)).ok()?,
            made,
            sequence: FIRST,
            at: start as u32,
        })
    }

    /// Blocks of the device.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Makes one transaction of these blocks, each named once. `put` is given
    /// blocks of the device, not in order, and all others are zeros.
    pub fn transaction<B: AsRef<[u8]>, E>(
        &mut self,
        blocks: impl Iterator<Item = Result<(BlockNo, B), E>>,
        mut put: impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut blocks = blocks.peekable();
        while blocks.peek().is_some() {
            self.descriptor(&mut blocks, &mut put)?;
        }
        put(self.at, &self.commit())?;
        self.at += 1;
        self.sequence += 1;
        Ok(())
    }

    /// The blocks of the device in front of the transactions. Written last,
    /// they make it a journal when all else is there.
    pub fn heads<E>(&self, mut put: impl FnMut(u32, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut device = vec![0; self.block_size.max(2 * SUPER)];
        self.device_head(&mut device[SUPER..2 * SUPER]);
        for (at, block) in device.chunks_exact(self.block_size).enumerate() {
            put(at as u32, block)?;
        }
        put(journal_start(self.block_size), &self.journal_head())
    }

    /// As many blocks as a descriptor names, and that.
    fn descriptor<B: AsRef<[u8]>, E>(
        &mut self,
        blocks: &mut std::iter::Peekable<impl Iterator<Item = Result<(BlockNo, B), E>>>,
        put: &mut impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut descriptor = self.block(kind::DESCRIPTOR);
        let place = self.at;
        self.at += 1;
        let mut tags = descriptor_tags(self.block_size).enumerate().peekable();
        while let Some((nth, at)) = tags.next() {
            let Some(next) = blocks.next() else { break };
            let (block, bytes) = next?;
            let last = tags.peek().is_none() || blocks.peek().is_none();
            let escaped = self.data(bytes.as_ref(), put, |sum, flags| {
                let same = if nth == 0 { 0 } else { tag::SAME_UUID };
                let last = if last { tag::LAST } else { 0 };
                let raw = &mut descriptor[at.clone()];
                put_be32(raw, 0, block.0 as u32);
                put_be32(raw, 4, flags | same | last);
                put_be32(raw, 8, (block.0 >> 32) as u32);
                put_be32(raw, 12, sum);
            });
            escaped?;
            if nth == 0 {
                descriptor[at.end..at.end + 16].copy_from_slice(&self.uuid);
            }
        }
        let tail = self.block_size - 4;
        self.seal(&mut descriptor, tail);
        put(place, &descriptor)
    }

    /// A block of data, and what its tag says of it: a checksum, and whether
    /// it begins as a block of the journal would, for which zeros stand there.
    fn data<E>(
        &mut self,
        bytes: &[u8],
        put: &mut impl FnMut(u32, &[u8]) -> Result<(), E>,
        tell: impl FnOnce(u32, u32),
    ) -> Result<(), E> {
        debug_assert_eq!(bytes.len(), self.block_size);
        let seed = crc32c(!0, &self.uuid);
        let seed = crc32c(seed, &self.sequence.to_be_bytes());
        match bytes.starts_with(&MAGIC.to_be_bytes()) {
            false => {
                tell(crc32c(seed, bytes), 0);
                put(self.at, bytes)?;
            }
            true => {
                let mut escaped = bytes.to_vec();
                escaped[..4].fill(0);
                tell(crc32c(seed, &escaped), tag::ESCAPED);
                put(self.at, &escaped)?;
            }
        }
        self.at += 1;
        Ok(())
    }

    fn commit(&self) -> Vec<u8> {
        let mut block = self.block(kind::COMMIT);
        block[0x30..0x38].copy_from_slice(&self.made.secs.to_be_bytes());
        put_be32(&mut block, 0x38, self.made.nanos);
        self.seal(&mut block, 0x10);
        block
    }

    /// A block of this transaction, empty but for its header.
    fn block(&self, kind: u32) -> Vec<u8> {
        let mut block = vec![0; self.block_size];
        put_be32(&mut block, 0, MAGIC);
        put_be32(&mut block, 4, kind);
        put_be32(&mut block, 8, self.sequence);
        block
    }

    /// Puts a block's checksum in, which counts as zeros itself.
    fn seal(&self, block: &mut [u8], at: usize) {
        let sum = crc32c(crc32c(!0, &self.uuid), block);
        put_be32(block, at, sum);
    }

    fn journal_head(&self) -> Vec<u8> {
        let start = journal_start(self.block_size);
        let mut head = vec![0; self.block_size];
        let words = [
            (0x00, MAGIC),
            (0x04, kind::SUPER_V2),
            (0x0C, self.block_size as u32),
            (0x10, self.blocks),
            (0x14, start + 1), // s_first
            (0x18, FIRST),     // s_sequence
            (0x1C, start + 1), // s_start
            (0x28, feature::BIT64 | feature::CSUM_V3),
            (0x40, 1), // s_nr_users
        ];
        for (at, word) in words {
            put_be32(&mut head, at, word);
        }
        head[0x30..0x40].copy_from_slice(&self.uuid);
        head[0x50] = CRC32C;
        head[0x100..0x110].copy_from_slice(&self.user);
        let sum = sum_of_super(&head);
        put_be32(&mut head, 0xFC, sum);
        head
    }

    /// The superblock of a device whose one feature is to be a journal.
    fn device_head(&self, raw: &mut [u8]) {
        const JOURNAL_DEV: u32 = 0x8;
        let log = self.block_size.trailing_zeros() - 10;
        let made = self.made.secs as u32;
        let words = [
            (0x04, self.blocks),
            (0x14, u32::from(self.block_size == SUPER)), // s_first_data_block
            (0x18, log),
            (0x1C, log),
            (0x20, 8 * self.block_size as u32), // s_blocks_per_group
            (0x24, 8 * self.block_size as u32),
            (0x30, made), // s_wtime
            (0x40, made), // s_lastcheck
            (0x4C, 1),    // s_rev_level
            (0x54, 11),   // s_first_ino
            (0x60, JOURNAL_DEV),
            (0x108, made), // s_mkfs_time
        ];
        for (at, word) in words {
            put32(raw, at, word);
        }
        // s_max_mnt_count (none), s_magic, s_state (clean), s_errors (go on), s_inode_size
        for (at, word) in [
            (0x36, 0xFFFF),
            (0x38, 0xEF53),
            (0x3A, 1),
            (0x3C, 1),
            (0x58, 256),
        ] {
            put16(raw, at, word);
        }
        raw[0x68..0x78].copy_from_slice(&self.uuid);
    }
}

/// The block with jbd2's superblock: behind the device's own.
fn journal_start(block_size: usize) -> u32 {
    if block_size == SUPER { 2 } else { 1 }
}

/// Where a descriptor's tags lie. A UUID follows the first, a checksum ends
/// the block.
fn descriptor_tags(block_size: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let count = (block_size - HEADER - 16 - 4) / TAG;
    (0..count).map(|nth| {
        let uuid = if nth == 0 { 0 } else { 16 };
        let at = HEADER + uuid + nth * TAG;
        at..at + TAG
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::ext4::jbd2::{Super, scan};
    use crate::ext4::{Corrupt, jbd2::Replay};

    const UUID: [u8; 16] = *b"an external one!";

    type Device = Vec<Vec<u8>>;

    /// Blocks that tell themselves apart; each third looks like the journal's.
    fn data(block: BlockNo, size: usize) -> Vec<u8> {
        let mut bytes = block.0.to_le_bytes().repeat(size / 8);
        if block.0.is_multiple_of(3) {
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        }
        bytes
    }

    fn made(size: usize, transactions: &[Vec<BlockNo>]) -> Device {
        let counts: Vec<u64> = transactions.iter().map(|of| of.len() as u64).collect();
        let time = Time {
            secs: 1_790_000_000,
            nanos: 7,
        };
        let mut journal = External::new(UUID, [2; 16], size, &counts, time).unwrap();
        let mut device = vec![vec![0; size]; journal.blocks() as usize];
        let mut put = |at: u32, bytes: &[u8]| {
            device[at as usize].copy_from_slice(bytes);
            Ok::<_, Infallible>(())
        };
        for blocks in transactions {
            let blocks = blocks.iter().map(|block| Ok((*block, data(*block, size))));
            journal.transaction(blocks, &mut put).unwrap();
        }
        journal.heads(&mut put).unwrap();
        device
    }

    fn read(device: &Device) -> Result<Replay, Corrupt> {
        let head = &device[journal_start(device[0].len()) as usize];
        let sb = Super::decode(head).unwrap();
        scan(&sb, u64::MAX, |at, buf: &mut [u8]| {
            buf.copy_from_slice(&device[at as usize]);
            Ok(())
        })
    }

    #[test]
    fn what_is_written_is_read_again() {
        for size in [1024, 2048, 4096] {
            let per_descriptor = descriptor_tags(size).len() as u64;
            for count in [0, 1, per_descriptor, per_descriptor + 1, 3000] {
                // Some beyond 32 bits.
                let blocks: Vec<_> = (0..count).map(|n| BlockNo(n << (n % 30))).collect();
                let last = vec![BlockNo(5)];
                let device = made(size, &[blocks.clone(), last]);
                let replay = read(&device).unwrap();
                assert_eq!(replay.transactions, 2);
                for block in blocks {
                    let source = replay.blocks[&block];
                    let mut bytes = device[source.at as usize].clone();
                    source.restore(&mut bytes);
                    assert_eq!(bytes, data(block, size), "{block} of {size} bytes");
                }
            }
        }
    }

    #[test]
    fn damage_of_any_block_but_the_last_ones_is_noticed() {
        let first: Vec<_> = (10..100).map(BlockNo).collect();
        let whole = made(1024, &[first, vec![BlockNo(1)]]);
        // Superblock at 2, then descriptors and data, and two commits.
        let end = (3..).find(|at| whole[*at].iter().all(|byte| *byte == 0));
        for at in 3..end.unwrap() - 3 {
            for byte in [0, 5, 13, 17, 500, 1023] {
                let mut device = whole.clone();
                device[at][byte] ^= 0x40;
                let read = read(&device);
                // (A commit's padding behind its sum belongs to it too.)
                assert!(
                    read.is_err() || read.is_ok_and(|replay| replay.transactions == 0),
                    "block {at}, byte {byte}"
                );
            }
        }
    }

    #[test]
    fn a_journal_of_more_blocks_than_can_be_numbered_is_refused() {
        let time = Time::default();
        assert!(External::new(UUID, [2; 16], 4096, &[u64::from(u32::MAX)], time).is_none());
        assert!(
            External::new(
                UUID,
                [2; 16],
                4096,
                &[u64::from(u32::MAX) - 40_000_000],
                time
            )
            .is_some()
        );
    }
}

//! Bitmaps: one bit a block or inode, ones in use, padding ones.

use super::Corrupt;
use super::checksum::crc32c;
use super::group::Group;
use super::superblock::Superblock;
use crate::units::GroupNo;

/// Whether a bit is set; bits past the end are.
pub fn get(bits: &[u8], at: u32) -> bool {
    bits.get(at as usize / 8)
        .is_none_or(|byte| byte & (1 << (at % 8)) != 0)
}

/// Sets or clears `from .. to`, which the bitmap must have.
pub fn fill(bits: &mut [u8], from: u32, to: u32, value: bool) {
    let mut at = from;
    while at < to {
        if at.is_multiple_of(8) && to - at >= 8 {
            bits[at as usize / 8] = if value { 0xFF } else { 0 };
            at += 8;
        } else {
            let mask = 1 << (at % 8);
            match value {
                true => bits[at as usize / 8] |= mask,
                false => bits[at as usize / 8] &= !mask,
            }
            at += 1;
        }
    }
}

/// The first bit in `from .. to` that equals `value`.
pub fn next(bits: &[u8], from: u32, to: u32, value: bool) -> Option<u32> {
    let skip = if value { 0 } else { 0xFF };
    let mut at = from;
    while at < to {
        let byte = bits.get(at as usize / 8).copied().unwrap_or(0xFF);
        if at.is_multiple_of(8) && byte == skip {
            // Eight bytes at a time where they are all alike.
            match bits.get(at as usize / 8..at as usize / 8 + 8) {
                Some(word) if word.iter().all(|b| *b == skip) => at += 64,
                _ => at += 8,
            }
        } else if (byte & (1 << (at % 8)) != 0) == value {
            return Some(at);
        } else {
            at += 1;
        }
    }
    None
}

/// Ones in the first `count` bits.
pub fn ones(bits: &[u8], count: u32) -> u32 {
    let whole = (count / 8) as usize;
    let full: u32 = bits[..whole].iter().map(|b| b.count_ones()).sum();
    full + (whole as u32 * 8..count)
        .filter(|at| get(bits, *at))
        .count() as u32
}

/// Which of a group's two bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Which {
    Blocks,
    Inodes,
}

/// A bitmap's checksum: over the bytes that have a meaning, with only its low
/// half where descriptors are short.
pub fn checksum(sb: &Superblock, which: Which, bits: &[u8]) -> u32 {
    let count = match which {
        Which::Blocks => sb.blocks_per_group,
        Which::Inodes => sb.inodes_per_group,
    };
    let sum = crc32c(sb.csum_seed, &bits[..bits.len().min(count as usize / 8)]);
    if sb.desc_size >= 64 {
        sum
    } else {
        sum & 0xFFFF
    }
}

/// Checks a bitmap against its group's descriptor.
pub fn verify(
    sb: &Superblock,
    number: GroupNo,
    group: &Group,
    which: Which,
    bits: &[u8],
) -> Result<(), Corrupt> {
    if !sb.has_metadata_csum() {
        return Ok(());
    }
    let (what, stored) = match which {
        Which::Blocks => ("block bitmap", group.block_bitmap_csum),
        Which::Inodes => ("inode bitmap", group.inode_bitmap_csum),
    };
    let computed = checksum(sb, which, bits);
    match stored == computed {
        true => Ok(()),
        false => Err(Corrupt::Checksum {
            what: format!("group {number}'s {what}"),
            stored,
            computed,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_and_fills_agree() {
        let mut bits = vec![0; 64];
        fill(&mut bits, 3, 205, true);
        assert_eq!(ones(&bits, 512), 202);
        assert_eq!(next(&bits, 0, 512, true), Some(3));
        assert_eq!(next(&bits, 3, 512, false), Some(205));
        fill(&mut bits, 100, 101, false);
        assert_eq!(next(&bits, 3, 512, false), Some(100));
        assert_eq!(next(&bits, 206, 512, true), None);
        assert!(get(&bits, 10_000));
    }
}

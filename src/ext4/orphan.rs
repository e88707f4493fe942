//! A block of the orphan file: inodes that wait to be freed or cut, with holes
//! between them.
//!
//! ```text
//!     | number | number | …                    | magic | checksum |
//!     0        4                            len - 8              len
//! ```

use super::Corrupt;
use super::bytes::{le32, put32};
use super::checksum::crc32c;
use crate::units::{BlockNo, InodeNo};

const MAGIC: u32 = 0x0B10_CA04;
const TAIL: usize = 8;

/// Checks magic and checksum. `seed` is that of the file's inode; `None`:
/// there are no checksums.
pub fn verify(raw: &[u8], block: BlockNo, seed: Option<u32>) -> Result<(), Corrupt> {
    let what = || format!("orphan file block {block}");
    let tail = raw.len() - TAIL;
    let magic = le32(raw, tail);
    if magic != MAGIC {
        return Err(Corrupt::Field {
            what: what(),
            field: "ob_magic",
            value: magic.into(),
        });
    }
    let stored = le32(raw, tail + 4);
    match seed.map(|seed| checksum(raw, block, seed)) {
        Some(computed) if computed != stored => Err(Corrupt::Checksum {
            what: what(),
            stored,
            computed,
        }),
        _ => Ok(()),
    }
}

/// The inodes that it names.
pub fn inodes(raw: &[u8]) -> impl Iterator<Item = InodeNo> + '_ {
    let (numbers, _) = raw[..raw.len() - TAIL].as_chunks();
    let numbers = numbers.iter().map(|raw| InodeNo(u32::from_le_bytes(*raw)));
    numbers.filter(|number| number.0 != 0)
}

/// Forgets them all.
pub fn clear(raw: &mut [u8], block: BlockNo, seed: Option<u32>) {
    let tail = raw.len() - TAIL;
    raw[..tail].fill(0);
    seal(raw, block, seed);
}

/// Makes the checksum that of the bytes.
pub fn seal(raw: &mut [u8], block: BlockNo, seed: Option<u32>) {
    let sum = seed.map_or(0, |seed| checksum(raw, block, seed));
    let at = raw.len() - 4;
    put32(raw, at, sum);
}

fn checksum(raw: &[u8], block: BlockNo, seed: u32) -> u32 {
    let seed = crc32c(seed, &block.0.to_le_bytes());
    crc32c(seed, &raw[..raw.len() - TAIL])
}

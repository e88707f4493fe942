//! Extended attributes: in the inode behind its fields, and in one block that
//! inodes with the same attributes may share.
//!
//! Both areas begin with a table of entries, ended by four zero bytes, and
//! hold the values at their end. They are decoded and written as a whole:
//! attributes are few, and a fresh layout has no gaps.

use super::Corrupt;
use super::bytes::{le16, le32, put16, put32};
use super::checksum::crc32c;
use crate::units::BlockNo;

const MAGIC: u32 = 0xea02_0000;
/// Before the entries of a block: magic, refcount, blocks, hash, checksum.
const BLOCK_HEADER: usize = 32;
/// Before the entries of an inode: the magic.
const INODE_HEADER: usize = 4;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// The zeros behind the last entry.
const END: usize = 4;

/// How many inodes the kernel lets share a block.
pub const REFCOUNT_MAX: u32 = 1024;

/// `e_name_index` of `system.posix_acl_access`.
pub const ACL_ACCESS: u8 = 2;
/// `e_name_index` of `system.posix_acl_default`.
pub const ACL_DEFAULT: u8 = 3;

/// Name prefixes by their `e_name_index`. A prefix that ends in a dot needs a
/// rest; one that doesn't is the whole name.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (ACL_ACCESS, b"system.posix_acl_access"),
    (ACL_DEFAULT, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (10, b"gnu."),
];

/// A name as ext4 keeps it: the number of its prefix, and the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// `e_name_index`.
    pub index: u8,
    /// What follows the prefix.
    pub rest: Vec<u8>,
}

impl Name {
    /// Splits a full name; `None` for a prefix that ext4 doesn't know, or a
    /// prefix alone.
    pub fn parse(full: &[u8]) -> Option<Self> {
        PREFIXES.iter().find_map(|&(index, prefix)| {
            let rest = full.strip_prefix(prefix)?;
            (prefix.ends_with(b".") != rest.is_empty()).then(|| Name {
                index,
                rest: rest.to_vec(),
            })
        })
    }

    /// The full name; `None` if the prefix's number is unknown.
    pub fn full(&self) -> Option<Vec<u8>> {
        let (_, prefix) = PREFIXES.iter().find(|&&(index, _)| index == self.index)?;
        Some([prefix, self.rest.as_slice()].concat())
    }

    /// Blocks are sorted by index, then length, then bytes.
    fn key(&self) -> (u8, usize, &[u8]) {
        (self.index, self.rest.len(), &self.rest)
    }
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// The name.
    pub name: Name,
    /// Any bytes.
    pub value: Vec<u8>,
}

impl Attribute {
    /// `e_hash`: covers name and value.
    fn hash(&self) -> u32 {
        let name = self
            .name
            .rest
            .iter()
            .fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
        self.value.chunks(4).fold(name, |hash, chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

/// The attributes behind an inode's fields (`area`: from 128 + i_extra_isize
/// to the inode's end). No magic, no attributes.
pub fn decode_inode(area: &[u8]) -> Result<Vec<Attribute>, Corrupt> {
    if area.len() < INODE_HEADER + END || le32(area, 0) != MAGIC {
        return Ok(Vec::new());
    }
    decode(&area[INODE_HEADER..], 0)
}

/// Writes the attributes behind an inode's fields; `false`, and nothing
/// changed, if they don't fit.
pub fn encode_inode(area: &mut [u8], attributes: &[Attribute]) -> bool {
    if attributes.is_empty() {
        area.fill(0);
        return true;
    }
    if area.len() < INODE_HEADER || needed(attributes) > (area.len() - INODE_HEADER) / 4 * 4 {
        return false;
    }
    put32(area, 0, MAGIC);
    // Hashes are checked here if they aren't zero; the kernel leaves them out too.
    encode(&mut area[INODE_HEADER..], 0, attributes, |_| 0);
    true
}

/// What an attribute block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeBlock {
    /// Inodes that refer to it.
    pub refcount: u32,
    /// The attributes, in the block's order.
    pub attributes: Vec<Attribute>,
}

impl AttributeBlock {
    /// Decodes a block. `seed`: the file system's, if it has metadata_csum.
    pub fn decode(block: &[u8], number: BlockNo, seed: Option<u32>) -> Result<Self, Corrupt> {
        let wrong = |field, value: u32| {
            Err(Corrupt::Field {
                what: format!("attribute block {number}"),
                field,
                value: value.into(),
            })
        };
        if le32(block, 0) != MAGIC {
            return wrong("h_magic", le32(block, 0));
        }
        if le32(block, 8) != 1 {
            return wrong("h_blocks", le32(block, 8));
        }
        let (stored, computed) = (le32(block, 16), seed.map(|seed| sum(block, number, seed)));
        if let Some(computed) = computed.filter(|&computed| computed != stored) {
            return Err(Corrupt::Checksum {
                what: format!("attribute block {number}"),
                stored,
                computed,
            });
        }
        let refcount = le32(block, 4);
        if refcount == 0 {
            return wrong("h_refcount", refcount);
        }
        Ok(AttributeBlock {
            refcount,
            attributes: decode(block, BLOCK_HEADER)?,
        })
    }

    /// Whether a block has room for these attributes.
    pub fn fits(block_size: usize, attributes: &[Attribute]) -> bool {
        needed(attributes) <= block_size - BLOCK_HEADER
    }

    /// Writes the block anew. The attributes must fit ([`AttributeBlock::fits`]).
    pub fn encode(&self, block: &mut [u8], number: BlockNo, seed: Option<u32>) {
        let mut sorted = self.attributes.clone();
        sorted.sort_by(|a, b| a.name.key().cmp(&b.name.key()));
        block.fill(0);
        put32(block, 0, MAGIC);
        put32(block, 4, self.refcount);
        put32(block, 8, 1);
        put32(block, 12, hash_all(&sorted));
        encode(block, BLOCK_HEADER, &sorted, Attribute::hash);
        seal(block, number, seed);
    }
}

/// Changes a block's reference count and nothing else.
pub fn set_refcount(block: &mut [u8], number: BlockNo, refcount: u32, seed: Option<u32>) {
    put32(block, 4, refcount);
    seal(block, number, seed);
}

/// `h_hash`: zero means that the block is not to be shared.
fn hash_all(sorted: &[Attribute]) -> u32 {
    let hashes = sorted.iter().map(Attribute::hash);
    if hashes.clone().any(|hash| hash == 0) {
        return 0;
    }
    hashes.fold(0, |all: u32, hash| all.rotate_left(16) ^ hash)
}

fn seal(block: &mut [u8], number: BlockNo, seed: Option<u32>) {
    if let Some(seed) = seed {
        let sum = sum(block, number, seed);
        put32(block, 16, sum);
    }
}

fn sum(block: &[u8], number: BlockNo, seed: u32) -> u32 {
    let seed = crc32c(seed, &number.0.to_le_bytes());
    crc32c(crc32c(crc32c(seed, &block[..16]), &[0; 4]), &block[20..])
}

fn entry_len(name: &Name) -> usize {
    (ENTRY + name.rest.len()).next_multiple_of(4)
}

/// Bytes that entries, their end and the values take.
fn needed(attributes: &[Attribute]) -> usize {
    let each = |a: &Attribute| entry_len(&a.name) + a.value.len().next_multiple_of(4);
    END + attributes.iter().map(each).sum::<usize>()
}

/// The entries from byte `first` of `area`; value offsets count from its start.
fn decode(area: &[u8], first: usize) -> Result<Vec<Attribute>, Corrupt> {
    let wrong = |field, value: u64| Corrupt::Field {
        what: "extended attribute".into(),
        field,
        value,
    };
    let mut found = Vec::new();
    let mut at = first;
    loop {
        let raw = area
            .get(at..)
            .filter(|raw| raw.len() >= END)
            .ok_or_else(|| wrong("end of entries", at as u64))?;
        if le32(raw, 0) == 0 {
            return Ok(found);
        }
        let name_len = usize::from(raw[0]);
        if raw.len() < (ENTRY + name_len).next_multiple_of(4) {
            return Err(wrong("e_name_len", name_len as u64));
        }
        let name = Name {
            index: raw[1],
            rest: raw[ENTRY..ENTRY + name_len].to_vec(),
        };
        let (offset, inode, size) = (
            usize::from(le16(raw, 2)),
            le32(raw, 4),
            le32(raw, 8) as usize,
        );
        if inode != 0 {
            return Err(wrong("e_value_inum", inode.into()));
        }
        let value = match size {
            0 => &[],
            _ => area
                .get(offset..)
                .and_then(|rest| rest.get(..size))
                .ok_or_else(|| wrong("e_value_size", size as u64))?,
        };
        found.push(Attribute {
            value: value.to_vec(),
            name,
        });
        at += (ENTRY + name_len).next_multiple_of(4);
    }
}

/// Entries from byte `first` on, values from the end backwards, zeros between.
fn encode(area: &mut [u8], first: usize, attributes: &[Attribute], hash: fn(&Attribute) -> u32) {
    area[first..].fill(0);
    let mut at = first;
    // A last word that isn't whole stays unused: values begin on word boundaries.
    let mut end = area.len() / 4 * 4;
    for attribute in attributes {
        let size = attribute.value.len();
        if size > 0 {
            end -= size.next_multiple_of(4);
            area[end..end + size].copy_from_slice(&attribute.value);
            put16(area, at + 2, end as u16);
        }
        area[at] = attribute.name.rest.len() as u8;
        area[at + 1] = attribute.name.index;
        put32(area, at + 8, size as u32);
        put32(area, at + 12, hash(attribute));
        area[at + ENTRY..at + ENTRY + attribute.name.rest.len()]
            .copy_from_slice(&attribute.name.rest);
        at += entry_len(&attribute.name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(name: &str, value: &[u8]) -> Attribute {
        Attribute {
            name: Name::parse(name.as_bytes()).unwrap(),
            value: value.to_vec(),
        }
    }

    #[test]
    fn names_keep_their_prefix_as_a_number() {
        let parse = |text: &str| Name::parse(text.as_bytes()).map(|name| (name.index, name.rest));
        assert_eq!(parse("user.x"), Some((1, b"x".to_vec())));
        assert_eq!(parse("system.posix_acl_access"), Some((2, vec![])));
        assert_eq!(
            parse("security.capability"),
            Some((6, b"capability".to_vec()))
        );
        assert_eq!(
            [parse("user."), parse("other.x"), parse("")],
            [None, None, None]
        );
        let name = Name::parse(b"trusted.overlay.opaque").unwrap();
        assert_eq!(name.full().unwrap(), b"trusted.overlay.opaque");
    }

    #[test]
    fn attributes_come_back_from_both_places() {
        let set = vec![
            attribute("user.b", b"12345"),
            attribute("user.empty", b""),
            attribute("trusted.a", b"x"),
        ];
        let mut area = [7; 96];
        assert!(encode_inode(&mut area, &set));
        assert_eq!(decode_inode(&area).unwrap(), set);

        let mut block = vec![0; 1024];
        let whole = AttributeBlock {
            refcount: 2,
            attributes: set,
        };
        whole.encode(&mut block, BlockNo(77), Some(5));
        assert_eq!(
            AttributeBlock::decode(&block, BlockNo(77), Some(5)).unwrap(),
            whole
        );
        // Another place, another checksum.
        assert!(matches!(
            AttributeBlock::decode(&block, BlockNo(78), Some(5)),
            Err(Corrupt::Checksum { .. })
        ));
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut area = [0; 96];
        assert!(encode_inode(&mut area, &[attribute("user.a", b"1")]));
        let before = area;
        assert!(!encode_inode(&mut area, &[attribute("user.a", &[1; 100])]));
        assert_eq!(area, before);
    }

    fn attributes() -> impl Strategy<Value = Vec<Attribute>> {
        let one = (
            prop::sample::select(vec![1_u8, 4, 6]),
            prop::collection::vec(1_u8.., 1..40),
            prop::collection::vec(any::<u8>(), 0..120),
        );
        prop::collection::vec(one, 0..6).prop_map(|all| {
            let all: std::collections::BTreeMap<Name, Vec<u8>> = all
                .into_iter()
                .map(|(index, rest, value)| (Name { index, rest }, value))
                .collect();
            all.into_iter()
                .map(|(name, value)| Attribute { name, value })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_fits_comes_back(set in attributes()) {
            let mut area = [0; 100];
            if encode_inode(&mut area, &set) {
                prop_assert_eq!(decode_inode(&area).unwrap(), set.clone());
            }
            prop_assert!(AttributeBlock::fits(4096, &set));
            let mut block = vec![0; 4096];
            AttributeBlock { refcount: 1, attributes: set.clone() }.encode(&mut block, BlockNo(1), None);
            let mut back = AttributeBlock::decode(&block, BlockNo(1), None).unwrap().attributes;
            back.sort_by(|a, b| a.name.cmp(&b.name));
            prop_assert_eq!(back, set);
        }

        #[test]
        fn hostile_bytes_never_panic(mut raw in prop::collection::vec(any::<u8>(), 1024..=1024), len in 0_usize..1024) {
            put32(&mut raw, 0, MAGIC);
            put32(&mut raw, 8, 1);
            let _ = decode_inode(&raw[..len]);
            let _ = AttributeBlock::decode(&raw, BlockNo(1), None);
            let _ = AttributeBlock::decode(&raw, BlockNo(1), Some(1));
        }
    }
}

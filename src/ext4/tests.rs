//! Decoders take any bytes, and give back what was encoded.

use proptest::prelude::*;

use super::Superblock;
use super::bytes::{put16, put32};
use super::extent::{Extent, Items, Node, NodeRef, room};
use super::format::New;
use super::group::Group;
use super::inode::Inode;
use super::superblock::{SIZE, seal};
use crate::units::{BlockNo, FileBlock, GroupNo, InodeNo, Time};

fn sample(block_size: u32) -> ([u8; SIZE], Superblock) {
    let new = New {
        block_size,
        blocks: 1 << 22,
        inodes_per_group: 1024,
        uuid: [1; 16],
        hash_seed: [2; 16],
        label: [0; 16],
        time: Time::default(),
    };
    new.superblock().unwrap()
}

/// Everything that a decoded superblock answers.
fn exercise(sb: &Superblock) {
    for group in [0, 1, 2, 25, sb.group_count() - 1].map(GroupNo) {
        let _ = (
            sb.group_start(group),
            sb.group_blocks(group),
            sb.base_blocks(group),
        );
        let _ = (sb.descriptor_place(group), sb.has_backup(group));
    }
    let _ = (sb.inode_table_blocks(), sb.descriptor_blocks(), sb.home());
    for inode in [0, 1, 11, sb.inodes_count, u32::MAX].map(InodeNo) {
        if let Ok((_, index)) = sb.group_of_inode(inode) {
            let _ = sb.inode_place(BlockNo(5), index);
        }
    }
}

proptest! {
    #[test]
    fn any_superblock_is_refused_or_answers(edits in prop::collection::vec((0..SIZE, any::<u8>()), 0..12)) {
        let (mut raw, _) = sample(4096);
        edits.into_iter().for_each(|(at, byte)| raw[at] = byte);
        put16(&mut raw, 0x38, 0xEF53);
        seal(&mut raw);
        if let Ok(sb) = Superblock::decode(&raw) {
            exercise(&sb);
            let _ = Group::decode(&raw[..usize::from(sb.desc_size)], &sb, GroupNo(0));
            let _ = Inode::decode(&raw[..usize::from(sb.inode_size).min(SIZE)], InodeNo(5), &sb);
        }
    }

    #[test]
    fn any_bytes_are_an_inode_a_group_and_a_node_or_an_error(mut raw in prop::collection::vec(any::<u8>(), 1024), magic in any::<bool>()) {
        let (_, mut sb) = sample(1024);
        for checked in [true, false] {
            if !checked {
                sb.features.ro_compat &= !0x400;
            }
            let _ = Group::decode(&raw, &sb, GroupNo(3));
            let _ = Inode::decode(&raw, InodeNo(12), &sb);
            let _ = Inode::decode(&raw[..100], InodeNo(12), &sb);
        }
        if magic {
            put16(&mut raw, 0, 0xF30A);
            put16(&mut raw, 4, 84);
            raw[3] = 0;
            raw[2] %= 85;
            let depth = u16::from(raw[9]) % 6;
            put16(&mut raw, 6, depth);
        }
        for part in [&raw[..], &raw[..60], &raw[..7]] {
            if let Ok(node) = NodeRef::open(part, InodeNo(12), None) {
                let _ = node.verify(&sb, 1);
                let _ = node.decode(&sb);
                if let Some(at) = node.search(FileBlock(1 << 30)) {
                    let _ = (node.extent(at, &sb), node.child(at, &sb));
                }
            }
        }
    }

    #[test]
    fn nodes_come_back_as_they_were_written(lens in prop::collection::vec((1u32..32768, 0u32..10, any::<bool>()), 0..84)) {
        let (_, sb) = sample(1024);
        let mut at = 0;
        let list: Vec<Extent> = lens.iter().map(|(len, gap, unwritten)| {
            let file = FileBlock(at + gap);
            at += gap + len;
            Extent { file, len: *len, block: BlockNo(1000 + u64::from(at) % 1_000_000), unwritten: *unwritten }
        }).collect();
        let node = Node { depth: 0, max: room(1024), generation: 9, items: Items::Extents(list) };
        let mut raw = vec![0xAA; 1024];
        node.encode(&mut raw, &sb, Some(77));
        let back = NodeRef::open(&raw, InodeNo(12), Some(0)).unwrap();
        back.verify(&sb, 77).unwrap();
        prop_assert!(back.verify(&sb, 78).is_err());
        prop_assert_eq!(back.decode(&sb).unwrap(), node);
    }

    #[test]
    fn inodes_come_back_as_they_were_written(
        uid: u32, gid: u32, size in 0u64..1 << 62, blocks in 0u64..1 << 50, generation: u32, secs in -2_147_483_648i64..15_000_000_000,
        nanos in 0u32..1_000_000_000, rdev: u32,
    ) {
        let (_, sb) = sample(4096);
        let time = Time { secs, nanos };
        let mut inode = Inode::new(InodeNo(77), 0o100_644, generation, time, &sb);
        (inode.uid, inode.gid, inode.size, inode.links) = (uid, gid, size, 3);
        inode.blocks = if blocks >> 48 == 0 { blocks } else { blocks & !7 };
        inode.set_device(rdev);
        inode.tail[5] = 9;
        let mut raw = vec![0; 256];
        inode.encode(&mut raw, &sb);
        let back = Inode::decode(&raw, InodeNo(77), &sb).unwrap();
        prop_assert!(Inode::decode(&raw, InodeNo(78), &sb).is_err());
        prop_assert_eq!((back.uid, back.gid, back.size, back.blocks), (uid, gid, size, inode.blocks));
        prop_assert_eq!((back.crtime, back.mtime, back.device(), &back.tail), (time, time, rdev, &inode.tail));
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let (mut raw, _) = sample(4096);
    put32(
        &mut raw,
        0x60,
        super::format::FEATURES.incompat | 0x8000 | 0x10,
    );
    seal(&mut raw);
    let why = Superblock::decode(&raw).unwrap_err().to_string();
    assert!(why.contains("meta_bg, inline_data"), "{why}");
    put32(&mut raw, 0x60, super::format::FEATURES.incompat);
    put32(&mut raw, 0x64, super::format::FEATURES.ro_compat | 0x200);
    seal(&mut raw);
    let sb = Superblock::decode(&raw).unwrap();
    assert_eq!(sb.features.unwritable(), ["bigalloc"]);
}

#[test]
fn a_bigalloc_image_without_blocks_in_its_groups_is_refused() {
    let (mut raw, _) = sample(4096);
    raw[0x65] |= 2; // bigalloc
    put32(&mut raw, 0x20, 0);
    seal(&mut raw);
    assert!(Superblock::decode(&raw).is_err());
}

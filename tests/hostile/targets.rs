//! What is fuzzed: each decoder on any bytes, and forged images and journals.
//!
//! Where a checksum would stop all but one input in four thousand million, it
//! is put right, or the image is one without checksums: both ways are taken.
//! `TARGETS` has them by the names of `fuzz/fuzz_targets`.

use std::sync::{Arc, LazyLock};

use journalfs::device::Disk;
use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use journalfs::ext4::checksum::crc32c;
use journalfs::ext4::dirent;
use journalfs::ext4::extent::NodeRef;
use journalfs::ext4::features::ro_compat;
use journalfs::ext4::group::Group;
use journalfs::ext4::htree::{self, Layout, Map};
use journalfs::ext4::inode::Inode;
use journalfs::ext4::jbd2::{self, Super};
use journalfs::ext4::orphan as raw_orphan;
use journalfs::ext4::xattr::{AttributeBlock, decode_inode};
use journalfs::ext4::{Corrupt, Superblock, acl, superblock as raw};
use journalfs::fs::mkfs::{MkfsOptions, mkfs};
use journalfs::journal::archive::{Archive, Limits, MANIFEST};
use journalfs::journal::{BlockIndex, Record};
use journalfs::units::{BlockNo, FileBlock, GroupNo, InodeNo, Lsn};

use crate::archives::{self, Kept};
use crate::exercise;
use crate::forge::{Forge, What};
use crate::journals::{self, Left};
use crate::support::bench::Bench;
use crate::support::images::Variant;
use crate::support::random::Seeded;

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("superblock", superblock),
    ("group", group),
    ("inode", inode),
    ("extent", extent),
    ("dirent", dirent),
    ("htree", htree),
    ("xattr", xattr),
    ("acl", acl),
    ("jbd2", jbd2),
    ("orphan", orphan),
    ("record", record),
    ("blocks", blocks),
    ("manifest", manifest),
    ("image", image),
    ("journal", journal),
    ("log", log),
    ("archive", archive),
];

/// An image's geometry with checksums and without.
static GEOMETRIES: LazyLock<[Superblock; 2]> = LazyLock::new(|| {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let options = MkfsOptions {
        size: 4 << 20,
        block_size: Some(1024),
        seed: Some(1),
        ..MkfsOptions::default()
    };
    let summed = mkfs(&disk, &options).expect("an image");
    let mut plain = summed.clone();
    plain.features.ro_compat &= !ro_compat::METADATA_CSUM;
    [summed, plain]
});

/// The input as a block, zeros behind it.
fn block(data: &[u8]) -> Vec<u8> {
    let mut block = data[..data.len().min(1024)].to_vec();
    block.resize(1024, 0);
    block
}

/// The superblock, its magic and checksum put right; and a walk of the groups
/// that it promises.
pub fn superblock(data: &[u8]) {
    let mut bytes: [u8; 1024] = block(data).try_into().expect("1024 bytes");
    let _ = Superblock::decode(&bytes);
    raw::set_known(&mut bytes, true);
    if let Ok(sb) = Superblock::decode(&bytes) {
        for number in [
            0,
            1,
            sb.group_count() / 2,
            sb.group_count().saturating_sub(1),
        ] {
            let number = GroupNo(number);
            let _ = (sb.group_start(number), sb.group_blocks(number));
            let _ = (sb.base_blocks(number), sb.descriptor_place(number));
            let _ = sb.group_of_block(sb.group_start(number));
        }
        let _ = (sb.home(), sb.inode_table_blocks());
        for number in [0, 1, 2, sb.first_inode, sb.inodes_count, u32::MAX] {
            let _ = sb.group_of_inode(InodeNo(number));
        }
    }
}

/// A group descriptor.
pub fn group(data: &[u8]) {
    for sb in &*GEOMETRIES {
        for number in [0, sb.group_count() - 1] {
            let _ = Group::decode(data, sb, GroupNo(number));
        }
    }
}

/// An inode.
pub fn inode(data: &[u8]) {
    for sb in &*GEOMETRIES {
        let raw = &block(data)[..usize::from(sb.inode_size)];
        if let Ok(inode) = Inode::decode(raw, InodeNo(12), sb) {
            let _ = (inode.kind(), inode.device(), decode_inode(&inode.tail));
            inode.encode(&mut vec![0; usize::from(sb.inode_size)], sb);
        }
    }
}

/// A node of an extent tree, in the inode and in a block of its own.
pub fn extent(data: &[u8]) {
    let block = block(data);
    for sb in &*GEOMETRIES {
        for (bytes, depth) in [
            (&block[..60], None),
            (&block[..], Some(0)),
            (&block, Some(2)),
        ] {
            let Ok(node) = NodeRef::open(bytes, InodeNo(12), depth) else {
                continue;
            };
            let _ = node.verify(sb, 7);
            for at in [0, 1, 1 << 20, u32::MAX] {
                let _ = node.search(FileBlock(at)).map(|slot| match node.depth {
                    0 => node.extent(slot, sb).map(drop),
                    _ => node.child(slot, sb).map(drop),
                });
            }
            if let Ok(node) = node.decode(sb) {
                node.encode(&mut vec![0; bytes.len()], sb, None);
            }
        }
    }
}

/// A block of a directory's entries.
pub fn dirent(data: &[u8]) {
    let mut block = block(data);
    for seed in [None, Some(7)] {
        let _ = dirent::verify(&block, seed);
        let entries = dirent::entries(&block).take_while(Result::is_ok).count();
        assert!(entries <= block.len() / 8);
        let _ = dirent::find(&block, b"name");
        for record in dirent::records(&block).flatten() {
            let _ = record.checked_entry();
        }
        let _ = htree::dots(&block);
        let entry = dirent::Entry {
            inode: InodeNo(12),
            kind: 1,
            name: b"another",
        };
        if let Ok(Some(gap)) = dirent::gap(&block, entry.name, seed) {
            dirent::fill(&mut block, gap, entry, seed);
        }
        let first = dirent::find(&block, b"another")
            .ok()
            .flatten()
            .map(|r| r.at);
        if let Some(at) = first {
            let _ = dirent::remove(&mut block, at, seed);
        }
    }
}

/// A block of a directory's index, as root and as node.
pub fn htree(data: &[u8]) {
    let block = block(data);
    let _ = htree::root(&block);
    for layout in [Layout::Root, Layout::Node] {
        for seed in [None, Some(7)] {
            if let Ok(map) = Map::decode(&block, layout, seed) {
                for hash in [0, 1 << 31, u32::MAX] {
                    let _ = map.slot(map.position(hash)).expect("a slot for each hash");
                }
                assert!(map.slots().count() == map.count());
            }
        }
    }
}

/// Extended attributes, in the inode and in a block.
pub fn xattr(data: &[u8]) {
    let _ = decode_inode(data);
    let block = block(data);
    for seed in [None, Some(7)] {
        if let Ok(decoded) = AttributeBlock::decode(&block, BlockNo(9), seed) {
            let bytes: usize = decoded.attributes.iter().map(|a| a.value.len()).sum();
            assert!(bytes <= block.len() * decoded.attributes.len());
        }
    }
}

/// An access control list, from disk and from a caller.
pub fn acl(data: &[u8]) {
    if let Ok(list) = acl::Acl::from_disk(data) {
        let _ = (list.mode(), list.is_just_mode(), list.to_disk());
    }
    let _ = acl::Acl::from_wire(data);
}

/// A journal of ext4's own, its superblock's checksum put right.
pub fn jbd2(data: &[u8]) {
    const BLOCKS: u64 = 16384;
    let mut journal: Vec<Vec<u8>> = data.chunks(1024).take(32).map(block).collect();
    let Some(head) = journal.first_mut() else {
        return;
    };
    let _ = Super::decode(head);
    head[0xFC..0x100].fill(0);
    let sum = crc32c(!0, head);
    head[0xFC..0x100].copy_from_slice(&sum.to_be_bytes());
    let Ok(sb) = Super::decode(head) else {
        return;
    };
    if sb.block_size != 1024 {
        return; // whoever reads it refuses it
    }
    let read = |at: u32, buf: &mut [u8]| {
        match journal.get(at as usize) {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => buf.fill(0),
        }
        Ok::<(), Corrupt>(())
    };
    if let Ok(replay) = jbd2::scan(&sb, BLOCKS, read) {
        let _ = replay.fast_commits_follow(&journal[journal.len() - 1]);
        assert!(replay.blocks.keys().all(|block| block.0 < BLOCKS));
    }
}

/// A block of the orphan file; and one of the numbers at the input's front, in
/// an image with other numbers changed, mounted and checked.
pub fn orphan(data: &[u8]) {
    static SAMPLE: LazyLock<Forge> = LazyLock::new(|| {
        let bench = Bench::new(&Variant::named("upstream"), 8 << 20);
        exercise::fill(&bench);
        let mut forge = Forge::of(&bench.pages());
        // ORPHAN_PRESENT: it is to be read.
        forge.set(|what| matches!(what, What::Superblock), 0x66, &[1]);
        forge
    });
    let mut bytes = block(data);
    for seed in [None, Some(7)] {
        let _ = raw_orphan::verify(&bytes, BlockNo(9), seed);
        assert!(raw_orphan::inodes(&bytes).count() < bytes.len() / 4);
        raw_orphan::clear(&mut bytes, BlockNo(9), seed);
        assert_eq!(raw_orphan::inodes(&bytes).count(), 0);
    }
    let (numbers, rest) = data.split_at(data.len().min(32));
    let mut forge = SAMPLE.clone();
    forge.apply(edits(rest), edit);
    forge.set(|what| matches!(what, What::Orphans(..)), 0, numbers);
    let disk = Arc::new(MemoryDisk::from_pages(forge.pages.clone()));
    let _ = journalfs::check::run_image(&*disk);
    let journal = Arc::new(MemoryDir::default());
    exercise::mount_and_work(disk, journal, &mut Seeded::from_seed("orphan", 0));
}

/// A record of the journal: what is read back is what was written.
pub fn record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        let again = Record::decode(&record.encode());
        assert!(again.is_ok_and(|again| again == record));
    }
}

/// A block index, its magic and checksum put right.
pub fn blocks(data: &[u8]) {
    let _ = BlockIndex::decode(data);
    let mut bytes = data.to_vec();
    if bytes.len() >= 16 {
        bytes[..8].copy_from_slice(b"jfblocks");
        archives::seal_blocks(&mut bytes);
    }
    let Ok(index) = BlockIndex::decode(&bytes) else {
        return;
    };
    let all = (Lsn(0), Lsn(u64::MAX));
    for (block, _) in index.touched(all.0, all.1).take(64) {
        let chain = index.chain(block, all.0, all.1);
        assert!(chain.records.is_sorted());
    }
    assert_eq!(index.encode().len(), bytes.len());
}

/// An archive's manifest.
pub fn manifest(data: &[u8]) {
    let dir = MemoryDir::from_files([(MANIFEST.to_owned(), Pages::from_bytes(data))]);
    if let Ok(archive) = Archive::open(Arc::new(dir), None, Limits::default()) {
        let _ = archive.missing();
        assert!(archive.bases().is_empty());
    }
}

/// Bytes of one change: which piece, where in it, and what is done there.
const EDIT: usize = 6;

/// The changes that an input asks for, a bounded number of them.
pub fn edits(data: &[u8]) -> impl Iterator<Item = (usize, usize, u8, u8)> {
    let number = |low, high| usize::from(u16::from_le_bytes([low, high]));
    data.chunks_exact(EDIT)
        .take(24)
        .map(move |e| (number(e[0], e[1]), number(e[2], e[3]), e[4], e[5]))
}

/// Changes a byte or a word.
pub fn edit(raw: &mut [u8], at: usize, how: u8, value: u8) {
    let wide = [1, 2, 4, 8][usize::from(how >> 2 & 3)];
    for byte in raw.iter_mut().skip(at).take(wide) {
        *byte = match how & 3 {
            0 => value,
            1 => byte.wrapping_add(value),
            2 => *byte ^ value,
            _ => 0xFF,
        };
    }
}

/// The first byte and the rest.
fn split(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((first, rest)) => (usize::from(*first), rest),
        None => (0, data),
    }
}

/// Mounts an image in which numbers were changed and all checksums put right,
/// walks all of it, changes it, unmounts; and checks the same bytes.
pub fn image(data: &[u8]) {
    static SAMPLES: LazyLock<Vec<Forge>> = LazyLock::new(|| {
        let sample = |name: &&str| {
            let bench = Bench::new(&Variant::named(name), 4 << 20);
            exercise::fill(&bench);
            Forge::of(&bench.pages())
        };
        ["upstream", "1k-blocks", "uninit-bg", "block-mapped"]
            .iter()
            .map(sample)
            .collect()
    });
    let (first, rest) = split(data);
    let mut forge = SAMPLES[first % SAMPLES.len()].clone();
    forge.apply(edits(rest), edit);
    let disk = || Arc::new(MemoryDisk::from_pages(forge.pages.clone()));
    let _ = journalfs::check::run_image(&*disk());
    let mut random = Seeded::from_seed("image", first as u64);
    exercise::mount_and_work(disk(), Arc::new(MemoryDir::default()), &mut random);
}

/// Killed daemons' images and journals.
static LEFT: LazyLock<Vec<Left>> = LazyLock::new(|| {
    vec![
        Left::killed("1k-blocks", true),
        Left::killed("upstream", false),
    ]
});

/// Reads a journal in which numbers were changed and all checksums put right,
/// in every way that there is, and recovers its image.
pub fn journal(data: &[u8]) {
    let (first, rest) = split(data);
    let mut left = LEFT[first % LEFT.len()].clone();
    left.apply(edits(rest), edit);
    let mut random = Seeded::from_seed("journal", first as u64);
    journals::read_and_work(&left, &mut random);
}

/// The same with bytes changed anywhere, which most sums then deny.
pub fn log(data: &[u8]) {
    let (first, rest) = split(data);
    let mut left = LEFT[first % LEFT.len()].clone();
    left.apply_anywhere(edits(rest), edit);
    let mut random = Seeded::from_seed("log", first as u64);
    journals::read_and_work(&left, &mut random);
}

/// Reads an archive in which numbers were changed and all checksums put right:
/// its moments are shown, compared and restored.
pub fn archive(data: &[u8]) {
    static KEPT: LazyLock<Kept> = LazyLock::new(Kept::sample);
    let mut kept = KEPT.clone();
    kept.apply(edits(data), edit);
    archives::read_and_look(&kept);
}

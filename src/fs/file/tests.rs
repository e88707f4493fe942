//! Files against a plain vector of bytes, and e2fsck after every change.

use super::super::alloc::kernel_reserve;
use super::super::world::{FORMATS, MAPPED, World};
use super::*;
use crate::device::Disk;
use crate::units::GroupNo;

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// The same changes on a file and on a vector.
struct Twin<'w> {
    world: &'w World,
    file: InodeNo,
    model: Vec<u8>,
    random: fastrand::Rng,
    most: u64,
    extents: bool,
}

impl Twin<'_> {
    fn step(&mut self) -> String {
        let at = self.random.u64(0..self.most);
        let len = self.random.u64(1..=(self.most / 4));
        match self.random.u32(0..10) {
            0..4 => self.write(at, len.min(20_000)),
            4 => self.truncate(at),
            5 if self.extents => self.space(0, at, len),
            6 if self.extents => self.space(KEEP, at, len),
            7 if self.extents => self.space(ZERO, at, len),
            8 if self.extents => self.space(ZERO | KEEP, at, len),
            _ => self.space(PUNCH, at, len),
        }
    }

    fn write(&mut self, at: u64, len: u64) -> String {
        let mut data = vec![0; len as usize];
        self.random.fill(&mut data);
        let wrote = self.world.write(self.file, at, &data).unwrap();
        assert_eq!(wrote, data.len());
        self.reach(at + len);
        self.model[at as usize..(at + len) as usize].copy_from_slice(&data);
        format!("write {at}+{len}")
    }

    fn truncate(&mut self, size: u64) -> String {
        self.world.truncate(self.file, size);
        self.model.resize(size as usize, 0);
        format!("truncate {size}")
    }

    fn space(&mut self, mode: i32, at: u64, len: u64) -> String {
        self.world.fallocate(self.file, mode, at, len).unwrap();
        if mode & KEEP == 0 {
            self.reach(at + len);
        }
        if mode & !KEEP != 0 {
            let end = (at + len).min(self.model.len() as u64);
            if at < end {
                self.model[at as usize..end as usize].fill(0);
            }
        }
        format!("fallocate {mode} {at}+{len}")
    }

    fn reach(&mut self, end: u64) {
        if self.model.len() < end as usize {
            self.model.resize(end as usize, 0);
        }
    }

    fn compare(&self, when: &str) {
        let found = self.world.contents(self.file);
        assert_eq!(found.len(), self.model.len(), "{when}: size");
        let differs = found.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{when}: first byte that differs");
    }
}

fn random_changes(name: &str, args: &[&str], extents: bool) {
    let world = World::new(args, 24 << 20);
    let file = world.file("file");
    let free = world.free_blocks();
    let random = fastrand::Rng::with_seed(1);
    let mut twin = Twin {
        world: &world,
        file,
        model: Vec::new(),
        random,
        most: 600_000,
        extents,
    };
    for round in 0..120 {
        let what = format!("{name}, step {round}: {}", twin.step());
        twin.compare(&what);
        if round % 8 == 0 {
            world.judge(&what);
        }
    }
    let when = format!("{name}, at the end");
    world.judge(&when);
    assert_eq!(world.debugfs_reads(file), twin.model, "{when}: debugfs");
    world.truncate(file, 0);
    world.judge(&when);
    assert_eq!(world.free_blocks(), free, "{when}: blocks got lost");
}

#[test]
fn random_changes_leave_what_a_vector_would_hold() {
    for (name, args) in FORMATS {
        random_changes(name, args, true);
    }
}

#[test]
fn random_changes_of_block_mapped_files_do_so_too() {
    for (name, args) in MAPPED {
        random_changes(name, args, false);
    }
}

#[test]
fn a_fragmented_file_grows_a_deep_tree_and_loses_it_again() {
    let world = World::new(&["-b1024", "-I256"], 64 << 20);
    let file = world.file("file");
    let free = world.free_blocks();
    let mut random = fastrand::Rng::with_seed(3);
    world.truncate(file, 32_000 * 1024);
    // From the end to the start: nodes are split in halves and stay so.
    let mut blocks: Vec<u64> = (0..16_000).rev().collect();
    blocks
        .chunks_mut(50)
        .for_each(|chunk| random.shuffle(chunk));
    for block in &blocks {
        world
            .write(file, block * 2 * 1024 + 7, &block.to_le_bytes())
            .unwrap();
    }
    let root = crate::ext4::extent::NodeRef::open(&world.inode(file).block, file, None)
        .unwrap()
        .depth;
    assert!(root >= 3, "depth {root}");
    world.judge("a deep tree");
    let holds = |block: u64| {
        let at = block * 2 * 1024;
        let got = world.fs.read(file, at, 1024).unwrap();
        got[..7] == [0; 7] && got[7..15] == block.to_le_bytes() && got[15..] == [0; 1009]
    };
    assert!(blocks.iter().all(|block| holds(*block)));

    // Holes in the middle, then the end, then all of it.
    for _ in 0..200 {
        let at = random.u64(0..30_000) * 1024;
        world
            .fallocate(file, PUNCH, at, random.u64(1..60) * 1024)
            .unwrap();
    }
    world.judge("holes in a deep tree");
    world.fallocate(file, 0, 0, 33_000 * 1024).unwrap();
    world.judge("all holes filled, unwritten");
    world.truncate(file, 9_000_001);
    world.judge("a deep tree cut");
    world.truncate(file, 0);
    world.judge("a deep tree gone");
    assert_eq!(world.free_blocks(), free);
}

#[test]
fn freeing_in_steps_can_be_broken_off_and_finished_at_the_next_mount() {
    for (name, args) in FORMATS.iter().chain(MAPPED) {
        let mut world = World::new(args, 24 << 20);
        let free = world.free_blocks();
        let file = world.file("file");
        let bs = u64::from(world.fs.sb.block_size);
        for n in 0..600 {
            world.write(file, n * 2 * bs, b"x").unwrap();
        }
        {
            let fs = &world.fs;
            let mut txn = fs.begin().unwrap();
            let mut inode = load_file(&txn, &fs.sb, file).unwrap();
            inode.size = 100 * bs;
            let done = map::free_from(&mut txn, &fs.sb, &mut inode, FileBlock(100), 0).unwrap();
            assert!(!done);
            let _later = fs.shortened(&mut txn, &mut inode).unwrap();
            store(&mut txn, &fs.sb, &inode).unwrap();
            txn.commit(&Op::Orphan { inode: file }).unwrap();
        }
        world = world.reopen();
        assert_eq!(world.fs.collect_orphans().unwrap(), 1, "{name}");
        world.judge(&format!("{name}: the rest freed at mount"));
        assert_eq!(world.inode(file).size, 100 * bs);
        world.unlink("file");
        world.judge(&format!("{name}: unlinked"));
        assert_eq!(world.free_blocks(), free, "{name}");
    }
}

#[test]
fn a_file_without_a_name_lives_until_its_last_close() {
    let world = World::new(FORMATS[0].1, 24 << 20);
    let free = world.free_blocks();
    let (one, two, three) = (world.file("one"), world.file("two"), world.file("three"));
    for file in [one, two, three] {
        world.write(file, 0, &[1; 9000]).unwrap();
        world.fs.open(&world.by, file, libc::O_RDWR).unwrap();
    }
    world.fs.opened(two);
    for name in ["one", "two", "three"] {
        world.unlink(name);
    }
    assert_eq!(
        super::super::orphan::list(&world.fs.view(), &world.fs.sb).unwrap(),
        [three, two, one]
    );
    world.write(two, 9000, &[2; 9000]).unwrap();
    world.truncate(two, 12_000);
    world.fs.release(two).unwrap();
    assert_eq!(world.contents(two)[8999..9001], [1, 2]);
    world.fs.release(two).unwrap();
    assert!(matches!(world.fs.read(two, 0, 1), Err(Error::Stale)));

    // A crash: the others are found on the chain.
    let world = world.reopen();
    assert_eq!(world.fs.collect_orphans().unwrap(), 2);
    world.judge("orphans collected");
    assert_eq!(world.free_blocks(), free);
}

#[test]
fn the_largest_sparse_file_has_its_last_byte() {
    for (args, blocks) in [
        (FORMATS[0].1, u64::from(u32::MAX)),
        (FORMATS[3].1, u64::from(u32::MAX)),
        (MAPPED[0].1, 0),
    ] {
        let world = World::new(args, 24 << 20);
        let file = world.file("file");
        let most = max_size(&world.fs.sb, &world.inode(file));
        assert!(blocks == 0 || most == blocks * u64::from(world.fs.sb.block_size));
        assert_eq!(world.write(file, most - 3, b"12345").unwrap(), 3);
        assert!(matches!(world.write(file, most, b"6"), Err(Error::TooBig)));
        assert!(matches!(
            world.fs.truncate(&world.by, file, most + 1),
            Err(Error::TooBig)
        ));
        assert_eq!(world.fs.read(file, most - 5, 100).unwrap(), b"\0\x00123");
        assert_eq!(
            world.fs.seek(file, 0, Whence::Data).unwrap(),
            most - u64::from(world.fs.sb.block_size)
        );
        world.judge("the largest file");
        world.truncate(file, 5);
        world.judge("and cut");
    }
}

/// Fills the image but for a few blocks, then does what needs more than them.
#[test]
fn a_full_image_stays_in_order_at_every_step() {
    for (name, args) in [FORMATS[3], FORMATS[5], MAPPED[0]] {
        let world = World::new(args, 4 << 20);
        let filler = world.file("filler");
        let file = world.file("file");
        let extents = world.fs.sb.has_extents();
        let mut model = Vec::new();
        // A file of many pieces, so that one more may need new tree blocks.
        for n in 0..400u64 {
            world.write(file, n * 2048, &[1; 100]).unwrap();
            model.resize((n * 2048) as usize, 0);
            model.extend([1; 100]);
        }
        let mut at = 0;
        while let Ok(n @ 1..) = world.write(filler, at, &[2; 64 << 10]) {
            at += n as u64;
        }
        // (Nodes of the tree may have taken some of what else stays free.)
        let kept = kernel_reserve(&world.fs.sb);
        assert!(world.free_blocks() <= kept, "{name}");
        world.judge(&format!("{name}: full"));
        for left in 0..14u64 {
            world.truncate(filler, at - left * 1024);
            let end = model.len() as u64;
            let tries: [(u64, usize); 3] = [(end + 3000, 1), (1024, 1), (end, 20_000)];
            for (to, len) in tries {
                let before = world.contents(file);
                match world.write(file, to, &vec![3; len]) {
                    Ok(n) => {
                        model = before;
                        model.resize(model.len().max(to as usize + n), 0);
                        model[to as usize..to as usize + n].fill(3);
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::NoSpace), "{error}");
                        assert!(
                            world.contents(file) == before,
                            "{name}: a failed write changed the file"
                        );
                    }
                }
                assert!(world.contents(file) == model);
            }
            if extents {
                let full = world.fallocate(file, 0, 0, 4 << 20);
                assert!(matches!(full, Err(Error::NoSpace)));
                let _ = world.fallocate(file, ZERO | KEEP, 2048 * 7, 1024);
                let upto = model.len().min(2048 * 7 + 1024);
                model[2048 * 7..upto].fill(world.contents(file)[2048 * 7]);
            }
            world.judge(&format!("{name}: full but for {left}"));
            world.truncate(file, 400 * 2048 - 1948);
            model.truncate(400 * 2048 - 1948);
        }
    }
}

#[test]
fn a_hole_can_be_made_in_a_full_image() {
    let world = World::new(FORMATS[3].1, 4 << 20);
    let (file, filler) = (world.file("file"), world.file("filler"));
    for piece in 0..4 {
        world.write(file, piece * 100_000, &[1; 10_240]).unwrap();
        world.write(filler, piece * 1024, &[2; 1024]).unwrap();
    }
    let mut at = 4096;
    while let Ok(n @ 1..) = world.write(filler, at, &[2; 64 << 10]) {
        at += n as u64;
    }
    assert!(world.free_blocks() <= kernel_reserve(&world.fs.sb));
    let free = world.free_blocks();
    // The root has four extents; a fifth needs a block.
    world.fallocate(file, PUNCH, 100_352 + 2048, 1024).unwrap();
    world.judge("a hole in a full image");
    assert_eq!(world.free_blocks(), free);
}

/// One block is free in each of many groups, so that each piece of a write
/// changes a bitmap of its own, and one record can't hold them all.
#[test]
fn a_write_in_pieces_all_over_the_image_is_not_short() {
    let world = World::new(
        &[
            "-b1024",
            "-g256",
            "-N3000",
            "-O^has_journal,^64bit,^resize_inode",
        ],
        400 << 20,
    );
    let (file, filler) = (world.file("file"), world.file("filler"));
    let mut end = 0;
    for step in [4 << 20, 64 << 10, 1024] {
        while world.fallocate(filler, 0, end, step).is_ok() {
            end += step;
        }
    }
    for at in (0..end).step_by(251 << 10) {
        world.fallocate(filler, PUNCH, at, 1024).unwrap();
    }
    let mut data = vec![0; world.fs.longest_write()];
    fastrand::Rng::with_seed(1).fill(&mut data);
    assert!(world.free_blocks() > data.len() as u64 / 1024 + 100);
    assert_eq!(world.write(file, 0, &data).unwrap(), data.len());
    assert!(world.contents(file) == data);
    world.judge("in pieces");
}

#[test]
fn reserved_blocks_are_for_root() {
    let world = World::new(&["-b1024", "-m", "10"], 4 << 20);
    let file = world.file("file");
    let user = Caller {
        uid: 1000,
        gid: 1000,
        ..Caller::default()
    };
    let mut at = 0;
    while let Ok(done) = world
        .fs
        .write(&user, file, at, &[1; 10_000], Default::default())
    {
        at += done.value as u64;
    }
    let kept = world.free_blocks();
    let least = world.fs.sb.reserved_blocks + kernel_reserve(&world.fs.sb);
    assert!((least..least + 12).contains(&kept), "{kept}");
    assert_eq!(world.write(file, at, &[2; 10_000]).unwrap(), 10_000);
    world.judge("the reserve in use");
}

#[test]
fn figures_of_df_are_the_kernels() {
    // As `stat -f` prints them for a loop mount of the same image.
    let args = ["-b4096", "-I256", "-m5", "-N", "6400", "-J", "size=4"];
    let world = World::new(&args, 100 << 20);
    let stat = world.fs.statfs().unwrap();
    assert_eq!((stat.block_size, stat.blocks), (4096, 24160));
    assert_eq!((stat.free, stat.available), (24154, 22362));
    assert_eq!((stat.inodes, stat.free_inodes), (6400, 6389));
}

#[test]
fn overhead_is_what_mkfs_notes_and_not_what_became_of_that() {
    for args in [
        &["-b1024"][..],
        &["-b4096"],
        &["-b1024", "-O^resize_inode,^flex_bg"],
    ] {
        let mut world = World::new(args, 100 << 20);
        let sb = &mut world.fs.sb;
        let noted = sb.blocks_count - u64::from(sb.overhead_blocks);
        sb.overhead_blocks = 3000;
        assert_eq!(world.fs.statfs().unwrap().blocks, noted, "{args:?}");
    }
}

#[test]
fn holes_and_data_are_found() {
    let world = World::new(FORMATS[3].1, 8 << 20);
    let file = world.file("file");
    let seek = |at, whence| world.fs.seek(file, at, whence).ok();
    world.write(file, 10_000, &[1; 5000]).unwrap();
    world.fallocate(file, 0, 30_000, 10_000).unwrap();
    assert_eq!(seek(0, Whence::Data), Some(9 * 1024));
    assert_eq!(seek(0, Whence::Hole), Some(0));
    assert_eq!(seek(9_500, Whence::Hole), Some(15 * 1024));
    assert_eq!(seek(12_345, Whence::Data), Some(12_345));
    assert_eq!(seek(20_000, Whence::Data), None);
    assert_eq!(seek(39_999, Whence::Hole), Some(39_999));
    assert_eq!(seek(40_000, Whence::Hole), None);
}

#[test]
fn a_write_takes_set_id_bits_away_when_asked() {
    let world = World::new(FORMATS[3].1, 8 << 20);
    let file = world.file("file");
    let mut txn = world.fs.begin().unwrap();
    let mut inode = load_file(&txn, &world.fs.sb, file).unwrap();
    inode.mode |= 0o6010;
    store(&mut txn, &world.fs.sb, &inode).unwrap();
    txn.commit(&Op::Orphan { inode: file }).unwrap();
    world
        .fs
        .write(&world.by, file, 0, b"x", Default::default())
        .unwrap();
    assert_eq!(world.inode(file).mode & 0o6000, 0o6000);
    let flags = WriteFlags {
        kill_priv: true,
        ..WriteFlags::default()
    };
    world.fs.write(&world.by, file, 0, b"x", flags).unwrap();
    assert_eq!(world.inode(file).mode & 0o6000, 0);
}

/// Metadata damaged at random, without checksums to notice: errors, no panics.
#[test]
fn damage_is_an_error_and_never_a_panic() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let args = if seed % 2 == 0 {
            ["-b1024", "-O^metadata_csum"]
        } else {
            ["-b1024", "-O^metadata_csum,^extent,^64bit"]
        };
        let mut world = World::new(&args, 4 << 20);
        let file = world.file("file");
        for n in 0..400 {
            world.write(file, n * 2048, b"x").unwrap();
        }
        let inode = world.inode(file);
        let mut txn = world.fs.begin().unwrap();
        let (table, at) = super::super::inode::place(&txn, &world.fs.sb, file).unwrap();
        for _ in 0..random.usize(1..6) {
            let (block, from, to) = match random.u32(0..4) {
                0 => (crate::units::BlockNo(2), 0, 64),
                1 => (table, at, at + 128),
                _ => match map_block(&inode) {
                    Some(block) => (block, 0, 1024),
                    None => continue,
                },
            };
            let byte = random.usize(from..to);
            txn.block_mut(block).unwrap()[byte] = random.u8(..);
        }
        txn.commit(&Op::Orphan { inode: file }).unwrap();
        // What e2fsck doesn't mind must do no harm later either.
        world.damaged = world.is_damaged();
        for _ in 0..20 {
            let at = random.u64(0..900_000);
            let _ = world.fs.read(file, at, 50_000);
            let _ = world.write(file, at, &[1; 5000]);
            let _ = world.fallocate(file, [0, PUNCH, ZERO][random.usize(0..3)], at, 5000);
            let _ = world.fs.seek(file, at, Whence::Data);
        }
        let _ = world.fs.truncate(&world.by, file, random.u64(0..900_000));
        let _ = world.fs.statfs();
    }
}

/// A block of the file's tree or map.
fn map_block(inode: &Inode) -> Option<crate::units::BlockNo> {
    use crate::ext4::extent::{Items, NodeRef};
    match inode.has(flag::EXTENTS) {
        false => Some(crate::ext4::blockmap::get(&inode.block, 12)),
        true => {
            let root = NodeRef::open(&inode.block, inode.number, None).ok()?;
            let world = Superblock::decode(&sample()).ok()?;
            match root.decode(&world).ok()?.items {
                Items::Children(list) => Some(list.first()?.child),
                Items::Extents(_) => None,
            }
        }
    }
}

fn sample() -> [u8; 1024] {
    let new = crate::ext4::format::New {
        block_size: 1024,
        blocks: 1 << 20,
        inodes_per_group: 1024,
        uuid: [1; 16],
        hash_seed: [2; 16],
        label: [0; 16],
        time: Time::default(),
    };
    new.superblock().unwrap().0
}

/// What reading and writing a file say of an image changed by `damage`, which
/// gets it flushed; and the image goes on being read.
fn after_damage(
    world: &mut World,
    file: InodeNo,
    damage: impl FnOnce(&World),
) -> (Result<Vec<u8>>, Result<usize>) {
    world.fs.journal().flush().unwrap();
    damage(world);
    world.damaged = true;
    let fs = crate::fs::world::open(world.disk.clone());
    let read = fs.read(file, 0, 4096);
    let written = fs.write(&world.by, file, 0, &[0; 4096], WriteFlags::default());
    assert!(fs.lookup(&world.by, InodeNo::ROOT, b"file").is_ok());
    assert!(fs.getattr(InodeNo::ROOT).is_ok());
    (read, written.map(|done| done.value))
}

fn is_damage<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Corrupt(_)))
}

#[test]
fn a_file_that_claims_the_formats_own_blocks_is_damaged_and_harms_nobody() {
    for (name, args) in FORMATS.iter().chain(MAPPED) {
        let mut world = World::new(args, 8 << 20);
        let file = world.file("file");
        world.write(file, 0, &[1; 4096]).unwrap();
        let mut inode = world.inode(file);
        let group = crate::fs::inode::group(&world.fs.view(), &world.fs.sb, GroupNo(0)).unwrap();
        for target in [group.block_bitmap, group.inode_bitmap, group.inode_table] {
            // The only extent's first block, or the map's first pointer.
            let at = if inode.has(flag::EXTENTS) { 20 } else { 0 };
            inode.block[at..at + 4].copy_from_slice(&(target.0 as u32).to_le_bytes());
            let mut txn = world.fs.begin().unwrap();
            store(&mut txn, &world.fs.sb, &inode).unwrap();
            txn.commit(&Op::Orphan { inode: file }).unwrap();
            let (read, written) = after_damage(&mut world, file, |_| {});
            assert!(is_damage(&read) && is_damage(&written), "{name}: {target}");
            assert!(is_damage(&world.fs.truncate(&world.by, file, 0)), "{name}");
        }
    }
}

#[test]
fn a_bitmap_without_a_checksum_that_calls_used_blocks_free_is_damage() {
    for forged in [false, true] {
        let mut world = World::new(&["-b1024", "-O^metadata_csum"], 8 << 20);
        let file = world.file("file");
        let group = crate::fs::inode::group(&world.fs.view(), &world.fs.sb, GroupNo(0)).unwrap();
        let table = group.inode_table.0 - world.fs.sb.first_data_block;
        let (_, written) = after_damage(&mut world, file, |world| {
            let place = group.block_bitmap.0 * 1024;
            let mut bits = [0; 1024];
            world.disk.read_at(&mut bits, place).unwrap();
            bits[table as usize / 8 + 1] = 0;
            if forged {
                // As many others are called used.
                bits[1020] = 0xFF;
            }
            world.disk.write_at(&bits, place).unwrap();
        });
        assert!(is_damage(&written), "{written:?}");
    }
}

#[test]
fn extents_out_of_order_are_damage_also_without_checksums() {
    for change in [
        |items: &mut [u8]| items[5 * 12..7 * 12].rotate_left(12),
        |items: &mut [u8]| items[5 * 12 + 4] = 20,
        |items: &mut [u8]| items[0] += 1,
    ] {
        let mut world = World::new(&["-b1024", "-O^metadata_csum"], 8 << 20);
        let file = world.file("file");
        for n in 0..40 {
            world.write(file, n * 2048, &[n as u8; 1024]).unwrap();
        }
        let leaf = map_block(&world.inode(file)).unwrap().0 * 1024;
        let (read, written) = after_damage(&mut world, file, |world| {
            let mut items = [0; 40 * 12];
            world.disk.read_at(&mut items, leaf + 12).unwrap();
            change(&mut items);
            world.disk.write_at(&items, leaf + 12).unwrap();
        });
        assert!(
            is_damage(&read) && is_damage(&written),
            "{read:?} {written:?}"
        );
    }
}

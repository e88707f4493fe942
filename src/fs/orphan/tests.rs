//! Orphans as the kernel leaves them.

use super::super::world::{FORMATS, World};
use super::*;
use crate::ext4::bytes::put32;
use crate::fs::dir;
use crate::fs::inode::load;

/// Notes an inode in the orphan file, as the kernel does.
fn note_in_orphan_file(world: &World, slot: usize, number: InodeNo) {
    let fs = &world.fs;
    let file = load(&fs.view(), &fs.sb, InodeNo(fs.sb.orphan_file_inode)).unwrap();
    let mut txn = fs.begin().unwrap();
    let Mapping::Mapped { block, .. } = map::find(&txn, &fs.sb, &file, FileBlock(1)).unwrap()
    else {
        panic!("the orphan file has a hole");
    };
    let raw = txn.block_mut(block).unwrap();
    put32(raw, slot * 4, number.0);
    orphan::seal(raw, block, sum_seed(&fs.sb, &file));
    raw::set_ro_compat(
        superblock_mut(&mut txn, &fs.sb).unwrap(),
        ro_compat::ORPHAN_PRESENT,
        0,
    );
    txn.commit(&Op::Orphan { inode: number }).unwrap();
}

#[test]
fn the_orphan_file_is_emptied_at_mount() {
    let world = World::new(FORMATS[1].1, 24 << 20);
    let free = world.free_blocks();
    let (gone, short) = (world.file("gone"), world.file("short"));
    for file in [gone, short] {
        world.write(file, 0, &[1; 50_000]).unwrap();
    }
    let fs = &world.fs;
    let mut txn = fs.begin().unwrap();
    let root = load(&txn, &fs.sb, InodeNo::ROOT).unwrap();
    let place = dir::locate(&txn, &fs.sb, &root, b"gone").unwrap().unwrap();
    dir::remove(&mut txn, &fs.sb, &root, &place).unwrap();
    store(&mut txn, &fs.sb, &root).unwrap();
    for (number, links, size) in [(gone, 0, 50_000), (short, 1, 4097)] {
        let mut inode = load(&txn, &fs.sb, number).unwrap();
        (inode.links, inode.size) = (links, size);
        store(&mut txn, &fs.sb, &inode).unwrap();
    }
    txn.commit(&Op::Orphan { inode: gone }).unwrap();
    note_in_orphan_file(&world, 0, gone);
    note_in_orphan_file(&world, 17, short);

    let world = world.reopen();
    assert_eq!(world.fs.collect_orphans().unwrap(), 2);
    world.judge("the orphan file emptied");
    assert_eq!(world.free_blocks(), free - 2);
    assert_eq!(world.fs.collect_orphans().unwrap(), 0);
}

#[test]
fn an_unlink_done_again_after_a_full_journal_is_still_chained() {
    let world = World::new(FORMATS[3].1, 8 << 20);
    let file = world.file("file");
    world.fs.opened(file);
    // What a transaction that was given up leaves behind.
    world.fs.tables.lock().pending.insert(file);
    world.unlink("file");
    let chain = list(&world.fs.view(), &world.fs.sb).unwrap();
    assert_eq!(chain, [file]);
}

#[test]
fn an_orphan_leaves_the_chain_from_any_place() {
    let world = World::new(FORMATS[3].1, 8 << 20);
    let files: Vec<InodeNo> = (0..5).map(|n| world.file(&format!("{n}"))).collect();
    for (n, file) in files.iter().enumerate() {
        world.fs.opened(*file);
        world.unlink(&format!("{n}"));
    }
    for n in [2, 0, 4, 1, 3] {
        world.fs.release(files[n]).unwrap();
        let left = list(&world.fs.view(), &world.fs.sb).unwrap();
        assert!(!left.contains(&files[n]));
    }
    world.judge("all closed");
}

/// Closed in the order of the opening, each is the last of the chain: walked
/// through from its head, it would take hours.
#[test]
fn tens_of_thousands_of_files_without_a_name_go_one_by_one() {
    const MANY: usize = 50_000;
    let world = World::new(&["-b1024", "-I128", "-N60000"], 32 << 20);
    let (free, inodes) = alloc::totals(&world.fs.view(), &world.fs.sb).unwrap();
    let mut files = Vec::new();
    for _ in 0..MANY {
        let file = world.file("file");
        world.fs.opened(file);
        world.unlink("file");
        files.push(file);
    }
    assert_eq!(
        list(&world.fs.view(), &world.fs.sb).unwrap().len(),
        files.len()
    );
    for file in &files {
        world.fs.release(*file).unwrap();
    }
    assert_eq!(
        alloc::totals(&world.fs.view(), &world.fs.sb).unwrap(),
        (free, inodes)
    );
    let tables = world.fs.tables.lock();
    assert!(tables.opens.is_empty() && tables.held.is_empty() && tables.pending.is_empty());
    assert!(world.fs.before.0.lock().is_empty());
}

/// A hint that a given-up transaction left behind is not believed.
#[test]
fn a_wrong_hint_of_the_chain_is_seen() {
    let world = World::new(FORMATS[3].1, 8 << 20);
    let files: Vec<InodeNo> = (0..4).map(|n| world.file(&format!("{n}"))).collect();
    for (n, file) in files.iter().enumerate() {
        world.fs.opened(*file);
        world.unlink(&format!("{n}"));
    }
    world.fs.before.note(files[0], files[3]);
    world.fs.before.note(files[1], InodeNo(5000));
    for n in [0, 1, 2, 3] {
        world.fs.release(files[n]).unwrap();
    }
    assert!(list(&world.fs.view(), &world.fs.sb).unwrap().is_empty());
}

#[test]
fn a_chain_in_a_circle_is_an_error() {
    let mut world = World::new(FORMATS[3].1, 8 << 20);
    let files: Vec<InodeNo> = (0..2).map(|n| world.file(&format!("{n}"))).collect();
    for (n, file) in files.iter().enumerate() {
        world.fs.opened(*file);
        world.unlink(&format!("{n}"));
    }
    let mut txn = world.fs.begin().unwrap();
    let mut first = load(&txn, &world.fs.sb, files[0]).unwrap();
    first.dtime = files[1].0;
    store(&mut txn, &world.fs.sb, &first).unwrap();
    txn.commit(&Op::Orphan { inode: files[0] }).unwrap();
    world.damaged = world.is_damaged();
    assert!(world.damaged);
    let answer = list(&world.fs.view(), &world.fs.sb);
    assert!(matches!(answer, Err(crate::fs::Error::Corrupt(_))));
}

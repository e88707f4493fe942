//! Images that e2fsck finds nothing in.

use super::super::world::{World, e2fsck, run, write_pages};
use super::*;
use crate::device::memory::MemoryDisk;

fn make(options: &MkfsOptions) -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::default());
    let shared: Arc<dyn Disk> = disk.clone();
    mkfs(&shared, options).unwrap();
    disk
}

fn seeded(size: u64, block_size: Option<u32>) -> MkfsOptions {
    let time = Time {
        secs: 1_790_000_000,
        nanos: 0,
    };
    MkfsOptions {
        size,
        block_size,
        seed: Some(1),
        time,
        label: "tested".into(),
        uid: 1000,
        gid: 100,
        ..Default::default()
    }
}

#[test]
fn e2fsck_finds_nothing_in_images_of_many_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mib = 1 << 20;
    let sizes = [
        (mib, None),
        (mib, Some(4096)),
        (2 * mib + 1234, None),
        (4 * mib, None),
        (8 * mib + 5000, Some(1024)),
        (63 * mib, None),
        (64 * mib, None),
        (129 * mib, Some(2048)),
        (130 * mib, Some(1024)),
        (134_217_728 + 4096 * 20, Some(4096)),
        (1025 * mib, Some(1024)),
        (2049 * mib, None),
    ];
    for (size, block_size) in sizes {
        let disk = make(&seeded(size, block_size));
        let _ = std::fs::remove_file(&path);
        write_pages(&path, &disk.pages());
        e2fsck(&path, &format!("{size} bytes, blocks {block_size:?}"));
    }
}

#[test]
fn a_size_without_enough_inode_numbers_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    for size in [100 << 40, 1 << 60, u64::MAX] {
        let refused = mkfs(&disk, &seeded(size, None));
        assert!(
            matches!(&refused, Err(MkfsError::Usage(why)) if why.contains("too many")),
            "{refused:?}"
        );
    }
    assert_eq!(disk.len().unwrap(), 0, "nothing was begun");
}

#[test]
fn a_terabyte_is_made_and_found_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let disk: Arc<dyn Disk> = Arc::new(crate::device::host::HostDisk::create(&path, 0).unwrap());
    let sb = mkfs(&disk, &seeded(1 << 40, None)).unwrap();
    assert_eq!(sb.group_count(), 8192);
    let said = run(std::process::Command::new("dumpe2fs").arg("-h").arg(&path));
    assert!(said.contains("tested"), "{said}");
    e2fsck(&path, "a terabyte");
}

#[test]
fn the_same_seed_makes_the_same_bytes_and_another_does_not() {
    let first = make(&seeded(2 << 20, None)).pages().to_vec();
    assert!(first == make(&seeded(2 << 20, None)).pages().to_vec());
    let other = MkfsOptions {
        seed: Some(2),
        ..seeded(2 << 20, None)
    };
    assert!(first != make(&other).pages().to_vec());
}

#[test]
fn the_root_belongs_to_who_asked_and_files_can_be_made() {
    let world = World::over(make(&seeded(2 << 20, None)), tempfile::tempdir().unwrap());
    let root = world.inode(InodeNo::ROOT);
    assert_eq!((root.uid, root.gid, root.links), (1000, 100, 3));
    let file = world.file("file");
    world.write(file, 0, &[7; 300_000]).unwrap();
    world.judge("a file in a new image");
}

#[test]
fn what_is_too_small_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    assert!(matches!(
        mkfs(&disk, &seeded(100_000, None)),
        Err(MkfsError::Usage(_))
    ));
    assert!(matches!(
        mkfs(&disk, &seeded(1 << 20, Some(8192))),
        Err(MkfsError::Usage(_))
    ));
}

//! What forged bytes once did, and must not do again: panics, requests without
//! an end, memory without bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use journalfs::check::{self, Finding};
use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use journalfs::ext4::Superblock;
use journalfs::fs::mount::{self, Mounted};
use journalfs::fs::{Caller, Error, Fs, guard};
use journalfs::history::chart::Chart;
use journalfs::history::shown;
use journalfs::journal::Record;
use journalfs::journal::archive::{Archive, Limits};
use journalfs::journal::blocks::{Begins, BlockIndex};
use journalfs::journal::redo::Redo;
use journalfs::log::Survey;
use journalfs::past::{self, restore};
use journalfs::units::{BlockNo, InodeNo, Lsn};

use crate::archives::{Kept, seal_blocks};
use crate::exercise::{self, options};
use crate::forge::{Forge, What};
use crate::journals::{FRAME, Left, frames, meta_len, seal_frame, seal_segment};
use crate::support::e2fsck;
use crate::support::images::Variant;
use crate::support::random::Seeded;
use crate::{MEMORY, peak_memory, sample};

fn forged(variant: &str, what: fn(What) -> bool, offset: usize, bytes: &[u8]) -> Pages {
    let mut forge = Forge::of(&sample(&Variant::named(variant)));
    forge.set(what, offset, bytes);
    forge.pages
}

fn mounted(image: &Pages) -> mount::Result<Mounted> {
    let disk = Arc::new(MemoryDisk::from_pages(image.clone()));
    mount::open(disk, Arc::new(MemoryDir::default()), options(false, 1))?.mount()
}

fn find(fs: &Fs, path: &str) -> InodeNo {
    path.split('/').fold(InodeNo::ROOT, |dir, name| {
        let found = fs.lookup(&Caller::default(), dir, name.as_bytes());
        found.unwrap().inode
    })
}

#[test]
fn a_bitmap_past_the_last_byte_is_outside() {
    let image = forged(
        "upstream",
        |what| matches!(what, What::Group(0)),
        0x24,
        &[0xFF; 4],
    );
    let report = check::run_image(&MemoryDisk::from_pages(image.clone()));
    assert_eq!(report.exit_code(), 4);
    assert!(mounted(&image).is_err());
}

#[test]
fn more_reserved_blocks_than_numbers_leave_none_to_users() {
    let mut forge = Forge::of(&sample(&Variant::named("upstream")));
    for at in [0x8, 0x154] {
        forge.set(|what| matches!(what, What::Superblock), at, &[0xFF; 4]);
    }
    let mounted = mounted(&forge.pages).unwrap();
    assert_eq!(mounted.fs().statfs().unwrap().available, 0);
    let by = Caller {
        uid: 1000,
        ..Caller::default()
    };
    let file = find(mounted.fs(), "dir/file");
    assert!(matches!(
        mounted
            .fs()
            .write(&by, file, 1 << 20, &[1; 9000], Default::default()),
        Err(Error::NoSpace)
    ));
}

#[test]
fn an_orphan_file_without_end_is_refused_at_once() {
    let mut forge = Forge::of(&sample(&Variant::named("upstream")));
    let number = forge.orphan_file();
    let is_file = move |what| matches!(what, What::Inode(n) if n == number);
    forge.set(is_file, 0x6C, &0x0400_u32.to_le_bytes());
    // ORPHAN_PRESENT: it is to be read.
    forge.set(|what| matches!(what, What::Superblock), 0x66, &[1]);
    assert!(mounted(&forge.pages).is_err());
}

#[test]
fn an_index_that_leads_in_circles_is_listed_to_its_second_coming_only() {
    let mut forge = Forge::of(&sample(&Variant::named("no-metadata-csum")));
    let is_root = |what| matches!(what, What::Root(_));
    // Two slots of the root, for one leaf, the second one "continued".
    let first = forge.get(is_root, 0x24, 4);
    forge.set(is_root, 0x28, &[&[1, 0, 0, 0], &first[..]].concat());
    let mounted = mounted(&forge.pages).unwrap();
    let big = find_listed(mounted.fs(), b"big");
    let mut names = 0;
    let listed = mounted
        .fs()
        .readdir(&Caller::default(), big, 0, &mut |_, _, _, _| {
            names += 1;
            true
        });
    assert!(matches!(listed, Err(Error::Corrupt(_))), "{names} names");
}

/// A directory in the root, without looking into any index but the root's.
fn find_listed(fs: &Fs, name: &[u8]) -> InodeNo {
    let mut found = None;
    let mut each = |_, other: &[u8], inode, _| {
        found = (other == name).then_some(inode).or(found);
        true
    };
    fs.readdir(&Caller::default(), InodeNo::ROOT, 0, &mut each)
        .unwrap();
    found.unwrap()
}

#[test]
fn a_bitmap_that_calls_the_superblock_free_gives_nobody_its_block() {
    let mut forge = Forge::of(&sample(&Variant::named("1k-blocks")));
    let is_bitmap = |what| matches!(what, What::BlockBitmap(0));
    let mut bits = vec![0xFF; 1024];
    bits[..4].fill(0);
    forge.set(is_bitmap, 0, &bits);
    // (As many as the kernel keeps, and more.)
    forge.set(|what| matches!(what, What::Group(0)), 0xC, &[255, 0]);
    let before = forge.get(|what| matches!(what, What::Superblock), 0x68, 16);
    let mounted = mounted(&forge.pages).unwrap();
    let (fs, by) = (mounted.fs(), Caller::default());
    let written = fs.write(
        &by,
        find(fs, "dir/file"),
        1 << 20,
        &[1; 1024],
        Default::default(),
    );
    assert!(matches!(written, Err(Error::Corrupt(_))), "{written:?}");
    assert_eq!(mounted.fs().superblock().uuid, before[..]);
}

#[test]
fn a_spare_with_the_last_of_all_numbers_is_nobodys() {
    let mut left = Left::killed("1k-blocks", true);
    let some = left.files.values().next().unwrap().clone();
    left.files.insert(format!("spare-{}.store", u64::MAX), some);
    e2fsck::assert_recovers_clean(left.image(), left.journal());
}

/// The records that name the session, changed by `change`.
fn with_base(
    files: &mut BTreeMap<String, Pages>,
    change: impl Fn(&mut journalfs::journal::record::Base),
) {
    for pages in files.values_mut() {
        let mut bytes = pages.to_vec();
        for at in frames(&bytes) {
            let len = u32::from_le_bytes(bytes[at + 72..at + 76].try_into().unwrap()) as usize;
            let meta = at + FRAME..at + FRAME + len;
            let Some(Ok(mut record)) = bytes.get(meta.clone()).map(Record::decode) else {
                continue;
            };
            match &mut record {
                Record::Session(base) | Record::Checkpoint(base) => change(base),
                _ => continue,
            }
            bytes[meta].copy_from_slice(&record.encode());
            seal_frame(&mut bytes, at);
        }
        *pages = Pages::from_bytes(&bytes);
    }
}

#[test]
fn a_checkpoint_that_calls_all_records_ever_home_is_corrupt() {
    let mut left = Left::killed("1k-blocks", true);
    with_base(&mut left.files, |base| base.through = Lsn(u64::MAX));
    let opened = mount::open(left.image(), left.journal(), options(false, 9));
    let Err(mount::Error::Journal(error)) = opened else {
        panic!("opened");
    };
    assert!(error.to_string().contains("home"), "{error}");
    assert_eq!(
        check::run_disks(left.image(), Some(left.journal())).exit_code(),
        8
    );
}

fn reshape(superblock: &mut [u8], at: usize, bytes: &[u8]) {
    superblock[at..at + bytes.len()].copy_from_slice(bytes);
    journalfs::ext4::superblock::seal(superblock);
}

#[test]
fn a_superblock_of_another_shape_in_the_journal_is_not_believed() {
    let mut left = Left::killed("1k-blocks", false);
    // (Blocks of 1 KiB: the pinned block is the superblock.) Inodes of 128 bytes.
    with_base(&mut left.files, |base| {
        reshape(&mut base.pinned, 0x58, &[128, 0])
    });
    let opened = mount::open(left.image(), left.journal(), options(false, 9)).unwrap();
    assert!(matches!(opened.mount(), Err(mount::Error::Unrecognised)));
}

#[test]
fn the_check_asks_the_image_how_long_it_is() {
    let mut left = Left::killed("1k-blocks", false);
    // 2^24 groups with 16 inodes each, in a journal's copy that has to be taken.
    left.image.write(&[0xA5; 300], 1024);
    with_base(&mut left.files, |base| {
        for raw in [&mut base.session.guarded, &mut base.pinned] {
            for (at, value) in [(0x0, 1 << 28), (0x4, 1), (0x150, 32), (0x28, 16_u32)] {
                reshape(raw, at, &value.to_le_bytes());
            }
        }
    });
    let report = check::run_disks(left.image(), Some(left.journal()));
    // There is no room for so many.
    let too_many = |finding: &Finding| {
        let field = "s_inodes_count";
        matches!(finding, Finding::Field { field: found, .. } if *found == field)
    };
    assert!(report.findings.iter().any(too_many), "{report:?}");
}

#[test]
fn nobody_counts_the_records_between_two_segments_worlds_apart() {
    let mut left = Left::killed("1k-blocks", true);
    let is_segment = |bytes: &[u8]| bytes.starts_with(b"jfsegmnt") && !frames(bytes).is_empty();
    let newest = (left.files.values())
        .map(Pages::to_vec)
        .filter(|bytes| is_segment(bytes))
        .max_by_key(|bytes| u64::from_le_bytes(bytes[32..40].try_into().unwrap()));
    let mut far = newest.unwrap();
    let base: u64 = 1 << 61;
    for (at, value) in [(24, 77), (32, base), (64, base - 1), (72, base - 1)] {
        far[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    seal_segment(&mut far);
    left.files
        .insert("far.store".into(), Pages::from_bytes(&far));
    let survey = journalfs::log::Survey::read(left.journal()).unwrap();
    assert_eq!(survey.installed(), Lsn(base - 1));
    assert!(survey.frames(Lsn(1)).count() < 10_000);
    check::run_disks(left.image(), Some(left.journal()));
}

/// Another redo in the last operation of all, with which nothing follows that
/// is durable. Answers its number.
fn with_last_redo(files: &mut BTreeMap<String, Pages>, redo: Vec<Redo>) -> Lsn {
    let lsn = |bytes: &[u8], at: usize| {
        let raw = bytes[at + 16..at + 24].try_into().unwrap();
        u64::from_le_bytes(raw)
    };
    let operations = files.iter().flat_map(|(name, pages)| {
        let bytes = pages.to_vec();
        let found = frames(&bytes).into_iter().filter_map(|at| {
            let record = Record::decode(bytes.get(at + FRAME..)?.get(..meta_len(&bytes, at))?);
            matches!(record, Ok(Record::Operation(_))).then(|| (lsn(&bytes, at), at))
        });
        let name = name.clone();
        found
            .map(|(lsn, at)| (lsn, at, name.clone()))
            .collect::<Vec<_>>()
    });
    let (lsn, at, name) = operations.max().unwrap();
    let mut bytes = files[&name].to_vec();
    let record = Record::decode(&bytes[at + FRAME..][..meta_len(&bytes, at)]);
    let Ok(Record::Operation(mut operation)) = record else {
        panic!("an operation");
    };
    operation.redo = redo;
    let meta = Record::Operation(operation).encode();
    bytes.truncate(at + FRAME);
    bytes[at + 70..at + 72].fill(0);
    bytes[at + 72..at + 76].copy_from_slice(&(meta.len() as u32).to_le_bytes());
    bytes[at + 76..at + 80].fill(0);
    bytes.extend(meta);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let size = bytes.len() as u64;
    bytes[96..104].copy_from_slice(&size.to_le_bytes());
    seal_segment(&mut bytes);
    seal_frame(&mut bytes, at);
    files.insert(name, Pages::from_bytes(&bytes));
    Lsn(lsn)
}

#[test]
fn a_record_that_calls_a_million_blocks_zeros_needs_no_room_for_each() {
    let mut left = Left::killed("upstream", false);
    left.image.set_len(8 << 30);
    let zeros = (1 << 20..2 << 20).map(|block| Redo::Zeros {
        block: BlockNo(block),
    });
    let lsn = with_last_redo(&mut left.files, zeros.collect());
    let opened = mount::open(left.image(), left.journal(), options(true, 9)).unwrap();
    let mounted = opened.mount().unwrap();
    assert_eq!(mounted.fs().journal().watermarks().appended, lsn);
    let peak = peak_memory();
    assert!(peak < MEMORY, "{peak} KiB");
}

/// The last state of an archive and journal whose last record does this.
fn archived(redo: Redo) -> past::Result<past::Instant> {
    let mut kept = Kept::sample();
    let last = with_last_redo(&mut kept.journal, vec![redo]);
    kept.span().unwrap().at(last)
}

#[test]
fn a_record_that_frees_more_blocks_than_there_are_is_not_indexed() {
    let (first, count) = (BlockNo(0), 1 << 60);
    let shown = archived(Redo::Free { first, count });
    let error = shown.err().unwrap().to_string();
    assert!(error.contains("more blocks"), "{error}");
}

#[test]
fn a_block_worlds_away_is_not_restored() {
    let block = BlockNo(1 << 62);
    let shown = archived(Redo::Zeros { block }).unwrap();
    let out = Arc::new(MemoryDisk::default());
    restore(&shown, out.clone(), &mut |_| {}).unwrap();
    assert_eq!(out.pages().len(), 8 << 20);
}

#[test]
fn a_past_without_a_pinned_block_can_not_be_shown() {
    let mut kept = Kept::sample();
    for files in [&mut kept.archive, &mut kept.journal] {
        // (The record stays as long as it was.)
        with_base(files, |base| {
            let rest = base.pinned.split_off(1000);
            base.session.prior.extend(rest);
        });
    }
    let span = kept.span().unwrap();
    let error = span.at(span.survey().last()).err().unwrap().to_string();
    assert!(error.contains("not one block long"), "{error}");
}

#[test]
fn a_block_index_without_end_is_not_read() {
    let mut kept = Kept::sample();
    let is_index = |name: &&String| name.ends_with(".blocks");
    let name = kept.archive.keys().find(is_index).unwrap().clone();
    let store = name.replace(".blocks", ".store");
    kept.archive.get_mut(&name).unwrap().set_len(MEMORY << 11);
    let archive = Archive::open(kept.archive(), None, Limits::default()).unwrap();
    let segments = archive.segments();
    let found = segments.iter().find(|found| found.name == store).unwrap();
    assert!(archive.blocks(found).unwrap().is_none());
    let peak = peak_memory();
    assert!(peak < MEMORY, "{peak} KiB");
}

#[test]
fn a_block_freed_by_the_last_record_of_all_has_no_next() {
    let last = u64::MAX;
    let mut bytes = vec![0; 48];
    bytes[..8].copy_from_slice(b"jfblocks");
    bytes[8] = 1; // version
    bytes[16..24].copy_from_slice(&last.to_le_bytes()); // base
    bytes[24..32].copy_from_slice(&last.to_le_bytes());
    bytes[40] = 1; // runs
    bytes[44] = 1; // bytes of their lists
    bytes.extend([7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // block 7 alone
    bytes.push(1); // the base itself frees it
    seal_blocks(&mut bytes);
    let index = BlockIndex::decode(&bytes).ok().unwrap();
    let chain = index.chain(BlockNo(7), Lsn(0), Lsn(last));
    assert_eq!((chain.begins, chain.records), (Begins::Here, vec![]));
}

#[test]
fn a_record_that_puts_more_blocks_than_it_has_data_is_shown_at_once() {
    let mut left = Left::killed("1k-blocks", false);
    let (first, count, from) = (BlockNo(0), u32::MAX, 0);
    let put = Redo::Put { first, count, from };
    let lsn = with_last_redo(&mut left.files, vec![put, Redo::Zeros { block: first }]);
    let survey = Survey::read(left.journal()).unwrap();
    let frame = survey.frame(lsn).unwrap();
    let mut raw = [0; 1024];
    left.image.read(&mut raw, 1024);
    let sb = Superblock::decode(&guard::take_off(&raw)).unwrap();
    let record = Record::decode(&frame.meta).unwrap();
    let begun = Instant::now();
    let shown = shown::changes(&survey, &Chart::without_image(sb), lsn, &record, None);
    assert_eq!(shown.len(), 2);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_bitmap_that_calls_the_inode_table_free_gives_none_of_it_away() {
    for (variant, seed) in [("1k-blocks", 1), ("1k-blocks", 2), ("upstream", 3)] {
        let mut forge = Forge::of(&sample(&Variant::named(variant)));
        let is_group = |what| matches!(what, What::Group(0));
        let table = forge.get(is_group, 0x8, 4).try_into().unwrap();
        // Some of the table's blocks, and no others.
        let first = u32::from_le_bytes(table) as usize / 8 + 1;
        let mut bits = [0xFF; 1024];
        bits[first..first + 4].fill(0);
        forge.set(|what| matches!(what, What::BlockBitmap(0)), 0, &bits);
        // (As many as the kernel keeps, and more.)
        forge.set(is_group, 0xC, &[255, 0]);
        let disk = Arc::new(MemoryDisk::from_pages(forge.pages));
        let mounted = mount::open(
            disk.clone(),
            Arc::new(MemoryDir::default()),
            options(false, 1),
        );
        let mounted = mounted.unwrap().mount().unwrap();
        let (fs, by) = (mounted.fs(), Caller::default());
        for n in 0..20 {
            let name = format!("n{n}");
            let made = match n % 3 {
                0 => fs.mkdir(&by, InodeNo::ROOT, name.as_bytes(), 0o755, 0),
                1 => fs.symlink(&by, InodeNo::ROOT, name.as_bytes(), &[b's'; 90]),
                _ => fs.create(&by, InodeNo::ROOT, name.as_bytes(), 0o644, 0),
            };
            if let Ok(made) = made {
                let _ = fs.write(&by, made.value.inode, 0, &[b'w'; 5000], Default::default());
            }
        }
        let _ = mounted.close();
        let block_size = if variant == "upstream" { 4096 } else { 1024 };
        let mut now = vec![0; 32 * block_size];
        disk.pages().read(&mut now, (first * 8 * block_size) as u64);
        let taken = now
            .windows(80)
            .any(|piece| piece == [b'w'; 80] || piece == [b's'; 80]);
        assert!(!taken, "{variant}: a file has the table's blocks");
        let random = &mut Seeded::from_seed("inode table", seed);
        exercise::mount_and_work(disk, Arc::new(MemoryDir::default()), random);
    }
}

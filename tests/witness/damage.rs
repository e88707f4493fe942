//! One damage a test: ours must name it, and e2fsck must see it too (or the
//! damage would be none).

use journalfs::check::{Finding, Place};

use crate::patient::{BLOCK, GROUPED, PLAIN, Patient, SUMMED};

macro_rules! damages {
    ($($name:ident: $variant:ident, |$patient:ident| $damage:expr => $want:pat,)*) => {$(
        #[test]
        fn $name() {
            let Some($patient) = Patient::new(&$variant) else { return };
            $damage;
            $patient.assert_found(|finding| matches!(finding, $want));
        }
    )*};
}

macro_rules! field {
    ($name:literal) => {
        Finding::Field { field: $name, .. }
    };
}

macro_rules! checksum {
    ($place:pat) => {
        Finding::Checksum { place: $place, .. }
    };
}

// Checksums: a bit in what they cover, in a place that nothing else judges.
damages! {
    a_superblock_with_a_wrong_checksum: SUMMED, |p| p.flip(1024 + 0x78, 0) => checksum!(Place::Superblock),
    a_group_with_a_wrong_checksum: SUMMED, |p| p.flip(p.group_at(1) + 0x1e, 3) => checksum!(Place::Group { group: 1 }),
    a_group_with_a_wrong_crc16: GROUPED, |p| p.flip(p.group_at(1) + 0x1e, 3) => checksum!(Place::Group { group: 1 }),
    a_block_bitmap_with_a_wrong_checksum: SUMMED, |p| p.debugfs("set_bg 0 block_bitmap_csum 12345") =>
        checksum!(Place::BlockBitmap { group: 0 }),
    an_inode_bitmap_with_a_wrong_checksum: SUMMED, |p| p.debugfs("set_bg 0 inode_bitmap_csum 12345") =>
        checksum!(Place::InodeBitmap { group: 0 }),
    an_inode_with_a_wrong_checksum: SUMMED, |p| p.flip(p.inode_at("/file") + 0x10, 0) => checksum!(Place::Inode { .. }),
    an_inode_with_a_wrong_checksum_in_its_upper_half: SUMMED, |p| p.flip(p.inode_at("/file") + 0x82, 0) =>
        checksum!(Place::Inode { .. }),
    an_extent_block_with_a_wrong_checksum: SUMMED, |p| p.flip(p.extent_block_at("/scattered") + 8, 0) =>
        checksum!(Place::MapBlock { .. }),
    a_directory_block_with_a_wrong_checksum: SUMMED, |p| p.flip(p.block_at("/dir", 0) + BLOCK - 1, 0) =>
        checksum!(Place::DirectoryBlock { .. }),
    an_index_root_with_a_wrong_checksum: SUMMED, |p| p.flip(p.block_at("/indexed", 0) + BLOCK - 1, 0) =>
        checksum!(Place::DirectoryBlock { .. }),
    an_index_node_with_a_wrong_checksum: SUMMED, |p| {
        let node = p.le32(p.block_at("/tall", 0) + 0x24);
        p.flip(p.block_at("/tall", node) + BLOCK - 1, 0);
    } => checksum!(Place::DirectoryBlock { .. }),
    an_attribute_block_with_a_wrong_checksum: SUMMED, |p| p.flip(p.xattr_block_at("/attributes1") + 0x10, 0) =>
        checksum!(Place::XattrBlock { .. }),
    an_orphan_block_with_a_wrong_checksum: SUMMED, |p| p.flip(p.block_at("<12>", 0) + BLOCK - 4, 0) =>
        checksum!(Place::OrphanBlock { .. }),
}

// Bitmaps and counts.
damages! {
    a_used_block_marked_free: SUMMED, |p| p.debugfs(&format!("freeb {}", p.block_at("/file", 1) / BLOCK)) =>
        Finding::MarkedFree { count: 1, .. },
    a_free_block_marked_used: SUMMED, |p| p.debugfs("setb 40000") => Finding::MarkedUsed { first: 40000, count: 1 },
    a_block_of_a_table_marked_free: SUMMED, |p| p.debugfs("freeb 2") => Finding::MarkedFree { first: 2, count: 1 },
    a_block_of_the_resize_inode_marked_free: SUMMED, |p| p.debugfs("freeb 5") => Finding::MarkedFree { first: 5, .. },
    a_used_inode_marked_free: SUMMED, |p| p.debugfs("freei /file") => Finding::InodeMarkedFree { .. },
    a_free_inode_marked_used: SUMMED, |p| p.debugfs("seti <300>") => Finding::InodeMarkedUsed { inode: 300 },
    wrong_free_blocks_in_a_group: SUMMED, |p| p.debugfs("set_bg 0 free_blocks_count 3") => field!("bg_free_blocks_count"),
    wrong_free_inodes_in_a_group: SUMMED, |p| p.debugfs("set_bg 0 free_inodes_count 3") => field!("bg_free_inodes_count"),
    wrong_directories_in_a_group: SUMMED, |p| p.debugfs("set_bg 0 used_dirs_count 90") => field!("bg_used_dirs_count"),
    wrong_free_blocks_in_all: SUMMED, |p| p.debugfs("ssv free_blocks_count 77") => field!("s_free_blocks_count"),
    wrong_free_inodes_in_all: SUMMED, |p| p.debugfs("ssv free_inodes_count 77") => field!("s_free_inodes_count"),
    a_used_inode_beyond_the_used_table: SUMMED, |p| {
        p.debugfs("set_bg 0 itable_unused 400");
    } => Finding::InodeMarkedUsed { .. } | Finding::Entry { why: "an inode that is not in use", .. },
    a_used_group_flagged_as_never_used: SUMMED, |p| p.debugfs("set_bg 0 flags 6") => Finding::UsedUninit { group: 0, .. },
    padding_of_an_inode_bitmap: PLAIN, |p| {
        let bitmap = u64::from(p.le32(p.group_at(0) + 4)) * BLOCK;
        p.patch(bitmap + BLOCK - 1, &[0]);
    } => Finding::Padding { place: Place::InodeBitmap { group: 0 } },
}

// Inodes.
damages! {
    a_wrong_link_count: SUMMED, |p| p.debugfs("sif /linked links_count 5") => Finding::Links { stored: 5, .. },
    a_wrong_link_count_of_a_directory: SUMMED, |p| p.debugfs("sif /dir links_count 7") => Finding::Links { stored: 7, counted: 3, .. },
    a_wrong_count_of_blocks: SUMMED, |p| p.debugfs("sif /file blocks 1234") => field!("i_blocks"),
    a_size_before_the_last_block: SUMMED, |p| p.debugfs("sif /file size 900") => field!("i_size"),
    a_wrong_size_of_a_directory: SUMMED, |p| p.debugfs("sif /dir size 4096") => field!("i_size"),
    a_mode_without_a_type: SUMMED, |p| p.debugfs("sif /file mode 0644") => field!("i_mode"),
    an_impossible_extra_size: PLAIN, |p| p.patch(p.inode_at("/file") + 0x80, &[0xf1, 0]) => field!("i_extra_isize"),
    a_deleted_inode_without_a_time: PLAIN, |p| {
        p.patch(p.inode_at("<800>"), &[0xa4, 0x81]);
    } => field!("i_dtime"),
    a_symlink_shorter_than_its_size: PLAIN, |p| p.patch(p.inode_at("/fast") + 0x2a, &[0]) => Finding::Symlink { .. },
    a_slow_symlink_shorter_than_its_size: PLAIN, |p| p.patch(p.block_at("/slow", 0) + 50, &[0]) => Finding::Symlink { .. },
    two_files_with_the_same_blocks: PLAIN, |p| {
        let map = p.bytes(p.inode_at("/file") + 0x28, 60);
        p.patch(p.inode_at("/other") + 0x28, &map);
    } => Finding::UsedTwice { count: 5, .. },
    a_file_in_the_inode_table: PLAIN, |p| {
        let table = p.bytes(p.group_at(0) + 8, 4);
        p.patch(p.inode_at("/file") + 0x28 + 20, &table);
    } => Finding::UsedTwice { .. },
    an_extent_outside_the_image: PLAIN, |p| p.patch(p.inode_at("/file") + 0x28 + 18, &[1]) => Finding::Outside { .. },
    an_extent_header_without_magic: PLAIN, |p| p.patch(p.inode_at("/file") + 0x28, &[0]) => Finding::Map { .. },
    an_extent_of_no_blocks: PLAIN, |p| p.patch(p.inode_at("/file") + 0x28 + 16, &[0, 0]) => Finding::Map { .. },
    extents_out_of_order: PLAIN, |p| {
        let block = p.extent_block_at("/scattered");
        let (a, b) = (p.bytes(block + 24, 12), p.bytes(block + 36, 12));
        p.patch(block + 24, &[b, a].concat());
    } => Finding::Map { why: "an extent out of order", .. },
    an_index_that_starts_elsewhere: PLAIN, |p| {
        let root = p.inode_at("/scattered") + 0x28;
        p.patch(root + 12 + 12, &(p.le32(root + 12 + 12) + 1).to_le_bytes());
    } => Finding::Map { .. },
    a_directory_with_a_hole: PLAIN, |p| {
        let extent = p.inode_at("/dir") + 0x28 + 12;
        p.patch(extent, &1_u32.to_le_bytes());
    } => Finding::Hole { .. },
}

// Directories.
damages! {
    a_name_of_a_free_inode: SUMMED, |p| p.debugfs("ln <900> /dir/stray") => Finding::Entry { why: "an inode that is not in use", .. },
    a_name_of_a_reserved_inode: SUMMED, |p| p.debugfs("ln <5> /dir/stray") => Finding::Entry { why: "an inode that is reserved", .. },
    a_name_of_an_inode_outside_the_tables: PLAIN, |p| {
        p.patch(p.entry_at(p.block_at("/dir", 0), "child"), &9_999_999_u32.to_le_bytes());
    } => Finding::Entry { why: "an inode outside the tables", .. },
    a_cleared_inode: SUMMED, |p| p.debugfs("clri /file") => Finding::InodeMarkedUsed { .. },
    a_name_too_many: SUMMED, |p| p.debugfs("ln /file /dir/second") => Finding::Links { stored: 1, counted: 2, .. },
    a_file_that_lost_its_name: SUMMED, |p| p.debugfs("unlink /file") => Finding::Nameless { .. },
    a_directory_that_lost_its_name: SUMMED, |p| p.debugfs("unlink /dir/sub") => Finding::Unreachable { .. },
    a_directory_with_two_names: SUMMED, |p| p.debugfs("ln /dir/sub /again") => Finding::Entry { why: "a directory that has a name already", .. },
    a_wrong_parent: PLAIN, |p| p.patch(p.block_at("/dir/sub", 0) + 12, &2_u32.to_le_bytes()) => Finding::Parent { dotdot: 2, .. },
    a_wrong_parent_of_an_indexed_directory: PLAIN, |p| {
        let dir = p.inode("/dir");
        p.patch(p.block_at("/indexed", 0) + 12, &dir.to_le_bytes());
    } => Finding::Parent { parent: 2, .. },
    a_wrong_self: PLAIN, |p| p.patch(p.block_at("/dir/sub", 0), &2_u32.to_le_bytes()) =>
        Finding::Entry { why: "\".\" is not the directory itself", .. },
    directories_in_a_circle: PLAIN, |p| {
        let (dir, sub) = (p.inode("/dir"), p.inode("/dir/sub"));
        p.debugfs("unlink /dir");
        p.debugfs(&format!("ln <{dir}> <{sub}>/circle"));
        p.patch(p.block_at(&format!("<{dir}>"), 0) + 12, &sub.to_le_bytes());
    } => Finding::Unreachable { .. },
    a_name_that_stands_twice: PLAIN, |p| {
        let entry = p.entry_at(p.block_at("/dir", 0), "twin2");
        p.patch(entry + 8, b"twin1");
    } => Finding::Entry { why: "the name stands twice", .. },
    a_name_with_a_slash: PLAIN, |p| {
        let entry = p.entry_at(p.block_at("/dir", 0), "twin2");
        p.patch(entry + 10, b"/");
    } => Finding::Entry { why: "a name with a slash or a zero byte", .. },
    a_wrong_type_in_an_entry: PLAIN, |p| p.patch(p.entry_at(p.block_at("/dir", 0), "child") + 7, &[2]) =>
        Finding::Entry { why: "the file's type is another", .. },
    an_entry_of_a_wrong_length: PLAIN, |p| p.patch(p.entry_at(p.block_at("/dir", 0), "child") + 4, &[7, 0]) =>
        Finding::Record { .. },
    an_entry_that_runs_past_its_block: PLAIN, |p| p.patch(p.entry_at(p.block_at("/dir", 0), "child") + 4, &[0, 4]) =>
        Finding::Record { .. },
    a_directory_block_without_a_checksum: SUMMED, |p| p.patch(p.block_at("/dir", 0) + BLOCK - 5, &[0]) =>
        Finding::Record { why: "the block lacks its checksum", .. },
}

// Indexes of directories.
damages! {
    an_index_with_a_wrong_limit: PLAIN, |p| p.patch(p.block_at("/indexed", 0) + 0x20, &[99, 0]) => Finding::Htree { .. },
    an_index_with_too_many_entries: PLAIN, |p| p.patch(p.block_at("/indexed", 0) + 0x22, &[0xff, 0]) => Finding::Htree { .. },
    an_index_of_an_unknown_hash: PLAIN, |p| p.patch(p.block_at("/indexed", 0) + 0x1c, &[9]) => Finding::Htree { .. },
    an_index_with_hashes_out_of_order: PLAIN, |p| {
        let root = p.block_at("/indexed", 0);
        let (a, b) = (p.bytes(root + 0x28, 4), p.bytes(root + 0x30, 4));
        p.patch(root + 0x28, &b);
        p.patch(root + 0x30, &a);
    } => Finding::Htree { why: "hashes out of order", .. },
    leaves_that_changed_places: PLAIN, |p| {
        let root = p.block_at("/indexed", 0);
        let (a, b) = (p.bytes(root + 0x2c, 4), p.bytes(root + 0x34, 4));
        p.patch(root + 0x2c, &b);
        p.patch(root + 0x34, &a);
    } => Finding::Entry { why: "its hash belongs into another block of the index", .. },
    an_index_that_names_a_block_twice: PLAIN, |p| {
        let root = p.block_at("/indexed", 0);
        p.patch(root + 0x34, &p.bytes(root + 0x2c, 4));
    } => Finding::Htree { why: "a block referred to twice", .. },
    an_index_that_forgets_a_block: PLAIN, |p| {
        let root = p.block_at("/indexed", 0);
        let count = p.bytes(root + 0x22, 1)[0];
        p.patch(root + 0x22, &[count - 1]);
    } => Finding::Htree { why: "nothing refers to the block", .. },
}

// Attributes.
damages! {
    an_attribute_block_with_a_wrong_count: PLAIN, |p| p.patch(p.xattr_block_at("/attributes1") + 4, &[5]) => field!("h_refcount"),
    an_attribute_block_without_magic: PLAIN, |p| p.patch(p.xattr_block_at("/attributes1"), &[1]) => Finding::Xattr { .. },
    an_attribute_with_a_wrong_hash: PLAIN, |p| p.flip(p.xattr_block_at("/attributes1") + 0x20 + 12, 0) =>
        Finding::Xattr { why: "its hash is wrong", .. },
    an_attribute_whose_value_runs_past_the_end: PLAIN, |p| p.patch(p.xattr_block_at("/attributes1") + 0x20 + 2, &[0xfe, 3]) =>
        Finding::Xattr { .. },
    an_attribute_in_an_inode_that_runs_past_its_end: PLAIN, |p| p.patch(p.inode_at("/file") + 128 + 32 + 4 + 2, &[0xf0, 0]) =>
        Finding::Xattr { .. },
    an_attribute_block_outside_the_image: PLAIN, |p| p.patch(p.inode_at("/file") + 0x68, &[0xff; 4]) => Finding::Outside { .. },
}

// Orphans.
damages! {
    an_orphan_file_without_magic: SUMMED, |p| p.patch(p.block_at("<12>", 0) + BLOCK - 8, &[0]) => field!("ob_magic"),
}

/// e2fsck -n passes over these.
#[test]
fn what_e2fsck_overlooks_is_found_too() {
    // (2 TiB: what i_blocks can count of sectors with 32 bits.)
    let long = ["feature ^huge_file", "sif /file size 0x20000000000"];
    let long = (
        &long[..],
        "inode 13: i_size is 2199023255552, which makes no sense",
    );
    for (requests, want) in [
        (
            &["ssv state 3"][..],
            "superblock: s_state is 3, should be 1",
        ),
        (
            &["ssv last_orphan 99999"],
            "orphan inode 99999: outside the tables",
        ),
        (&["ssv last_orphan 5"], "orphan inode 5: a reserved inode"),
        long,
    ] {
        let Some(patient) = Patient::new(&SUMMED) else {
            return;
        };
        for request in requests {
            patient.debugfs(request);
        }
        let report = patient.check();
        let shown: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [want]);
        assert_eq!(report.exit_code(), 4);
    }
}

#[test]
fn an_orphan_that_waits_is_no_error() {
    let Some(patient) = Patient::new(&PLAIN) else {
        return;
    };
    let inode = patient.inode("/file");
    patient.debugfs("unlink /file");
    patient.debugfs(&format!("sif <{inode}> links_count 0"));
    patient.debugfs(&format!("ssv last_orphan {inode}"));
    let report = patient.check();
    assert_eq!(report.findings, [Finding::Orphans { count: 1 }]);
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn what_cannot_be_judged_is_said_so() {
    let Some(patient) = Patient::new(&SUMMED) else {
        return;
    };
    patient.patch(1024 + 0x38, &[0, 0]);
    let report = patient.check();
    assert_eq!(report.findings, [Finding::NotExt4 { magic: 0 }]);
    assert_eq!(report.exit_code(), 8);
    patient.patch(1024 + 0x38, &[0x53, 0xef]);
    patient.flip(1024 + 0x60, 4);
    let report = patient.check();
    assert_eq!(
        report.findings,
        [Finding::Unsupported {
            what: "feature meta_bg".into()
        }]
    );
    assert_eq!(report.exit_code(), 8);
}

#[test]
fn a_report_is_json_with_stable_keys() {
    let Some(patient) = Patient::new(&SUMMED) else {
        return;
    };
    patient.debugfs("sif /linked links_count 5");
    let json: serde_json::Value = serde_json::to_value(patient.check()).unwrap();
    assert_eq!(json["verdict"], "errors");
    assert_eq!(json["journal"], serde_json::Value::Null);
    assert_eq!(json["counts"]["block_size"], 1024);
    let finding = &json["findings"][0];
    assert_eq!(
        (&finding["kind"], &finding["severity"], &finding["stored"]),
        (&"links".into(), &"error".into(), &5.into())
    );
    assert!(
        finding["text"]
            .as_str()
            .unwrap()
            .contains("link count is 5")
    );
}

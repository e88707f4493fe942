//! Which part of an ext4 image a block is, and what a change of it means.

use std::collections::BTreeMap;

use crate::device::Disk;
use crate::ext4::dirent;
use crate::ext4::extent::{Items, NodeRef};
use crate::ext4::group::Group;
use crate::ext4::inode::Inode;
use crate::ext4::superblock::Superblock;
use crate::ext4::xattr::AttributeBlock;
use crate::ext4::{bitmap, superblock};
use crate::units::{BlockNo, GroupNo, InodeNo, Time};

/// The fixed parts of an image.
pub struct Chart {
    sb: Superblock,
    /// Bitmaps and tables by their first block; empty if only a superblock is
    /// known.
    parts: BTreeMap<BlockNo, Part>,
}

/// A part of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The block with the superblock.
    Superblock,
    /// A block of group descriptors, with the first group in it.
    Descriptors(GroupNo),
    /// A group's block bitmap.
    BlockBitmap(GroupNo),
    /// A group's inode bitmap.
    InodeBitmap(GroupNo),
    /// A block of a group's inode table.
    InodeTable(GroupNo),
    /// Anything that files own.
    Contents,
}

impl Chart {
    /// Of an image; what can't be read of its groups is left out.
    pub fn read(image: &dyn Disk, sb: Superblock) -> Chart {
        let mut parts = BTreeMap::new();
        let size = u64::from(sb.block_size);
        for number in 0..sb.group_count() {
            let group = GroupNo(number);
            let (block, at) = sb.descriptor_place(group);
            let mut raw = vec![0; usize::from(sb.desc_size)];
            if image.read_at(&mut raw, block.0 * size + at as u64).is_err() {
                continue;
            }
            if let Ok(found) = Group::decode(&raw, &sb, group) {
                parts.insert(found.block_bitmap, Part::BlockBitmap(group));
                parts.insert(found.inode_bitmap, Part::InodeBitmap(group));
                parts.insert(found.inode_table, Part::InodeTable(group));
            }
        }
        Chart { sb, parts }
    }

    /// Of an image that isn't there.
    pub fn without_image(sb: Superblock) -> Chart {
        let parts = BTreeMap::new();
        Chart { sb, parts }
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> usize {
        self.sb.block_size as usize
    }

    /// The block with the superblock.
    pub fn superblock_block(&self) -> BlockNo {
        self.sb.home().0
    }

    /// Which part a block is, and the first block of that part.
    pub fn part(&self, block: BlockNo) -> (Part, BlockNo) {
        if block == self.sb.home().0 {
            return (Part::Superblock, block);
        }
        let per_block = self.sb.block_size / u32::from(self.sb.desc_size);
        let first = self.sb.descriptor_place(GroupNo(0)).0;
        if let Some(n) = block.since(first)
            && n < u64::from(self.sb.descriptor_blocks())
        {
            return (Part::Descriptors(GroupNo(n as u32 * per_block)), block);
        }
        match self.parts.range(..=block).next_back() {
            Some((at, part @ Part::InodeTable(_))) => match block.since(*at) {
                Some(n) if n < u64::from(self.sb.inode_table_blocks()) => (*part, *at),
                _ => (Part::Contents, block),
            },
            Some((at, part)) if *at == block => (*part, *at),
            _ => (Part::Contents, block),
        }
    }

    /// What a block is, in words.
    pub fn name(&self, block: BlockNo, bytes: Option<&[u8]>) -> String {
        match (self.part(block).0, bytes) {
            (Part::Superblock, _) => "superblock".to_owned(),
            (Part::Descriptors(first), _) => format!("group descriptors from {first}"),
            (Part::BlockBitmap(group), _) => format!("block bitmap of group {group}"),
            (Part::InodeBitmap(group), _) => format!("inode bitmap of group {group}"),
            (Part::InodeTable(group), _) => format!("inode table of group {group}"),
            (Part::Contents, Some(bytes)) => match self.kind(block, bytes) {
                Kind::Extents => "extent tree",
                Kind::Attributes => "extended attributes",
                Kind::Entries => "directory",
                Kind::Data => "contents",
            }
            .to_owned(),
            (Part::Contents, None) => "contents".to_owned(),
        }
    }

    /// What changed between two versions of a block; all of the later one if
    /// the earlier one isn't known.
    pub fn changes(&self, block: BlockNo, before: Option<&[u8]>, after: &[u8]) -> Vec<String> {
        match self.part(block) {
            (Part::Superblock, _) => self.superblock(before, after),
            (Part::Descriptors(first), _) => self.descriptors(first, before, after),
            (Part::BlockBitmap(group), _) => {
                let (first, count) = (self.sb.group_start(group).0, self.sb.group_blocks(group));
                bits("block", first, count, before, after)
            }
            (Part::InodeBitmap(group), _) => {
                let first = u64::from(self.sb.inode_at(group, 0).0);
                bits("inode", first, self.sb.inodes_per_group, before, after)
            }
            (Part::InodeTable(group), table) => self.inodes(group, table, block, before, after),
            (Part::Contents, _) => {
                let kind = self.kind(block, after);
                let before = before.filter(|before| self.kind(block, before) == kind);
                let items = |bytes: &[u8]| match kind {
                    Kind::Extents => self.extents(bytes),
                    Kind::Attributes => self.attributes(block, bytes),
                    Kind::Entries => entries(bytes),
                    Kind::Data => Vec::new(),
                };
                compare(before.map(items), items(after))
            }
        }
    }

    /// What the bytes of a block that files own look like.
    fn kind(&self, block: BlockNo, bytes: &[u8]) -> Kind {
        if NodeRef::open(bytes, InodeNo(0), None).is_ok_and(|node| node.decode(&self.sb).is_ok()) {
            return Kind::Extents;
        }
        if AttributeBlock::decode(bytes, block, None).is_ok() {
            return Kind::Attributes;
        }
        let mut named = 0;
        let whole = dirent::records(bytes).all(|record| {
            record
                .and_then(|record| record.checked_entry())
                .is_ok_and(|entry| {
                    named += u32::from(entry.is_some());
                    entry.is_none_or(|entry| {
                        entry.kind <= 7 && entry.inode.0 <= self.sb.inodes_count
                    })
                })
        });
        match whole && named > 0 {
            true => Kind::Entries,
            false => Kind::Data,
        }
    }

    fn superblock(&self, before: Option<&[u8]>, after: &[u8]) -> Vec<String> {
        let at = self.sb.home().1;
        let items = |bytes: &[u8]| {
            let Some(raw) = bytes.get(at..at + superblock::SIZE) else {
                return Vec::new();
            };
            let (blocks, inodes) = superblock::free_counts(raw);
            vec![
                format!("free blocks {blocks}"),
                format!("free inodes {inodes}"),
                format!("last orphan {}", superblock::last_orphan(raw)),
            ]
        };
        compare(before.map(items), items(after))
    }

    fn descriptors(&self, first: GroupNo, before: Option<&[u8]>, after: &[u8]) -> Vec<String> {
        let size = usize::from(self.sb.desc_size);
        let read = |bytes: &[u8], n: usize| {
            let group = GroupNo(first.0 + n as u32);
            let raw = bytes.get(n * size..(n + 1) * size)?;
            Group::decode(raw, &self.sb, group).ok()
        };
        let count = (after.len() / size).min((self.sb.group_count() - first.0) as usize);
        let mut lines = Vec::new();
        for n in 0..count {
            let now = read(after, n);
            let was = before.and_then(|before| read(before, n));
            let Some(now) = now.filter(|now| was.as_ref() != Some(now)) else {
                continue;
            };
            let mut list = Fields::default();
            let was = |get: &dyn Fn(&Group) -> u64| was.as_ref().map(get);
            let mut field = |name: &str, get: &dyn Fn(&Group) -> u64| {
                list.number(name, was(get), get(&now));
            };
            field("free blocks", &|group| group.free_blocks.into());
            field("free inodes", &|group| group.free_inodes.into());
            field("directories", &|group| group.used_dirs.into());
            field("never used inodes", &|group| group.itable_unused.into());
            field("flags", &|group| group.flags.into());
            list.into_line(&format!("group {}", first.0 + n as u32), &mut lines);
        }
        lines
    }

    fn inodes(
        &self,
        group: GroupNo,
        table: BlockNo,
        block: BlockNo,
        before: Option<&[u8]>,
        after: &[u8],
    ) -> Vec<String> {
        let size = usize::from(self.sb.inode_size);
        let per_block = (after.len() / size) as u32;
        let first = block.since(table).unwrap_or(0) as u32 * per_block;
        let mut lines = Vec::new();
        for n in 0..per_block {
            let number = self.sb.inode_at(group, first + n);
            let range = n as usize * size..(n as usize + 1) * size;
            let now = &after[range.clone()];
            let was = before.and_then(|before| before.get(range));
            if was == Some(now) || (was.is_none() && now.iter().all(|byte| *byte == 0)) {
                continue;
            }
            let was = was.and_then(|was| Inode::decode(was, number, &self.sb).ok());
            match Inode::decode(now, number, &self.sb) {
                Ok(now) => inode(was.as_ref(), &now, &self.sb, &mut lines),
                Err(_) if now.iter().all(|byte| *byte == 0) => {
                    lines.push(format!("inode {number}: zeros"));
                }
                Err(error) => lines.push(format!("inode {number}: {error}")),
            }
        }
        lines
    }

    fn extents(&self, bytes: &[u8]) -> Vec<String> {
        let node = NodeRef::open(bytes, InodeNo(0), None).and_then(|node| node.decode(&self.sb));
        match node.map(|node| node.items) {
            Ok(Items::Extents(list)) => (list.iter())
                .map(|extent| {
                    let unwritten = if extent.unwritten { ", unwritten" } else { "" };
                    format!(
                        "file blocks {} to {} at {}{unwritten}",
                        extent.file,
                        extent.end() - 1,
                        extent.block
                    )
                })
                .collect(),
            Ok(Items::Children(list)) => (list.iter())
                .map(|index| format!("file blocks from {} below {}", index.file, index.child))
                .collect(),
            Err(_) => Vec::new(),
        }
    }

    fn attributes(&self, block: BlockNo, bytes: &[u8]) -> Vec<String> {
        let Ok(found) = AttributeBlock::decode(bytes, block, None) else {
            return Vec::new();
        };
        let mut lines = vec![format!("used by {} inodes", found.refcount)];
        lines.extend(found.attributes.iter().map(|attribute| {
            let name = attribute.name.full().unwrap_or_default();
            format!("{}, {} bytes", name.escape_ascii(), attribute.value.len())
        }));
        lines
    }
}

/// What a block that files own holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Extents,
    Attributes,
    Entries,
    Data,
}

fn entries(bytes: &[u8]) -> Vec<String> {
    let entries = dirent::entries(bytes).flatten();
    entries
        .map(|entry| format!("{} is inode {}", entry.name.escape_ascii(), entry.inode))
        .collect()
}

/// What came and what went; everything, if nothing is known to compare with.
fn compare(before: Option<Vec<String>>, after: Vec<String>) -> Vec<String> {
    let Some(before) = before else {
        return after;
    };
    let gone = before.iter().filter(|item| !after.contains(item));
    let came = after.iter().filter(|item| !before.contains(item));
    gone.map(|item| format!("- {item}"))
        .chain(came.map(|item| format!("+ {item}")))
        .collect()
}

/// Runs of bits that changed.
fn bits(what: &str, first: u64, count: u32, before: Option<&[u8]>, after: &[u8]) -> Vec<String> {
    let Some(before) = before else {
        return vec![format!("{} {what}s in use", bitmap::ones(after, count))];
    };
    let change = |at: u32| match (bitmap::get(before, at), bitmap::get(after, at)) {
        (false, true) => Some("taken"),
        (true, false) => Some("freed"),
        _ => None,
    };
    let mut lines = Vec::new();
    let mut at = 0;
    while at < count {
        let Some(how) = change(at) else {
            at += 1;
            continue;
        };
        let end = (at..count)
            .find(|n| change(*n) != Some(how))
            .unwrap_or(count);
        lines.push(match end - at {
            1 => format!("{what} {} {how}", first + u64::from(at)),
            _ => format!(
                "{what}s {} to {} {how}",
                first + u64::from(at),
                first + u64::from(end) - 1
            ),
        });
        at = end;
    }
    lines
}

/// Fields of one thing that changed.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn text(&mut self, name: &str, before: Option<String>, after: String) {
        match before {
            Some(before) if before == after => {}
            Some(before) => self.0.push(format!("{name} {before} → {after}")),
            None => self.0.push(format!("{name} {after}")),
        }
    }
    fn number(&mut self, name: &str, before: Option<u64>, after: u64) {
        self.text(name, before.map(|n| n.to_string()), after.to_string());
    }
    fn into_line(self, of: &str, lines: &mut Vec<String>) {
        if !self.0.is_empty() {
            lines.push(format!("{of}: {}", self.0.join(", ")));
        }
    }
}

fn inode(before: Option<&Inode>, after: &Inode, sb: &Superblock, lines: &mut Vec<String>) {
    let mut list = Fields::default();
    let octal = |inode: &Inode| format!("{:06o}", inode.mode);
    list.text("mode", before.map(octal), octal(after));
    let mut number = |name: &str, get: &dyn Fn(&Inode) -> u64| {
        list.number(name, before.map(get), get(after));
    };
    number("owner", &|inode| inode.uid.into());
    number("group", &|inode| inode.gid.into());
    number("size", &|inode| inode.size);
    number("links", &|inode| inode.links.into());
    number("blocks", &|inode| inode.blocks);
    number("attribute block", &|inode| inode.file_acl);
    number("dtime", &|inode| inode.dtime.into());
    number("generation", &|inode| inode.generation.into());
    let hex = |inode: &Inode| format!("{:#x}", inode.flags);
    list.text("flags", before.map(hex), hex(after));
    let mut time = |name: &str, get: &dyn Fn(&Inode) -> Time| {
        let text = |inode: &Inode| stamp(get(inode));
        list.text(name, before.map(text), text(after));
    };
    time("atime", &|inode| inode.atime);
    time("mtime", &|inode| inode.mtime);
    time("ctime", &|inode| inode.ctime);
    time("crtime", &|inode| inode.crtime);
    list.into_line(&format!("inode {}", after.number), lines);
    if before.is_none_or(|before| before.block != after.block) {
        let root = |inode: &Inode| {
            let chart = Chart::without_image(sb.clone());
            chart.extents(&inode.block)
        };
        for line in compare(before.map(root), root(after)) {
            lines.push(format!("inode {}: {line}", after.number));
        }
    }
}

/// Seconds and nanoseconds: times of inodes are data here, to be compared.
fn stamp(time: Time) -> String {
    format!("{}.{:09}", time.secs, time.nanos)
}

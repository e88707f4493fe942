//! Which part of an ext4 image a block is, and what a change of it means.

use std::collections::BTreeMap;

use crate::device::Disk;
use crate::ext4::bytes::le32;
use crate::ext4::extent::{Items, NodeRef};
use crate::ext4::group::Group;
use crate::ext4::htree::{self, Layout, Map};
use crate::ext4::inode::{Inode, flag, mode};
use crate::ext4::superblock::Superblock;
use crate::ext4::xattr::{self, Attribute, AttributeBlock};
use crate::ext4::{bitmap, dirent, superblock};
use crate::units::{BlockNo, GroupNo, InodeNo, Time};

/// Characters of a line that has a value in it.
const LONGEST: usize = 200;

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
        let mut chart = Chart::without_image(sb);
        let size = u64::from(chart.sb.block_size);
        for number in 0..chart.sb.group_count() {
            let group = GroupNo(number);
            let (block, at) = chart.sb.descriptor_place(group);
            let mut raw = vec![0; usize::from(chart.sb.desc_size)];
            if image.read_at(&mut raw, block.0 * size + at as u64).is_err() {
                continue;
            }
            chart.place(group, &raw);
        }
        chart
    }

    /// Of an image that isn't there.
    pub fn without_image(sb: Superblock) -> Chart {
        let parts = BTreeMap::new();
        Chart { sb, parts }
    }

    /// The blocks of group descriptors.
    pub fn descriptor_blocks(&self) -> impl Iterator<Item = BlockNo> {
        let first = self.sb.descriptor_place(GroupNo(0)).0.0;
        (first..first + u64::from(self.sb.descriptor_blocks())).map(BlockNo)
    }

    /// Takes the places of bitmaps and tables, which never change, from a block
    /// of group descriptors; any other one tells nothing.
    pub fn learn(&mut self, block: BlockNo, bytes: &[u8]) {
        let Part::Descriptors(first) = self.part(block).0 else {
            return;
        };
        let groups = first.0..self.sb.group_count();
        let size = usize::from(self.sb.desc_size);
        for (group, raw) in groups.zip(bytes.chunks_exact(size)) {
            self.place(GroupNo(group), raw);
        }
    }

    fn place(&mut self, group: GroupNo, descriptor: &[u8]) {
        if let Ok(found) = Group::decode(descriptor, &self.sb, group) {
            let parts = &mut self.parts;
            parts.insert(found.block_bitmap, Part::BlockBitmap(group));
            parts.insert(found.inode_bitmap, Part::InodeBitmap(group));
            parts.insert(found.inode_table, Part::InodeTable(group));
        }
    }

    /// Whether the places of all bitmaps and tables are known.
    pub fn is_whole(&self) -> bool {
        self.parts.len() == 3 * self.sb.group_count() as usize
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
                Kind::Index(_) => "directory index",
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
                    Kind::Attributes => shared(block, bytes),
                    Kind::Index(layout) => index(bytes, layout),
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
        let layouts = [Layout::Root, Layout::Node];
        if let Some(layout) = layouts.into_iter().find(|it| self.is_index(bytes, *it)) {
            return Kind::Index(layout);
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

    /// Whether a directory's block has a map of hashes, by all that its bytes say.
    fn is_index(&self, bytes: &[u8], layout: Layout) -> bool {
        let seed = self.sb.has_metadata_csum().then_some(0);
        let first = dirent::records(bytes).next().and_then(Result::ok);
        let begins = match layout {
            Layout::Root => first.is_some() && htree::root(bytes).is_ok(),
            Layout::Node => first.is_some_and(|it| it.entry.is_none() && it.len == bytes.len()),
        };
        begins
            && Map::unsummed(bytes, layout, seed)
                .is_ok_and(|map| map.limit() == layout.limit(bytes.len(), seed))
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

    pub(super) fn extents(&self, bytes: &[u8]) -> Vec<String> {
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

    /// The superblock.
    pub(super) fn sb(&self) -> &Superblock {
        &self.sb
    }
}

/// What a block that files own holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Extents,
    Attributes,
    Index(Layout),
    Entries,
    Data,
}

fn entries(bytes: &[u8]) -> Vec<String> {
    let entries = dirent::entries(bytes).flatten();
    entries
        .map(|entry| format!("{} is inode {}", entry.name.escape_ascii(), entry.inode))
        .collect()
}

/// The map of hashes, and of the root what else it has.
fn index(bytes: &[u8], layout: Layout) -> Vec<String> {
    let mut lines = entries(bytes);
    if let Some(root) = htree::root(bytes).ok().filter(|_| layout == Layout::Root) {
        let (version, levels) = (root.hash_version, root.indirect_levels);
        lines.push(format!("hash version {version}, {levels} levels below"));
    }
    let Ok(map) = Map::unsummed(bytes, layout, None) else {
        return lines;
    };
    lines.extend(map.slots().enumerate().map(|(n, slot)| match n {
        0 => format!("lowest hashes in file block {}", slot.child),
        _ => format!(
            "hashes from {:#010x} in file block {}",
            slot.hash, slot.child
        ),
    }));
    lines
}

/// A block of attributes that inodes may share.
fn shared(block: BlockNo, bytes: &[u8]) -> Vec<String> {
    let Ok(found) = AttributeBlock::decode(bytes, block, None) else {
        return Vec::new();
    };
    let mut lines = vec![format!("used by {} inodes", found.refcount)];
    lines.extend(found.attributes.iter().map(attribute));
    lines
}

fn attribute(attribute: &Attribute) -> String {
    let (name, value) = (&attribute.name, &attribute.value);
    let full = name.full();
    let full = full.unwrap_or_else(|| [b"?.", name.rest.as_slice()].concat());
    format!(
        "{}, {} bytes: \"{}\"",
        full.escape_ascii(),
        value.len(),
        value.escape_ascii()
    )
}

/// What came and what went; everything, if nothing is known to compare with.
fn compare(before: Option<Vec<String>>, after: Vec<String>) -> Vec<String> {
    let Some(before) = before else {
        return after.into_iter().map(brief).collect();
    };
    let gone = before.iter().filter(|item| !after.contains(item));
    let came = after.iter().filter(|item| !before.contains(item));
    gone.map(|item| format!("- {item}"))
        .chain(came.map(|item| format!("+ {item}")))
        .map(brief)
        .collect()
}

/// A line without the end of a long value.
fn brief(mut line: String) -> String {
    if let Some((at, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(at);
        line.push('…');
    }
    line
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
    let body = |inode: &Inode| body(inode, sb);
    for line in compare(before.map(body), body(after)) {
        lines.push(format!("inode {}: {line}", after.number));
    }
}

/// What an inode has besides its fields: where its data are or what stands in
/// their place, and attributes.
fn body(inode: &Inode, sb: &Superblock) -> Vec<String> {
    let mut items = match inode.kind() {
        mode::CHAR | mode::BLOCK => vec![format!("device {}", device_number(inode.device()))],
        mode::FIFO | mode::SOCKET => Vec::new(),
        _ if inode.has(flag::EXTENTS) => Chart::without_image(sb.clone()).extents(&inode.block),
        mode::SYMLINK if inode.size < inode.block.len() as u64 => {
            let target = &inode.block[..inode.size as usize];
            let line = (!target.is_empty()).then(|| target_line(target));
            line.into_iter().collect()
        }
        _ => mapped(&inode.block),
    };
    let attributes = xattr::decode_inode(&inode.tail).unwrap_or_default();
    items.extend(attributes.iter().map(attribute));
    items
}

/// A map of twelve blocks and three trees.
fn mapped(map: &[u8; 60]) -> Vec<String> {
    let pointers = (0..15).map(|n| (n, le32(map, 4 * n)));
    pointers
        .filter(|(_, block)| *block != 0)
        .map(|(n, block)| match n {
            0..12 => format!("file block {n} at {block}"),
            _ => format!("file blocks behind {} levels at {block}", n - 11),
        })
        .collect()
}

/// Where a symlink leads.
pub(super) fn target_line(target: &[u8]) -> String {
    brief(format!("target {}", target.escape_ascii()))
}

/// A device's number, as makedev(3) gives it, as `major:minor`.
pub fn device_number(rdev: u32) -> String {
    format!("{}:{}", libc::major(rdev.into()), libc::minor(rdev.into()))
}

/// Seconds and nanoseconds: times of inodes are data here, to be compared.
pub(super) fn stamp(time: Time) -> String {
    format!("{}.{:09}", time.secs, time.nanos)
}

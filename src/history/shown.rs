//! A record whole: every change of a block that it makes.

use std::collections::{BTreeMap, BTreeSet};

use super::chart::{self, Chart};
use super::fragment::Fragments;
use crate::journal::ranges::Ranges;
use crate::journal::record::Operation;
use crate::journal::redo::Redo;
use crate::journal::{Op, Record};
use crate::log::{self, Kind, Place, Survey};
use crate::units::{BlockNo, Lsn};

/// A run of blocks that a record changes in one way.
#[derive(Clone, Debug)]
pub struct Change {
    /// The first block, and how many.
    pub block: BlockNo,
    /// How many.
    pub count: u64,
    /// What is done: `zeros`, `image`, `edit`, `put`, `patch` or `free`; with
    /// several, in their order.
    pub how: Vec<&'static str>,
    /// What it is, in words.
    pub what: String,
    /// In ext4's terms: fields, entries and bits that changed.
    pub details: Vec<String>,
    /// The bytes that it changes: offset from the first block's beginning,
    /// before (if an earlier record tells it), after.
    pub bytes: Vec<Bytes>,
}

/// A range of a block's bytes.
#[derive(Clone, Debug)]
pub struct Bytes {
    /// Offset from the first block's beginning.
    pub at: usize,
    /// What stood there, as far as an earlier record tells.
    pub before: Option<Vec<u8>>,
    /// What stands there then.
    pub after: Vec<u8>,
}

/// What the blocks were before a record, as far as earlier records in the
/// journal tell, then what the record makes of them.
struct Blocks<'c> {
    chart: &'c Chart,
    wanted: BTreeSet<BlockNo>,
    known: BTreeMap<BlockNo, Vec<u8>>,
}

impl Blocks<'_> {
    /// Does a record again, on the blocks that are wanted.
    fn apply(&mut self, redo: &Redo, data: Option<&Place>) {
        let size = self.chart.block_size();
        let read = |from: usize, len: usize| {
            let place = data.filter(|place| from + len <= place.len())?;
            let mut bytes = vec![0; len];
            place.read(from, &mut bytes).ok().map(|()| bytes)
        };
        match redo {
            Redo::Zeros { block } => self.put(*block, Some(vec![0; size])),
            Redo::Image { block, bytes } => {
                self.put(*block, Some(bytes.clone()).filter(|b| b.len() == size));
            }
            Redo::Put { first, count, from } => {
                let end = BlockNo(first.0.saturating_add((*count).into()));
                let wanted: Vec<BlockNo> = self.wanted.range(*first..end).copied().collect();
                for block in wanted {
                    let n = (block.0 - first.0) as usize; // a run's blocks: 32 bits
                    self.put(block, read(*from as usize + n * size, size));
                }
            }
            Redo::Edit { block, ranges } => {
                for (at, bytes) in ranges.iter() {
                    self.edit(*block, at, bytes);
                }
            }
            Redo::Patch {
                block,
                offset,
                from,
                len,
            } => match read(*from as usize, *len as usize) {
                Some(bytes) => self.edit(*block, usize::from(*offset), &bytes),
                None => self.put(*block, None),
            },
            Redo::Free { first, count } => {
                let end = BlockNo(first.0.saturating_add(*count));
                let gone: Vec<BlockNo> = self.known.range(*first..end).map(|(b, _)| *b).collect();
                for block in gone {
                    self.known.remove(&block);
                }
            }
        }
    }

    fn put(&mut self, block: BlockNo, bytes: Option<Vec<u8>>) {
        match bytes.filter(|_| self.wanted.contains(&block)) {
            Some(bytes) => drop(self.known.insert(block, bytes)),
            None => drop(self.known.remove(&block)),
        }
    }

    fn edit(&mut self, block: BlockNo, at: usize, bytes: &[u8]) {
        if let Some(known) = self.known.get_mut(&block)
            && let Some(range) = known.get_mut(at..at + bytes.len())
        {
            range.copy_from_slice(bytes);
        }
    }
}

/// Every change of an operation's record; `record` and `data` are its own.
pub fn changes(
    survey: &Survey,
    chart: &Chart,
    lsn: Lsn,
    record: &Record,
    data: Option<&Place>,
) -> Vec<Change> {
    let Record::Operation(operation) = record else {
        return Vec::new();
    };
    let single = |redo: &&Redo| !matches!(redo, Redo::Free { .. } | Redo::Put { .. });
    let mut blocks = Blocks {
        chart,
        wanted: (operation.redo.iter())
            .filter(single)
            .map(|redo| redo.blocks().0)
            .collect(),
        known: BTreeMap::new(),
    };
    earlier(survey, lsn, &mut blocks);
    let before = blocks.known.clone();
    for redo in &operation.redo {
        blocks.apply(redo, data);
    }
    let mut changes: Vec<Change> = Vec::new();
    for redo in &operation.redo {
        let (block, count) = redo.blocks();
        let how = how(redo);
        if !single(&redo) {
            let (details, bytes) = match put(redo, data, chart.block_size()) {
                Ok(bytes) => (Vec::new(), bytes),
                Err(error) => (vec![error.to_string()], Vec::new()),
            };
            changes.push(Change {
                block,
                count,
                how: vec![how],
                what: run_of(&operation.op, redo, chart.block_size()),
                details,
                bytes,
            });
            continue;
        }
        let same = |change: &&mut Change| change.block == block && change.count == 1;
        if let Some(change) = changes.iter_mut().find(same) {
            change.how.push(how);
            continue;
        }
        let (was, now) = (before.get(&block), blocks.known.get(&block));
        let was = was.map(Vec::as_slice);
        let any = now.map(Vec::as_slice);
        let (what, details) = match (patched(operation, block), any) {
            (Some(what), _) => (what, Vec::new()),
            (None, Some(now)) => linked(&operation.op, now)
                .unwrap_or_else(|| (chart.name(block, any), chart.changes(block, was, now))),
            (None, None) => {
                let edits = edits(&operation.redo, block);
                let (name, details) = Fragments::of(edits, chart.block_size()).tell(chart, block);
                let name = name.map(str::to_owned);
                (name.unwrap_or_else(|| chart.name(block, None)), details)
            }
        };
        changes.push(Change {
            block,
            count: 1,
            how: vec![how],
            what,
            details,
            bytes: match patches(&operation.redo, block, data) {
                Some(bytes) if any.is_none() => bytes,
                _ => ranges(&operation.redo, block, was, any),
            },
        });
    }
    changes
}

/// Finds the parts of an image that is not here, by what the journal has of its
/// group descriptors.
pub fn place_parts(survey: &Survey, chart: &mut Chart) {
    let mut blocks = Blocks {
        chart,
        wanted: chart.descriptor_blocks().collect(),
        known: BTreeMap::new(),
    };
    earlier(survey, Lsn(u64::MAX), &mut blocks);
    for (block, bytes) in blocks.known {
        chart.learn(block, &bytes);
    }
}

/// Goes through the records before this one.
fn earlier(survey: &Survey, lsn: Lsn, blocks: &mut Blocks<'_>) {
    let mut frames = survey.frames(Lsn(1));
    while let Some((at, frame)) = frames.next_numbered() {
        if at >= lsn {
            break;
        }
        let understood = match frame {
            Ok(frame) if frame.kind == Kind::Mark => continue,
            Ok(frame) => Record::decode(&frame.meta).map(|record| (record, frame.data)),
            Err(_) => Err("it can't be read".into()),
        };
        match understood {
            Ok((Record::Operation(operation), data)) => {
                for redo in &operation.redo {
                    blocks.apply(redo, data.as_ref());
                }
            }
            Ok((Record::Session(base) | Record::Checkpoint(base), _))
                if !base.pinned.is_empty() =>
            {
                blocks.put(blocks.chart.superblock_block(), Some(base.pinned));
            }
            Ok(_) => {}
            // It may have changed anything.
            Err(_) => blocks.known.clear(),
        }
    }
}

fn how(redo: &Redo) -> &'static str {
    match redo {
        Redo::Zeros { .. } => "zeros",
        Redo::Image { .. } => "image",
        Redo::Edit { .. } => "edit",
        Redo::Put { .. } => "put",
        Redo::Patch { .. } => "patch",
        Redo::Free { .. } => "free",
    }
}

/// File data that a write puts into part of a block.
fn patched(operation: &Operation, block: BlockNo) -> Option<String> {
    let Op::Write { inode, offset, .. } = &operation.op else {
        return None;
    };
    operation.redo.iter().find_map(|redo| match redo {
        Redo::Patch {
            block: at,
            from,
            len,
            ..
        } if *at == block => {
            let start = offset.saturating_add(u64::from(*from));
            let end = start.saturating_add(u64::from(*len));
            Some(format!("data of inode {inode}, bytes {start} to {end}"))
        }
        _ => None,
    })
}

/// A block with nothing but the target of a symlink that is made.
fn linked(op: &Op, block: &[u8]) -> Option<(String, Vec<String>)> {
    let Op::Create { inode, target, .. } = op else {
        return None;
    };
    let rest = block.strip_prefix(target.as_slice())?;
    let is_target = !target.is_empty() && rest.iter().all(|byte| *byte == 0);
    let what = format!("target of symlink inode {inode}");
    is_target.then(|| (what, vec![chart::target_line(target)]))
}

/// What a record's edits of a block give.
fn edits(redo: &[Redo], block: BlockNo) -> impl Iterator<Item = (usize, &[u8])> {
    let given = redo.iter().filter(move |redo| redo.blocks().0 == block);
    let ranges = given.filter_map(|redo| match redo {
        Redo::Edit { ranges, .. } => Some(ranges),
        _ => None,
    });
    ranges.flat_map(Ranges::iter)
}

/// The data that are put into part of a block, if they are.
fn patches(redo: &[Redo], block: BlockNo, data: Option<&Place>) -> Option<Vec<Bytes>> {
    redo.iter().find_map(|redo| match redo {
        Redo::Patch {
            block: of,
            offset,
            from,
            len,
        } if *of == block => {
            let (from, len) = (*from as usize, *len as usize);
            let place = data.filter(|place| from + len <= place.len())?;
            let mut after = vec![0; len];
            place.read(from, &mut after).ok()?;
            let (at, before) = (usize::from(*offset), None);
            Some(vec![Bytes { at, before, after }])
        }
        _ => None,
    })
}

/// The data that are put into whole blocks.
fn put(redo: &Redo, data: Option<&Place>, block_size: usize) -> log::Result<Vec<Bytes>> {
    let (Redo::Put { count, from, .. }, Some(place)) = (redo, data) else {
        return Ok(Vec::new());
    };
    let from = *from as usize;
    let len = (*count as usize).saturating_mul(block_size);
    let len = len.min(place.len().saturating_sub(from));
    let mut after = vec![0; len];
    if len > 0 {
        place.read(from, &mut after)?;
    }
    let (at, before) = (0, None);
    Ok(vec![Bytes { at, before, after }])
}

/// What a record makes of a block, in words.
pub fn what(chart: &Chart, record: &Record, block: BlockNo) -> Option<String> {
    let Record::Operation(operation) = record else {
        return None;
    };
    let within = |redo: &&Redo| {
        let (first, count) = redo.blocks();
        block.since(first).is_some_and(|n| n < count)
    };
    let redo = operation.redo.iter().rfind(within)?;
    Some(match redo {
        Redo::Put { first, from, .. } => {
            let n = block.since(*first).unwrap_or(0) as u32;
            let size = chart.block_size() as u32;
            let alone = Redo::Put {
                first: block,
                count: 1,
                from: from.saturating_add(n.saturating_mul(size)),
            };
            run_of(&operation.op, &alone, chart.block_size())
        }
        Redo::Image { bytes, .. } => chart.name(block, Some(bytes)),
        _ => patched(operation, block).unwrap_or_else(|| chart.name(block, None)),
    })
}

/// What a run of blocks is.
fn run_of(op: &Op, redo: &Redo, block_size: usize) -> String {
    match (op, redo) {
        (Op::Write { inode, offset, .. }, Redo::Put { count, from, .. }) => {
            let start = offset.saturating_add(u64::from(*from));
            let len = u64::from(*count) * block_size as u64;
            format!(
                "data of inode {inode}, bytes {start} to {}",
                start.saturating_add(len)
            )
        }
        (_, Redo::Free { .. }) => "belongs to nobody any more".to_owned(),
        _ => "data".to_owned(),
    }
}

/// The bytes of a block that differ, or that the record gives.
fn ranges(redo: &[Redo], block: BlockNo, was: Option<&[u8]>, now: Option<&[u8]>) -> Vec<Bytes> {
    match (was, now) {
        (Some(was), Some(now)) => (crate::journal::redo::differences(was, now).iter())
            .map(|(at, after)| Bytes {
                at,
                before: was.get(at..at + after.len()).map(<[u8]>::to_vec),
                after: after.to_vec(),
            })
            .collect(),
        (None, Some(now)) => vec![Bytes {
            at: 0,
            before: None,
            after: now.to_vec(),
        }],
        (_, None) => edits(redo, block)
            .map(|(at, after)| Bytes {
                at,
                before: None,
                after: after.to_vec(),
            })
            .collect(),
    }
}

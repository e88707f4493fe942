//! A block index: which records of a segment touch which blocks.
//!
//! To see one block as of some record, only the records since it was last
//! written whole are needed. The index names them, so that a view of a past
//! moment opens without reading what lies in between.
//!
//! It is disposable: made from the segment's records at any time. `FORMAT.md`
//! has the bytes of the file.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::codec::Flaw;
use super::record::Record;
use super::redo::Redo;
use super::{Error, Result};
use crate::log::{Frame, Kind};
use crate::units::{BlockNo, Lsn};

const MAGIC: [u8; 8] = *b"jfblocks";
const VERSION: u32 = 1;
const HEADER: usize = 48;
const KEY: usize = 16;

/// Longer runs of blocks are cut, so that who looks for a block knows how far
/// before it a run may begin.
const LONGEST: u64 = 256;

/// Runs that one segment's records touch, at most: each takes memory, and a
/// few forged bytes free more blocks than there are.
const MOST: usize = 1 << 22;

/// How a record touches a block; the greater counts if it does so twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Touch {
    /// Part of it changes.
    Edit = 0,
    /// It belongs to nobody any more.
    Free = 1,
    /// All of it is written.
    Whole = 2,
}

/// Which records of a segment touch which blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockIndex {
    base: Lsn,
    last: Lsn,
    salt: u64,
    /// By first block and count.
    runs: Vec<Run>,
    /// For each run, the records that touch it, as in the file.
    lists: Vec<u8>,
}

/// Consecutive blocks that are touched as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: BlockNo,
    /// 1 ..= [`LONGEST`].
    count: u32,
    /// Where its list begins; it ends where the next one's does.
    at: u32,
}

/// What a block is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What the records build on.
    pub begins: Begins,
    /// The records that make it what it is, in order.
    pub records: Vec<Lsn>,
}

/// What a block's chain of records builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Whatever was there before these records.
    Below,
    /// Nothing: the first record writes all of it, or, if there is none, the
    /// block belongs to nobody.
    Here,
}

impl BlockIndex {
    /// The index of these records, all from `base` on that the segment of this
    /// salt holds, in order.
    pub fn of(
        base: Lsn,
        salt: u64,
        frames: impl IntoIterator<Item = crate::log::Result<Frame>>,
    ) -> Result<BlockIndex> {
        let mut lists: BTreeMap<(BlockNo, u32), List> = BTreeMap::new();
        let (mut last, mut touched) = (base.prev(), 0);
        for frame in frames {
            let frame = frame?;
            last = frame.lsn;
            if frame.kind == Kind::Mark {
                continue;
            }
            let corrupt = |why| Error::Corrupt {
                lsn: frame.lsn,
                why,
            };
            let Record::Operation(operation) = Record::decode(&frame.meta).map_err(corrupt)? else {
                continue;
            };
            let place = frame.lsn.since(base);
            let place =
                place.ok_or_else(|| corrupt("it stands before its segment's first".into()))?;
            for redo in &operation.redo {
                for (first, count) in pieces(redo) {
                    touched += 1;
                    if touched > MOST {
                        return Err(corrupt(
                            "it frees more blocks than an index has room for".into(),
                        ));
                    }
                    let list = lists.entry((first, count)).or_default();
                    list.add(place, Touch::of(redo));
                }
            }
        }
        let mut index = BlockIndex {
            base,
            last,
            salt,
            runs: Vec::with_capacity(lists.len()),
            lists: Vec::new(),
        };
        for ((first, count), list) in lists {
            let at = index.lists.len() as u32;
            index.runs.push(Run { first, count, at });
            index.lists.extend(list.finish());
        }
        Ok(index)
    }

    /// The first record that may be in it.
    pub fn base(&self) -> Lsn {
        self.base
    }
    /// The last record in it; before [`BlockIndex::base`] if there is none.
    pub fn last(&self) -> Lsn {
        self.last
    }
    /// The salt of the segment that it was made from.
    pub fn salt(&self) -> u64 {
        self.salt
    }

    /// What makes a block what it is after record `through`, as far as records
    /// above `after` tell.
    pub fn chain(&self, block: BlockNo, after: Lsn, through: Lsn) -> Chain {
        let mut touches: BTreeMap<Lsn, Touch> = BTreeMap::new();
        let from = BlockNo(block.0.saturating_sub(LONGEST - 1));
        let begin = self.runs.partition_point(|run| run.first < from);
        let near = self.runs[begin..].iter().enumerate();
        for (n, run) in near.take_while(|(_, run)| run.first <= block) {
            if block.0 - run.first.0 < u64::from(run.count) {
                for (lsn, touch) in self.touches(begin + n) {
                    if lsn > after && lsn <= through {
                        let known = touches.entry(lsn).or_insert(touch);
                        *known = touch.max(*known);
                    }
                }
            }
        }
        let start = touches.iter().rev().find(|(_, t)| **t != Touch::Edit);
        match start.map(|(lsn, touch)| (*lsn, *touch)) {
            None => Chain {
                begins: Begins::Below,
                records: touches.into_keys().collect(),
            },
            Some((start, touch)) => {
                let from = match touch {
                    Touch::Free => Bound::Excluded(start),
                    _ => Bound::Included(start),
                };
                let records = touches.range((from, Bound::Unbounded));
                Chain {
                    begins: Begins::Here,
                    records: records.map(|(lsn, _)| *lsn).collect(),
                }
            }
        }
    }

    /// The runs of blocks that records above `after`, up to `through`, touch,
    /// by first block; they may overlap.
    pub fn touched(&self, after: Lsn, through: Lsn) -> impl Iterator<Item = (BlockNo, u64)> + '_ {
        let within = move |lsn: Lsn| lsn > after && lsn <= through;
        let runs = self.runs.iter().enumerate();
        runs.filter(move |(n, _)| self.touches(*n).any(|(lsn, _)| within(lsn)))
            .map(|(_, run)| (run.first, u64::from(run.count)))
    }

    /// The records that touch a run.
    fn touches(&self, n: usize) -> impl Iterator<Item = (Lsn, Touch)> + '_ {
        let end = self
            .runs
            .get(n + 1)
            .map_or(self.lists.len(), |run| run.at as usize);
        let mut list = &self.lists[self.runs[n].at as usize..end];
        let mut lsn = self.base;
        std::iter::from_fn(move || {
            let word = take(&mut list)?;
            lsn = lsn.checked_add(word >> 2)?;
            Some((lsn, Touch::from(word)))
        })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = vec![0; HEADER];
        raw[0..8].copy_from_slice(&MAGIC);
        raw[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let words = [
            self.base.0,
            self.last.0,
            self.salt,
            (self.runs.len() as u64) | (self.lists.len() as u64) << 32,
        ];
        for (n, word) in words.iter().enumerate() {
            raw[16 + 8 * n..24 + 8 * n].copy_from_slice(&word.to_le_bytes());
        }
        for run in &self.runs {
            raw.extend(run.first.0.to_le_bytes());
            raw.extend(run.count.to_le_bytes());
            raw.extend(run.at.to_le_bytes());
        }
        raw.extend(&self.lists);
        let crc = crc32fast::hash(&raw[16..]);
        raw[12..16].copy_from_slice(&crc.to_le_bytes());
        raw
    }

    /// The index that a file holds.
    pub fn decode(raw: &[u8]) -> std::result::Result<BlockIndex, Flaw> {
        let header = raw.first_chunk::<HEADER>().ok_or("it ends too early")?;
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        if header[0..8] != MAGIC {
            return Err("it is no block index".into());
        }
        let version = word(8) as u32;
        if version != VERSION {
            let known = VERSION;
            return Err(Flaw::Version { version, known });
        }
        if crc32fast::hash(&raw[16..]) != (word(8) >> 32) as u32 {
            return Err("its bytes don't match its checksum".into());
        }
        let (runs, lists) = (word(40) as u32 as usize, (word(40) >> 32) as usize);
        if runs as u64 * KEY as u64 + lists as u64 != (raw.len() - HEADER) as u64 {
            return Err("its length is wrong".into());
        }
        let (keys, lists) = raw[HEADER..].split_at(runs * KEY);
        let index = BlockIndex {
            base: Lsn(word(16)),
            last: Lsn(word(24)),
            salt: word(32),
            runs: keys.as_chunks::<KEY>().0.iter().map(Run::decode).collect(),
            lists: lists.to_vec(),
        };
        index
            .is_sane()
            .then_some(index)
            .ok_or("its runs are out of order".into())
    }

    fn is_sane(&self) -> bool {
        let fits = |run: &Run| {
            (1..=LONGEST).contains(&run.count.into())
                && run.first.checked_add(run.count.into()).is_some()
                && run.at as usize <= self.lists.len()
        };
        let ordered = |pair: &[Run]| {
            (pair[0].first, pair[0].count) < (pair[1].first, pair[1].count)
                && pair[0].at <= pair[1].at
        };
        self.runs.iter().all(fits) && self.runs.windows(2).all(ordered)
    }
}

impl Run {
    fn decode(raw: &[u8; KEY]) -> Run {
        let half = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().expect("4 bytes"));
        Run {
            first: BlockNo(u64::from(half(0)) | u64::from(half(4)) << 32),
            count: half(8),
            at: half(12),
        }
    }
}

impl Touch {
    fn of(redo: &Redo) -> Touch {
        match redo {
            Redo::Zeros { .. } | Redo::Image { .. } | Redo::Put { .. } => Touch::Whole,
            Redo::Edit { .. } | Redo::Patch { .. } => Touch::Edit,
            Redo::Free { .. } => Touch::Free,
        }
    }

    /// By the low bits of a list's word.
    fn from(word: u64) -> Touch {
        match word & 3 {
            0 => Touch::Edit,
            1 => Touch::Free,
            _ => Touch::Whole,
        }
    }
}

/// The blocks that a redo touches, in runs that are short enough. (One that
/// reaches past the last number is nobody's: who applies it refuses it.)
fn pieces(redo: &Redo) -> impl Iterator<Item = (BlockNo, u32)> + use<> {
    let (first, count) = redo.blocks();
    let end = first.0.saturating_add(count);
    let mut at = first.0;
    std::iter::from_fn(move || {
        let len = (end - at).min(LONGEST);
        let piece = (BlockNo(at), len as u32);
        at += len;
        (len > 0).then_some(piece)
    })
}

/// The records that touch a run, being put together.
#[derive(Default)]
struct List {
    bytes: Vec<u8>,
    /// The record before the newest, and the newest, counted from the base:
    /// the same record may touch the run once more.
    before: u64,
    newest: Option<(u64, Touch)>,
}

impl List {
    fn add(&mut self, place: u64, touch: Touch) {
        match &mut self.newest {
            Some((newest, known)) if *newest == place => *known = touch.max(*known),
            _ => {
                self.flush();
                self.newest = Some((place, touch));
            }
        }
    }

    fn flush(&mut self) {
        if let Some((place, touch)) = self.newest.take() {
            put(&mut self.bytes, (place - self.before) << 2 | touch as u64);
            self.before = place;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.bytes
    }
}

/// Seven bits a byte, the lowest first; all but the last have the top bit.
fn put(into: &mut Vec<u8>, mut word: u64) {
    while word >= 0x80 {
        into.push(word as u8 | 0x80);
        word >>= 7;
    }
    into.push(word as u8);
}

/// The next word, if there is a whole one.
fn take(list: &mut &[u8]) -> Option<u64> {
    let mut word = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = list.split_first()?;
        *list = rest;
        word |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(word);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ranges::Ranges;
    use super::super::record::{Op, Operation};
    use super::*;
    use crate::units::{Epoch, InodeNo, Time};

    const BASE: u64 = 1000;

    fn frame(lsn: Lsn, redo: Vec<Redo>) -> Frame {
        let record = Record::Operation(Operation {
            op: Op::Orphan { inode: InodeNo(1) },
            paths: Vec::new(),
            program: None,
            redo,
        });
        Frame {
            lsn,
            epoch: Epoch(1),
            time: Time::default(),
            wall: Time::default(),
            kind: Kind::Record,
            meta: record.encode(),
            data: None,
            durable: Lsn(0),
            installed: Lsn(0),
        }
    }

    fn index(records: &[Vec<Redo>]) -> BlockIndex {
        let frames = records.iter().zip(BASE..);
        let frames = frames.map(|(redo, lsn)| Ok(frame(Lsn(lsn), redo.clone())));
        BlockIndex::of(Lsn(BASE), 7, frames).unwrap()
    }

    fn redo() -> impl Strategy<Value = Redo> {
        let block = (0u64..700).prop_map(BlockNo);
        (block, 1u32..600, 0u8..4).prop_map(|(block, count, kind)| match kind {
            0 => Redo::Zeros { block },
            1 => Redo::Edit {
                block,
                ranges: Ranges::from_iter([(0, [1])]),
            },
            2 => Redo::Put {
                first: block,
                count,
                from: 0,
            },
            _ => Redo::Free {
                first: block,
                count: count.into(),
            },
        })
    }

    /// The same by looking at every redo.
    fn looked_up(records: &[Vec<Redo>], block: BlockNo, after: Lsn, through: Lsn) -> Chain {
        let mut chain = Chain {
            begins: Begins::Below,
            records: Vec::new(),
        };
        for (redos, lsn) in records.iter().zip(BASE..).map(|(r, n)| (r, Lsn(n))) {
            let touches = redos.iter().filter(|redo| {
                let (first, count) = redo.blocks();
                block.since(first).is_some_and(|n| n < count)
            });
            let touch = touches.map(Touch::of).max();
            match touch.filter(|_| lsn > after && lsn <= through) {
                None => {}
                Some(Touch::Edit) => chain.records.push(lsn),
                Some(start) => {
                    chain.begins = Begins::Here;
                    chain.records.clear();
                    chain.records.extend((start == Touch::Whole).then_some(lsn));
                }
            }
        }
        chain
    }

    proptest! {
        #[test]
        fn a_blocks_chain_is_what_its_records_say(
            records in proptest::collection::vec(proptest::collection::vec(redo(), 0..4), 0..40),
            after in 0u64..45,
            len in 0u64..45,
        ) {
            let made = index(&records);
            let read = BlockIndex::decode(&made.encode());
            prop_assert_eq!(read.as_ref(), Ok(&made));
            let (after, through) = (Lsn(BASE + after - 1), Lsn(BASE + after + len - 1));
            for block in (0..1300).map(BlockNo) {
                let chain = looked_up(&records, block, after, through);
                let touched = made.touched(after, through);
                let is_touched = touched.into_iter().any(|(first, n)| block.since(first).is_some_and(|at| at < n));
                prop_assert_eq!(made.chain(block, after, through), chain.clone());
                prop_assert_eq!(is_touched, chain.begins == Begins::Here || !chain.records.is_empty());
            }
        }
    }

    #[test]
    fn a_damaged_index_is_refused() {
        let block = BlockNo(5);
        let raw = index(&[
            vec![Redo::Zeros { block }],
            vec![Redo::Free {
                first: block,
                count: 1000,
            }],
        ])
        .encode();
        for at in 0..raw.len() {
            let mut bad = raw.clone();
            bad[at] ^= 0x10;
            assert!(BlockIndex::decode(&bad).is_err(), "byte {at}");
            assert!(BlockIndex::decode(&raw[..at]).is_err(), "cut at {at}");
        }
    }
}

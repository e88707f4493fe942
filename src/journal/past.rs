//! The image as it was after some record: a disk for reading.
//!
//! Nothing is copied. A block is what the newest record that wrote it whole
//! says, with the later edits; a block that no record touches is read from the
//! base. The block indexes of the segments tell which records these are.
//!
//! ```text
//!     base        records from .................... at
//!     image as of `from`, maybe newer in places, but nowhere newer than `through`
//! ```
//! That is exact for every point not below `through`: the first change of a
//! block behind `from` wrote the whole of it, so what the base holds of such a
//! block does not matter.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::blocks::{Begins, BlockIndex};
use super::record::Record;
use super::redo::Redo;
use super::{Block, Error, Result};
use crate::device::Disk;
use crate::log::{Place, Survey};
use crate::sync::{Mutex, RwLock};
use crate::units::{BlockNo, Lsn, Time};

/// Records that are kept decoded: neighbours touch the same blocks.
const KEPT: usize = 4096;

/// Blocks of ext4 have 1 KiB to this.
const LARGEST: usize = 64 << 10;

/// A block that more records make is *busy*: all of them are made in one pass
/// over the records, not each in one of its own.
const BUSY: usize = if cfg!(test) { 8 } else { 512 };

/// An image from which history is done again.
#[derive(Clone)]
pub struct Ground {
    /// The image.
    pub image: Arc<dyn Disk>,
    /// Everything up to this record is in it.
    pub from: Lsn,
    /// Nothing above this record is in it.
    pub through: Lsn,
    /// The block that no checkpoint writes home, as of `from`.
    pub pinned: Option<(BlockNo, Vec<u8>)>,
}

/// Looks at the records' folder again: a daemon at work recycles segments,
/// when they are in its archive.
pub type Again = Arc<dyn Fn() -> crate::log::Result<Survey> + Send + Sync>;

/// The image as it was after a record.
pub struct Past {
    ground: Ground,
    survey: RwLock<Arc<Survey>>,
    again: Option<Again>,
    at: Lsn,
    /// Oldest first.
    segments: Vec<Part>,
    block_size: usize,
    blocks: u64,
    /// Replaces what the records say of the pinned block.
    pinned: Option<Block>,
    decoded: Mutex<Decoded>,
    /// Busy blocks, once one was asked for.
    busy: Mutex<Option<Arc<HashMap<BlockNo, Block>>>>,
}

/// A segment's records that count.
struct Part {
    index: BlockIndex,
    last: Lsn,
}

/// What a record does to blocks.
struct Work {
    redo: Vec<Redo>,
    data: Option<Place>,
}

/// Records lately used.
#[derive(Default)]
struct Decoded {
    works: HashMap<Lsn, Arc<Work>>,
    order: VecDeque<Lsn>,
}

/// Where a block's bytes come from.
enum Source {
    Ground,
    Bytes(Block),
}

impl Past {
    /// The image after record `at`, which must not lie below the ground's
    /// `through`. `stored` gives the index of a segment (by its base and salt)
    /// that need not be made anew; of the others all records are read, those
    /// that are needed.
    pub fn new(
        ground: Ground,
        survey: Arc<Survey>,
        block_size: usize,
        at: Lsn,
        stored: &dyn Fn(Lsn, u64) -> Option<BlockIndex>,
    ) -> Result<Past> {
        debug_assert!(at >= ground.through, "the ground may be newer than that");
        if !LARGEST.is_multiple_of(block_size) || block_size < 1024 {
            return Err(Error::Corrupt {
                lsn: ground.from,
                why: "the pinned block is not one block long".into(),
            });
        }
        let len = ground
            .image
            .len()
            .map_err(|e| super::image_error("length", e))?;
        let segments = parts(&survey, ground.from, at, stored)?;
        Ok(Past {
            ground,
            survey: RwLock::new(survey),
            again: None,
            at,
            segments,
            block_size,
            blocks: len / block_size as u64,
            pinned: None,
            decoded: Mutex::default(),
            busy: Mutex::default(),
        })
    }

    /// The same for records that may lie elsewhere later.
    pub fn looking_again(self, again: Again) -> Past {
        Past {
            again: Some(again),
            ..self
        }
    }

    /// The record after which it shows the image.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// When that was made; the epoch of Unix if nobody can tell.
    pub fn time(&self) -> Time {
        let frame = self.survey.read().frame(self.at);
        frame.map_or_else(|_| Time::default(), |frame| frame.time)
    }

    /// The image that it builds on.
    pub fn ground(&self) -> &Arc<dyn Disk> {
        &self.ground.image
    }

    /// The pinned block as of this moment.
    pub fn pinned(&self) -> Result<Option<Block>> {
        match &self.ground.pinned {
            Some((block, _)) => self.bytes(*block).map(Some),
            None => Ok(None),
        }
    }

    /// Shows other bytes as the pinned block.
    pub fn replace_pinned(&mut self, bytes: Block) {
        self.pinned = Some(bytes);
    }

    /// The runs of blocks that it does not read from the base; they may overlap.
    pub fn touched(&self) -> impl Iterator<Item = (BlockNo, u64)> + '_ {
        let pinned = self.ground.pinned.iter().map(|(block, _)| (*block, 1));
        let parts = self.segments.iter();
        parts
            .flat_map(|part| part.index.touched(self.ground.from, part.last))
            .chain(pinned)
    }

    fn bytes(&self, block: BlockNo) -> Result<Block> {
        match self.source(block)? {
            Source::Bytes(bytes) => Ok(bytes),
            Source::Ground => {
                let mut bytes = vec![0; self.block_size];
                let at = block.0 * self.block_size as u64;
                let read = self.ground.image.read_at(&mut bytes, at);
                read.map_err(|e| super::image_error("read", e))?;
                Ok(bytes.into())
            }
        }
    }

    fn source(&self, block: BlockNo) -> Result<Source> {
        let pinned = self
            .ground
            .pinned
            .as_ref()
            .filter(|(pinned, _)| *pinned == block);
        if let (Some(_), Some(bytes)) = (pinned, &self.pinned) {
            return Ok(Source::Bytes(bytes.clone()));
        }
        let (begins, records) = self.chain(block);
        if begins == Begins::Below && records.is_empty() && pinned.is_none() {
            return Ok(Source::Ground);
        }
        if records.len() > BUSY
            && let Some(bytes) = self.busy()?.get(&block)
        {
            return Ok(Source::Bytes(bytes.clone()));
        }
        let mut bytes = self.first(block, begins, &records)?;
        for lsn in records {
            self.apply(lsn, block, &mut bytes)?;
        }
        Ok(Source::Bytes(bytes.into()))
    }

    /// What a block's records build on.
    fn first(&self, block: BlockNo, begins: Begins, records: &[Lsn]) -> Result<Vec<u8>> {
        let corrupt = |lsn, why: &'static str| {
            let why = why.into();
            Err(Error::Corrupt { lsn, why })
        };
        match (begins, &self.ground.pinned) {
            (Begins::Here, _) => Ok(vec![0; self.block_size]),
            (Begins::Below, Some((pinned, bytes))) if *pinned == block => {
                match bytes.len() == self.block_size {
                    true => Ok(bytes.clone()),
                    false => corrupt(self.ground.from, "the pinned block is not one block long"),
                }
            }
            (Begins::Below, _) => corrupt(
                records.first().copied().unwrap_or(self.at),
                "it changes a part of a block that no record since the base has written whole",
            ),
        }
    }

    /// All busy blocks.
    fn busy(&self) -> Result<Arc<HashMap<BlockNo, Block>>> {
        let mut known = self.busy.lock();
        if let Some(busy) = &*known {
            return Ok(busy.clone());
        }
        let mut blocks: HashMap<BlockNo, Vec<u8>> = HashMap::new();
        let mut todo: BTreeMap<Lsn, Vec<BlockNo>> = BTreeMap::new();
        // Longer runs are written whole, never edited.
        let single: BTreeSet<BlockNo> = (self.touched())
            .filter_map(|(first, count)| (count == 1).then_some(first))
            .collect();
        for block in single {
            let (begins, records) = self.chain(block);
            if records.len() > BUSY {
                blocks.insert(block, self.first(block, begins, &records)?);
                for lsn in records {
                    todo.entry(lsn).or_default().push(block);
                }
            }
        }
        for (lsn, touched) in todo {
            for block in touched {
                let bytes = blocks.get_mut(&block).expect("just put there");
                self.apply(lsn, block, bytes)?;
            }
        }
        let blocks = blocks
            .into_iter()
            .map(|(block, bytes)| (block, bytes.into()));
        let busy: Arc<HashMap<BlockNo, Block>> = Arc::new(blocks.collect());
        *known = Some(busy.clone());
        Ok(busy)
    }

    /// The records that make a block what it is, in order.
    fn chain(&self, block: BlockNo) -> (Begins, Vec<Lsn>) {
        let mut newest_first = Vec::new();
        let mut begins = Begins::Below;
        for part in self.segments.iter().rev() {
            let chain = part.index.chain(block, self.ground.from, part.last);
            newest_first.push(chain.records);
            begins = chain.begins;
            if begins == Begins::Here {
                break;
            }
        }
        (begins, newest_first.into_iter().rev().flatten().collect())
    }

    fn apply(&self, lsn: Lsn, block: BlockNo, bytes: &mut [u8]) -> Result<()> {
        match self.try_apply(lsn, block, bytes) {
            Err(Error::Log(crate::log::Error::Recycled(_))) => {
                self.look_again(lsn)?;
                self.try_apply(lsn, block, bytes)
            }
            other => other,
        }
    }

    /// Finds a record's segment again where it lies now. It must be the same
    /// use of the same segment: what a recovery has cut off may recur.
    fn look_again(&self, lsn: Lsn) -> Result<()> {
        let gone = Error::Log(crate::log::Error::Recycled(lsn));
        let again = self.again.as_ref().ok_or(gone.clone())?;
        let now = again()?;
        let mut parts = self.segments.iter();
        let part = parts.find(|part| lsn <= part.last).ok_or(gone.clone())?;
        let mut segments = now.segments().iter();
        let same = segments.any(|segment| {
            (segment.base, segment.salt) == (part.index.base(), part.index.salt())
                && segment.last >= part.last
        });
        if !same {
            return Err(gone);
        }
        *self.survey.write() = Arc::new(now);
        *self.decoded.lock() = Decoded::default();
        Ok(())
    }

    fn try_apply(&self, lsn: Lsn, block: BlockNo, bytes: &mut [u8]) -> Result<()> {
        let work = self.work(lsn)?;
        let touching = work.redo.iter().filter(|redo| {
            let (first, count) = redo.blocks();
            block.since(first).is_some_and(|n| n < count)
        });
        for redo in touching {
            apply(redo, block, bytes, work.data.as_ref())?.ok_or(Error::Corrupt {
                lsn,
                why: "its redo does not fit its blocks or its data".into(),
            })?;
        }
        Ok(())
    }

    fn work(&self, lsn: Lsn) -> Result<Arc<Work>> {
        if let Some(work) = self.decoded.lock().works.get(&lsn) {
            return Ok(work.clone());
        }
        let survey = self.survey.read().clone();
        let frame = survey.frame(lsn)?;
        let corrupt = |why| Error::Corrupt { lsn, why };
        let Record::Operation(operation) = Record::decode(&frame.meta).map_err(corrupt)? else {
            return Err(corrupt(
                "it is no operation, as the block index says".into(),
            ));
        };
        let work = Arc::new(Work {
            redo: operation.redo,
            data: frame.data,
        });
        self.decoded.lock().keep(lsn, work.clone());
        Ok(work)
    }

    /// Fills `buf`, which begins in a block, from there on.
    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let size = self.block_size as u64;
        let (mut at, mut buf) = (offset, buf);
        while !buf.is_empty() {
            let within = (at % size) as usize;
            let block = BlockNo(at / size);
            let now = match self.source(block).map_err(io::Error::other)? {
                Source::Bytes(bytes) => {
                    let len = (self.block_size - within).min(buf.len());
                    buf[..len].copy_from_slice(&bytes[within..within + len]);
                    len
                }
                Source::Ground => {
                    let len = self.ground_run(block, within, buf.len());
                    self.ground.image.read_at(&mut buf[..len], at)?;
                    len
                }
            };
            at += now as u64;
            buf = &mut buf[now..];
        }
        Ok(())
    }

    /// How many bytes from here on, `most` at most, are the base's.
    fn ground_run(&self, block: BlockNo, within: usize, most: usize) -> usize {
        let blocks = (within + most).div_ceil(self.block_size) as u64;
        let is_ground = |n: &u64| {
            let block = BlockNo(block.0 + n);
            let pinned = self
                .ground
                .pinned
                .as_ref()
                .is_some_and(|(pinned, _)| *pinned == block);
            !pinned && self.chain(block) == (Begins::Below, Vec::new())
        };
        let run = (1..blocks).take_while(is_ground).count() + 1;
        (run * self.block_size - within).min(most)
    }
}

/// The indexes of all records behind `from`, up to `at`; none may be missing.
fn parts(
    survey: &Survey,
    from: Lsn,
    at: Lsn,
    stored: &dyn Fn(Lsn, u64) -> Option<BlockIndex>,
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut expected = from.next();
    for segment in survey.segments() {
        let last = segment.last.min(at);
        if last < expected || expected > at {
            continue;
        }
        if segment.base > expected {
            break;
        }
        let fits = |index: &BlockIndex| {
            (index.base(), index.salt()) == (segment.base, segment.salt) && index.last() >= last
        };
        let index = match stored(segment.base, segment.salt).filter(fits) {
            Some(index) => index,
            None => {
                let frames = survey.frames(expected);
                let until =
                    frames.take_while(|frame| !matches!(frame, Ok(frame) if frame.lsn > last));
                BlockIndex::of(segment.base, segment.salt, until)?
            }
        };
        if index.last() < last {
            break;
        }
        parts.push(Part { index, last });
        expected = last.next();
    }
    match expected > at {
        true => Ok(parts),
        false => Err(Error::Log(crate::log::Error::Recycled(expected))),
    }
}

/// Does to one block what a redo that touches it says; `None` if that does not
/// fit.
fn apply(
    redo: &Redo,
    block: BlockNo,
    bytes: &mut [u8],
    data: Option<&Place>,
) -> Result<Option<()>> {
    let size = bytes.len();
    Ok(match redo {
        Redo::Zeros { .. } | Redo::Free { .. } => {
            bytes.fill(0);
            Some(())
        }
        Redo::Image { bytes: whole, .. } => {
            (whole.len() == size).then(|| bytes.copy_from_slice(whole))
        }
        Redo::Edit { ranges, .. } => ranges.iter().try_for_each(|(at, range)| {
            let into = bytes.get_mut(at..)?.get_mut(..range.len())?;
            into.copy_from_slice(range);
            Some(())
        }),
        Redo::Put { first, from, .. } => {
            let n = (block.0 - first.0) as usize; // a run is touched: 32 bits
            copy(data, *from as usize + n * size, bytes)?
        }
        Redo::Patch {
            offset, from, len, ..
        } => {
            let tail = bytes.get_mut(usize::from(*offset)..);
            match tail.and_then(|tail| tail.get_mut(..*len as usize)) {
                Some(into) => copy(data, *from as usize, into)?,
                None => None,
            }
        }
    })
}

/// Bytes of a record's data; `None` if there are not so many.
fn copy(data: Option<&Place>, from: usize, into: &mut [u8]) -> Result<Option<()>> {
    match data {
        Some(place) if from + into.len() <= place.len() => Ok(Some(place.read(from, into)?)),
        None if into.is_empty() => Ok(Some(())),
        _ => Ok(None),
    }
}

impl Decoded {
    fn keep(&mut self, lsn: Lsn, work: Arc<Work>) {
        if self.works.insert(lsn, work).is_none() {
            self.order.push_back(lsn);
        }
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.works.remove(&oldest);
        }
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::ReadOnlyFilesystem,
        "the past can't be changed",
    ))
}

impl Disk for Past {
    fn len(&self) -> io::Result<u64> {
        Ok(self.blocks * self.block_size as u64)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.blocks * self.block_size as u64 => self.fill(buf, offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        read_only()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        read_only()
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        read_only()
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        read_only()
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

//! Recovery: from what a folder holds to a journal that goes on.
//!
//! [`Journal::open`] reads and judges, and changes nothing. Its answer has a
//! method for each thing that may follow; which of them is right depends on
//! the image, which the caller knows.

use std::sync::Arc;

use super::cache::{Home, State};
use super::record::{Base, Clean, Operation, Record};
use super::redo::Redo;
use super::retell::Retelling;
use super::{Error, Inner, Journal, Keep, Options, Result};
use crate::device::{Dir, Disk};
use crate::log::{Beyond, Frame, Kind, Place, Survey, Verdict};
use crate::units::{BlockNo, Epoch, Lsn, Time};

/// What a record carries besides its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading {
    /// Its number.
    pub lsn: Lsn,
    /// The opening of the log in which it was made.
    pub epoch: Epoch,
    /// When it was made; never before an earlier record.
    pub time: Time,
    /// The raw wall clock then.
    pub wall: Time,
    /// The last record that was known durable when it was written.
    pub durable: Lsn,
}

/// Whoever goes through records in order: recovery, inspection, restoring.
pub trait Replay {
    /// One record, with its data's place if it has data.
    fn record(&mut self, at: &Heading, record: &Record, data: Option<&Place>) -> Result<()>;
}

/// Decodes frames in order and shows the records to `visitor`; the log's own
/// mark frames are passed over.
pub fn replay(
    frames: impl Iterator<Item = crate::log::Result<Frame>>,
    visitor: &mut dyn Replay,
) -> Result<()> {
    for frame in frames {
        let frame = frame?;
        if frame.kind == Kind::Mark {
            continue;
        }
        let record = Record::decode(&frame.meta).map_err(|why| Error::Corrupt {
            lsn: frame.lsn,
            why,
        })?;
        let Frame {
            lsn,
            epoch,
            time,
            wall,
            durable,
            ..
        } = frame;
        visitor.record(
            &Heading {
                lsn,
                epoch,
                time,
                wall,
                durable,
            },
            &record,
            frame.data.as_ref(),
        )?;
    }
    Ok(())
}

/// The newest record as of which blocks may have gone home, by all that can
/// still be read, also past damage: an image on which a journal is cut before it
/// holds something of what is cut.
pub(super) fn gone_home(beyond: &Beyond) -> Lsn {
    let survey = beyond.survey();
    let readable = survey
        .numbers(Lsn(1))
        .filter_map(|lsn| survey.frame(lsn).ok());
    let told = readable.filter_map(|frame| match Record::decode_meaning(&frame.meta) {
        Ok(Record::Install(through)) if frame.kind != Kind::Mark => Some(through),
        _ => None,
    });
    told.max().unwrap_or_default().max(survey.installed())
}

/// What a journal's folder was found to hold.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whole, cut off, or damaged.
    pub verdict: Verdict,
    /// The last record that is kept.
    pub last: Lsn,
    /// The last record known to have been durable.
    pub durable: Lsn,
    /// All up to here was home already.
    pub home: Lsn,
    /// Operations behind that, to be replayed.
    pub operations: u64,
}

/// A journal as it was left, not yet opened for anything.
pub struct Unrecovered {
    survey: Survey,
    base: Option<(Lsn, Base)>,
    clean: Option<Clean>,
    /// The base is a session's opening that nothing followed.
    unused: bool,
    reach: Lsn,
    report: Report,
}

/// Finds the last base and what follows it.
#[derive(Default)]
struct History {
    base: Option<(Lsn, Base)>,
    clean: Option<Clean>,
    unused: bool,
    installing: Lsn,
    operations: Vec<Lsn>,
}

impl Replay for History {
    fn record(&mut self, at: &Heading, record: &Record, _: Option<&Place>) -> Result<()> {
        match record {
            Record::Session(base) | Record::Checkpoint(base) if base.through >= at.lsn => {
                return Err(Error::Corrupt {
                    lsn: at.lsn,
                    why: "it calls records home that come after it".into(),
                });
            }
            Record::Session(base) => {
                (self.base, self.clean, self.unused) = (Some((at.lsn, base.clone())), None, true);
            }
            Record::Checkpoint(base) => {
                (self.base, self.clean, self.unused) = (Some((at.lsn, base.clone())), None, false);
            }
            Record::Clean(clean) => self.clean = Some(clean.clone()),
            Record::Install(through) if *through >= at.lsn => {
                return Err(Error::Corrupt {
                    lsn: at.lsn,
                    why: "it sends records home that come after it".into(),
                });
            }
            Record::Install(through) => self.installing = self.installing.max(*through),
            Record::Operation(_) => {
                self.operations.push(at.lsn);
                (self.unused, self.clean) = (false, None);
            }
        }
        Ok(())
    }
}

impl History {
    /// The log forgets no record before a base says that it is home.
    fn refuse_gap(&self, installed: Lsn) -> Result<()> {
        match &self.base {
            Some((lsn, base)) if base.through < installed => Err(Error::Corrupt {
                lsn: *lsn,
                why: "the log has forgotten records that it does not call home".into(),
            }),
            _ => Ok(()),
        }
    }
}

impl Journal {
    /// Reads what a folder holds; nothing is changed. An empty folder is a
    /// journal without a past.
    pub fn open(dir: Arc<dyn Dir>) -> Result<Unrecovered> {
        Self::of_survey(Survey::read(dir)?)
    }

    /// The same, given up behind a record; `None` if that can't be kept.
    pub fn open_cut_after(dir: Arc<dyn Dir>, last: Lsn) -> Result<Option<Unrecovered>> {
        let Some(cut) = Survey::read(dir.clone())?.cut_after(last) else {
            return Ok(None);
        };
        let mut unrecovered = Self::of_survey(cut)?;
        // What is cut may have told that it goes home.
        unrecovered.reach = unrecovered.reach.max(gone_home(&Survey::beyond(dir)?));
        Ok(Some(unrecovered))
    }

    fn of_survey(survey: Survey) -> Result<Unrecovered> {
        let mut history = History::default();
        let read = replay(survey.frames(survey.installed().next()), &mut history);
        if !matches!(survey.verdict(), Verdict::Corrupt { .. }) {
            read?;
            history.refuse_gap(survey.installed())?;
        }
        let home = history
            .base
            .as_ref()
            .map_or(survey.installed(), |(_, base)| base.through);
        let reach = home.max(history.installing);
        let report = Report {
            verdict: survey.verdict().clone(),
            last: survey.last(),
            durable: survey.durable(),
            home,
            operations: history.operations.iter().filter(|lsn| **lsn > home).count() as u64,
        };
        let History {
            base,
            clean,
            unused,
            ..
        } = history;
        Ok(Unrecovered {
            survey,
            base,
            clean,
            unused,
            reach,
            report,
        })
    }
}

impl Unrecovered {
    /// What was found.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The folder as the log sees it.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The folder alone, for whoever only reads its records.
    pub fn into_survey(self) -> Survey {
        self.survey
    }

    /// The image may hold blocks as late as this record, and none later: what
    /// it was at an earlier one can't be told from it.
    pub fn reach(&self) -> Lsn {
        self.reach
    }

    /// Where replay starts, and whose session it was.
    pub fn base(&self) -> Option<&Base> {
        self.base.as_ref().map(|(_, base)| base)
    }

    /// How the last session ended, if it ended well.
    pub fn clean(&self) -> Option<&Clean> {
        self.clean.as_ref()
    }

    /// Whether the last session recorded nothing but its opening: its guard
    /// may not have reached the image.
    pub fn is_unused(&self) -> bool {
        self.unused
    }

    /// Nothing can be kept of a log that is damaged where it was durable.
    pub fn refuse_damage(&self) -> Result<()> {
        match self.survey.verdict() {
            Verdict::Corrupt(bad) => Err(Error::Log(crate::log::Error::Corrupt {
                lsn: bad.lsn,
                segment: bad.segment.clone(),
                offset: bad.offset,
                why: bad.why,
            })),
            Verdict::Clean | Verdict::Torn { .. } => Ok(()),
        }
    }

    /// Brings the image up to the last kept record: frames durable in a fresh
    /// segment, redo in memory, then a checkpoint. The session goes on until
    /// another begins.
    pub fn recover(self, image: Arc<dyn Disk>, options: Options) -> Result<Journal> {
        self.preflight(&image, &options)?;
        let (base, state) = self.start(&options);
        let operations = self.report.operations;
        if let Some(archive) = &options.archive {
            archive.go_on(&self.survey);
        }
        let mut retelling = Retelling::within(options.limit());
        let log = self.survey.open_retold(options.log(), &mut retelling)?;
        let journal = Journal::new(image, options, Keep::Log(log), state)?;
        *journal.0.session.lock() = base.session;
        let log = journal.0.log()?;
        replay(
            log.frames(base.through.next()),
            &mut Redoing {
                inner: &journal.0,
                through: base.through,
            },
        )?;
        journal.0.state.write().last = log.watermarks().appended;
        journal.0.note(&journal.0.state.read());
        // With nothing to bring home there is nothing to say either. A record
        // would make a session look used whose guard never reached the image,
        // and the next recovery would refuse the image's own, older one.
        if operations > 0 {
            journal.checkpoint()?;
        }
        Ok(journal)
    }

    /// The same in memory only: nothing is written anywhere, and nothing can
    /// be changed.
    pub fn replay_in_memory(self, image: Arc<dyn Disk>, options: Options) -> Result<Journal> {
        self.preflight(&image, &options)?;
        let (base, state) = self.start(&options);
        let journal = Journal::new(image, options, Keep::Memory, state)?;
        let frames = self.survey.frames(base.through.next());
        replay(
            frames,
            &mut Redoing {
                inner: &journal.0,
                through: base.through,
            },
        )?;
        journal.0.state.write().last = self.survey.last();
        Ok(journal)
    }

    /// Goes on after a session that ended well (or never began).
    pub fn resume(self, image: Arc<dyn Disk>, options: Options) -> Result<Journal> {
        self.refuse_damage()?;
        if let Some(archive) = &options.archive {
            archive.go_on(&self.survey);
        }
        let mut retelling = Retelling::within(options.limit());
        let log = self.survey.open_retold(options.log(), &mut retelling)?;
        let state = State {
            last: log.watermarks().appended,
            ..State::default()
        };
        Journal::new(image, options, Keep::Log(log), state)
    }

    /// What the log holds is history of another timeline, or there is none.
    pub fn begin_anew(self, image: Arc<dyn Disk>, options: Options) -> Result<Journal> {
        if let Some(archive) = &options.archive {
            archive.end_timeline(&self.survey);
        }
        let log = self.survey.open_anew(options.log())?;
        let state = State {
            last: log.watermarks().appended,
            ..State::default()
        };
        Journal::new(image, options, Keep::Log(log), state)
    }

    /// Blocks (with the CRC-32 of their bytes) that are on the image as the
    /// last base saw them, since no record behind it touches them.
    pub fn untouched_samples(&self) -> Result<Vec<(BlockNo, u32)>> {
        let Some((_, base)) = &self.base else {
            return Ok(Vec::new());
        };
        let mut untouched = Untouched {
            through: base.through,
            samples: base.samples.clone(),
        };
        replay(self.survey.frames(base.through.next()), &mut untouched)?;
        Ok(untouched.samples)
    }

    fn start(&self, options: &Options) -> (Base, State) {
        let base = self
            .base
            .as_ref()
            .map(|(_, base)| base.clone())
            .unwrap_or_default();
        let pinned = options.pinned.filter(|_| !base.pinned.is_empty());
        let pinned = pinned.map(|block| (block, base.pinned.as_slice().into()));
        (
            base,
            State {
                pinned,
                ..State::default()
            },
        )
    }

    /// Everything that could fail for a reason that lies in the records or in
    /// the image is tried before anything is changed.
    fn preflight(&self, image: &Arc<dyn Disk>, options: &Options) -> Result<()> {
        self.refuse_damage()?;
        let Some((at, base)) = &self.base else {
            return Ok(());
        };
        let scratch = Options {
            cache_size: 0,
            ..options.clone()
        };
        let inner = Journal::new(image.clone(), scratch, Keep::Memory, State::default())?;
        if options.pinned.is_some() && base.pinned.len() != options.block_size {
            return Err(Error::Corrupt {
                lsn: *at,
                why: "its pinned block is not one block long".into(),
            });
        }
        let mut checking = Checking {
            inner: &inner.0,
            through: base.through,
        };
        replay(self.survey.frames(base.through.next()), &mut checking)?;
        let samples = self.untouched_samples()?;
        let mut stale = Vec::new();
        for (block, crc) in &samples {
            if crc32fast::hash(&inner.0.read_home(*block)?) != *crc {
                stale.push(*block);
            }
        }
        match stale.first() {
            None => Ok(()),
            Some(block) => Err(Error::Stale {
                block: *block,
                checkpoint: *at,
                same: samples.len() - stale.len(),
                differ: stale.len(),
            }),
        }
    }
}

/// Applies redo to the state in memory.
pub(super) struct Redoing<'j> {
    pub inner: &'j Inner,
    pub through: Lsn,
}

impl Replay for Redoing<'_> {
    fn record(&mut self, at: &Heading, record: &Record, data: Option<&Place>) -> Result<()> {
        let Record::Operation(operation) = record else {
            return Ok(());
        };
        if at.lsn <= self.through {
            return Ok(());
        }
        let mut state = self.inner.state.write();
        operation
            .redo
            .iter()
            .try_for_each(|redo| self.inner.redo(&mut state, redo, data))
    }
}

/// Looks whether redo can be applied.
pub(super) struct Checking<'j> {
    pub inner: &'j Inner,
    pub through: Lsn,
}

impl Replay for Checking<'_> {
    fn record(&mut self, at: &Heading, record: &Record, data: Option<&Place>) -> Result<()> {
        let Record::Operation(Operation { redo, .. }) = record else {
            return Ok(());
        };
        if at.lsn <= self.through {
            return Ok(());
        }
        let data_len = data.map_or(0, Place::len);
        redo.iter()
            .try_for_each(|redo| redo_fits(self.inner, redo, data_len))
            .map_err(|why| Error::Corrupt {
                lsn: at.lsn,
                why: why.into(),
            })
    }
}

/// Finds which samples later records leave alone.
struct Untouched {
    through: Lsn,
    samples: Vec<(BlockNo, u32)>,
}

impl Replay for Untouched {
    fn record(&mut self, at: &Heading, record: &Record, _: Option<&Place>) -> Result<()> {
        if let (Record::Operation(operation), true) = (record, at.lsn > self.through) {
            for (first, count) in operation.redo.iter().map(Redo::blocks) {
                self.samples
                    .retain(|(block, _)| block.since(first).is_none_or(|n| n >= count));
            }
        }
        Ok(())
    }
}

/// Whether a redo stays within the image, its blocks and its record's data.
fn redo_fits(inner: &Inner, redo: &Redo, data_len: usize) -> std::result::Result<(), &'static str> {
    let size = inner.block_size();
    let (first, count) = redo.blocks();
    inner
        .inside(first, count)
        .map_err(|_| "it changes blocks outside the image")?;
    let within =
        |at: usize, len: usize, end: usize| at.checked_add(len).is_some_and(|to| to <= end);
    let fits = match redo {
        Redo::Zeros { .. } | Redo::Free { .. } => true,
        Redo::Image { bytes, .. } => bytes.len() == size,
        Redo::Edit { ranges, .. } => ranges
            .iter()
            .all(|(at, bytes)| within(at, bytes.len(), size)),
        Redo::Put { count, from, .. } => {
            let len = (*count as usize).checked_mul(size);
            let pinned = inner.options.pinned.and_then(|pinned| pinned.since(first));
            // File data never lie in the pinned block, which must not go home.
            pinned.is_none_or(|n| n >= u64::from(*count))
                && len.is_some_and(|len| within(*from as usize, len, data_len))
        }
        Redo::Patch {
            offset, from, len, ..
        } => {
            within((*offset).into(), *len as usize, size)
                && within(*from as usize, *len as usize, data_len)
        }
    };
    if fits {
        Ok(())
    } else {
        Err("its redo does not fit its blocks or its data")
    }
}

impl Inner {
    /// Does a change again. It has passed [`redo_fits`].
    fn redo(&self, state: &mut State, redo: &Redo, data: Option<&Place>) -> Result<()> {
        match redo {
            Redo::Zeros { block } => self.set(state, *block, self.zeros.clone()),
            Redo::Image { block, bytes } => self.set(state, *block, bytes.as_slice().into()),
            Redo::Edit { block, ranges } => self.edit(state, *block, |bytes| {
                for (at, range) in ranges.iter() {
                    bytes[at..at + range.len()].copy_from_slice(range);
                }
                Ok(())
            })?,
            Redo::Patch {
                block,
                offset,
                from,
                len,
            } => self.edit(state, *block, |bytes| {
                let (at, len) = (usize::from(*offset), *len as usize);
                match data {
                    Some(place) => Ok(place.read(*from as usize, &mut bytes[at..at + len])?),
                    None => Ok(()), // of no bytes: anything longer was refused before
                }
            })?,
            Redo::Put { first, count, from } => {
                for n in 0..*count {
                    let place = data.expect("checked before").clone();
                    let from = from + n * self.block_size() as u32;
                    state.dirty.insert(
                        BlockNo(first.0 + u64::from(n)),
                        Home::Logged { place, from },
                    );
                }
            }
            Redo::Free { first, count } => state.dirty.remove_range(*first, *count),
        }
        Ok(())
    }

    fn edit(
        &self,
        state: &mut State,
        block: BlockNo,
        change: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let mut bytes = self.load(state, block)?;
        // The map's own reference goes first, so that nothing is copied.
        if !state.is_pinned(block) {
            state.dirty.remove(block);
        }
        self.clean.remove(block);
        change(bytes.make_mut())?;
        self.set(state, block, bytes);
        Ok(())
    }

    fn set(&self, state: &mut State, block: BlockNo, now: super::Block) {
        match &mut state.pinned {
            Some((pinned, bytes)) if *pinned == block => *bytes = now,
            _ => state.dirty.insert(block, Home::Cached(now)),
        }
    }
}

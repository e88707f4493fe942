//! Goes through records in order and tells them as events.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::{mem, thread};

use super::event::Event;
use crate::journal::record::{Op, Record};
use crate::journal::{Flaw, Names};
use crate::log::{self, Frame, Kind, Reader, Seen, Survey};
use crate::units::{InodeNo, Lsn};

/// Records that are handed on together, or fewer if they have so many bytes;
/// and how many such batches wait to be taken.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
const AHEAD: usize = 4;

/// A record that can't be told, and why.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// It can't be read.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// Its bytes are whole and make no sense.
    #[error("record {lsn} can't be understood: {why}")]
    Meaning {
        /// Which record.
        lsn: Lsn,
        /// What does not hold.
        why: Flaw,
    },
}

/// What of the records is asked for.
pub struct Asked<'a> {
    /// Whether a record may be, by what it says itself.
    pub record: &'a (dyn Fn(&Record) -> bool + Sync),
    /// Whether a path is, if not all are.
    pub path: Option<&'a IsAsked<'a>>,
}

/// Whether a path is asked for.
pub type IsAsked<'a> = dyn Fn(&[u8]) -> bool + 'a;

/// Knows what the records so far have told of names and programs.
#[derive(Default)]
pub struct Teller {
    names: Names,
    programs: HashMap<u32, Arc<[u8]>>,
    next: Lsn,
}

impl Teller {
    /// Tells the records from `from` (or from where it left off, if that is
    /// later) to `until`, each once; those up to `durable` are. `visit` gets what
    /// could be told, and for what could not the reason, and says whether to go
    /// on.
    ///
    /// Records before `from` in the same segment are read too: they told what
    /// later ones name.
    pub fn tell(
        &mut self,
        survey: &Survey,
        durable: Lsn,
        range: (Lsn, Lsn),
        visit: &mut dyn FnMut(Result<Event<'_>, Untold>) -> bool,
    ) {
        let all = Asked {
            record: &|_| true,
            path: None,
        };
        self.tell_asked(survey, durable, range, &all, visit);
    }

    /// The same, but what is not asked for may be left out, which is quicker.
    pub fn tell_asked(
        &mut self,
        survey: &Survey,
        durable: Lsn,
        (from, until): (Lsn, Lsn),
        asked: &Asked<'_>,
        visit: &mut dyn FnMut(Result<Event<'_>, Untold>) -> bool,
    ) {
        let mut segments = survey.segments().iter().map(|segment| segment.base);
        let context = segments.rfind(|base| *base <= from).unwrap_or(from);
        let ahead = Ahead {
            survey,
            durable,
            from,
            asked: asked.record,
            by_path: asked.path.is_some(),
        };
        let numbers = (context.max(self.next), until);
        let mut reader = survey.reader();
        thread::scope(|scope| {
            let (sender, batches) = mpsc::sync_channel(AHEAD);
            let ahead = &ahead;
            scope.spawn(move || ahead.read(numbers, &sender));
            for (lsn, read) in batches.into_iter().flatten() {
                self.next = lsn.next();
                let go_on = match read {
                    Ok(Read::Gap) => {
                        (self.names, self.programs) = Default::default();
                        true
                    }
                    Ok(Read::Heard(record)) => {
                        self.hear(&record);
                        self.learn(&record);
                        true
                    }
                    Ok(Read::Told(told)) => self.event(told, visit),
                    Ok(Read::Of(inode)) if !self.is_asked(inode, asked) => true,
                    Ok(Read::Of(_)) => match ahead.told(lsn, &mut reader) {
                        Ok(told) => self.event(told, visit),
                        Err(error) => visit(Err(error)),
                    },
                    Err(error) => visit(Err(error)),
                };
                if !go_on {
                    break;
                }
            }
        });
    }

    fn is_asked(&self, inode: InodeNo, asked: &Asked<'_>) -> bool {
        let path = asked.path.zip(self.names.path(inode));
        path.is_some_and(|(is_asked, path)| is_asked(&path))
    }

    /// What a record takes for granted.
    fn hear(&mut self, record: &Record) {
        let Record::Operation(operation) = record else {
            return;
        };
        self.names.hear(operation);
        if let (Some(by), Some(program)) = (operation.op.by(), &operation.program) {
            self.programs.insert(by.pid, program.as_slice().into());
        }
    }

    /// What later records take for granted.
    fn learn(&mut self, record: &Record) {
        let Record::Operation(operation) = record else {
            return;
        };
        self.names.learn(operation);
    }

    fn event(
        &mut self,
        told: Told,
        visit: &mut dyn FnMut(Result<Event<'_>, Untold>) -> bool,
    ) -> bool {
        self.hear(&told.record);
        let (mut path, mut to, mut of, mut program, mut deleted) = (None, None, None, None, false);
        if let Record::Operation(operation) = &told.record {
            let op = &operation.op;
            (path, to) = self.paths(op);
            if let Op::Link { inode, .. } = op {
                of = self.names.path(*inode);
            }
            let alone = op.directories().next().is_none();
            deleted = alone && op.inode().is_some_and(|inode| self.names.is_deleted(inode));
            program = op.by().and_then(|by| self.programs.get(&by.pid)).cloned();
        }
        let go_on = visit(Ok(Event {
            frame: &told.frame,
            record: &told.record,
            path,
            deleted,
            to,
            of,
            program,
            durable: told.durable,
        }));
        self.learn(&told.record);
        go_on
    }

    /// What an operation acts on, and of a rename the new name.
    fn paths(&self, op: &Op) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        match op {
            Op::Create { at, .. }
            | Op::Link { at, .. }
            | Op::Unlink { at, .. }
            | Op::Rmdir { at, .. } => (self.names.path_in(at), None),
            Op::Rename { from, to, .. } => (self.names.path_in(from), self.names.path_in(to)),
            _ => (op.inode().and_then(|inode| self.names.path(inode)), None),
        }
    }
}

/// What is read while the records before are told.
struct Ahead<'a> {
    survey: &'a Survey,
    durable: Lsn,
    /// Those before are not told.
    from: Lsn,
    asked: &'a (dyn Fn(&Record) -> bool + Sync),
    by_path: bool,
}

impl Ahead<'_> {
    /// Reads and understands records while those before are told: half of the
    /// work of a listing. Ends when nobody takes them any more.
    fn read(&self, (start, until): (Lsn, Lsn), sender: &SyncSender<Vec<Numbered>>) {
        let mut reader = self.survey.reader();
        let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
        let numbers = self.survey.numbers(start);
        let mut next = start;
        for lsn in numbers.take_while(|lsn| *lsn <= until) {
            if lsn != next {
                batch.push((lsn.prev(), Ok(Read::Gap)));
            }
            next = lsn.next();
            let read = match reader.see(lsn) {
                Err(error @ log::Error::Recycled(_)) => {
                    next = lsn; // what follows comes behind a gap
                    Err(error.into())
                }
                Ok(seen) if seen.kind() == Kind::Mark => continue,
                Ok(seen) => self.understand(lsn, &seen),
                Err(error) => Err(error.into()),
            };
            match read {
                Ok(None) => continue,
                Err(_) if lsn < self.from => continue,
                Ok(Some(read)) => {
                    bytes += read.len();
                    batch.push((lsn, Ok(read)));
                }
                Err(error) => batch.push((lsn, Err(error))),
            }
            if batch.len() == BATCH || bytes >= BATCH_BYTES {
                bytes = 0;
                let full = mem::replace(&mut batch, Vec::with_capacity(BATCH));
                if sender.send(full).is_err() {
                    return;
                }
            }
        }
        let _ = sender.send(batch);
    }

    /// What is needed of a record, if anything is.
    fn understand(&self, lsn: Lsn, seen: &Seen<'_>) -> Result<Option<Read>, Untold> {
        let record = decode(lsn, seen)?;
        let is_asked = lsn >= self.from && (self.asked)(&record);
        let names = match &record {
            Record::Operation(operation) => operation.tells_names(),
            _ => false,
        };
        let of = record.op().and_then(Op::inode);
        Ok(match (is_asked, names, of) {
            (false, false, _) => None,
            (false, true, _) => Some(Read::Heard(record)),
            (true, false, Some(inode)) if self.by_path => Some(Read::Of(inode)),
            _ => Some(Read::Told(self.told_of(record, seen))),
        })
    }

    /// Reads a record again that turned out to be asked for.
    fn told(&self, lsn: Lsn, reader: &mut Reader<'_>) -> Result<Told, Untold> {
        let seen = reader.see(lsn)?;
        Ok(self.told_of(decode(lsn, &seen)?, &seen))
    }

    fn told_of(&self, record: Record, seen: &Seen<'_>) -> Told {
        let frame = seen.frame();
        let durable = frame.lsn <= self.durable;
        Told {
            record,
            frame,
            durable,
        }
    }
}

fn decode(lsn: Lsn, seen: &Seen<'_>) -> Result<Record, Untold> {
    Record::decode_meaning(seen.meta()).map_err(|why| Untold::Meaning { lsn, why })
}

/// A record's number, and what was read of it.
type Numbered = (Lsn, Result<Read, Untold>);

/// What is handed on of a record. (A box for each would cost more than the copies
/// do: another thread would free it.)
#[allow(clippy::large_enum_variant)]
enum Read {
    /// It is to be told.
    Told(Told),
    /// It is not; but what it says of names, later ones take for granted.
    Heard(Record),
    /// There are none before it: names may have changed meanwhile, and the
    /// segment that begins here tells anew what it names.
    Gap,
    /// It says nothing of names, and is to be told if its inode's is asked for.
    Of(InodeNo),
}

impl Read {
    /// About how many bytes it holds.
    fn len(&self) -> usize {
        match self {
            Read::Told(told) => told.frame.meta.len(),
            Read::Heard(_) | Read::Of(_) | Read::Gap => mem::size_of::<Record>(),
        }
    }
}

/// A record that was understood.
struct Told {
    record: Record,
    frame: Frame,
    durable: bool,
}

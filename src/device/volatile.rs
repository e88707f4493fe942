//! The power-cut device: a write cache that forgets.
//!
//! A [`Host`] keeps one image and one folder in memory, shows what was
//! written (as a page cache would), and notes every change as an [`Event`].
//! What a power cut would leave at any point of that trace is the business
//! of [`Frontier`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::crash::{Frontier, Plan};
use super::fault::{Asked, Call, Faults, On, Outcome};
use super::memory::Pages;
use super::{Dir, Disk};

/// A file of a host, also after its name is gone; 0 is the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

impl FileId {
    /// The image.
    pub const IMAGE: FileId = FileId(0);
}

/// What stands on the disks of a host.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The image.
    pub image: Pages,
    /// The folder's files.
    pub files: BTreeMap<String, Pages>,
}

/// One change that a host saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes written; `mapped` if through a memory map.
    Write {
        /// Where.
        file: FileId,
        /// From which byte on.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
        /// A store into a map: no system call, so no point to cut at.
        mapped: bool,
    },
    /// The file's length changed (also by a write past its end).
    Len {
        /// Whose.
        file: FileId,
        /// To what.
        len: u64,
    },
    /// All earlier writes and lengths of the file are stable.
    Sync {
        /// Which.
        file: FileId,
    },
    /// A file has this name now, and no other.
    Name {
        /// Which.
        file: FileId,
        /// What it is called.
        name: String,
    },
    /// Nothing has this name any more.
    Unname {
        /// Which file had it.
        file: FileId,
        /// The name.
        name: String,
    },
    /// All earlier names are stable.
    SyncNames,
    /// A sync of the file failed and the host forgot what was to be written:
    /// reads still show it, but no later sync will bring it to the disk. (Its
    /// length will be: that is no page.)
    Forget {
        /// Whose bytes.
        file: FileId,
    },
    /// Bits of a byte have changed on the medium, or in what is on its way there.
    Rot {
        /// Where.
        file: FileId,
        /// Which byte.
        at: u64,
        /// Which bits.
        mask: u8,
    },
}

/// A host in memory.
pub struct Host {
    live: Mutex<Live>,
    faults: Faults,
}

struct Live {
    start: Snapshot,
    names: BTreeMap<String, FileId>,
    files: Vec<Pages>,
    trace: Vec<Event>,
}

impl Host {
    /// A host whose disks hold this, safely.
    pub fn new(start: Snapshot) -> Arc<Self> {
        let files = std::iter::once(start.image.clone())
            .chain(start.files.values().cloned())
            .collect();
        let names = start.files.keys().cloned().zip((1..).map(FileId)).collect();
        let live = Live {
            start,
            names,
            files,
            trace: Vec::new(),
        };
        Arc::new(Host {
            live: Mutex::new(live),
            faults: Faults::default(),
        })
    }

    /// What another host was after its first `events` changes: as a process
    /// killed there leaves it, with all that was pending still pending.
    pub fn killed_at(other: &Host, events: usize) -> Arc<Self> {
        let host = Host::new(other.start());
        let mut live = host.live.lock();
        for event in &other.live.lock().trace[..events] {
            live.replay(event);
        }
        drop(live);
        host
    }

    /// The image.
    pub fn image(self: &Arc<Self>) -> Arc<dyn Disk> {
        Arc::new(VolatileDisk {
            host: self.clone(),
            file: FileId::IMAGE,
        })
    }

    /// The folder.
    pub fn folder(self: &Arc<Self>) -> Arc<dyn Dir> {
        Arc::new(VolatileDir { host: self.clone() })
    }

    /// How many changes there have been.
    pub fn events(&self) -> usize {
        self.live.lock().trace.len()
    }

    /// The changes so far.
    pub fn trace(&self) -> Vec<Event> {
        self.live.lock().trace.clone()
    }

    /// What stood here at the beginning.
    pub fn start(&self) -> Snapshot {
        self.live.lock().start.clone()
    }

    /// What is left when only processes die: everything.
    pub fn kill(&self) -> Snapshot {
        let live = self.live.lock();
        let named = live
            .names
            .iter()
            .map(|(name, file)| (name.clone(), live.files[file.0 as usize].clone()));
        Snapshot {
            image: live.files[0].clone(),
            files: named.collect(),
        }
    }

    /// What is left when the power fails now; the seed decides the fate of
    /// what was not synced.
    pub fn cut(&self, seed: u64) -> Snapshot {
        let (start, trace) = (self.start(), self.trace());
        let mut frontier = Frontier::new(&start);
        trace.iter().for_each(|event| frontier.pass(event));
        frontier.crash(&Plan::random(frontier.pending(), seed)).0
    }

    /// What is wrong with it: the faults that its calls meet. (It is never slow.)
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The bits of a byte change on the medium.
    pub fn rot(&self, file: FileId, at: u64, mask: u8) {
        self.live.lock().rot(file, at, mask);
    }
}

impl Live {
    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8], mapped: bool) {
        let pages = &mut self.files[file.0 as usize];
        let before = pages.len();
        pages.write(bytes, offset);
        let len = pages.len();
        self.trace.push(Event::Write {
            file,
            offset,
            bytes: bytes.into(),
            mapped,
        });
        if len != before {
            self.trace.push(Event::Len { file, len });
        }
    }

    fn set_len(&mut self, file: FileId, len: u64) {
        let pages = &mut self.files[file.0 as usize];
        if len < pages.len() {
            let gone = vec![0; (pages.len() - len) as usize];
            self.trace.push(Event::Write {
                file,
                offset: len,
                bytes: gone.into(),
                mapped: false,
            });
        }
        if len != pages.len() {
            self.trace.push(Event::Len { file, len });
        }
        self.files[file.0 as usize].set_len(len);
    }

    /// Takes over another host's change.
    fn replay(&mut self, event: &Event) {
        match event {
            Event::Write {
                file,
                offset,
                bytes,
                ..
            } => self.files[file.0 as usize].write(bytes, *offset),
            Event::Len { file, len } => self.files[file.0 as usize].set_len(*len),
            Event::Name { file, name } => {
                let files = self.files.len().max(file.0 as usize + 1);
                self.files.resize(files, Pages::default());
                self.names.retain(|_, named| named != file);
                self.names.insert(name.clone(), *file);
            }
            Event::Unname { name, .. } => drop(self.names.remove(name)),
            Event::Rot { file, at, mask } => self.files[file.0 as usize].flip(*at, *mask),
            Event::Sync { .. } | Event::SyncNames | Event::Forget { .. } => {}
        }
        self.trace.push(event.clone());
    }

    fn rot(&mut self, file: FileId, at: u64, mask: u8) {
        let pages = &mut self.files[file.0 as usize];
        if at < pages.len() {
            pages.flip(at, mask);
            self.trace.push(Event::Rot { file, at, mask });
        }
    }

    /// The file in the words of a fault.
    fn on(&self, file: FileId) -> On<'_> {
        let named = || self.names.iter().find(|(_, named)| **named == file);
        match file {
            FileId::IMAGE => On::Image,
            _ => On::File(named().map_or("", |(name, _)| name)),
        }
    }

    /// By how much a file grows that is to reach to `end`.
    fn growth(&self, file: FileId, end: u64) -> u64 {
        end.saturating_sub(self.files[file.0 as usize].len())
    }

    fn find(&self, name: &str) -> io::Result<FileId> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A file of a [`Host`].
struct VolatileDisk {
    host: Arc<Host>,
    file: FileId,
}

impl VolatileDisk {
    fn pages<T>(&self, look: impl FnOnce(&Pages) -> T) -> T {
        look(&self.host.live.lock().files[self.file.0 as usize])
    }

    /// A call that the host may refuse; `make` it.
    fn call<T>(
        &self,
        call: Call,
        offset: u64,
        len: u64,
        end: u64,
        make: impl FnOnce(&mut Live, Outcome) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut live = self.host.live.lock();
        let asked = Asked {
            call,
            on: live.on(self.file),
            offset,
            len,
            grows: live.growth(self.file, end),
        };
        let outcome = self.host.faults.admit(&asked).outcome;
        make(&mut live, outcome)
    }

    /// A change of length or space; `end` is what the file has to reach to.
    fn space(&self, end: u64, make: impl FnOnce(&mut Live)) -> io::Result<()> {
        self.call(Call::Space, 0, 0, end, |live, outcome| {
            outcome.check()?;
            make(live);
            Ok(())
        })
    }
}

impl Disk for VolatileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages(Pages::len))
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let len = buf.len() as u64;
        self.call(Call::Read, offset, len, 0, |live, outcome| {
            outcome.check()?;
            if let Outcome::Rot { at, mask } = outcome {
                live.rot(self.file, at, mask);
            }
            let pages = &live.files[self.file.0 as usize];
            match offset.checked_add(len) {
                Some(end) if end <= pages.len() => {
                    pages.read(buf, offset);
                    Ok(())
                }
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let len = buf.len() as u64;
        self.call(Call::Write, offset, len, offset + len, |live, outcome| {
            let done = match outcome {
                Outcome::Fail { part, .. } => &buf[..part as usize],
                _ => buf,
            };
            if !done.is_empty() {
                live.write(self.file, offset, done, false);
            }
            outcome.check()
        })
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        // One system call, one event.
        self.write_at(&bufs.concat(), offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.space(len, |live| live.set_len(self.file, len))
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        self.space(end, |live| {
            if live.growth(self.file, end) > 0 {
                live.set_len(self.file, end);
            }
        })
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.space(0, |live| {
            let end = (offset + len).min(live.files[self.file.0 as usize].len());
            if offset < end {
                live.write(self.file, offset, &vec![0; (end - offset) as usize], false);
            }
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.call(Call::Sync, 0, 0, 0, |live, outcome| {
            let file = self.file;
            match outcome {
                Outcome::Forget { .. } => live.trace.push(Event::Forget { file }),
                Outcome::Lie | Outcome::Fail { .. } => {}
                Outcome::Go | Outcome::Rot { .. } => live.trace.push(Event::Sync { file }),
            }
            outcome.check()
        })
    }
}

/// The folder of a [`Host`].
struct VolatileDir {
    host: Arc<Host>,
}

impl VolatileDir {
    fn disk(&self, file: FileId) -> Arc<dyn Disk> {
        Arc::new(VolatileDisk {
            host: self.host.clone(),
            file,
        })
    }

    /// A call on the folder that the host may refuse; `make` it.
    fn call<T>(
        &self,
        call: Call,
        make: impl FnOnce(&mut Live, Outcome) -> io::Result<T>,
    ) -> io::Result<T> {
        let asked = Asked {
            call,
            on: On::Folder,
            offset: 0,
            len: 0,
            grows: 0,
        };
        let outcome = self.host.faults.admit(&asked).outcome;
        outcome.check()?;
        make(&mut self.host.live.lock(), outcome)
    }
}

impl Dir for VolatileDir {
    fn list(&self) -> io::Result<Vec<String>> {
        self.call(Call::Read, |live, _| {
            Ok(live.names.keys().cloned().collect())
        })
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let file = self.call(Call::Read, |live, _| live.find(name))?;
        Ok(self.disk(file))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let file = self.call(Call::Name, |live, _| {
            if live.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = FileId(live.files.len() as u32);
            live.files.push(Pages::default());
            live.names.insert(name.to_owned(), file);
            live.trace.push(Event::Name {
                file,
                name: name.to_owned(),
            });
            Ok(file)
        })?;
        Ok(self.disk(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(Call::Name, |live, _| {
            let file = live.find(from)?;
            live.names.remove(from);
            live.names.insert(to.to_owned(), file);
            live.trace.push(Event::Name {
                file,
                name: to.to_owned(),
            });
            Ok(())
        })
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.call(Call::Name, |live, _| {
            let file = live.find(name)?;
            live.names.remove(name);
            live.trace.push(Event::Unname {
                file,
                name: name.to_owned(),
            });
            Ok(())
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.call(Call::Sync, |live, outcome| {
            if outcome != Outcome::Lie {
                live.trace.push(Event::SyncNames);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;

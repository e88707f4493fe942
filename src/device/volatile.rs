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
use super::memory::Pages;
use super::{Dir, Disk, Map};

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
    /// reads still show it, but no later sync will bring it to the disk.
    Forget {
        /// Whose bytes.
        file: FileId,
    },
}

/// A kind of call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reading bytes.
    Read,
    /// Writing, changing a length, setting space aside.
    Write,
    /// A sync of a file or of the folder.
    Sync,
    /// Creating, renaming, removing a name.
    Name,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What fails.
    pub call: Call,
    /// How many such calls succeed before.
    pub after: usize,
    /// How many fail then; the later ones succeed again.
    pub times: usize,
    /// With which error: `libc::EIO`, `libc::ENOSPC`.
    pub errno: i32,
    /// Whether a failing sync makes the host forget what was dirty, as Linux
    /// does, or leaves it dirty.
    pub forget: bool,
}

/// A host in memory.
pub struct Host(Mutex<Live>);

struct Live {
    start: Snapshot,
    names: BTreeMap<String, FileId>,
    files: Vec<Pages>,
    trace: Vec<Event>,
    failing: bool,
    faults: Vec<Fault>,
}

impl Host {
    /// A host whose disks hold this, safely.
    pub fn new(start: Snapshot) -> Arc<Self> {
        let files = std::iter::once(start.image.clone())
            .chain(start.files.values().cloned())
            .collect();
        let names = start.files.keys().cloned().zip((1..).map(FileId)).collect();
        Arc::new(Host(Mutex::new(Live {
            start,
            names,
            files,
            trace: Vec::new(),
            failing: false,
            faults: Vec::new(),
        })))
    }

    /// What another host was after its first `events` changes: as a process
    /// killed there leaves it, with all that was pending still pending.
    pub fn killed_at(other: &Host, events: usize) -> Arc<Self> {
        let host = Host::new(other.start());
        let mut live = host.0.lock();
        for event in &other.0.lock().trace[..events] {
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
        self.0.lock().trace.len()
    }

    /// The changes so far.
    pub fn trace(&self) -> Vec<Event> {
        self.0.lock().trace.clone()
    }

    /// What stood here at the beginning.
    pub fn start(&self) -> Snapshot {
        self.0.lock().start.clone()
    }

    /// What is left when only processes die: everything.
    pub fn kill(&self) -> Snapshot {
        let live = self.0.lock();
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

    /// From now on every sync fails (or none does).
    pub fn fail_syncs(&self, failing: bool) {
        self.0.lock().failing = failing;
    }

    /// Arms a failure.
    pub fn fail(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// Disarms all failures; tells whether one of them had not come yet.
    pub fn heal(&self) -> bool {
        let mut live = self.0.lock();
        live.failing = false;
        live.faults.drain(..).any(|fault| fault.times > 0)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Live) -> io::Result<T>) -> io::Result<T> {
        change(&mut self.0.lock())
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
            Event::Sync { .. } | Event::SyncNames | Event::Forget { .. } => {}
        }
        self.trace.push(event.clone());
    }

    /// Fails if a fault is due; tells whether a failing sync forgets.
    fn admit(&mut self, call: Call) -> Result<(), (io::Error, bool)> {
        for fault in self.faults.iter_mut().filter(|fault| fault.call == call) {
            match (fault.after, fault.times) {
                (0, 0) => {}
                (0, _) => {
                    fault.times -= 1;
                    return Err((io::Error::from_raw_os_error(fault.errno), fault.forget));
                }
                _ => fault.after -= 1,
            }
        }
        Ok(())
    }

    fn allow(&mut self, call: Call) -> io::Result<()> {
        self.admit(call).map_err(|(error, _)| error)
    }

    fn sync(&mut self, event: Event) -> io::Result<()> {
        if self.failing {
            return Err(io::Error::other("the simulated disk fails to sync"));
        }
        if let Err((error, forget)) = self.admit(Call::Sync) {
            if let (true, Event::Sync { file }) = (forget, event) {
                self.trace.push(Event::Forget { file });
            }
            return Err(error);
        }
        self.trace.push(event);
        Ok(())
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
        look(&self.host.0.lock().files[self.file.0 as usize])
    }
}

impl Disk for VolatileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages(Pages::len))
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.host.change(|live| live.allow(Call::Read))?;
        self.pages(|pages| match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= pages.len() => {
                pages.read(buf, offset);
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.host.change(|live| {
            live.allow(Call::Write)?;
            live.write(self.file, offset, buf, false);
            Ok(())
        })
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        // One system call, one event.
        self.write_at(&bufs.concat(), offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.host.change(|live| {
            live.allow(Call::Write)?;
            live.set_len(self.file, len);
            Ok(())
        })
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.host.change(|live| {
            live.allow(Call::Write)?;
            if offset + len > live.files[self.file.0 as usize].len() {
                live.set_len(self.file, offset + len);
            }
            Ok(())
        })
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.host.change(|live| {
            let end = (offset + len).min(live.files[self.file.0 as usize].len());
            if offset < end {
                live.write(self.file, offset, &vec![0; (end - offset) as usize], false);
            }
            Ok(())
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.host
            .change(|live| live.sync(Event::Sync { file: self.file }))
    }
    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        if len > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let disk = VolatileDisk {
            host: self.host.clone(),
            file: self.file,
        };
        Ok(Box::new(VolatileMap {
            disk,
            len: len as usize,
        }))
    }
}

struct VolatileMap {
    disk: VolatileDisk,
    len: usize,
}

impl Map for VolatileMap {
    fn len(&self) -> usize {
        self.len
    }
    fn load(&self, offset: usize, buf: &mut [u8]) {
        assert!(offset + buf.len() <= self.len);
        self.disk.pages(|pages| pages.read(buf, offset as u64));
    }
    fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        self.disk
            .host
            .0
            .lock()
            .write(self.disk.file, offset as u64, bytes, true);
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
}

impl Dir for VolatileDir {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.host.0.lock().names.keys().cloned().collect())
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.host.0.lock().find(name).map(|file| self.disk(file))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let file = self.host.change(|live| {
            live.allow(Call::Name)?;
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
        self.host.change(|live| {
            live.allow(Call::Name)?;
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
        self.host.change(|live| {
            live.allow(Call::Name)?;
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
        self.host.change(|live| live.sync(Event::SyncNames))
    }
}

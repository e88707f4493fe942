//! A power switch under a live mount: the write cache that forgets, over the
//! host's own disks.
//!
//! ```text
//!   reads ◄── pending changes ◄── stable contents (the disks below)
//!                   │ sync of a file or of the folder
//!                   ▼
//!             the disks below
//! ```
//! What was not synced lies here alone, in memory and beyond a limit in a
//! scratch file; the disks below hold what is stable. [`PowerCut::cut`] gives
//! each pending change its fate, exactly as [`super::crash`] does in a
//! simulation, and leaves the disks below as the machine would have found
//! them. So a daemon that is merely killed loses what was pending too.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::crash::{self, Fate, Outcome, Plan, SECTOR};
use super::spill::{Aside, Spill};
use super::volatile::FileId;
use super::{Dir, Disk, Map};

const PAGE: u64 = 4096;
/// Pending bytes that are kept in memory.
const LIMIT: usize = 64 << 20;
/// How a file is called below until the folder is synced.
const UNNAMED: &str = "unsynced-";

/// The disks of one mount, with the switch.
pub struct PowerCut(Mutex<State>);

struct State {
    off: bool,
    below: Arc<dyn Dir>,
    files: Vec<File>,
    /// What the names mean, as a process sees it.
    names: BTreeMap<String, FileId>,
    /// Changes that are not stable, by the order in which they were made.
    pending: BTreeMap<u64, Change>,
    next: u64,
    spill: Spill,
}

struct File {
    disk: Arc<dyn Disk>,
    /// Its name below; `None` for the image, and for what has been removed.
    name: Option<String>,
    /// Length as a process sees it, and as it is stable.
    len: u64,
    stable: u64,
    /// For each page the pending writes that show in it, oldest first.
    pages: HashMap<u64, Vec<u64>>,
}

enum Change {
    Write {
        file: FileId,
        offset: u64,
        bytes: Aside,
    },
    Len {
        file: FileId,
        len: u64,
    },
    Name {
        file: FileId,
        name: String,
    },
    Unname {
        file: FileId,
        name: String,
    },
}

/// What a pending change is, for whoever decides its fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A write to the image.
    Image,
    /// A write to a file of the folder: its name, and how the bytes begin.
    Store {
        /// The name that it has now.
        name: String,
        /// The first bytes, at most [`HEAD`].
        head: Vec<u8>,
    },
    /// A length or a name.
    About,
}

/// So many bytes of a pending write are shown.
pub const HEAD: usize = 32;

/// What a cut did to the pending changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Changes that got to the disk.
    pub kept: usize,
    /// Changes that did not.
    pub lost: usize,
    /// Writes of which a part did, or garbage.
    pub torn: usize,
}

fn is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl PowerCut {
    /// Over an image and those files of a folder that are `ours`, all of it
    /// stable. `scratch` is an empty file that nobody else uses.
    pub fn over(
        image: Arc<dyn Disk>,
        below: Arc<dyn Dir>,
        ours: impl Fn(&str) -> bool,
        scratch: Arc<dyn Disk>,
    ) -> io::Result<Arc<Self>> {
        let mut state = State {
            off: false,
            below,
            files: Vec::new(),
            names: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            spill: Spill::new(scratch, LIMIT),
        };
        state.add(image, None)?;
        let (left_over, names): (Vec<_>, Vec<_>) = (state.below.list()?.into_iter())
            .filter(|name| ours(name) || name.starts_with(UNNAMED))
            .partition(|name| name.starts_with(UNNAMED));
        // Of a daemon that was killed: nobody had synced them.
        for name in left_over {
            state.below.remove(&name)?;
        }
        for name in names {
            let disk = state.below.open(&name)?;
            let file = state.add(disk, Some(name.clone()))?;
            state.names.insert(name, file);
        }
        Ok(Arc::new(PowerCut(Mutex::new(state))))
    }

    /// The image.
    pub fn image(self: &Arc<Self>) -> Arc<dyn Disk> {
        self.disk(FileId::IMAGE)
    }

    /// The folder.
    pub fn folder(self: &Arc<Self>) -> Arc<dyn Dir> {
        Arc::new(Folder(self.clone()))
    }

    /// Cuts the power now: `choose` decides from what is pending. Everything
    /// fails afterwards. Says what happened when the disks below are as they
    /// would be found, and stable.
    pub fn cut(&self, choose: impl FnOnce(&[What]) -> Plan) -> io::Result<Cut> {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.off, true) {
            return Err(is_off());
        }
        let plan = choose(&state.summary()?);
        state.crash(&plan)
    }

    /// Everything pending becomes stable, names included: the end of a mount
    /// without a cut.
    pub fn settle(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.on()?;
        for file in (0..state.files.len() as u32).map(FileId) {
            state.sync(file)?;
            state.file(file).disk.sync()?;
        }
        state.sync_names()?;
        state.below.sync()
    }

    fn disk(self: &Arc<Self>, file: FileId) -> Arc<dyn Disk> {
        Arc::new(Switched {
            switch: self.clone(),
            file,
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock();
        state.on()?;
        act(&mut state)
    }
}

impl State {
    fn on(&self) -> io::Result<()> {
        if self.off { Err(is_off()) } else { Ok(()) }
    }

    fn file(&mut self, file: FileId) -> &mut File {
        &mut self.files[file.0 as usize]
    }

    fn add(&mut self, disk: Arc<dyn Disk>, name: Option<String>) -> io::Result<FileId> {
        let len = disk.len()?;
        self.files.push(File {
            disk,
            name,
            len,
            stable: len,
            pages: HashMap::new(),
        });
        Ok(FileId(self.files.len() as u32 - 1))
    }

    fn note(&mut self, change: Change) -> u64 {
        let number = self.next;
        self.pending.insert(number, change);
        self.next += 1;
        number
    }

    fn find(&self, name: &str) -> io::Result<FileId> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, file: FileId, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let about = &self.files[file.0 as usize];
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= about.len => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        let below = about.disk.len()?.saturating_sub(offset);
        let there = below.min(buf.len() as u64) as usize;
        about.disk.read_at(&mut buf[..there], offset)?;
        buf[there..].fill(0);
        for page in offset / PAGE..(offset + buf.len() as u64).div_ceil(PAGE) {
            for number in about.pages.get(&page).into_iter().flatten() {
                self.show(*number, page, buf, offset)?;
            }
        }
        Ok(())
    }

    /// Lays the part of a pending write that falls into `page` over `buf`.
    fn show(&self, number: u64, page: u64, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let Some(Change::Write {
            offset: start,
            bytes,
            ..
        }) = self.pending.get(&number)
        else {
            return Ok(());
        };
        let from = (*start).max(page * PAGE).max(offset);
        let to = (start + bytes.len() as u64)
            .min((page + 1) * PAGE)
            .min(offset + buf.len() as u64);
        if from >= to {
            return Ok(());
        }
        let into = &mut buf[(from - offset) as usize..(to - offset) as usize];
        self.spill.read(bytes, (from - start) as usize, into)
    }

    fn write(&mut self, file: FileId, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let aside = self.spill.put(bytes)?;
        let number = self.note(Change::Write {
            file,
            offset,
            bytes: aside,
        });
        let about = self.file(file);
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let writes = about.pages.entry(page).or_default();
            if offset <= page * PAGE && end >= (page + 1) * PAGE {
                writes.clear();
            }
            writes.push(number);
        }
        if end > about.len {
            self.grow(file, end);
        }
        Ok(())
    }

    fn grow(&mut self, file: FileId, len: u64) {
        self.file(file).len = len;
        self.note(Change::Len { file, len });
    }

    fn set_len(&mut self, file: FileId, len: u64) -> io::Result<()> {
        let before = self.file(file).len;
        if len < before {
            // What is cut off must not come back when the file grows again.
            self.write(file, &vec![0; (before - len) as usize], len)?;
        }
        if len != before {
            self.grow(file, len);
        }
        Ok(())
    }

    /// Brings a file's pending changes down.
    fn sync(&mut self, file: FileId) -> io::Result<()> {
        let of_file = |change: &Change| match change {
            Change::Write { file: of, .. } | Change::Len { file: of, .. } => *of == file,
            Change::Name { .. } | Change::Unname { .. } => false,
        };
        let numbers: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, c)| of_file(c))
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            if let Some(Change::Write { offset, bytes, .. }) = self.pending.get(&number) {
                let (offset, bytes) = (*offset, self.spill.bytes(bytes)?);
                self.file(file).disk.write_at(&bytes, offset)?;
            }
            self.forget(number);
        }
        let about = self.file(file);
        about.pages.clear();
        if about.stable != about.len {
            about.disk.set_len(about.len)?;
            about.stable = about.len;
        }
        Ok(())
    }

    fn forget(&mut self, number: u64) {
        if let Some(Change::Write { bytes, .. }) = self.pending.remove(&number) {
            self.spill.release(bytes);
        }
    }

    /// Gives the files below the names that they have here.
    fn sync_names(&mut self) -> io::Result<()> {
        self.pending
            .retain(|_, change| !matches!(change, Change::Name { .. } | Change::Unname { .. }));
        let names = self.names.clone();
        self.rename_below(&names)
    }

    fn rename_below(&mut self, names: &BTreeMap<String, FileId>) -> io::Result<()> {
        let wanted: HashMap<FileId, &String> =
            names.iter().map(|(name, file)| (*file, name)).collect();
        // Out of each other's way first, then to their places.
        for number in 1..self.files.len() as u32 {
            let (below, file) = (self.below.clone(), self.file(FileId(number)));
            let Some(name) = file.name.take() else {
                continue;
            };
            match wanted.get(&FileId(number)) {
                Some(wanted) if **wanted == name => file.name = Some(name),
                Some(_) => {
                    let aside = unnamed(FileId(number));
                    below.rename(&name, &aside)?;
                    file.name = Some(aside);
                }
                None => below.remove(&name)?,
            }
        }
        for (name, number) in names {
            let (below, file) = (self.below.clone(), self.file(*number));
            if let Some(now) = file.name.as_ref().filter(|now| *now != name) {
                below.rename(now, name)?;
                file.name = Some(name.clone());
            }
        }
        Ok(())
    }

    fn summary(&self) -> io::Result<Vec<What>> {
        let named: HashMap<FileId, &String> = self
            .names
            .iter()
            .map(|(name, file)| (*file, name))
            .collect();
        let what = |change: &Change| match change {
            Change::Write { file, .. } if *file == FileId::IMAGE => Ok(What::Image),
            Change::Write { file, bytes, .. } => {
                let mut head = vec![0; bytes.len().min(HEAD)];
                self.spill.read(bytes, 0, &mut head)?;
                let name = named
                    .get(file)
                    .map_or(String::new(), |name| (*name).clone());
                Ok(What::Store { name, head })
            }
            _ => Ok(What::About),
        };
        self.pending.values().map(what).collect()
    }

    /// The disks below as a cut with this plan leaves them.
    fn crash(&mut self, plan: &Plan) -> io::Result<Cut> {
        let fate = |n: usize| plan.0.get(n).copied().unwrap_or(Fate::Lost);
        let mut done = Cut::default();
        let mut outcomes: HashMap<(FileId, u64), Outcome> = HashMap::new();
        let mut lens: HashMap<FileId, u64> = HashMap::new();
        let mut names = self.stable_names();
        for (n, change) in self.pending.values().enumerate() {
            match (fate(n), change) {
                (Fate::Lost, _) => done.lost += 1,
                (Fate::Torn(_), Change::Write { .. }) => done.torn += 1,
                (Fate::Torn(_), _) => done.lost += 1,
                (Fate::Kept, _) => done.kept += 1,
            }
            match (change, fate(n)) {
                (
                    Change::Write {
                        file,
                        offset,
                        bytes,
                    },
                    fate,
                ) => {
                    let sectors = crash::sectors(*offset, bytes.len());
                    outcomes.extend(
                        sectors.filter_map(|at| Some(((*file, at), fate.of_sector(at, n)?))),
                    );
                }
                (_, Fate::Lost | Fate::Torn(_)) => {}
                (Change::Len { file, len }, Fate::Kept) => drop(lens.insert(*file, *len)),
                (Change::Name { file, name }, Fate::Kept) => {
                    names.retain(|_, named| named != file);
                    names.insert(name.clone(), *file);
                }
                (Change::Unname { file, name }, Fate::Kept) => {
                    if names.get(name) == Some(file) {
                        names.remove(name);
                    }
                }
            }
        }
        self.write_outcomes(&outcomes)?;
        for number in (0..self.files.len() as u32).map(FileId) {
            let file = self.file(number);
            // Sectors may have been written past the end: they are not seen.
            let len = lens.get(&number).copied().unwrap_or(file.stable);
            if file.disk.len()? != len {
                file.disk.set_len(len)?;
            }
            file.disk.sync()?;
        }
        self.rename_below(&names)?;
        self.below.sync()?;
        Ok(done)
    }

    fn stable_names(&self) -> BTreeMap<String, FileId> {
        (self.files.iter().zip(0..))
            .filter_map(|(file, number)| Some((file.name.clone()?, FileId(number))))
            .filter(|(name, _)| !name.starts_with(UNNAMED))
            .collect()
    }

    /// Sectors end as after a prefix of their writes, or as garbage.
    fn write_outcomes(&mut self, outcomes: &HashMap<(FileId, u64), Outcome>) -> io::Result<()> {
        for (n, change) in self.pending.values().enumerate() {
            let Change::Write {
                file,
                offset,
                bytes,
            } = change
            else {
                continue;
            };
            let disk = &self.files[file.0 as usize].disk;
            let all = self.spill.bytes(bytes)?;
            for at in crash::sectors(*offset, all.len()) {
                if !matches!(outcomes.get(&(*file, at)), Some(Outcome::Through(last)) if n <= *last)
                {
                    continue;
                }
                let from = (at * SECTOR).max(*offset);
                let to = ((at + 1) * SECTOR).min(offset + all.len() as u64);
                disk.write_at(&all[(from - offset) as usize..(to - offset) as usize], from)?;
            }
        }
        for ((file, at), outcome) in outcomes {
            if let Outcome::Garbage(seed) = outcome {
                let mut sector = [0; SECTOR as usize];
                crash::garbage(&mut sector, *seed);
                self.files[file.0 as usize]
                    .disk
                    .write_at(&sector, at * SECTOR)?;
            }
        }
        Ok(())
    }
}

fn unnamed(file: FileId) -> String {
    format!("{UNNAMED}{}", file.0)
}

/// A file behind the switch.
struct Switched {
    switch: Arc<PowerCut>,
    file: FileId,
}

impl Disk for Switched {
    fn len(&self) -> io::Result<u64> {
        self.switch.with(|state| Ok(state.file(self.file).len))
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.switch.with(|state| state.read(self.file, buf, offset))
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.switch
            .with(|state| state.write(self.file, buf, offset))
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        // One system call, one change.
        self.write_at(&bufs.concat(), offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.switch.with(|state| state.set_len(self.file, len))
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.switch.with(|state| {
            // Below at once, so that a full host says so now and not at a sync.
            let file = state.file(self.file);
            file.disk.allocate(offset, len)?;
            match offset + len > file.len {
                true => state.set_len(self.file, offset + len),
                false => Ok(()),
            }
        })
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.switch.with(|state| {
            let end = (offset + len).min(state.file(self.file).len);
            match offset < end {
                true => state.write(self.file, &vec![0; (end - offset) as usize], offset),
                false => Ok(()),
            }
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.switch.with(|state| state.sync(self.file))
    }
    fn map(&self, len: u64) -> io::Result<Box<dyn Map>> {
        if len > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Box::new(SwitchedMap {
            switch: self.switch.clone(),
            file: self.file,
            len: len as usize,
        }))
    }
}

struct SwitchedMap {
    switch: Arc<PowerCut>,
    file: FileId,
    len: usize,
}

// A map can't fail: without power, or on a full scratch disk, loads give zeros
// and stores go nowhere. Only the disposable index is mapped.
impl Map for SwitchedMap {
    fn len(&self) -> usize {
        self.len
    }
    fn load(&self, offset: usize, buf: &mut [u8]) {
        assert!(offset + buf.len() <= self.len);
        if self
            .switch
            .with(|state| state.read(self.file, buf, offset as u64))
            .is_err()
        {
            buf.fill(0);
        }
    }
    fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        let _ = self
            .switch
            .with(|state| state.write(self.file, bytes, offset as u64));
    }
}

/// The folder behind the switch.
struct Folder(Arc<PowerCut>);

impl Dir for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0
            .with(|state| Ok(state.names.keys().cloned().collect()))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let file = self.0.with(|state| state.find(name))?;
        Ok(self.0.disk(file))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let file = self.0.with(|state| {
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let below = unnamed(FileId(state.files.len() as u32));
            let disk = state.below.create(&below)?;
            let file = state.add(disk, Some(below))?;
            state.names.insert(name.to_owned(), file);
            state.note(Change::Name {
                file,
                name: name.to_owned(),
            });
            Ok(file)
        })?;
        Ok(self.0.disk(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.with(|state| {
            let file = state.find(from)?;
            state.names.remove(from);
            state.names.insert(to.to_owned(), file);
            state.note(Change::Name {
                file,
                name: to.to_owned(),
            });
            Ok(())
        })
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.with(|state| {
            let file = state.find(name)?;
            state.names.remove(name);
            state.note(Change::Unname {
                file,
                name: name.to_owned(),
            });
            Ok(())
        })
    }
    fn sync(&self) -> io::Result<()> {
        self.0.with(State::sync_names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::crash::Frontier;
    use super::super::memory::{MemoryDir, MemoryDisk, Pages};
    use super::super::volatile::{Host, Snapshot};
    use super::*;

    /// A simulated host and a switch over memory disks, doing the same.
    struct Pair {
        host: Arc<Host>,
        below: (Arc<MemoryDisk>, Arc<MemoryDir>),
        switch: Arc<PowerCut>,
        random: fastrand::Rng,
    }

    impl Pair {
        fn seeded(seed: u64) -> Self {
            let image = Pages::from_bytes(&[1; 20_000]);
            let files = BTreeMap::from([("a".to_owned(), Pages::from_bytes(&[2; 9000]))]);
            let below = (
                Arc::new(MemoryDisk::from_pages(image.clone())),
                Arc::new(MemoryDir::from_files(files.clone())),
            );
            let scratch = Arc::new(MemoryDisk::default());
            Pair {
                switch: PowerCut::over(below.0.clone(), below.1.clone(), |_| true, scratch)
                    .unwrap(),
                below,
                host: Host::new(Snapshot { image, files }),
                random: fastrand::Rng::with_seed(seed),
            }
        }

        fn step(&mut self) {
            let (choice, name) = (self.random.u8(..14), self.name());
            let (offset, len) = (self.random.u64(..9000), self.random.usize(1..6000));
            let (other, byte) = (self.name(), self.random.u8(..));
            let act =
                |image: Arc<dyn Disk>, folder: Arc<dyn Dir>| -> Result<Vec<u8>, io::ErrorKind> {
                    let act = || {
                        match choice {
                            0..=2 => image.write_at(&vec![byte; len], offset)?,
                            3 => image.sync()?,
                            4 => drop(folder.create(&name)?),
                            5 => folder.rename(&name, &other)?,
                            6 => folder.remove(&name)?,
                            7 => folder.sync()?,
                            8 => folder.open(&name)?.sync()?,
                            9 => folder.open(&name)?.set_len(offset)?,
                            10 => folder.open(&name)?.map(1)?.store(0, &[byte]),
                            _ => folder.open(&name)?.write_at(&vec![byte; len], offset)?,
                        }
                        let seen = folder.open(&other)?;
                        let mut bytes = vec![0; seen.len()? as usize];
                        seen.read_at(&mut bytes, 0)?;
                        Ok(bytes)
                    };
                    act().map_err(|e: io::Error| e.kind())
                };
            let simulated = act(self.host.image(), self.host.folder());
            let live = act(self.switch.image(), self.switch.folder());
            assert_eq!(simulated, live, "step {choice} of {name}, {other}");
        }

        fn name(&mut self) -> String {
            (*self.random.choice(&["a", "b", "c"]).unwrap()).to_owned()
        }

        fn assert_left(&self, wanted: &Snapshot) {
            let bytes = |files: &BTreeMap<String, Pages>| -> Vec<(String, Vec<u8>)> {
                let files = files.iter();
                files
                    .map(|(name, pages)| (name.clone(), pages.to_vec()))
                    .collect()
            };
            assert!(
                wanted.image.to_vec() == self.below.0.pages().to_vec(),
                "the image"
            );
            assert_eq!(bytes(&wanted.files), bytes(&self.below.1.files()));
        }
    }

    #[test]
    fn a_cut_leaves_what_the_simulated_one_leaves() {
        for seed in 0..200 {
            let mut pair = Pair::seeded(seed);
            let steps = pair.random.usize(..40);
            (0..steps).for_each(|_| pair.step());
            let mut frontier = Frontier::new(&pair.host.start());
            pair.host
                .trace()
                .iter()
                .for_each(|event| frontier.pass(event));
            let plan = Plan::random(frontier.pending(), seed);
            pair.switch
                .cut(|pending| {
                    assert_eq!(pending.len(), frontier.pending().len(), "seed {seed}");
                    plan.clone()
                })
                .unwrap();
            pair.assert_left(&frontier.crash(&plan).0);
        }
    }

    #[test]
    fn without_power_everything_fails() {
        let pair = Pair::seeded(1);
        let (image, folder) = (pair.switch.image(), pair.switch.folder());
        pair.switch.cut(|_| Plan::default()).unwrap();
        assert!(image.read_at(&mut [0], 0).is_err() && image.sync().is_err());
        assert!(folder.list().is_err() && folder.create("x").is_err());
        assert!(pair.switch.cut(|_| Plan::default()).is_err());
    }

    #[test]
    fn settled_disks_hold_what_a_process_saw() {
        for seed in 0..50 {
            let mut pair = Pair::seeded(seed);
            (0..30).for_each(|_| pair.step());
            pair.switch.settle().unwrap();
            pair.assert_left(&pair.host.kill());
        }
    }
}

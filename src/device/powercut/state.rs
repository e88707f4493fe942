//! What a process sees, what is stable, and what lies between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::super::crash::{self, Fate, Outcome, Plan, SECTOR};
use super::super::spill::{Aside, Spill};
use super::super::volatile::FileId;
use super::super::{Dir, Disk};
use super::{Cut, HEAD, What, is_off};

const PAGE: u64 = 4096;
/// Pending bytes that are kept in memory.
const LIMIT: usize = 64 << 20;
/// How a file is called below until the folder is synced.
pub(super) const UNNAMED: &str = "unsynced-";

pub(super) struct State {
    pub off: bool,
    pub below: Arc<dyn Dir>,
    pub files: Vec<File>,
    /// What the names mean, as a process sees it.
    pub names: BTreeMap<String, FileId>,
    /// Changes that are not stable, by the order in which they were made.
    pub pending: BTreeMap<u64, Change>,
    pub next: u64,
    /// Pending changes that a failed sync made the host forget: seen, and
    /// never to be stable.
    pub forgotten: HashSet<u64>,
    pub spill: Spill,
}

pub(super) struct File {
    pub disk: Arc<dyn Disk>,
    /// Its name below; `None` for the image, and for what has been removed.
    pub name: Option<String>,
    /// Length as a process sees it, and as it is stable.
    pub len: u64,
    pub stable: u64,
    /// For each page the pending writes that show in it, oldest first.
    pub pages: HashMap<u64, Vec<u64>>,
}

pub(super) enum Change {
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

impl State {
    pub fn over(below: Arc<dyn Dir>, scratch: Arc<dyn Disk>) -> Self {
        State {
            off: false,
            below,
            files: Vec::new(),
            names: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            forgotten: HashSet::new(),
            spill: Spill::new(scratch, LIMIT),
        }
    }

    pub fn on(&self) -> io::Result<()> {
        if self.off { Err(is_off()) } else { Ok(()) }
    }

    pub fn file(&mut self, file: FileId) -> &mut File {
        &mut self.files[file.0 as usize]
    }

    pub fn add(&mut self, disk: Arc<dyn Disk>, name: Option<String>) -> io::Result<FileId> {
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

    pub fn note(&mut self, change: Change) -> u64 {
        let number = self.next;
        self.pending.insert(number, change);
        self.next += 1;
        number
    }

    pub fn find(&self, name: &str) -> io::Result<FileId> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The name of a file, empty if it has none.
    pub fn called(&self, file: FileId) -> String {
        let found = self.names.iter().find(|(_, named)| **named == file);
        found.map_or(String::new(), |(name, _)| name.clone())
    }

    pub fn read(&self, file: FileId, buf: &mut [u8], offset: u64) -> io::Result<()> {
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
    pub fn show(&self, number: u64, page: u64, buf: &mut [u8], offset: u64) -> io::Result<()> {
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

    pub fn write(&mut self, file: FileId, bytes: &[u8], offset: u64) -> io::Result<()> {
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

    /// Bits of what is stable flip.
    pub fn rot(&mut self, file: FileId, at: u64, mask: u8) -> io::Result<()> {
        let disk = &self.file(file).disk;
        let mut byte = [0];
        if at < disk.len()? {
            disk.read_at(&mut byte, at)?;
            disk.write_at(&[byte[0] ^ mask], at)?;
        }
        Ok(())
    }

    pub fn grow(&mut self, file: FileId, len: u64) {
        self.file(file).len = len;
        self.note(Change::Len { file, len });
    }

    pub fn set_len(&mut self, file: FileId, len: u64) -> io::Result<()> {
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
    pub fn sync(&mut self, file: FileId) -> io::Result<()> {
        for number in self.of(file) {
            if self.forgotten.contains(&number) {
                continue;
            }
            if let Some(Change::Write { offset, bytes, .. }) = self.pending.get(&number) {
                let (offset, bytes) = (*offset, self.spill.bytes(bytes)?);
                self.file(file).disk.write_at(&bytes, offset)?;
            }
            self.forget(number);
        }
        let State {
            files, forgotten, ..
        } = self;
        let about = &mut files[file.0 as usize];
        about.pages.retain(|_, writes| {
            writes.retain(|number| forgotten.contains(number));
            !writes.is_empty()
        });
        if about.stable != about.len {
            about.disk.set_len(about.len)?;
            about.stable = about.len;
        }
        Ok(())
    }

    /// A file's pending changes.
    pub fn of(&self, file: FileId) -> Vec<u64> {
        let of_file = |change: &Change| match change {
            Change::Write { file: of, .. } | Change::Len { file: of, .. } => *of == file,
            Change::Name { .. } | Change::Unname { .. } => false,
        };
        let pending = self.pending.iter();
        pending
            .filter(|(_, change)| of_file(change))
            .map(|(number, _)| *number)
            .collect()
    }

    pub fn forget(&mut self, number: u64) {
        if let Some(Change::Write { bytes, .. }) = self.pending.remove(&number) {
            self.spill.release(bytes);
        }
    }

    /// Gives the files below the names that they have here.
    pub fn sync_names(&mut self) -> io::Result<()> {
        self.pending
            .retain(|_, change| !matches!(change, Change::Name { .. } | Change::Unname { .. }));
        let names = self.names.clone();
        self.rename_below(&names)
    }

    pub fn rename_below(&mut self, names: &BTreeMap<String, FileId>) -> io::Result<()> {
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

    pub fn summary(&self) -> io::Result<Vec<What>> {
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
    pub fn crash(&mut self, plan: &Plan) -> io::Result<Cut> {
        let forgotten: HashSet<usize> = (self.pending.keys().enumerate())
            .filter(|(_, number)| self.forgotten.contains(number))
            .map(|(n, _)| n)
            .collect();
        let fate = |n: usize| match plan.0.get(n) {
            Some(fate) if !forgotten.contains(&n) => *fate,
            _ => Fate::Lost,
        };
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

    pub fn stable_names(&self) -> BTreeMap<String, FileId> {
        (self.files.iter().zip(0..))
            .filter_map(|(file, number)| Some((file.name.clone()?, FileId(number))))
            .filter(|(name, _)| !name.starts_with(UNNAMED))
            .collect()
    }

    /// Sectors end as after a prefix of their writes, or as garbage.
    pub fn write_outcomes(&mut self, outcomes: &HashMap<(FileId, u64), Outcome>) -> io::Result<()> {
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
                let sector = crash::garbage(*seed);
                self.files[file.0 as usize]
                    .disk
                    .write_at(&sector, at * SECTOR)?;
            }
        }
        Ok(())
    }
}

pub(super) fn unnamed(file: FileId) -> String {
    format!("{UNNAMED}{}", file.0)
}

//! Files and folder as a process has them.

use std::io;
use std::sync::Arc;

use super::super::fault::{self, Call};
use super::super::volatile::FileId;
use super::super::{Dir, Disk};
use super::PowerCut;
use super::state::{Change, State, unnamed};

/// A file behind the switch.
pub(super) struct Switched {
    pub switch: Arc<PowerCut>,
    pub file: FileId,
}

impl Switched {
    fn admit(&self, call: Call, offset: u64, len: u64) -> fault::Outcome {
        self.switch.admit(call, Some(self.file), offset, len)
    }
}

impl Disk for Switched {
    fn len(&self) -> io::Result<u64> {
        self.switch.with(|state| Ok(state.file(self.file).len))
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let outcome = self.admit(Call::Read, offset, buf.len() as u64);
        outcome.check()?;
        self.switch.with(|state| {
            if let fault::Outcome::Rot { at, mask } = outcome {
                state.rot(self.file, at, mask)?;
            }
            state.read(self.file, buf, offset)
        })
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let outcome = self.admit(Call::Write, offset, buf.len() as u64);
        if let fault::Outcome::Fail { part, .. } = outcome {
            let part = &buf[..part as usize];
            self.switch
                .with(|state| state.write(self.file, part, offset))?;
        }
        outcome.check()?;
        self.switch
            .with(|state| state.write(self.file, buf, offset))
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        // One system call, one change.
        self.write_at(&bufs.concat(), offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.admit(Call::Space, len, 0).check()?;
        self.switch.with(|state| state.set_len(self.file, len))
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.admit(Call::Space, offset, len).check()?;
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
    fn discard(&self, offset: u64, _: u64) -> io::Result<()> {
        // Nothing: holes in what only covers the image would take space, not give it.
        self.admit(Call::Space, offset, 0).check()
    }
    fn sync(&self) -> io::Result<()> {
        match self.admit(Call::Sync, 0, 0) {
            fault::Outcome::Go => self.switch.with(|state| state.sync(self.file)),
            fault::Outcome::Forget { .. } => self.switch.with(|state| {
                let dirty = state.of(self.file);
                state.forgotten.extend(dirty);
                Err(io::Error::from_raw_os_error(libc::EIO))
            }),
            other => other.check(),
        }
    }
}

// A map can't fail: without power, or on a full scratch disk, loads give zeros
// and stores go nowhere. Only the disposable index is mapped.

/// The folder behind the switch.
pub(super) struct Folder(pub Arc<PowerCut>);

impl Folder {
    fn admit(&self, call: Call) -> fault::Outcome {
        self.0.admit(call, None, 0, 0)
    }
}

impl Dir for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        self.admit(Call::Read).check()?;
        self.0
            .with(|state| Ok(state.names.keys().cloned().collect()))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.admit(Call::Read).check()?;
        let file = self.0.with(|state| state.find(name))?;
        Ok(self.0.disk(file))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.admit(Call::Name).check()?;
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
        self.admit(Call::Name).check()?;
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
        self.admit(Call::Name).check()?;
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
        match self.admit(Call::Sync) {
            fault::Outcome::Go => self.0.with(State::sync_names),
            other => other.check(),
        }
    }
}

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

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::crash::Plan;
use super::fault::{self, Asked, Call, Faults, On};
use super::volatile::FileId;
use super::{Dir, Disk};

mod disks;
mod state;

use disks::{Folder, Switched};
use state::{State, UNNAMED};

/// The disks of one mount, with the switch.
pub struct PowerCut {
    state: Mutex<State>,
    faults: Faults,
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

/// Removes the files of a killed daemon that nobody had synced by name.
pub fn sweep(folder: &dyn Dir) -> io::Result<()> {
    for name in folder.list()? {
        if name.starts_with(UNNAMED) {
            folder.remove(&name)?;
        }
    }
    Ok(())
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
        let mut state = State::over(below, scratch);
        state.add(image, None)?;
        sweep(&*state.below)?;
        for name in state.below.list()?.into_iter().filter(|name| ours(name)) {
            let disk = state.below.open(&name)?;
            let file = state.add(disk, Some(name.clone()))?;
            state.names.insert(name, file);
        }
        Ok(Arc::new(PowerCut {
            state: Mutex::new(state),
            faults: Faults::default(),
        }))
    }

    /// The faults that its disks have from now on.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The image.
    pub fn image(self: &Arc<Self>) -> Arc<dyn Disk> {
        self.disk(FileId::IMAGE)
    }

    /// The folder.
    pub fn folder(self: &Arc<Self>) -> Arc<dyn Dir> {
        Arc::new(Folder(self.clone()))
    }

    /// The power goes: from now on every call fails. `false`: it was off.
    pub fn off(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().off, true)
    }

    /// What a cut leaves, once the power is [off](PowerCut::off): `choose`
    /// decides from what is pending. Says what happened when the disks below
    /// are as they would be found, and stable. Once.
    pub fn cut(&self, choose: impl FnOnce(&[What]) -> Plan) -> io::Result<Cut> {
        let mut state = self.state.lock();
        assert!(state.off, "a cut with the power on");
        let plan = choose(&state.summary()?);
        state.crash(&plan)
    }

    /// Everything pending becomes stable, names included: the end of a mount
    /// without a cut.
    pub fn settle(&self) -> io::Result<()> {
        let mut state = self.state.lock();
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
        let mut state = self.state.lock();
        state.on()?;
        act(&mut state)
    }

    /// Asks the faults, and waits where the disk is slow.
    fn admit(&self, call: Call, file: Option<FileId>, offset: u64, len: u64) -> fault::Outcome {
        let (name, grows) = {
            let state = self.state.lock();
            let about = file.map(|file| &state.files[file.0 as usize]);
            let end = if matches!(call, Call::Write | Call::Space) {
                offset + len
            } else {
                0
            };
            let grows = about.map_or(0, |about| end.saturating_sub(about.len));
            (file.map(|file| state.called(file)), grows)
        };
        let on = match (&name, file) {
            (_, Some(FileId::IMAGE)) => On::Image,
            (Some(name), _) => On::File(name),
            (None, _) => On::Folder,
        };
        let admitted = self.faults.admit(&Asked {
            call,
            on,
            offset,
            len,
            grows,
        });
        if !admitted.delay.is_zero() {
            std::thread::sleep(admitted.delay);
        }
        admitted.outcome
    }
}

#[cfg(test)]
mod tests;

//! An image that a daemon is working on, read as long as that is safe.
//!
//! The daemon says up to which record blocks may have gone home; it knows that
//! before the first of them does. Asked after each read, it vouches for what
//! was read: nothing newer than the moment that is looked at was in it yet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Live;
use crate::device::Disk;
use crate::units::Lsn;

/// An image under a daemon.
pub struct Watched {
    image: Arc<dyn Disk>,
    live: Live,
    at: Lsn,
    said: AtomicBool,
}

impl Watched {
    /// For whoever wants to see nothing newer than `at`.
    pub fn new(image: Arc<dyn Disk>, live: Live, at: Lsn) -> Self {
        Watched {
            image,
            live,
            at,
            said: AtomicBool::new(false),
        }
    }

    fn vouch(&self) -> io::Result<()> {
        let why = match (self.live)() {
            Some(newest) if newest <= self.at => return Ok(()),
            Some(newest) => format!(
                "the image has moved on to record {newest}: the state after record {} can't be \
                 seen any more without an archive (mount -o archive=DIR)",
                self.at
            ),
            None => "the image's daemon does not answer any more".to_owned(),
        };
        if !self.said.swap(true, Ordering::Relaxed) {
            ::log::error!("{why}");
        }
        Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, why))
    }
}

impl Disk for Watched {
    fn len(&self) -> io::Result<u64> {
        self.image.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.image.read_at(buf, offset)?;
        self.vouch()
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let found = self.image.next_data(offset)?;
        self.vouch()?;
        Ok(found)
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

//! Where bytes rest: a [`Disk`] is a byte-addressed file, a [`Dir`] a folder
//! of them.
//!
//! Everything that the daemon stores goes through these two traits (locks
//! aside), so that a simulation can stand in for the host and pull its power.
//! A write is in the host's cache when it returns and on stable storage only
//! after a `sync` that started later; names are stable only after the
//! folder's `sync`.

use std::io;
use std::sync::Arc;

#[cfg(all(test, feature = "shuttle"))]
pub mod adverse;
pub mod crash;
pub mod fault;
pub mod host;
pub mod layer;
pub mod memory;
pub mod powercut;
pub mod spill;
pub mod volatile;
pub mod writeback;

/// A byte-addressed file.
#[allow(clippy::len_without_is_empty)] // nobody asks whether a disk is empty
pub trait Disk: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `buf` from `offset`; `UnexpectedEof` past the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// The same without waiting for the medium; `false`: it would have to, and
    /// what is in `buf` now means nothing.
    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buf, offset).map(|()| true)
    }
    /// Writes all of `buf` at `offset`, growing the file where needed.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Writes several buffers one behind the other.
    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for buf in bufs {
            self.write_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the host set space aside for `offset .. offset + len`, so that a
    /// later write there can't find the disk full.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives space back; the range reads as zeros. `ErrorKind::Unsupported`:
    /// this disk never can.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Starts reading a range into the host's cache, unless it is there. A hint.
    fn read_ahead(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Starts write-back of a range without waiting for it. A hint.
    fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }
    /// Waits for the write-back of a range that has been started. What has been
    /// written back is not yet on stable storage, and may have failed to be: only
    /// `sync` says so. A hint.
    fn wait_back(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Every write that returned before the call is on stable storage
    /// (fdatasync). An error is final: what was dirty may be lost although
    /// later reads still show it.
    fn sync(&self) -> io::Result<()>;
    /// The next range from `offset` on that is not a hole: its beginning and
    /// end, bytes. `None`: only holes follow.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let len = self.len()?;
        Ok((offset < len).then_some((offset, len)))
    }
    /// The file of the host behind it, if it is nothing but that.
    fn host_file(&self) -> Option<&std::fs::File> {
        None
    }
}

/// A folder of disks, flat, names without `/`.
pub trait Dir: Send + Sync {
    /// The names in it, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>>;
    /// Creates an empty file (`AlreadyExists` if there is one).
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>>;
    /// Renames over what may stand there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names created, renamed and removed before the call are stable.
    fn sync(&self) -> io::Result<()>;
    /// Leaves a later `sync` little to do, and says nothing in its stead. A hint.
    fn sync_ahead(&self) {}
}

//! A disk over another: it takes all writes, and the one below stays as it is
//! until they are settled.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Disk;

const PAGE: u64 = 4096;

/// A disk of fixed length whose changes lie in a file of their own.
pub struct Layer {
    below: Arc<dyn Disk>,
    /// Changed pages, each at its own offset: a sparse file.
    above: Arc<dyn Disk>,
    /// Numbers of the changed pages.
    changed: RwLock<BTreeSet<u64>>,
    len: u64,
}

impl Layer {
    /// Over `below`; `above` is an empty file that nobody else uses.
    pub fn over(below: Arc<dyn Disk>, above: Arc<dyn Disk>) -> io::Result<Self> {
        let len = below.len()?;
        above.set_len(len)?;
        Ok(Layer {
            below,
            above,
            changed: RwLock::default(),
            len,
        })
    }

    /// Brings all changes down, and makes them stable there; the first page
    /// last, when all others are stable.
    pub fn settle(&self) -> io::Result<()> {
        let mut changed = self.changed.write();
        let mut bytes = [0; PAGE as usize];
        for page in changed.iter().rev() {
            if *page == 0 {
                self.below.sync()?;
            }
            let bytes = &mut bytes[..(self.len - page * PAGE).min(PAGE) as usize];
            self.above.read_at(bytes, page * PAGE)?;
            self.below.write_at(bytes, page * PAGE)?;
        }
        self.below.sync()?;
        changed.clear();
        Ok(())
    }

    fn inside(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Cuts `offset .. offset + len` at page boundaries: (page, range of the buffer).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let at = offset + done as u64;
            let n = ((PAGE - at % PAGE) as usize).min(len - done);
            let piece = done..done + n;
            done += n;
            (at / PAGE, piece)
        })
    })
}

impl Disk for Layer {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inside(offset, buf.len() as u64)?;
        let changed = self.changed.read();
        for (page, piece) in pieces(offset, buf.len()) {
            let from = if changed.contains(&page) {
                &self.above
            } else {
                &self.below
            };
            let at = offset + piece.start as u64;
            from.read_at(&mut buf[piece], at)?;
        }
        Ok(())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inside(offset, buf.len() as u64)?;
        let mut changed = self.changed.write();
        for (page, piece) in pieces(offset, buf.len()) {
            let start = page * PAGE;
            let whole = (self.len - start).min(PAGE) as usize;
            if !changed.contains(&page) && piece.len() < whole {
                let mut bytes = vec![0; whole];
                self.below.read_at(&mut bytes, start)?;
                self.above.write_at(&bytes, start)?;
            }
            let at = offset + piece.start as u64;
            self.above.write_at(&buf[piece], at)?;
            changed.insert(page);
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        match len == self.len {
            true => Ok(()),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inside(offset, len)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inside(offset, len)?;
        let zeros = vec![0; PAGE as usize];
        for (page, piece) in pieces(offset, len as usize) {
            let at = page * PAGE + (offset + piece.start as u64) % PAGE;
            self.write_at(&zeros[..piece.len()], at)?;
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.above.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{MemoryDisk, Pages};
    use super::*;

    #[test]
    fn the_disk_below_changes_only_when_settled() {
        let below = Arc::new(MemoryDisk::from_pages(Pages::from_bytes(&[1; 10_000])));
        let layer = Layer::over(below.clone(), Arc::new(MemoryDisk::default())).unwrap();
        layer.write_at(&[2; 100], 4090).unwrap();
        layer.write_at(&[3; 10], 9990).unwrap();
        layer.discard(0, 5).unwrap();
        assert!(layer.write_at(&[4], 10_000).is_err());
        assert!(layer.read_at(&mut [0; 2], 9999).is_err());
        let mut wanted = vec![1; 10_000];
        wanted[4090..4190].fill(2);
        wanted[9990..].fill(3);
        wanted[..5].fill(0);
        let mut seen = vec![0; 10_000];
        layer.read_at(&mut seen, 0).unwrap();
        assert_eq!(seen, wanted);
        assert_eq!(below.pages().to_vec(), [1; 10_000]);
        layer.settle().unwrap();
        assert_eq!(below.pages().to_vec(), wanted);
        layer.read_at(&mut seen, 0).unwrap();
        assert_eq!(seen, wanted);
    }
}

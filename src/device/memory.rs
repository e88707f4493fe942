//! Disks and folders in memory, for tests and simulation.
//!
//! Pages are shared: a clone of a disk costs pointers, and only pages that
//! are written afterwards are copied.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Dir, Disk};

const PAGE: usize = 4096;

type Page = Arc<[u8; PAGE]>;

/// The bytes of a file, as shared pages; `None` is a page of zeros.
#[derive(Clone, Default)]
pub struct Pages {
    pages: Vec<Option<Page>>,
    len: u64,
}

impl Pages {
    /// From plain bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut pages = Pages::default();
        pages.write(bytes, 0);
        pages
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from `offset`, which the caller has checked against `len`.
    pub fn read(&self, buf: &mut [u8], offset: u64) {
        for (at, piece) in pieces(offset, buf.len()) {
            let (page, start) = split(at);
            let out = &mut buf[piece.clone()];
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(bytes) => out.copy_from_slice(&bytes[start..start + out.len()]),
                None => out.fill(0),
            }
        }
    }

    /// Writes, growing the file where needed.
    pub fn write(&mut self, buf: &[u8], offset: u64) {
        let end = offset + buf.len() as u64;
        if end > self.len {
            self.set_len(end);
        }
        for (at, piece) in pieces(offset, buf.len()) {
            let (page, start) = split(at);
            let from = &buf[piece];
            let slot = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(slot)[start..start + from.len()].copy_from_slice(from);
        }
    }

    /// Cuts or extends with zeros.
    pub fn set_len(&mut self, len: u64) {
        self.pages.resize(len.div_ceil(PAGE as u64) as usize, None);
        let (_, tail) = split(len);
        if len < self.len
            && tail != 0
            && let Some(Some(last)) = self.pages.last_mut()
        {
            Arc::make_mut(last)[tail..].fill(0);
        }
        self.len = len;
    }

    /// Changes bits of one byte of the file.
    pub fn flip(&mut self, at: u64, mask: u8) {
        let mut byte = [0];
        self.read(&mut byte, at);
        self.write(&[byte[0] ^ mask], at);
    }

    /// All bytes in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(&mut bytes, 0);
        bytes
    }
}

impl PartialEq for Pages {
    /// Shared pages are equal without a look; a page of zeros equals an absent one.
    fn eq(&self, other: &Pages) -> bool {
        let same = |(one, two): (&Option<Page>, &Option<Page>)| match (one, two) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (Some(page), None) | (None, Some(page)) => page.iter().all(|&b| b == 0),
            (None, None) => true,
        };
        self.len == other.len && self.pages.iter().zip(&other.pages).all(same)
    }
}

fn split(at: u64) -> (usize, usize) {
    ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize)
}

/// Cuts `offset .. offset + len` at page boundaries: (file offset, range of the buffer).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let n = (PAGE - split(at).1).min(len - done);
        let piece = done..done + n;
        done += n;
        Some((at, piece))
    })
}

/// A file in memory.
#[derive(Default)]
pub struct MemoryDisk(Arc<RwLock<Pages>>);

impl MemoryDisk {
    /// Zeros of the given length.
    pub fn zeroed(len: u64) -> Self {
        let mut pages = Pages::default();
        pages.set_len(len);
        Self::from_pages(pages)
    }
    /// With these contents.
    pub fn from_pages(pages: Pages) -> Self {
        MemoryDisk(Arc::new(RwLock::new(pages)))
    }
    /// The contents now; later writes don't show in it.
    pub fn pages(&self) -> Pages {
        self.0.read().clone()
    }
}

impl Disk for MemoryDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().len())
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let pages = self.0.read();
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= pages.len() => {
                pages.read(buf, offset);
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write().write(buf, offset);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.write().set_len(len);
        Ok(())
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut pages = self.0.write();
        if offset + len > pages.len() {
            pages.set_len(offset + len);
        }
        Ok(())
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut pages = self.0.write();
        let end = (offset + len).min(pages.len());
        if offset < end {
            pages.write(&vec![0; (end - offset) as usize], offset);
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder in memory.
#[derive(Default)]
pub struct MemoryDir(RwLock<BTreeMap<String, Arc<MemoryDisk>>>);

impl MemoryDir {
    /// A folder with these files.
    pub fn from_files(files: impl IntoIterator<Item = (String, Pages)>) -> Self {
        let files = files
            .into_iter()
            .map(|(name, pages)| (name, Arc::new(MemoryDisk::from_pages(pages))));
        MemoryDir(RwLock::new(files.collect()))
    }
    /// Its files' contents now.
    pub fn files(&self) -> BTreeMap<String, Pages> {
        self.0
            .read()
            .iter()
            .map(|(name, disk)| (name.clone(), disk.pages()))
            .collect()
    }
}

impl Dir for MemoryDir {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.read().keys().cloned().collect())
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        match self.0.read().get(name) {
            Some(disk) => Ok(disk.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let mut files = self.0.write();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let disk = Arc::new(MemoryDisk::default());
        files.insert(name.to_owned(), disk.clone());
        Ok(disk)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.write();
        let disk = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), disk);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0
            .write()
            .remove(name)
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

//! The folder: which files it holds, and spare ones for segments to come.
//!
//! A store file is written through once when it is made, because overwriting
//! allocated, written blocks is what a host syncs fastest; afterwards it is
//! renamed and overwritten at every new use. Spares are called
//! `spare-N.store`; but a file is what its first page says, not its name.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::frame::{PAGE, le32};
use super::index;
use super::segment::{Header, Segment};
use super::{Error, Result};
use crate::device::writeback::WriteBack;
use crate::device::{Dir, Disk};

const SPARE: [u8; 8] = *b"jfsspare";
const SPARE_VERSION: u32 = 1;
/// Every block of it has been written.
const FILLED: u32 = 1;
/// What a new store file is filled with: not zeros, which a host might keep
/// as a hole.
const FILL: u8 = 0xE5;

/// A store file of the folder, as it was found.
pub(super) struct File {
    pub name: String,
    pub disk: Arc<dyn Disk>,
    pub len: u64,
    pub content: Content,
}

/// What a store file's first page says.
pub(super) enum Content {
    Segment(Header),
    Spare { filled: bool },
    Unknown,
}

impl File {
    /// Whether it has a segment's name and not the header of one.
    pub fn is_headless(&self) -> bool {
        let unknown = matches!(self.content, Content::Unknown);
        unknown && Segment::base_in(&self.name).is_some()
    }

    pub fn header(&self) -> Option<&Header> {
        match &self.content {
            Content::Segment(header) => Some(header),
            _ => None,
        }
    }

    /// Whether it is an archive's copy, by its name: whatever is in one was home
    /// before, and segments between two of them may be missing.
    pub fn is_archived(&self) -> bool {
        let parts = self.name.strip_suffix(".store");
        let parts = parts.and_then(|stem| stem.split_once('-'));
        parts.is_some_and(|(epoch, base)| {
            (epoch.len(), base.len()) == (10, 20)
                && (epoch.bytes().chain(base.bytes())).all(|byte| byte.is_ascii_digit())
        })
    }
}

/// All store files, by name. Reads their first pages.
pub(super) fn files(dir: &dyn Dir) -> Result<Vec<File>> {
    let names = dir
        .list()
        .map_err(|e| Error::io("list of the journal's folder".into(), e))?;
    let stores = names.into_iter().filter(|name| name.ends_with(".store"));
    stores
        .filter_map(|name| open(dir, &name).transpose())
        .collect()
}

/// A file, or `None` if it has gone meanwhile (a live log cleans itself).
pub(super) fn open(dir: &dyn Dir, name: &str) -> Result<Option<File>> {
    let read = || {
        let disk = dir.open(name)?;
        let len = disk.len()?;
        let mut page = vec![0; PAGE.min(len) as usize];
        disk.read_at(&mut page, 0)?;
        let content = match Header::decode(&page) {
            Some(header) => Content::Segment(header),
            None => spare_content(&page).unwrap_or(Content::Unknown),
        };
        let version = match content {
            Content::Unknown => Header::other_version(&page),
            Content::Segment(_) | Content::Spare { .. } => None,
        };
        Ok((
            version,
            File {
                name: name.to_owned(),
                disk,
                len,
                content,
            },
        ))
    };
    match read() {
        Ok((None, file)) => Ok(Some(file)),
        Ok((Some(version), _)) => Err(Error::Version {
            segment: name.to_owned(),
            version,
        }),
        Err(e) if io::Error::kind(&e) == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("segment {name}"), e)),
    }
}

fn spare_content(page: &[u8]) -> Option<Content> {
    let raw = page.get(..20)?;
    let known = raw[..8] == SPARE && le32(raw, 8) == SPARE_VERSION;
    let whole = known && le32(raw, 12) == crc32fast::hash(&raw[16..]);
    let filled = le32(raw, 16) & FILLED != 0;
    whole.then_some(Content::Spare { filled })
}

fn spare_page(filled: bool) -> Vec<u8> {
    let mut page = vec![FILL; PAGE as usize];
    page[..8].copy_from_slice(&SPARE);
    page[8..12].copy_from_slice(&SPARE_VERSION.to_le_bytes());
    let flags = if filled { FILLED } else { 0 };
    page[16..20].copy_from_slice(&flags.to_le_bytes());
    let crc = crc32fast::hash(&page[16..20]);
    page[12..16].copy_from_slice(&crc.to_le_bytes());
    page
}

/// A store file that waits for its next use.
pub(super) struct Spare {
    pub number: u64,
    pub disk: Arc<dyn Disk>,
    /// Every block of it has been written once.
    pub filled: bool,
}

impl Spare {
    pub fn store_name(number: u64) -> String {
        format!("spare-{number}.store")
    }

    /// The number in a spare store file's name.
    pub fn number_of_store(name: &str) -> Option<u64> {
        name.strip_prefix("spare-")?
            .strip_suffix(".store")?
            .parse()
            .ok()
    }
    fn number_in(name: &str) -> Option<u64> {
        name.strip_prefix("spare-")?.split('.').next()?.parse().ok()
    }

    /// A new file with space set aside but not yet written through.
    pub fn allocate(dir: &dyn Dir, number: u64, size: u64) -> Result<Spare> {
        let name = Self::store_name(number);
        let make = || {
            let disk = dir.create(&name)?;
            disk.allocate(0, size)?;
            disk.write_at(&spare_page(false), 0)?;
            Ok(disk)
        };
        match make() {
            Ok(disk) => Ok(Spare {
                number,
                disk,
                filled: false,
            }),
            Err(e) => {
                // What could be made is of no use; a full host wants it back.
                let _ = dir.remove(&name);
                Err(Error::io(format!("new segment {name}"), e))
            }
        }
    }

    /// Writes the file through, a piece at a time, and marks it as spare.
    pub fn fill(&mut self, size: u64) -> Result<()> {
        let write = || {
            let piece = vec![FILL; size.min(1 << 20) as usize];
            let mut write_back = WriteBack::of(self.disk.clone());
            let mut at = PAGE;
            while at < size {
                let len = (size - at).min(piece.len() as u64);
                self.disk.write_at(&piece[..len as usize], at)?;
                write_back.wrote(at, len);
                at += len;
            }
            self.disk.write_at(&spare_page(true), 0)?;
            self.disk.sync()
        };
        let name = Self::store_name(self.number);
        write().map_err(|e| Error::io(format!("new segment {name}"), e))?;
        self.filled = true;
        Ok(())
    }
}

/// Spares at hand, and numbers for new ones.
#[derive(Default)]
pub(super) struct Spares {
    pub ready: Vec<Spare>,
    next: u64,
}

impl Spares {
    /// Numbers go on above every name in use. (A name that leaves no numbers
    /// above it is nobody's: it is never met.)
    pub fn numbered_above(dir: &dyn Dir) -> Result<Spares> {
        let names = dir
            .list()
            .map_err(|e| Error::io("list of the journal's folder".into(), e))?;
        let used: BTreeSet<u64> = names
            .iter()
            .filter_map(|name| Spare::number_in(name))
            .filter(|number| *number < u64::MAX / 2)
            .collect();
        Ok(Spares {
            ready: Vec::new(),
            next: used.last().map_or(0, |n| n + 1),
        })
    }
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
    /// A spare to use now: one at hand, but so that `leave` of them remain
    /// for a recovery on a full host, or else one that is only allocated.
    pub fn take(&mut self, dir: &dyn Dir, size: u64, leave: usize) -> Result<Spare> {
        let best = self.ready.iter().rposition(|spare| spare.filled);
        match best.or(self.ready.len().checked_sub(1)) {
            Some(at) if self.ready.len() > leave => Ok(self.ready.remove(at)),
            _ => Spare::allocate(dir, self.number(), size),
        }
    }
}

/// Removes index files that belong to no store file any more, and what else
/// an interrupted preparation left.
pub(super) fn sweep(dir: &dyn Dir, keep: &BTreeSet<String>) -> Result<()> {
    let names = dir
        .list()
        .map_err(|e| Error::io("list of the journal's folder".into(), e))?;
    for name in names {
        let ours = name.ends_with(".store") || name.ends_with(".index");
        if ours && !keep.contains(&name) {
            match dir.remove(&name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("removal of {name}"), e));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The name of the index that goes with a store file of this name.
pub(super) fn index_of(store: &str) -> String {
    format!("{}.index", store.strip_suffix(".store").unwrap_or(store))
}

/// The entries of a segment's index file, if it is sealed.
pub(super) fn sealed_index(
    dir: &dyn Dir,
    name: &str,
    header: &Header,
) -> Option<Vec<index::Entry>> {
    index::load_sealed(&*dir.open(name).ok()?, header.salt, header.base.0)
}

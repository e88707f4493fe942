//! What was done on a mount since it began, and what was synced of it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::device::Disk;
use crate::device::spill::{Aside, Spill};
use crate::journal::Op;
use crate::journal::record::Name;
use crate::units::{InodeNo, Lsn};

/// Data of operations that are kept in memory, in bytes.
const LIMIT: usize = 64 << 20;

/// The operations of a mount, in the order of their records.
pub struct Ledger(Mutex<Book>);

struct Book {
    entries: Vec<Entry>,
    syncs: Vec<Synced>,
    names: HashMap<InodeNo, (InodeNo, Vec<u8>)>,
    spill: Spill,
    /// Why not every operation is here.
    lacking: Option<Arc<io::Error>>,
    closed: bool,
}

/// One operation.
pub struct Entry {
    /// Its record.
    pub lsn: Lsn,
    /// What it was.
    pub op: Op,
    /// What it acted on, as it was called then; of a rename, the old name.
    pub path: Vec<u8>,
    /// Of a rename, the new name.
    pub to: Option<Vec<u8>>,
    data: Aside,
}

/// An fsync, fdatasync or fsyncdir that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Of what; `None` for everything.
    pub inode: Option<InodeNo>,
    /// fdatasync: attributes are not included.
    pub data_only: bool,
    /// The last record when it was asked for.
    pub through: Lsn,
}

impl Ledger {
    /// An empty one; `scratch` is an empty file that nobody else uses.
    pub fn new(scratch: Arc<dyn Disk>) -> Self {
        Ledger(Mutex::new(Book {
            entries: Vec::new(),
            syncs: Vec::new(),
            names: HashMap::new(),
            spill: Spill::new(scratch, LIMIT),
            lacking: None,
            closed: false,
        }))
    }

    /// Notes an operation; they come in the order of their records.
    pub fn note(&self, lsn: Lsn, op: &Op, data: &[u8]) {
        let mut book = self.0.lock();
        if !op.is_operation() || book.closed || book.lacking.is_some() {
            return;
        }
        let (path, to) = paths(op, |inode| book.path(inode));
        match book.spill.put(data) {
            Ok(data) => book.entries.push(Entry {
                lsn,
                op: op.clone(),
                path,
                to,
                data,
            }),
            Err(error) => book.lacking = Some(Arc::new(error)),
        }
        book.rename(op);
    }

    /// Notes what an inode is called.
    pub fn named(&self, inode: InodeNo, parent: InodeNo, name: &[u8]) {
        self.0.lock().names.insert(inode, (parent, name.to_vec()));
    }

    /// Notes that something became durable.
    pub fn synced(&self, synced: Synced) {
        let mut book = self.0.lock();
        // Under `-o sync` each answer is one.
        match book.syncs.last_mut() {
            Some(last) if last.inode.is_none() && synced.inode.is_none() => *last = synced,
            _ => book.syncs.push(synced),
        }
    }

    /// Nothing is noted any more: requests that were under way when the power
    /// went get no further.
    pub fn close(&self) {
        self.0.lock().closed = true;
    }

    /// What an inode is called, from the root; `#N` where that isn't known.
    pub fn path(&self, inode: InodeNo) -> Vec<u8> {
        self.0.lock().path(inode)
    }

    /// What a name in a directory is in full.
    pub fn path_in(&self, parent: InodeNo, name: &[u8]) -> Vec<u8> {
        self.0.lock().path_in(parent, name)
    }

    /// Looks at all operations and syncs.
    pub fn read<T>(&self, look: impl FnOnce(&[Entry], &[Synced]) -> T) -> T {
        let book = self.0.lock();
        look(&book.entries, &book.syncs)
    }

    /// Goes through all operations with their data. An error if some could
    /// not be kept.
    pub fn replay(
        &self,
        mut visit: impl FnMut(usize, &Entry, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let book = self.0.lock();
        if let Some(error) = &book.lacking {
            return Err(io::Error::new(
                error.kind(),
                format!("not all operations could be kept for another model: {error}"),
            ));
        }
        for (number, entry) in book.entries.iter().enumerate() {
            visit(number, entry, &book.spill.bytes(&entry.data)?)?;
        }
        Ok(())
    }
}

impl Book {
    fn path(&self, inode: InodeNo) -> Vec<u8> {
        let (mut parts, mut at) = (Vec::new(), inode);
        while at != InodeNo::ROOT {
            match self.names.get(&at) {
                // No path has so many parts: names have changed beneath us.
                Some((parent, name)) if parts.len() < 4096 => {
                    parts.push(name.clone());
                    at = *parent;
                }
                _ => {
                    parts.push(format!("#{at}").into_bytes());
                    break;
                }
            }
        }
        if parts.is_empty() {
            return b"/".to_vec();
        }
        parts
            .iter()
            .rev()
            .flat_map(|name| [b"/".as_slice(), name].concat())
            .collect()
    }

    fn path_in(&self, parent: InodeNo, name: &[u8]) -> Vec<u8> {
        joined(self.path(parent), name)
    }

    /// An operation gives an inode another name.
    fn rename(&mut self, op: &Op) {
        match op {
            Op::Create { at, inode, .. } | Op::Link { at, inode, .. } => {
                self.names.insert(*inode, (at.parent, at.name.clone()));
            }
            Op::Rename {
                from,
                to,
                flags,
                inode,
                replaced,
                ..
            } => {
                self.names.insert(*inode, (to.parent, to.name.clone()));
                if flags & libc::RENAME_EXCHANGE != 0 {
                    self.names
                        .insert(*replaced, (from.parent, from.name.clone()));
                }
            }
            _ => {}
        }
    }
}

/// What an operation acts on, and of a rename its new name, where `path` says
/// what an inode is called.
pub fn paths(op: &Op, path: impl Fn(InodeNo) -> Vec<u8>) -> (Vec<u8>, Option<Vec<u8>>) {
    let full = |at: &Name| joined(path(at.parent), &at.name);
    match op {
        Op::Create { at, .. }
        | Op::Link { at, .. }
        | Op::Unlink { at, .. }
        | Op::Rmdir { at, .. } => (full(at), None),
        Op::Rename { from, to, .. } => (full(from), Some(full(to))),
        Op::Write { inode, .. }
        | Op::SetAttr { inode, .. }
        | Op::Fallocate { inode, .. }
        | Op::SetXattr { inode, .. }
        | Op::RemoveXattr { inode, .. }
        | Op::SetFlags { inode, .. }
        | Op::Atime { inode, .. }
        | Op::Orphan { inode } => (path(*inode), None),
        Op::Mark { .. } => (Vec::new(), None),
    }
}

fn joined(mut path: Vec<u8>, name: &[u8]) -> Vec<u8> {
    if path != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::MemoryDisk;
    use crate::journal::record::By;
    use crate::units::Time;

    fn name(parent: u32, name: &str) -> Name {
        Name {
            parent: InodeNo(parent),
            name: name.into(),
        }
    }

    #[test]
    fn operations_are_told_by_the_names_of_their_time() {
        let ledger = Ledger::new(Arc::new(MemoryDisk::default()));
        ledger.named(InodeNo(11), InodeNo::ROOT, b"db");
        ledger.named(InodeNo(12), InodeNo(11), b"tmp");
        let write = Op::Write {
            by: By::default(),
            inode: InodeNo(12),
            offset: 0,
            len: 3,
            time: Time::default(),
        };
        let rename = Op::Rename {
            by: By::default(),
            from: name(11, "tmp"),
            to: name(2, "final"),
            flags: 0,
            inode: InodeNo(12),
            replaced: InodeNo(0),
            time: Time::default(),
        };
        for (lsn, op) in [(1, &write), (2, &rename), (3, &write)] {
            ledger.note(Lsn(lsn), op, b"abc");
        }
        let paths = ledger.read(|entries, _| {
            let paths = entries
                .iter()
                .map(|entry| String::from_utf8(entry.path.clone()).unwrap());
            paths.collect::<Vec<_>>()
        });
        assert_eq!(paths, ["/db/tmp", "/db/tmp", "/final"]);
        assert_eq!(ledger.path(InodeNo(99)), b"/#99");
        let mut data = Vec::new();
        ledger
            .replay(|_, _, bytes| {
                data.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        assert_eq!(data, b"abcabcabc");
    }
}

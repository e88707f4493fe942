//! Two folders read as one: an archive's segments and the journal's.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::device::{Dir, Disk};

/// Reads only. Names are an archive's own, so that no two files share one.
pub struct Union {
    journal: Option<Arc<dyn Dir>>,
    archive: Arc<dyn Dir>,
    /// Store files of the archive that belong to it.
    stores: BTreeSet<String>,
}

impl Union {
    pub fn new(
        journal: Option<Arc<dyn Dir>>,
        archive: Arc<dyn Dir>,
        stores: impl Iterator<Item = String>,
    ) -> Union {
        Union {
            journal,
            archive,
            stores: stores.collect(),
        }
    }

    fn is_archived(&self, name: &str) -> bool {
        let store = name
            .rsplit_once('.')
            .map(|(stem, _)| format!("{stem}.store"));
        store.is_some_and(|store| self.stores.contains(&store))
    }
}

impl Dir for Union {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = match &self.journal {
            Some(journal) => journal.list()?,
            None => Vec::new(),
        };
        names.extend(self.stores.iter().cloned());
        names.sort();
        Ok(names)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        match &self.journal {
            _ if self.is_archived(name) => self.archive.open(name),
            Some(journal) => journal.open(name),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn create(&self, _: &str) -> io::Result<Arc<dyn Disk>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

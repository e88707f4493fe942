//! Where an image's history goes that its journal has no room for. The journal
//! remembers it, so that a mount which does not say so leaves no gap.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::device::host::HostDir;
use crate::fs::mount::{History, Lock};
use crate::journal::archive::Limits;
use crate::units::{Epoch, Lsn};

use super::options::{Options, Wish};
use super::place::Place;
use super::{Failure, at};

const NAME: &str = "archive.json";
/// Up to where the journal archived into folders that it has gone on without
/// since: what they have behind that is a copy's, or its original's.
const LEFT: &str = "archive.left.json";

/// By folder: the last record then, behind its opening of the log.
type Left = BTreeMap<PathBuf, (u32, u64)>;

/// An archive and how much it keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Archiving {
    /// The folder, absolute.
    pub archive: PathBuf,
    /// Seconds.
    age: Option<u64>,
    /// Bytes.
    size: Option<u64>,
}

impl Archiving {
    /// What a journal remembers.
    pub fn recall(journal: &Path) -> Option<Archiving> {
        let text = fs::read(journal.join(NAME)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What a mount is to do: what it says, or else as before.
    pub fn wanted(place: &Place, options: &Options) -> Result<Option<Archiving>, Failure> {
        let known = Archiving::recall(&place.journal);
        let mut archiving = match (&options.archive, known) {
            (Wish::Nowhere, _) | (Wish::AsBefore, None) => return Ok(None),
            (Wish::AsBefore, Some(known)) => known,
            (Wish::To(dir), known) => {
                HostDir::create(dir).map_err(|e| Failure::refused(format!("archive: {e}")))?;
                let archive = fs::canonicalize(dir).map_err(|e| Failure::refused(at(dir, e)))?;
                let same = known.filter(|known| known.archive == archive);
                Archiving {
                    archive,
                    ..same.unwrap_or_default()
                }
            }
        };
        archiving.age = options.archive_age.or(archiving.age);
        archiving.size = options.archive_size.or(archiving.size);
        Ok(Some(archiving))
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        Limits {
            age: self.age.map(Duration::from_secs),
            size: self.size,
        }
    }

    /// Opens the folder for this mount alone. One that is only remembered, and
    /// not there now, keeps nobody from mounting.
    pub fn open(&self, journal: &Path, asked: bool) -> Result<Option<History>, Failure> {
        let open = || -> Result<History, Failure> {
            let dir = HostDir::open(&self.archive).map_err(Failure::refused)?;
            let lock = Lock::in_folder(&self.archive, false).map_err(Failure::refused)?;
            Ok(History {
                dir: Arc::new(dir),
                limits: self.limits(),
                left: left(journal)
                    .get(&self.archive)
                    .map(|(epoch, last)| (Epoch(*epoch), Lsn(*last))),
                held: Arc::new(lock),
            })
        };
        match open() {
            Ok(history) => Ok(Some(history)),
            Err(failure) if asked => Err(failure),
            Err(failure) => {
                ::log::warn!(
                    "nothing is archived this time: {}: mount with -o archive=DIR to name another \
                     folder, with -o archive=none to do without",
                    failure.line
                );
                Ok(None)
            }
        }
    }

    /// Opens what a journal remembers, if it can be had.
    pub fn recalled(journal: &Path) -> Result<Option<History>, Failure> {
        match Archiving::recall(journal) {
            Some(archiving) => archiving.open(journal, false),
            None => Ok(None),
        }
    }

    /// Lets the journal remember it, or nothing.
    pub fn remember(journal: &Path, archiving: Option<&Archiving>) -> io::Result<()> {
        let path = journal.join(NAME);
        let Some(archiving) = archiving else {
            return match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        };
        if Archiving::recall(journal).as_ref() == Some(archiving) {
            return Ok(());
        }
        write(&path, &serde_json::to_vec(archiving)?)
    }

    /// Notes, before a journal goes on, that it does so without the archive that
    /// it remembers, unless it does with it. `end`: where it is now. Up to there an
    /// archive with which it goes on again, and that has nothing of others, gets
    /// what is its own.
    pub fn leave(journal: &Path, with: Option<&Path>, end: (Epoch, Lsn)) -> io::Result<()> {
        let mut left = left(journal);
        if let Some(at) = with.and_then(|with| left.get_mut(with)) {
            *at = (end.0.0, end.1.0);
            write(&journal.join(LEFT), &serde_json::to_vec(&left)?)?;
        }
        let Some(known) = Archiving::recall(journal) else {
            return Ok(());
        };
        if with == Some(&*known.archive) || left.contains_key(&known.archive) {
            return Ok(());
        }
        left.insert(known.archive, (end.0.0, end.1.0));
        write(&journal.join(LEFT), &serde_json::to_vec(&left)?)
    }

    /// Forgets, once it does archive there, that it did not.
    pub fn join(journal: &Path, archive: &Path) -> io::Result<()> {
        let mut left = left(journal);
        match left.remove(archive) {
            Some(_) => write(&journal.join(LEFT), &serde_json::to_vec(&left)?),
            None => Ok(()),
        }
    }
}

fn left(journal: &Path) -> Left {
    let text = fs::read(journal.join(LEFT)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes a small file that is whole at any moment.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These stay: a later version reads what this one wrote.
    #[test]
    fn notes_of_version_one_are_read_and_written_as_ever() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path();
        let known = br#"{"archive":"/srv/history","age":86400,"size":1048576}"#;
        fs::write(journal.join(NAME), known).unwrap();
        fs::write(journal.join(LEFT), br#"{"/srv/other":[3,1200]}"#).unwrap();
        let archiving = Archiving::recall(journal).unwrap();
        assert_eq!(archiving.archive, Path::new("/srv/history"));
        let (age, size) = (Some(Duration::from_secs(86_400)), Some(1 << 20));
        assert_eq!(archiving.limits(), Limits { age, size });
        assert_eq!(left(journal)[Path::new("/srv/other")], (3, 1200));

        Archiving::leave(journal, None, (Epoch(4), Lsn(1500))).unwrap();
        let both = br#"{"/srv/history":[4,1500],"/srv/other":[3,1200]}"#;
        assert_eq!(fs::read(journal.join(LEFT)).unwrap(), both);
        let with = Some(Path::new("/srv/history"));
        Archiving::leave(journal, with, (Epoch(5), Lsn(1700))).unwrap();
        let later = br#"{"/srv/history":[5,1700],"/srv/other":[3,1200]}"#;
        assert_eq!(fs::read(journal.join(LEFT)).unwrap(), later);
        fs::remove_file(journal.join(NAME)).unwrap();
        Archiving::remember(journal, Some(&archiving)).unwrap();
        assert_eq!(fs::read(journal.join(NAME)).unwrap(), known);
    }
}

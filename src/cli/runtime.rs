//! What a daemon leaves beside its journal for others to read: who it is, what
//! its recovery found, and why its unmount failed, if it did. A convenience:
//! nothing depends on it being there or being true.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const NAME: &str = "daemon.json";
/// No more of it is read.
const LONGEST: u64 = 1 << 20;

/// The file's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    pub pid: u32,
    pub image: PathBuf,
    pub mountpoint: PathBuf,
    pub read_only: bool,
    /// What was found and done when the image was opened.
    pub recovery: Option<Recovery>,
    /// Why the last unmount left the image guarded.
    pub error: Option<String>,
}

/// A recovery's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recovery {
    /// `clean`, `torn`, `missing`, or `salvaged`.
    pub verdict: String,
    /// The last record that was kept.
    pub last: u64,
    /// The last record known durable.
    pub durable: u64,
    /// All up to here was home already.
    pub home: u64,
    /// Operations that were replayed.
    pub operations: u64,
    /// Transactions of the image's own journal that were replayed before.
    pub transactions: u32,
    /// What was dropped behind the last record, in words; empty if nothing.
    pub dropped: String,
}

impl Runtime {
    /// Reads what a journal's last daemon said.
    pub fn read(journal: &Path) -> Option<Runtime> {
        let mut text = Vec::new();
        let file = fs::File::open(journal.join(NAME)).ok()?;
        file.take(LONGEST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Says it. Failing to is no reason to fail.
    pub fn write(&self, journal: &Path) -> bool {
        let text = serde_json::to_string(self).unwrap_or_default();
        let temporary = journal.join("daemon.json.new");
        let written = fs::write(&temporary, text + "\n")
            .and_then(|()| fs::rename(&temporary, journal.join(NAME)));
        if let Err(error) = &written {
            log::warn!("{}: {error}", journal.join(NAME).display());
            let _ = fs::remove_file(&temporary);
        }
        written.is_ok()
    }

    /// The same instead of what was said before: a full host can still remove it.
    pub fn replace(&self, journal: &Path) {
        if !self.write(journal) {
            let _ = fs::remove_file(journal.join(NAME));
        }
    }
}

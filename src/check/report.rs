//! What a check answers: findings and counts.

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::finding::{Finding, Severity};

/// Findings kept in full; the rest is only counted.
const KEPT: usize = 1000;

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was found, in the order of the walk.
    pub findings: Vec<Finding>,
    /// Findings beyond the first thousand, counted only.
    pub suppressed: u64,
    /// What was seen.
    pub counts: Counts,
    /// The journal beside the image, if there is one.
    pub journal: Option<Journal>,
}

/// What was seen on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Counts {
    pub block_size: u32,
    pub blocks: u64,
    /// Blocks that somebody owns.
    pub blocks_used: u64,
    pub inodes: u64,
    pub inodes_used: u64,
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Devices, fifos and sockets.
    pub specials: u64,
    /// Names in directories, `.` and `..` left out.
    pub entries: u64,
    pub orphans: u64,
    pub xattr_blocks: u64,
    /// Whether the image lags behind a journal.
    pub guarded: bool,
}

/// What was seen of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Journal {
    /// `clean`, `torn`, `missing` (its end is not there) or `corrupt`.
    pub verdict: String,
    pub epoch: u32,
    pub segments: u64,
    /// Frames that were read and hold what their checksums say.
    pub frames: u64,
    /// Highest record known to be durable.
    pub durable: u64,
    /// Highest record known to be home.
    pub installed: u64,
    /// Last record of the unbroken prefix.
    pub last: u64,
}

/// The check in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is wrong.
    Clean,
    /// At least one error.
    Errors,
    /// It could not be judged.
    Unchecked,
}

impl Report {
    /// Notes a finding.
    pub fn add(&mut self, finding: Finding) {
        match self.findings.len() < KEPT {
            true => self.findings.push(finding),
            false => self.suppressed += 1,
        }
    }

    /// The check in one word.
    pub fn verdict(&self) -> Verdict {
        let any = |severity| self.findings.iter().any(|f| f.severity() == severity);
        match (any(Severity::Error), any(Severity::Unchecked)) {
            (true, _) => Verdict::Errors,
            (false, true) => Verdict::Unchecked,
            (false, false) => Verdict::Clean,
        }
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.verdict() == Verdict::Clean
    }

    /// Exit code as fsck(8) has it.
    pub fn exit_code(&self) -> u8 {
        match self.verdict() {
            Verdict::Clean => 0,
            Verdict::Errors => 4,
            Verdict::Unchecked => 8,
        }
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let findings: Vec<Shown<'_>> = self.findings.iter().map(Shown::from).collect();
        let mut out = serializer.serialize_struct("Report", 5)?;
        out.serialize_field("verdict", &self.verdict())?;
        out.serialize_field("findings", &findings)?;
        out.serialize_field("suppressed", &self.suppressed)?;
        out.serialize_field("counts", &self.counts)?;
        out.serialize_field("journal", &self.journal)?;
        out.end()
    }
}

/// A finding with its severity and its sentence, as JSON shows it.
#[derive(Serialize)]
struct Shown<'a> {
    severity: Severity,
    text: String,
    #[serde(flatten)]
    finding: &'a Finding,
}

impl<'a> From<&'a Finding> for Shown<'a> {
    fn from(finding: &'a Finding) -> Self {
        Shown {
            severity: finding.severity(),
            text: finding.to_string(),
            finding,
        }
    }
}

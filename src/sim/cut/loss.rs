//! What a cut took, in words and numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ledger::Entry;
use super::legal::{Model, Order, Part};
use crate::device::powercut::Cut;
use crate::journal::Op;
use crate::units::Lsn;

/// An operation that is lost, or in part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// Its record.
    pub lsn: u64,
    /// What it was: `write`, `rename` …
    pub op: String,
    /// What it acted on, as it was called then; of a rename, the old name.
    pub path: String,
    /// Of a rename, the new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Of a write, where it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of data that are lost with it.
    pub bytes: u64,
    /// Another part of it survived.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partly: bool,
}

/// What a cut took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// `prefix`, `ext4` or `posix`.
    pub model: String,
    /// `none`, `all`, `random`, or a record's number.
    pub keep: String,
    /// Whether writes could be torn.
    pub torn: bool,
    /// By which the same cut comes again.
    pub seed: u64,
    /// The last record that was durable before.
    pub durable: u64,
    /// The last record that survived.
    pub last: u64,
    /// The first and the last record that are lost.
    pub range: Option<(u64, u64)>,
    /// What is lost, in order.
    pub lost: Vec<Lost>,
    /// Bytes of data that are lost, by path.
    pub bytes: BTreeMap<String, u64>,
    /// Of the disks' pending changes (the prefix model only): how many were
    /// kept, lost, and torn.
    pub writes: Option<(u64, u64, u64)>,
}

impl Lost {
    /// All of an operation.
    pub(super) fn all_of(entry: &Entry) -> Self {
        Self::of(entry.lsn, &entry.op, &entry.path, entry.to.as_deref())
    }

    /// All of an operation on these paths.
    pub fn of(lsn: Lsn, op: &Op, path: &[u8], to: Option<&[u8]>) -> Self {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let (offset, bytes) = match op {
            Op::Write { offset, len, .. } => (Some(*offset), *len),
            _ => (None, 0),
        };
        Lost {
            lsn: lsn.0,
            op: op.kind().to_owned(),
            path: text(path),
            to: to.map(text),
            offset,
            bytes,
            partly: false,
        }
    }

    /// What this part does not have of it. (How much of a write lay in blocks
    /// that the file had is not told: nothing is counted then.)
    pub(super) fn part_of(entry: &Entry, part: &Part) -> Self {
        let all = Lost::all_of(entry);
        let bytes = match part {
            Part::Pieces(pieces) => {
                all.bytes - pieces.iter().map(|piece| piece.len() as u64).sum::<u64>()
            }
            Part::Whole | Part::Over(_) => 0,
        };
        Lost {
            bytes,
            partly: bytes < all.bytes,
            ..all
        }
    }

    /// A line about it.
    pub fn text(&self) -> String {
        let to = self
            .to
            .as_ref()
            .map(|to| format!(" → {to}"))
            .unwrap_or_default();
        let range = match self.offset {
            Some(offset) => format!(", {} bytes at {offset}", self.bytes),
            None => String::new(),
        };
        let partly = if self.partly { ", in part" } else { "" };
        format!(
            "{:>8}  {:<11} {}{to}{range}{partly}",
            self.lsn, self.op, self.path
        )
    }
}

impl Loss {
    pub(super) fn new(order: Order, durable: Lsn, last: Lsn, lost: Vec<Lost>) -> Self {
        let mut bytes = BTreeMap::new();
        for lost in lost.iter().filter(|lost| lost.bytes > 0) {
            *bytes.entry(lost.path.clone()).or_default() += lost.bytes;
        }
        Loss {
            model: order.model.to_string(),
            keep: order.keep.to_string(),
            torn: order.torn,
            seed: order.seed,
            durable: durable.0,
            last: last.0,
            range: lost
                .first()
                .map(|first| first.lsn)
                .zip(lost.last().map(|last| last.lsn)),
            lost,
            bytes,
            writes: None,
        }
    }

    pub(super) fn with_writes(self, cut: Cut) -> Self {
        let Cut { kept, lost, torn } = cut;
        Loss {
            writes: Some((kept as u64, lost as u64, torn as u64)),
            ..self
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let torn = if self.torn { ", torn" } else { "" };
        let mut lines = vec![format!(
            "power cut: model {}, keep {}{torn}, seed {}",
            self.model, self.keep, self.seed
        )];
        if let Some((kept, lost, torn)) = self.writes {
            lines.push(format!(
                "  of the disks' unsynced changes {kept} were kept, {lost} lost, {torn} torn"
            ));
        }
        // The other models don't keep a prefix: a last record says little there.
        lines.push(match self.model == Model::Prefix.to_string() {
            true => format!(
                "  durable through record {}, survived through {}",
                self.durable, self.last
            ),
            false => format!(
                "  journalfs would have kept all up to record {}; the newest that {} kept is {}, older ones may be lost",
                self.durable, self.model, self.last
            ),
        });
        match self.range {
            None => lines.push("  no operation is lost".to_owned()),
            Some((first, last)) if first == last => {
                lines.push(format!("  lost, in whole or in part, is record {first}:"));
            }
            Some((first, last)) => lines.push(format!(
                "  lost, in whole or in part, are {} operations of records {first} to {last}:",
                self.lost.len()
            )),
        }
        lines.extend(self.lost.iter().map(Lost::text));
        let bytes = self.bytes.iter();
        lines.extend(bytes.map(|(path, bytes)| format!("  {bytes} bytes of {path} are lost")));
        lines.join("\n") + "\n"
    }
}

//! One record in people's terms.

use std::sync::Arc;

use crate::journal::record::{Op, Record};
use crate::log::Frame;

/// A record, and what those before it tell of its names.
pub struct Event<'r> {
    /// The record's frame: number, times, length.
    pub frame: &'r Frame,
    /// What it says; an operation without its redo.
    pub record: &'r Record,
    /// The full path of what it acts on, as it was called then; `None` where
    /// no record told it, or there is none.
    pub path: Option<Vec<u8>>,
    /// That path was its last name, which it had lost.
    pub deleted: bool,
    /// Of a rename, the new name.
    pub to: Option<Vec<u8>>,
    /// Of a link, a name that the file had before.
    pub of: Option<Vec<u8>>,
    /// What the process that asked was running then.
    pub program: Option<Arc<[u8]>>,
    /// Whether it is known to have been on stable storage.
    pub durable: bool,
}

impl Event<'_> {
    /// The operation, if it is one.
    pub fn op(&self) -> Option<&Op> {
        self.record.op()
    }

    /// What kind of record it is.
    pub fn kind(&self) -> &'static str {
        self.record.kind()
    }

    /// Bytes of file data that it brings.
    pub fn bytes(&self) -> u64 {
        match self.op() {
            Some(Op::Write { len, .. }) => *len,
            _ => 0,
        }
    }
}

//! What recovery adds to the records that it copies into a fresh segment.
//!
//! They lay behind others of an older segment that told the paths and programs
//! which they only name by number, and that segment may go before theirs.

use std::collections::HashMap;

use super::names::Names;
use super::paths::Named;
use super::record::{Op, Operation, Record};
use crate::log::Retell;
use crate::units::{InodeNo, Lsn};

/// Follows the old segment's records, and knows what the fresh one tells.
pub(super) struct Retelling {
    /// Bytes of the longest record.
    limit: usize,
    names: Names,
    programs: HashMap<u32, Vec<u8>>,
    named: Named,
}

impl Retelling {
    /// Makes no record longer than this many bytes.
    pub fn within(limit: usize) -> Self {
        Retelling {
            limit,
            names: Names::default(),
            programs: HashMap::new(),
            named: Named::default(),
        }
    }

    /// The path of an inode that has one and that the segment has not told.
    fn lacking(&self, operation: &Operation, inode: InodeNo, segment: Lsn) -> Option<Vec<u8>> {
        let told = operation.paths.iter().any(|(told, _)| *told == inode);
        match told || self.named.has(segment, inode) || self.names.is_deleted(inode) {
            true => None,
            false => self.names.path(inode),
        }
    }

    fn program(&self, op: &Op, segment: Lsn) -> Option<Vec<u8>> {
        let pid = op.by()?.pid;
        let program = self.programs.get(&pid)?;
        (self.named.program(segment, pid) != Some(program)).then(|| program.clone())
    }
}

impl Retell for Retelling {
    fn retell(&self, meta: &[u8], data: usize, segment: Lsn) -> Vec<u8> {
        // (What can't be understood is not for recovery to mend.)
        let Ok(Record::Operation(mut operation)) = Record::decode(meta) else {
            return meta.to_vec();
        };
        let mut room = self.limit.saturating_sub(meta.len() + data);
        let mut fits = |cost: usize| {
            let fits = cost <= room;
            room -= if fits { cost } else { 0 };
            fits
        };
        if operation.program.is_none() {
            let program = self.program(&operation.op, segment);
            operation.program = program.filter(|name| fits(name.len() + 4));
        }
        let nameless: Vec<InodeNo> = operation.op.nameless().collect();
        for inode in nameless {
            let path = self.lacking(&operation, inode, segment);
            if let Some(path) = path.filter(|path| fits(path.len() + 8)) {
                operation.paths.push((inode, path));
            }
        }
        Record::Operation(operation).encode()
    }

    fn pass(&mut self, meta: &[u8], segment: Option<Lsn>) {
        let Ok(Record::Operation(operation)) = Record::decode_meaning(meta) else {
            return;
        };
        let Operation {
            op, paths, program, ..
        } = &operation;
        self.names.hear(&operation);
        self.names.learn(&operation);
        if let (Some(by), Some(program)) = (op.by(), program) {
            self.programs.insert(by.pid, program.clone());
        }
        if let Some(segment) = segment {
            let inodes = paths.iter().map(|(inode, _)| *inode);
            self.named.note(segment, op, inodes, program.clone());
        }
    }
}

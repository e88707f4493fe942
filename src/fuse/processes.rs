//! The host's processes, from `/proc`.
//!
//! The kernel names whoever asks by its task's number. Supplementary groups
//! are read only when an answer depends on them, and again for each such
//! request: a process may drop a group at any time, and must then be without.
//! Which process a task belongs to and what that runs is only told to people,
//! and believed for a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::fs::ProcessTable;

/// How long it is believed what a process runs.
const FRESH: Duration = Duration::from_secs(1);
/// So many tasks are remembered.
const MOST: usize = 1024;

/// The host's process table.
#[derive(Default)]
pub struct Processes(Mutex<HashMap<u32, Known>>);

#[derive(Clone)]
struct Known {
    asked: Instant,
    process: u32,
    program: Option<Vec<u8>>,
}

impl Processes {
    /// What a process runs, as in `/proc/PID/comm`; `None` if it has gone or
    /// isn't in our namespace.
    pub fn program(&self, process: u32) -> Option<Vec<u8>> {
        self.know(process).program
    }

    fn know(&self, task: u32) -> Known {
        let asked = Instant::now();
        let fresh = |known: &&Known| asked.duration_since(known.asked) < FRESH;
        if let Some(known) = self.0.lock().get(&task).filter(fresh) {
            return known.clone();
        }
        let status = std::fs::read_to_string(format!("/proc/{task}/status")).unwrap_or_default();
        let process = field(&status, "Tgid:").and_then(|id| id.parse().ok());
        let process = process.unwrap_or(task);
        let comm = std::fs::read(format!("/proc/{process}/comm")).ok();
        let known = Known {
            asked,
            process,
            program: comm.map(|comm| comm.trim_ascii_end().to_vec()),
        };
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(task, known.clone());
        known
    }
}

impl ProcessTable for Processes {
    fn groups(&self, task: u32) -> Arc<[u32]> {
        // Number 0: a process outside our pid namespace; it gets no more than
        // its user and group.
        match std::fs::read_to_string(format!("/proc/{task}/status")) {
            Ok(status) if task != 0 => groups(&status),
            _ => Arc::default(),
        }
    }

    fn process(&self, task: u32) -> u32 {
        self.know(task).process
    }
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map(str::trim)
}

fn groups(status: &str) -> Arc<[u32]> {
    field(status, "Groups:")
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|group| group.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_from_the_status_file() {
        let status = "Name:\tcat\nGid:\t7\t7\t7\t7\nGroups:\t4 24 1000 \nNStgid:\t9\n";
        assert_eq!(*groups(status), [4, 24, 1000]);
        assert!(groups("Name:\tcat\n").is_empty());
    }

    #[test]
    fn a_process_that_has_gone_has_no_groups_and_no_program() {
        let processes = Processes::default();
        assert!(processes.groups(0).is_empty());
        assert!(processes.groups(u32::MAX).is_empty());
        assert_eq!(processes.process(u32::MAX), u32::MAX);
        assert_eq!(processes.program(u32::MAX), None);
    }

    #[test]
    fn a_thread_belongs_to_its_process_and_runs_what_that_runs() {
        let processes = Processes::default();
        let task = nix::unistd::gettid().as_raw() as u32;
        let program = std::fs::read_to_string("/proc/self/comm").unwrap();
        for _ in 0..2 {
            assert_eq!(processes.process(task), std::process::id());
            let told = processes.program(std::process::id()).unwrap();
            assert_eq!(told, program.trim_end().as_bytes());
        }
    }
}

//! Supplementary groups of whoever asks, from `/proc/PID/status`.
//!
//! They are read only when an answer depends on them, and again for each such
//! request: a process may drop a group at any time, and must then be without.

use std::sync::Arc;

use crate::fs::AskGroups;

/// The host's process table.
pub struct Processes;

impl AskGroups for Processes {
    fn groups(&self, pid: u32) -> Arc<[u32]> {
        // Pid 0: a process outside our pid namespace; it gets no more than
        // its user and group.
        match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) if pid != 0 => parse(&status),
            _ => Arc::default(),
        }
    }
}

fn parse(status: &str) -> Arc<[u32]> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default()
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
        assert_eq!(*parse(status), [4, 24, 1000]);
        assert!(parse("Name:\tcat\n").is_empty());
    }

    #[test]
    fn a_process_that_has_gone_has_no_groups() {
        assert!(Processes.groups(0).is_empty());
        assert!(Processes.groups(u32::MAX).is_empty());
    }
}

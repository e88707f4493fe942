//! The host's processes, from `/proc`.
//!
//! The kernel names whoever asks by its task's number. Supplementary groups
//! are read only when an answer depends on them, and again for each such
//! request: a process may drop a group at any time, and must then be without.
//! What a process runs is told to people with each change, so its file in
//! `/proc` stays open: reading it again costs a small part of opening it, shows
//! another program at once, and fails when the number means another process.
//! What it said is believed for so short a time that no program can begin and
//! ask for anything: an operation asks twice.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::fs::ProcessTable;

/// So many tasks' files stay open.
const MOST: usize = 64;
/// A program's name is at most 15 bytes and a newline; threads of the kernel
/// have longer ones.
const LONGEST: usize = 64;
/// As long what a file said is believed: much less than execve(2) takes.
const FRESH: Duration = Duration::from_micros(50);

/// The host's process table.
#[derive(Default)]
pub struct Processes(Mutex<HashMap<u32, Arc<Known>>>);

struct Known {
    process: u32,
    comm: File,
    said: Mutex<(Instant, Vec<u8>)>,
}

impl Known {
    fn program(&self) -> Option<Vec<u8>> {
        let mut said = self.said.lock();
        if said.0.elapsed() > FRESH {
            *said = (Instant::now(), name(&self.comm)?);
        }
        Some(said.1.clone())
    }
}

impl Processes {
    /// What a process runs, as in `/proc/PID/comm`; `None` if it has gone or
    /// isn't in our namespace.
    pub fn program(&self, process: u32) -> Option<Vec<u8>> {
        self.know(process).map(|(_, program)| program)
    }

    /// The process that a task belongs to, and what it runs.
    fn know(&self, task: u32) -> Option<(u32, Vec<u8>)> {
        let known = self.0.lock().get(&task).cloned();
        if let Some(known) = known {
            match known.program() {
                Some(program) => return Some((known.process, program)),
                None => drop(self.0.lock().remove(&task)), // another has the number now, or nobody
            }
        }
        let status = std::fs::read_to_string(format!("/proc/{task}/status")).ok()?;
        let process = field(&status, "Tgid:")?.parse().ok()?;
        let comm = File::open(format!("/proc/{process}/comm")).ok()?;
        let program = name(&comm)?;
        let said = Mutex::new((Instant::now(), program.clone()));
        let known = Arc::new(Known {
            process,
            comm,
            said,
        });
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(task, known);
        Some((process, program))
    }
}

fn name(comm: &File) -> Option<Vec<u8>> {
    let mut name = [0; LONGEST];
    let len = comm.read_at(&mut name, 0).ok().filter(|len| *len > 0)?;
    let name = &name[..len];
    Some(name.strip_suffix(b"\n").unwrap_or(name).to_vec())
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
        self.know(task).map_or(task, |(process, _)| process)
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
    fn another_program_is_seen_at_once() {
        let processes = Processes::default();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo; read go; exec cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        use std::io::{Read, Write};
        // It is not the shell from its beginning on.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert_eq!(processes.program(child.id()).unwrap(), b"sh");
        let stdin = child.stdin.as_mut().unwrap();
        stdin.write_all(b"go\nx").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert_eq!(processes.program(child.id()).unwrap(), b"cat");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(processes.program(child.id()), None);
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

//! What processes run, from `/proc/PID/comm`.
//!
//! A process may become another program at any time, so a name is believed
//! for a second only; asking for each request would cost more than most
//! requests themselves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a name is believed.
const FRESH: Duration = Duration::from_secs(1);
/// So many processes are remembered.
const MOST: usize = 1024;

/// The host's process table, remembered for a while.
#[derive(Default)]
pub struct Programs(Mutex<HashMap<u32, Asked>>);

/// When a name was asked for, and the answer.
type Asked = (Instant, Option<Vec<u8>>);

impl Programs {
    /// What a process runs; `None` if it has gone or isn't in our namespace.
    pub fn name(&self, pid: u32) -> Option<Vec<u8>> {
        let now = Instant::now();
        let mut known = self.0.lock();
        match known.get(&pid) {
            Some((asked, name)) if now.duration_since(*asked) < FRESH => return name.clone(),
            _ => {}
        }
        if known.len() >= MOST {
            known.clear();
        }
        let comm = std::fs::read(format!("/proc/{pid}/comm")).ok();
        let name = comm.map(|comm| comm.trim_ascii_end().to_vec());
        known.insert(pid, (now, name.clone()));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_called_what_it_runs() {
        let programs = Programs::default();
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        for _ in 0..2 {
            let name = programs.name(std::process::id()).unwrap();
            assert_eq!(name, own.trim_end().as_bytes());
        }
        assert_eq!(programs.name(u32::MAX), None);
    }
}

//! The host's processors, and threads that keep to one of them.

use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// How many the kernel may ever have: of "0-3" or "0,2-5", those up to the last.
pub fn possible() -> io::Result<usize> {
    let listed = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = listed.trim().rsplit([',', '-']).next();
    let last = last.and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1)
        .ok_or_else(|| io::Error::other("can't tell how many processors there may be"))
}

/// Keeps this thread on a processor. One that is offline, or not ours to use,
/// can't be had: the thread then runs anywhere.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

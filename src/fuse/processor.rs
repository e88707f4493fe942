//! The host's processors, and threads that keep to one of them or go before
//! others.

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

/// It weighs three times as much as the nice value of most programs, 0
/// (sched(7)).
const NICE: i32 = -5;

/// Lets this thread go before programs, if we may (CAP_SYS_NICE, or a limit that
/// allows it). A program whose request it has answered on their processor then
/// follows it there. Otherwise it would compete with the thread's last steps,
/// and the scheduler sends it to another processor, which has to be woken: a
/// rename took 60 µs so, and 37 when it stays.
pub fn go_before() {
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Keeps this thread on a processor. One that is offline, or not ours to use,
/// can't be had: the thread then runs anywhere.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

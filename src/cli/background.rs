//! A daemon starts as a second process of the same program: no fork with
//! threads, nothing shared. It says through its standard output (a pipe) that
//! it is ready, or why it failed; only then does the first process end.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, Signal};

use super::{Failure, Outcome};

/// The hidden argument of the second process.
pub const ARGUMENT: &str = "--in-background";
const READY: &str = "ready";

/// Starts this command again as a daemon and waits until it is ready.
pub fn start() -> Outcome {
    let started = Command::new("/proc/self/exe")
        .args(arguments(super::command_line().into_iter().skip(1)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut daemon =
        started.map_err(|e| Failure::system(format!("the daemon can't be started: {e}")))?;
    let mut said = String::new();
    if let Some(mut pipe) = daemon.stdout.take() {
        let _ = pipe.read_to_string(&mut said);
    }
    match understood(&said) {
        Some(outcome) => outcome,
        None => {
            let status = daemon
                .wait()
                .map_or("unknown".to_owned(), |status| status.to_string());
            Err(Failure::refused(format!(
                "the daemon ended before it was ready ({status}): try again with -f"
            )))
        }
    }
}

/// The hidden argument comes right behind the subcommand, before any `--`.
fn arguments<T: From<&'static str>>(mut given: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = given.next().into_iter().collect();
    all.push(ARGUMENT.into());
    all.extend(given);
    all
}

/// `ready`, or an exit code and a line.
fn understood(said: &str) -> Option<Outcome> {
    let line = said.lines().next()?;
    if line == READY {
        return Some(Ok(0));
    }
    let (code, line) = line.split_once(' ')?;
    Some(Err(Failure::with_code(code.parse().ok()?, line)))
}

/// The daemon's side: leaves the process group, which is all that a terminal
/// signals, and all that a shell knows of. Not the session: the scheduler may
/// make a group of each (autogroup, sched(7)), and then wakes the programs of
/// another session on another processor, which takes three times as long as the
/// request does.
pub fn enter() {
    let own = nix::unistd::Pid::from_raw(0);
    // Fails only for a session's leader, which has a group of its own.
    let _ = nix::unistd::setpgid(own, own);
    // Until it is ready it complains on the terminal, which would stop it there
    // (`stty tostop`). All threads to come inherit this.
    let _ = SigSet::from(Signal::SIGTTOU).thread_block();
}

/// Tells the first process why there will be no daemon.
pub fn tell_failure(failure: &Failure) {
    let _ = writeln!(io::stdout(), "{} {}", failure.code, failure.line);
}

/// Tells the first process that the file system answers, and lets go of its
/// terminal: from now on warnings go to `log`, which is begun anew when it
/// has grown long. The working directory is left, so that the daemon keeps
/// nobody's mount busy.
pub fn tell_ready(log: &Path) -> io::Result<()> {
    if fs::metadata(log).is_ok_and(|about| about.len() > 1 << 20) {
        let _ = fs::remove_file(log);
    }
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log)
        .or_else(|_| null.try_clone())?;
    nix::unistd::chdir("/")?;
    nix::unistd::dup2_stderr(&log)?;
    writeln!(io::stdout(), "{READY}")?;
    io::stdout().flush()?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_is_understood() {
        assert!(matches!(understood("ready\n"), Some(Ok(0))));
        let Some(Err(failure)) = understood("32 disk.img: is in use\n") else {
            panic!()
        };
        assert_eq!(
            (failure.code, failure.line.as_str()),
            (32, "disk.img: is in use")
        );
        assert!(understood("").is_none());
        assert!(understood("thread main panicked").is_none());
    }

    #[test]
    fn the_hidden_argument_follows_the_subcommand() {
        let given = ["mount", "--", "image", "dir"];
        assert_eq!(
            arguments(given.into_iter()),
            ["mount", ARGUMENT, "--", "image", "dir"]
        );
    }
}

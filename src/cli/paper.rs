//! Where long output goes: to a pager on a terminal, with colour unless it is
//! not wanted; plain to everything else.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::{Child, Command, Stdio};

/// Standard output, or a pager before it.
pub struct Paper {
    out: Option<BufWriter<Box<dyn Write>>>,
    pager: Option<Child>,
    /// Whether to use colour.
    pub colour: bool,
}

impl Paper {
    /// `paged`: long enough for a pager, which is `$PAGER` or less.
    pub fn new(paged: bool) -> Paper {
        let terminal = io::stdout().is_terminal();
        // https://no-color.org: set and not empty.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let mut pager = if terminal && paged { start() } else { None };
        let out: Box<dyn Write> = match pager.as_mut().and_then(|pager| pager.stdin.take()) {
            Some(stdin) => Box::new(stdin),
            None => Box::new(io::stdout()),
        };
        Paper {
            out: Some(BufWriter::with_capacity(64 << 10, out)),
            pager,
            colour: terminal && !plain,
        }
    }

    /// What is written so far is shown. `false`: nobody reads on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }

    /// The end: waits until the reader has left the pager.
    pub fn close(mut self) -> io::Result<()> {
        let flushed = self.flush();
        self.out = None;
        if let Some(mut pager) = self.pager.take() {
            let left = pager.wait()?;
            // As a shell says that there is no such program, or that it is none.
            if matches!(left.code(), Some(126 | 127)) {
                return Err(io::Error::other(
                    "the pager can't be run: set PAGER to another one, or to cat",
                ));
            }
        }
        quietly(flushed)
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Some(out) => out.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Paper::flush(self)
    }
}

/// Whoever closed the pipe has seen enough: no error.
pub fn quietly(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes to standard output, for [`say!`] and [`say_text!`]. Whoever has
/// stopped reading (`| head`) wants no more, which is no error; with any other
/// one the command has failed, whatever it did.
pub fn put(what: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let written = out.write_fmt(what).and_then(|()| out.flush());
    if let Err(error) = quietly(written) {
        eprintln!("journalfs: standard output: {error}");
        std::process::exit(2);
    }
}

/// Whether the command's program can be found. (What only a shell can tell apart,
/// it is asked to.)
fn is_there(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let program = words.find(|word| !word.contains('=')).unwrap_or_default();
    if program.contains(['\'', '"', '\\', '$', '`']) {
        return true;
    }
    let mut asked = Command::new("sh");
    asked.args(["-c", "command -v \"$0\"", program]);
    let asked = asked.stdout(Stdio::null()).stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success())
}

fn start() -> Option<Child> {
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    if pager.is_empty() || pager == "cat" || !is_there(&pager) {
        return None;
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(&pager).stdin(Stdio::piped());
    // Colours as they are, no pager for what fits, no wrapped lines.
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRSX");
    }
    command.spawn().ok()
}

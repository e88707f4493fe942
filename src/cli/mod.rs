//! The command line: one file a subcommand; arguments → one library call →
//! print.
//!
//! Errors are one line on standard error: `journalfs: ` what, where, and what
//! to do. Exit codes are those of mount(8) and fsck(8), as far as they have
//! one for the case (see [`Failure`]).

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Prints a line; see [`paper::put`].
macro_rules! say {
    ($($what:tt)*) => { $crate::cli::paper::put(format_args!("{}\n", format_args!($($what)*))) };
}
/// Prints what has its line ends already.
macro_rules! say_text {
    ($($what:tt)*) => { $crate::cli::paper::put(format_args!($($what)*)) };
}

mod archive;
mod archiving;
mod background;
mod cat;
mod check;
mod chosen;
mod commands;
mod control;
mod cut;
mod detach;
mod diff;
mod export;
mod inject;
mod log;
mod mark;
mod mkfs;
mod mount;
mod open;
mod options;
mod output;
mod paper;
mod place;
mod power;
mod progress;
mod recover;
mod report;
mod restore;
mod runtime;
mod salvage;
mod segments;
mod show;
mod size;
mod source;
mod span;
mod status;
mod umount;
mod undelete;
mod unsynced;
mod usage;
mod verify;
mod view;

/// Mounts ext4 images with every change journaled before it reaches the image.
#[derive(Parser)]
#[command(name = "journalfs", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Mkfs(mkfs::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Recover(recover::Args),
    Check(check::Args),
    Status(status::Args),
    Log(log::Args),
    Show(show::Args),
    Segments(segments::Args),
    Verify(verify::Args),
    Report(report::Args),
    Salvage(salvage::Args),
    Archive(archive::Args),
    Restore(restore::Args),
    Diff(diff::Args),
    Cat(cat::Args),
    Undelete(undelete::Args),
    Mark(mark::Args),
    Cut(cut::Args),
    Unsynced(unsynced::Args),
    Inject(inject::Args),
    Export(export::Args),
    Detach(detach::Args),
}

/// Why a command failed: one line, and an exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    line: String,
}

/// A command's result: its exit code, 0 if all is well.
type Outcome = Result<u8, Failure>;

impl Failure {
    /// Options that make no sense: 1 as in mount(8).
    fn usage(line: impl fmt::Display) -> Self {
        Self::with_code(1, line)
    }
    /// The host does not let us (no /dev/fuse, no memory): 2 as in mount(8).
    fn system(line: impl fmt::Display) -> Self {
        Self::with_code(2, line)
    }
    /// It can't be mounted (or unmounted, recovered, made): 32 as in mount(8).
    fn refused(line: impl fmt::Display) -> Self {
        Self::with_code(32, line)
    }
    /// It can't be checked: 8 as in fsck(8).
    fn unchecked(line: impl fmt::Display) -> Self {
        Self::with_code(8, line)
    }

    fn with_code(code: u8, line: impl fmt::Display) -> Self {
        // Always one line, whoever worded it.
        let line = line
            .to_string()
            .split(['\n', '\r'])
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(" ");
        Failure {
            code,
            line: line.trim().to_owned(),
        }
    }
}

/// An image's or a mountpoint's name in front of what is wrong with it.
fn at(path: &Path, what: impl fmt::Display) -> String {
    format!("{}: {what}", path.display())
}

/// Parses the arguments, runs the subcommand, gives the exit code.
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse_from(command_line()) {
        Ok(cli) => run(cli.command),
        // (--help and --version.)
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            Ok(0)
        }
        Err(error) => {
            let args = command_line().into_iter();
            let args = args.map(|arg| arg.to_string_lossy().into_owned());
            Err(usage::failure(&error, args))
        }
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("journalfs: {}", failure.line);
            ExitCode::from(failure.code)
        }
    }
}

/// The program's arguments. `journalfs IMAGE DIR -o …` is a mount: so
/// mount.fuse calls it for mount(8), with the paths of a line of fstab(5), and
/// no command's name has a slash.
fn command_line() -> Vec<OsString> {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let first = args.get(1).map_or(&[][..], |arg| arg.as_encoded_bytes());
    if first.contains(&b'/') {
        args.insert(1, "mount".into());
    }
    args
}

fn run(command: Command) -> Outcome {
    log_to_stderr();
    match command {
        Command::Mkfs(args) => mkfs::run(&args),
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Segments(args) => segments::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::Archive(args) => archive::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Undelete(args) => undelete::run(&args),
        Command::Mark(args) => mark::run(&args),
        Command::Cut(args) => cut::run(&args),
        Command::Unsynced(args) => unsynced::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Detach(args) => detach::run(&args),
    }
}

/// Warnings only, unless `RUST_LOG` asks for more. fuser complains of replies
/// that nobody waits for any more when a mount ends: not of interest.
fn log_to_stderr() {
    let filter = env_logger::Env::default().default_filter_or("warn,fuser=off");
    let _ = env_logger::Builder::from_env(filter)
        .format(|out, record| {
            use std::io::Write;
            writeln!(
                out,
                "journalfs: {}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            )
        })
        .try_init();
}

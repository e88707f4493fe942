//! Wrong arguments: what clap tells in a page, in one line.

use clap::error::ErrorKind;
use clap::{CommandFactory, Error};

use super::{Cli, Failure};

/// What is wrong, what was perhaps meant, and whose `--help` says more.
///
/// Exit code 1 as in mount(8); but `check` keeps to fsck(8), where 1 says that
/// errors were corrected, and 16 that the arguments were wrong.
pub fn failure(error: &Error, args: impl Iterator<Item = String>) -> Failure {
    let mut cli = Cli::command();
    cli.build();
    let command = args
        .skip(1)
        .find(|arg| cli.find_subcommand(arg).is_some())
        .unwrap_or_default();
    let line = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "no command given".to_owned()
        }
        _ => said(&error.to_string()),
    };
    let help = ["journalfs", &command, "--help"];
    let help = help.map(str::trim).join(" ").replace("  ", " ");
    let code = if command == "check" { 16 } else { 1 };
    Failure::with_code(code, format!("{line}: see {help}"))
}

/// clap's first paragraph, and its guess at what was meant.
fn said(page: &str) -> String {
    let what = page.split("\n\n").next().unwrap_or_default();
    let what = what.trim_start_matches("error: ");
    let guess = page
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "))
        .find(|tip| tip.contains("similar"));
    match guess {
        Some(guess) => format!("{what} ({guess})"),
        None => what.to_owned(),
    }
}

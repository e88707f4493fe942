//! `journalfs undelete`: what a path led to before it was removed.

use std::path::{Path, PathBuf};

use crate::past::{Removal, Taken, removal};

use super::cat::give;
use super::log::line;
use super::source::Source;
use super::span::{Asked, Found};
use super::{Failure, Outcome, at};

/// Finds the newest record that removed PATH, says when and by whom, and gives
/// back what was there just before: a file on standard output, or with --to
/// anything, a directory with all that was removed with it.
///
/// Exit codes: 0 given back, 1 nothing removed it, 8 it can't be had any more,
/// 32 it can't be written.
#[derive(clap::Args)]
pub struct Args {
    /// Write it there, which must not exist, instead of printing it
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    asked: Asked,
    /// The path in the image, from its root
    path: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let path = rooted(&args.path);
    if path.is_empty() {
        return Err(Failure::usage(at(
            &args.path,
            "the root is never removed: name what was, or see all of it with journalfs mount --at",
        )));
    }
    let found = args.asked.find()?;
    let survey = found.survey();
    let removal::Found { removal, unread } = removal::find(survey, &path);
    let Some(removal) = removal else {
        let Asked {
            target,
            journal,
            chosen,
        } = &args.asked;
        let source = Source::find(target, journal.as_deref())?;
        let missing = source.gaps(chosen)?;
        let missing = missing.iter().map(ToString::to_string);
        let hidden = unread.map(|unread| unread.to_string());
        let hidden = hidden.or(found.damaged().map(str::to_owned));
        return Err(nothing(
            &found,
            &path,
            hidden.into_iter().chain(missing).next(),
        ));
    };
    if let Some(unread) = unread {
        log::warn!("{unread}: what was removed there, or behind it, is not known");
    }
    eprintln!("{}: {}", line::text(&path), text(&removal));
    let instant = found.after(removal.before)?;
    found.say_damaged();
    let taken = Taken::find(&instant, &path)
        .map_err(|e| found.cant(format!("{}: {e} before that", line::text(&path))))?;
    give(&taken, args.to.as_deref(), &args.path)?;
    Ok(0)
}

/// What to say if no record removed it; `hidden`: one that might have.
fn nothing(found: &Found, path: &[u8], hidden: Option<String>) -> Failure {
    let first = found.survey().first().unwrap_or_default();
    let (last, path) = (found.survey().last(), line::text(path));
    let earlier = found.earlier();
    match hidden {
        None => Failure::usage(at(
            &found.name,
            format!(
                "no record from {first} to {last} removed {path}: journalfs log --path shows what happened to it{earlier}"
            ),
        )),
        Some(hidden) => found.cant(format!(
            "none of the records from {first} to {last} that can be read removed {path}, and not all can be: {hidden}"
        )),
    }
}

/// As records have it: one slash in front, none behind.
fn rooted(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let names = bytes.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    names.flat_map(|name| [b"/", name].concat()).collect()
}

fn text(removal: &Removal) -> String {
    let how = match removal.kind {
        "rename" => "replaced by a rename",
        kind => match kind {
            "rmdir" => "removed (rmdir)",
            _ => "removed (unlink)",
        },
    };
    let who = match &removal.program {
        Some(program) => format!("{}[{}]", line::text(program), removal.by.pid),
        None => format!("process {}", removal.by.pid),
    };
    format!(
        "{how} by {who}, user {}, at {} (record {}); this is the state after record {}",
        removal.by.uid,
        line::utc(removal.time),
        removal.lsn,
        removal.before
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_from_the_root_however_it_is_written() {
        for path in ["/a/b", "a/b", "./a//b/", "/a/./b"] {
            assert_eq!(rooted(Path::new(path)), b"/a/b");
        }
    }
}

//! `journalfs cut`: pulls the power of a mount.

use std::path::PathBuf;
use std::time::Duration;

use crate::sim::cut::{Keep, Loss, Model};

use super::control::{CutRequest, Mount, Request};
use super::{Failure, Outcome, at, power};

/// Cuts the power of a mount with -o powercut, now or at a chosen moment.
///
/// Answers when it has happened: says what is lost, and leaves image and journal
/// as the machine would find them when the power is back. Programs on the mount
/// get errors; mount the image again to see what they would find. A cut for
/// later says on standard error that it is armed; interrupted, it is given up.
#[derive(clap::Args)]
pub struct Args {
    /// What the file system promises about what was not synced: prefix
    /// (journalfs: the order of operations), ext4 (ordered metadata, delayed
    /// data), posix (anything may be missing)
    #[arg(long, default_value = "prefix", verbatim_doc_comment)]
    model: Model,
    /// What survives of it: none, all, random, or all up to a record
    #[arg(long, default_value = "random", value_name = "none|all|random|LSN")]
    keep: Keep,
    /// Writes may survive in part
    #[arg(long)]
    torn: bool,
    /// Decides what is left to chance; drawn and told if not given
    #[arg(long)]
    seed: Option<u64>,
    /// After so much time: 3s, 250ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    after: Option<Duration>,
    /// When this record has been written
    #[arg(long, value_name = "LSN")]
    at_lsn: Option<u64>,
    /// When a mark of this name is made
    #[arg(long, value_name = "NAME")]
    at_mark: Option<String>,
    /// When this is asked for: an operation and a path, as in fsync:/db/*
    #[arg(long, value_name = "OP:GLOB")]
    before_op: Option<String>,
    /// When this has succeeded
    #[arg(long, value_name = "OP:GLOB")]
    after_op: Option<String>,
    /// One JSON object with stable keys
    #[arg(long)]
    json: bool,
    /// Where it is mounted
    dir: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let request = args.request();
    power::parse(&request).map_err(Failure::usage)?;
    let mount = Mount::find(&args.dir)?;
    let armed = || eprintln!("journalfs: armed: the cut waits for its moment");
    let cut: Result<Loss, String> = mount.ask_and_wait(&Request::Cut(request), armed)?;
    mount.wait_until_free()?;
    let loss = cut.map_err(|why| Failure::refused(at(&args.dir, why)))?;
    match args.json {
        true => say!("{}", serde_json::to_string(&loss).map_err(Failure::system)?),
        false => say_text!("{}", loss.text()),
    }
    Ok(0)
}

impl Args {
    fn request(&self) -> CutRequest {
        CutRequest {
            model: self.model.to_string(),
            keep: self.keep.to_string(),
            torn: self.torn,
            seed: self.seed.unwrap_or_else(drawn),
            after_millis: self.after.map(|time| time.as_millis() as u64),
            at_lsn: self.at_lsn,
            at_mark: self.at_mark.clone(),
            before_op: self.before_op.clone(),
            after_op: self.after_op.clone(),
        }
    }
}

/// A seed that is short enough to be typed again.
fn drawn() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64 >> 10 & 0xFFFF_FFFF)
}

/// `3s`, `250ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        other => return Err(format!("unknown unit {other:?} (ms, s or m)")),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "a time looks like 3s or 250ms".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "s", "-1s", "3h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

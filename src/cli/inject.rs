//! `journalfs inject`.

use std::path::PathBuf;

use crate::device::fault::Fault;

use super::control::{Mount, Request};
use super::{Failure, Outcome};

const GRAMMAR: &str = "\
A fault is CALL[@TARGET]:EFFECT[,OPTION]..., as in sync@store:eio or
write@image:enospc,after=10,times=1.

  CALL    read, write, space, sync, name, any
  TARGET  image, journal, store, index, folder, or a file of the journal
  EFFECT  eio, enospc, edquot, enomem, erofs, or an error's number;
          rot (a bit of what is read has changed), lie (a sync reports
          success and makes nothing stable), slow (with ms=N)
  OPTION  after=N, times=N, at=FROM[-TO], part=N, forget, room=N, bit=N";

/// Makes the disks under a mount with -o powercut fail, and lists what is
/// armed.
#[derive(clap::Args)]
#[command(after_help = GRAMMAR)]
pub struct Args {
    /// Take away all faults first
    #[arg(long)]
    heal: bool,
    /// Where it is mounted
    dir: PathBuf,
    /// Faults to arm
    #[arg(value_name = "FAULT")]
    faults: Vec<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    for text in &args.faults {
        let parsed = text.parse::<Fault>();
        parsed.map_err(|e| Failure::usage(format!("{text}: {e}")))?;
    }
    let request = Request::Inject {
        faults: args.faults.clone(),
        heal: args.heal,
    };
    let armed: Vec<String> = Mount::find(&args.dir)?.ask(&request)?;
    armed.iter().for_each(|line| say!("{line}"));
    Ok(0)
}

//! One run of a workload: as many processes as it has clients, started at once.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::workload::{self, Outcome, Unit};

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    side: String,
    #[arg(long)]
    round: u32,
    /// A tenth of everything.
    #[arg(long)]
    quick: bool,
    /// Where the images are: the disk there is watched.
    #[arg(long)]
    host: PathBuf,
    /// What is copied from: tree, tree.tar, tree.git, and the file `count`.
    #[arg(long)]
    source: PathBuf,
    /// With `-4` behind it, of four processes.
    workload: String,
    folder: PathBuf,
}

/// One figure.
#[derive(Serialize, Deserialize)]
pub struct Sample {
    pub workload: String,
    /// Empty for the main one.
    pub metric: String,
    pub unit: String,
    pub side: String,
    pub round: u32,
    pub value: f64,
}

pub fn run(args: &Args) -> io::Result<()> {
    let (workload, clients) = workload::find(&args.workload)
        .ok_or_else(|| io::Error::other(format!("{} is no workload", args.workload)))?;
    // The limit is one writer that commits for all.
    let processes = if args.side == "limit" { 1 } else { clients };
    let mut children: Vec<Child> = (0..processes)
        .map(|number| start(args, number, clients))
        .collect::<io::Result<_>>()?;
    let mut said: Vec<_> = (children.iter_mut())
        .map(|child| BufReader::new(child.stdout.take().expect("a pipe")))
        .collect();
    for child in &mut said {
        child.read_line(&mut String::new())?; // it is ready
    }
    let before = Disk::below(&args.host);
    for child in &mut children {
        child.stdin.take().expect("a pipe").write_all(b"\n")?;
    }
    let mut outcome = Outcome::default();
    for child in &mut said {
        let mut line = String::new();
        child.read_line(&mut line)?;
        let one = serde_json::from_str(&line).map_err(|_| failed(args))?;
        outcome.join(one);
    }
    let after = Disk::below(&args.host);
    for mut child in children {
        if !child.wait()?.success() {
            return Err(failed(args));
        }
    }

    let say = |metric: &str, unit: &str, value: f64| {
        let sample = Sample {
            workload: args.workload.clone(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            side: args.side.clone(),
            round: args.round,
            value,
        };
        println!("{}", serde_json::to_string(&sample).expect("JSON"));
    };
    let seconds = outcome.nanos as f64 / 1e9;
    match workload.unit {
        Unit::Operations => say("", "op/s", outcome.done as f64 / seconds),
        Unit::Bytes => say("", "MB/s", outcome.done as f64 / seconds / 1e6),
    }
    if let Some(nanos) = outcome.sync {
        say("fsync at the end", "ms", nanos as f64 / 1e6);
    }
    if let Some(nanos) = outcome.quantile(0.99) {
        say("p99", "ms", nanos as f64 / 1e6);
    }
    let Some((before, after)) = before
        .zip(after)
        .filter(|_| workload.durable && !args.side.starts_with("null"))
    else {
        return Ok(());
    };
    let each = |from: u64, to: u64| (to - from) as f64 / outcome.done as f64;
    let bytes = each(before.bytes, after.bytes);
    say("to the disk", "KiB/op", bytes / 1024.0);
    say("flushes", "flush/op", each(before.flushes, after.flushes));
    Ok(())
}

fn start(args: &Args, number: usize, clients: usize) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("client")
        .args(args.quick.then_some("--quick"))
        .args((args.side == "limit").then_some("--limit"))
        .args([format!("--number={number}"), format!("--clients={clients}")])
        .arg("--source")
        .arg(&args.source)
        .args([&PathBuf::from(&args.workload), &args.folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

fn failed(args: &Args) -> io::Error {
    io::Error::other(format!("{} failed on {}", args.workload, args.side))
}

//! `journalfs unsynced`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::sim::cut::{Lost, Model};

use super::control::{Mount, Request};
use super::{Failure, Outcome};

/// Lists what a power cut now would take at worst: for each operation, under
/// which models it may be missing. (Without -o powercut only journalfs's own,
/// prefix, is known; files are then named by their inodes.)
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line: the operation, and `models`
    #[arg(long)]
    json: bool,
    /// Only under this model: prefix, ext4 or posix
    #[arg(long)]
    model: Option<Model>,
    /// Where it is mounted
    dir: PathBuf,
}

#[derive(Serialize)]
struct Line {
    models: Vec<String>,
    #[serde(flatten)]
    lost: Lost,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let mount = Mount::find(&args.dir)?;
    let models = match args.model {
        Some(model) => vec![model],
        None if mount.has_switch() => vec![Model::Prefix, Model::Ext4, Model::Posix],
        None => vec![Model::Prefix],
    };
    let mut lines: BTreeMap<u64, Line> = BTreeMap::new();
    for model in models {
        let model = model.to_string();
        let request = Request::Unsynced {
            model: model.clone(),
        };
        for lost in mount.ask::<Vec<Lost>>(&request)? {
            let line = lines.entry(lost.lsn).or_insert_with(|| Line {
                models: Vec::new(),
                lost,
            });
            line.models.push(model.clone());
        }
    }
    for line in lines.values() {
        match args.json {
            true => say!("{}", serde_json::to_string(line).map_err(Failure::system)?),
            false => say!("{}  ({})", line.lost.text(), line.models.join(", ")),
        }
    }
    Ok(0)
}

//! The driver of `scripts/bench`, which mounts: it runs one workload on one
//! side and prints what it measured, one JSON object a line; later it makes
//! the table and the plots of them.
//!
//! ```text
//!     bench run --side SIDE --round N [--quick] --host DIR --source DIR WORKLOAD FOLDER
//!     bench table RESULTS           medians and ratios, as markdown
//!     bench plot RESULTS SVG WORKLOAD…
//!     bench tree FOLDER [--quick]   files and folders as source code has them
//!     bench fill FILE BYTES         bytes of no pattern: disks know zeros
//!     bench evict FILE…             the host forgets what it has cached of them
//! ```

use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod disk;
mod figures;
mod noise;
mod plot;
mod run;
mod table;
mod workload;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    /// One process of a workload: `run` starts it.
    Client(workload::Client),
    Table {
        results: PathBuf,
    },
    Plot {
        results: PathBuf,
        svg: PathBuf,
        workloads: Vec<String>,
    },
    Tree {
        #[arg(long)]
        quick: bool,
        folder: PathBuf,
    },
    Fill {
        file: PathBuf,
        bytes: u64,
    },
    Evict {
        files: Vec<PathBuf>,
    },
}

fn main() -> std::io::Result<()> {
    match Arguments::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Client(client) => client.work(),
        Command::Table { results } => table::print(&results),
        Command::Plot {
            results,
            svg,
            workloads,
        } => plot::write(&results, &svg, &workloads),
        Command::Tree { quick, folder } => noise::tree(&folder, if quick { 300 } else { 3000 }),
        Command::Fill { file, bytes } => noise::fill(&file, bytes),
        Command::Evict { files } => disk::evict(&files),
    }
}

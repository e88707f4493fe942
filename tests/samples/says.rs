//! What the program says of a sample, in lines that stay the same: a command
//! may learn to say more, hence only what is named here.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ext4_view::{Ext4, Ext4Error};
use serde_json::Value;

use crate::Sample;
use crate::support::e2fsck;

/// Everything, in an order that leaves the image's recovery for the end.
pub fn all(sample: &Sample) -> String {
    let mut said = String::new();
    let mut ask = |args: &[&str], keys: &[&str]| {
        let done = sample.journalfs(args);
        writeln!(
            said,
            "{}: exits {}",
            args.join(" "),
            done.status.code().unwrap()
        )
        .unwrap();
        for line in String::from_utf8(done.stdout).unwrap().lines() {
            let object: Value = serde_json::from_str(line).unwrap();
            let told = keys.iter().filter_map(|key| {
                let value = object.pointer(&format!("/{key}"))?;
                (!value.is_null()).then(|| format!("{key}={value}"))
            });
            writeln!(said, "  {}", told.collect::<Vec<_>>().join(" ")).unwrap();
        }
    };
    ask(
        &["status", "--json", "disk.img"],
        &[
            "verdict",
            "guarded",
            "epoch",
            "checkpoint",
            "durable",
            "appended",
            "lag",
        ],
    );
    ask(
        &["verify", "--json", "disk.img"],
        &[
            "verdict",
            "records",
            "bytes",
            "installed",
            "durable",
            "last",
            "bad/lsn",
            "bad/segment",
            "bad/offset",
            "dropped",
        ],
    );
    ask(
        &["segments", "--json", "disk.img"],
        &[
            "name",
            "state",
            "bytes",
            "epoch",
            "first",
            "last",
            "begun",
            "last_time",
        ],
    );
    ask(
        &["log", "--all", "--json", "disk.img"],
        &[
            "lsn", "epoch", "time", "op", "path", "to", "inode", "offset", "length", "size",
            "mode", "name", "program", "pid",
        ],
    );
    if sample.archive().is_some() {
        ask(
            &[
                "archive",
                "archive",
                "list",
                "--json",
                "--journal",
                "disk.img.journal",
            ],
            &["image", "bases", "segments", "restorable"],
        );
        ask(
            &["archive", "archive", "verify", "--json"],
            &["records", "damaged"],
        );
        for point in ["first", "second", "5"] {
            said += &restored(sample, point);
        }
    }
    said += &recovered(sample);
    said
}

/// An earlier state, as an image of its own and one file of it.
fn restored(sample: &Sample, point: &str) -> String {
    let from = ["--archive", "archive", "disk.img"];
    let restore = [
        &["restore", "--force", "--at", point, "--to", "out.img"],
        &from[..],
    ]
    .concat();
    let done = sample.journalfs(&restore);
    assert!(done.status.success(), "{done:?}");
    e2fsck::assert_clean(&sample.at("out.img"));
    let cat = [&["cat", "--at", point], &from[..], &["dir/file"]].concat();
    let file = sample.journalfs(&cat);
    let sum = crc32fast::hash(&file.stdout);
    let tree = tree(&sample.at("out.img"));
    format!(
        "at {point}: dir/file has {} bytes, {sum:08x}\n{tree}",
        file.stdout.len()
    )
}

/// The image after a recovery, or why there is none.
fn recovered(sample: &Sample) -> String {
    let done = sample.journalfs(&["recover", "disk.img"]);
    let code = done.status.code().unwrap();
    if code != 0 {
        return format!("recover: exits {code}\n");
    }
    e2fsck::assert_clean(&sample.image());
    format!("recover: exits 0\n{}", tree(&sample.image()))
}

/// The tree as a reader sees it who knows nothing of journalfs.
fn tree(image: &Path) -> String {
    let mut lines = Vec::new();
    Ext4::load_from_path(image)
        .and_then(|ext4| walk(&ext4, PathBuf::from("/"), &mut lines))
        .unwrap();
    lines.sort();
    lines.concat()
}

fn walk(ext4: &Ext4, path: PathBuf, lines: &mut Vec<String>) -> Result<(), Ext4Error> {
    let name = path.to_str().unwrap();
    let about = ext4.symlink_metadata(name)?;
    let mut line = format!(
        "  {name} {:o} {}:{}",
        about.mode(),
        about.uid(),
        about.gid()
    );
    if about.is_symlink() {
        let target = ext4.read_link(name)?;
        line += &format!(" -> {}", target.display());
    } else if about.file_type().is_regular_file() {
        let bytes = ext4.read(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        line += &format!(" {} bytes, {:08x}", bytes.len(), crc32fast::hash(&bytes));
    }
    lines.push(line + "\n");
    if about.is_dir() {
        for entry in ext4.read_dir(name)? {
            let entry = entry?;
            let below = entry.file_name();
            let below = below.as_str().unwrap();
            if below != "." && below != ".." {
                walk(ext4, path.join(below), lines)?;
            }
        }
    }
    Ok(())
}

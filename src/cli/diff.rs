//! `journalfs diff`: what changed between two points in time.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use similar::TextDiff;

use crate::fs::{Attr, Kind};
use crate::history::Point;
use crate::past::{Aspect, Change, Happened, Instant, Taken, compare, path_of};

use super::log::line;
use super::paper::{Paper, quietly};
use super::span::{Asked, Found};
use super::{Failure, Outcome, at};

/// Longer files are not compared as text, bytes.
const LONGEST: u64 = 64 << 20;

/// Lists what changed between two points in time: names added, removed and
/// renamed, contents, modes, owners, attributes and times. A point is a
/// record's number, a time (RFC 3339, or local), an age (-5m), or a mark's name.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// One JSON object a line, with stable keys
    #[arg(long)]
    json: bool,
    /// The two versions of one file as a text diff
    #[arg(long, value_name = "PATH", conflicts_with = "json")]
    content: Option<PathBuf>,
    #[command(flatten)]
    asked: Asked,
    /// The earlier point
    #[arg(value_name = "POINT1", allow_hyphen_values = true)]
    one: Point,
    /// The later point
    #[arg(value_name = "POINT2", allow_hyphen_values = true)]
    other: Point,
}

/// Stable keys.
#[derive(Serialize)]
struct Object {
    /// `added`, `removed`, `replaced`, `renamed`, `linked`, `unlinked`, `changed`.
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aspects: Vec<&'static str>,
    before: Option<About>,
    after: Option<About>,
}

#[derive(Serialize)]
struct About {
    inode: u32,
    kind: &'static str,
    size: u64,
    /// Octal.
    mode: String,
    owner: u32,
    group: u32,
    links: u32,
    mtime: String,
    ctime: String,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Outcome {
    let found = args.asked.find()?;
    let (one, other) = (found.at(&args.one)?, found.at(&args.other)?);
    found.say_damaged();
    if let Some(path) = &args.content {
        return content(&found, &one, &other, path);
    }
    let changes = compare(&found.span, &one, &other).map_err(|e| found.cant(e))?;
    let mut paper = Paper::new(!args.json);
    let written = changes.iter().try_for_each(|change| match args.json {
        true => object(change, &mut paper),
        false => text(change, &mut paper),
    });
    quietly(written.and_then(|()| paper.close())).map_err(Failure::system)?;
    Ok(0)
}

fn object(change: &Change, out: &mut dyn Write) -> io::Result<()> {
    let object = Object {
        change: happened(change.happened),
        path: line::text(&change.path).into_owned(),
        from: change
            .from
            .as_ref()
            .map(|from| line::text(from).into_owned()),
        aspects: change.aspects.iter().map(|aspect| name(*aspect)).collect(),
        before: change.before.as_ref().map(about),
        after: change.after.as_ref().map(about),
    };
    writeln!(out, "{}", serde_json::to_string(&object)?)
}

fn about(attr: &Attr) -> About {
    About {
        inode: attr.inode.0,
        kind: kind(attr.kind),
        size: attr.size,
        mode: format!("{:04o}", attr.perm),
        owner: attr.uid,
        group: attr.gid,
        links: attr.links,
        mtime: line::utc(attr.mtime),
        ctime: line::utc(attr.ctime),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Regular => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

fn happened(happened: Happened) -> &'static str {
    match happened {
        Happened::Added => "added",
        Happened::Removed => "removed",
        Happened::Replaced => "replaced",
        Happened::Renamed => "renamed",
        Happened::Linked => "linked",
        Happened::Unlinked => "unlinked",
        Happened::Changed => "changed",
    }
}

fn name(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Content => "content",
        Aspect::Size => "size",
        Aspect::Mode => "mode",
        Aspect::Owner => "owner",
        Aspect::Group => "group",
        Aspect::Links => "links",
        Aspect::Xattrs => "xattrs",
        Aspect::Flags => "flags",
        Aspect::Mtime => "mtime",
        Aspect::Ctime => "ctime",
    }
}

/// What people want to know: that a directory's times and links changed with
/// its entries, and a file's ctime with all else, goes without saying.
fn text(change: &Change, out: &mut dyn Write) -> io::Result<()> {
    let what = happened(change.happened);
    let path = line::text(&change.path);
    if let Some(from) = &change.from {
        return writeln!(out, "{what:<9} {} → {path}", line::text(from));
    }
    let (Some(before), Some(after), Happened::Changed) =
        (&change.before, &change.after, change.happened)
    else {
        let slash = change.after.as_ref().or(change.before.as_ref());
        let slash = slash.is_some_and(|attr| attr.kind == Kind::Directory);
        return writeln!(out, "{what:<9} {path}{}", if slash { "/" } else { "" });
    };
    let told: Vec<String> = (change.aspects.iter())
        .filter_map(|aspect| told(*aspect, before, after))
        .collect();
    let told = match told.is_empty() {
        false => told.join(", "),
        true if before.kind == Kind::Directory => return Ok(()),
        true if change.aspects.contains(&Aspect::Mtime) => "mtime".to_owned(),
        true => return Ok(()),
    };
    writeln!(out, "{what:<9} {path}  {told}")
}

fn told(aspect: Aspect, before: &Attr, after: &Attr) -> Option<String> {
    let (from, to) = match aspect {
        Aspect::Content if before.size == after.size => return Some("content".to_owned()),
        Aspect::Content => {
            return Some(format!("content, {} → {} bytes", before.size, after.size));
        }
        Aspect::Mode => (
            format!("{:04o}", before.perm),
            format!("{:04o}", after.perm),
        ),
        Aspect::Owner => (before.uid.to_string(), after.uid.to_string()),
        Aspect::Group => (before.gid.to_string(), after.gid.to_string()),
        Aspect::Links if before.kind != Kind::Directory => {
            (before.links.to_string(), after.links.to_string())
        }
        Aspect::Xattrs | Aspect::Flags => return Some(name(aspect).to_owned()),
        Aspect::Size | Aspect::Links | Aspect::Mtime | Aspect::Ctime => return None,
    };
    Some(format!("{} {from} → {to}", name(aspect)))
}

/// A file's two versions; one that was not there is empty.
fn content(found: &Found, one: &Instant, other: &Instant, path: &Path) -> Outcome {
    let (mut before, mut after) = (taken(found, one, path)?, taken(found, other, path)?);
    let (mut old, mut new) = (path.to_owned(), path.to_owned());
    // A file that is at one point alone may have another name at the other.
    match (&before, &after) {
        (None, None) => {
            return Err(found.cant(format!("{}: is at neither point", path.display())));
        }
        (Some(file), None) => (after, new) = renamed(found, other, file, path)?,
        (None, Some(file)) => (before, old) = renamed(found, one, file, path)?,
        (Some(_), Some(_)) => {}
    }
    let label = |instant: &Instant, file: &Option<Taken>, path: &Path| match file {
        Some(_) => format!("{} (record {})", path.display(), instant.at()),
        None => "/dev/null".to_owned(),
    };
    let labels = (label(one, &before, &old), label(other, &after, &new));
    let (before, after) = (bytes(found, before, &old)?, bytes(found, after, &new)?);
    let mut paper = Paper::new(true);
    let written = match before.contains(&0) || after.contains(&0) {
        true if before == after => Ok(()),
        true => writeln!(paper, "{} and {} differ (not text)", labels.0, labels.1),
        false => TextDiff::from_lines(&before, &after)
            .unified_diff()
            .header(&labels.0, &labels.1)
            .to_writer(&mut paper),
    };
    quietly(written.and_then(|()| paper.close())).map_err(Failure::system)?;
    Ok(0)
}

fn taken(found: &Found, instant: &Instant, path: &Path) -> Result<Option<Taken>, Failure> {
    use crate::{fs, past};
    match Taken::find(instant, path.as_os_str().as_encoded_bytes()) {
        Ok(taken) => Ok(Some(taken)),
        Err(past::Error::Fs(fs::Error::NotFound)) => Ok(None),
        Err(error) => Err(found.cant(at(path, error))),
    }
}

/// The file at another instant, where it has another path.
fn renamed(
    found: &Found,
    instant: &Instant,
    file: &Taken,
    path: &Path,
) -> Result<(Option<Taken>, PathBuf), Failure> {
    let named = path_of(instant, file.attr()).map_err(|e| found.cant(e))?;
    let Some(other) = named.map(|bytes| PathBuf::from(OsString::from_vec(bytes))) else {
        return Ok((None, path.to_owned()));
    };
    Ok((taken(found, instant, &other)?, other))
}

/// Of a file that was not there, none.
fn bytes(found: &Found, taken: Option<Taken>, path: &Path) -> Result<Vec<u8>, Failure> {
    let cant = |why: &dyn std::fmt::Display| found.cant(at(path, why));
    let Some(taken) = taken else {
        return Ok(Vec::new());
    };
    if !taken.is_file() {
        return Err(cant(&"is not a regular file"));
    }
    if taken.attr().size > LONGEST {
        return Err(cant(&"is too long to compare as text (64 MiB at most)"));
    }
    let mut bytes = Vec::new();
    taken.print(&mut bytes).map_err(|e| cant(&e))?;
    Ok(bytes)
}

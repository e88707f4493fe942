//! `journalfs mount --at`: a look at the file system as it was.
//!
//! It is a mount of its own, for reading, from the image (or an archive's copy
//! of it) and the records, without a copy. In the mount table its source is
//! IMAGE@RECORD, so that nobody takes it for a mount of the image.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fuse::meter::Meter;
use crate::fuse::{Core, Session};
use crate::history::Point;

use super::mount::mount_options;
use super::options::{Options, Wish};
use super::span::{Asked, Found};
use super::status::Live;
use super::{Failure, Outcome, at};

/// Mounts, and serves until unmounted.
pub fn serve(
    asked: &Asked,
    when: &Point,
    point: &Path,
    options: &Options,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Outcome {
    if options.archive != Wish::AsBefore {
        return Err(Failure::usage(
            "-o archive=: a look at the past archives nothing: name the archive with --archive DIR",
        ));
    }
    // mount(8) knows no "could not look".
    let refused = |failure: Failure| match failure.code {
        1 => failure,
        _ => Failure::refused(failure.line),
    };
    let found = asked.find().map_err(refused)?;
    let instant = found.at(when).map_err(refused)?;
    found.say_damaged();
    let fs = instant
        .fs(options.access())
        .map_err(|e| refused(found.cant(e)))?;
    let mut source = found.name.clone().into_os_string();
    source.push(format!("@{}", instant.at()));
    let said = said(&found, instant.at().0, point);
    let meter = Arc::new(Meter::default());
    let counted = meter.clone();
    let status = move || said.clone().with_requests(&counted).to_json();
    let core = Core::new(fs, false, Box::new(status), meter, None);
    let session = Session::mount(core, point, &mount_options(PathBuf::from(source), options))
        .map_err(Failure::refused)?;
    ready()?;
    let served = session.run();
    served
        .map(|()| 0)
        .map_err(|e| Failure::refused(at(point, e)))
}

fn said(found: &Found, lsn: u64, point: &Path) -> Live {
    Live {
        pid: std::process::id(),
        image: found.name.clone(),
        journal: found.journal.clone(),
        mountpoint: point.to_owned(),
        read_only: true,
        appended: lsn,
        written: lsn,
        durable: lsn,
        checkpoint: lsn,
        past: Some(lsn),
        ..Live::default()
    }
}

/// Whether a mount's source is such a look.
pub fn is_view(source: &OsStr) -> bool {
    let text = source.to_string_lossy();
    let number = text
        .rsplit_once('@')
        .map(|(_, number)| number.parse::<u64>());
    matches!(number, Some(Ok(_))) && !Path::new(source).exists()
}

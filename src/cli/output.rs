//! Files that readers make: never in place of what they read.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::chosen::Chosen;
use super::{Failure, at};

/// Refuses to write over an image, or among the files of its journal or archive.
pub fn refuse_source(
    out: &Path,
    image: Option<&Path>,
    journal: &Path,
    chosen: &Chosen,
) -> Result<(), Failure> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // (A link leads elsewhere than its own folder.)
    let places = [real(out), real(folder)];
    let is_in = |of: PathBuf| {
        let of = real(&of);
        let within = |place: &PathBuf| of.as_ref().is_some_and(|of| place.starts_with(of));
        places.iter().flatten().any(within)
    };
    let what = if chosen.folder(journal).is_some_and(is_in) {
        "lies in the archive's folder"
    } else if journal.is_dir() && is_in(journal.to_owned()) {
        "lies in the journal's folder"
    } else if image.is_some_and(|image| is_in(image.to_owned())) {
        "is the image itself"
    } else {
        return Ok(());
    };
    let why = format!("{what}: name another file");
    Err(Failure::refused(at(out, why)))
}

/// Why a file can't be made, and what to do.
pub fn cant_make(out: &Path, error: &io::Error) -> Failure {
    let what = match error.kind() {
        io::ErrorKind::AlreadyExists => "exists already: name another file".to_owned(),
        io::ErrorKind::NotFound => {
            "its folder does not exist: make that, or name another file".to_owned()
        }
        io::ErrorKind::NotADirectory => "its folder is a file: name another file".to_owned(),
        io::ErrorKind::IsADirectory => "is a folder: name a file".to_owned(),
        // (The host's error may have the name already.)
        _ => {
            let (said, name) = (error.to_string(), format!("{}: ", out.display()));
            let said = said.strip_prefix(&name).unwrap_or(&said);
            format!("can't be written: {said}: name another file")
        }
    };
    Failure::refused(at(out, what))
}

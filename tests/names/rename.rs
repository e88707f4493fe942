//! rename, compared with what the host's own file system does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use journalfs::fs::rename::{EXCHANGE, NOREPLACE};
use journalfs::fs::{Error, Kind};
use journalfs::units::InodeNo;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags};

use crate::support::random::Seeded;
use crate::world::{ROOT, World};

/// The same tree twice: in a folder of the host, and in an image.
struct Twins {
    host: tempfile::TempDir,
    world: World,
}

impl Twins {
    fn new(format: &str) -> Self {
        let twins = Twins {
            host: tempfile::tempdir().unwrap(),
            world: World::new(format, 16 << 20),
        };
        twins
            .world
            .fs
            .rmdir(&twins.world.by, ROOT, b"lost+found")
            .unwrap();
        twins
    }

    fn at(&self, path: &str) -> PathBuf {
        self.host.path().join(path)
    }

    fn find(&self, path: &str) -> InodeNo {
        path.split('/')
            .filter(|part| !part.is_empty())
            .fold(ROOT, |dir, name| self.world.look(dir, name).unwrap().inode)
    }

    fn split<'p>(&self, path: &'p str) -> Result<(InodeNo, &'p str), Errno> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = ROOT;
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            at = self
                .world
                .look(at, part)
                .map_err(|error| errno(&error))?
                .inode;
        }
        Ok((at, name))
    }

    fn dir(&self, path: &str) {
        fs::create_dir(self.at(path)).unwrap();
        let (dir, name) = self.split(path).unwrap();
        self.world.dir(dir, name);
    }

    fn file(&self, path: &str) {
        fs::write(self.at(path), b"").unwrap();
        let (dir, name) = self.split(path).unwrap();
        self.world.file(dir, name);
    }

    fn link(&self, old: &str, path: &str) {
        fs::hard_link(self.at(old), self.at(path)).unwrap();
        let (dir, name) = self.split(path).unwrap();
        self.world
            .fs
            .link(&self.world.by, self.find(old), dir, name.as_bytes())
            .unwrap();
    }

    fn symlink(&self, path: &str) {
        std::os::unix::fs::symlink("nowhere", self.at(path)).unwrap();
        let (dir, name) = self.split(path).unwrap();
        self.world
            .fs
            .symlink(&self.world.by, dir, name.as_bytes(), b"nowhere")
            .unwrap();
    }

    /// Renames in both; both say the same and look the same.
    fn rename(&self, from: &str, to: &str, flags: u32) {
        let theirs = nix::fcntl::renameat2(
            AT_FDCWD,
            &self.at(from),
            AT_FDCWD,
            &self.at(to),
            RenameFlags::from_bits_truncate(flags),
        );
        let ours = self.split(from).and_then(|(dir, name)| {
            let (new_dir, new_name) = self.split(to)?;
            let (fs, by) = (&self.world.fs, &self.world.by);
            let done = fs.rename(
                by,
                dir,
                name.as_bytes(),
                new_dir,
                new_name.as_bytes(),
                flags,
            );
            done.map(drop).map_err(|error| errno(&error))
        });
        assert_eq!(ours, theirs, "{from} -> {to}, flags {flags}");
        assert_eq!(self.ours(), self.theirs(), "{from} -> {to}, flags {flags}");
    }

    /// Path → what it is, and the number of links (a directory's: as ext4 counts).
    fn theirs(&self) -> BTreeMap<PathBuf, (char, u64)> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.host.path().to_owned()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let kind = match meta.file_type() {
                    kind if kind.is_dir() => 'd',
                    kind if kind.is_symlink() => 'l',
                    _ => 'f',
                };
                if kind == 'd' {
                    left.push(path.clone());
                }
                found.insert(
                    path.strip_prefix(self.host.path()).unwrap().to_owned(),
                    (kind, meta.nlink()),
                );
            }
        }
        found
    }

    fn ours(&self) -> BTreeMap<PathBuf, (char, u64)> {
        let mut found = BTreeMap::new();
        self.walk(ROOT, ROOT, Path::new(""), &mut found);
        found
    }

    fn walk(
        &self,
        dir: InodeNo,
        parent: InodeNo,
        path: &Path,
        found: &mut BTreeMap<PathBuf, (char, u64)>,
    ) {
        assert_eq!(
            self.world.look(dir, "..").unwrap().inode,
            parent,
            "{}/..",
            path.display()
        );
        for name in self.world.names(dir, 5) {
            let attr = self.world.look(dir, &name).unwrap();
            let path = path.join(name);
            let kind = match attr.kind {
                Kind::Directory => 'd',
                Kind::Symlink => 'l',
                _ => 'f',
            };
            if kind == 'd' {
                self.walk(attr.inode, dir, &path, found);
            }
            found.insert(path, (kind, attr.links.into()));
        }
    }
}

fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::Invalid => Errno::EINVAL,
        other => panic!("{other}"),
    }
}

/// One of each: what can be renamed, and where to.
const PLACES: [&str; 12] = [
    "file",
    "twin",
    "link",
    "empty",
    "full",
    "full/inner",
    "full/sub",
    "full/sub/leaf",
    "missing",
    "other/empty",
    "other/file",
    "other/missing",
];

fn twins() -> Twins {
    let twins = Twins::new("debian");
    for dir in [
        "empty",
        "full",
        "full/sub",
        "full/sub/leaf",
        "other",
        "other/empty",
    ] {
        twins.dir(dir);
    }
    for file in ["file", "full/inner", "other/file"] {
        twins.file(file);
    }
    twins.link("file", "twin");
    twins.symlink("link");
    twins
}

#[test]
fn every_pair_of_places_renames_as_on_the_host() {
    for flags in [0, NOREPLACE, EXCHANGE] {
        let mut twins_now = twins();
        for from in PLACES {
            for to in PLACES {
                let before = twins_now.ours();
                twins_now.rename(from, to, flags);
                if twins_now.ours() != before {
                    twins_now = twins();
                }
            }
        }
    }
}

#[test]
fn long_runs_of_renames_agree_with_the_host() {
    for (format, seed) in [
        ("1k-blocks", 1),
        ("no-metadata-csum", 2),
        ("no-dir-index", 3),
    ] {
        let mut random = Seeded::from_seed("renames", seed);
        let twins = Twins::new(format);
        let pad = "p".repeat(40);
        for n in 0..6 {
            twins.dir(&format!("dir{n}"));
            for m in 0..12 {
                twins.file(&format!("dir{n}/{m}{pad}"));
            }
        }
        for _ in 0..600 {
            let dirs: Vec<PathBuf> = twins
                .ours()
                .into_iter()
                .filter(|(_, (kind, _))| *kind == 'd')
                .map(|(path, _)| path)
                .collect();
            let mut place = || {
                let all: Vec<PathBuf> = twins.ours().into_keys().collect();
                let path = match random.usize(0..3) {
                    0 => dirs[random.usize(0..dirs.len())]
                        .join(format!("{}{pad}", random.usize(0..30))),
                    _ => all[random.usize(0..all.len())].clone(),
                };
                path.to_str().unwrap().to_owned()
            };
            let (from, to) = (place(), place());
            twins.rename(&from, &to, [0, 0, NOREPLACE, EXCHANGE][random.usize(0..4)]);
        }
        twins.world.judge();
    }
}

#[test]
fn whiteouts_and_unknown_flags_are_refused() {
    let twins = twins();
    let (fs, by) = (&twins.world.fs, &twins.world.by);
    for flags in [4, 3, 8] {
        assert!(matches!(
            fs.rename(by, ROOT, b"file", ROOT, b"new", flags),
            Err(Error::Invalid)
        ));
    }
}

#[test]
fn a_replaced_file_that_is_open_lives_on() {
    let twins = twins();
    let (fs, by) = (&twins.world.fs, &twins.world.by);
    let old = twins.find("other/file");
    fs.write(by, old, 0, b"old", Default::default()).unwrap();
    fs.opened(old);
    twins.rename("file", "other/file", 0);
    assert_eq!(fs.read(old, 0, 10).unwrap(), b"old");
    fs.release(old).unwrap();
    twins.world.judge();
}

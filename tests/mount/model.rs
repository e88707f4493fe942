//! What a thread of the kill test did to its own folder: operations, what a
//! folder should hold after them, and what it does hold.
//!
//! Each operation is one request to the file system (seldom two, see
//! [`Act::requests`]), so that a kill leaves it done or not done.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};

/// One operation; names are relative to the thread's folder.
#[derive(Clone, Debug)]
pub enum Act {
    Create {
        at: String,
        mode: u32,
    },
    Mkdir {
        at: String,
    },
    Symlink {
        at: String,
        target: String,
    },
    Mkfifo {
        at: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink {
        at: String,
    },
    Rmdir {
        at: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        one: String,
        two: String,
    },
    Write {
        at: String,
        offset: u64,
        len: usize,
        byte: u8,
    },
    Truncate {
        at: String,
        len: u64,
    },
    Punch {
        at: String,
        offset: u64,
        len: u64,
    },
    Chmod {
        at: String,
        mode: u32,
    },
    Touch {
        at: String,
        secs: i64,
    },
    SetXattr {
        at: String,
        name: String,
        value: Vec<u8>,
    },
    RemoveXattr {
        at: String,
        name: String,
    },
    Fsync {
        at: String,
    },
}

/// A file, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `-`, `d`, `l` or `p`.
    pub kind: char,
    pub mode: u32,
    /// Contents, or a symlink's target.
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Seconds, where they were set and nothing has changed them since.
    pub mtime: Option<i64>,
}

/// A folder's names and files: names of the same number are one file.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub names: BTreeMap<String, u64>,
    pub nodes: BTreeMap<u64, Node>,
    /// Among others in one folder: every name begins with this, ...
    pub prefix: String,
    /// ... save those of folders that are everyone's.
    pub shared: Vec<String>,
    /// Large writes too.
    pub large: bool,
    next: u64,
}

impl Model {
    fn node(&mut self, at: &str) -> &mut Node {
        self.nodes
            .get_mut(&self.names[at])
            .expect("a name has a node")
    }

    fn add(&mut self, at: &str, kind: char, mode: u32, bytes: &[u8]) {
        self.next += 1;
        self.names.insert(at.to_owned(), self.next);
        self.nodes.insert(
            self.next,
            Node {
                kind,
                mode,
                bytes: bytes.to_vec(),
                ..Node::default()
            },
        );
        self.changed_in(at);
    }

    /// A folder whose names change has another mtime.
    fn changed_in(&mut self, at: &str) {
        if let Some((dir, _)) = at.rsplit_once('/')
            && self.names.contains_key(dir)
        {
            self.node(dir).mtime = None;
        }
    }

    fn drop_name(&mut self, at: &str) {
        self.changed_in(at);
        let Some(id) = self.names.remove(at) else {
            return;
        };
        if !self.names.values().any(|other| *other == id) {
            self.nodes.remove(&id);
        }
    }

    /// Moves a name and everything below it.
    fn move_names(&mut self, from: &str, to: &str) {
        self.changed_in(from);
        self.changed_in(to);
        let below = format!("{from}/");
        let moved: Vec<String> = self
            .names
            .keys()
            .filter(|name| *name == from || name.starts_with(&below))
            .cloned()
            .collect();
        for name in moved {
            if let Some(id) = self.names.remove(&name) {
                self.names
                    .insert(format!("{to}{}", &name[from.len()..]), id);
            }
        }
    }

    /// Does an operation that will succeed.
    pub fn apply(&mut self, act: &Act) {
        match act {
            Act::Create { at, mode } => self.add(at, '-', *mode, b""),
            Act::Mkdir { at } => self.add(at, 'd', 0o755, b""),
            Act::Symlink { at, target } => self.add(at, 'l', 0o777, target.as_bytes()),
            Act::Mkfifo { at } => self.add(at, 'p', 0o600, b""),
            Act::Link { from, to } => {
                let id = self.names[from];
                self.names.insert(to.clone(), id);
                self.changed_in(to);
            }
            Act::Unlink { at } | Act::Rmdir { at } => self.drop_name(at),
            // Two names of one file: rename(2) does nothing.
            Act::Rename { from, to } if self.names.get(to) == self.names.get(from) => {}
            Act::Rename { from, to } => {
                self.drop_name(to);
                self.move_names(from, to);
            }
            Act::Exchange { one, two } => {
                self.move_names(one, "\0aside");
                self.move_names(two, one);
                self.move_names("\0aside", two);
            }
            Act::Write {
                at,
                offset,
                len,
                byte,
            } => {
                let node = self.node(at);
                let end = *offset as usize + len;
                node.bytes.resize(node.bytes.len().max(end), 0);
                node.bytes[*offset as usize..end].fill(*byte);
                node.mtime = None;
            }
            Act::Truncate { at, len } => {
                let node = self.node(at);
                node.bytes.resize(*len as usize, 0);
                node.mtime = None;
            }
            Act::Punch { at, offset, len } => {
                let node = self.node(at);
                let size = node.bytes.len();
                let range = (*offset as usize).min(size)..((offset + len) as usize).min(size);
                node.bytes[range].fill(0);
                node.mtime = None;
            }
            Act::Chmod { at, mode } => self.node(at).mode = *mode,
            Act::Touch { at, secs } => self.node(at).mtime = Some(*secs),
            Act::SetXattr { at, name, value } => {
                self.node(at).xattrs.insert(name.clone(), value.clone());
            }
            Act::RemoveXattr { at, name } => drop(self.node(at).xattrs.remove(name)),
            Act::Fsync { .. } => {}
        }
    }

    /// The first differences to a folder.
    pub fn differences(&self, folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut seen = Model {
            prefix: self.prefix.clone(),
            shared: self.shared.clone(),
            ..Model::default()
        };
        let mut numbers = BTreeMap::new();
        if let Err(e) = seen.read(folder, "", &mut numbers) {
            return vec![format!("can't be read: {e}")];
        }
        for name in self
            .names
            .keys()
            .filter(|name| !seen.names.contains_key(*name))
        {
            found.push(format!("{name} is missing"));
        }
        for (name, id) in &seen.names {
            match self.names.get(name) {
                None => found.push(format!("{name} should not be there")),
                Some(mine) => found.extend(self.nodes[mine].difference(name, &seen.nodes[id])),
            }
        }
        // Names of one file on one side are so on the other.
        for (name, id) in &seen.names {
            let together = |model: &Model, id: &u64| -> Vec<String> {
                model
                    .names
                    .iter()
                    .filter(|(_, other)| *other == id)
                    .map(|(name, _)| name.clone())
                    .collect()
            };
            if let Some(mine) = self.names.get(name)
                && together(self, mine) != together(&seen, id)
            {
                found.push(format!("{name} is linked otherwise"));
            }
        }
        found
    }

    fn read(
        &mut self,
        folder: &Path,
        prefix: &str,
        numbers: &mut BTreeMap<u64, u64>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(folder.join(prefix))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let mine = name.starts_with(&self.prefix);
            let name = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            if self.shared.contains(&name) {
                self.read(folder, &name, numbers)?;
                continue;
            }
            if !mine {
                continue;
            }
            let path = folder.join(&name);
            let about = fs::symlink_metadata(&path)?;
            let id = *numbers.entry(about.ino()).or_insert(self.next + 1);
            self.next = self.next.max(id);
            self.names.insert(name.clone(), id);
            let kind = about.file_type();
            let (kind, bytes) = match () {
                () if kind.is_dir() => ('d', Vec::new()),
                () if kind.is_file() => ('-', fs::read(&path)?),
                () if kind.is_symlink() => {
                    ('l', fs::read_link(&path)?.as_os_str().as_bytes().to_vec())
                }
                () => ('p', Vec::new()),
            };
            let mut xattrs = BTreeMap::new();
            if matches!(kind, 'd' | '-') {
                for name in xattr::list(&path)? {
                    let value = xattr::get(&path, &name)?.unwrap_or_default();
                    xattrs.insert(name.to_string_lossy().into_owned(), value);
                }
            }
            let mode = about.mode() & 0o7777;
            self.nodes.insert(
                id,
                Node {
                    kind,
                    mode,
                    bytes,
                    xattrs,
                    mtime: Some(about.mtime()),
                },
            );
            if kind == 'd' {
                self.read(folder, &name, numbers)?;
            }
        }
        Ok(())
    }
}

impl Node {
    fn difference(&self, name: &str, seen: &Node) -> Option<String> {
        if (self.kind, self.mode) != (seen.kind, seen.mode) {
            return Some(format!(
                "{name} is {}{:o}, not {}{:o}",
                seen.kind, seen.mode, self.kind, self.mode
            ));
        }
        if self.bytes.len() != seen.bytes.len() {
            return Some(format!(
                "{name} has {} bytes, not {}",
                seen.bytes.len(),
                self.bytes.len()
            ));
        }
        if let Some(at) = (0..self.bytes.len()).find(|&at| self.bytes[at] != seen.bytes[at]) {
            return Some(format!(
                "{name} has byte {} at {at}, not {}",
                seen.bytes[at], self.bytes[at]
            ));
        }
        if self.xattrs != seen.xattrs {
            return Some(format!(
                "{name} has attributes {:?}, not {:?}",
                seen.xattrs, self.xattrs
            ));
        }
        (self.mtime.is_some() && self.mtime != seen.mtime).then(|| {
            format!(
                "{name} was changed at {:?}, not {:?}",
                seen.mtime, self.mtime
            )
        })
    }
}

impl Act {
    /// The requests that it becomes. The kernel's page cache sends a write
    /// that starts within a page in two: that page, and the rest.
    pub fn requests(&self) -> Vec<Act> {
        const PAGE: u64 = 4096;
        match self {
            Act::Write {
                at,
                offset,
                len,
                byte,
            } if offset % PAGE != 0 && offset % PAGE + *len as u64 > PAGE => {
                let first = (PAGE - offset % PAGE) as usize;
                let part = |offset, len| Act::Write {
                    at: at.clone(),
                    offset,
                    len,
                    byte: *byte,
                };
                vec![
                    part(*offset, first),
                    part(offset + first as u64, len - first),
                ]
            }
            other => vec![other.clone()],
        }
    }

    /// Asks the file system for it.
    pub fn perform(&self, folder: &Path) -> io::Result<()> {
        let at = |name: &String| folder.join(name);
        let open = |name: &String| OpenOptions::new().write(true).open(folder.join(name));
        match self {
            Act::Create { at: name, mode } => {
                use std::os::unix::fs::OpenOptionsExt;
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(*mode)
                    .open(at(name))
                    .map(drop)
            }
            Act::Mkdir { at: name } => fs::create_dir(at(name)),
            Act::Symlink { at: name, target } => symlink(target, at(name)),
            Act::Mkfifo { at: name } => Ok(nix::unistd::mkfifo(
                &at(name),
                nix::sys::stat::Mode::from_bits_truncate(0o600),
            )?),
            Act::Link { from, to } => fs::hard_link(at(from), at(to)),
            Act::Unlink { at: name } => fs::remove_file(at(name)),
            Act::Rmdir { at: name } => fs::remove_dir(at(name)),
            Act::Rename { from, to } => fs::rename(at(from), at(to)),
            Act::Exchange { one, two } => Ok(renameat2(
                AT_FDCWD,
                &at(one),
                AT_FDCWD,
                &at(two),
                RenameFlags::RENAME_EXCHANGE,
            )?),
            Act::Write {
                at: name,
                offset,
                len,
                byte,
            } => open(name)?.write_all_at(&vec![*byte; *len], *offset),
            Act::Truncate { at: name, len } => open(name)?.set_len(*len),
            Act::Punch {
                at: name,
                offset,
                len,
            } => {
                let hole =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                Ok(fallocate(&open(name)?, hole, *offset as i64, *len as i64)?)
            }
            Act::Chmod { at: name, mode } => {
                fs::set_permissions(at(name), fs::Permissions::from_mode(*mode))
            }
            Act::Touch { at: name, secs } => {
                let time = nix::sys::time::TimeSpec::new(*secs, 0);
                let flag = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
                Ok(nix::sys::stat::utimensat(
                    AT_FDCWD,
                    &at(name),
                    &time,
                    &time,
                    flag,
                )?)
            }
            Act::SetXattr {
                at: name,
                name: key,
                value,
            } => xattr::set(at(name), key, value),
            Act::RemoveXattr {
                at: name,
                name: key,
            } => xattr::remove(at(name), key),
            Act::Fsync { at: name } => File::open(at(name))?.sync_all(),
        }
    }
}

/// Chooses an operation that will succeed.
pub fn choose(model: &Model, random: &mut fastrand::Rng) -> Act {
    loop {
        if let Some(act) = attempt(model, random) {
            return act;
        }
    }
}

fn attempt(model: &Model, random: &mut fastrand::Rng) -> Option<Act> {
    let of = |kind: &str| -> Vec<&String> {
        model
            .names
            .iter()
            .filter(|(_, id)| kind.contains(model.nodes[id].kind))
            .map(|(name, _)| name)
            .collect()
    };
    let pick = |names: Vec<&String>, random: &mut fastrand::Rng| -> Option<String> {
        random.choice(names).map(|name| name.to_string())
    };
    let files = || of("-");
    let empty = |dir: &String| {
        !model
            .names
            .keys()
            .any(|name| name.starts_with(&format!("{dir}/")))
    };
    let fresh = |random: &mut fastrand::Rng| -> Option<String> {
        let dirs: Vec<&String> = of("d")
            .into_iter()
            .chain(&model.shared)
            .filter(|dir| dir.matches('/').count() < 3)
            .collect();
        let name = format!("{}{}{}", model.prefix, random.lowercase(), random.u8(..40));
        let name = match random.choice(dirs).filter(|_| random.u8(..3) > 0) {
            Some(dir) => format!("{dir}/{name}"),
            None => name,
        };
        (!model.names.contains_key(&name)).then_some(name)
    };
    Some(match random.u8(..32) {
        0..=3 => Act::Create {
            at: fresh(random)?,
            mode: *random.choice(&[0o644, 0o600, 0o755])?,
        },
        4..=5 => Act::Mkdir { at: fresh(random)? },
        6 => Act::Symlink {
            at: fresh(random)?,
            target: "t".repeat(random.usize(1..300)),
        },
        7 => Act::Mkfifo { at: fresh(random)? },
        8 => Act::Link {
            from: pick(files(), random)?,
            to: fresh(random)?,
        },
        9..=11 => Act::Unlink {
            at: pick(of("-lp"), random)?,
        },
        12 => Act::Rmdir {
            at: pick(
                of("d").into_iter().filter(|dir| empty(dir)).collect(),
                random,
            )?,
        },
        13..=14 => {
            let (from, to) = (pick(of("-dlp"), random)?, fresh(random)?);
            (!to.starts_with(&format!("{from}/"))).then_some(Act::Rename { from, to })?
        }
        15 => Act::Rename {
            from: pick(of("-lp"), random)?,
            to: pick(of("-lp"), random)?,
        },
        16 => {
            let (one, two) = (pick(of("-dlp"), random)?, pick(of("-dlp"), random)?);
            let apart = |a: &str, b: &str| a != b && !a.starts_with(&format!("{b}/"));
            (apart(&one, &two) && apart(&two, &one)).then_some(Act::Exchange { one, two })?
        }
        17 if model.large => Act::Write {
            at: pick(files(), random)?,
            offset: 4096 * random.u64(..300),
            len: *random.choice(&[100_000, 240 << 10])?,
            byte: random.u8(1..),
        },
        17..=22 => Act::Write {
            at: pick(files(), random)?,
            offset: *random.choice(&[0, 0, 4096, 5000, 65_536, 200_001])?
                + random.u64(..2) * random.u64(..10_000),
            len: *random.choice(&[1, 100, 4096, 10_000, 60_000])?,
            byte: random.u8(1..),
        },
        23 => Act::Truncate {
            at: pick(files(), random)?,
            len: random.u64(..100_000),
        },
        24 => Act::Punch {
            at: pick(files(), random)?,
            offset: random.u64(..50_000),
            len: random.u64(1..50_000),
        },
        25..=26 => Act::Chmod {
            at: pick(of("-d"), random)?,
            mode: *random.choice(&[0o700, 0o755, 0o4711, 0o1777])?,
        },
        27 => Act::Touch {
            at: pick(of("-d"), random)?,
            secs: random.i64(-1000..5_000_000_000),
        },
        28..=29 => Act::SetXattr {
            at: pick(of("-d"), random)?,
            name: format!("user.{}", random.choice(&["a", "b", "long-name"])?),
            value: vec![random.u8(..); random.usize(..400)],
        },
        30 => {
            let with: Vec<&String> = of("-d")
                .into_iter()
                .filter(|name| !model.nodes[&model.names[*name]].xattrs.is_empty())
                .collect();
            let at = pick(with, random)?;
            let name = model.nodes[&model.names[&at]].xattrs.keys().next()?.clone();
            Act::RemoveXattr { at, name }
        }
        _ => Act::Fsync {
            at: pick(files(), random)?,
        },
    })
}

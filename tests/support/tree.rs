//! Everything of a tree that the law compares, and readable differences.
//!
//! Compared: names, types, contents, sizes, modes, owners, mtime and ctime
//! with nanoseconds, link counts and which names are one file, extended
//! attributes (ACLs among them), device numbers, targets of symlinks.
//! Left out: atime, inode numbers, allocated blocks, sizes of directories.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// One name's file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// `-`, `d`, `l`, `c`, `b`, `p` or `s`.
    pub kind: char,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// 0 for directories.
    pub size: u64,
    pub links: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    /// Major and minor of a device.
    pub rdev: (u32, u32),
    /// Sum of a file's contents (see [`sum`]); 0 for others.
    pub contents: u64,
    /// A symlink's target.
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name (in order) of the same file: equal for hard links.
    pub first_name: PathBuf,
}

/// All names below a root, relative to it; the root itself is `""`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    pub nodes: BTreeMap<PathBuf, Node>,
}

/// Two CRCs side by side: good enough to tell contents apart, and fast.
#[derive(Clone, Default)]
pub struct Sum {
    ieee: crc32fast::Hasher,
    castagnoli: u32,
}

impl Sum {
    pub fn update(&mut self, bytes: &[u8]) {
        self.ieee.update(bytes);
        self.castagnoli = crc32c::crc32c_append(self.castagnoli, bytes);
    }
    pub fn finish(self) -> u64 {
        u64::from(self.ieee.finalize()) << 32 | u64::from(self.castagnoli)
    }
}

/// The sum that [`Node::contents`] holds.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut sum = Sum::default();
    sum.update(bytes);
    sum.finish()
}

impl Tree {
    /// Walks a mounted path.
    #[track_caller]
    pub fn of(root: &Path) -> Tree {
        let mut tree = Tree::default();
        let mut inodes = HashMap::new();
        tree.walk(root, PathBuf::new(), &mut inodes);
        tree
    }

    #[track_caller]
    fn walk(&mut self, root: &Path, name: PathBuf, inodes: &mut HashMap<u64, PathBuf>) {
        let path = root.join(&name);
        let meta =
            fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
        let mut node = Node::of(&path, &meta);
        let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
        node.first_name = first.clone();
        let directory = node.kind == 'd';
        self.nodes.insert(name.clone(), node);
        if directory {
            let entries =
                fs::read_dir(&path).unwrap_or_else(|e| panic!("list {}: {e}", path.display()));
            let mut names: Vec<_> = entries
                .map(|entry| {
                    entry
                        .unwrap_or_else(|e| panic!("list {}: {e}", path.display()))
                        .file_name()
                })
                .collect();
            names.sort();
            for pair in names.windows(2) {
                assert!(
                    pair[0] != pair[1],
                    "{} lists {:?} twice",
                    path.display(),
                    pair[0]
                );
            }
            for entry in names {
                self.walk(root, name.join(entry), inodes);
            }
        }
    }

    /// The same without times, for comparing with a copy made at another time.
    pub fn without_times(mut self) -> Tree {
        for node in self.nodes.values_mut() {
            node.mtime = (0, 0);
            node.ctime = (0, 0);
        }
        self
    }

    /// The same without what lies at or below a name (`lost+found`).
    pub fn without(mut self, name: &str) -> Tree {
        self.nodes.retain(|path, _| !path.starts_with(name));
        self
    }

    /// Each difference as a line: the name, what differs, both values.
    pub fn differences(&self, mine: &str, other: &Tree, theirs: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, node) in &self.nodes {
            match other.nodes.get(name) {
                None => lines.push(format!("{}: only in {mine}", shown(name))),
                Some(twin) => node.differences(twin, |field, a, b| {
                    lines.push(format!(
                        "{}: {field}: {mine} {a}, {theirs} {b}",
                        shown(name)
                    ));
                }),
            }
        }
        for name in other
            .nodes
            .keys()
            .filter(|name| !self.nodes.contains_key(*name))
        {
            lines.push(format!("{}: only in {theirs}", shown(name)));
        }
        lines
    }

    /// Fails with the first differences unless both are the same.
    #[track_caller]
    pub fn assert_same(&self, mine: &str, other: &Tree, theirs: &str) {
        let lines = self.differences(mine, other, theirs);
        let head = lines
            .iter()
            .take(30)
            .map(|line| format!("  {line}\n"))
            .collect::<String>();
        assert!(
            lines.is_empty(),
            "{mine} and {theirs} differ in {} places:\n{head}",
            lines.len()
        );
    }
}

impl Node {
    fn of(path: &Path, meta: &Metadata) -> Node {
        let kind = letter(meta);
        Node {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size: if kind == 'd' { 0 } else { meta.size() },
            links: meta.nlink(),
            mtime: (meta.mtime(), meta.mtime_nsec() as u32),
            ctime: (meta.ctime(), meta.ctime_nsec() as u32),
            rdev: match kind {
                'c' | 'b' => (
                    nix::sys::stat::major(meta.rdev()) as u32,
                    nix::sys::stat::minor(meta.rdev()) as u32,
                ),
                _ => (0, 0),
            },
            contents: if kind == '-' { contents(path) } else { 0 },
            target: match kind {
                'l' => fs::read_link(path)
                    .expect("readlink")
                    .into_os_string()
                    .into_vec(),
                _ => Vec::new(),
            },
            xattrs: xattrs(path),
            first_name: PathBuf::new(),
        }
    }

    /// Calls `each(field, mine, theirs)` for every field that differs.
    fn differences(&self, other: &Node, mut each: impl FnMut(&str, String, String)) {
        macro_rules! compare {
            ($($field:ident as $show:expr),* $(,)?) => {$(
                if self.$field != other.$field {
                    let show = $show;
                    each(stringify!($field), show(&self.$field), show(&other.$field));
                }
            )*};
        }
        compare!(
            kind as |k: &char| k.to_string(),
            mode as |m: &u32| format!("{m:04o}"),
            uid as u32::to_string,
            gid as u32::to_string,
            size as u64::to_string,
            links as u64::to_string,
            mtime as |t: &(i64, u32)| format!("{}.{:09}", t.0, t.1),
            ctime as |t: &(i64, u32)| format!("{}.{:09}", t.0, t.1),
            rdev as |r: &(u32, u32)| format!("{}:{}", r.0, r.1),
            contents as |c: &u64| format!("{c:016x}"),
            target as |t: &Vec<u8>| String::from_utf8_lossy(t).into_owned(),
            xattrs as shown_xattrs,
            first_name as |p: &PathBuf| format!("is {}", shown(p)),
        );
    }
}

fn letter(meta: &Metadata) -> char {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => '-',
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_char_device() => 'c',
        () if kind.is_block_device() => 'b',
        () if kind.is_fifo() => 'p',
        () => 's',
    }
}

fn contents(path: &Path) -> u64 {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    let mut sum = Sum::default();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file
            .read(&mut piece)
            .unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
        {
            0 => return sum.finish(),
            n => sum.update(&piece[..n]),
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let names = xattr::list(path).unwrap_or_else(|e| panic!("listxattr {}: {e}", path.display()));
    let value = |name: &OsStr| {
        xattr::get(path, name).unwrap_or_else(|e| panic!("getxattr {}: {e}", path.display()))
    };
    names
        .map(|name| (name.as_bytes().to_vec(), value(&name).unwrap_or_default()))
        .collect()
}

fn shown(name: &Path) -> String {
    match name.as_os_str().is_empty() {
        true => "/".to_owned(),
        false => format!("{}", name.display()),
    }
}

fn shown_xattrs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let one = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        format!(
            "{}={:x?}",
            String::from_utf8_lossy(name),
            &value[..value.len().min(24)]
        )
    };
    format!(
        "{{{}}}",
        xattrs.iter().map(one).collect::<Vec<_>>().join(", ")
    )
}

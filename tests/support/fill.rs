//! Trees that the kernel writes into a mounted image, to have something real
//! to judge and to copy.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::images::run;
use super::random::Seeded;

/// How much to write.
#[derive(Clone, Copy)]
pub struct Amount {
    /// Megabytes of `/usr/share/doc`.
    pub megabytes: u64,
    /// Entries of the one large directory.
    pub entries: u32,
    /// Extents of the one scattered file.
    pub extents: u64,
}

/// Enough for an image of 64 MiB.
pub const SMALL: Amount = Amount {
    megabytes: 8,
    entries: 1500,
    extents: 600,
};

/// Fills a mounted image with one of everything.
pub fn everything(root: &Path, amount: Amount, random: &mut Seeded) {
    documents(root, amount.megabytes);
    large_directory(root, amount.entries);
    scattered(root, amount.extents, random);
    special(root);
    attributes(root, random);
    removed(root, random);
}

/// A part of the host's own documents: real names, links and sizes.
fn documents(root: &Path, megabytes: u64) {
    let to = root.join("doc");
    fs::create_dir(&to).unwrap();
    let mut names: Vec<_> = fs::read_dir("/usr/share/doc")
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    names.sort();
    let mut left = megabytes << 20;
    let mut copy = Command::new("cp");
    for name in names {
        let size = occupied(&name);
        if size <= left {
            copy.arg(&name);
            left -= size;
        }
    }
    run(copy.arg("-a").arg(&to));
}

/// Bytes that a tree takes, about.
fn occupied(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return fs::symlink_metadata(path).map_or(0, |meta| meta.len() + 4096);
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => occupied(&entry.path()),
            _ => entry.metadata().map_or(0, |meta| meta.len() + 4096),
        })
        .sum::<u64>()
        + 4096
}

fn large_directory(root: &Path, entries: u32) {
    let large = root.join("large");
    fs::create_dir(&large).unwrap();
    for n in 0..entries {
        let name = large.join(format!("an entry with a rather long name, number {n}"));
        match n % 50 {
            0 => fs::write(&name, format!("{n}")).unwrap(),
            1 => fs::create_dir(&name).unwrap(),
            _ => fs::hard_link(
                large.join(format!(
                    "an entry with a rather long name, number {}",
                    n / 50 * 50
                )),
                &name,
            )
            .or_else(|_| fs::write(&name, b""))
            .unwrap(),
        }
    }
    for n in (0..entries).filter(|n| n % 7 == 3 && n % 50 != 1) {
        fs::remove_file(large.join(format!("an entry with a rather long name, number {n}")))
            .unwrap();
    }
}

/// Files with holes: many extents, so that the tree gets its levels.
fn scattered(root: &Path, extents: u64, random: &mut Seeded) {
    let file = fs::File::create(root.join("scattered")).unwrap();
    for n in 0..extents {
        file.write_all_at(&random.bytes(700), n * 16384).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"far out", 70 << 20).unwrap();
    // (Preallocation needs extents; elsewhere it may be refused.)
    let _ = Command::new("fallocate")
        .args(["-n", "-l", "300K"])
        .arg(root.join("reserved"))
        .output();
}

fn special(root: &Path) {
    let dir = root.join("special");
    fs::create_dir(&dir).unwrap();
    symlink("short target", dir.join("fast")).unwrap();
    symlink("t".repeat(59), dir.join("fast-59")).unwrap();
    symlink("t".repeat(60), dir.join("slow-60")).unwrap();
    symlink("t/".repeat(450), dir.join("slow")).unwrap();
    fs::write(dir.join("modes"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("modes"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(dir.join("modes"), Some(70_000), Some(80_000)).unwrap();
    for (name, kind, args) in [
        ("fifo", "p", &[][..]),
        ("null", "c", &["1", "3"]),
        ("wide", "b", &["300", "70000"]),
        ("disk", "b", &["8", "1"]),
    ] {
        run(Command::new("mknod")
            .arg(dir.join(name))
            .arg(kind)
            .args(args));
    }
    let socket = std::os::unix::net::UnixListener::bind(dir.join("s"));
    drop(socket);
    let mut deep = dir.join("deep");
    for n in 0..30 {
        fs::create_dir(&deep).unwrap();
        deep = deep.join(format!("level {n}"));
    }
    run(Command::new("touch")
        .args(["-h", "-d", "2099-12-31 23:59:59.987654321Z"])
        .arg(dir.join("fast")));
}

/// Attributes in inodes, in blocks, in shared blocks, and access lists.
pub fn attributes(root: &Path, random: &mut Seeded) {
    let dir = root.join("attributes");
    fs::create_dir(&dir).unwrap();
    for n in 0..20 {
        let file = dir.join(n.to_string());
        fs::write(&file, b"x").unwrap();
        set(&file, "user.small", b"value");
        if n % 3 == 0 {
            set(&file, "user.large", &vec![n as u8 / 6; 400]);
            set(&file, "trusted.other", b"");
        }
        if n % 5 == 0 {
            set(&file, "user.random", &random.bytes(200));
        }
    }
    run(Command::new("setfacl")
        .args(["-m", "u:1000:rw,g:2000:r"])
        .arg(dir.join("1")));
    run(Command::new("setfacl")
        .args(["-d", "-m", "u:1000:rwx"])
        .arg(&dir));
    fs::create_dir(dir.join("inherits")).unwrap();
}

fn set(file: &Path, name: &str, value: &[u8]) {
    xattr::set(file, name, value).unwrap_or_else(|e| panic!("{name} of {}: {e}", file.display()));
}

/// What is removed leaves its traces too.
fn removed(root: &Path, random: &mut Seeded) {
    let dir = root.join("removed");
    fs::create_dir(&dir).unwrap();
    for n in 0..300_u32 {
        fs::write(dir.join(n.to_string()), random.bytes(3000)).unwrap();
    }
    for n in (0..300_u32).filter(|n| n % 4 != 0) {
        fs::remove_file(dir.join(n.to_string())).unwrap();
    }
}

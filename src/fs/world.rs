//! What the tests of this layer share: a file system in memory, made by
//! mkfs.ext4, judged by e2fsck (when a test is done, at the latest), read back
//! by debugfs.

use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;

use super::{Caller, Fs, Options, alloc, dir, inode};
use crate::device::Disk;
use crate::device::memory::{MemoryDisk, Pages};
use crate::ext4::Superblock;
use crate::ext4::inode::{Inode, mode};
use crate::journal::{Journal, Op};
use crate::units::{InodeNo, StepClock, Time};

/// The formats that files are tested on.
pub const FORMATS: &[(&str, &[&str])] = &[
    ("debian", &["-b4096", "-I256"]),
    (
        "upstream",
        &["-b4096", "-I256", "-Ometadata_csum_seed,orphan_file"],
    ),
    ("no checksums", &["-b4096", "-I256", "-O^metadata_csum"]),
    ("1k blocks", &["-b1024", "-I256"]),
    ("2k blocks", &["-b2048", "-I256"]),
    (
        "uninit_bg",
        &["-b1024", "-I256", "-Ouninit_bg,^metadata_csum"],
    ),
    ("128-byte inodes", &["-b1024", "-I128"]),
    ("no flex_bg", &["-b1024", "-O^flex_bg"]),
    ("32 bits", &["-b1024", "-O^64bit"]),
];

/// Formats with block maps in place of extents.
pub const MAPPED: &[(&str, &[&str])] = &[
    ("no extents", &["-b1024", "-O^extent,^64bit"]),
    (
        "ext3",
        &[
            "-b1024",
            "-I128",
            "-O^extent,^64bit,^flex_bg,^huge_file,^metadata_csum,^dir_nlink,^extra_isize",
        ],
    ),
];

pub struct World {
    pub fs: Fs,
    pub disk: Arc<MemoryDisk>,
    pub by: Caller,
    /// Damaged on purpose, and e2fsck agrees that it is.
    pub damaged: bool,
    folder: tempfile::TempDir,
}

impl World {
    /// An image of `size` bytes that mkfs.ext4 makes with `args`.
    pub fn new(args: &[&str], size: u64) -> World {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .args(args)
            .arg(&path));
        let disk = Arc::new(MemoryDisk::from_pages(pages_of(&path)));
        World::over(disk, folder)
    }

    pub fn over(disk: Arc<MemoryDisk>, folder: tempfile::TempDir) -> World {
        World {
            fs: open(disk.clone()),
            disk,
            by: Caller::default(),
            damaged: false,
            folder,
        }
    }

    /// The same image, opened anew: what was only in memory is gone.
    pub fn reopen(mut self) -> World {
        self.open_again();
        self
    }

    fn open_again(&mut self) {
        self.fs.journal().flush().unwrap();
        self.fs = open(self.disk.clone());
    }

    /// A new regular file in the root directory.
    pub fn file(&self, name: &str) -> InodeNo {
        let fs = &self.fs;
        let mut txn = fs.begin().unwrap();
        let mut root = inode::load(&txn, &fs.sb, InodeNo::ROOT).unwrap();
        let number =
            alloc::new_inode(&mut txn, &fs.sb, &fs.full, InodeNo::ROOT, false, &|_| false).unwrap();
        let mut new = Inode::new(number, mode::REGULAR | 0o644, 7, fs.clock.wall(), &fs.sb);
        new.links = 1;
        inode::create(&mut txn, &fs.sb, &new).unwrap();
        dir::insert(&mut txn, &fs.sb, &mut root, name.as_bytes(), number, 1, 0).unwrap();
        inode::store(&mut txn, &fs.sb, &root).unwrap();
        txn.commit(&Op::Orphan { inode: number }).unwrap();
        number
    }

    /// Removes a file from the root directory.
    pub fn unlink(&self, name: &str) {
        let fs = &self.fs;
        let mut txn = fs.begin().unwrap();
        let root = inode::load(&txn, &fs.sb, InodeNo::ROOT).unwrap();
        let place = dir::locate(&txn, &fs.sb, &root, name.as_bytes())
            .unwrap()
            .unwrap();
        dir::remove(&mut txn, &fs.sb, &root, &place).unwrap();
        let entry = place.entry;
        let mut inode = inode::load(&txn, &fs.sb, entry.inode).unwrap();
        inode.links -= 1;
        let later = fs.unlinked(&mut txn, &mut inode, fs.now(), false).unwrap();
        inode::store(&mut txn, &fs.sb, &root).unwrap();
        txn.commit(&Op::Orphan { inode: entry.inode }).unwrap();
        fs.finish(later).unwrap();
    }

    pub fn inode(&self, number: InodeNo) -> Inode {
        inode::load(&self.fs.view(), &self.fs.sb, number).unwrap()
    }

    pub fn write(&self, number: InodeNo, offset: u64, data: &[u8]) -> super::Result<usize> {
        Ok(self
            .fs
            .write(&self.by, number, offset, data, Default::default())?
            .value)
    }

    pub fn truncate(&self, number: InodeNo, size: u64) {
        self.fs.truncate(&self.by, number, size).unwrap();
    }

    pub fn fallocate(
        &self,
        number: InodeNo,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> super::Result<()> {
        self.fs
            .fallocate(&self.by, number, mode, offset, len)
            .map(drop)
    }

    /// The whole file.
    pub fn contents(&self, number: InodeNo) -> Vec<u8> {
        let size = self.inode(number).size;
        self.fs
            .read(number, 0, u32::try_from(size).unwrap())
            .unwrap()
    }

    pub fn free_blocks(&self) -> u64 {
        alloc::totals(&self.fs.view(), &self.fs.sb).unwrap().0
    }

    /// Writes everything into a file, with the superblock's sums right.
    pub fn dump(&self) -> std::path::PathBuf {
        let mut txn = self.fs.begin().unwrap();
        alloc::settle_counts(&mut txn, &self.fs.sb).unwrap();
        txn.commit(&Op::Orphan { inode: InodeNo(0) }).unwrap();
        self.fs.journal().flush().unwrap();
        self.write_out()
    }

    fn write_out(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("dump");
        let _ = std::fs::remove_file(&path);
        write_pages(&path, &self.disk.pages());
        path
    }

    /// e2fsck finds nothing.
    #[track_caller]
    pub fn judge(&self, when: &str) {
        e2fsck(&self.dump(), when);
    }

    /// Whether e2fsck sees damage in what has been committed so far.
    pub fn is_damaged(&self) -> bool {
        self.fs.journal().flush().unwrap();
        findings(&self.write_out()).is_some()
    }

    /// What debugfs reads from a file.
    pub fn debugfs_reads(&self, number: InodeNo) -> Vec<u8> {
        let path = self.dump();
        let out = Command::new("debugfs")
            .args(["-R", &format!("cat <{number}>")])
            .arg(&path)
            .output()
            .unwrap();
        out.stdout
    }
}

/// Whatever a test did, e2fsck sees it, as the next mount would leave it: with
/// the files freed that were open without a name.
impl Drop for World {
    fn drop(&mut self) {
        if self.damaged || std::thread::panicking() {
            return;
        }
        self.open_again();
        self.fs.collect_orphans().unwrap();
        self.judge("at the end");
    }
}

/// A file system on an image, without a log.
pub fn open(disk: Arc<dyn Disk>) -> Fs {
    let mut raw = [0; 1024];
    disk.read_at(&mut raw, 1024).unwrap();
    let sb = Superblock::decode(&raw).unwrap();
    let journal = Journal::scratch(disk, sb.block_size as usize);
    let clock = Arc::new(StepClock::new(Time {
        secs: 1_790_000_000,
        nanos: 0,
    }));
    Fs::new(journal, sb, Options::default(), clock)
}

#[track_caller]
pub fn e2fsck(path: &std::path::Path, when: &str) {
    if let Some(said) = findings(path) {
        panic!("{when}: e2fsck finds:\n{said}");
    }
}

/// e2fsck's words, if it finds anything.
fn findings(path: &std::path::Path) -> Option<String> {
    let out = Command::new("e2fsck")
        .args(["-fn"])
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    // With -n the exit code alone is no judge: wrong totals and wrong checksums
    // of group descriptors still give 0.
    let bad = !matches!(out.status.code(), Some(0 | 4))
        || said
            .lines()
            .filter(|line| line.contains("? no") || line.ends_with("IGNORED."))
            .any(|line| !line.contains("could be narrower") && !line.starts_with("Optimize"));
    bad.then_some(said)
}

#[track_caller]
pub fn run(command: &mut Command) -> String {
    let out = command.env("LC_ALL", "C").output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A file's bytes as shared pages, holes left out.
pub fn pages_of(path: &std::path::Path) -> Pages {
    let file = std::fs::File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut pages = Pages::default();
    pages.set_len(len);
    let mut piece = vec![0; 4096];
    for at in (0..len).step_by(piece.len()) {
        let n = piece.len().min((len - at) as usize);
        file.read_exact_at(&mut piece[..n], at).unwrap();
        if piece[..n].iter().any(|byte| *byte != 0) {
            pages.write(&piece[..n], at);
        }
    }
    pages
}

pub fn write_pages(path: &std::path::Path, pages: &Pages) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(pages.len()).unwrap();
    let mut piece = vec![0; 4096];
    for at in (0..pages.len()).step_by(piece.len()) {
        let n = piece.len().min((pages.len() - at) as usize);
        pages.read(&mut piece[..n], at);
        if piece[..n].iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece[..n], at).unwrap();
        }
    }
}

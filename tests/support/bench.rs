//! An image in memory with a file system over it, by paths: for scripts of
//! operations without FUSE. At the end all judges look at it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journalfs::check;
use journalfs::device::Disk;
use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::ext4::Superblock;
use journalfs::ext4::features::incompat;
use journalfs::ext4::inode::flag;
use journalfs::fs::map::Mapping;
use journalfs::fs::{
    self, Attr, Caller, Error, Fs, Kind, Options, Result, SetAttr, SetTime, WriteFlags,
};
use journalfs::journal::{Blocks, Journal, Op};
use journalfs::units::{FileBlock, InodeNo, Lsn, StepClock, Time};

use super::images::{Image, Variant};
use super::kernel::Mount;
use super::tree::{Node, Sum, Tree};
use super::view::{self, Skip};

/// A file system over an image in memory.
pub struct Bench {
    pub image: Image,
    disk: Arc<MemoryDisk>,
    pub fs: Arc<Fs>,
    pub by: Caller,
    /// The last record that the judges have seen.
    judged: Cell<Option<Lsn>>,
}

impl Bench {
    /// Over a fresh image.
    pub fn new(variant: &Variant, size: u64) -> Self {
        Self::over(variant.make(size))
    }

    /// Over this image.
    pub fn over(image: Image) -> Self {
        let disk = image.to_memory();
        let fs = open(disk.clone());
        Self::of_mounted(image, disk, fs)
    }

    /// An image that somebody else mounted: `disk` has its bytes.
    pub fn of_mounted(image: Image, disk: Arc<MemoryDisk>, fs: Arc<Fs>) -> Self {
        Bench {
            image,
            disk,
            fs,
            by: Caller::default(),
            judged: Cell::new(None),
        }
    }

    /// The same image, mounted again.
    pub fn remounted(mut self, fs: Arc<Fs>) -> Self {
        self.fs = fs;
        self
    }

    /// One that is only looked at: nothing is left to be judged at the end.
    pub fn looked_at(self) -> Self {
        self.judged.set(Some(self.last()));
        self
    }

    /// The same image, opened again as after an unmount.
    pub fn reopen(mut self) -> Self {
        self.open_again();
        self
    }

    /// On what others have made of the image since it was judged.
    pub fn read_back(mut self) -> Self {
        self.disk = self.image.to_memory();
        self.fs = open(self.disk.clone());
        self.judged.set(None);
        self
    }

    fn open_again(&mut self) {
        self.close();
        self.fs = open(self.disk.clone());
        self.fs.collect_orphans().expect("orphans are collected");
        self.judged.set(None);
    }

    /// Writes everything home, the superblock's totals included.
    fn close(&self) {
        self.fs.tidy().expect("freeing is finished");
        let mut txn = self.fs.journal().begin().expect("a transaction");
        fs::alloc::settle_counts(&mut txn, self.fs.superblock()).expect("counts");
        let mark = Op::Mark {
            name: b"closed".to_vec(),
            time: Time::default(),
        };
        txn.commit(&mark).expect("commit");
        self.fs.journal().flush().expect("flush");
    }

    /// All judges, after whoever mounted the image has closed it: they must
    /// see the tree that was shown before.
    #[track_caller]
    pub fn judge_closed(&self, what: &str, shown: &Tree) {
        self.judge_bytes(what);
        self.judge_by_view(what, shown);
        if let Some(mount) = Mount::read_only(self.image.path()) {
            shown.assert_same(&format!("{what}: fs"), &Tree::of(mount.path()), "kernel");
        }
    }

    /// All judges: our check, e2fsck, and the kernel, who must see this tree.
    #[track_caller]
    pub fn judge(&self, what: &str) {
        self.judge_without_kernel(what);
        let shown = self.tree();
        self.judge_by_view(what, &shown);
        let Some(mount) = Mount::read_only(self.image.path()) else {
            return;
        };
        shown.assert_same(&format!("{what}: fs"), &Tree::of(mount.path()), "kernel");
    }

    /// All judges, unless it is what they have seen: of the same bytes they
    /// can't think otherwise.
    #[track_caller]
    pub fn judge_again(&self, what: &str, judged: &Pages, shown: &Tree) {
        self.close();
        match self.pages() == *judged {
            true => {
                self.tree().assert_same(what, shown, "before");
                self.judged.set(Some(self.last()));
            }
            false => self.judge(what),
        }
    }

    /// Our check and e2fsck.
    #[track_caller]
    pub fn judge_without_kernel(&self, what: &str) {
        self.close();
        self.judge_bytes(what);
    }

    /// The third reader, on the image as it is home.
    #[track_caller]
    fn judge_by_view(&self, what: &str, shown: &Tree) {
        let fs = open(self.disk.clone());
        let sb = fs.superblock();
        let whole = match sb.has_metadata_csum() && sb.inode_size == 128 {
            true => Some(Skip::HalfChecksums),
            false if !sb.features.incompat(incompat::FILETYPE) => Some(Skip::NoTypes),
            false => None,
        };
        let contents = |name: &Path| self.beyond_view(&fs, name);
        view::assert_reads(self.image.path(), shown, whole, &contents, what);
    }

    /// Whether a file's blocks keep its contents from the third reader.
    fn beyond_view(&self, fs: &Fs, name: &Path) -> Option<Skip> {
        let lookup = |inode, part: &std::ffi::OsStr| {
            let part = std::os::unix::ffi::OsStrExt::as_bytes(part);
            fs.lookup(&self.by, inode, part)
                .expect("it was shown")
                .inode
        };
        let number = name.iter().fold(InodeNo::ROOT, lookup);
        let (view, sb) = (fs.journal().view(), fs.superblock());
        let inode = fs::inode::load(&view, sb, number).expect("it was shown");
        let (end, mut at) = (inode.size.div_ceil(u64::from(sb.block_size)), 0);
        while at < end {
            let found = fs::map::find(&view, sb, &inode, FileBlock(at as u32));
            at += u64::from(match found.expect("it was shown") {
                Mapping::Hole { .. } if !inode.has(flag::EXTENTS) => return Some(Skip::HolesInMap),
                Mapping::Mapped {
                    unwritten: true, ..
                } => return Some(Skip::Unwritten),
                Mapping::Hole { len } | Mapping::Mapped { len, .. } => len,
            });
        }
        None
    }

    #[track_caller]
    fn judge_bytes(&self, what: &str) {
        self.judged.set(Some(self.last()));
        let report = check::run_image(&*self.disk);
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        self.image.write_back(&*self.disk as &dyn Disk);
        let judgement = super::e2fsck::judge(self.image.path());
        assert!(
            judgement.is_clean() && findings.is_empty(),
            "{what}: e2fsck exits {}:\n{}check finds:\n{}",
            judgement.code,
            judgement.output,
            findings.join("\n")
        );
    }

    /// The image's file, as the judges last saw it.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The image's bytes, as they are home.
    pub fn pages(&self) -> Pages {
        self.disk.pages()
    }

    /// The last change.
    fn last(&self) -> Lsn {
        self.fs.journal().watermarks().appended
    }

    /// The inode at a path from the root, `""` for the root itself.
    pub fn at(&self, path: &str) -> Result<InodeNo> {
        let mut inode = InodeNo::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            inode = self.fs.lookup(&self.by, inode, name.as_bytes())?.inode;
        }
        Ok(inode)
    }

    fn parent<'p>(&self, path: &'p str) -> Result<(InodeNo, &'p [u8])> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.at(folder)?, name.as_bytes()))
    }

    pub fn attr(&self, path: &str) -> Result<Attr> {
        self.fs.getattr(self.at(path)?)
    }
    pub fn create(&self, path: &str) -> Result<InodeNo> {
        let (parent, name) = self.parent(path)?;
        Ok(self
            .fs
            .create(&self.by, parent, name, 0o644, 0o022)?
            .value
            .inode)
    }
    /// All of it, in pieces as FUSE would bring them.
    pub fn write(&self, path: &str, offset: u64, data: &[u8]) -> Result<()> {
        let inode = self.at(path).or_else(|_| self.create(path))?;
        let mut done = 0;
        while done < data.len() {
            let end = data.len().min(done + (128 << 10));
            let n = self
                .fs
                .write(
                    &self.by,
                    inode,
                    offset + done as u64,
                    &data[done..end],
                    WriteFlags {
                        kill_priv: true,
                        ..WriteFlags::default()
                    },
                )?
                .value;
            assert!(n > 0, "a write of nothing");
            done += n;
        }
        Ok(())
    }
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let inode = self.at(path)?;
        let size = self.fs.getattr(inode)?.size;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let piece = self.fs.read(inode, bytes.len() as u64, 128 << 10)?;
            assert!(
                !piece.is_empty(),
                "{path} ends at {} of {size}",
                bytes.len()
            );
            bytes.extend(piece);
        }
        Ok(bytes)
    }
    pub fn mkdir(&self, path: &str) -> Result<InodeNo> {
        let (parent, name) = self.parent(path)?;
        Ok(self
            .fs
            .mkdir(&self.by, parent, name, 0o755, 0o022)?
            .value
            .inode)
    }
    pub fn mknod(&self, path: &str, mode: u16, rdev: u32) -> Result<InodeNo> {
        let (parent, name) = self.parent(path)?;
        Ok(self
            .fs
            .mknod(&self.by, parent, name, mode, 0o022, rdev)?
            .value
            .inode)
    }
    pub fn symlink(&self, path: &str, target: &[u8]) -> Result<InodeNo> {
        let (parent, name) = self.parent(path)?;
        Ok(self.fs.symlink(&self.by, parent, name, target)?.value.inode)
    }
    pub fn link(&self, from: &str, to: &str) -> Result<()> {
        let (parent, name) = self.parent(to)?;
        self.fs
            .link(&self.by, self.at(from)?, parent, name)
            .map(drop)
    }
    pub fn unlink(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        self.fs.unlink(&self.by, parent, name).map(drop)
    }
    pub fn rmdir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        self.fs.rmdir(&self.by, parent, name).map(drop)
    }
    pub fn rename(&self, from: &str, to: &str, flags: u32) -> Result<()> {
        let ((from, name), (to, new_name)) = (self.parent(from)?, self.parent(to)?);
        self.fs
            .rename(&self.by, from, name, to, new_name, flags)
            .map(drop)
    }
    pub fn truncate(&self, path: &str, size: u64) -> Result<()> {
        self.setattr(
            path,
            SetAttr {
                size: Some(size),
                ..SetAttr::default()
            },
        )
    }
    pub fn setattr(&self, path: &str, set: SetAttr) -> Result<()> {
        self.fs.setattr(&self.by, self.at(path)?, &set).map(drop)
    }
    pub fn set_times(&self, path: &str, mtime: Time) -> Result<()> {
        let time = Some(SetTime::At(mtime));
        self.setattr(
            path,
            SetAttr {
                atime: time,
                mtime: time,
                ..SetAttr::default()
            },
        )
    }
    pub fn fallocate(&self, path: &str, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.fs
            .fallocate(&self.by, self.at(path)?, mode, offset, len)
            .map(drop)
    }
    pub fn set_xattr(&self, path: &str, name: &str, value: &[u8]) -> Result<()> {
        self.fs
            .setxattr(&self.by, self.at(path)?, name.as_bytes(), value, 0)
            .map(drop)
    }
    pub fn remove_xattr(&self, path: &str, name: &str) -> Result<()> {
        self.fs
            .removexattr(&self.by, self.at(path)?, name.as_bytes())
            .map(drop)
    }
    /// Names in a directory, but for `.` and `..`.
    pub fn names(&self, path: &str) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        self.fs
            .readdir(&self.by, self.at(path)?, 0, &mut |_, name, _, _| {
                names.push(name.to_vec());
                true
            })?;
        names.retain(|name| !matches!(name.as_slice(), b"." | b".."));
        Ok(names)
    }

    /// Everything that the file system shows.
    #[track_caller]
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        let mut first_names = BTreeMap::new();
        self.walk(&mut tree, &mut first_names, PathBuf::new(), InodeNo::ROOT);
        tree
    }

    #[track_caller]
    fn walk(
        &self,
        tree: &mut Tree,
        first: &mut BTreeMap<InodeNo, PathBuf>,
        name: PathBuf,
        inode: InodeNo,
    ) {
        let attr = self
            .fs
            .getattr(inode)
            .unwrap_or_else(|e| panic!("getattr {}: {e}", name.display()));
        let mut node = self
            .node(&name, &attr)
            .unwrap_or_else(|e| panic!("{}: {e}", name.display()));
        node.first_name = first.entry(inode).or_insert_with(|| name.clone()).clone();
        tree.nodes.insert(name.clone(), node);
        if attr.kind != Kind::Directory {
            return;
        }
        let mut entries = Vec::new();
        let listed = self
            .fs
            .readdir(&self.by, inode, 0, &mut |_, entry, inode, _| {
                entries.push((entry.to_vec(), inode));
                true
            });
        listed.unwrap_or_else(|e| panic!("readdir {}: {e}", name.display()));
        entries.retain(|(name, _)| !matches!(name.as_slice(), b"." | b".."));
        entries.sort();
        for (entry, inode) in entries {
            let entry = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&entry);
            self.walk(tree, first, name.join(entry), inode);
        }
    }

    fn node(&self, name: &Path, attr: &Attr) -> Result<Node> {
        let kind = match attr.kind {
            Kind::Regular => '-',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::CharDevice => 'c',
            Kind::BlockDevice => 'b',
            Kind::Fifo => 'p',
            Kind::Socket => 's',
        };
        let device = matches!(kind, 'c' | 'b');
        Ok(Node {
            kind,
            mode: attr.perm.into(),
            uid: attr.uid,
            gid: attr.gid,
            size: if kind == 'd' { 0 } else { attr.size },
            links: attr.links.into(),
            mtime: (attr.mtime.secs, attr.mtime.nanos),
            ctime: (attr.ctime.secs, attr.ctime.nanos),
            rdev: match device {
                true => (
                    attr.rdev >> 8 & 0xfff,
                    attr.rdev & 0xff | attr.rdev >> 12 & 0xf_ff00,
                ),
                false => (0, 0),
            },
            contents: if kind == '-' {
                self.contents(name, attr)?
            } else {
                0
            },
            target: if kind == 'l' {
                self.fs.readlink(attr.inode)?
            } else {
                Vec::new()
            },
            xattrs: self.xattrs(attr.inode)?,
            first_name: PathBuf::new(),
        })
    }

    fn contents(&self, name: &Path, attr: &Attr) -> Result<u64> {
        let mut sum = Sum::default();
        let mut at = 0;
        while at < attr.size {
            let piece = self.fs.read(attr.inode, at, 1 << 20)?;
            assert!(
                !piece.is_empty(),
                "{} ends at {at} of {}",
                name.display(),
                attr.size
            );
            sum.update(&piece);
            at += piece.len() as u64;
        }
        Ok(sum.finish())
    }

    fn xattrs(&self, inode: InodeNo) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let names = self.fs.listxattr(&self.by, inode)?;
        let names = names.split(|&b| b == 0).filter(|name| !name.is_empty());
        names
            .map(|name| Ok((name.to_vec(), self.fs.getxattr(&self.by, inode, name)?)))
            .collect()
    }
}

/// What the test has not shown to the judges itself, they see now.
impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.judged.get() != Some(self.last()) {
            self.open_again();
            self.judge_without_kernel("at the end");
        }
    }
}

fn open(disk: Arc<MemoryDisk>) -> Arc<Fs> {
    let mut raw = [0; 1024];
    disk.read_at(&mut raw, 1024).expect("a superblock");
    let sb = Superblock::decode(&raw).unwrap_or_else(|e| panic!("superblock: {e}"));
    let block_size = sb.block_size as usize;
    let journal = Journal::scratch(disk, block_size);
    assert_eq!(journal.view().block_size(), block_size);
    let clock = StepClock::new(Time {
        secs: 1_800_000_000,
        nanos: 123_456_789,
    });
    Arc::new(Fs::new(journal, sb, Options::default(), Arc::new(clock)))
}

/// Fails unless the operation was refused for this reason.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(result: Result<T>, want: &Error) {
    match result {
        Err(error) if std::mem::discriminant(&error) == std::mem::discriminant(want) => {}
        other => panic!("expected \"{want}\", got {other:?}"),
    }
}

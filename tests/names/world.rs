//! An image in memory with the file system on it, judged by e2fsck when the
//! test is done with it.

use std::sync::Arc;

use journalfs::device::Disk;
use journalfs::device::memory::MemoryDisk;
use journalfs::ext4::Superblock;
use journalfs::fs::{Access, Attr, Caller, Fs, Options, Result, alloc};
use journalfs::journal::{Journal, Op};
use journalfs::units::{Clock, InodeNo, StepClock, Time};

use crate::support::e2fsck;
use crate::support::images::{Image, Variant};

pub const ROOT: InodeNo = InodeNo::ROOT;

pub struct World {
    pub image: Image,
    disk: Arc<MemoryDisk>,
    pub fs: Arc<Fs>,
    pub by: Caller,
    /// Damaged on purpose, and e2fsck agrees that it is.
    pub damaged: bool,
}

impl World {
    /// A fresh image of this variant.
    pub fn new(variant: &str, size: u64) -> Self {
        Self::on(Variant::named(variant).make(size), Access::Kernel)
    }

    /// An image with mkfs.ext4's arguments.
    pub fn made_with(args: &'static [&'static str], size: u64) -> Self {
        Self::on(Variant { name: "own", args }.make(size), Access::Kernel)
    }

    /// One where permissions are checked by us.
    pub fn strict() -> Self {
        Self::on(Variant::named("debian").make(16 << 20), Access::Check)
    }

    /// On what is in the image now.
    pub fn on(image: Image, access: Access) -> Self {
        let disk = image.to_memory();
        Self::over(image, disk, access)
    }

    /// On what others have made of the image since it was saved.
    pub fn read_back(mut self, access: Access) -> Self {
        self.disk = self.image.to_memory();
        self.fs = Arc::new(open(self.disk.clone(), access, clock()));
        self
    }

    /// On these bytes; the image is where [`World::save`] puts them.
    pub fn over(image: Image, disk: Arc<MemoryDisk>, access: Access) -> Self {
        Self::at_time(image, disk, access, clock())
    }

    /// With a clock of the test's.
    pub fn at_time(
        image: Image,
        disk: Arc<MemoryDisk>,
        access: Access,
        clock: Arc<dyn Clock>,
    ) -> Self {
        World {
            fs: Arc::new(open(disk.clone(), access, clock)),
            image,
            disk,
            by: Caller::default(),
            damaged: false,
        }
    }

    /// Writes all home.
    pub fn save(&self) {
        let mut txn = self.fs.journal().begin().unwrap();
        alloc::settle_counts(&mut txn, self.fs.superblock()).unwrap();
        txn.commit(&Op::Mark {
            name: vec![],
            time: Time::default(),
        })
        .unwrap();
        self.fs.journal().flush().unwrap();
        self.image.write_back(&*self.disk);
    }

    /// Writes all home, and lets e2fsck judge.
    #[track_caller]
    pub fn judge(&self) {
        self.save();
        e2fsck::assert_clean(self.image.path());
    }

    pub fn file(&self, dir: InodeNo, name: &str) -> InodeNo {
        self.fs
            .create(&self.by, dir, name.as_bytes(), 0o644, 0)
            .unwrap()
            .value
            .inode
    }

    pub fn dir(&self, dir: InodeNo, name: &str) -> InodeNo {
        self.fs
            .mkdir(&self.by, dir, name.as_bytes(), 0o755, 0)
            .unwrap()
            .value
            .inode
    }

    pub fn look(&self, dir: InodeNo, name: &str) -> Result<Attr> {
        self.fs.lookup(&self.by, dir, name.as_bytes())
    }

    pub fn unlink(&self, dir: InodeNo, name: &str) -> Result<()> {
        self.fs.unlink(&self.by, dir, name.as_bytes()).map(drop)
    }

    /// All names but the dots, as listed in calls of `batch` entries.
    pub fn names(&self, dir: InodeNo, batch: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut cookie = 0;
        loop {
            let some = self.some_names(dir, &mut cookie, batch);
            if some.is_empty() {
                assert_eq!(all[..2], [".", ".."]);
                return all.split_off(2);
            }
            all.extend(some);
        }
    }

    /// The next `batch` names, dots included.
    pub fn some_names(&self, dir: InodeNo, cookie: &mut u64, batch: usize) -> Vec<String> {
        let mut some = Vec::new();
        self.fs
            .readdir(&self.by, dir, *cookie, &mut |next, name, _, _| {
                if some.len() == batch {
                    return false;
                }
                assert!(next > *cookie, "cookies go up");
                *cookie = next;
                some.push(String::from_utf8_lossy(name).into_owned());
                true
            })
            .unwrap();
        some
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(StepClock::new(Time {
        secs: 1_800_000_000,
        nanos: 0,
    }))
}

fn open(disk: Arc<MemoryDisk>, access: Access, clock: Arc<dyn Clock>) -> Fs {
    let mut raw = [0; 1024];
    disk.read_at(&mut raw, 1024).unwrap();
    let sb = Superblock::decode(&raw).unwrap();
    let journal = Journal::scratch(disk, sb.block_size as usize);
    let options = Options {
        access,
        ..Options::default()
    };
    Fs::new(journal, sb, options, clock)
}

/// Whatever a test did, e2fsck sees it, as the next mount would leave it: with
/// the files freed that were open without a name.
impl Drop for World {
    fn drop(&mut self) {
        if self.damaged || std::thread::panicking() {
            return;
        }
        self.fs.journal().flush().unwrap();
        self.fs = Arc::new(open(self.disk.clone(), Access::Kernel, clock()));
        self.fs.collect_orphans().unwrap();
        self.judge();
    }
}

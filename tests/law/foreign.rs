//! The foreign judges of a campaign: e2fsck for every shape of state that is
//! new and for a sample, the kernel for a smaller sample.
//!
//! A state's shape is the course that recovery took (recover, go on, …),
//! whether the log was torn, the block size, whether the image has an
//! internal journal, whether recovery itself had been cut, and *which two
//! kinds of operation* were replayed together. By pairs, since all sets of
//! kinds would be too many, and bugs seldom need three.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::fs::Kind;
use journalfs::sim;
use journalfs::sim::law::{Foreign, Shape};
use journalfs::sim::step::Verbs;

use crate::support::images::{self, Image};
use crate::support::tree::{Node, Tree, sum};
use crate::support::{e2fsck, kernel};

/// e2fsck and the kernel, and what they have seen.
pub struct Judges {
    /// One in so many states is a sample.
    sample: u64,
    /// Whether the kernel may be asked here.
    kernel: bool,
    shapes: Mutex<HashSet<(Shape, (u32, u32))>>,
    asked: AtomicU64,
    /// Images that e2fsck was content with.
    pub by_e2fsck: AtomicU64,
    /// Images that the kernel showed the right tree of.
    pub by_kernel: AtomicU64,
}

impl Judges {
    /// Asks for one in `sample` states whatever its shape; the kernel only
    /// where this process may mount (if not, says so in a line).
    pub fn new(sample: u64) -> Self {
        Judges {
            sample,
            kernel: kernel::allowed(),
            shapes: Mutex::default(),
            asked: AtomicU64::new(0),
            by_e2fsck: AtomicU64::new(0),
            by_kernel: AtomicU64::new(0),
        }
    }
}

impl Foreign for Judges {
    fn want(&self, shape: &Shape) -> bool {
        let mut shapes = self.shapes.lock().expect("nobody panics with it");
        let verbs = std::iter::once((32, 32)).chain(shape.verbs.pairs());
        let shape = Shape {
            depth: shape.depth.min(1),
            verbs: Verbs::default(),
            ..*shape
        };
        let new = verbs.filter(|pair| shapes.insert((shape, *pair))).count();
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        new > 0 || asked.is_multiple_of(self.sample)
    }

    fn judge(&self, image: &Pages, tree: &sim::Tree) -> Result<(), String> {
        let number = self.by_e2fsck.load(Ordering::Relaxed);
        self.ask(image, tree, number.is_multiple_of(8))
    }

    fn judge_thoroughly(&self, image: &Pages, tree: &sim::Tree) -> Result<(), String> {
        self.ask(image, tree, true)
    }
}

impl Judges {
    fn ask(&self, image: &Pages, tree: &sim::Tree, kernel: bool) -> Result<(), String> {
        let file = Image::blank(0);
        file.write_back(&MemoryDisk::from_pages(image.clone()));
        let judgement = e2fsck::judge(file.path());
        if !judgement.is_clean() {
            return Err(format!("e2fsck is not content: {judgement:?}"));
        }
        self.by_e2fsck.fetch_add(1, Ordering::Relaxed);
        if self.kernel && kernel {
            let mount = kernel::Mount::attempt(file.path(), "loop,ro")
                .map_err(|words| format!("the kernel refuses it: {words}"))?;
            shown(tree).assert_same("model", &Tree::of(mount.path()), "kernel");
            self.by_kernel.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Block size of [`with_internal_journal`].
pub const BLOCK_SIZE: u32 = 1024;

/// An image with an internal journal, the same bytes each time; `None` (and
/// why) where there is no mkfs.ext4.
pub fn with_internal_journal() -> Option<Pages> {
    let image = Image::blank(4 << 20);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b1024", "-I256", "-N64", "-Jsize=1"])
        .args([
            "-U",
            images::UUID,
            "-E",
            "hash_seed=6a6f7572-6e61-4c66-8373-746573740002",
        ])
        .arg(image.path())
        .env("PATH", images::path_with_sbin())
        .env("E2FSPROGS_FAKE_TIME", "1599999999")
        .status();
    match made {
        Ok(status) if status.success() => Some(images::pages_of(image.path())),
        other => {
            eprintln!("skipped: images with an internal journal need mkfs.ext4: {other:?}");
            None
        }
    }
}

/// Fails unless e2fsck is content and the kernel (where it may be asked)
/// shows this tree.
pub fn judge(image: &Path, wanted: &sim::Tree) {
    e2fsck::assert_clean(image);
    if let Some(mount) = kernel::Mount::read_only(image) {
        shown(wanted).assert_same("model", &Tree::of(mount.path()), "kernel");
    }
}

/// The model's tree as the kernel would show it.
fn shown(tree: &sim::Tree) -> Tree {
    let paths = tree
        .names
        .iter()
        .map(|(path, number)| (PathBuf::from(OsStr::from_bytes(path)), *number));
    let in_order: BTreeMap<PathBuf, usize> = paths.collect();
    let mut first = BTreeMap::new();
    let nodes = in_order.into_iter().map(|(path, number)| {
        let first_name = first.entry(number).or_insert_with(|| path.clone()).clone();
        (path, node(&tree.nodes[number], first_name))
    });
    Tree {
        nodes: nodes.collect(),
    }
}

fn node(node: &sim::Node, first_name: PathBuf) -> Node {
    let bytes = node.content.to_vec();
    let kind = match node.kind {
        Kind::Regular => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let rdev = u64::from(node.rdev);
    Node {
        kind,
        mode: u32::from(node.perm),
        uid: node.uid,
        gid: node.gid,
        size: bytes.len() as u64,
        links: u64::from(node.links),
        mtime: (node.mtime.secs, node.mtime.nanos),
        ctime: (node.ctime.secs, node.ctime.nanos),
        rdev: (
            nix::sys::stat::major(rdev) as u32,
            nix::sys::stat::minor(rdev) as u32,
        ),
        contents: if kind == '-' { sum(&bytes) } else { 0 },
        target: if kind == 'l' { bytes } else { Vec::new() },
        xattrs: node
            .xattrs
            .iter()
            .map(|(name, value)| (name.clone(), value.to_vec()))
            .collect(),
        first_name,
    }
}

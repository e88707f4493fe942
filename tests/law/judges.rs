//! After a cut and a recovery, the foreign judges: e2fsck finds nothing, and
//! the kernel shows the model's tree.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use journalfs::device::crash::{Frontier, Plan};
use journalfs::device::memory::MemoryDisk;
use journalfs::device::volatile::Host;
use journalfs::fs::Kind;
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::{self, Round, system};

use super::seeds;
use crate::support::images::Image;
use crate::support::tree::{Node, Tree, sum};
use crate::support::{e2fsck, kernel};

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

fn judge(image: &Path, wanted: &sim::Tree) {
    e2fsck::assert_clean(image);
    if let Some(mount) = kernel::Mount::read_only(image) {
        shown(wanted).assert_same("model", &Tree::of(mount.path()), "kernel");
    }
}

#[test]
fn e2fsck_and_the_kernel_are_content_after_any_cut() {
    for seed in seeds(8) {
        println!("seed {seed}");
        let round = Round::new(seed);
        let eras = round.record().unwrap_or_else(|failure| panic!("{failure}"));
        let mut random = Random::new(!seed);
        for _ in 0..4 {
            let era = random.pick(&eras);
            let at = random.below(era.trace.len() as u64 + 1) as usize;
            let mut frontier = Frontier::new(&era.start);
            era.trace[..at]
                .iter()
                .for_each(|event| frontier.pass(event));
            let plan = Plan::random(frontier.pending(), random.bits());
            println!("cut after {at} changes: {plan}");
            let host = Host::new(frontier.crash(&plan).0);
            let mounted = system::mount(&host, &round.setup, &StillClock::afterwards(), 1).unwrap();
            let wanted = era.history.at(mounted.last).unwrap();
            system::unmount(mounted).unwrap();
            let file = Image::blank(0);
            file.write_back(&MemoryDisk::from_pages(host.kill().image));
            judge(file.path(), wanted);
        }
    }
}

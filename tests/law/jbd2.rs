//! An image whose own journal has to be replayed first: a cut at any write or
//! sync of that, torn sectors included, is finished at the next attempt.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use journalfs::device::crash::{Fate, Frontier, Plan};
use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::ext4::superblock::{OFFSET, SIZE, seal};
use journalfs::fs::Caller;
use journalfs::sim::Tree;
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::system::{self, Setup};
use journalfs::sim::walk::walk;
use journalfs::units::InodeNo;

use super::foreign;
use crate::support::e2fsck;
use crate::support::images::{Image, pages_of};

const BLOCK: usize = foreign::BLOCK_SIZE as usize;

fn setup() -> Setup {
    Setup {
        size: 4 << 20,
        block_size: foreign::BLOCK_SIZE,
        ..Setup::random(&mut Random::new(5))
    }
}

fn alone(image: Pages) -> Snapshot {
    Snapshot {
        image,
        ..Snapshot::default()
    }
}

/// Some work on an image that lacks nothing, and what is there then.
fn worked(image: Pages) -> Pages {
    let host = Host::new(alone(image));
    let mounted = system::mount(&host, &setup(), &StillClock::new(), 1).unwrap();
    let (fs, by) = (&mounted.fs, Caller::default());
    for n in 0..8 {
        let dir = fs.mkdir(&by, InodeNo::ROOT, format!("d{n}").as_bytes(), 0o755, 0);
        let dir = dir.unwrap().value.inode;
        for m in 0..4 {
            let name = format!("a file, number {m}");
            let file = fs.create(&by, dir, name.as_bytes(), 0o644, 0).unwrap();
            let (inode, data) = (file.value.inode, vec![n as u8 + 1; 900 * (m + 1)]);
            fs.write(&by, inode, 0, &data, Default::default()).unwrap();
        }
    }
    system::unmount(mounted).unwrap();
    host.kill().image
}

fn block(pages: &Pages, number: usize) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    pages.read(&mut bytes, (number * BLOCK) as u64);
    bytes
}

/// The image `before` with a journal that makes it `after`, in four
/// transactions: the first has old versions of some blocks, and one that the
/// last revokes.
fn with_journal(before: &Pages, after: &Pages) -> Image {
    let image = Image::blank(0);
    image.write_back(&MemoryDisk::from_pages(before.clone()));
    let count = before.len() as usize / BLOCK;
    let changed: Vec<usize> = (0..count)
        .filter(|n| block(before, *n) != block(after, *n))
        .collect();
    let home = OFFSET as usize / BLOCK;
    assert!(changed.len() > 40 && changed.contains(&home));
    let free = (0..count).rfind(|n| block(before, *n) == vec![0; BLOCK] && !changed.contains(n));
    let newest = |number: usize| {
        let mut bytes = block(after, number);
        if number == home {
            // As the kernel keeps it in its journal.
            bytes[0x60] |= 4;
            seal(&mut bytes[..SIZE]);
        }
        bytes
    };
    let mut requests = "journal_open -c -v 3\n".to_owned();
    let mut transaction = |blocks: &[usize], bytes: &dyn Fn(usize) -> Vec<u8>| {
        let data = image.folder().join(format!("data {}", requests.len()));
        let all: Vec<u8> = blocks.iter().flat_map(|n| bytes(*n)).collect();
        std::fs::write(&data, all).unwrap();
        let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        let (blocks, data) = (blocks.join(","), data.display());
        writeln!(requests, "journal_write -b {blocks} \"{data}\"").unwrap();
    };
    let free = free.expect("a free block");
    let half = changed.len() / 2;
    let old: Vec<usize> = changed.iter().copied().step_by(3).chain([free]).collect();
    transaction(&old, &|_| vec![0xEE; BLOCK]);
    transaction(&changed[..half], &newest);
    transaction(&changed[half..], &newest);
    writeln!(requests, "journal_write -r {free}\njournal_close").unwrap();
    image.debugfs_script(&requests);
    image
}

/// Recovers what a cut left, and compares.
fn finished(left: &Snapshot, wanted: &Tree, judge: bool) -> Result<Arc<Host>, String> {
    let host = Host::new(left.clone());
    let clock = StillClock::afterwards();
    system::recover(&host, &setup(), &clock, 3)?;
    let recovered = host.kill();
    if judge {
        e2fsck::assert_clean_disk(&*host.image());
    }
    system::check(&recovered)?;
    let looked = Host::new(recovered);
    let mounted = system::mount(&looked, &setup(), &clock, 4)?;
    let tree = walk(&mounted.fs).map_err(|e| e.to_string())?;
    match wanted.difference(&tree) {
        None => Ok(host),
        Some(difference) => Err(difference),
    }
}

/// At every change: nothing of what was pending, all of it, and some of it,
/// torn or not.
fn cuts(host: &Host, seeds: u64) -> Vec<(usize, Plan, Snapshot)> {
    let mut frontier = Frontier::new(&host.start());
    let mut seen = HashSet::new();
    let mut states = Vec::new();
    for (at, event) in host.trace().iter().enumerate() {
        frontier.pass(event);
        let pending = frontier.pending();
        let mut plans = vec![Plan::all(pending), Plan(vec![Fate::Lost; pending.len()])];
        // The newest change is torn, and all others kept.
        for seed in 0..seeds {
            plans.push(Plan::random(pending, at as u64 * 100 + seed));
            let mut torn = Plan::all(pending);
            if let Some(last) = torn.0.last_mut() {
                *last = Fate::Torn(at as u32 * 100 + seed as u32);
            }
            plans.push(torn);
        }
        for plan in plans {
            let (state, _) = frontier.crash(&plan);
            let mut hasher = DefaultHasher::new();
            state.image.to_vec().hash(&mut hasher);
            for (name, pages) in &state.files {
                (name, pages.to_vec()).hash(&mut hasher);
            }
            if seen.insert(hasher.finish()) {
                states.push((at, plan, state));
            }
        }
    }
    states
}

#[test]
fn a_cut_replay_of_an_images_own_journal_is_finished_later() {
    let Some(before) = foreign::with_internal_journal() else {
        return;
    };
    let after = worked(before.clone());
    let wanted = {
        let host = Host::new(alone(after.clone()));
        let mounted = system::mount(&host, &setup(), &StillClock::new(), 2).unwrap();
        walk(&mounted.fs).unwrap()
    };
    let dirty = alone(pages_of(with_journal(&before, &after).path()));
    let host = finished(&dirty, &wanted, true).unwrap_or_else(|what| panic!("uncut: {what}"));
    let first = cuts(&host, 2);
    let (mut second, mut guarded) = (0, 0);
    for (n, (at, plan, state)) in first.iter().enumerate() {
        let recovered = finished(state, &wanted, n % 20 == 0);
        let recovered = recovered.unwrap_or_else(|what| panic!("cut at {at}, {plan}: {what}"));
        guarded += usize::from(!state.files.is_empty());
        // And once more, cut off again.
        if n % 40 == 7 {
            for (again, plan, state) in cuts(&recovered, 1).iter().step_by(9) {
                let recovered = finished(state, &wanted, false);
                recovered
                    .unwrap_or_else(|what| panic!("cut at {at}, then {again}, {plan}: {what}"));
                second += 1;
            }
        }
    }
    println!(
        "{} states, {guarded} with a journal of ours, {second} of a second cut",
        first.len()
    );
    assert!(first.len() > 200 && guarded > 20 && guarded < first.len() && second > 50);
}

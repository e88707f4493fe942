//! Bit rot and syncs that lie: the law is *detected or consistent* there, and
//! not *kept*.
//!
//! Where the line is drawn. Everything in the journal has a checksum, and so
//! has everything in the image but the contents of files and long symlinks:
//! a bit that flips there is read as it is. A sync that lies can't be told
//! from an honest one; what it lost is noticed where records are missing that
//! others say were durable, and where one of the blocks differs that the last
//! checkpoint remembers.

use std::collections::BTreeMap;

use journalfs::device::crash::{Frontier, Plan};
use journalfs::device::fault::{Call, Effect, Fault, Target};
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::fs::{Caller, Fs};
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::system::{self, Setup};
use journalfs::sim::walk::walk;
use journalfs::sim::world::{Looking, World};
use journalfs::sim::{History, Mix, Step, Tree, Workload};
use journalfs::units::{InodeNo, Lsn};

use super::seeds;

/// Disks, and what may be found on them.
struct Disks {
    setup: Setup,
    left: Snapshot,
    history: History,
    floor: Lsn,
}

/// What disks show.
enum Shown {
    /// A tree of the history, and changes can go on.
    Right,
    /// The error that came of it.
    Refused(String),
    /// (what should be, what is)
    Wrong(Tree, Tree),
}

fn setup(random: &mut Random) -> Setup {
    Setup {
        size: 2 << 20,
        segments: 6,
        ..Setup::random(random)
    }
}

impl Disks {
    fn show(&self) -> Shown {
        self.look().unwrap_or_else(Shown::Refused)
    }

    fn look(&self) -> Result<Shown, String> {
        let host = Host::new(self.left.clone());
        let clock = StillClock::afterwards();
        let mounted = system::mount(&host, &self.setup, &clock, 9)?;
        let found = walk(&mounted.fs).map_err(|e| e.to_string())?;
        assert!(mounted.last >= self.floor, "a synced record was forgotten");
        let wanted = self.history.at(mounted.last).unwrap();
        if wanted.difference(&found).is_some() {
            return Ok(Shown::Wrong((**wanted).clone(), found));
        }
        use_it(&mounted.fs).map_err(|e| e.to_string())?;
        let found = walk(&mounted.fs).map_err(|e| e.to_string())?;
        let differs = wanted.difference(&found).unwrap_or_default();
        if differs.lines().any(|line| !line.starts_with("/:")) {
            return Ok(Shown::Wrong((**wanted).clone(), found));
        }
        system::unmount(mounted)?;
        Ok(Shown::Right)
    }
}

/// Takes an inode and blocks, and gives them back.
fn use_it(fs: &Fs) -> journalfs::fs::Result<()> {
    let (by, root) = (Caller::default(), InodeNo::ROOT);
    let made = fs.create(&by, root, b"zz", 0o644, 0)?.value.inode;
    fs.write(&by, made, 0, &[7; 3000], Default::default())?;
    fs.unlink(&by, root, b"zz")?;
    fs.forget(made, 1);
    Ok(())
}

/// What a run leaves whose last sync has a mark behind it: on a host whose
/// daemon was killed, and after an unmount.
fn sound(seed: u64) -> [Disks; 2] {
    let mut random = Random::new(seed);
    let setup = setup(&mut random);
    let image = system::format(&setup, &StillClock::new()).unwrap();
    let mut steps = Workload::random(random.bits(), 60, Mix::All, &Tree::root()).0;
    steps.insert(30, Step::Checkpoint);
    let later = || [Step::Sleep { millis: 600 }, Step::Tick];
    steps.extend([Step::Fsync].into_iter().chain(later()).chain(later()));
    let world = World::run(&setup, image, &Workload(steps), Looking::Seldom).unwrap();
    let killed = world.host().kill();
    let (unmounted, mut eras) = world.finish().unwrap();
    let history = eras.pop().unwrap().history;
    [killed, unmounted].map(|left| Disks {
        setup: setup.clone(),
        left,
        history: history.clone(),
        floor: history.last(),
    })
}

impl Disks {
    fn with_rot(&self, file: Option<&str>, at: u64, mask: u8) -> Disks {
        let mut left = self.left.clone();
        match file {
            None => left.image.flip(at, mask),
            Some(name) => left.files.get_mut(name).unwrap().flip(at, mask),
        }
        Disks {
            setup: self.setup.clone(),
            left,
            history: self.history.clone(),
            floor: self.floor,
        }
    }
}

/// Whether the trees differ in nothing but this bit of one file's contents.
fn only_in_contents(wanted: &Tree, found: &Tree, at: u64, mask: u8, block_size: u64) -> bool {
    let mut bits = Vec::new();
    let same = wanted.names == found.names
        && (wanted.nodes.iter().zip(&found.nodes)).all(|(wanted, found)| {
            let mut other = (**found).clone();
            other.content = wanted.content.clone();
            let (was, is) = (wanted.content.to_vec(), found.content.to_vec());
            let differ = was.iter().zip(&is).zip(0..);
            bits.extend(differ.filter_map(|((a, b), n)| (a != b).then_some((n, a ^ b))));
            other == **wanted && was.len() == is.len()
        });
    same && matches!(bits[..], [(n, bits)] if bits == mask && n % block_size == at % block_size)
}

/// An error that says where the damage is.
fn names_it(what: &str) -> bool {
    let places = ["corrupt: ", "checksum of ", "record ", "block "];
    places.iter().any(|place| what.contains(place)) || what.contains("not an ext4 file system")
}

#[test]
fn rot_in_the_image_is_named_or_harmless_except_in_what_has_no_checksum() {
    let mut seen = BTreeMap::new();
    for seed in seeds(2) {
        let mut random = Random::new(!seed);
        for disks in sound(seed) {
            let size = u64::from(disks.setup.block_size);
            for block in 0..disks.left.image.len() / size {
                let mut bytes = vec![0; size as usize];
                disks.left.image.read(&mut bytes, block * size);
                // Most blocks have never been used.
                if bytes.iter().all(|b| *b == 0) && !random.one_in(50) {
                    continue;
                }
                let (at, mask) = (block * size + random.below(size), 1 << random.below(8));
                let came = match disks.with_rot(None, at, mask).show() {
                    Shown::Right => "harmless",
                    Shown::Refused(what) if names_it(&what) => "named",
                    Shown::Wrong(wanted, found)
                        if only_in_contents(&wanted, &found, at, mask, size) =>
                    {
                        "contents"
                    }
                    Shown::Refused(what) => {
                        panic!("seed {seed}, byte {at}, bits {mask:#x}: {what}")
                    }
                    Shown::Wrong(wanted, found) => panic!(
                        "seed {seed}, byte {at}, bits {mask:#x}: {}",
                        wanted.difference(&found).unwrap()
                    ),
                };
                *seen.entry(came).or_insert(0) += 1;
            }
        }
    }
    println!("{seen:?}");
    assert_eq!(seen.len(), 3);
}

#[test]
fn rot_in_the_journal_is_named_by_record_and_segment_or_harmless() {
    let (mut harmless, mut named) = (0, 0);
    for seed in seeds(2) {
        let mut random = Random::new(!seed);
        for disks in sound(seed) {
            for (name, pages) in &disks.left.files {
                for sector in 0..pages.len() / 512 {
                    if name.starts_with("spare") && !random.one_in(8) {
                        continue;
                    }
                    let at = sector * 512 + random.below(512);
                    let mask = 1 << random.below(8);
                    let shown = disks.with_rot(Some(name), at, mask).show();
                    let place = format!("seed {seed}, {name}, byte {at}, bits {mask:#x}");
                    match shown {
                        Shown::Right => harmless += 1,
                        Shown::Refused(what)
                            if name.ends_with(".store")
                                && what.contains("record ")
                                && what.contains(name.as_str()) =>
                        {
                            named += 1;
                        }
                        Shown::Refused(what) => panic!("{place}: {what}"),
                        Shown::Wrong(wanted, found) => {
                            panic!("{place}: {}", wanted.difference(&found).unwrap())
                        }
                    }
                }
            }
        }
    }
    println!("{harmless} harmless, {named} named");
    assert!(harmless > 100 && named > 10);
}

/// How often cuts of a run whose syncs lie are refused, and how often the
/// tree that they leave is none of the history.
fn lies(seed: u64, target: &Target, mut keep: impl FnMut(&Step) -> bool) -> (usize, usize) {
    let mut random = Random::new(seed);
    let setup = setup(&mut random);
    let image = system::format(&setup, &StillClock::new()).unwrap();
    let mut steps = Workload::random(random.bits(), 60, Mix::All, &Tree::root());
    steps.0.retain(|step| keep(step));
    let mut world = World::new(&setup, image, Looking::Seldom).unwrap();
    let lie = Fault::new(Call::Sync, Effect::Lie).on(target.clone());
    world.host().faults().arm(lie);
    for (number, step) in steps.0.iter().enumerate() {
        world.step(number, step).unwrap();
    }
    let trace = world.host().trace();
    let start = world.host().start();
    let history = world.finish().unwrap().1.pop().unwrap().history;
    let (mut refused, mut wrong) = (0, 0);
    for _ in 0..20 {
        let mut frontier = Frontier::new(&start);
        let at = random.below(trace.len() as u64 + 1) as usize;
        trace[..at].iter().for_each(|event| frontier.pass(event));
        let plan = Plan::random(frontier.pending(), random.bits());
        let disks = Disks {
            setup: setup.clone(),
            left: frontier.crash(&plan).0,
            history: history.clone(),
            floor: Lsn(0),
        };
        match disks.show() {
            Shown::Right => {}
            Shown::Refused(_) => refused += 1,
            Shown::Wrong(..) => wrong += 1,
        }
    }
    (refused, wrong)
}

#[test]
fn a_journal_whose_syncs_lie_is_refused_or_cut_while_nothing_has_gone_home() {
    let mut seen = (0, 0);
    for seed in seeds(6) {
        let stays = |step: &Step| !matches!(step, Step::Checkpoint | Step::Tick);
        let (refused, wrong) = lies(seed, &Target::Journal, stays);
        seen = (seen.0 + refused, seen.1 + wrong);
    }
    assert!(seen.0 > 10, "{} refused", seen.0);
    assert_eq!(seen.1, 0);
}

#[test]
fn most_of_what_a_lying_disk_loses_is_noticed() {
    for target in [Target::Store, Target::Folder, Target::Image, Target::Any] {
        let (mut cuts, mut refused, mut wrong) = (0, 0, 0);
        for seed in seeds(10) {
            let (more, worse) = lies(seed, &target, |_| true);
            (cuts, refused, wrong) = (cuts + 20, refused + more, wrong + worse);
        }
        println!("syncs of {target:?} lie: {refused} of {cuts} refused, {wrong} wrong");
        assert!(wrong * 20 <= cuts, "{target:?}: {wrong} of {cuts}");
    }
}

//! The switch against the simulation.

use super::super::crash::Frontier;
use super::super::memory::{MemoryDir, MemoryDisk, Pages};
use super::super::volatile::{Host, Snapshot};
use super::*;
use std::collections::BTreeMap;

/// A simulated host and a switch over memory disks, doing the same.
struct Pair {
    host: Arc<Host>,
    below: (Arc<MemoryDisk>, Arc<MemoryDir>),
    switch: Arc<PowerCut>,
    random: fastrand::Rng,
}

impl Pair {
    fn seeded(seed: u64) -> Self {
        let image = Pages::from_bytes(&[1; 20_000]);
        let files = BTreeMap::from([("a".to_owned(), Pages::from_bytes(&[2; 9000]))]);
        let below = (
            Arc::new(MemoryDisk::from_pages(image.clone())),
            Arc::new(MemoryDir::from_files(files.clone())),
        );
        let scratch = Arc::new(MemoryDisk::default());
        Pair {
            switch: PowerCut::over(below.0.clone(), below.1.clone(), |_| true, scratch).unwrap(),
            below,
            host: Host::new(Snapshot { image, files }),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn step(&mut self) {
        let (choice, name) = (self.random.u8(..13), self.name());
        let (offset, len) = (self.random.u64(..9000), self.random.usize(1..6000));
        let (other, byte) = (self.name(), self.random.u8(..));
        let act = |image: Arc<dyn Disk>, folder: Arc<dyn Dir>| -> Result<Vec<u8>, io::ErrorKind> {
            let act = || {
                match choice {
                    0..=2 => image.write_at(&vec![byte; len], offset)?,
                    3 => image.sync()?,
                    4 => drop(folder.create(&name)?),
                    5 => folder.rename(&name, &other)?,
                    6 => folder.remove(&name)?,
                    7 => folder.sync()?,
                    8 => folder.open(&name)?.sync()?,
                    9 => folder.open(&name)?.set_len(offset)?,
                    _ => folder.open(&name)?.write_at(&vec![byte; len], offset)?,
                }
                let seen = folder.open(&other)?;
                let mut bytes = vec![0; seen.len()? as usize];
                seen.read_at(&mut bytes, 0)?;
                Ok(bytes)
            };
            act().map_err(|e: io::Error| e.kind())
        };
        let simulated = act(self.host.image(), self.host.folder());
        let live = act(self.switch.image(), self.switch.folder());
        assert_eq!(simulated, live, "step {choice} of {name}, {other}");
    }

    fn name(&mut self) -> String {
        (*self.random.choice(&["a", "b", "c"]).unwrap()).to_owned()
    }

    fn assert_left(&self, wanted: &Snapshot) {
        let bytes = |files: &BTreeMap<String, Pages>| -> Vec<(String, Vec<u8>)> {
            let files = files.iter();
            files
                .map(|(name, pages)| (name.clone(), pages.to_vec()))
                .collect()
        };
        assert!(
            wanted.image.to_vec() == self.below.0.pages().to_vec(),
            "the image"
        );
        assert_eq!(bytes(&wanted.files), bytes(&self.below.1.files()));
    }
}

#[test]
fn a_cut_leaves_what_the_simulated_one_leaves() {
    for seed in 0..200 {
        let mut pair = Pair::seeded(seed);
        let steps = pair.random.usize(..40);
        (0..steps).for_each(|_| pair.step());
        let mut frontier = Frontier::new(&pair.host.start());
        pair.host
            .trace()
            .iter()
            .for_each(|event| frontier.pass(event));
        let plan = Plan::random(frontier.pending(), seed);
        assert!(pair.switch.off());
        pair.switch
            .cut(|pending| {
                assert_eq!(pending.len(), frontier.pending().len(), "seed {seed}");
                plan.clone()
            })
            .unwrap();
        pair.assert_left(&frontier.crash(&plan).0);
    }
}

#[test]
fn without_power_everything_fails() {
    let pair = Pair::seeded(1);
    let (image, folder) = (pair.switch.image(), pair.switch.folder());
    assert!(pair.switch.off());
    assert!(!pair.switch.off());
    assert!(image.read_at(&mut [0], 0).is_err() && image.sync().is_err());
    assert!(folder.list().is_err() && folder.create("x").is_err());
}

#[test]
fn faults_are_met_here_too() {
    let pair = Pair::seeded(1);
    let image = pair.switch.image();
    let arm = |fault: &str| pair.switch.faults().arm(fault.parse().unwrap());
    // A sync that fails and forgets: seen, but never stable.
    image.write_at(&[7; 512], 0).unwrap();
    arm("sync@image:eio,times=1,forget");
    assert!(image.sync().is_err());
    image.write_at(&[8; 512], 512).unwrap();
    image.sync().unwrap();
    let mut seen = [0; 1024];
    image.read_at(&mut seen, 0).unwrap();
    assert_eq!((seen[0], seen[512]), (7, 8));
    // A sync that lies, a short write, rot.
    arm("sync@image:lie,times=1");
    image.write_at(&[9; 512], 1024).unwrap();
    image.sync().unwrap();
    arm("write@image:enospc,part=100,times=1");
    assert!(image.write_at(&[10; 512], 2048).is_err());
    image.read_at(&mut seen, 2048).unwrap();
    assert_eq!((seen[99], seen[100]), (10, 1));
    arm("read@image:rot,at=8192-8193,bit=1,times=1");
    image.read_at(&mut seen[..1], 8192).unwrap();
    assert_eq!(seen[0], 1 ^ 2);
    pair.switch.off();
    pair.switch.cut(|_| Plan::default()).unwrap();
    let left = pair.below.0.pages().to_vec();
    assert_eq!((left[0], left[512], left[1024], left[8192]), (1, 8, 1, 3));
}

#[test]
fn settled_disks_hold_what_a_process_saw() {
    for seed in 0..50 {
        let mut pair = Pair::seeded(seed);
        (0..30).for_each(|_| pair.step());
        pair.switch.settle().unwrap();
        pair.assert_left(&pair.host.kill());
    }
}

//! The file system against the model, step by step and without any cut:
//! results and trees are equal after every step, and e2fsck agrees.

use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::shrink::shrink_steps;
use journalfs::sim::system::{Setup, format};
use journalfs::sim::world::{Looking, World};
use journalfs::sim::{Failure, Mix, Tree, Workload};

use super::seeds;
use crate::support::e2fsck;
use crate::support::images::{Image, VARIANTS, pages_of};

/// Runs a workload; what is left of the image must please e2fsck.
fn lockstep(setup: &Setup, image: &Pages, workload: &Workload) -> Result<usize, String> {
    let world = World::run(setup, image.clone(), workload, Looking::Always)?;
    let full = world.full;
    let (left, _) = world.finish()?;
    let file = Image::blank(0);
    file.write_back(&MemoryDisk::from_pages(left.image));
    let judgement = e2fsck::judge(file.path());
    match judgement.is_clean() {
        true => Ok(full),
        false => Err(format!("e2fsck is not content: {judgement:?}")),
    }
}

/// Fails with the shortest list of steps that still fails.
fn assert_lockstep(seed: u64, setup: &Setup, image: &Pages, workload: &Workload) -> usize {
    let attempt = |workload: &Workload| {
        let run = || lockstep(setup, image, workload);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err("panicked".into()))
    };
    attempt(workload).unwrap_or_else(|what| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let fails = |steps: &Workload| attempt(steps).err().map(Failure::Run);
        let (steps, failure) = shrink_steps(workload, Failure::Run(what), deadline, &fails);
        panic!("seed {seed}, {setup:?}: {failure}\n{steps}");
    })
}

#[test]
fn file_system_and_model_agree_after_every_step() {
    let mut full = 0;
    for seed in seeds(12) {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let setup = Setup::random(&mut random);
        let image = format(&setup, &StillClock::new()).unwrap();
        let mix = *random.pick(&[Mix::All, Mix::Names, Mix::Contents]);
        let workload = Workload::random(random.bits(), 200, mix, &Tree::root());
        full += assert_lockstep(seed, &setup, &image, &workload);
    }
    println!("{full} steps found the image full");
}

#[test]
fn file_system_and_model_agree_on_images_that_mkfs_ext4_made() {
    // The model knows neither inodes that round times to seconds nor files
    // that cannot have space set aside.
    let fine = VARIANTS
        .iter()
        .filter(|variant| !["128-byte-inodes", "ext3", "block-mapped"].contains(&variant.name));
    for variant in fine {
        for seed in seeds(2) {
            println!("{}, seed {seed}", variant.name);
            let mut random = Random::new(seed);
            let setup = Setup {
                segments: 8,
                ..Setup::random(&mut random)
            };
            let image = pages_of(variant.make(8 << 20).path());
            let workload = Workload::random(random.bits(), 150, Mix::Sessions, &Tree::root());
            assert_lockstep(seed, &setup, &image, &workload);
        }
    }
}

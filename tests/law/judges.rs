//! After a cut and a recovery, the foreign judges: e2fsck finds nothing, and
//! the kernel shows the model's tree.

use journalfs::device::crash::{Frontier, Plan};
use journalfs::device::memory::MemoryDisk;
use journalfs::device::volatile::Host;
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::{Round, system};

use super::{foreign, seeds};
use crate::support::images::Image;

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
            foreign::judge(file.path(), wanted);
        }
    }
}

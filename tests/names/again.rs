//! A record suffices to do its operation again: the records of one image,
//! done on another, make the same tree, times included.

use std::sync::Arc;

use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::device::volatile::Host;
use journalfs::fs::Access;
use journalfs::journal::record::{Operation, Record};
use journalfs::log::Survey;
use journalfs::sim::clock::StillClock;
use journalfs::sim::cut::{Again, Outcome, Part};
use journalfs::sim::step::Step;
use journalfs::sim::system::{Setup, format};
use journalfs::sim::walk::walk;
use journalfs::sim::world::{Looking, World as Run};
use journalfs::sim::{Mix, Tree, Workload};
use journalfs::units::{Clock, Lsn};

use crate::support::images::Image;
use crate::world::World;

fn over(image: Pages, clock: Arc<dyn Clock>) -> World {
    let disk = Arc::new(MemoryDisk::from_pages(image));
    World::at_time(Image::blank(0), disk, Access::Kernel, clock)
}

#[test]
fn records_done_again_make_the_same_tree() {
    for seed in 1..8 {
        let setup = Setup {
            size: 8 << 20,
            block_size: if seed % 2 == 0 { 4096 } else { 1024 },
            // Room for everything: nothing is recycled.
            segment_size: 8 << 20,
            segments: 8,
            atime: journalfs::fs::Atime::Noatime,
            discard: false,
            seed,
        };
        let fresh = format(&setup, &StillClock::new()).unwrap();
        let mix = [Mix::All, Mix::Names, Mix::Contents][seed as usize % 3];
        let mut workload = Workload::random(seed, 400, mix, &Tree::root());
        workload
            .0
            .retain(|step| !matches!(step, Step::Remount | Step::Kill | Step::Cut { .. }));
        let world = Run::run(&setup, fresh.clone(), &workload, Looking::Seldom).unwrap();
        let (left, _) = world.finish().unwrap();

        let mut here = None;
        let mut again = Again::on(|clock| {
            let world = here.insert(over(fresh, clock));
            Ok::<_, std::convert::Infallible>(world.fs.clone())
        })
        .unwrap();
        let host = Host::new(left.clone());
        let survey = Survey::read(host.folder()).unwrap();
        assert_eq!(survey.first(), Some(Lsn(1)));
        let mut count = 0;
        for frame in survey.frames(Lsn(1)) {
            let frame = frame.unwrap();
            if frame.kind != journalfs::log::Kind::Record {
                continue;
            }
            let Ok(Record::Operation(Operation { op, .. })) = Record::decode(&frame.meta) else {
                continue;
            };
            let mut data = vec![0; frame.data.as_ref().map_or(0, |place| place.len())];
            if let Some(place) = &frame.data {
                place.read(0, &mut data).unwrap();
            }
            match again.apply(&op, &data, &Part::Whole) {
                // (What had lost its last name was written to while open.)
                Ok(Outcome::Done | Outcome::Unreachable) => {}
                other => panic!("seed {seed}: {op:?} again: {other:?}"),
            }
            count += 1;
        }
        assert!(count > 100, "{count} operations");
        let (theirs, ours) = (
            walk(&over(left.image, StillClock::new()).fs).unwrap(),
            walk(again.fs()).unwrap(),
        );
        assert_eq!(theirs.difference(&ours), None, "seed {seed}");
    }
}

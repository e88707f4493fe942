//! The image after any record that can be reached, from image and log.

use super::*;
use crate::journal::recover::gone_home;
use crate::log::Survey;

/// What can be seen of the past of these files.
struct Then {
    ground: Ground,
    survey: Arc<Survey>,
    reach: Lsn,
}

fn look_back(snapshot: &Snapshot) -> Then {
    let host = Host::new(snapshot.clone());
    let unrecovered = Journal::open(host.folder()).unwrap();
    let base = unrecovered.base().unwrap();
    Then {
        ground: Ground {
            image: host.image(),
            from: base.through,
            through: unrecovered.reach(),
            pinned: Some((PINNED, base.pinned.clone())),
        },
        reach: unrecovered.reach(),
        survey: Arc::new(unrecovered.into_survey()),
    }
}

impl Then {
    fn at(&self, at: Lsn) -> Result<Past> {
        Past::new(
            self.ground.clone(),
            self.survey.clone(),
            SIZE,
            at,
            &|_, _| None,
        )
    }

    /// Compares each point from `reach` on with the model; answers how many.
    fn assert_all(&self, world: &World, what: &str) -> u64 {
        let last = self.survey.last();
        for at in (self.reach.0..=last.0).map(Lsn) {
            let past = self.at(at).unwrap_or_else(|e| panic!("{what}: {at}: {e}"));
            assert_shows(&past, world.state_at(at), &format!("{what}, record {at}"));
        }
        last.0 - self.reach.0
    }
}

fn assert_shows(past: &Past, model: &Model, what: &str) {
    let mut whole = vec![0; BLOCKS as usize * SIZE];
    past.read_at(&mut whole, 0)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    for (block, bytes) in model {
        let at = block.0 as usize * SIZE;
        let differs = bytes
            .as_ref()
            .is_some_and(|b| whole[at..at + SIZE] != b[..]);
        assert!(!differs, "{what}: block {block} differs");
    }
}

#[test]
fn every_point_since_the_last_checkpoint_can_be_seen() {
    for seed in 0..40 {
        let mut world = World::seeded(seed);
        world.run(60);
        world.checkpoint();
        world.run(20);
        world.sync();
        let then = look_back(&world.host.kill());
        then.assert_all(&world, &format!("seed {seed}"));
    }
}

#[test]
fn a_checkpoint_cut_off_leaves_no_mixture_behind() {
    let mut points = 0;
    for seed in 0..12 {
        let mut world = World::seeded(seed);
        world.run(60);
        world.sync();
        let mut frontier = Frontier::new(&world.host.start());
        for (at, event) in world.host.trace().iter().enumerate() {
            let (snapshot, _) = frontier.crash(&Plan::random(frontier.pending(), seed ^ at as u64));
            let opened = Journal::open(Host::new(snapshot.clone()).folder()).unwrap();
            if at % 7 == 0 && opened.base().is_some() {
                points +=
                    look_back(&snapshot).assert_all(&world, &format!("seed {seed}, event {at}"));
            }
            frontier.pass(event);
        }
    }
    assert!(points > 1000, "only {points} points were looked at");
}

#[test]
fn a_segments_stored_index_serves_as_well_as_its_records() {
    let mut world = World::seeded(3);
    world.run(100);
    let then = look_back(&world.host.kill());
    let last = then.survey.last();
    let stored = |base: Lsn, salt: u64| {
        let frames = then.survey.frames(base);
        let frames = frames.take_while(|frame| {
            let segments = then.survey.segments().iter();
            let end = segments.map(|s| s.base).find(|next| *next > base);
            end.is_none_or(|end| frame.as_ref().unwrap().lsn < end)
        });
        let index = BlockIndex::of(base, salt, frames).unwrap();
        Some(BlockIndex::decode(&index.encode()).unwrap())
    };
    let past = Past::new(
        then.ground.clone(),
        then.survey.clone(),
        SIZE,
        last,
        &stored,
    )
    .unwrap();
    assert_shows(&past, world.state_at(last), "with stored indexes");
    assert!(past.touched().count() > 0);
}

#[test]
fn what_went_home_is_known_also_past_a_damaged_record() {
    let mut world = World::seeded(4);
    world.run(20);
    let spoilt = world.step();
    let meta = world.journal.log().unwrap().read(spoilt).unwrap().meta;
    let home = world.step();
    world.checkpoint();
    world.sync();
    let mut snapshot = world.host.kill();
    for pages in snapshot.files.values_mut() {
        let raw = pages.to_vec();
        if let Some(at) = raw.windows(meta.len()).position(|bytes| bytes == &meta[..]) {
            pages.flip(at as u64, 1);
        }
    }
    let folder = Host::new(snapshot).folder();
    assert!(Survey::read(folder.clone()).unwrap().frame(spoilt).is_err());
    let beyond = Survey::beyond(folder).unwrap();
    assert!(gone_home(&beyond) >= home, "{}", gone_home(&beyond));
}

#[test]
fn a_damaged_record_is_an_error_and_nothing_else() {
    let mut world = World::seeded(5);
    world.checkpoint();
    let from = world.step();
    for _ in 0..30 {
        world.step();
    }
    world.sync();
    let last = world.journal.watermarks().appended;
    let mut snapshot = world.host.kill();
    let meta = world.journal.log().unwrap().read(from).unwrap().meta;
    let mut damaged = 0;
    for pages in snapshot.files.values_mut() {
        let raw = pages.to_vec();
        if let Some(at) = raw.windows(meta.len()).position(|bytes| bytes == meta) {
            pages.flip(at as u64, 0xFF);
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    let then = look_back(&snapshot);
    assert!(then.at(last).is_err() && then.at(from).is_err());
}

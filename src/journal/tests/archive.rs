//! Whatever happens, the archive and the journal together have every record
//! since the oldest base.

use std::io;
use std::time::Duration;

use super::*;
use crate::device::Dir;
use crate::device::memory::MemoryDir;
use crate::journal::archive::{Archive, Limits, Reach, reaches};
use crate::log::{self, Survey};

const MINE: &str = "archive-";

/// One folder of a host as two: names with the archive's prefix, or all others.
struct Half {
    dir: Arc<dyn Dir>,
    archive: bool,
}

impl Half {
    fn of(host: &Arc<Host>, archive: bool) -> Arc<dyn Dir> {
        let dir = host.folder();
        Arc::new(Half { dir, archive })
    }
    fn name(&self, name: &str) -> String {
        match self.archive {
            true => format!("{MINE}{name}"),
            false => name.to_owned(),
        }
    }
}

impl Dir for Half {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = self.dir.list()?.into_iter();
        Ok(match self.archive {
            true => names
                .filter_map(|n| Some(n.strip_prefix(MINE)?.to_owned()))
                .collect(),
            false => names.filter(|n| !n.starts_with(MINE)).collect(),
        })
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.dir.open(&self.name(name))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.dir.create(&self.name(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(&self.name(from), &self.name(to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(&self.name(name))
    }
    fn sync(&self) -> io::Result<()> {
        self.dir.sync()
    }
}

fn opened(dir: Arc<dyn Dir>) -> Archive {
    Archive::open(dir, Some([7; 16]), Limits::default()).unwrap()
}

fn archiving(seed: u64, dir: Arc<dyn Dir>) -> Options {
    Options {
        archive: Some(Arc::new(opened(dir))),
        ..options(seed)
    }
}

/// A world whose journal archives, with a base from its beginning.
fn world(seed: u64) -> (World, Arc<dyn Dir>) {
    let host = empty_host();
    let dir = Half::of(&host, true);
    let unrecovered = Journal::open(Half::of(&host, false)).unwrap();
    let options = archiving(seed + 1, dir.clone());
    let journal = unrecovered.begin_anew(host.image(), options).unwrap();
    journal.begin_session(session(1), &[1; SIZE], &[]).unwrap();
    journal.tick_archive(Time::default());
    let mut world = World::seeded(seed);
    (world.host, world.journal) = (host, journal);
    world.durable = vec![(world.host.events(), world.journal.watermarks().durable)];
    (world, dir)
}

/// What can be reached, by the files alone.
fn reach(archive: &Arc<dyn Dir>, journal: &dyn Dir) -> Vec<Reach> {
    let archive = opened(archive.clone());
    let mut segments = archive.segments();
    segments.extend(log::found(journal).unwrap());
    reaches(&archive.bases(), &segments)
}

#[test]
fn every_record_since_the_base_is_kept_although_the_journal_forgets() {
    let (mut world, dir) = world(3);
    world.run(2000);
    world.sync();
    let journal = Half::of(&world.host, false);
    let kept = Survey::read(journal.clone()).unwrap();
    assert!(kept.first() > Some(Lsn(1)), "the journal has forgotten");
    let kept = log::found(&*journal).unwrap();
    let all = Survey::read(opened(dir.clone()).with_journal(journal.clone(), &kept)).unwrap();
    assert_eq!(all.first(), Some(Lsn(1)));
    for (n, frame) in all.frames(Lsn(1)).enumerate() {
        assert_eq!(frame.unwrap().lsn, Lsn(n as u64 + 1));
    }
    let reach = reach(&dir, &*journal);
    assert_eq!((reach[0].from, reach[0].to), (Lsn(0), all.last()));
}

#[test]
fn a_power_cut_amid_archiving_loses_no_record() {
    let (mut world, dir) = world(5);
    world.run(600);
    assert!(!opened(dir).segments().is_empty());
    let mut frontier = Frontier::new(&world.host.start());
    for (at, event) in world.host.trace().iter().enumerate() {
        let durable = world.durable.iter().take_while(|(event, _)| *event <= at);
        if at % 13 == 0
            && let Some((begun, durable)) = durable.last()
            && *begun > world.durable[0].0
        {
            let (snapshot, _) = frontier.crash(&Plan::random(frontier.pending(), at as u64));
            let host = Host::new(snapshot);
            let reach = reach(&Half::of(&host, true), &*Half::of(&host, false));
            let to = reach[0].to;
            assert!(
                reach[0].from == Lsn(0) && to >= *durable,
                "event {at}: {to} < {durable}"
            );
        }
        frontier.pass(event);
    }
}

#[test]
fn a_base_of_an_image_in_use_reaches_from_what_it_may_have_on() {
    let (mut world, dir) = world(8);
    world.run(900);
    let archive = world.journal.0.options.archive.clone().unwrap();
    // As if a checkpoint had begun while it was copied.
    archive.note_installing(world.journal.watermarks().appended);
    let at = (world.journal.watermarks().installed, Epoch(1));
    archive
        .take_base(&*world.host.image(), at, None, &Time::default)
        .unwrap();
    world.run(50);
    let reach = reach(&dir, &*Half::of(&world.host, false));
    assert_eq!(reach.len(), 2);
    assert_eq!(reach[1].base.from, at.0);
    assert!(reach[1].from > at.0 && reach[1].to > reach[1].from);
}

#[test]
fn pruning_leaves_every_state_of_the_bases_that_stay() {
    let (mut world, dir) = world(9);
    for _ in 0..3 {
        world.run(1200);
        world.checkpoint();
        let archive = world.journal.0.options.archive.clone().unwrap();
        let at = (world.journal.watermarks().installed, Epoch(1));
        archive
            .take_base(&*world.host.image(), at, Some(&[1; SIZE]), &Time::default)
            .unwrap();
    }
    let journal = Half::of(&world.host, false);
    let before = reach(&dir, &*journal);
    let archive = opened(dir.clone());
    let files = dir.list().unwrap().len();
    let limits = Limits {
        size: Some(archive.bases()[3].bytes + (64 << 10) * 12),
        ..Limits::default()
    };
    assert!(archive.prune(limits, Time::default()).unwrap() > 3);
    assert!(dir.list().unwrap().len() < files);
    let after = reach(&dir, &*journal);
    assert!(!after.is_empty() && after.len() < before.len());
    assert!(before.ends_with(&after));
    assert_eq!(archive.prune(limits, Time::default()).unwrap(), 0);
}

#[test]
fn pruning_by_age_leaves_what_the_oldest_state_within_it_needs() {
    let (mut world, dir) = world(11);
    let secs = |secs| Time { secs, nanos: 0 };
    for n in 1..4 {
        world.run(1200);
        world.checkpoint();
        let archive = world.journal.0.options.archive.clone().unwrap();
        let at = (world.journal.watermarks().installed, Epoch(1));
        archive
            .take_base(&*world.host.image(), at, Some(&[1; SIZE]), &|| {
                secs(n * 100)
            })
            .unwrap();
    }
    let journal = Half::of(&world.host, false);
    // (The number of a timeline is that of the oldest opening there is.)
    let reached = || -> Vec<(Lsn, Lsn)> {
        let all = reach(&dir, &*journal).into_iter();
        all.map(|reach| (reach.from, reach.to)).collect()
    };
    let before = reached();
    let age = |age| Limits {
        age: Some(Duration::from_secs(age)),
        ..Limits::default()
    };
    let archive = opened(dir.clone());
    // All up to 150 seconds is to be reached: the base of 100 has to stay.
    assert!(archive.prune(age(250), secs(400)).unwrap() > 1);
    let times = |archive: &Archive| -> Vec<i64> {
        let bases = archive.bases().into_iter();
        bases.map(|base| base.time.unwrap().secs).collect()
    };
    assert_eq!(times(&archive), [100, 200, 300]);
    assert_eq!(reached(), before[1..]);
    assert_eq!(archive.prune(age(250), secs(400)).unwrap(), 0);
    // Never the last one, however old.
    archive.prune(age(1), secs(10_000)).unwrap();
    assert_eq!(times(&archive), [300]);
    assert_eq!(reached(), before[3..]);
    assert_eq!(times(&opened(dir.clone())), [300]);
}

#[test]
fn pruning_never_takes_the_last_states_that_can_be_made() {
    let (mut world, dir) = world(15);
    world.run(1200);
    world.checkpoint();
    let archive = world.journal.0.options.archive.clone().unwrap();
    let at = (world.journal.watermarks().installed, Epoch(1));
    let take = |pinned: Option<&[u8]>| {
        let (image, now) = (world.host.image(), &Time::default);
        archive.take_base(&*image, at, pinned, now).unwrap();
    };
    let restorable = || {
        let archive = opened(dir.clone());
        archive.restorable(&archive.bases(), &archive.segments(), None)
    };
    let before = restorable();
    assert!(before[0].to > Lsn(0) && before[0].to < at.0);
    let small = Limits {
        size: Some(1),
        ..Limits::default()
    };
    // Its records are not there yet, and it has not all of the image.
    take(None);
    assert_eq!(restorable(), before);
    assert_eq!(archive.prune(small, Time::default()).unwrap(), 0);
    assert_eq!(restorable(), before);
    take(Some(&[1; SIZE]));
    assert!(archive.prune(small, Time::default()).unwrap() > 3);
    let after = restorable();
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].from, after[0].to), (at.0, at.0));
}

/// Opens journal and image of a world that was killed.
fn go_on(world: &mut World, options: impl FnOnce(&Arc<Host>) -> Options) {
    let host = Host::new(world.host.kill());
    let options = options(&host);
    let unrecovered = Journal::open(Half::of(&host, false)).unwrap();
    world.journal = unrecovered.recover(host.image(), options).unwrap();
    world.host = host;
}

#[test]
fn what_a_journal_did_alone_is_archived_later_or_takes_another_base() {
    let mut caught_up = 0;
    for alone in [10, 100, 1500] {
        let (mut world, _) = world(17);
        world.run(700);
        go_on(&mut world, |_| options(51));
        world.run(alone);
        world.checkpoint();
        let unrecovered = Journal::open(Half::of(&Host::new(world.host.kill()), false)).unwrap();
        let left: Vec<u64> = (unrecovered.survey().retired())
            .map(|segment| segment.info().salt)
            .collect();
        go_on(&mut world, |host| archiving(52, Half::of(host, true)));
        let archived = opened(Half::of(&world.host, true)).segments();
        for salt in &left {
            assert!(archived.iter().any(|found| found.salt == *salt));
        }
        caught_up += left.len();
        world.journal.tick_archive(Time::default());
        world.run(700);
        world.sync();
        let (archive, journal) = (Half::of(&world.host, true), Half::of(&world.host, false));
        let reach = reach(&archive, &*journal);
        let durable = world.journal.watermarks().durable;
        let last = reach.last().unwrap();
        assert!(last.to >= durable, "{alone} records alone: {reach:?}");
        let (from, bases) = (last.from, reach.len());
        assert_eq!(from > Lsn(0), bases == 2, "{alone} records alone");
        assert!(alone < 1500 || bases == 2, "so many are gone");
    }
    assert!(caught_up > 0);
}

/// A folder that takes nothing for a while.
struct Moody {
    dir: Arc<MemoryDir>,
    full: AtomicBool,
}

impl Dir for Moody {
    fn list(&self) -> io::Result<Vec<String>> {
        self.dir.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.dir.open(name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.dir.create(name),
        }
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.dir.sync()
    }
}

#[test]
fn a_full_archive_holds_up_nobody_and_begins_again_with_a_base() {
    let moody = Arc::new(Moody {
        dir: Arc::default(),
        full: AtomicBool::new(true),
    });
    let dir: Arc<dyn Dir> = moody.clone();
    let mut world = World::with(11, archiving(12, dir.clone()));
    world.run(1500);
    let archive = world.journal.0.options.archive.clone().unwrap();
    assert!(archive.failing().unwrap().contains("space"), "it says why");
    assert!(archive.segments().is_empty());
    moody.full.store(false, Ordering::SeqCst);
    archive.wake();
    assert!(archive.wants_base(Time::default()));
    world.journal.tick_archive(Time::default());
    assert_eq!(archive.failing(), None);
    world.run(1500);
    let reach = reach(&dir, &*world.host.folder());
    assert_eq!(reach.len(), 1);
    assert!(reach[0].to >= world.journal.watermarks().durable);
}

#[test]
fn a_new_timeline_keeps_what_the_old_one_led_to() {
    let (mut world, dir) = world(13);
    world.run(700);
    world.sync();
    let last = world.journal.watermarks().durable;
    let host = Host::new(world.host.kill());
    let unrecovered = Journal::open(Half::of(&host, false)).unwrap();
    let dir_after = Half::of(&host, true);
    let options = archiving(99, dir_after.clone());
    let journal = unrecovered.begin_anew(host.image(), options).unwrap();
    journal.begin_session(session(2), &[2; SIZE], &[]).unwrap();
    journal.tick_archive(Time::default());
    let reach = reach(&dir_after, &*Half::of(&host, false));
    assert_eq!(reach.len(), 2, "{reach:?}");
    assert!(reach[0].to >= last && reach[0].timeline.end.is_some());
    assert!(reach[1].timeline.end.is_none() && reach[1].from >= reach[0].to);
    drop(dir);
}

#[test]
fn an_archive_of_another_image_is_refused() {
    let (world, dir) = world(14);
    assert!(Archive::open(dir.clone(), Some([8; 16]), Limits::default()).is_err());
    let manifest = dir.open("manifest.json").unwrap();
    // Without a manifest it is what its files say.
    manifest.write_at(b"nonsense", 0).unwrap();
    let archive = Archive::open(dir.clone(), Some([7; 16]), Limits::default()).unwrap();
    assert_eq!(archive.bases().len(), 1);
    assert_eq!(archive.bases()[0].time, None);
    drop(world);
}

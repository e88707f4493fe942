//! With an archive every state since its first base can be made, across
//! unmounts and crashes, and what differs between two of them can be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use journalfs::device::Dir;
use journalfs::device::memory::MemoryDir;
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::fs::Error;
use journalfs::fs::mount::{self, History as Archiving};
use journalfs::journal::archive::{Archive, Limits, Reach};
use journalfs::log::found;
use journalfs::past::{Change, Happened, Instant, Span, compare};
use journalfs::sim::clock::StillClock;
use journalfs::sim::drive::Driver;
use journalfs::sim::random::Random;
use journalfs::sim::system::{Setup, format};
use journalfs::sim::tree::Builder;
use journalfs::sim::walk::walk;
use journalfs::sim::{History, Mix, Model, Node, Step, Tree, Workload};
use journalfs::units::Lsn;

use super::seeds;
use super::states::{assert_restored, assert_restores, assert_shows, tree};

/// A file system whose history is archived, and the model's trees.
struct World {
    setup: Setup,
    clock: Arc<StillClock>,
    host: Arc<Host>,
    archive: Arc<MemoryDir>,
    mounted: Option<(mount::Mounted, Driver)>,
    openings: u64,
    model: Model,
    history: History,
}

impl World {
    fn new(random: &mut Random) -> World {
        let setup = Setup::random(random);
        let clock = StillClock::new();
        let image = format(&setup, &clock).unwrap();
        let archive = Arc::new(MemoryDir::default());
        let host = Host::new(Snapshot {
            image: image.clone(),
            ..Snapshot::default()
        });
        let mut world = World {
            setup,
            clock,
            host,
            archive,
            mounted: None,
            openings: 0,
            model: Model::of(&Tree::root()),
            history: History::default(),
        };
        world.mount();
        // The copy that a daemon takes of an image that has no history yet.
        let base = format!("base-{:020}-{:020}-{:010}.img", 0, 0, 1);
        let copy = world.archive.create(&base).unwrap();
        copy.write_at(&image.to_vec(), 0).unwrap();
        let fresh = walk(world.mounted.as_ref().unwrap().0.fs()).unwrap();
        world.model = Model::of(&fresh);
        world.history = History::starting(Lsn(0), Arc::new(fresh));
        world
    }

    fn options(&self) -> mount::Options {
        let seed = Random::new(self.setup.seed ^ self.openings).bits() | 1;
        let mut options = mount::Options {
            segment_size: Some(self.setup.segment_size),
            segments: Some(self.setup.segments),
            cache_size: 4 << 20,
            clock: self.clock.clone(),
            seed,
            history: Some(Archiving {
                left: None,
                dir: self.archive.clone(),
                limits: Limits::default(),
                held: Arc::new(()),
            }),
            ..mount::Options::default()
        };
        options.fs.atime = self.setup.atime;
        options
    }

    fn mount(&mut self) {
        self.openings += 1;
        let opened = mount::open(self.host.image(), self.host.folder(), self.options()).unwrap();
        let mounted = opened.mount().unwrap();
        let driver = Driver::new(mounted.fs().clone());
        self.mounted = Some((mounted, driver));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Sleep { millis } => drop(self.clock.advance(*millis)),
            Step::Remount => {
                let (mounted, mut driver) = self.mounted.take().unwrap();
                driver.close_all().unwrap();
                mounted.close().unwrap();
                self.mount();
                self.model.close_all();
            }
            Step::Kill | Step::Cut { .. } => {
                self.mounted = None;
                self.mount();
                self.model.close_all();
            }
            step => self.operate(step),
        }
    }

    fn operate(&mut self, step: &Step) {
        let now = self.clock.advance(1);
        let (_, driver) = self.mounted.as_mut().unwrap();
        let answer = match driver.step(step, now) {
            Ok(answer) => answer,
            // How much fits is not for the model to know.
            Err(Error::NoSpace) => return,
            Err(_) => {
                let _ = self.model.apply(step, now);
                return;
            }
        };
        let mut done = step.clone();
        if let (Step::Write { len, .. } | Step::Append { len, .. }, Some(wrote)) =
            (&mut done, answer.wrote)
        {
            *len = (*len).min(wrote as u32);
        }
        self.model.apply(&done, now).unwrap();
        if let Some(lsn) = answer.lsn {
            let tree = Arc::new(self.model.tree());
            self.history.push(lsn, step.verb(), tree);
        }
    }

    fn run(seed: u64) -> World {
        World::after(seed, 200)
    }

    fn after(seed: u64, steps: usize) -> World {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut world = World::new(&mut random);
        let mix = *random.pick(&[Mix::All, Mix::Names, Mix::Sessions]);
        let workload = Workload::random(random.bits(), steps, mix, &Tree::root());
        workload.0.iter().for_each(|step| world.step(step));
        world
    }

    /// What archive and journal can show, without the image.
    fn span(&self) -> Span {
        Span::of_archive(self.archive.clone(), self.host.folder(), None, None).unwrap()
    }
}

#[test]
fn with_an_archive_every_state_is_the_models() {
    let (mut states, mut archived) = (0, 0);
    for seed in seeds(6) {
        let world = World::run(seed);
        archived += world.archive.list().unwrap().len();
        let span = world.span();
        assert_eq!(span.oldest(), Some(Lsn(0)));
        for at in (0..=span.survey().last().0).map(Lsn) {
            let instant = span.at(at).unwrap();
            assert_shows(&instant, &world.history);
            if at.0 % 61 == 0 {
                assert_restores(&instant, &world.history);
            }
            states += 1;
        }
    }
    println!("{states} states, {archived} files archived");
    assert!(states > 500 && archived > 60, "{states}, {archived}");
}

/// Each with some other, too: what differs, applied to the one, gives the other.
#[test]
fn each_state_shown_restored_and_compared_is_the_models() {
    let (mut states, mut found) = (0, 0);
    for seed in seeds(8) {
        let world = World::after(seed, 100);
        let span = world.span();
        let last = span.survey().last().0;
        let mut random = Random::new(seed);
        for at in (0..=last).map(Lsn) {
            let one = span.at(at).unwrap();
            assert_shows(&one, &world.history);
            match at.0 % 17 {
                0 => assert_restores(&one, &world.history),
                _ => drop(assert_restored(&one, &world.history)),
            }
            let other = span.at(Lsn(random.below(last + 1))).unwrap();
            found += assert_differs(&span, &one, &other);
            states += 1;
        }
    }
    println!("{states} states, {found} changes");
    assert!(states > 400 && found > 3000, "{states}, {found}");
}

/// How many changes there are.
fn assert_differs(span: &Span, one: &Instant, other: &Instant) -> usize {
    let changes = compare(span, one, other).unwrap();
    let (before, after) = (tree(one), tree(other));
    let made = apply(&before, &after, &changes);
    if let Some(difference) = after.difference(&made) {
        panic!(
            "from {} to {}:\n{difference}\n{changes:#?}",
            one.at(),
            other.at()
        );
    }
    changes.len()
}

#[test]
fn what_differs_applied_to_the_one_gives_the_other() {
    let mut found = 0;
    for seed in seeds(6) {
        let world = World::run(seed);
        let span = world.span();
        let last = span.survey().last().0;
        let mut random = Random::new(seed);
        for _ in 0..20 {
            let (a, b) = (Lsn(random.below(last + 1)), Lsn(random.below(last + 1)));
            let (one, other) = (span.at(a).unwrap(), span.at(b).unwrap());
            found += assert_differs(&span, &one, &other);
            let none = compare(&span, &one, &one).unwrap();
            assert_eq!(none, []);
        }
    }
    assert!(found > 1000, "only {found} changes");
}

/// The nodes of both trees under one set of numbers: the other's come after.
struct Nodes<'t> {
    before: &'t Tree,
    after: &'t Tree,
    names: BTreeMap<Vec<u8>, usize>,
    changed: BTreeMap<usize, Arc<Node>>,
}

/// Does the changes; only what they name is taken from the other tree.
fn apply(before: &Tree, after: &Tree, changes: &[Change]) -> Tree {
    let mut nodes = Nodes {
        before,
        after,
        names: before.names.clone(),
        changed: BTreeMap::new(),
    };
    nodes.take_away(changes);
    nodes.put(changes);
    nodes.change(changes);
    nodes.tree()
}

/// Paths of changes begin with a slash, those of trees don't.
fn inside(path: &[u8]) -> Vec<u8> {
    path[1..].to_vec()
}

impl Nodes<'_> {
    /// Children before their directories; what is renamed waits under its new
    /// name, behind a byte that no path has.
    fn take_away(&mut self, changes: &[Change]) {
        let old = |change: &Change| change.from.clone().unwrap_or(change.path.clone());
        let mut order: Vec<&Change> = changes.iter().collect();
        order.sort_by_key(|change| std::cmp::Reverse(old(change).len()));
        for change in order {
            let path = inside(&old(change));
            match change.happened {
                Happened::Removed | Happened::Unlinked | Happened::Replaced => {
                    self.names.remove(&path).expect("it was there");
                }
                Happened::Renamed => {
                    let below = [path.as_slice(), b"/"].concat();
                    let moving: Vec<Vec<u8>> = (self.names.keys())
                        .filter(|name| **name == path || name.starts_with(&below))
                        .cloned()
                        .collect();
                    for name in moving {
                        let number = self.names.remove(&name).unwrap();
                        let waiting = [b"\0", change.path.as_slice(), &name[path.len()..]].concat();
                        self.names.insert(waiting, number);
                    }
                }
                Happened::Added | Happened::Linked | Happened::Changed => {}
            }
        }
    }

    fn put(&mut self, changes: &[Change]) {
        let waiting = |name: &Vec<u8>| name.starts_with(b"\0");
        let names = std::mem::take(&mut self.names);
        let names = names
            .into_iter()
            .map(|(name, number)| match waiting(&name) {
                true => (name[2..].to_vec(), number),
                false => (name, number),
            });
        self.names = names.collect();
        let news = [Happened::Added, Happened::Replaced];
        for change in changes
            .iter()
            .filter(|change| news.contains(&change.happened))
        {
            let path = inside(&change.path);
            let number = self.before.nodes.len() + self.after.names[&path];
            self.names.insert(path, number);
        }
        let linked = changes
            .iter()
            .filter(|change| change.happened == Happened::Linked);
        for change in linked {
            let path = inside(&change.path);
            let same = self.after.names[&path];
            let others = self
                .after
                .names
                .iter()
                .filter(|(_, number)| **number == same);
            let known = others.filter_map(|(name, _)| self.names.get(name)).next();
            let known = *known.expect("it has another name");
            self.names.insert(path, known);
        }
    }

    fn change(&mut self, changes: &[Change]) {
        for change in changes
            .iter()
            .filter(|change| change.happened == Happened::Changed)
        {
            let path = inside(&change.path);
            let node = self.after.nodes[self.after.names[&path]].clone();
            self.changed.insert(self.names[&path], node);
        }
    }

    fn tree(&self) -> Tree {
        let mut builder = Builder::default();
        let first = self.before.nodes.len();
        for (path, number) in &self.names {
            let node = || match self.changed.get(number) {
                Some(changed) => Ok::<_, ()>(changed.clone()),
                None if *number < first => Ok(self.before.nodes[*number].clone()),
                None => Ok(self.after.nodes[*number - first].clone()),
            };
            builder.name(path.clone(), *number, node).unwrap();
        }
        builder.finish()
    }
}

/// What `archive DIR list --journal` says that can be made.
fn promised(archive: &Arc<MemoryDir>, journal: &Arc<dyn Dir>) -> Vec<Reach> {
    let archive = Archive::open(archive.clone(), None, Limits::default()).unwrap();
    let kept = found(&**journal).unwrap();
    let (bases, mut segments) = archive.past_of(&kept);
    segments.extend(kept.iter().cloned());
    archive.restorable(&bases, &segments, Some((journal, &kept)))
}

/// Also if the missing segment is one with which an opening of the log begins.
#[test]
fn what_lies_before_a_missing_segment_can_be_made_and_nothing_behind() {
    let (mut made, mut refused) = (0, 0);
    for seed in seeds(6) {
        let world = World::run(seed);
        let last = world.span().survey().last();
        let names = world.archive.list().unwrap();
        for store in names.iter().filter(|name| name.ends_with(".store")) {
            let mut files = world.archive.files();
            files.remove(store).unwrap();
            let archive = Arc::new(MemoryDir::from_files(files));
            let journal: Arc<dyn Dir> = world.host.folder();
            let span = Span::of_archive(archive.clone(), journal.clone(), None, None).unwrap();
            let promises = promised(&archive, &journal);
            for at in (0..=last.0).step_by(7).map(Lsn) {
                let mut reaches = promises.iter();
                let promised = reaches.any(|reach| reach.from <= at && at <= reach.to);
                match span.at(at) {
                    Ok(instant) => {
                        assert!(promised, "{store}, record {at}");
                        assert_shows(&instant, &world.history);
                    }
                    Err(error) => assert!(!promised, "{store}, record {at}: {error}"),
                }
                made += usize::from(promised);
                refused += usize::from(!promised);
            }
        }
    }
    println!("{made} states made, {refused} refused");
    assert!(made > 100 && refused > 100, "{made}, {refused}");
}

#[test]
fn a_damaged_archive_gives_an_error_or_the_right_state() {
    let world = World::run(2);
    let last = world.span().survey().last();
    let names = world.archive.list().unwrap();
    let mut refused = 0;
    for (n, name) in names.iter().enumerate() {
        let mut files = world.archive.files();
        let pages = files.get_mut(name).unwrap();
        let len = pages.len();
        for at in (0..len).step_by((len / 40).max(1) as usize) {
            pages.flip(at + n as u64 % 40, 0x41);
        }
        let damaged = Arc::new(MemoryDir::from_files(files));
        let Ok(span) = Span::of_archive(damaged, world.host.folder(), None, None) else {
            refused += 1;
            continue;
        };
        for at in (0..=last.0).step_by(11).map(Lsn) {
            // A base has no checksums for file data; its own files are not
            // among those whose damage must be seen.
            match span.at(at) {
                Ok(_) if name.starts_with("base") => {}
                Ok(instant) => match instant
                    .fs(journalfs::fs::Access::Fakeroot)
                    .map(|fs| walk(&fs))
                {
                    Ok(Ok(found)) => {
                        let should = world.history.at(at).unwrap();
                        assert_eq!(should.difference(&found), None, "{name}, record {at}");
                    }
                    _ => refused += 1,
                },
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0, "no damage was seen");
}

//! Histories of the simulation, cut anywhere, looked at at every record.

use std::sync::Arc;

use journalfs::check;
use journalfs::device::crash::{Frontier, Plan};
use journalfs::device::memory::MemoryDisk;
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::fs::{Access, mount};
use journalfs::past::{Error, Instant, Span, restore};
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::system::{Setup, format};
use journalfs::sim::walk::walk;
use journalfs::sim::world::{Era, Looking, World};
use journalfs::sim::{History, Mix, Tree, Workload};
use journalfs::units::Lsn;

use super::seeds;
use crate::support::e2fsck;
use crate::support::images::Image;

/// The eras of a random run.
fn eras(seed: u64) -> Vec<Era> {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let setup = Setup::random(&mut random);
    let image = format(&setup, &StillClock::new()).unwrap();
    let workload = Workload::random(random.bits(), 150, Mix::All, &Tree::root());
    let world = World::run(&setup, image, &workload, Looking::Seldom).unwrap();
    world.finish().unwrap().1
}

/// What the power leaves when it goes, now and then.
fn cuts(era: &Era, seed: u64) -> Vec<Snapshot> {
    let every = (era.trace.len() / 6).max(1);
    let mut frontier = Frontier::new(&era.start);
    let mut left = Vec::new();
    for (at, event) in era.trace.iter().enumerate() {
        if at % every == every - 1 {
            let plan = Plan::random(frontier.pending(), seed ^ at as u64);
            left.push(frontier.crash(&plan).0);
        }
        frontier.pass(event);
    }
    left
}

fn span(left: &Snapshot) -> Option<Span> {
    let host = Host::new(left.clone());
    let options = mount::Options {
        fs: journalfs::fs::Options {
            read_only: true,
            ..Default::default()
        },
        ..mount::Options::default()
    };
    let opened = mount::open(host.image(), host.folder(), options).unwrap();
    match Span::of_image(opened.into_remains(), None) {
        Ok(span) => Some(span),
        Err(Error::NoHistory) => None, // cut before the first session
        Err(error) => panic!("{error}"),
    }
}

pub fn tree(instant: &Instant) -> Tree {
    walk(&instant.fs(Access::Fakeroot).unwrap()).unwrap()
}

pub fn assert_shows(instant: &Instant, history: &History) {
    let at = instant.at();
    let should = history.at(at).expect("the model knows all records");
    if let Some(difference) = should.difference(&tree(instant)) {
        panic!("record {at}:\n{difference}");
    }
}

/// Restores, and lets e2fsck look at it too.
pub fn assert_restores(instant: &Instant, history: &History) {
    let out = assert_restored(instant, history);
    let file = Image::blank(0);
    file.write_back(&*out);
    let judgement = e2fsck::judge(file.path());
    assert!(
        judgement.is_clean(),
        "record {}: {judgement:?}",
        instant.at()
    );
}

/// Restores: our own check and a mount find nothing wrong with it.
pub fn assert_restored(instant: &Instant, history: &History) -> Arc<MemoryDisk> {
    let out = Arc::new(MemoryDisk::default());
    restore(instant, out.clone(), &mut |_| {}).unwrap();
    let findings = check::run_image(&*out).findings;
    assert!(findings.is_empty(), "record {}: {findings:?}", instant.at());

    let host = Host::new(Snapshot {
        image: out.pages(),
        ..Snapshot::default()
    });
    let opened = mount::open(host.image(), host.folder(), mount::Options::default()).unwrap();
    let found = walk(opened.mount().unwrap().fs()).unwrap();
    let should = history.at(instant.at()).unwrap();
    assert_eq!(should.difference(&found), None);
    out
}

#[test]
fn every_state_within_reach_is_the_models() {
    let (mut states, mut restored) = (0, 0);
    for seed in seeds(24) {
        for era in eras(seed) {
            for left in cuts(&era, seed) {
                let Some(span) = span(&left) else { continue };
                let (oldest, last) = (span.oldest().unwrap(), span.survey().last());
                for at in (oldest.0..=last.0).map(Lsn) {
                    let instant = span.at(at).unwrap();
                    assert_shows(&instant, &era.history);
                    states += 1;
                    if states % 29 == 0 {
                        assert_restores(&instant, &era.history);
                        restored += 1;
                    }
                }
            }
        }
    }
    println!("{states} states, {restored} of them restored");
    assert!(
        states > 500 && restored > 10,
        "{states} states, {restored} restored"
    );
}

#[test]
fn what_lies_out_of_reach_is_refused_and_the_oldest_state_named() {
    let era = eras(3).pop().unwrap();
    let left = cuts(&era, 3).pop().unwrap();
    let span = span(&left).unwrap();
    let (oldest, last) = (span.oldest().unwrap(), span.survey().last());
    match span.at(oldest.prev()).err() {
        Some(Error::Gone { oldest: named, .. }) => assert_eq!(named, oldest),
        other => panic!("{other:?}"),
    }
    assert!(matches!(span.at(last.next()), Err(Error::Future { .. })));
}

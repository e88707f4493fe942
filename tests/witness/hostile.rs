//! Hostile bytes: the check must end, whatever it is given.

use std::time::{Duration, Instant};

use journalfs::check;
use journalfs::device::memory::{MemoryDisk, Pages};
use proptest::prelude::*;

use crate::patient::{PLAIN, Patient, SUMMED};
use crate::support::images::pages_of;

/// Changes to make: where (modulo the length), and to what.
fn changes() -> impl Strategy<Value = Vec<(u64, u8)>> {
    prop::collection::vec((0..2_000_000_u64, any::<u8>()), 1..40)
}

fn survives(good: &Pages, changes: &[(u64, u8)]) -> check::Report {
    let mut pages = good.clone();
    for &(at, byte) in changes {
        pages.write(&[byte], at % good.len());
    }
    let start = Instant::now();
    let report = check::run_image(&MemoryDisk::from_pages(pages));
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "the check took {:?}",
        start.elapsed()
    );
    serde_json::to_string(&report).expect("a report is JSON");
    report
}

fn run(good: &Pages, config: ProptestConfig) {
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&changes(), |changes| {
        survives(good, &changes);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn random_bytes_in_metadata_never_stop_the_check() {
    for variant in [SUMMED, PLAIN] {
        let Some(patient) = Patient::new(&variant) else {
            return;
        };
        run(&pages_of(patient.image.path()), config());
    }
}

#[test]
fn every_byte_of_the_superblock_may_be_anything() {
    let Some(patient) = Patient::new(&PLAIN) else {
        return;
    };
    let good = pages_of(patient.image.path());
    for at in 0..1024 {
        for byte in [0, 1, 0x7f, 0xff] {
            survives(&good, &[(1024 + at, byte)]);
        }
    }
}

#[test]
fn checksums_betray_nearly_every_change_of_metadata() {
    let Some(patient) = Patient::new(&SUMMED) else {
        return;
    };
    let good = pages_of(patient.image.path());
    let mut random = crate::support::random::Seeded::new("betrayed");
    // Inodes in use, and the blocks of a directory with an index.
    let table = patient.inode_at("<2>");
    let directory = patient.block_at("/indexed", 1);
    for start in [table, directory] {
        for _ in 0..200 {
            let at = start + random.u64(0..256);
            let mut byte = [0];
            good.read(&mut byte, at);
            let report = survives(&good, &[(at, byte[0] ^ 1 << random.u8(0..8))]);
            assert!(!report.is_clean(), "a change at {at} went unseen");
        }
    }
}

#[test]
fn an_image_of_noise_is_refused() {
    let mut random = crate::support::random::Seeded::new("noise");
    for _ in 0..50 {
        let mut noise = random.bytes(64 << 10);
        noise[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        let report = check::run_image(&MemoryDisk::from_pages(Pages::from_bytes(&noise)));
        assert_ne!(report.exit_code(), 0);
    }
}

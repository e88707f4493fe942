//! Against journals that debugfs 1.47 wrote into images of mke2fs, one of each
//! layout: `samples.txt`, rows of 16 bytes that aren't all zeros. All hold
//!
//! ```text
//!     1  3001 "first…", 3002 magic and "escaped…", 3003 "the third…"
//!     2  revokes 3001 and 3005 (not in `crc32`: the kernel does not sum
//!        revocations, as debugfs does)
//!     3  3004 "first…", 3002 as before
//!     4  3005, without a commit
//! ```

use std::collections::BTreeMap;

use super::*;

const BLOCK: usize = 1024;
/// More than the journals refer to.
const BLOCKS: u64 = 16384;

type Journal = Vec<Vec<u8>>;

fn samples() -> BTreeMap<&'static str, Journal> {
    let mut all = BTreeMap::new();
    let mut name = "";
    for line in include_str!("samples.txt").lines() {
        if let Some(next) = line.strip_prefix("= ") {
            name = next;
            all.insert(name, vec![vec![0; BLOCK]; 1024]);
            continue;
        }
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let block: usize = word().parse().unwrap();
        let at = usize::from_str_radix(word(), 16).unwrap();
        let bytes = u128::from_str_radix(word(), 16).unwrap().to_be_bytes();
        all.get_mut(name).unwrap()[block][at..at + 16].copy_from_slice(&bytes);
    }
    assert_eq!(all.len(), 6);
    all
}

fn sample(name: &str) -> Journal {
    samples().remove(name).unwrap()
}

fn scanned(journal: &Journal) -> Result<Replay, Corrupt> {
    let sb = Super::decode(&journal[0]).unwrap();
    scan(&sb, BLOCKS, |at, buf: &mut [u8]| {
        buf.copy_from_slice(&journal[at as usize]);
        Ok(())
    })
}

fn blocks(replay: &Replay) -> Vec<(u64, u32, bool)> {
    let one = |(block, source): (&BlockNo, &Source)| (block.0, source.at, source.escaped);
    replay.blocks.iter().map(one).collect()
}

#[test]
fn every_layout_is_read() {
    for (name, journal) in samples() {
        let replay = scanned(&journal).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (wanted, transactions) = match name {
            "crc32" => (
                vec![
                    (3001, 2, false),
                    (3002, 8, true),
                    (3003, 4, false),
                    (3004, 7, false),
                ],
                2,
            ),
            _ => (
                vec![(3002, 10, true), (3003, 4, false), (3004, 9, false)],
                3,
            ),
        };
        assert_eq!(blocks(&replay), wanted, "{name}");
        assert_eq!(replay.transactions, transactions, "{name}");
    }
}

#[test]
fn an_escaped_block_gets_its_first_bytes_back() {
    let (source, mut bytes) = (
        Source {
            at: 3,
            escaped: true,
        },
        sample("v3")[3].clone(),
    );
    source.restore(&mut bytes);
    assert_eq!(&bytes[..15], b"\xc0\x3b\x39\x98escaped one");
}

/// Its blocks moved on, so that the log begins near the journal's end.
fn wrapped(mut journal: Journal, by: usize) -> Journal {
    journal[1..].rotate_right(by);
    let start = (1 + by) as u32;
    journal[0][0x1C..0x20].copy_from_slice(&start.to_be_bytes());
    seal(&mut journal[0]);
    journal
}

fn seal(head: &mut [u8]) {
    if head[0x50] == CRC32C {
        let sum = sum_of_super(head);
        head[0xFC..0x100].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn a_log_wraps_anywhere() {
    for (name, journal) in samples() {
        let whole = scanned(&journal).unwrap();
        for by in 1009..1023 {
            let there = scanned(&wrapped(journal.clone(), by)).unwrap();
            assert_eq!(there.transactions, whole.transactions, "{name}");
            assert!(there.blocks.keys().eq(whole.blocks.keys()), "{name}");
        }
    }
}

#[test]
fn a_log_that_goes_round_and_round_is_read_once() {
    let mut journal = sample("v1");
    // Revocations of the same transaction, all over.
    let revocations = journal[6].clone();
    let mut first = revocations.clone();
    first[8..12].copy_from_slice(&1u32.to_be_bytes());
    journal[1..].fill(first);
    let sb = Super::decode(&journal[0]).unwrap();
    let mut reads = 0;
    let replay = scan(&sb, BLOCKS, |at, buf: &mut [u8]| -> Result<(), Corrupt> {
        reads += 1;
        buf.copy_from_slice(&journal[at as usize]);
        Ok(())
    });
    assert_eq!((replay.unwrap().transactions, reads), (0, 1023));
}

#[test]
fn a_transaction_is_whole_or_absent() {
    for (name, journal) in samples() {
        let commits: Vec<usize> = (1..16)
            .filter(|at| journal[*at][..8] == [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 2])
            .collect();
        for end in 1..16 {
            let mut cut = journal.clone();
            cut[end..].fill(vec![0; BLOCK]);
            let replay = scanned(&cut).unwrap();
            let whole = commits.iter().filter(|at| **at < end).count();
            assert_eq!(replay.transactions as usize, whole, "{name} cut at {end}");
        }
    }
}

/// What a scan says when a byte of a block has changed; `alone`: without the
/// unfinished transaction behind the last.
fn damaged(mut journal: Journal, alone: bool, block: usize, at: usize) -> Result<u32, Corrupt> {
    journal[block][at] ^= 0x40;
    if alone {
        journal[12..].fill(vec![0; BLOCK]);
    }
    scanned(&journal).map(|replay| replay.transactions)
}

#[test]
fn damage_is_told_from_what_a_power_cut_leaves() {
    for name in ["v2", "v2-64bit", "v3", "v3-64bit"] {
        let journal = sample(name);
        // The last commit may have been on its way to the disk; not so when
        // there is something behind it.
        for at in [0x34, 0x3FF] {
            let verdict = damaged(journal.clone(), true, 11, at);
            assert_eq!(verdict, Ok(2), "{name}");
            assert!(damaged(journal.clone(), false, 11, at).is_err(), "{name}");
        }
        // What stands in front of a commit was stable before it was written.
        let places = [
            (1, 0x0F),
            (2, 500),
            (4, 0),
            (6, 0x13),
            (8, 0x3FF),
            (9, 1),
            (5, 0x34),
        ];
        for (block, at) in places {
            let verdict = damaged(journal.clone(), true, block, at);
            let checksum = matches!(verdict, Err(Corrupt::Checksum { .. }));
            assert!(checksum, "{name}, block {block}: {verdict:?}");
        }
        // The transaction without a commit does not count.
        for (block, at) in [(12, 0x0F), (13, 0)] {
            let verdict = damaged(journal.clone(), false, block, at);
            assert_eq!(verdict, Ok(3), "{name}");
        }
    }
    for (block, at) in [(1, 0x0F), (3, 7), (5, 0x12), (7, 0)] {
        let verdict = damaged(sample("crc32"), true, block, at);
        assert!(verdict.is_err(), "block {block}");
    }
}

#[test]
fn commits_that_waited_for_nothing_may_be_torn() {
    let mut journal = sample("v3");
    journal[0][0x2B] |= feature::ASYNC_COMMIT as u8;
    seal(&mut journal[0]);
    assert_eq!(damaged(journal.clone(), true, 9, 100), Ok(2));
    assert!(damaged(journal.clone(), true, 2, 100).is_err(), "2 follows");
    assert!(damaged(journal, false, 9, 100).is_err(), "4 follows");
}

#[test]
fn blocks_outside_the_image_are_refused_if_they_count() {
    let outside = |block: usize| {
        let mut journal = sample("v1");
        journal[block][0xC] = 0x10;
        scanned(&journal)
    };
    assert!(matches!(outside(8), Err(Corrupt::BlockOutside { .. })));
    assert_eq!(outside(12).unwrap().transactions, 3);
}

#[test]
fn an_emptied_journal_is_a_valid_one_whose_past_is_over() {
    for (name, mut journal) in samples() {
        let sb = Super::decode(&journal[0]).unwrap();
        sb.empty(&mut journal[0]);
        let empty = Super::decode(&journal[0]).unwrap();
        assert!(empty.is_empty() && !sb.is_empty(), "{name}");
        assert_eq!(
            scanned(&journal),
            Ok(Replay {
                next: empty.sequence,
                ..Replay::default()
            })
        );
        assert_eq!(empty.sequence, 1026, "{name}");
    }
}

#[test]
fn numbers_wrap() {
    let mut journal = sample("v1");
    for block in &mut journal[1..14] {
        if be32(block, 0) == MAGIC {
            let sequence = be32(block, 8).wrapping_sub(3);
            block[8..12].copy_from_slice(&sequence.to_be_bytes());
        }
    }
    journal[0][0x18..0x1C].copy_from_slice(&(u32::MAX - 1).to_be_bytes());
    assert_eq!(scanned(&journal).unwrap().transactions, 3);
}

/// As the kernel wrote it: its head names transaction 3.
const FAST_COMMIT: [u8; 20] = [
    9, 0, 8, 0, 0, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0xA4, 0, 0x0D, 0, 0, 0,
];

#[test]
fn fast_commits_count_behind_their_transaction_alone() {
    let mut journal = sample("v3-64bit");
    journal[0][0x2B] |= feature::FAST_COMMIT as u8;
    journal[0][0x57] = 16;
    seal(&mut journal[0]);
    let sb = Super::decode(&journal[0]).unwrap();
    assert_eq!(sb.fast_commits(), Some(1009));
    let follow = |next: u32| {
        let replay = Replay {
            next,
            ..Replay::default()
        };
        replay.fast_commits_follow(&FAST_COMMIT)
    };
    assert!(follow(3) && !follow(4) && !follow(2));
    assert!(!Replay::default().fast_commits_follow(&[0; BLOCK]));
}

#[test]
fn heads_that_make_no_sense_are_refused() {
    let refused = |at: usize, value: u32| {
        let mut head = sample("v1")[0].clone();
        head[at..at + 4].copy_from_slice(&value.to_be_bytes());
        Super::decode(&head).unwrap_err()
    };
    for (at, value) in [
        (0, 0),
        (4, 2),
        (0xC, 0),
        (0xC, 1000),
        (0x14, 0),
        (0x14, 1024),
        (0x1C, 1024),
    ] {
        assert!(
            matches!(refused(at, value), Unusable::Corrupt(_)),
            "{at:#x}"
        );
    }
    assert!(matches!(refused(0x28, 0x40), Unusable::Unsupported(_)));
    assert!(matches!(refused(0x28, 0x18), Unusable::Corrupt(_)));
    let mut head = sample("v3")[0].clone();
    head[0x1F] = 2;
    assert!(Super::decode(&head).is_err(), "its checksum");
    assert!(Super::decode(&head[..100]).is_err());
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = fastrand::Rng::with_seed(4);
    for (_, journal) in samples() {
        for _ in 0..3000 {
            let mut journal = journal.clone();
            for _ in 0..random.usize(1..6) {
                let (block, at) = (random.usize(..14), random.usize(..0x70));
                journal[block][at] = random.u8(..);
            }
            seal(&mut journal[0]);
            let Ok(sb) = Super::decode(&journal[0]) else {
                continue;
            };
            // (Of another size, whoever reads it refuses it.)
            if sb.block_size as usize == BLOCK && sb.len as usize <= journal.len() {
                let _ = scanned(&journal);
            }
        }
    }
}

//! The fuzzers' corpus, done again without a fuzzer: what once led somewhere
//! new must go on ending well.

use std::fs;
use std::path::Path;
use std::time::Instant;

use journalfs::journal::Record;
use journalfs::journal::archive::MANIFEST;

use crate::archives::Kept;
use crate::forge::{Forge, What};
use crate::journals::{self, Left};
use crate::support::images::Variant;
use crate::targets::TARGETS;

#[test]
fn nothing_in_the_corpus_makes_a_target_panic_or_linger() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        let inputs = fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut count = 0;
        for input in inputs {
            let path = input.unwrap().path();
            eprintln!("{}", path.display()); // the last line, should it not end
            let begun = Instant::now();
            target(&fs::read(&path).unwrap());
            assert!(begun.elapsed() < super::PATIENCE, "{}", path.display());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}

/// A seed that is refused at once, for its version say, leads nowhere.
#[test]
fn seeds_of_records_are_records() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/record");
    for input in fs::read_dir(corpus).unwrap() {
        let path = input.unwrap().path();
        let record = Record::decode(&fs::read(&path).unwrap());
        assert!(record.is_ok(), "{}: {record:?}", path.display());
    }
}

/// Writes the seeds from which the corpus grew: one good piece of each kind.
/// `cargo test --test hostile seeds -- --ignored`
#[test]
#[ignore = "writes into the source tree"]
fn seeds_are_good_pieces_of_an_image() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    };
    let forge = Forge::of(&super::sample(&Variant::named("1k-blocks")));
    for piece in forge.pieces() {
        let (target, most) = match piece.what {
            What::Superblock => ("superblock", 1),
            What::Group(_) => ("group", 1),
            What::Inode(_) => ("inode", 12),
            What::Extents(_) => ("extent", 3),
            What::Leaf(_) => ("dirent", 3),
            What::Root(_) | What::Node(_) => ("htree", 2),
            What::Attributes(_) => ("xattr", 2),
            _ => continue,
        };
        let there = fs::read_dir(corpus.join(target)).map_or(0, Iterator::count);
        if there < most {
            let mut bytes = vec![0; piece.len];
            forge.pages.read(&mut bytes, piece.at);
            put(target, &format!("seed-{there}"), &bytes);
        }
    }
    let left = Left::killed("1k-blocks", true);
    for (name, pages) in &left.files {
        let bytes = pages.to_vec();
        for at in journals::frames(&bytes) {
            let record = &bytes[at + journals::FRAME..][..journals::meta_len(&bytes, at)];
            if let [_, kind, tag, ..] = record
                && name.ends_with(".store")
                && record.len() < 4000
            {
                // An operation's first byte says which; other bodies have no tag.
                let tag = if *kind == 1 { *tag } else { 0 };
                put("record", &format!("seed-{kind}-{tag}"), record);
            }
        }
    }
    let kept = Kept::sample();
    for (name, pages) in &kept.archive {
        if name.ends_with(".blocks") {
            put("blocks", "seed-0", &pages.to_vec());
        }
    }
    put("manifest", "seed-0", &kept.archive[MANIFEST].to_vec());
    for (n, at) in [0, 90, 1 << 9].into_iter().enumerate() {
        let [low, high] = u16::to_le_bytes(at);
        put(
            "archive",
            &format!("seed-{n}"),
            &[n as u8, 0, low, high, 5, 200],
        );
    }
    // Free, in use, reserved, and outside the tables.
    let numbers: [u32; 6] = [900, 12, 2, 20, 20, u32::MAX];
    for n in 1..=numbers.len() {
        let bytes: Vec<u8> = numbers[..n].iter().flat_map(|n| n.to_le_bytes()).collect();
        put("orphan", &format!("seed-{n}"), &bytes);
    }
    for (name, journal) in jbd2_samples() {
        put("jbd2", name, &journal);
    }
    let list = [
        1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 9, 0, 0, 0, 4, 0, 5, 0, 16, 0, 7, 0, 32, 0, 0, 0,
    ];
    put("acl", "seed-0", &list);
    for first in 0..4u8 {
        put("image", &format!("seed-{first}"), &[first]);
        put(
            "image",
            &format!("seed-edited-{first}"),
            &[first, 9, 0, 4, 0, 1, 200, 30, 0, 20, 0, 4, 7],
        );
    }
    for first in 0..2u8 {
        put("journal", &format!("seed-{first}"), &[first]);
        let edited = [first, 8, 0, 90, 0, 5, 200, 3, 0, 20, 0, 4, 7];
        put("journal", &format!("seed-edited-{first}"), &edited);
        put("log", &format!("seed-{first}"), &edited);
    }
}

/// The journals of `src/ext4/jbd2/samples.txt`: a name, then rows of block,
/// offset and 16 bytes, in hexadecimal but for the block.
fn jbd2_samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in include_str!("../../src/ext4/jbd2/samples.txt").lines() {
        if let Some(name) = line.strip_prefix("= ") {
            all.push((name, Vec::new()));
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let block: usize = words[0].parse().unwrap();
        let at = block * 1024 + usize::from_str_radix(words[1], 16).unwrap();
        let bytes = u128::from_str_radix(words[2], 16).unwrap().to_be_bytes();
        let journal = &mut all.last_mut().unwrap().1;
        journal.resize(journal.len().max(at + 16), 0);
        journal[at..at + 16].copy_from_slice(&bytes);
    }
    all
}

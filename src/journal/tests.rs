//! The journal against a model: a list of states, one for each record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::record::{Clean, Session};
use super::*;
use crate::device::crash::{Frontier, Plan};
use crate::device::memory::Pages;
use crate::device::volatile::{Event, FileId, Host, Snapshot};
use crate::log::Verdict;
use crate::units::{Epoch, InodeNo, StepClock, Time};

mod archive;
mod crashes;
mod limits;
#[cfg(feature = "shuttle")]
mod models;
mod past;
mod rules;

const SIZE: usize = 1024;
const BLOCKS: u64 = 96;
const PINNED: BlockNo = BlockNo(1);

/// A small generator: seeded, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What each block holds; void ones hold nothing in particular.
type Model = BTreeMap<BlockNo, Option<Vec<u8>>>;

/// A journal over a host in memory, and what it should hold.
struct World {
    host: Arc<Host>,
    journal: Journal,
    random: Random,
    model: Model,
    /// The state after each record.
    states: BTreeMap<Lsn, Model>,
    /// What was durable when so many events had happened.
    durable: Vec<(usize, Lsn)>,
}

fn options(seed: u64) -> Options {
    Options {
        pinned: Some(PINNED),
        segment_size: 64 << 10,
        segments: 6,
        clock: Arc::new(StepClock::new(Time {
            secs: 1_700_000_000,
            nanos: 0,
        })),
        seed,
        ..Options::for_image(BLOCKS * SIZE as u64, SIZE)
    }
}

fn session(n: u8) -> Session {
    Session {
        guard: [n; 16],
        prior: vec![n],
        guarded: vec![n, n],
    }
}

fn empty_host() -> Arc<Host> {
    let mut image = Pages::default();
    for n in 0..BLOCKS {
        image.write(&[n as u8; SIZE], n * SIZE as u64);
    }
    Host::new(Snapshot {
        image,
        files: BTreeMap::new(),
    })
}

fn begin(host: &Arc<Host>, options: Options) -> Journal {
    let unrecovered = Journal::open(host.folder()).unwrap();
    let journal = unrecovered.begin_anew(host.image(), options).unwrap();
    journal.begin_session(session(1), &[1; SIZE], &[]).unwrap();
    journal
}

impl World {
    fn seeded(seed: u64) -> Self {
        Self::with(seed, options(seed + 1))
    }

    fn with(seed: u64, options: Options) -> Self {
        let host = empty_host();
        let journal = begin(&host, options);
        let model: Model = (0..BLOCKS)
            .map(|n| (BlockNo(n), Some(vec![n as u8; SIZE])))
            .collect();
        let states = BTreeMap::from([(Lsn(0), model.clone())]);
        let durable = vec![(host.events(), journal.watermarks().durable)];
        World {
            host,
            journal,
            random: Random(seed),
            model,
            states,
            durable,
        }
    }

    /// One random transaction; checkpoints by itself when the log is full.
    fn step(&mut self) -> Lsn {
        let mut model = self.model.clone();
        let data: Vec<u8> = (0..self.random.below(4) * 700)
            .map(|_| self.random.next() as u8)
            .collect();
        let journal = self.journal.clone();
        let mut txn = match journal.begin() {
            Ok(txn) => txn,
            Err(Error::Full) => {
                self.checkpoint();
                journal.begin().expect("room after a checkpoint")
            }
            Err(error) => panic!("{error}"),
        };
        if !data.is_empty() {
            txn.attach(&data, self.random.below(5000));
        }
        for _ in 0..1 + self.random.below(4) {
            change(&mut txn, &mut model, &data, &mut self.random);
        }
        assert!(txn.len() <= txn.limit());
        let lsn = txn.commit(&Op::Orphan { inode: InodeNo(1) }).unwrap();
        self.model = model.clone();
        self.states.insert(lsn, model);
        lsn
    }

    fn sync(&mut self) {
        let durable = self.journal.sync().unwrap().lsn();
        self.durable.push((self.host.events(), durable));
    }

    fn checkpoint(&mut self) {
        self.journal.checkpoint().unwrap();
        let durable = self.journal.watermarks().durable;
        self.durable.push((self.host.events(), durable));
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
            match self.random.below(20) {
                0..4 => self.sync(),
                4 => self.checkpoint(),
                _ => {}
            }
        }
    }

    fn assert_reads_as_model(&self) {
        assert_holds(&self.journal, &self.model);
    }

    fn state_at(&self, lsn: Lsn) -> &Model {
        self.states
            .range(..=lsn)
            .next_back()
            .expect("the first state has number 0")
            .1
    }
}

/// One random change of one block, in the transaction and in the model.
fn change(txn: &mut Txn<'_>, model: &mut Model, data: &[u8], random: &mut Random) {
    let block = BlockNo(1 + random.below(BLOCKS - 1));
    let live = model[&block].is_some();
    let pinned = block == PINNED;
    match random.below(7) {
        0..3 if live => {
            let at = random.below(SIZE as u64) as usize;
            let len = (1 + random.below(40) as usize).min(SIZE - at);
            let byte = random.next() as u8;
            txn.block_mut(block).unwrap()[at..at + len].fill(byte);
            model.get_mut(&block).unwrap().as_mut().unwrap()[at..at + len].fill(byte);
        }
        3 if !pinned => {
            let bytes = txn.fresh(block).unwrap();
            bytes[7] = 7;
            let mut now = vec![0; SIZE];
            now[7] = 7;
            model.insert(block, Some(now));
        }
        4 if data.len() >= SIZE && !pinned => {
            let from = random.below((data.len() - SIZE) as u64 + 1) as usize;
            txn.put(block, from).unwrap();
            model.insert(block, Some(data[from..from + SIZE].to_vec()));
        }
        5 if live && data.len() > 100 && !pinned => {
            let (at, from) = (
                random.below(900) as usize,
                random.below(data.len() as u64 - 100) as usize,
            );
            txn.patch(block, at, from..from + 100).unwrap();
            model.get_mut(&block).unwrap().as_mut().unwrap()[at..at + 100]
                .copy_from_slice(&data[from..from + 100]);
        }
        6 if !pinned => {
            txn.free(block, 1);
            model.insert(block, None);
        }
        _ => {}
    }
}

fn assert_holds(journal: &Journal, model: &Model) {
    let view = journal.view();
    for (block, bytes) in model {
        let Some(bytes) = bytes else { continue };
        assert!(
            view.block(*block).unwrap()[..] == bytes[..],
            "block {block} differs"
        );
    }
    // The same in one long read, where nothing is void.
    let live: Vec<BlockNo> = model
        .iter()
        .filter(|(_, bytes)| bytes.is_some())
        .map(|(block, _)| *block)
        .collect();
    for run in live.chunk_by(|a, b| a.0 + 1 == b.0) {
        let mut buf = vec![0; run.len() * SIZE - 10];
        view.read(run[0], 5, &mut buf).unwrap();
        let want: Vec<u8> = run
            .iter()
            .flat_map(|block| model[block].clone().unwrap())
            .collect();
        assert!(
            buf[..] == want[5..want.len() - 5],
            "blocks from {} differ",
            run[0]
        );
    }
}

/// Whether the image itself holds it (the pinned block excepted).
fn assert_home(image: &Pages, model: &Model) {
    for (block, bytes) in model {
        let Some(bytes) = bytes.as_ref().filter(|_| *block != PINNED) else {
            continue;
        };
        let mut home = vec![0; SIZE];
        image.read(&mut home, block.0 * SIZE as u64);
        assert!(home == *bytes, "block {block} of the image differs");
    }
}

fn recover(snapshot: &Snapshot, seed: u64) -> (Arc<Host>, Journal) {
    let host = Host::new(snapshot.clone());
    let unrecovered = Journal::open(host.folder()).unwrap();
    let journal = unrecovered.recover(host.image(), options(seed)).unwrap();
    (host, journal)
}

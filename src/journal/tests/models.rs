//! Group commit, checkpoints and the wait for room in orders that a scheduler
//! chooses (`scripts/shuttle`).

use shuttle::sync::mpsc;
use shuttle::thread;

use super::*;
use crate::device::adverse::Adverse;
use crate::device::crash::Fate;
use crate::log::Survey;
use crate::sync::explore::{below, explore};

/// A journal on a host that is as mean as it may be.
fn open(options: Options) -> (Arc<Adverse>, Journal) {
    let host = Adverse::new(empty_host());
    let unrecovered = Journal::open(host.folder()).unwrap();
    let journal = unrecovered.begin_anew(host.image(), options).unwrap();
    journal.begin_session(session(1), &[1; SIZE], &[]).unwrap();
    (host, journal)
}

fn last_left(host: &Adverse) -> Lsn {
    let files = host.worst().files;
    let survey = Survey::read(Arc::new(crate::device::memory::MemoryDir::from_files(
        files,
    )));
    survey.unwrap().last()
}

fn touch(journal: &Journal, block: u64, byte: u8) -> Result<Lsn> {
    let mut txn = journal.begin()?;
    txn.block_mut(BlockNo(block))?.fill(byte);
    txn.commit(&Op::Orphan { inode: InodeNo(1) })
}

/// Several threads commit and ask to be told; whoever is told of success can
/// rely on it, and everyone is told, once.
fn group_commit(failing: bool) {
    let (host, journal) = open(options(1 + below(1000)));
    if failing {
        host.fail_sync(below(5) as usize);
    }
    let background = Background::start(&journal).unwrap();
    let (tell, told) = mpsc::channel();
    let committing = (0..3u64).map(|writer| {
        let (host, journal, tell) = (host.clone(), journal.clone(), tell.clone());
        thread::spawn(move || {
            let mut asked = 0;
            for n in 0..2 {
                let Ok(lsn) = touch(&journal, 10 + writer, n) else {
                    break;
                };
                let (host, tell) = (host.clone(), tell.clone());
                let answer = move |done: Result<()>| {
                    if done.is_ok() {
                        assert!(last_left(&host) >= lsn, "{lsn} is not durable");
                    }
                    tell.send(()).unwrap();
                };
                journal.when_durable(lsn, Box::new(answer));
                asked += 1;
            }
            asked
        })
    });
    let committing: Vec<_> = committing.collect();
    let asked: usize = committing.into_iter().map(|it| it.join().unwrap()).sum();
    // A bell that nobody rings, or a waiter who is forgotten, ends here:
    // nothing wakes by time in a model.
    (0..asked).for_each(|_| told.recv().unwrap());
    assert!(failing || journal.stopped().is_none());
    drop(background);
    assert!(told.try_recv().is_err(), "someone was told twice");
}

#[test]
fn everyone_who_waits_is_told_once_and_no_success_before_it_is_durable() {
    explore(|| group_commit(false));
}

#[test]
fn everyone_hears_of_a_sync_that_fails_and_nobody_of_a_false_success() {
    explore(|| group_commit(true));
}

/// More is written than the log can hold: whoever finds it full is parked
/// and goes on after a checkpoint.
#[test]
fn whoever_is_parked_for_room_goes_on_after_a_checkpoint() {
    explore(|| {
        let (_host, journal) = open(Options {
            segments: 5,
            ..options(1 + below(1000))
        });
        let background = Background::start(&journal).unwrap();
        let parked = Arc::new(AtomicUsize::new(0));
        let writing = (0..3u64).map(|writer| {
            let (journal, parked) = (journal.clone(), parked.clone());
            thread::spawn(move || {
                let data = vec![writer as u8; 28 * SIZE];
                for _ in 0..3 {
                    let mut txn = loop {
                        match journal.begin() {
                            Ok(txn) => break txn,
                            Err(Error::Full) => {
                                parked.fetch_add(1, Ordering::SeqCst);
                                let (tell, told) = mpsc::channel();
                                journal.when_room(Box::new(move || tell.send(()).unwrap()));
                                told.recv().unwrap();
                            }
                            Err(error) => panic!("{error}"),
                        }
                    };
                    txn.attach(&data, 0);
                    for n in 0..28 {
                        let block = BlockNo(10 + 28 * writer + n);
                        txn.put(block, n as usize * SIZE).unwrap();
                    }
                    match txn.commit(&Op::Orphan { inode: InodeNo(1) }) {
                        Ok(_) | Err(Error::Full) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        let writing: Vec<_> = writing.collect();
        writing.into_iter().for_each(|it| it.join().unwrap());
        drop(background);
        assert!(journal.stopped().is_none());
    });
}

/// What a record did to a block.
#[derive(Clone)]
enum Did {
    Fill { at: usize, byte: u8 },
    Whole(Vec<u8>),
    Free,
}

/// What records did, and what was durable when.
#[derive(Default)]
struct Told {
    did: shuttle::sync::Mutex<BTreeMap<Lsn, Vec<(BlockNo, Did)>>>,
    /// So many events had happened, and this was durable.
    durable: shuttle::sync::Mutex<Vec<(usize, Lsn)>>,
}

impl Told {
    fn durable(&self, host: &Adverse, lsn: Lsn) {
        let mut durable = self.durable.lock().unwrap();
        durable.push((host.host().events(), lsn));
    }

    /// What the blocks hold after record `last`.
    fn state(&self, last: Lsn) -> Model {
        let mut model: Model = (0..BLOCKS)
            .map(|n| (BlockNo(n), Some(vec![n as u8; SIZE])))
            .collect();
        for (block, did) in self
            .did
            .lock()
            .unwrap()
            .range(..=last)
            .flat_map(|(_, did)| did)
        {
            let now = model.get_mut(block).unwrap();
            match (did, now) {
                (Did::Fill { at, byte }, Some(bytes)) => bytes[*at..at + 40].fill(*byte),
                (Did::Whole(bytes), now) => *now = Some(bytes.clone()),
                (Did::Free, now) => *now = None,
                (Did::Fill { .. }, None) => unreachable!("only live blocks are filled"),
            }
        }
        model
    }
}

/// A record that changes two or three of the writer's own blocks, which lie
/// between another's.
fn change_some(journal: &Journal, told: &Told, writer: u64, n: u8, live: &mut [bool; 4]) {
    let data = vec![(writer as u8) << 4 | n; 2 * SIZE];
    let mut txn = journal.begin().unwrap();
    txn.attach(&data, 0);
    let mut did = Vec::new();
    let first = below(4);
    for nth in (first..first + 2 + below(2)).map(|nth| nth as usize % 4) {
        let block = BlockNo(20 + 2 * nth as u64 + writer);
        did.push((
            block,
            match below(4) {
                0 => {
                    txn.put(block, SIZE / 2).unwrap();
                    Did::Whole(data[..SIZE].to_vec())
                }
                1 => {
                    txn.fresh(block).unwrap().fill(n);
                    Did::Whole(vec![n; SIZE])
                }
                2 if live[nth] => {
                    txn.free(block, 1);
                    Did::Free
                }
                _ if live[nth] => {
                    let at = below(900) as usize;
                    txn.block_mut(block).unwrap()[at..at + 40].fill(n);
                    Did::Fill { at, byte: n }
                }
                _ => continue,
            },
        ));
        live[nth] = !matches!(did.last(), Some((_, Did::Free)));
    }
    let lsn = txn.commit(&Op::Orphan { inode: InodeNo(1) }).unwrap();
    told.did.lock().unwrap().insert(lsn, did);
}

/// A cut at any event, whatever it takes, leaves the state after some record,
/// and no earlier one than was durable by then.
fn judge(host: &Adverse, told: &Told) {
    let trace = host.host().trace();
    let home = |(_, event): &(usize, &Event)| {
        matches!(
            event,
            Event::Write {
                file: FileId::IMAGE,
                ..
            }
        )
    };
    let homes: Vec<usize> = trace
        .iter()
        .enumerate()
        .filter(home)
        .map(|(at, _)| at)
        .collect();
    for _ in 0..4 {
        // Often in the middle of what goes home.
        let at = match below(2) {
            0 if !homes.is_empty() => homes[below(homes.len() as u64) as usize] + 1,
            _ => below(trace.len() as u64 + 1) as usize,
        };
        let mut frontier = Frontier::new(&host.host().start());
        trace[..at].iter().for_each(|event| frontier.pass(event));
        let plan = match below(4) {
            0 => Plan::default(),
            1 => Plan::all(frontier.pending()),
            2 => Plan(vec![
                Fate::Torn(below(1 << 32) as u32);
                frontier.pending().len()
            ]),
            _ => Plan::random(frontier.pending(), below(1 << 32)),
        };
        let (snapshot, _) = frontier.crash(&plan);
        let durable = told.durable.lock().unwrap();
        let least = durable.iter().filter(|(events, _)| *events <= at);
        let least = least.map(|(_, lsn)| *lsn).max();
        let unrecovered = Journal::open(Host::new(snapshot.clone()).folder()).unwrap();
        let last = unrecovered.report().last;
        if least.is_none() {
            continue; // the session may not have begun yet
        }
        assert!(Some(last) >= least, "{last} is left of {least:?}");
        let (_host, journal) = recover(&snapshot, 1 + below(1000));
        assert_holds(&journal, &told.state(last));
    }
}

#[test]
fn a_checkpoint_beside_writers_leaves_nothing_that_a_cut_could_mix_up() {
    explore(|| {
        let (host, journal) = open(options(1 + below(1000)));
        let told = Arc::new(Told::default());
        told.durable(&host, journal.watermarks().durable);
        let writing = (0..2u64).map(|writer| {
            let (journal, told) = (journal.clone(), told.clone());
            thread::spawn(move || {
                let mut live = [true; 4];
                (0..4).for_each(|n| change_some(&journal, &told, writer, n, &mut live));
            })
        });
        let writing: Vec<_> = writing.collect();
        let saving = {
            let (host, journal, told) = (host.clone(), journal.clone(), told.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    journal.checkpoint().unwrap();
                    told.durable(&host, journal.watermarks().durable);
                }
            })
        };
        let durable = journal.sync().unwrap();
        told.durable(&host, durable.lsn());
        writing.into_iter().for_each(|it| it.join().unwrap());
        saving.join().unwrap();
        assert_holds(&journal, &told.state(journal.watermarks().appended));
        judge(&host, &told);
    });
}

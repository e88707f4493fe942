//! Random histories with random syncs: what must survive always can be done
//! again, and everything done again is the whole history.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::check::{self, Severity};
use crate::device::Disk;
use crate::device::fault::{Call, Effect, Fault, Target};
use crate::device::memory::{MemoryDisk, Pages};
use crate::device::volatile::{Host, Snapshot};
use crate::ext4::Superblock;
use crate::fs::{self, Fs, guard, mount};
use crate::journal::{Journal, Op};
use crate::sim::clock::StillClock;
use crate::sim::drive::Driver;
use crate::sim::random::Random;
use crate::sim::system::{self, Setup};
use crate::sim::walk::walk;
use crate::sim::{Mix, Step, Tree, Workload};
use crate::units::{InodeNo, Lsn, Time};

/// A run with its ledger.
struct History {
    base: Pages,
    ledger: Arc<Ledger>,
    tree: Tree,
    durable: Lsn,
    now: Time,
}

fn setup(seed: u64) -> Setup {
    Setup {
        size: 4 << 20,
        block_size: 1024,
        segment_size: 4 << 20,
        segments: 6,
        atime: fs::Atime::Noatime,
        discard: false,
        seed,
    }
}

impl History {
    fn random(seed: u64, steps: usize) -> Self {
        let (setup, mut random) = (setup(seed | 1), Random::new(seed));
        let base = system::format(&setup, &StillClock::new()).unwrap();
        let mix = *random.pick(&[Mix::All, Mix::Names, Mix::Contents]);
        let workload = Workload::random(random.bits(), steps, mix, &Tree::root());
        Self::of(base, &setup, &workload, Some(&mut random))
    }

    /// With `random`, each sync is some inode's.
    fn of(
        base: Pages,
        setup: &Setup,
        workload: &Workload,
        mut random: Option<&mut Random>,
    ) -> Self {
        let clock = StillClock::new();
        let host = Host::new(Snapshot {
            image: base.clone(),
            files: BTreeMap::new(),
        });
        let fs = system::mount(&host, setup, &clock, 1).unwrap().fs;
        let ledger = Arc::new(Ledger::new(Arc::new(MemoryDisk::default())));
        let noting = ledger.clone();
        let note = move |lsn, op: &Op, data: &[u8]| noting.note(lsn, op, data);
        fs.journal().set_observer(Box::new(note));
        let mut driver = Driver::new(fs.clone());
        for step in &workload.0 {
            let now = clock.advance(1);
            if matches!(step, Step::Remount | Step::Kill | Step::Cut { .. }) {
                continue;
            }
            let _ = driver.step(step, now);
            if let (Step::Fsync, Some(random)) = (step, &mut random) {
                let through = fs.journal().watermarks().durable;
                ledger.synced(Synced {
                    inode: Some(InodeNo(*random.pick(&[2, 12, 13, 14, 15, 16, 17, 18]))),
                    data_only: random.one_in(3),
                    through,
                });
            }
        }
        History {
            base,
            tree: walk(&fs).unwrap(),
            durable: fs.journal().watermarks().durable,
            now: clock.advance(1),
            ledger,
        }
    }

    /// What a cut leaves, sound and with all that had to survive.
    fn cut(&self, model: Model, keep: Keep, torn: bool, seed: u64) -> Result<Tree, String> {
        let disk = Arc::new(MemoryDisk::from_pages(self.base.clone()));
        let mut again = Again::on(|clock| {
            let mut raw = [0; 1024];
            disk.read_at(&mut raw, 1024).map_err(|e| e.to_string())?;
            let sb = Superblock::decode(&raw).map_err(|e| e.to_string())?;
            let journal = Journal::scratch(disk.clone(), sb.block_size as usize);
            Ok::<_, String>(Arc::new(Fs::new(
                journal,
                sb,
                fs::Options::default(),
                clock,
            )))
        })?;
        let choices = self.ledger.read(|entries, syncs| {
            let required = required(model, entries, syncs, self.durable, self.now);
            choose(model, entries, &required, keep, torn, seed)
        });
        let mut wrong = Vec::new();
        self.ledger
            .replay(|n, entry, data| {
                match &choices[n] {
                    Choice::Lost => again.leave_out(&entry.op),
                    Choice::Kept(part, must) => match again.apply(&entry.op, data, part) {
                        // Blocks are placed otherwise: a full image may be fuller.
                        Ok(Outcome::Refused(crate::fs::Error::NoSpace)) => {}
                        Ok(Outcome::Refused(error)) if *must => {
                            wrong.push(format!("record {} {:?}: {error}", entry.lsn, entry.op));
                        }
                        Ok(_) => {}
                        Err(error) => wrong.push(error.to_string()),
                    },
                }
                Ok(())
            })
            .map_err(|e| e.to_string())?;
        again.fs().journal().flush().map_err(|e| e.to_string())?;
        let report = check::run_disks(disk.clone(), None);
        // A scratch journal keeps no totals in the superblock.
        let bad = report.findings.iter().filter(|finding| {
            finding.severity() != Severity::Note && !finding.to_string().contains("superblock")
        });
        wrong.extend(bad.map(ToString::to_string));
        match wrong.is_empty() {
            true => walk(again.fs()).map_err(|e| e.to_string()),
            false => Err(wrong.join("\n")),
        }
    }
}

#[test]
fn all_operations_done_again_are_the_whole_history() {
    for seed in 0..12 {
        let history = History::random(seed, 150);
        for model in [Model::Ext4, Model::Posix] {
            let left = history.cut(model, Keep::All, false, 1);
            let left = left.unwrap_or_else(|what| panic!("seed {seed}, {model}: {what}"));
            assert_eq!(history.tree.difference(&left), None, "seed {seed}, {model}");
        }
    }
}

#[test]
fn what_must_survive_can_always_be_done_again() {
    for seed in 0..30 {
        let history = History::random(seed, 150);
        for model in [Model::Ext4, Model::Posix] {
            for (keep, cuts) in [(Keep::None, 1), (Keep::Random, 6)] {
                for cut in 0..cuts {
                    if let Err(what) = history.cut(model, keep, cut % 2 == 1, cut) {
                        panic!("history {seed}, {model}, keep {keep}, cut {cut}: {what}");
                    }
                }
            }
        }
    }
}

/// The histories that `steps` may leave, as a list of trees' texts.
fn outcomes(steps: &str, syncs: &[(u32, bool)], model: Model) -> Vec<String> {
    let setup = setup(5);
    let base = system::format(&setup, &StillClock::new()).unwrap();
    let workload: Workload = steps.parse().unwrap();
    let history = History::of(base, &setup, &workload, None);
    for (inode, data_only) in syncs {
        history.ledger.synced(Synced {
            inode: Some(InodeNo(*inode)),
            data_only: *data_only,
            through: history.durable,
        });
    }
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let tree = history.cut(model, Keep::Random, false, seed).unwrap();
        let files = tree
            .names
            .iter()
            .filter(|(path, _)| !path.is_empty() && *path != b"lost+found");
        let texts = files.map(|(path, node)| {
            let bytes = tree.nodes[*node].content.len();
            format!("{}:{bytes}", String::from_utf8_lossy(path))
        });
        seen.insert(texts.collect::<Vec<_>>().join(" "));
    }
    seen.into_iter().collect()
}

/// Replaces `a` with a file written as `b`; 12 and 13 are their inodes.
const REPLACE: &str = "create a 644\nwrite a 0 5 1\ncreate b 644\nwrite b 0 7 2\nrename b a plain";

#[test]
fn a_rename_may_overtake_the_data_under_ext4() {
    // Nothing synced by its own file; the journal got through to the end.
    let left = outcomes(&format!("{REPLACE}\nfsync"), &[], Model::Ext4);
    assert!(left.contains(&"a:0".to_owned()), "{left:?}");
    assert!(left.contains(&"a:7".to_owned()), "{left:?}");
    assert_eq!(left.len(), 2, "names were committed: {left:?}");
    // Once mended: fsync of the new file before the rename.
    let left = outcomes(&format!("{REPLACE}\nfsync"), &[(13, true)], Model::Ext4);
    assert_eq!(left, ["a:7"]);
}

#[test]
fn a_name_may_be_missing_under_posix_until_its_directory_is_synced() {
    let made = "mkdir d 755\ncreate d/f 644\nwrite d/f 0 9 1\nfsync";
    let left = outcomes(made, &[(13, false)], Model::Posix);
    assert!(left.contains(&String::new()), "{left:?}");
    assert!(left.contains(&"d:0".to_owned()), "{left:?}");
    // The file's and its directory's sync don't make the directory's own name durable.
    let left = outcomes(made, &[(13, false), (12, false)], Model::Posix);
    assert_eq!(left, ["", "d:0 d/f:9"]);
    let left = outcomes(made, &[(13, false), (12, false), (2, false)], Model::Posix);
    assert_eq!(left, ["d:0 d/f:9"]);
}

/// A history whose first file, `a`, was synced at its last sync.
fn synced(steps: &str) -> History {
    let setup = setup(5);
    let base = system::format(&setup, &StillClock::new()).unwrap();
    let history = History::of(base, &setup, &steps.parse().unwrap(), None);
    history.ledger.synced(Synced {
        inode: Some(InodeNo(12)),
        data_only: false,
        through: history.durable,
    });
    history
}

/// What `a` may hold after cuts under ext4, and whether `b` is there.
fn left_of(steps: &str, torn: bool) -> Vec<(Vec<u8>, bool)> {
    let history = synced(steps);
    let cut = |seed| {
        let tree = history.cut(Model::Ext4, Keep::Random, torn, seed).unwrap();
        (content(&tree), tree.names.contains_key(&b"b"[..]))
    };
    (0..60).map(cut).collect()
}

fn content(tree: &Tree) -> Vec<u8> {
    tree.nodes[tree.names[&b"a"[..]]].content.to_vec()
}

#[test]
fn what_ext4_truncated_comes_back_whole_or_not_at_all() {
    let old = "create a 644\nwrite a 0 5000 1\nfsync";
    let new = format!("{old}\ntruncate a 0\nwrite a 0 3000 2\ncreate b 644");
    let [old, all] = [old, &new].map(|steps| content(&synced(steps).tree));
    for (left, _) in left_of(&new, false) {
        assert!(left == old || left.is_empty() || left == all);
    }
}

#[test]
fn ext4_has_no_new_blocks_without_older_names() {
    let hole = "create a 644\ntruncate a 20000\nfsync\ncreate b 644\nwrite a 8192 100 2";
    let end = "create a 644\nwrite a 0 4096 1\nfsync\ncreate b 644\nwrite a 4096 8000 2";
    for (steps, len) in [(hole, 20_000), (end, 4096)] {
        for (left, named) in left_of(steps, true) {
            let is_old = left.len() == len && left[4096..].iter().all(|byte| *byte == 0);
            assert!(named || is_old, "{steps}");
        }
    }
}

#[test]
fn under_ext4_lost_data_leave_their_time() {
    let setup = setup(5);
    let base = system::format(&setup, &StillClock::new()).unwrap();
    let steps = "create a 644\nwrite a 0 9 1\ncreate b 644\nfsync";
    let history = History::of(base, &setup, &steps.parse().unwrap(), None);
    let left = history.cut(Model::Ext4, Keep::None, false, 1).unwrap();
    let [before, after] = [&history.tree, &left].map(|tree| &tree.nodes[tree.names[&b"a"[..]]]);
    assert_eq!((after.content.len(), after.mtime), (0, before.mtime));
}

#[test]
fn a_closed_ledger_notes_nothing_more() {
    let history = synced("create a 644\nfsync");
    let before = history.ledger.read(|entries, _| entries.len());
    history.ledger.close();
    let op = history.ledger.read(|entries, _| entries[0].op.clone());
    history.ledger.note(Lsn(99), &op, b"");
    assert_eq!(history.ledger.read(|entries, _| entries.len()), before);
}

#[test]
fn whoever_is_killed_while_settling_leaves_an_image_with_errors() {
    let setup = setup(5);
    let base = system::format(&setup, &StillClock::new()).unwrap();
    let host = Host::new(Snapshot {
        image: base,
        files: BTreeMap::new(),
    });
    let scratch = tempfile::tempdir().unwrap();
    let options = mount::Options::default();
    let rig = Rig::over(host.image(), host.folder(), scratch.path(), options.clone()).unwrap();
    let opened = mount::open(rig.image(), rig.folder(), options).unwrap();
    opened.mount().unwrap().close().unwrap();
    assert!(!has_errors(&host), "nothing has reached it");
    // The mark, and no more.
    let full = Effect::Fail { errno: libc::EIO };
    host.faults()
        .arm(Fault::new(Call::Write, full).on(Target::Image).after(1));
    rig.settle().unwrap_err();
    assert!(has_errors(&host));
    host.faults().heal();
    rig.settle().unwrap();
    assert!(!has_errors(&host));
}

fn has_errors(host: &Arc<Host>) -> bool {
    let mut raw = [0; 1024];
    host.image().read_at(&mut raw, 1024).unwrap();
    guard::has_errors(&raw)
}

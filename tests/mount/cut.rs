//! The power of a real host fails at a random moment, again and again.
//!
//! Image and journal lie on an XFS or ext4 that forgets what was not synced
//! (see [`host`](crate::host)). Outside, in this process, stands what was
//! acknowledged and what was acknowledged as synced. Afterwards the tree is
//! the history cut at one point, no earlier than the last completed fsync,
//! whatever file that was for; and until the daemon is killed it must not
//! call anything durable, or done, that is not.
//!
//! `scripts/crash-host --rounds N --seed S --host xfs|ext4|both` runs it for
//! long. The seed decides what is done; the moment is the machine's.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use crate::crew::Crew;
use crate::daemon::{World, journalfs};
use crate::history::{Outside, Worker};
use crate::host::{Host, Kind, clear_dead};
use crate::needs_fuse;
use crate::support::{kernel, tree::Tree};

const WORKERS: usize = 3;

/// What a round does.
#[derive(Debug)]
struct Plan {
    options: &'static str,
    /// Threads that change something, and threads that only call fsync.
    workers: usize,
    syncers: usize,
    /// Work for so long before the cut,
    work: u64,
    /// and if so, unmount for so long.
    unmount: Option<u64>,
    /// How long the daemon lives on without a host.
    linger: u64,
    /// Recoveries that the power cuts short, after so many milliseconds.
    recoveries: Vec<u64>,
}

impl Plan {
    fn draw(random: &mut fastrand::Rng) -> Plan {
        const OPTIONS: [&str; 5] = [
            "commit=1",
            "journal_size=8M",
            "journal_size=16M,cache_size=4M",
            "sync",
            "journal_size=8M,sync",
        ];
        let rarely = |random: &mut fastrand::Rng, one_in: u8| random.u8(..one_in) == 0;
        Plan {
            options: random.choice(OPTIONS).unwrap(),
            workers: random.usize(1..=WORKERS),
            syncers: random.usize(..3),
            work: random.u64(10..500),
            unmount: rarely(random, 4).then(|| random.u64(..60)),
            linger: if rarely(random, 3) {
                random.u64(20..200)
            } else {
                0
            },
            recoveries: (0..random.usize(..3)).map(|_| random.u64(..60)).collect(),
        }
    }

    fn is_sync(&self) -> bool {
        self.options.ends_with("sync")
    }
}

/// How a round's work ended.
struct Ended {
    workers: Vec<Worker>,
    outside: Arc<Outside>,
    /// `umount` has said that all is well.
    unmounted: bool,
}

fn work_until_the_cut(
    host: &Host,
    world: &mut World,
    plan: &Plan,
    mut workers: Vec<Worker>,
) -> Ended {
    world.mount_to_kill(&["-o", plan.options]);
    let mut ended = workers.split_off(plan.workers);
    let outside = Outside::default();
    let mut crew = Crew::start(&world.point(), outside, workers, plan.syncers);
    thread::sleep(Duration::from_millis(plan.work));
    let mut leaving = plan.unmount.map(|most| {
        crew.outside.stop.store(true, SeqCst);
        ended.extend(crew.join());
        let leaving = unmount(world);
        thread::sleep(Duration::from_millis(most));
        leaving
    });
    let left = leaving
        .as_mut()
        .and_then(|leaving| leaving.try_wait().unwrap());
    crew.outside.cutting.store(true, SeqCst);
    host.cut();
    thread::sleep(Duration::from_millis(plan.linger));
    if plan.unmount.is_none() {
        world.assert_runs();
    }
    crew.outside.stop.store(true, SeqCst);
    world.kill();
    ended.extend(crew.join());
    leaving.map(|mut leaving| leaving.wait().unwrap());
    Ended {
        workers: ended,
        outside: crew.outside,
        unmounted: left.is_some_and(|left| left.success()),
    }
}

fn unmount(world: &World) -> Child {
    let mut unmount = journalfs();
    unmount.arg("umount").arg(world.point());
    unmount.stdout(world.log()).stderr(world.log());
    unmount.spawn().unwrap()
}

/// The daemon dies with the power, if it has not, and both come back.
fn power_cycle(host: &Host, world: &mut World) {
    world.kill();
    clear_dead(&world.point());
    host.power_down();
    host.power_up();
}

/// The last record that is left; it is no older than what was synced.
fn what_is_left(world: &World, ended: &Ended) -> u64 {
    let status = world.succeeds(&["status", "--json", world.image_str()]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let last = status["appended"].as_u64().unwrap();
    let synced = ended.outside.synced.load(SeqCst);
    assert!(
        synced <= last,
        "record {synced} was synced, and only {last} records are left: {status}"
    );
    assert_ne!(status["verdict"], "corrupt", "{status}");
    last
}

/// Recoveries that the power cuts short.
fn cut_recoveries(host: &Host, world: &mut World, plan: &Plan) {
    for (n, time) in plan.recoveries.iter().enumerate() {
        let recovering = match n % 2 {
            0 => {
                world.start(&[]);
                None
            }
            _ => Some(recover(world)),
        };
        thread::sleep(Duration::from_millis(*time));
        host.cut();
        if let Some(mut recovering) = recovering {
            let _ = recovering.kill();
            recovering.wait().unwrap();
        }
        power_cycle(host, world);
    }
}

fn recover(world: &World) -> Child {
    let mut recover = journalfs();
    recover.args(["recover", world.image_str()]);
    recover.stdout(world.log()).stderr(world.log());
    recover.spawn().unwrap()
}

fn rounds_of(rounds: usize, seed: u64, kind: Kind) {
    let name = kind.name();
    println!(
        "cut: {rounds} rounds on {name}, seed {seed} \
         (again: scripts/crash-host --rounds {rounds} --seed {seed} --host {name})"
    );
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sum = Sum::default();
    while sum.rounds < rounds {
        // A new host now and then: what is to be compared grows.
        let host = Host::new(kind);
        let mut world = World::on(&host.path(), "160M");
        let mut workers = prepare(&mut world, &mut random);
        for _ in 0..(rounds - sum.rounds).min(25) {
            workers = round(&host, &mut world, workers, &mut random, &mut sum);
        }
        sum.operations += workers.iter().map(|worker| worker.done).sum::<usize>();
        println!("cut: {name}: {sum:?}: the law held");
    }
}

/// What has been done.
#[derive(Debug, Default)]
struct Sum {
    rounds: usize,
    operations: usize,
    fsyncs: u64,
    /// Cuts that took something acknowledged with them.
    lossy_cuts: usize,
}

fn round(
    host: &Host,
    world: &mut World,
    workers: Vec<Worker>,
    random: &mut fastrand::Rng,
    sum: &mut Sum,
) -> Vec<Worker> {
    let plan = Plan::draw(random);
    let _say = Say(sum.rounds, &plan);
    let ended = work_until_the_cut(host, world, &plan, workers);
    power_cycle(host, world);
    let last = what_is_left(world, &ended);
    cut_recoveries(host, world, &plan);
    let mut workers = ended.workers;
    sum.fsyncs += ended.outside.fsyncs.load(SeqCst);
    sum.lossy_cuts += usize::from(workers.iter().any(|worker| worker.acknowledged() > last));
    let sampled = sum.rounds.is_multiple_of(8);
    if sampled {
        world.succeeds(&["check", world.image_str()]);
    }
    world.mount(&[]);
    for worker in &mut workers {
        worker.judge(last, plan.is_sync() || ended.unmounted);
    }
    let shown = sampled.then(|| Tree::of(&world.point()));
    world.umount_and_judge();
    if let Some(shown) = shown {
        kernel_agrees(world, &shown);
    }
    sum.rounds += 1;
    workers
}

/// Tells of a round that fails.
struct Say<'a>(usize, &'a Plan);

impl Drop for Say<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("cut: round {}: {:?}", self.0, self.1);
        }
    }
}

fn prepare(world: &mut World, random: &mut fastrand::Rng) -> Vec<Worker> {
    world.mount(&[]);
    let point = world.point();
    let workers = (0..WORKERS).map(|n| {
        let folder = format!("thread-{n}");
        std::fs::create_dir(point.join(&folder)).unwrap();
        Worker::new(&point, &folder, fastrand::Rng::with_seed(random.u64(..)))
    });
    let workers = workers.collect();
    std::fs::write(point.join("anchor"), b"for fsync").unwrap();
    world.umount();
    workers
}

fn kernel_agrees(world: &World, shown: &Tree) {
    world.succeeds(&["check", world.image_str()]);
    let mount =
        kernel::Mount::read_only(&world.image()).expect("hosts need root, and so does this");
    Tree::of(mount.path()).assert_same("kernel", shown, "journalfs");
    mount.unmount();
}

fn rounds_on(kind: Kind) {
    needs_fuse!();
    if !Host::allowed(kind) {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("JOURNALFS_CUT_ROUNDS").unwrap_or(4) as usize;
    let seed = number("JOURNALFS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    rounds_of(rounds, seed, kind);
}

#[test]
fn the_law_holds_when_an_xfs_host_loses_its_power() {
    rounds_on(Kind::Xfs);
}

#[test]
fn the_law_holds_when_an_ext4_host_loses_its_power() {
    rounds_on(Kind::Ext4);
}

/// Whatever the daemon has of it in memory is clean, and the host refuses to
/// let it become dirty again.
#[test]
fn a_daemon_outlives_its_host() {
    needs_fuse!();
    for kind in [Kind::Xfs, Kind::Ext4] {
        if !Host::allowed(kind) {
            return;
        }
        let host = Host::new(kind);
        let mut world = World::on(&host.path(), "64M");
        world.mount_to_kill(&["-o", "commit=1"]);
        std::fs::write(world.at("before"), b"before").unwrap();
        for _ in 0..2 {
            // Not the mount's: this also writes back what nobody has synced.
            host.sync();
            thread::sleep(Duration::from_millis(1200));
        }
        host.cut();
        let error = std::fs::write(world.at("after"), b"after").unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS)),
            "{kind:?}: {error}"
        );
        assert_eq!(std::fs::read(world.at("before")).unwrap(), b"before");
        world.assert_runs();
        power_cycle(&host, &mut world);
        world.succeeds(&["recover", world.image_str()]);
        world.mount(&[]);
        assert_eq!(std::fs::read(world.at("before")).unwrap(), b"before");
        world.umount_and_judge();
    }
}

//! The workloads. A later one may want what an earlier one of its group left.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::noise::Noise;

/// What is counted.
pub enum Unit {
    Operations,
    Bytes,
}
use Unit::{Bytes, Operations};

pub struct Workload {
    name: &'static str,
    label: &'static str,
    pub unit: Unit,
    /// Each operation reaches the disk before the next: what arrives there is
    /// of this one.
    pub durable: bool,
    work: fn(&Client) -> io::Result<Outcome>,
}

const fn fleeting(
    name: &'static str,
    label: &'static str,
    unit: Unit,
    work: fn(&Client) -> io::Result<Outcome>,
) -> Workload {
    Workload {
        name,
        label,
        unit,
        durable: false,
        work,
    }
}

const fn durable(
    name: &'static str,
    label: &'static str,
    work: fn(&Client) -> io::Result<Outcome>,
) -> Workload {
    Workload {
        name,
        label,
        unit: Operations,
        durable: true,
        work,
    }
}

impl Workload {
    pub fn label(&self, clients: usize) -> String {
        match clients {
            1 => self.label.to_owned(),
            n => format!("{}, {n} processes", self.label),
        }
    }
}

pub const WORKLOADS: &[Workload] = &[
    fleeting("create", "create", Operations, create),
    fleeting("stat-cold", "stat, cold", Operations, stat),
    fleeting("ls", "`ls -l`, cold", Operations, list),
    fleeting("stat", "stat, warm", Operations, stat),
    fleeting("rename", "rename", Operations, rename),
    fleeting("unlink", "unlink", Operations, unlink),
    fleeting("mkdir", "mkdir", Operations, mkdir),
    fleeting("rmdir", "rmdir", Operations, rmdir),
    fleeting("tree", "make a tree", Operations, make_tree),
    fleeting("untree", "remove a tree", Operations, remove_tree),
    fleeting("write", "sequential write + fsync", Bytes, write),
    fleeting("read-cold", "sequential read, cold", Bytes, read),
    fleeting("read", "sequential read, warm", Bytes, read),
    fleeting("seek-cold", "4 KiB read, random, cold", Operations, seek),
    fleeting("scribble", "4 KiB write, random", Operations, scribble),
    durable("append", "4 KiB append + fsync", append),
    durable("overwrite", "4 KiB overwrite + fdatasync", overwrite),
    durable("replace", "atomic replace: write, fsync, rename", replace),
    fleeting("stream", "4 KiB fsyncs beside a 1 GiB write", Bytes, stream),
    durable("sqlite-delete", "SQLite, DELETE", sqlite_delete),
    durable("sqlite-wal", "SQLite, WAL", sqlite_wal),
    fleeting("untar", "untar", Operations, untar),
    fleeting("cp", "cp -r", Operations, copy),
    fleeting("clone", "git clone", Operations, clone),
    fleeting("rm", "rm -rf", Operations, remove),
];

/// A name as `append` or `append-16`: the workload, and how many clients.
pub fn find(name: &str) -> Option<(&'static Workload, usize)> {
    let known = |name: &str| WORKLOADS.iter().find(|workload| workload.name == name);
    let several = || {
        let (name, clients) = name.rsplit_once('-')?;
        Some((known(name)?, clients.parse().ok()?))
    };
    known(name).map(|workload| (workload, 1)).or_else(several)
}

/// What clients did.
#[derive(Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Operations, or bytes.
    pub done: u64,
    pub nanos: u64,
    /// Nanoseconds of each operation, where that matters.
    latencies: Vec<u64>,
    /// Nanoseconds of an fsync that ends the work but is not of it.
    pub sync: Option<u64>,
}

impl Outcome {
    /// Of two that worked at the same time.
    pub fn join(&mut self, other: Outcome) {
        self.done += other.done;
        self.nanos = self.nanos.max(other.nanos);
        self.latencies.extend(other.latencies);
        self.sync = self.sync.max(other.sync);
    }

    pub fn quantile(&self, share: f64) -> Option<u64> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(sorted[(last as f64 * share).round() as usize])
    }
}

/// One process of a workload.
#[derive(clap::Args)]
pub struct Client {
    #[arg(long)]
    quick: bool,
    /// Only the writes of the commits, into a file that is there.
    #[arg(long)]
    limit: bool,
    #[arg(long)]
    number: u64,
    #[arg(long)]
    clients: u64,
    #[arg(long)]
    source: PathBuf,
    workload: String,
    folder: PathBuf,
}

impl Client {
    /// Prepares, says so, waits for a line, works, says what it did.
    pub fn work(mut self) -> io::Result<()> {
        let (workload, _) = find(&self.workload).expect("a workload");
        self.folder.push(self.number.to_string());
        fs::create_dir_all(&self.folder)?;
        let outcome = match self.limit {
            true => commit(&self)?,
            false => (workload.work)(&self)?,
        };
        println!("{}", serde_json::to_string(&outcome)?);
        Ok(())
    }

    fn ready(&self) -> Instant {
        println!("ready");
        let _ = io::stdin().read_line(&mut String::new());
        Instant::now()
    }

    /// A share of so many, or of a tenth of them.
    fn share(&self, all: u64) -> u64 {
        all / self.clients / if self.quick { 10 } else { 1 }
    }

    fn path(&self, kind: &str, number: u64) -> PathBuf {
        self.folder.join(format!("{kind}-{number:06}"))
    }

    fn noise(&self) -> Noise {
        Noise::new(self.number)
    }

    fn once(&self, done: u64, work: impl FnOnce() -> io::Result<()>) -> io::Result<Outcome> {
        let start = self.ready();
        work()?;
        Ok(Outcome {
            done,
            nanos: nanos(start),
            ..Outcome::default()
        })
    }

    /// The same with each number below `count`.
    fn each(&self, count: u64, mut work: impl FnMut(u64) -> io::Result<()>) -> io::Result<Outcome> {
        self.once(count, || (0..count).try_for_each(&mut work))
    }

    /// Again and again, for some time.
    fn during(&self, mut work: impl FnMut(u64) -> io::Result<()>) -> io::Result<Outcome> {
        let time = Duration::from_millis(if self.quick { 300 } else { 3000 });
        let mut outcome = Outcome::default();
        let start = self.ready();
        while start.elapsed() < time {
            let begun = Instant::now();
            work(outcome.done)?;
            outcome.latencies.push(nanos(begun));
            outcome.done += 1;
        }
        outcome.nanos = nanos(start);
        Ok(outcome)
    }
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
const FILES: u64 = 10_000;

fn create(client: &Client) -> io::Result<Outcome> {
    client.each(client.share(FILES), |n| {
        File::create_new(client.path("file", n)).map(drop)
    })
}

fn stat(client: &Client) -> io::Result<Outcome> {
    client.each(client.share(FILES), |n| {
        client.path("file", n).symlink_metadata().map(drop)
    })
}

fn list(client: &Client) -> io::Result<Outcome> {
    let mut ls = Command::new("ls");
    ls.arg("-l").arg(&client.folder).stdout(Stdio::null());
    client.once(client.share(FILES), || succeed(&mut ls))
}

fn rename(client: &Client) -> io::Result<Outcome> {
    client.each(client.share(FILES), |n| {
        fs::rename(client.path("file", n), client.path("renamed", n))
    })
}

fn unlink(client: &Client) -> io::Result<Outcome> {
    client.each(client.share(FILES), |n| {
        fs::remove_file(client.path("renamed", n))
    })
}

fn mkdir(client: &Client) -> io::Result<Outcome> {
    client.each(client.share(FILES), |n| {
        fs::create_dir(client.path("folder", n))
    })
}

fn rmdir(client: &Client) -> io::Result<Outcome> {
    client.each(client.share(FILES), |n| {
        fs::remove_dir(client.path("folder", n))
    })
}

/// Folders of four small files.
fn make_tree(client: &Client) -> io::Result<Outcome> {
    let mut noise = client.noise();
    client.each(client.share(FILES), |n| {
        let folder = client
            .path("tree", 0)
            .join(format!("{}/{}", n / 100, n / 5));
        match n % 5 {
            0 => fs::create_dir_all(&folder),
            n => {
                let len = 1 + noise.below(8 << 10) as usize;
                fs::write(folder.join(n.to_string()), noise.block(len))
            }
        }
    })
}

fn remove_tree(client: &Client) -> io::Result<Outcome> {
    client.once(client.share(FILES), || {
        fs::remove_dir_all(client.path("tree", 0))
    })
}

/// Bytes of the file of the next ones.
fn large(client: &Client) -> u64 {
    client.share(640 * MIB as u64) / MIB as u64 * MIB as u64
}

fn write(client: &Client) -> io::Result<Outcome> {
    let (len, mut noise) = (large(client), client.noise());
    client.once(len, || {
        let mut file = File::create(client.path("large", 0))?;
        (0..len / MIB as u64).try_for_each(|_| file.write_all(noise.block(MIB)))?;
        file.sync_all()
    })
}

fn read(client: &Client) -> io::Result<Outcome> {
    let mut buf = vec![0; MIB];
    client.once(large(client), || {
        let mut file = File::open(client.path("large", 0))?;
        while file.read(&mut buf)? > 0 {
            black_box(&buf);
        }
        Ok(())
    })
}

fn seek(client: &Client) -> io::Result<Outcome> {
    let (mut noise, mut buf) = (client.noise(), [0; PAGE]);
    let pages = large(client) / PAGE as u64;
    let file = File::open(client.path("large", 0))?;
    client.each(client.share(10_000), |_| {
        file.read_exact_at(&mut buf, noise.below(pages) * PAGE as u64)
    })
}

fn scribble(client: &Client) -> io::Result<Outcome> {
    let mut noise = client.noise();
    let pages = large(client) / PAGE as u64;
    let file = File::options().write(true).open(client.path("large", 0))?;
    let mut outcome = client.each(client.share(20_000), |_| {
        let at = noise.below(pages) * PAGE as u64;
        file.write_all_at(noise.block(PAGE), at)
    })?;
    let start = Instant::now();
    file.sync_all()?;
    outcome.sync = Some(nanos(start));
    Ok(outcome)
}

fn append(client: &Client) -> io::Result<Outcome> {
    let mut noise = client.noise();
    let mut file = File::create(client.path("log", 0))?;
    client.during(|_| {
        file.write_all(noise.block(PAGE))?;
        file.sync_all()
    })
}

fn overwrite(client: &Client) -> io::Result<Outcome> {
    let mut noise = client.noise();
    let path = client.path("table", 0);
    crate::noise::fill(&path, 16 * MIB as u64)?;
    let file = File::options().write(true).open(path)?;
    client.during(|_| {
        let at = noise.below((16 * MIB / PAGE) as u64) * PAGE as u64;
        file.write_all_at(noise.block(PAGE), at)?;
        file.sync_data()
    })
}

fn replace(client: &Client) -> io::Result<Outcome> {
    let mut noise = client.noise();
    let (new, name) = (client.path("new", 0), client.path("config", 0));
    client.during(|_| {
        let mut file = File::create(&new)?;
        file.write_all(noise.block(PAGE))?;
        file.sync_all()?;
        fs::rename(&new, &name)
    })
}

/// The least that a journal must do for the three above: for all writers that
/// wait one write, of their pages and of half a kilobyte for each, into a file
/// that has been written before, and one sync.
fn commit(client: &Client) -> io::Result<Outcome> {
    let (mut noise, size) = (client.noise(), 64 * MIB);
    let len = (client.clients as usize * (PAGE + 512)).next_multiple_of(PAGE);
    let path = client.path("segment", 0);
    crate::noise::fill(&path, size as u64)?;
    let file = File::options().write(true).open(path)?;
    let mut outcome = client.during(|n| {
        let at = n as usize * len % (size - len) / PAGE * PAGE;
        file.write_all_at(noise.block(len), at as u64)?;
        file.sync_data()
    })?;
    outcome.done *= client.clients;
    Ok(outcome)
}

/// 4 KiB appends with fsync, some milliseconds apart, beside a large write and
/// its fsync: the rate is the large one's, the latencies those of the small
/// ones.
fn stream(client: &Client) -> io::Result<Outcome> {
    let (len, mut noise) = (client.share(MIB as u64 * 1024), client.noise());
    let mut large = File::create(client.path("stream", 0))?;
    let mut small = File::create(client.path("beside", 0))?;
    let ended = AtomicBool::new(false);
    let beside = || -> io::Result<Vec<u64>> {
        let (mut noise, mut latencies) = (Noise::new(7), Vec::new());
        while !ended.load(Ordering::Relaxed) {
            small.write_all(noise.block(PAGE))?;
            let start = Instant::now();
            small.sync_all()?;
            latencies.push(nanos(start));
            thread::sleep(Duration::from_millis(5));
        }
        Ok(latencies)
    };
    thread::scope(|scope| {
        let mut started = None;
        let outcome = client.once(len, || {
            started = Some(scope.spawn(beside));
            let written = (0..len / MIB as u64)
                .try_for_each(|_| large.write_all(noise.block(MIB)))
                .and_then(|()| large.sync_all());
            ended.store(true, Ordering::Relaxed);
            written
        })?;
        let latencies = started.expect("started").join().expect("no panic")?;
        Ok(Outcome {
            latencies,
            ..outcome
        })
    })
}

fn sqlite_delete(client: &Client) -> io::Result<Outcome> {
    sqlite(client, "delete")
}

fn sqlite_wal(client: &Client) -> io::Result<Outcome> {
    sqlite(client, "wal")
}

/// Transactions of one row of 100 bytes.
fn sqlite(client: &Client, mode: &str) -> io::Result<Outcome> {
    let (count, path) = (client.share(1000), client.path(mode, 0));
    let run = |script: String| {
        let mut sqlite = Command::new("sqlite3");
        let started = sqlite
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut running = started.spawn()?;
        let mut pipe = running.stdin.take().expect("a pipe");
        pipe.write_all(script.as_bytes())?;
        drop(pipe);
        ended(running.wait()?, "sqlite3")
    };
    let start = format!("pragma journal_mode={mode}; pragma synchronous=full;\n");
    run(format!(
        "{start}create table t(n integer primary key, what blob);\n"
    ))?;
    let insert = "insert into t(what) values(randomblob(100));\n";
    let script = start + &insert.repeat(count as usize);
    client.once(count, || run(script))
}

fn untar(client: &Client) -> io::Result<Outcome> {
    let tar = client.source.join("tree.tar");
    program(
        client,
        Command::new("tar")
            .arg("-xf")
            .arg(tar)
            .arg("-C")
            .arg(&client.folder),
    )
}

fn copy(client: &Client) -> io::Result<Outcome> {
    let (from, to) = (client.source.join("tree"), client.path("copy", 0));
    program(client, Command::new("cp").arg("-r").arg(from).arg(to))
}

fn clone(client: &Client) -> io::Result<Outcome> {
    let (from, to) = (client.source.join("tree.git"), client.path("clone", 0));
    let mut git = Command::new("git");
    git.args(["clone", "-q", "--no-hardlinks"]);
    program(client, git.arg(from).arg(to))
}

fn remove(client: &Client) -> io::Result<Outcome> {
    program(
        client,
        Command::new("rm").arg("-rf").arg(client.path("copy", 0)),
    )
}

/// Something with the whole tree: operations are its files and folders.
fn program(client: &Client, command: &mut Command) -> io::Result<Outcome> {
    let count = fs::read_to_string(client.source.join("count"))?;
    let count = count.trim().parse().map_err(io::Error::other)?;
    client.once(count, || succeed(command))
}

fn succeed(command: &mut Command) -> io::Result<()> {
    ended(command.stdin(Stdio::null()).status()?, "a program")
}

fn ended(status: std::process::ExitStatus, what: &str) -> io::Result<()> {
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{what}: {status}"))),
    }
}

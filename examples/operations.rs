//! What operations cost inside the daemon: the file system and the journal
//! below it, without a transport.
//!
//! ```text
//!     operations IMAGE [COUNT]
//! ```
//!
//! Prints for each the microseconds that it takes, and those of them on a
//! processor (the host's share of writing the journal included).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use journalfs::fs::mount::{self, Mounted};
use journalfs::fs::{Caller, Error, Fs, Result, WriteFlags};
use journalfs::units::InodeNo;

/// Measures what operations cost without a transport.
#[derive(Parser)]
struct Arguments {
    /// An image; its root directory gets a new directory.
    image: PathBuf,
    /// How many of each.
    #[arg(default_value_t = 10_000)]
    count: u32,
}

fn main() {
    let Arguments { image, count } = Arguments::parse();
    let opened = mount::open_host(&image, None, mount::Options::default());
    let mounted = opened.and_then(mount::Opened::mount).expect("an image");
    Bench::new(mounted, count).run();
}

struct Bench {
    mounted: Mounted,
    by: Caller,
    dir: InodeNo,
    count: u32,
}

impl Bench {
    fn new(mounted: Mounted, count: u32) -> Bench {
        let by = Caller::default();
        let name = format!("operations-{}", std::process::id());
        let made = mounted
            .fs()
            .mkdir(&by, InodeNo::ROOT, name.as_bytes(), 0o755, 0);
        let dir = made.expect("a directory").value.inode;
        Bench {
            mounted,
            by,
            dir,
            count,
        }
    }

    fn run(self) {
        let (by, dir) = (&self.by, self.dir);
        let file = |n: u32| format!("file-{n:06}").into_bytes();
        let renamed = |n: u32| format!("renamed-{n:06}").into_bytes();
        let folder = |n: u32| format!("folder-{n:06}").into_bytes();

        self.each("lookup, not there", |fs, n| {
            match fs.lookup(by, dir, &file(n)) {
                Err(Error::NotFound) => Ok(()),
                other => other.map(drop),
            }
        });
        self.each("create", |fs, n| {
            fs.create(by, dir, &file(n), 0o644, 0).map(drop)
        });
        self.each("lookup", |fs, n| fs.lookup(by, dir, &file(n)).map(drop));
        self.each("rename", |fs, n| {
            fs.rename(by, dir, &file(n), dir, &renamed(n), 0).map(drop)
        });
        self.each("unlink", |fs, n| fs.unlink(by, dir, &renamed(n)).map(drop));
        self.each("mkdir", |fs, n| {
            fs.mkdir(by, dir, &folder(n), 0o755, 0).map(drop)
        });
        self.each("rmdir", |fs, n| fs.rmdir(by, dir, &folder(n)).map(drop));

        let made = self.retry(|fs| fs.create(by, dir, b"large", 0o644, 0));
        let large = made.value.inode;
        let data: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
        let write = |fs: &Fs, at: u64, data: &[u8]| {
            fs.write(by, large, at, data, WriteFlags::default())
                .map(drop)
        };
        for n in 0..64 {
            self.retry(|fs| write(fs, n << 20, &data));
        }
        let mut places = fastrand::Rng::with_seed(1);
        let places: Vec<u64> = (0..self.count).map(|_| places.u64(..16384) << 12).collect();
        self.each("4 KiB write, random", |fs, n| {
            write(fs, places[n as usize], &data[..4096])
        });
        self.each("4 KiB append", |fs, n| {
            write(fs, (64 << 20) + u64::from(n) * 4096, &data[..4096])
        });
        self.mounted.close().expect("a clean image");
    }

    fn each(&self, what: &str, act: impl Fn(&Fs, u32) -> Result<()>) {
        let (start, busy) = (Instant::now(), processor_time());
        for n in 0..self.count {
            self.retry(|fs| act(fs, n));
        }
        let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(self.count);
        let (all, busy) = (start.elapsed(), processor_time() - busy);
        println!("{what:24} {:7.2} {:7.2}", each(all), each(busy));
    }

    /// Does it, with a checkpoint where the journal is full.
    fn retry<T>(&self, act: impl Fn(&Fs) -> Result<T>) -> T {
        let fs = self.mounted.fs();
        loop {
            match act(fs) {
                Err(Error::Full) => fs.journal().checkpoint().expect("a checkpoint"),
                done => return done.expect("the operation"),
            }
        }
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = said.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

//! What an entry of a large directory costs (`scripts/large-directory`).
//!
//! ```text
//!     large_directory inside IMAGE COUNT           all phases, on an image, without a mount
//!     large_directory PHASE FOLDER COUNT           one phase, in a folder of any file system
//! ```
//!
//! Prints the phase and microseconds an entry, one phase a line; behind them
//! those that this process's thread was on a processor. The phases:
//! `create` empty files; `lookup` each once, in random order; `list` the
//! names; `stat` them in the order of the listing; `delete` them in it. Each
//! wants the ones before.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use journalfs::fs::mount::{self, Mounted};
use journalfs::fs::{Caller, Error, Fs, Result};
use journalfs::units::InodeNo;

/// Measures what an entry of a large directory costs.
#[derive(Parser)]
struct Arguments {
    /// inside, create, lookup, list, stat or delete
    phase: String,
    /// An image, or a folder.
    place: PathBuf,
    /// Entries.
    count: u32,
}

fn main() {
    let Arguments {
        phase,
        place,
        count,
    } = Arguments::parse();
    match phase.as_str() {
        "inside" => inside(&place, count),
        phase => outside(phase, &place, count),
    }
}

fn name(n: u32) -> String {
    format!("entry-{n:08}.dat")
}

/// All numbers below `count`, shuffled; the same for each count.
fn shuffled(count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..count).collect();
    fastrand::Rng::with_seed(u64::from(count)).shuffle(&mut all);
    all
}

fn timed(phase: &str, count: u32, work: impl FnOnce()) {
    let (start, busy) = (Instant::now(), processor_time());
    work();
    let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(count);
    let (all, busy) = (start.elapsed(), processor_time() - busy);
    println!("{phase} {:.2} {:.2}", each(all), each(busy));
}

/// Of this thread.
fn processor_time() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = said.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn outside(phase: &str, folder: &Path, count: u32) {
    let path = |name: &str| folder.join(name);
    let names = || {
        let entries = std::fs::read_dir(folder).expect("the folder opens");
        let names: Vec<_> = entries
            .map(|entry| entry.expect("the folder lists").file_name())
            .collect();
        assert_eq!(names.len(), count as usize, "entries");
        names
    };
    match phase {
        "create" => timed(phase, count, || {
            for n in 0..count {
                std::fs::File::create_new(path(&name(n))).expect("a new file");
            }
        }),
        "lookup" => {
            let order = shuffled(count);
            timed(phase, count, || {
                for n in order {
                    path(&name(n)).symlink_metadata().expect("the file");
                }
            });
        }
        "list" => timed(phase, count, || drop(black_box(names()))),
        "stat" => timed(phase, count, || {
            for name in names() {
                folder.join(name).symlink_metadata().expect("the file");
            }
        }),
        "delete" => {
            let names = names();
            timed(phase, count, || {
                for name in names {
                    std::fs::remove_file(folder.join(name)).expect("removes");
                }
            });
        }
        other => panic!("{other} is no phase"),
    }
}

struct Image {
    mounted: Mounted,
    by: Caller,
    dir: InodeNo,
}

impl Image {
    fn open(path: &Path) -> Image {
        let opened = mount::open_host(path, None, mount::Options::default());
        let mounted = opened.and_then(mount::Opened::mount).expect("an image");
        let by = Caller::default();
        let fs = mounted.fs();
        let dir = match fs.lookup(&by, InodeNo::ROOT, b"large") {
            Ok(attr) => attr.inode,
            Err(_) => {
                let made = fs.mkdir(&by, InodeNo::ROOT, b"large", 0o755, 0);
                made.expect("a directory").value.inode
            }
        };
        Image { mounted, by, dir }
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

    /// As programs list: some thirty kilobytes a call.
    fn names(&self) -> Vec<Vec<u8>> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let mut room = 500;
            let fs = self.mounted.fs();
            let listed = fs.readdir(&self.by, self.dir, cookie, &mut |next, name, _, _| {
                if room > 0 {
                    room -= 1;
                    cookie = next;
                    names.push(name.to_vec());
                    return true;
                }
                false
            });
            listed.expect("lists");
            if room == 500 {
                return names.split_off(2);
            }
        }
    }
}

fn inside(path: &Path, count: u32) {
    let image = Image::open(path);
    let (by, dir) = (&image.by, image.dir);
    timed("create", count, || {
        for n in 0..count {
            image.retry(|fs| fs.create(by, dir, name(n).as_bytes(), 0o644, 0));
        }
    });
    image.mounted.close().expect("a clean image");

    let image = Image::open(path);
    let order = shuffled(count);
    timed("lookup", count, || {
        for n in order {
            image.retry(|fs| fs.lookup(by, dir, name(n).as_bytes()));
        }
    });
    timed("list", count, || drop(black_box(image.names())));
    let names = image.names();
    assert_eq!(names.len(), count as usize, "entries");
    timed("stat", count, || {
        for name in image.names() {
            image.retry(|fs| fs.lookup(by, dir, &name));
        }
    });
    timed("delete", count, || {
        for name in &names {
            image.retry(|fs| fs.unlink(by, dir, name));
        }
    });
    image.mounted.close().expect("a clean image");
}

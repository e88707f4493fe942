//! SIGKILL at a random moment, again and again: everything acknowledged is
//! there after the next mount, and the image is whole.
//!
//! Each of several threads works in a folder of its own and knows what it
//! should hold; at most one operation of a thread is unacknowledged when the
//! daemon dies, and that one was done or not done, never half.
//!
//! `scripts/kill9 --rounds N --seed S` runs it for long.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::daemon::World;
use crate::model::{Act, Model, choose};
use crate::needs_fuse;

const THREADS: usize = 3;

/// A thread's folder, what it holds, and the operation that nobody answered.
struct Worker {
    folder: PathBuf,
    model: Model,
    pending: Option<Act>,
    done: usize,
    random: fastrand::Rng,
}

impl Worker {
    /// Works until the daemon is gone.
    fn run(mut self) -> Worker {
        // Files that lost their names while open: a kill leaves orphans.
        let mut held = Vec::new();
        loop {
            let act = choose(&self.model, &mut self.random);
            if let Act::Unlink { at } = &act
                && held.len() < 3
                && self.model.nodes[&self.model.names[at]].kind == '-'
            {
                held.extend(fs::File::open(self.folder.join(at)));
            }
            if self.random.u8(..64) == 0 {
                held.clear();
            }
            match act.perform(&self.folder) {
                Ok(()) => self.model.apply(&act),
                Err(e) if is_gone(&e) => {
                    self.pending = Some(act);
                    return self;
                }
                Err(e) => panic!("{act:?} in {}: {e}", self.folder.display()),
            }
            self.done += 1;
        }
    }

    /// The folder holds what was acknowledged, with or without the operation
    /// that was under way.
    fn compare(&mut self, round: usize) {
        let mut stories = vec![self.model.clone()];
        let pending = self.pending.take();
        for act in pending.iter().flat_map(Act::requests) {
            let mut model = stories[stories.len() - 1].clone();
            model.apply(&act);
            stories.push(model);
        }
        let differences: Vec<_> = stories
            .iter()
            .map(|model| model.differences(&self.folder))
            .collect();
        match differences.iter().position(Vec::is_empty) {
            Some(found) => self.model = stories.swap_remove(found),
            None => panic!(
                "round {round}: {}: without and with {pending:?}: {differences:#?}",
                self.folder.display()
            ),
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOTCONN
                | libc::ECONNABORTED
                | libc::ECANCELED
                | libc::EINTR
                | libc::EIO
                | libc::ENODEV
        )
    )
}

fn rounds_of(rounds: usize, seed: u64) {
    println!(
        "kill: {rounds} rounds, seed {seed} (again: scripts/kill9 --rounds {rounds} --seed {seed})"
    );
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new("192M");
    world.mount(&[]);
    let mut workers: Vec<Worker> = (0..THREADS)
        .map(|n| {
            let folder = world.at(&format!("thread-{n}"));
            fs::create_dir(&folder).unwrap();
            let random = fastrand::Rng::with_seed(random.u64(..));
            Worker {
                folder,
                model: Model::default(),
                pending: None,
                done: 0,
                random,
            }
        })
        .collect();
    world.umount();
    for round in 0..rounds {
        let options = *random
            .choice(&[
                "commit=1",
                "journal_size=8M",
                "journal_size=16M,cache_size=4M",
                "sync",
            ])
            .unwrap();
        world.mount_to_kill(&["-o", options]);
        let threads: Vec<_> = workers
            .into_iter()
            .map(|worker| thread::spawn(move || worker.run()))
            .collect();
        thread::sleep(Duration::from_millis(random.u64(20..400)));
        world.kill();
        workers = threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker failed"))
            .collect();
        while random.u8(..3) == 0 {
            // A recovery that is killed itself.
            world.start(&[]);
            thread::sleep(Duration::from_millis(random.u64(..60)));
            world.kill();
        }
        world.mount(&[]);
        workers.iter_mut().for_each(|worker| worker.compare(round));
        world.umount_and_judge();
        let done: usize = workers.iter().map(|worker| worker.done).sum();
        if (round + 1) % 20 == 0 {
            println!(
                "kill: {} rounds, {done} operations acknowledged, none lost",
                round + 1
            );
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_to_sigkill() {
    needs_fuse!();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("JOURNALFS_KILL_ROUNDS").unwrap_or(6) as usize;
    let seed = number("JOURNALFS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    rounds_of(rounds, seed);
}

//! Threads at work on a mount until its end, and a little longer.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::history::{Outside, Worker};

/// Threads that change something, and threads that only call fsync.
pub struct Crew {
    pub outside: Arc<Outside>,
    workers: Vec<JoinHandle<Worker>>,
    syncers: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Sets to work. The mount has a file `anchor` for those who sync.
    pub fn start(point: &Path, outside: Outside, workers: Vec<Worker>, syncers: usize) -> Crew {
        let outside = Arc::new(outside);
        let workers = workers.into_iter().map(|worker| {
            let outside = outside.clone();
            thread::spawn(move || {
                let worker = worker.run(&outside);
                stay_without_a_host(&outside, &worker);
                worker
            })
        });
        let workers = workers.collect();
        let syncers = (0..syncers).map(|n| {
            let (outside, point) = (outside.clone(), point.to_owned());
            // Here, while the mount is sure to live.
            let file = File::open(point.join("anchor")).unwrap();
            let folder = File::open(&point).unwrap();
            thread::spawn(move || sync_on_and_on(&outside, &point, [file, folder], n))
        });
        Crew {
            workers,
            syncers: syncers.collect(),
            outside,
        }
    }

    /// Waits for all, and hands back who worked. Nothing more once they are.
    pub fn join(&mut self) -> Vec<Worker> {
        let syncers = self.syncers.drain(..);
        syncers.for_each(|syncer| syncer.join().expect("a syncer failed"));
        let workers = self.workers.drain(..);
        workers
            .map(|worker| worker.join().expect("a worker failed"))
            .collect()
    }
}

/// One fsync after the other, of a file, its data, or the root folder.
fn sync_on_and_on(outside: &Outside, point: &Path, [file, folder]: [File; 2], n: usize) {
    let mut failed = false;
    for turn in n.. {
        if outside.stop.load(SeqCst) {
            return;
        }
        let done = outside.sync(point, || match turn % 3 {
            0 => file.sync_all(),
            1 => file.sync_data(),
            _ => folder.sync_all(),
        });
        match done {
            Ok(()) => assert!(!failed, "an fsync succeeds after one that has failed"),
            Err(error) => {
                outside.excuse(&error, &"fsync");
                failed = true;
            }
        }
        thread::sleep(Duration::from_millis(turn as u64 * 17 % 61));
    }
}

/// The host is gone and the daemon is not: nothing may succeed any more that
/// needs a host.
fn stay_without_a_host(outside: &Outside, worker: &Worker) {
    let folder = File::open(&worker.folder);
    let mut failed = false;
    for n in 0.. {
        if outside.stop.load(SeqCst) {
            return;
        }
        let made = std::fs::create_dir(worker.folder.join(format!("late-{n}")));
        match made {
            Ok(()) => panic!("a folder is made after the host has gone"),
            Err(error) => outside.excuse(&error, &"mkdir"),
        }
        if let Ok(folder) = &folder {
            match outside.sync(&worker.root, || folder.sync_all()) {
                Ok(()) => assert!(!failed, "an fsync succeeds after one that has failed"),
                Err(error) => {
                    outside.excuse(&error, &"fsync");
                    failed = true;
                }
            }
        }
        thread::sleep(Duration::from_millis(3));
    }
}

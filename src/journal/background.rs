//! The threads of a mount: one makes records durable, one has streams written
//! back, one makes room.

use std::sync::Arc;
use std::time::Duration;

use super::{Error, Journal};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, JoinHandle};

/// Threads that tick: the committer, which serves waiting fsyncs back to back,
/// the streamer, which has large amounts written back before a sync is asked for,
/// the keeper, which checkpoints and keeps segments ready, and with an archive
/// the archivist, which copies the image now and then. Dropping it stops and
/// joins them.
pub struct Background {
    journal: Journal,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How often the threads look at the clock without being woken.
const PERIOD: Duration = Duration::from_millis(250);

impl Background {
    /// Starts the threads.
    pub fn start(journal: &Journal) -> std::io::Result<Self> {
        let mut background = Background {
            journal: journal.clone(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        background.spawn("committer", |journal| {
            journal.0.waiting.committer().wait(PERIOD);
            journal.tick_commit(journal.0.options.clock.wall())
        })?;
        background.spawn("streamer", |journal| {
            journal.0.waiting.streamer().wait(PERIOD);
            journal.tick_stream()
        })?;
        background.spawn("keeper", |journal| {
            journal.0.waiting.keeper().wait(PERIOD);
            journal.tick_checkpoint(journal.0.options.clock.wall())
        })?;
        if journal.0.options.archive.is_some() {
            background.spawn("archivist", |journal| {
                journal.tick_archive(journal.0.options.clock.wall());
                thread::sleep(PERIOD);
                Ok(())
            })?;
        }
        Ok(background)
    }

    fn spawn(
        &mut self,
        name: &str,
        round: fn(&Journal) -> super::Result<()>,
    ) -> std::io::Result<()> {
        let (journal, stop) = (self.journal.clone(), self.stop.clone());
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let _watch = Watch(&journal);
            while !stop.load(Ordering::SeqCst) {
                if let Err(error) = round(&journal) {
                    // The first error has stopped the journal and told all
                    // waiters; there is nothing left to keep.
                    log::error!("the journal has stopped: {error}");
                    return;
                }
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

/// Should a thread panic, those who wait for it hear of it.
struct Watch<'j>(&'j Journal);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let why = "a thread of the journal has panicked".into();
            self.0.0.stop(Error::ReadOnly(why));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(archive) = &self.journal.0.options.archive {
            archive.stop();
        }
        self.journal.0.waiting.committer().ring();
        self.journal.0.waiting.streamer().ring();
        self.journal.0.waiting.keeper().ring();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

//! Threads that wait for disks, so that a ring's thread need not.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use parking_lot::Mutex;

use super::service::Work;

/// How many reads may wait for disks at a time.
const COUNT: usize = 16;

/// A queue of reads and the threads that take from it; they end with it.
pub struct Readers(mpsc::Sender<Work>);

impl Readers {
    /// With its threads. `watch` is made on each and dropped at its end.
    pub fn start<W: 'static>(watch: fn() -> W) -> io::Result<Readers> {
        let (give, take) = mpsc::channel::<Work>();
        let take = Arc::new(Mutex::new(take));
        for n in 0..COUNT {
            let take = take.clone();
            let work = move || {
                let _watch = watch();
                loop {
                    let read = take.lock().recv();
                    let Ok(read) = read else { return };
                    read();
                }
            };
            thread::Builder::new()
                .name(format!("reader-{n}"))
                .spawn(work)?;
        }
        Ok(Readers(give))
    }

    /// Has one of them do this.
    pub fn have(&self, read: Work) {
        // (They are there as long as the queue is.)
        let _ = self.0.send(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_that_waits_keeps_no_other() {
        let readers = Readers::start(|| ()).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let first = tell.clone();
        readers.have(Box::new(move || {
            let _ = released.recv();
            let _ = first.send("the first");
        }));
        readers.have(Box::new(move || {
            let _ = tell.send("the second");
        }));
        let patience = Duration::from_secs(60);
        assert_eq!(told.recv_timeout(patience), Ok("the second"));
        drop(release);
        assert_eq!(told.recv_timeout(patience), Ok("the first"));
    }
}

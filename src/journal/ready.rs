//! Work that does not wait for a disk.
//!
//! What work done [`at_once`] would have to wait for, it notes instead, and
//! fails. Whoever had it done fetches that, holding no guard meanwhile, and has
//! the work done again from its start:
//!
//! ```text
//!     at_once ──► a block lacks ──► guard goes ──► fetch ──► at_once ──► commit
//! ```
//! Once a transaction is committed the work can't be done again: from there on
//! it waits as usual. The note is the thread's, since what lies between would
//! only pass it on; it stays until the work's end, and nothing is committed
//! with it, since what lies between may take an error for an answer.

use std::cell::RefCell;

use super::view::Gather;
use super::{Error, Journal, Result};

/// After how many fetches work waits for the rest: a host whose cache is
/// crowded may drop what was fetched first.
const FETCHES: usize = 32;

/// What work lacked.
pub struct Lack(Gather);

/// Why work is not done.
pub enum Undone<E> {
    /// It would have had to wait. It changed nothing.
    Lacks(Lack),
    /// It failed.
    Failed(E),
}

enum Mode {
    Waits,
    Tries,
    Lacks(Lack),
    /// It began as one that tries.
    Committed,
}

thread_local! {
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Waits) };
}

/// Does work that waits for no disk before it commits.
pub fn at_once<T, E>(
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, Undone<E>> {
    let around = MODE.replace(Mode::Tries);
    let result = work();
    match (result, MODE.replace(around)) {
        (Ok(done), _) => Ok(done),
        (Err(_), Mode::Lacks(lack)) => Err(Undone::Lacks(lack)),
        (Err(error), _) => Err(Undone::Failed(error)),
    }
}

/// Does what follows committed work; if that was begun by [`at_once`], `None`
/// if this would have to wait.
pub fn or_leave<T, E>(
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> Option<std::result::Result<T, E>> {
    if MODE.with_borrow(|mode| matches!(mode, Mode::Waits)) {
        return Some(work());
    }
    match at_once(work) {
        Ok(done) => Some(Ok(done)),
        Err(Undone::Failed(error)) => Some(Err(error)),
        Err(Undone::Lacks(_)) => None,
    }
}

/// Whether this thread's work has met something that lacks.
pub fn is_lacking() -> bool {
    MODE.with_borrow(|mode| matches!(mode, Mode::Lacks(_)))
}

/// Whether this thread's work must not wait.
pub(super) fn tries() -> bool {
    MODE.with_borrow(|mode| matches!(mode, Mode::Tries | Mode::Lacks(_)))
}

/// Notes what lacks; the first counts.
pub(super) fn lacks(what: Gather) -> Error {
    MODE.with_borrow_mut(|mode| {
        if let Mode::Tries = mode {
            *mode = Mode::Lacks(Lack(what));
        }
    });
    Error::Lacking
}

/// Before a transaction becomes visible.
pub(super) fn commits() -> Result<()> {
    MODE.with_borrow_mut(|mode| match mode {
        Mode::Waits | Mode::Committed => Ok(()),
        Mode::Tries => {
            *mode = Mode::Committed;
            Ok(())
        }
        Mode::Lacks(_) => Err(Error::Lacking),
    })
}

impl Journal {
    /// Brings what lacked into the host's cache.
    pub fn fetch(&self, lack: &Lack) -> Result<()> {
        let Lack(found) = lack;
        // (Found anew if it has moved.)
        self.read(found, &mut vec![0; found.len()]).map(drop)
    }

    /// Does work, and holds no guard while a disk is waited for before its first
    /// commit. Within work that is done [`at_once`] it waits for none, and its
    /// commit is none of that work's: that may be done again, and this with it.
    pub fn fetching<T, E: From<Error>>(
        &self,
        mut work: impl FnMut() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let within = tries();
        for _ in 0..FETCHES {
            match at_once(&mut work) {
                Ok(done) => return Ok(done),
                Err(Undone::Failed(error)) => return Err(error),
                Err(Undone::Lacks(Lack(found))) if within => return Err(lacks(found).into()),
                // (An error comes again when the work meets it.)
                Err(Undone::Lacks(lack)) => drop(self.fetch(&lack)),
            }
        }
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::MemoryDisk;
    use std::sync::Arc;

    fn found() -> Gather {
        let disk = Arc::new(MemoryDisk::zeroed(8 << 10));
        Journal::scratch(disk, 1024).view().gather()
    }

    #[test]
    fn nothing_is_committed_once_something_lacks() {
        let tried: std::result::Result<(), _> = at_once(|| {
            let _ = lacks(found()); // taken for an answer
            assert!(is_lacking());
            commits()
        });
        assert!(matches!(tried, Err(Undone::Lacks(_))));
        assert!(!tries() && commits().is_ok(), "it outlives the work");
    }

    #[test]
    fn after_a_commit_work_waits_and_what_follows_is_left() {
        let tried = at_once(|| {
            assert!(tries());
            commits()?;
            assert!(!tries());
            let left = or_leave(|| Err::<(), _>(lacks(found())));
            assert!(left.is_none() && !tries());
            Err::<(), _>(Error::Full)
        });
        assert!(matches!(tried, Err(Undone::Failed(Error::Full))));
        // Without that it is done.
        assert!(or_leave(|| Ok::<_, Error>(tries())).is_some_and(|done| !done.unwrap()));
    }
}

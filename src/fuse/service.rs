//! What a transport serves: requests, answered now or later from any thread.

use std::sync::Arc;

use crate::fs::{Attr, Caller, Kind, Result};
use crate::units::InodeNo;

use super::request::{Answer, Request};

/// What a thread of a transport leaves to others.
pub type Work = Box<dyn FnOnce() + Send>;

/// Whether a thread may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It may.
    Waits,
    /// It serves others.
    AtOnce,
}

/// Whoever answers requests.
pub trait Service: Send + Sync + 'static {
    /// Serves one request. `answer` is called exactly once, from this thread
    /// or another. `elsewhere` does what would wait for a disk; without it this
    /// thread waits.
    fn serve<A>(
        self: &Arc<Self>,
        by: Caller,
        request: Request<'_>,
        answer: A,
        elsewhere: Option<&dyn Fn(Work)>,
    ) where
        A: FnOnce(Answer) + Send + 'static;

    /// Reads a file's bytes into a transport's buffer; answers how many there
    /// were: fewer than there is room for only at the file's end. `None`: that
    /// would have to wait, or, whatever the patience, it is for [`Service::serve`].
    fn read(
        &self,
        inode: InodeNo,
        offset: u64,
        patience: Patience,
        into: &mut [u8],
    ) -> Result<Option<usize>>;

    /// Lists a directory from a cookie on, as far as `add` takes entries (it
    /// answers whether it took one). With `plus` each brings its attributes
    /// and counts as looked up. If a disk has to be waited for, that may be all
    /// (the next call goes on); `false`: nothing was added, for want of patience.
    fn list(
        &self,
        by: &Caller,
        inode: InodeNo,
        from: u64,
        plus: bool,
        patience: Patience,
        add: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Result<bool>;
}

/// An entry of a directory, for a transport's buffer.
pub struct Entry<'a> {
    /// Where to go on after it.
    pub cookie: u64,
    /// Its name.
    pub name: &'a [u8],
    /// What it is.
    pub inode: InodeNo,
    /// Its type.
    pub kind: Kind,
    /// Its attributes, if they were asked for and the inode can be read.
    pub attr: Option<Attr>,
}

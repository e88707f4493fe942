//! A host for models: as slow and as mean as its promises allow.
//!
//! Others may run before and during every call, and see a frame's parts come
//! one by one. A sync covers what was there when it was called, and nothing
//! that came while it lasted. One sync can be made to fail: what it should
//! have covered is forgotten, although later ones succeed, as Linux has it.

use std::io;
use std::sync::Arc;

use super::crash::{Frontier, Plan};
use super::volatile::{Host, Snapshot};
use super::{Dir, Disk};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// The host and who waits for it.
pub struct Adverse {
    host: Arc<Host>,
    calls: AtomicUsize,
    /// Syncs until one fails.
    healthy: AtomicUsize,
}

impl Adverse {
    /// Around a host.
    pub fn new(host: Arc<Host>) -> Arc<Self> {
        Arc::new(Adverse {
            host,
            calls: AtomicUsize::new(0),
            healthy: AtomicUsize::new(usize::MAX),
        })
    }

    /// The host below.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// After so many syncs more, one fails.
    pub fn fail_sync(&self, after: usize) {
        self.healthy.store(after, SeqCst);
    }

    /// The image.
    pub fn image(self: &Arc<Self>) -> Arc<dyn Disk> {
        self.disk(self.host.image())
    }

    /// The folder.
    pub fn folder(self: &Arc<Self>) -> Arc<dyn Dir> {
        Arc::new(AdverseDir {
            host: self.clone(),
            inner: self.host.folder(),
        })
    }

    /// What stands if the power fails now and takes all it can.
    pub fn worst(&self) -> Snapshot {
        let mut frontier = Frontier::new(&self.host.start());
        self.host
            .trace()
            .iter()
            .for_each(|event| frontier.pass(event));
        frontier.crash(&Plan::default()).0
    }

    fn disk(self: &Arc<Self>, inner: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Arc::new(AdverseDisk {
            host: self.clone(),
            inner,
            forgetful: AtomicBool::new(false),
        })
    }

    /// Whoever else is about may run here.
    fn pause(&self) {
        self.calls.fetch_add(1, SeqCst);
    }

    /// Whether this sync fails.
    fn is_failing(&self) -> bool {
        let left = self.healthy.load(SeqCst);
        self.healthy.store(left.wrapping_sub(1), SeqCst);
        left == 0
    }
}

struct AdverseDisk {
    host: Arc<Adverse>,
    inner: Arc<dyn Disk>,
    /// A sync has failed: the file's pages count as clean.
    forgetful: AtomicBool,
}

impl Disk for AdverseDisk {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.host.pause();
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.host.pause();
        self.inner.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.host.pause();
        if self.host.is_failing() {
            self.forgetful.store(true, SeqCst);
            return Err(io::Error::other("the model's disk fails to sync"));
        }
        if !self.forgetful.load(SeqCst) {
            self.inner.sync()?;
        }
        self.host.pause();
        Ok(())
    }
}

struct AdverseDir {
    host: Arc<Adverse>,
    inner: Arc<dyn Dir>,
}

impl Dir for AdverseDir {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(self.host.disk(self.inner.open(name)?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.host.pause();
        Ok(self.host.disk(self.inner.create(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.host.pause();
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.host.pause();
        self.inner.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.host.pause();
        self.inner.sync()?;
        self.host.pause();
        Ok(())
    }
}

//! What is written in the background is written back as it is written, so that
//! the sync at the end finds little left to do, but little of it at a time, so
//! that the syncs of commits in between don't queue behind all of it.

use std::collections::VecDeque;
use std::ops::Range;

use super::Disk;

/// From so many bytes on the host is made to write back what was written.
const STEP: u64 = 1 << 20;
/// Bytes that may be on their way to the disk at most: enough to keep it busy,
/// and no more than a commit that comes meanwhile can wait for.
const AT_ONCE: u64 = 2 << 20;

/// The write-back of a disk that is written to from its beginning to its end.
pub struct WriteBack<'d> {
    disk: &'d dyn Disk,
    /// Bytes that were written since write-back was last started lie in this
    /// range: so many.
    written: Range<u64>,
    count: u64,
    /// What is on its way, likewise.
    under_way: VecDeque<(Range<u64>, u64)>,
    total: u64,
}

impl<'d> WriteBack<'d> {
    /// Of a disk on which nothing is on its way.
    pub fn of(disk: &'d dyn Disk) -> Self {
        WriteBack {
            disk,
            written: 0..0,
            count: 0,
            under_way: VecDeque::new(),
            total: 0,
        }
    }

    /// `len` bytes have been written at `at`, behind all others.
    pub fn wrote(&mut self, at: u64, len: u64) {
        if self.count == 0 {
            self.written.start = at;
        }
        self.written.end = at + len;
        self.count += len;
        if self.count < STEP {
            return;
        }
        let (range, count) = (self.written.clone(), std::mem::take(&mut self.count));
        // A hint: if it fails, the sync will say so.
        let _ = self.disk.write_back(range.start, range.end - range.start);
        self.under_way.push_back((range, count));
        self.total += count;
        while self.total > AT_ONCE
            && let Some((range, count)) = self.under_way.pop_front()
        {
            self.total -= count;
            self.disk.wait_back(range.start, range.end - range.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::device::memory::MemoryDisk;
    use crate::sync::Mutex;

    /// Notes what it is asked to write back, and what is waited for.
    struct Noting {
        inner: MemoryDisk,
        under_way: Mutex<Vec<(u64, u64)>>,
        most: Mutex<u64>,
    }

    impl Noting {
        fn new() -> Self {
            Noting {
                inner: MemoryDisk::zeroed(4096),
                under_way: Mutex::new(Vec::new()),
                most: Mutex::new(0),
            }
        }
    }

    impl Disk for Noting {
        fn len(&self) -> io::Result<u64> {
            self.inner.len()
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.inner.read_at(buf, offset)
        }
        fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
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
            self.inner.sync()
        }
        fn write_back(&self, offset: u64, len: u64) -> io::Result<()> {
            let mut under_way = self.under_way.lock();
            under_way.push((offset, len));
            let mut most = self.most.lock();
            *most = under_way.iter().map(|(_, len)| len).sum::<u64>().max(*most);
            Ok(())
        }
        fn wait_back(&self, offset: u64, len: u64) {
            let first = self.under_way.lock().remove(0);
            assert_eq!(first, (offset, len), "what was begun first");
        }
    }

    #[test]
    fn so_much_is_under_way_and_no_more() {
        let disk = Noting::new();
        let mut write_back = WriteBack::of(&disk);
        for piece in 0..1000 {
            write_back.wrote(piece << 16, 1 << 16);
        }
        let most = *disk.most.lock();
        assert!(most > AT_ONCE && most <= AT_ONCE + STEP, "{most}");
        let begun: u64 = disk.under_way.lock().iter().map(|(_, len)| len).sum();
        assert_eq!(begun, AT_ONCE);
    }
}

//! Write-back before it is asked for: the host is made to write what will be
//! synced, so that the sync finds little left to do, but little of it at a time,
//! so that what others sync in between doesn't queue behind all of it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::Disk;

/// So many bytes are given to the host at once.
pub const STEP: u64 = 1 << 20;
/// Bytes that may be on their way to the disk before more are: enough to keep it
/// busy, and no more than a commit that comes meanwhile can wait for.
pub const AT_ONCE: u64 = 2 << 20;

/// What has been given to the host, oldest first.
#[derive(Default)]
pub struct UnderWay {
    pieces: VecDeque<Piece>,
    bytes: u64,
}

struct Piece {
    disk: Arc<dyn Disk>,
    range: Range<u64>,
    /// So many of the range.
    bytes: u64,
    through: u64,
}

impl UnderWay {
    /// Has the host begin to write `bytes` bytes that lie in a range of a disk.
    /// `through` is how far the user of this will be once they are there.
    pub fn begin(&mut self, disk: &Arc<dyn Disk>, range: Range<u64>, bytes: u64, through: u64) {
        // A hint: if it fails, the sync will say so.
        let _ = disk.write_back(range.start, range.end - range.start);
        self.bytes += bytes;
        self.pieces.push_back(Piece {
            disk: disk.clone(),
            range,
            bytes,
            through,
        });
    }

    /// Waits until no more than `most` bytes are under way; how far that is, if
    /// something was waited for.
    pub fn wait_to(&mut self, most: u64) -> Option<u64> {
        let mut reached = None;
        while self.bytes > most
            && let Some(piece) = self.pieces.pop_front()
        {
            let Range { start, end } = piece.range;
            self.bytes -= piece.bytes;
            piece.disk.wait_back(start, end - start);
            reached = Some(piece.through);
        }
        reached
    }
}

/// The write-back of a disk that is written to from its beginning to its end.
pub struct WriteBack {
    disk: Arc<dyn Disk>,
    /// Bytes that were written since write-back was last started lie in this
    /// range: so many.
    written: Range<u64>,
    count: u64,
    under_way: UnderWay,
}

impl WriteBack {
    /// Of a disk on which nothing is on its way.
    pub fn of(disk: Arc<dyn Disk>) -> Self {
        WriteBack {
            disk,
            written: 0..0,
            count: 0,
            under_way: UnderWay::default(),
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
        let through = range.end;
        self.under_way.begin(&self.disk, range, count, through);
        self.under_way.wait_to(AT_ONCE);
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
        let disk = Arc::new(Noting::new());
        let mut write_back = WriteBack::of(disk.clone());
        for piece in 0..1000 {
            write_back.wrote(piece << 16, 1 << 16);
        }
        let most = *disk.most.lock();
        assert!(most > AT_ONCE && most <= AT_ONCE + STEP, "{most}");
        let begun: u64 = disk.under_way.lock().iter().map(|(_, len)| len).sum();
        assert_eq!(begun, AT_ONCE);
    }

    #[test]
    fn how_far_it_is_tells_whoever_waits() {
        let disk: Arc<dyn Disk> = Arc::new(Noting::new());
        let mut under_way = UnderWay::default();
        for n in 0..4 {
            under_way.begin(&disk, n << 20..(n + 1) << 20, 1 << 20, n);
        }
        assert_eq!(under_way.wait_to(4 << 20), None);
        assert_eq!(under_way.wait_to(2 << 20), Some(1));
        assert_eq!(under_way.wait_to(0), Some(3));
        assert_eq!(under_way.wait_to(0), None);
    }
}

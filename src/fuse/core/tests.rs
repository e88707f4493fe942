use std::collections::HashSet;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::*;
use crate::device::Disk;
use crate::fs::WriteFlags;
use crate::fs::world::{World, open};
use crate::fs::{SetAttr, Whence};

/// A core on a small image, with a full file that is open.
fn full() -> (World, Arc<Core>, InodeNo) {
    let world = World::new(&["-b4096"], 8 << 20);
    let fs = Arc::new(open(world.disk.clone()));
    let core = Core::new(fs, false, Box::new(String::new), Arc::default(), None);
    let file = create(&core, b"full");
    while write(&core, file).try_recv().unwrap().is_ok() {}
    (world, core, file)
}

fn ask(core: &Arc<Core>, request: Request<'_>) -> mpsc::Receiver<Answer> {
    let (tell, told) = mpsc::channel();
    let answer = move |answer| tell.send(answer).unwrap();
    core.serve(Caller::default(), request, answer, None);
    told
}

fn create(core: &Arc<Core>, name: &[u8]) -> InodeNo {
    let request = Request::Create {
        parent: InodeNo::ROOT,
        name: name.into(),
        mode: 0o644,
        umask: 0,
        flags: 0,
    };
    match ask(core, request).try_recv().unwrap() {
        Ok(Reply::Created(attr)) => attr.inode,
        other => panic!("{other:?}"),
    }
}

/// Appends a block.
fn write(core: &Arc<Core>, inode: InodeNo) -> mpsc::Receiver<Answer> {
    let request = Request::Write {
        inode,
        offset: core.fs.getattr(inode).unwrap().size,
        data: vec![1; 4096].into(),
        flags: WriteFlags::default(),
        durable: false,
        crooked: false,
    };
    ask(core, request)
}

fn unlink(core: &Arc<Core>, name: &[u8]) {
    let request = Request::Unlink {
        parent: InodeNo::ROOT,
        name: name.into(),
    };
    ask(core, request).try_recv().unwrap().unwrap();
}

#[test]
fn space_of_a_file_whose_close_comes_late_is_waited_for() {
    let (_world, core, full) = full();
    let (patient, retries) = mpsc::channel();
    core.set_patient(Some(patient));
    let other = create(&core, b"other");
    unlink(&core, b"full");
    let answer = write(&core, other);
    assert!(answer.try_recv().is_err(), "answered at once");
    let (inode, count) = (full, 1);
    for closed in [Request::Release { inode }, Request::Forget { inode, count }] {
        ask(&core, closed).try_recv().unwrap().unwrap();
    }
    let (_, retry) = retries.try_recv().expect("a request to be done again");
    retry();
    assert!(matches!(answer.try_recv(), Ok(Ok(Reply::Written(4096)))));
}

#[test]
fn a_full_image_is_told_to_be_full_in_the_end() {
    let (_world, core, full) = full();
    let (patient, retries) = mpsc::channel();
    core.set_patient(Some(patient));
    let answer = write(&core, full).try_recv().unwrap();
    assert!(matches!(answer, Err(Error::NoSpace)), "nothing to wait for");
    unlink(&core, b"full");
    // All the time once; then it is known to be in vain.
    for times in [MOMENTS.len(), 1, 1] {
        let answer = write(&core, full);
        let mut again = 0;
        while let Ok((_, retry)) = retries.try_recv() {
            retry();
            again += 1;
        }
        assert_eq!(again, times);
        assert!(matches!(answer.try_recv(), Ok(Err(Error::NoSpace))));
    }
}

/// A disk that has nothing at hand but what was read or written before.
struct Cold {
    below: Arc<dyn Disk>,
    warm: Mutex<HashSet<u64>>,
    /// Reads that had to wait.
    waited: AtomicUsize,
    /// Nobody may hold its guard during those.
    fs: OnceLock<Arc<Fs>>,
}

/// As the host's cache has them.
const PAGE: u64 = 4096;

fn pages(offset: u64, len: usize) -> std::ops::RangeInclusive<u64> {
    offset / PAGE..=(offset + len as u64 - 1) / PAGE
}

impl Cold {
    fn warm(&self, offset: u64, len: usize) {
        self.warm.lock().extend(pages(offset, len));
    }

    fn is_warm(&self, offset: u64, len: usize) -> bool {
        let warm = self.warm.lock();
        pages(offset, len).all(|page| warm.contains(&page))
    }
}

impl Disk for Cold {
    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.is_warm(offset, buf.len()) {
            self.waited.fetch_add(1, Ordering::SeqCst);
            if let Some(fs) = self.fs.get().cloned() {
                let (tell, told) = mpsc::channel();
                thread::spawn(move || tell.send(fs.journal().begin().map(drop)));
                let free = told.recv_timeout(Duration::from_secs(60));
                free.expect("a guard is held while a disk is waited for")
                    .unwrap();
            }
            self.warm(offset, buf.len());
        }
        self.below.read_at(buf, offset)
    }
    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        match self.is_warm(offset, buf.len()) {
            true => self.below.read_at(buf, offset).map(|()| true),
            false => Ok(false),
        }
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.warm(offset, buf.len());
        self.below.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.below.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.below.allocate(offset, len)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.below.discard(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.below.sync()
    }
}

/// A core on an image of which nothing is at hand, and that.
fn cold(world: &World) -> (Arc<Core>, Arc<Cold>) {
    let disk = Arc::new(Cold {
        below: world.disk.clone(),
        warm: Mutex::default(),
        waited: AtomicUsize::new(0),
        fs: OnceLock::new(),
    });
    let fs = Arc::new(open(disk.clone()));
    let _ = disk.fs.set(fs.clone());
    disk.warm.lock().clear();
    disk.waited.store(0, Ordering::SeqCst);
    let core = Core::new(fs, false, Box::new(String::new), Arc::default(), None);
    (core, disk)
}

/// What there is to work on: a directory of many names, with a file that has
/// attributes of its own and blocks in many pieces, a symlink and a directory.
fn furnished() -> (World, InodeNo, InodeNo) {
    let world = World::new(&["-b1024", "-I128"], 16 << 20);
    let fs = &world.fs;
    let by = &world.by;
    let dir = fs
        .mkdir(by, InodeNo::ROOT, b"dir", 0o755, 0)
        .unwrap()
        .value
        .inode;
    for n in 0..300 {
        let name = format!("a rather long name of a file that is number {n}");
        fs.create(by, dir, name.as_bytes(), 0o644, 0).unwrap();
    }
    let file = fs.create(by, dir, b"file", 0o644, 0).unwrap().value.inode;
    for n in 0..40 {
        world.write(file, n * 4096, &[7; 1000]).unwrap();
    }
    fs.setxattr(by, file, b"user.a", &[1; 200], 0).unwrap();
    fs.symlink(by, dir, b"symlink", &[b'x'; 500]).unwrap();
    fs.mkdir(by, dir, b"empty", 0o755, 0).unwrap();
    fs.journal().flush().unwrap();
    (world, dir, file)
}

#[test]
#[allow(clippy::too_many_lines)] // one request each
fn no_request_waits_for_a_disk_where_it_must_not_nor_under_a_guard() {
    use Request as R;
    let (world, dir, file) = furnished();
    let symlink = world.fs.lookup(&world.by, dir, b"symlink").unwrap().inode;
    let name = |name: &'static [u8]| -> std::borrow::Cow<'static, [u8]> { name.into() };
    let (mode, umask) = (0o644, 0);
    let requests: Vec<Request<'static>> = vec![
        R::Lookup {
            parent: dir,
            name: name(b"file"),
        },
        R::Lookup {
            parent: dir,
            name: name(b"none"),
        },
        R::GetAttr { inode: file },
        R::SetAttr {
            inode: file,
            set: SetAttr {
                size: Some(100_000),
                ..SetAttr::default()
            },
        },
        R::ReadLink { inode: symlink },
        R::Open {
            inode: file,
            flags: libc::O_RDONLY,
        },
        R::Read {
            inode: file,
            offset: 0,
            size: 65536,
            crooked: false,
        },
        R::Seek {
            inode: file,
            offset: 0,
            whence: Whence::Hole,
        },
        R::Access {
            inode: file,
            mask: 4,
        },
        R::Statfs,
        R::ListXattr { inode: file },
        R::GetXattr {
            inode: file,
            name: name(b"user.a"),
        },
        R::SetXattr {
            inode: file,
            name: name(b"user.b"),
            value: name(&[2; 100]),
            flags: 0,
        },
        R::RemoveXattr {
            inode: file,
            name: name(b"user.b"),
        },
        R::Create {
            parent: dir,
            name: name(b"new"),
            mode,
            umask,
            flags: libc::O_RDWR,
        },
        R::MakeDir {
            parent: dir,
            name: name(b"new dir"),
            mode,
            umask,
        },
        R::Symlink {
            parent: dir,
            name: name(b"new link"),
            target: name(b"t"),
        },
        R::Link {
            inode: file,
            parent: dir,
            name: name(b"other"),
        },
        R::Write {
            inode: file,
            offset: 100,
            data: name(&[3; 5000]),
            flags: WriteFlags::default(),
            durable: false,
            crooked: false,
        },
        R::Fallocate {
            inode: file,
            mode: 0,
            offset: 0,
            len: 200_000,
        },
        R::Rename {
            from: dir,
            name: name(b"file"),
            to: InodeNo::ROOT,
            new_name: name(b"moved"),
            flags: 0,
        },
        R::RemoveDir {
            parent: dir,
            name: name(b"empty"),
        },
        R::Unlink {
            parent: InodeNo::ROOT,
            name: name(b"moved"),
        },
        R::Unlink {
            parent: dir,
            name: name(b"other"),
        },
        R::Release { inode: file },
    ];
    let mut left = 0;
    for request in requests {
        let told = format!("{request:?}");
        let (core, disk) = cold(&world);
        let before = core.last();
        let works = std::cell::RefCell::new(Vec::new());
        let (tell, answer) = mpsc::channel();
        let answered = move |answer| tell.send(answer).unwrap();
        let elsewhere = |work| works.borrow_mut().push(work);
        core.serve(world.by.clone(), request, answered, Some(&elsewhere));
        assert_eq!(disk.waited.load(Ordering::SeqCst), 0, "{told} waited");
        for work in works.take() {
            assert!(answer.try_recv().is_err(), "{told}: answered and left");
            assert_eq!(core.last(), before, "{told}: changed and left");
            left += 1;
            work();
        }
        let answer = answer.try_recv().expect("an answer");
        assert!(answer.is_ok(), "{told}: {answer:?}");
        core.fs.tidy().unwrap();
        core.fs.journal().flush().unwrap();
    }
    assert!(left > 15, "only {left} would have waited");
}

#[test]
fn a_listing_gives_what_is_at_hand_and_misses_nothing() {
    let (world, dir, _) = furnished();
    for plus in [false, true] {
        let (core, disk) = cold(&world);
        let (mut names, mut from, mut left) = (HashSet::new(), 0, 0);
        loop {
            let (before, waited) = (names.len(), disk.waited.load(Ordering::SeqCst));
            let mut list = |patience| {
                let start = from;
                let mut add = |entry: Entry<'_>| {
                    assert!(!plus || entry.attr.is_some(), "without attributes");
                    names.insert(entry.name.to_vec());
                    from = entry.cookie;
                    true
                };
                core.list(&world.by, dir, start, plus, patience, &mut add)
                    .unwrap()
            };
            if !list(Patience::AtOnce) {
                left += 1;
                assert_eq!(disk.waited.load(Ordering::SeqCst), waited);
                assert!(list(Patience::Waits));
            }
            if names.len() == before {
                break;
            }
        }
        assert_eq!(names.len(), 305);
        assert!(left > 1, "nothing had to be waited for");
        core.fs.journal().flush().unwrap();
    }
}

#[test]
fn a_read_that_would_wait_gives_the_file_to_who_may() {
    let (world, _, file) = furnished();
    let (core, disk) = cold(&world);
    let mut bytes = vec![0; 40 * 4096];
    let read = core.read(file, 0, Patience::AtOnce, &mut bytes).unwrap();
    assert_eq!((read, disk.waited.load(Ordering::SeqCst)), (None, 0));
    let read = core.read(file, 0, Patience::Waits, &mut bytes).unwrap();
    // The last of its pieces ends where the file does.
    assert_eq!(read, Some(39 * 4096 + 1000));
    assert!(disk.waited.load(Ordering::SeqCst) > 0);
    for piece in bytes[..39 * 4096 + 1000].chunks(4096) {
        assert!(piece[..1000].iter().all(|byte| *byte == 7));
        assert!(piece[1000..].iter().all(|byte| *byte == 0));
    }
    let mut again = vec![0; bytes.len()];
    let read = core.read(file, 0, Patience::AtOnce, &mut again).unwrap();
    assert_eq!((read, again == bytes), (Some(39 * 4096 + 1000), true));
}

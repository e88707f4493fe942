//! What programs rely on and suites seldom reach, each with its own promise;
//! where kernel ext4 can make it too, it must.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::{Resource, getrlimit};
use rustix::fs::{FlockOperation, flock};

use crate::daemon::World;
use crate::needs_fuse;
use crate::support::images::{DEBIAN, Image, run};
use crate::support::kernel::{self, Mount};

/// Who keeps the promises: an image, and who mounts it.
enum Side {
    Ours(World),
    Kernels(Image),
}

/// Ours; and kernel ext4, where it may be mounted.
fn sides() -> Vec<Side> {
    let mut sides = vec![Side::Ours(World::new("64M"))];
    if kernel::allowed() {
        sides.push(Side::Kernels(DEBIAN.make(64 << 20)));
    }
    sides
}

impl Side {
    /// What `work` makes of the mount, with an option of mount(8).
    fn mounted<T>(&mut self, option: &str, work: impl FnOnce(&Path) -> T) -> T {
        match self {
            Side::Ours(world) => {
                eprintln!("on journalfs, {option}:");
                world.mount(&["-o", option]);
                let made = work(&world.point());
                world.umount_and_judge();
                made
            }
            Side::Kernels(image) => {
                eprintln!("on kernel ext4, {option}:");
                let options = format!("loop,{option}");
                let mount = Mount::with_options(image.path(), &options).unwrap();
                let made = work(mount.path());
                mount.unmount();
                made
            }
        }
    }
}

fn rw(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

/// A program of a few lines, with the file's path in `$1`.
fn python(path: &Path, lines: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", lines]).arg(path).stdin(Stdio::null());
    command
}

#[test]
fn appends_of_several_processes_are_neither_lost_nor_torn() {
    needs_fuse!();
    for mut side in sides() {
        side.mounted("rw", append_from_four);
    }
}

fn append_from_four(dir: &Path) {
    let path = dir.join("log");
    let lines = "import os, sys\n\
        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n\
        for n in range(300):\n\
        \x20   line = (f'{sys.argv[2]} {n} ' + sys.argv[2] * (n % 90) + '\\n').encode()\n\
        \x20   assert os.write(fd, line) == len(line)\n";
    let writers: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .map(|who| python(&path, lines).arg(who).spawn().unwrap())
        .collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let text = fs::read_to_string(&path).unwrap();
    for who in ["a", "b", "c", "d"] {
        let own: Vec<&str> = text.lines().filter(|line| line.starts_with(who)).collect();
        let want = (0..300).map(|n| format!("{who} {n} {}", who.repeat(n % 90)));
        assert!(own.iter().copied().eq(want), "lines of {who}");
    }
    assert_eq!(text.lines().count(), 1200);
}

#[test]
fn a_map_shared_by_two_processes_shows_what_either_writes() {
    needs_fuse!();
    for mut side in sides() {
        side.mounted("rw", share_a_map);
        let bytes = side.mounted("ro", |dir| fs::read(dir.join("shared")).unwrap());
        assert_eq!(
            (&bytes[..8], &bytes[8000..8005]),
            (&b"from map"[..], &b"again"[..])
        );
    }
}

fn share_a_map(dir: &Path) {
    let path = dir.join("shared");
    let file = rw(&path);
    file.set_len(8192).unwrap();
    // The other process stores into its map, and sees what is written with write(2).
    file.write_all_at(b"from write", 4096).unwrap();
    let lines = "import mmap, sys\n\
        f = open(sys.argv[1], 'r+b')\n\
        m = mmap.mmap(f.fileno(), 8192)\n\
        assert m[4096:4106] == b'from write', m[4096:4106]\n\
        m[0:8] = b'from map'\n\
        sys.stdout.write('stored'); sys.stdout.flush()\n\
        sys.stdin.read(1)\n\
        assert m[8000:8005] == b'again', m[8000:8005]\n\
        m.flush()\n";
    let mut other = python(&path, lines);
    let mut other = other
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stored = [0; 6];
    other
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut stored)
        .unwrap();
    let mut seen = [0; 8];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"from map", "read(2) sees another's store");
    file.write_all_at(b"again", 8000).unwrap();
    other.stdin.take().unwrap().write_all(b"x").unwrap();
    assert!(other.wait().unwrap().success());
}

#[test]
fn locks_of_files_and_of_ranges_hold_between_processes() {
    needs_fuse!();
    for mut side in sides() {
        side.mounted("rw", lock);
    }
}

fn lock(dir: &Path) {
    let path = dir.join("locked");
    let file = rw(&path);
    file.set_len(100).unwrap();
    let attempt = |kind: &str, range: &str| {
        let lines = format!(
            "import fcntl, sys\n\
             f = open(sys.argv[1], 'r+b')\n\
             try:\n\
             \x20   fcntl.{kind}(f, fcntl.LOCK_EX | fcntl.LOCK_NB{range})\n\
             except OSError:\n\
             \x20   sys.exit(9)\n"
        );
        python(&path, &lines).status().unwrap().code()
    };
    flock(&file, FlockOperation::LockExclusive).unwrap();
    assert_eq!(attempt("flock", ""), Some(9));
    assert_eq!(attempt("lockf", ", 10, 0"), Some(0), "the kinds are apart");
    flock(&file, FlockOperation::Unlock).unwrap();
    assert_eq!(attempt("flock", ""), Some(0));

    let lock = |kind: i32| libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 10,
        l_len: 20,
        l_pid: 0,
    };
    let held = lock(libc::F_WRLCK);
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&held)).unwrap();
    assert_eq!(attempt("lockf", ", 10, 25"), Some(9));
    assert_eq!(attempt("lockf", ", 10, 30"), Some(0), "behind the range");
    let free = lock(libc::F_UNLCK);
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&free)).unwrap();
    assert_eq!(attempt("lockf", ", 10, 25"), Some(0));
}

/// Whether a read moves the access time, of a file that was read before
/// (`old`: two days ago) and is older still.
fn atime_moves(side: &mut Side, option: &str, old: bool) -> bool {
    let file = |dir: &Path| dir.join("file");
    side.mounted("rw", |dir| {
        fs::write(file(dir), "text").unwrap();
        let ago = |days: u64| SystemTime::now() - Duration::from_secs(days * 24 * 3600);
        let read = if old {
            ago(2)
        } else {
            ago(0) - Duration::from_secs(60)
        };
        let times = fs::FileTimes::new().set_accessed(read).set_modified(ago(9));
        rw(&file(dir)).set_times(times).unwrap();
    });
    // ctime is now: later than atime, which relatime takes for unread.
    side.mounted("strictatime", |dir| {
        if !old {
            fs::read(file(dir)).unwrap();
        }
    });
    let atime = |dir: &Path| fs::metadata(file(dir)).unwrap().atime_nsec();
    // (Of a mount of its own: the read must reach the daemon.)
    let before = side.mounted(option, |dir| {
        let before = atime(dir);
        fs::read(file(dir)).unwrap();
        before
    });
    before != side.mounted("ro", atime)
}

#[test]
fn access_times_move_as_the_mount_says() {
    needs_fuse!();
    for mut side in sides() {
        let mut moves = |option, old| atime_moves(&mut side, option, old);
        assert!(moves("strictatime", false));
        assert!(!moves("relatime", false), "read since the last change");
        assert!(moves("relatime", true), "not read since");
        assert!(!moves("noatime", true));
        assert!(moves("nodiratime,strictatime", true), "it is a file");
        assert!(listing_moves(&mut side, "strictatime"));
        assert!(!listing_moves(&mut side, "strictatime,nodiratime"));
    }
}

/// Whether a read moves the access time of a file that was read some hours
/// ago, and last changed long before.
fn atime_moves_after(side: &mut Side, option: &str, hours: u64) -> bool {
    let file = |dir: &Path| dir.join("read");
    side.mounted("rw", |dir| fs::write(file(dir), "text").unwrap());
    let image = match side {
        Side::Ours(world) => world.image(),
        Side::Kernels(image) => image.path().to_owned(),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    // Nobody but a tool on the image can set ctime.
    for (field, ago) in [("ctime", 900), ("mtime", 900), ("atime", hours)] {
        let request = format!("sif read {field} @{}", now - ago * 3600);
        let mut debugfs = Command::new("debugfs");
        run(debugfs.args(["-w", "-R", &request]).arg(&image));
    }
    let atime = |dir: &Path| fs::metadata(file(dir)).unwrap().atime();
    let before = side.mounted(option, |dir| {
        let before = atime(dir);
        assert_eq!(before as u64, now - hours * 3600);
        fs::read(file(dir)).unwrap();
        before
    });
    before != side.mounted("ro", atime)
}

#[test]
fn relatime_notes_a_read_a_day_after_the_last() {
    needs_fuse!();
    for mut side in sides() {
        assert!(!atime_moves_after(&mut side, "relatime", 23));
        assert!(atime_moves_after(&mut side, "relatime", 25));
        assert!(!atime_moves_after(&mut side, "noatime", 25));
    }
}

#[test]
fn a_removed_file_that_is_held_by_its_path_alone_keeps_its_attributes() {
    needs_fuse!();
    for mut side in sides() {
        let again = side.mounted("rw", hold_by_path);
        // The kernel tells no daemon that somebody holds a file without having it open.
        match side {
            Side::Ours(_) => assert_eq!(again.unwrap_err(), Errno::ESTALE),
            Side::Kernels(_) => assert_eq!(again.unwrap(), b"held"),
        }
    }
}

/// What comes of opening it again after it was removed.
fn hold_by_path(dir: &Path) -> Result<Vec<u8>, Errno> {
    let path = dir.join("held");
    fs::write(&path, b"held").unwrap();
    let mut options = OpenOptions::new();
    let held = options.read(true).custom_flags(libc::O_PATH).open(&path);
    let held = held.unwrap();
    let before = held.metadata().unwrap();
    fs::remove_file(&path).unwrap();
    for n in 0..50 {
        let other = dir.join(format!("{n}"));
        fs::write(&other, b"takes what is free").unwrap();
        let taken = fs::metadata(other).unwrap().ino();
        assert_ne!(taken, before.ino(), "its number is its own");
    }
    let after = held.metadata().unwrap();
    assert_eq!((after.nlink(), after.len()), (0, 4));
    let same = |meta: &fs::Metadata| (meta.ino(), meta.mode(), meta.mtime_nsec());
    assert_eq!(same(&after), same(&before));
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    fs::read(again).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()))
}

/// Adds 40 times 5 rows, as `$2`, in transactions of their own.
const SQLITE_WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for n in range(40):
    db.execute('BEGIN IMMEDIATE')
    seen = db.execute('SELECT count(*) FROM t').fetchone()[0]
    assert seen % 5 == 0, seen
    db.executemany('INSERT INTO t VALUES(?, ?)', ((sys.argv[2], n * 5 + i) for i in range(5)))
    db.execute('COMMIT')
db.close()
";

#[test]
fn four_processes_share_an_sqlite_database_in_wal_mode() {
    needs_fuse!();
    for mut side in sides() {
        side.mounted("rw", |dir| {
            let path = dir.join("wal.db");
            let make = "import sqlite3, sys\n\
                db = sqlite3.connect(sys.argv[1])\n\
                assert db.execute('PRAGMA journal_mode=WAL').fetchone()[0] == 'wal'\n\
                db.execute('CREATE TABLE t(who, n, UNIQUE(who, n))')\n\
                db.commit()\n";
            assert!(python(&path, make).status().unwrap().success());
            let start = |who: &&str| python(&path, SQLITE_WRITER).arg(who).spawn().unwrap();
            let writers: Vec<_> = ["a", "b", "c", "d"].iter().map(start).collect();
            for mut writer in writers {
                assert!(writer.wait().unwrap().success());
            }
            assert_eq!(counted(&path), "800 ok");
        });
        let again = side.mounted("rw", |dir| counted(&dir.join("wal.db")));
        assert_eq!(again, "800 ok", "mounted again");
    }
}

/// The rows of a database, and what its own check says.
fn counted(path: &Path) -> String {
    let lines = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        print(db.execute('SELECT count(*) FROM t').fetchone()[0],\n\
        \x20   db.execute('PRAGMA integrity_check').fetchone()[0])\n";
    let output = python(path, lines).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether the access time of a directory moves when it is listed.
fn listing_moves(side: &mut Side, option: &str) -> bool {
    let atime = |dir: &Path| fs::metadata(dir.join("listed")).unwrap().atime_nsec();
    side.mounted("rw", |dir| {
        fs::create_dir_all(dir.join("listed/inside")).unwrap()
    });
    let before = side.mounted(option, |dir| {
        let before = atime(dir);
        assert_eq!(fs::read_dir(dir.join("listed")).unwrap().count(), 1);
        before
    });
    before != side.mounted("ro", atime)
}

/// What is made in folders with and without the setgid bit, by root and by
/// one who isn't in their group: names, modes, groups.
fn groups_given(dir: &Path) -> Vec<(String, u32, u32)> {
    let lines = "import os, sys\n\
        for by in (0, 1000):\n\
        \x20   if by: os.setgroups([]); os.setgid(by); os.setuid(by)\n\
        \x20   os.umask(0)\n\
        \x20   for d in ('plain', 'setgid'):\n\
        \x20       at = f'{sys.argv[1]}/{d}/{by}-'\n\
        \x20       os.mkdir(at + 'dir', 0o775)\n\
        \x20       for mode in (0o644, 0o2775, 0o2765):\n\
        \x20           os.close(os.open(f'{at}{mode:o}', os.O_CREAT, mode))\n\
        \x20       os.mknod(at + 'fifo', 0o012775)\n";
    for (name, mode) in [("plain", 0o777), ("setgid", 0o2777)] {
        fs::create_dir(dir.join(name)).unwrap();
        std::os::unix::fs::chown(dir.join(name), None, Some(7)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(python(dir, lines).status().unwrap().success());
    let mut made = Vec::new();
    for folder in ["plain", "setgid"] {
        for entry in fs::read_dir(dir.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let name = format!("{folder}/{}", entry.file_name().display());
            made.push((name, meta.mode(), meta.gid()));
        }
    }
    made.sort();
    made
}

#[test]
fn grpid_gives_the_directorys_group_as_kernel_ext4_does() {
    needs_fuse!();
    if !kernel::allowed() {
        return;
    }
    for option in ["grpid", "nogrpid"] {
        let mut made = sides().into_iter().map(|mut side| match side {
            Side::Ours(_) => side.mounted(&format!("{option},allow_other"), groups_given),
            Side::Kernels(_) => side.mounted(option, groups_given),
        });
        let (ours, kernels) = (made.next().unwrap(), made.next().unwrap());
        assert_eq!(ours.len(), 20);
        assert_eq!(ours, kernels, "{option}");
    }
}

#[test]
fn space_is_allocated_punched_and_zeroed_and_never_moved() {
    needs_fuse!();
    for mut side in sides() {
        let moved = side.mounted("rw", allocate_punch_and_zero);
        // FUSE lets neither through to any daemon.
        match side {
            Side::Ours(_) => assert_eq!(moved, [Err(Errno::EOPNOTSUPP); 2]),
            Side::Kernels(_) => assert_eq!(moved, [Ok(()); 2]),
        }
    }
}

/// What comes of it when the file's space shall move.
fn allocate_punch_and_zero(dir: &Path) -> [nix::Result<()>; 2] {
    let path = dir.join("file");
    let mut file = rw(&path);
    file.write_all(&[7; 40960]).unwrap();
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let go = |file: &File, mode, at, len| fallocate(file, mode, at, len);
    go(&file, keep, 40960, 40960).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 40960);
    assert_eq!(file.metadata().unwrap().blocks(), 160);
    go(
        &file,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
        4096,
        8192,
    )
    .unwrap();
    go(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 20000, 100).unwrap();
    let bytes = fs::read(&path).unwrap();
    for (at, byte) in bytes.iter().enumerate() {
        let zero = (4096..12288).contains(&at) || (20000..20100).contains(&at);
        assert_eq!(*byte, if zero { 0 } else { 7 }, "byte {at}");
    }
    let seek = |at: i64, whence| nix::unistd::lseek(&file, at, whence);
    assert_eq!(seek(0, nix::unistd::Whence::SeekHole), Ok(4096));
    assert_eq!(seek(4096, nix::unistd::Whence::SeekData), Ok(12288));
    let lines = "import os, sys\n\
        to = os.open(sys.argv[1] + '.copy', os.O_WRONLY | os.O_CREAT)\n\
        sys.exit(os.copy_file_range(os.open(sys.argv[1], os.O_RDONLY), to, 5000) != 5000)\n";
    assert!(python(&path, lines).status().unwrap().success());
    assert_eq!(fs::read(dir.join("file.copy")).unwrap(), bytes[..5000]);
    [
        FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
        FallocateFlags::FALLOC_FL_INSERT_RANGE,
    ]
    .map(|moving| go(&file, moving, 4096, 4096))
}

/// Opens as many files as `$2` says, in the folder `$1`, tells that they are
/// open, and at the next line goes on with each of them.
const HOLDER: &str = "
import os, resource, sys
folder, count = sys.argv[1], int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [os.open(f'{folder}/{n}', os.O_RDWR) for n in range(count)]
print('open', flush=True)
sys.stdin.readline()
for n, file in enumerate(held):
    assert os.pread(file, 100, 0) == str(n).encode(), n
    os.pwrite(file, b'seen', 0)
    os.close(file)
";

/// There is no limit of journalfs's own: an open file costs the daemon a few
/// bytes, and what the kernel allows is what there is.
#[test]
fn fifty_thousand_files_are_open_at_a_time() {
    needs_fuse!();
    let (holders, each) = (4, 12_500);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < each + 100 {
        eprintln!("skipped: a process may open {hard} files only");
        return;
    }
    let mut world = World::new("1G");
    world.mount(&[]);
    let folders: Vec<_> = (0..holders).map(|n| world.at(&format!("{n}"))).collect();
    for folder in &folders {
        fs::create_dir(folder).unwrap();
        for n in 0..each {
            fs::write(folder.join(n.to_string()), n.to_string()).unwrap();
        }
    }
    let before = resident(&world);

    let hold = |folder| {
        let mut holder = python(folder, HOLDER);
        holder.arg(each.to_string());
        holder.stdin(Stdio::piped()).stdout(Stdio::piped());
        holder.spawn().unwrap()
    };
    let mut all: Vec<_> = folders.iter().map(|folder| hold(folder)).collect();
    for holder in &mut all {
        let mut told = [0; 5];
        holder.stdout.take().unwrap().read_exact(&mut told).unwrap();
    }
    let grown = resident(&world).saturating_sub(before);
    assert!(grown < 32 << 10, "the daemon grew by {grown} KiB");
    // Half of them lose their names on top.
    for folder in &folders[..2] {
        fs::remove_dir_all(folder).unwrap();
    }
    for mut holder in all {
        holder.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(holder.wait().unwrap().success());
    }
    assert_eq!(fs::read(folders[3].join("12499")).unwrap(), b"seen9");
    world.umount_and_judge();
}

/// The daemon's memory, in KiB.
fn resident(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse().unwrap()
}

/// Whoever has just looked a name up may still open what it meant, also when
/// the name has been given to another file since, and again.
#[test]
fn a_name_that_is_replaced_all_the_time_is_always_there() {
    needs_fuse!();
    let world = World::new("64M");
    world.mount(&[]);
    let name = world.at("name");
    fs::write(&name, "0").unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    let asked = |ask: fn(&Path) -> io::Result<()>| {
        let name = name.clone();
        thread::spawn(move || {
            while Instant::now() < end {
                ask(&name).unwrap();
            }
        })
    };
    let readers = [
        asked(|name| fs::read(name).map(drop)),
        asked(|name| fs::metadata(name).map(drop)),
        asked(|name| File::options().write(true).open(name).map(drop)),
        asked(|name| fs::set_permissions(name, fs::Permissions::from_mode(0o644))),
    ];
    let mut round = 0;
    while Instant::now() < end {
        fs::write(world.at("next"), format!("{round}")).unwrap();
        fs::rename(world.at("next"), &name).unwrap();
        round += 1;
    }
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(fs::read_to_string(&name).unwrap(), format!("{}", round - 1));
}

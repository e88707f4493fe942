//! Requests over io_uring and through /dev/fuse: the same file system, and the
//! same ends.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::daemon::World;
use crate::needs_fuse;

const CLASSIC: &[&str] = &["-o", "transport=classic"];
const PINNED: &[&str] = &["-o", "transport=classic,pinned"];
const URING: &[&str] = &["-o", "transport=uring"];

/// Those that can be had here.
fn transports() -> Vec<&'static [&'static str]> {
    let mut all = vec![CLASSIC, PINNED];
    match is_offered() {
        true => all.push(URING),
        false => eprintln!("not over io_uring: the kernel does not offer it"),
    }
    all
}

fn is_offered() -> bool {
    // (A container may forbid io_uring as such.)
    let can = io_uring::IoUring::new(2).is_ok();
    can && fs::read_to_string("/sys/module/fuse/parameters/enable_uring")
        .is_ok_and(|text| text.trim() == "Y")
}

fn patiently(what: &str, mut done: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < patience, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn status_tells_the_transport() {
    needs_fuse!();
    for options in transports() {
        let mut world = World::new("64M");
        world.mount(options);
        fs::write(world.at("file"), "through it").unwrap();
        let status = world.succeeds(&["status", world.point_str()]);
        let said = match options {
            URING => "io_uring, ",
            PINNED => " pinned threads",
            _ => "/dev/fuse, ",
        };
        let line = status.lines().find(|line| line.contains("transport"));
        assert!(line.unwrap().contains(said), "{options:?}: {status}");
        world.umount_and_judge();
    }
}

/// proc(5): the nice value is the 19th field of a task's `stat`.
#[test]
fn the_threads_of_rings_go_before_programs_where_they_may() {
    needs_fuse!();
    let may = || rustix::process::setpriority_process(None, -5).is_ok(); // (this thread)
    if !is_offered() || !thread::spawn(may).join().unwrap() {
        return eprintln!("skipped: no rings, or none that may");
    }
    let mut world = World::new("64M");
    world.mount(URING);
    let nice_of = |name: &str| -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", world.pid())).unwrap();
        let stats =
            tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
        let named = stats.filter(|stat| stat.contains(&format!("({name}")));
        let nice = named.map(|stat| stat.split(' ').nth(18).unwrap().to_owned());
        nice.collect()
    };
    let rings = nice_of("ring-");
    assert!(
        !rings.is_empty() && rings.iter().all(|nice| nice == "-5"),
        "{rings:?}"
    );
    assert_eq!(nice_of("committer"), ["0"], "nobody else does");
    world.umount_and_judge();
}

#[test]
fn io_uring_that_is_switched_off_is_refused_and_not_missed() {
    needs_fuse!();
    if is_offered() || io_uring::IoUring::new(2).is_err() {
        return eprintln!("skipped: fuse.enable_uring is on, or io_uring forbidden");
    }
    let mut world = World::new("64M");
    let mount = ["mount", URING[0], URING[1]];
    let line = world.fails(
        32,
        &[&mount[..], &[world.image_str(), world.point_str()]].concat(),
    );
    assert!(line.contains("transport=uring: "), "{line}");
    assert!(line.contains("enable_uring"), "{line}");
    world.mount(&[]);
    world.umount_and_judge();
}

#[test]
fn after_a_lazy_unmount_open_files_are_served_to_their_end() {
    needs_fuse!();
    for options in transports() {
        let mut world = World::new("64M");
        world.mount_to_kill(options);
        let mut file = File::create(world.at("file")).unwrap();
        journalfs::fuse::point::unmount(&world.point(), true).unwrap();
        assert!(!world.is_mounted());
        file.write_all(b"written later").unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 13);
        drop(file);
        let mut daemon = world.daemon.take().unwrap();
        assert!(daemon.wait().unwrap().success(), "{options:?}");
        crate::support::e2fsck::assert_clean(&world.image());
        world.mount(&[]);
        assert_eq!(fs::read(world.at("file")).unwrap(), b"written later");
        world.umount();
    }
}

/// The kernel's way to get rid of a file system that does not answer.
#[test]
fn an_aborted_mount_ends_with_its_requests_and_loses_nothing() {
    needs_fuse!();
    for options in transports() {
        let mut world = World::new("64M");
        world.mount_to_kill(options);
        fs::write(world.at("before"), "kept").unwrap();
        let connection = fs::metadata(world.point()).unwrap().dev();
        let abort = format!(
            "/sys/fs/fuse/connections/{}/abort",
            nix::sys::stat::minor(connection)
        );
        if !Path::new(&abort).exists() {
            let _ = Command::new("mount")
                .args(["-t", "fusectl", "none", "/sys/fs/fuse/connections"])
                .status();
        }
        if !Path::new(&abort).exists() {
            eprintln!("skipped: {abort} is missing");
            return world.umount();
        }
        // Some requests are under way all the time. (What is made when the mount
        // has gone lies in the directory below it.)
        let folder = world.point().to_owned();
        let busy = thread::spawn(move || {
            let mut acknowledged = 0;
            let make = |n: u32| {
                let file = File::create(folder.join(format!("file-{n}")))?;
                file.sync_all()?;
                Ok::<_, std::io::Error>(file.metadata()?.dev())
            };
            while make(acknowledged).is_ok_and(|device| device == connection) {
                acknowledged += 1;
            }
            acknowledged
        });
        thread::sleep(Duration::from_millis(100));
        fs::write(&abort, "1").unwrap();
        let acknowledged: u32 = busy.join().unwrap();
        let mut daemon = world.daemon.take().unwrap();
        patiently("the daemon does not end", || {
            daemon.try_wait().unwrap().is_some()
        });
        world.detach_dead();
        world.mount(&[]);
        assert_eq!(fs::read(world.at("before")).unwrap(), b"kept");
        for n in 0..acknowledged {
            assert!(world.at(&format!("file-{n}")).exists(), "{options:?}: {n}");
        }
        world.umount_and_judge();
    }
}

/// More requests than a processor has slots wait, and none is forgotten: each
/// waits for a sync, which is answered by another thread.
#[test]
fn more_programs_than_slots_sync_at_once() {
    needs_fuse!();
    for options in transports() {
        let mut world = World::new("64M");
        world.mount(options);
        let syncing = |n: u32| {
            let path = world.at(&format!("file-{n}"));
            thread::spawn(move || {
                let mut file = File::create(path).unwrap();
                for round in 0..5u8 {
                    file.write_all(&[round; 100]).unwrap();
                    file.sync_all().unwrap();
                }
            })
        };
        let threads: Vec<_> = (0..150).map(syncing).collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        for n in 0..150 {
            assert_eq!(fs::read(world.at(&format!("file-{n}"))).unwrap().len(), 500);
        }
        world.umount_and_judge();
    }
}

/// What a disk must be waited for is read by other threads than serve, several
/// at a time, and is what was written.
#[test]
fn what_the_host_has_forgotten_is_read_as_it_was_written() {
    needs_fuse!();
    for options in transports() {
        let mut world = World::new("64M");
        world.mount(options);
        fs::create_dir(world.at("dir")).unwrap();
        let bytes = |n: usize| -> Vec<u8> {
            let numbers = (0..1 << 18).map(|at| (at * 31 + n) as u32);
            numbers.flat_map(u32::to_le_bytes).collect()
        };
        for n in 0..16 {
            fs::write(world.at(&format!("dir/{n}")), bytes(n)).unwrap();
        }
        world.umount();
        let image = File::open(world.image()).unwrap();
        image.sync_all().unwrap();
        posix_fadvise(&image, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        world.mount(options);
        thread::scope(|scope| {
            for first in 0..4 {
                let world = &world;
                scope.spawn(move || {
                    for n in (first..16).step_by(4) {
                        let read = fs::read(world.at(&format!("dir/{n}"))).unwrap();
                        assert!(read == bytes(n), "{options:?}: file {n}");
                        assert_eq!(fs::read_dir(world.at("dir")).unwrap().count(), 16);
                    }
                });
            }
        });
        world.umount_and_judge();
    }
}

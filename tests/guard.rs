//! The image and its guard: who refuses what, when, and what a power cut
//! leaves of a mount and of an unmount.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use journalfs::device::crash::{Frontier, Plan};
use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::device::{Dir, Disk};
use journalfs::fs::mount::{self, Course, Error, Mounted, Options};
use journalfs::fs::{Caller, Fs, guard};
use journalfs::units::{InodeNo, StepClock, Time};
use support::images::{DEBIAN, Image, Variant, pages_of};
use support::kernel::{self, Mount};

const IMAGE: u64 = 4 << 20;

fn options(seed: u64) -> Options {
    Options {
        segment_size: Some(128 << 10),
        segments: Some(6),
        clock: Arc::new(StepClock::new(Time {
            secs: 1_700_000_000,
            nanos: 0,
        })),
        seed,
        point: b"/mnt/test".to_vec(),
        ..Options::default()
    }
}

fn read_only(seed: u64) -> Options {
    let mut options = options(seed);
    options.fs.read_only = true;
    options
}

fn variants() -> [Variant; 4] {
    ["debian", "no-journal", "1k-blocks", "no-metadata-csum"].map(Variant::named)
}

/// A host in memory. What is on it when a test is done must recover to an image
/// that e2fsck finds nothing in; where a test makes what can't recover, it
/// takes a plain [`Host`].
struct Judged(Arc<Host>);

impl Judged {
    fn new(start: Snapshot) -> Self {
        Judged(Host::new(start))
    }
}

impl std::ops::Deref for Judged {
    type Target = Arc<Host>;

    fn deref(&self) -> &Arc<Host> {
        &self.0
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let left = Host::new(self.0.kill());
            support::e2fsck::assert_recovers_clean(left.image(), left.folder());
        }
    }
}

/// An image on a host in memory, with no journal yet.
fn host(image: &Image) -> Judged {
    Judged::new(alone(image))
}

fn alone(image: &Image) -> Snapshot {
    Snapshot {
        image: pages_of(image.path()),
        files: BTreeMap::new(),
    }
}

fn open(host: &Arc<Host>, options: Options) -> mount::Result<mount::Opened> {
    mount::open(host.image(), host.folder(), options)
}

#[track_caller]
fn mounted(host: &Arc<Host>, options: Options) -> Mounted {
    let opened = open(host, options).unwrap_or_else(|e| panic!("{e}"));
    opened.mount().unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn refusal(opened: mount::Result<mount::Opened>) -> Error {
    match opened {
        Ok(opened) => panic!("opened, to {:?}", opened.course()),
        Err(error) => error,
    }
}

fn make(fs: &Fs, name: &str, data: &[u8]) {
    let by = Caller::default();
    let file = fs
        .create(&by, InodeNo::ROOT, name.as_bytes(), 0o644, 0)
        .unwrap()
        .value
        .inode;
    fs.write(&by, file, 0, data, Default::default()).unwrap();
}

fn has(fs: &Fs, name: &str) -> bool {
    fs.lookup(&Caller::default(), InodeNo::ROOT, name.as_bytes())
        .is_ok()
}

/// A file with these bytes.
fn written(pages: &Pages) -> Image {
    let file = Image::blank(0);
    file.write_back(&MemoryDisk::from_pages(pages.clone()));
    file
}

fn superblock(pages: &Pages) -> guard::Raw {
    let mut raw = [0; 1024];
    pages.read(&mut raw, 1024);
    raw
}

fn e2fsck(image: &Path, how: &str) -> i32 {
    let done = Command::new("e2fsck")
        .args(["-f", how])
        .arg(image)
        .env("PATH", support::images::path_with_sbin())
        .output()
        .expect("e2fsck is installed");
    done.status.code().unwrap_or(-1)
}

#[test]
fn e2fsck_refuses_a_guarded_image_and_changes_nothing() {
    for variant in variants() {
        let image = variant.make(IMAGE);
        let host = host(&image);
        let session = mounted(&host, options(1));
        make(session.fs(), "a", b"hello");
        let guarded = written(&host.kill().image);
        let before = std::fs::read(guarded.path()).unwrap();
        for how in ["-n", "-p", "-y"] {
            let code = e2fsck(guarded.path(), how);
            assert!(
                code == 12 || code == 8,
                "{}: e2fsck {how} exits {code}",
                variant.name
            );
            assert!(
                std::fs::read(guarded.path()).unwrap() == before,
                "{}: changed by {how}",
                variant.name
            );
        }
    }
}

#[test]
fn the_kernel_refuses_a_guarded_image_for_writing_and_for_reading() {
    if !kernel::allowed() {
        return;
    }
    for variant in variants() {
        let image = variant.make(IMAGE);
        let host = host(&image);
        let session = mounted(&host, options(1));
        make(session.fs(), "a", b"hello");
        let guarded = written(&host.kill().image);
        let before = std::fs::read(guarded.path()).unwrap();
        for how in ["loop,rw", "loop,ro"] {
            let mounted = Mount::attempt(guarded.path(), how);
            assert!(
                mounted.is_err(),
                "{}: the kernel mounts it {how}",
                variant.name
            );
        }
        assert!(
            std::fs::read(guarded.path()).unwrap() == before,
            "{}: changed",
            variant.name
        );
    }
}

#[test]
fn an_unmounted_image_is_an_ordinary_one() {
    for variant in variants() {
        let image = variant.make(IMAGE);
        let before = superblock(&pages_of(image.path()));
        let host = host(&image);
        let session = mounted(&host, options(1));
        assert_eq!(session.course(), Course::First);
        make(session.fs(), "a", &[7; 5000]);
        session.close().unwrap();
        let after = written(&host.kill().image);
        support::e2fsck::assert_clean(after.path());
        let sb = superblock(&host.kill().image);
        assert_eq!(sb[0x5C..0x60], before[0x5C..0x60], "compat features");
        assert_eq!(sb[0xD0..0xE8], before[0xD0..0xE8], "journal fields");
        assert_eq!(sb[0x34], before[0x34] + 1, "s_mnt_count");
        assert_eq!(&sb[0x88..0x92], b"/mnt/test\0");
        assert_eq!(sb[0x40..0x44], before[0x40..0x44], "s_lastcheck");
        if let Some(mount) = Mount::read_write(after.path()) {
            assert_eq!(std::fs::read(mount.at("a")).unwrap(), [7; 5000]);
            mount.unmount();
        }
    }
}

#[test]
fn what_no_release_came_for_is_freed_at_the_unmount() {
    // The kernel drops releases that it has not sent when a mount ends: an
    // inode without a name stayed on the chain of an image without a guard.
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    let session = mounted(&host, options(1));
    make(session.fs(), "a", &[7; 5000]);
    let by = Caller::default();
    let file = session.fs().lookup(&by, InodeNo::ROOT, b"a").unwrap().inode;
    session.fs().open(&by, file, libc::O_RDONLY).unwrap();
    session.fs().unlink(&by, InodeNo::ROOT, b"a").unwrap();
    session.close().unwrap();
    support::e2fsck::assert_clean(written(&host.kill().image).path());
}

#[test]
fn the_history_goes_on_while_nobody_else_writes() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    let first = mounted(&host, options(1));
    make(first.fs(), "a", b"1");
    let last = first.fs().journal().watermarks().appended;
    first.close().unwrap();
    let second = mounted(&host, options(2));
    assert_eq!(second.course(), Course::GoOn);
    assert!(second.last() > last);
    assert!(has(second.fs(), "a"));
    second.close().unwrap();
}

#[test]
fn an_image_that_others_have_written_to_is_another_timeline() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    mounted(&host, options(1)).close().unwrap();
    let left = host.kill();
    let elsewhere = written(&left.image);
    support::images::run(
        Command::new("tune2fs")
            .args(["-L", "other"])
            .arg(elsewhere.path()),
    );
    let host = Judged::new(Snapshot {
        image: pages_of(elsewhere.path()),
        ..left
    });
    let session = mounted(&host, options(2));
    assert_eq!(session.course(), Course::Anew);
    make(session.fs(), "b", b"2");
    session.close().unwrap();
}

#[test]
fn an_unguarded_image_is_never_replayed_into() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    let session = mounted(&host, options(1));
    make(session.fs(), "a", b"1");
    session.fs().journal().sync().unwrap();
    // An old copy of the image, without the guard.
    let host = Judged::new(Snapshot {
        image: pages_of(image.path()),
        files: host.kill().files,
    });
    let session = mounted(&host, options(2));
    assert_eq!(session.course(), Course::Anew);
    assert!(!has(session.fs(), "a"));
}

#[test]
fn a_guarded_image_without_its_journal_is_refused_by_uuid() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    let _session = mounted(&host, options(1));
    let alone = Host::new(Snapshot {
        image: host.kill().image,
        files: BTreeMap::new(),
    });
    for options in [options(2), read_only(2)] {
        let error = refusal(open(&alone, options));
        assert!(matches!(error, Error::NoJournal(_)), "{error}");
    }
    assert_eq!(alone.events(), 0);
}

#[test]
fn another_images_journal_is_refused() {
    let image = DEBIAN.make(IMAGE);
    let one = host(&image);
    let _one = mounted(&one, options(1));
    let two = host(&image);
    let _two = mounted(&two, options(2));
    let mixed = Host::new(Snapshot {
        image: one.kill().image,
        files: two.kill().files,
    });
    let error = refusal(open(&mixed, options(3)));
    assert!(matches!(error, Error::OtherJournal { .. }), "{error}");
    assert_eq!(mixed.events(), 0);
}

#[test]
fn recover_leaves_a_clean_image_and_a_second_one_writes_nothing() {
    let image = Variant::named("1k-blocks").make(IMAGE);
    let host = host(&image);
    let session = mounted(&host, options(1));
    make(session.fs(), "a", &[1; 3000]);
    let host = Judged::new(host.kill());
    let done = mount::recover(host.image(), host.folder(), options(2)).unwrap();
    assert!(done.is_some_and(|report| report.operations >= 2));

    let again = Judged::new(host.kill());
    assert!(
        mount::recover(again.image(), again.folder(), options(3))
            .unwrap()
            .is_none()
    );
    assert_eq!(again.events(), 0);
    assert!(has(mounted(&again, options(4)).fs(), "a"));
}

#[test]
fn a_read_only_mount_of_a_lagging_image_shows_everything_and_writes_nothing() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    let session = mounted(&host, options(1));
    make(session.fs(), "a", &[1; 3000]);
    let host = Judged::new(host.kill());
    let session = mounted(&host, read_only(2));
    assert!(has(session.fs(), "a"));
    assert!(
        session
            .fs()
            .unlink(&Caller::default(), InodeNo::ROOT, b"a")
            .is_err()
    );
    session.close().unwrap();
    assert_eq!(host.events(), 0);
    assert_eq!(open(&host, options(3)).unwrap().course(), Course::Recover);
}

#[test]
fn unsuitable_images_are_refused_in_one_line() {
    let refused = |image: &Image| {
        let host = Host::new(alone(image));
        let error = refusal(open(&host, options(1)));
        assert_eq!(host.events(), 0);
        let words = error.to_string();
        assert!(!words.contains('\n'), "{words}");
        words
    };
    assert!(refused(&Image::blank(1 << 20)).contains("ext4"));
    assert!(refused(&Image::blank(100)).contains("ext4"));

    let unclean = DEBIAN.make(IMAGE);
    unclean.debugfs("ssv state 0");
    assert!(refused(&unclean).contains("e2fsck"));
    let errors = DEBIAN.make(IMAGE);
    errors.debugfs("ssv state 3");
    assert!(refused(&errors).contains("e2fsck"));
    let unreplayable = DEBIAN.make(IMAGE);
    unreplayable.debugfs("feature needs_recovery");
    unreplayable.debugfs("ssv journal_inum 7");
    unreplayable.debugfs("ssv jnl_backup_type 0");
    assert!(refused(&unreplayable).contains("e2fsck -f"));

    let quota = Variant {
        name: "quota",
        args: &["-b4096", "-Oquota"],
    }
    .make(IMAGE * 4);
    assert!(refused(&quota).contains("quota"));
    assert!(open(&Host::new(alone(&quota)), read_only(1)).is_ok());
    let inline = Variant {
        name: "inline",
        args: &["-b4096", "-I256", "-Oinline_data"],
    }
    .make(IMAGE);
    assert!(refused(&inline).contains("inline_data"));

    let short = DEBIAN.make(IMAGE);
    std::fs::OpenOptions::new()
        .write(true)
        .open(short.path())
        .unwrap()
        .set_len(IMAGE / 2)
        .unwrap();
    assert!(refused(&short).contains("bytes"));
}

#[test]
fn errors_noted_on_a_guarded_image_stay_noted() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    let session = mounted(&host, options(1));
    make(session.fs(), "a", b"1");
    // As a stubborn tool would leave it.
    let mut left = host.kill();
    let mut sb = superblock(&left.image);
    sb[0x3A] |= 2;
    sb[0x194] = 1;
    journalfs::ext4::superblock::seal(&mut sb);
    left.image.write(&sb, 1024);
    let host = Host::new(left);
    let refused = open(&host, options(2)).unwrap().mount();
    assert!(matches!(refused, Err(Error::HasErrors(_))));
    assert_eq!(host.events(), 0);
    mount::recover(host.image(), host.folder(), options(3))
        .unwrap()
        .expect("there is something to do");
    support::e2fsck::assert_clean(written(&host.kill().image).path());
    let sb = superblock(&host.kill().image);
    assert!(guard::has_errors(&sb));
    assert_eq!(sb[0x194], 1);
    assert!(matches!(
        refusal(open(&host, options(4))),
        Error::HasErrors("")
    ));
}

#[test]
fn a_torn_superblock_is_repaired_from_the_journal() {
    for variant in variants() {
        let image = variant.make(IMAGE);
        let host = host(&image);
        let session = mounted(&host, options(1));
        make(session.fs(), "a", &[1; 3000]);
        let mut left = host.kill();
        left.image.write(&[0xA5; 512], 1024);
        let torn = Host::new(left);
        // Its first blocks have changed since: nothing vouches for it.
        assert!(
            matches!(refusal(open(&torn, options(2))), Error::Unrecognised),
            "{}",
            variant.name
        );
        session.close().unwrap();

        let mut left = host.kill();
        left.image.write(&[0xA5; 512], 1024);
        let torn = Judged::new(left);
        let session = mounted(&torn, options(3));
        assert!(has(session.fs(), "a"));
        session.close().unwrap();
    }
}

/// Something else was written over the image: its journal must not be
/// taken for a reason to repair it.
#[test]
fn an_overwritten_image_is_not_repaired() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    mounted(&host, options(1)).close().unwrap();
    let mut left = host.kill();
    left.image.write(&vec![0x5A; IMAGE as usize], 0);
    let host = Host::new(left);
    assert!(matches!(
        refusal(open(&host, options(2))),
        Error::Unrecognised
    ));
    assert_eq!(host.events(), 0);
}

/// Cuts at every change of a mount, some work, and the unmount; each time
/// the image must come back clean, with everything that was synced.
#[test]
fn a_cut_at_any_point_of_a_session_leaves_an_image_that_recovers() {
    for (variant, every) in variants().into_iter().zip([1, 1, 3, 3]) {
        let image = variant.make(IMAGE);
        let host = host(&image);
        let session = mounted(&host, options(1));
        make(session.fs(), "a", &[1; 3000]);
        session.fs().journal().sync().unwrap();
        let synced = host.events();
        make(session.fs(), "b", &[2; 3000]);
        session.close().unwrap();
        let closed = host.events();

        let mut frontier = Frontier::new(&host.start());
        for (at, event) in host.trace().iter().enumerate() {
            if at % every == 0 {
                let (snapshot, _) = frontier.crash(&Plan::random(frontier.pending(), at as u64));
                let what = format!("{}, cut at {at} of {closed}", variant.name);
                assert_recovers(snapshot, at > synced, &what);
            }
            frontier.pass(event);
        }
    }
}

#[track_caller]
fn assert_recovers(snapshot: Snapshot, synced: bool, what: &str) {
    let host = Judged::new(snapshot);
    mount::recover(host.image(), host.folder(), options(77))
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let sb = superblock(&host.kill().image);
    assert_eq!(guard::standing(&sb), guard::Standing::Plain, "{what}");
    support::e2fsck::assert_clean(written(&host.kill().image).path());
    let session = mounted(&host, options(78));
    assert!(
        !synced || has(session.fs(), "a"),
        "{what}: what was synced is gone"
    );
}

#[test]
fn cuts_of_a_recovery_are_recovered_from() {
    let image = Variant::named("no-metadata-csum").make(IMAGE);
    let host = host(&image);
    let session = mounted(&host, options(1));
    make(session.fs(), "a", &[1; 3000]);
    session.fs().journal().sync().unwrap();
    make(session.fs(), "b", &[2; 3000]);
    let host = Judged::new(host.cut(5));
    mount::recover(host.image(), host.folder(), options(2)).unwrap();
    let mut frontier = Frontier::new(&host.start());
    for (at, event) in host.trace().iter().enumerate() {
        let (snapshot, _) = frontier.crash(&Plan::random(frontier.pending(), at as u64));
        assert_recovers(snapshot, true, &format!("recovery cut at {at}"));
        frontier.pass(event);
    }
}

/// Opens what was in use until now. A child that another test is just starting
/// has this process's locks until it runs its program.
fn when_free(image: &Path) -> mount::Opened {
    for _ in 0..500 {
        match mount::open_host(image, None, options(0)) {
            Err(Error::InUse(_)) => std::thread::sleep(std::time::Duration::from_millis(10)),
            other => return other.unwrap_or_else(|e| panic!("{e}")),
        }
    }
    panic!("{} stays in use", image.display());
}

#[test]
fn on_a_host_an_image_has_one_user() {
    let image = DEBIAN.make(IMAGE);
    let session = mount::open_host(image.path(), None, options(0))
        .unwrap()
        .mount()
        .unwrap();
    let folder = mount::journal_folder(image.path());
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&folder).unwrap()) & 0o777,
        0o700
    );
    make(session.fs(), "a", b"1");
    let error = refusal(mount::open_host(image.path(), None, options(0)));
    assert!(matches!(error, Error::InUse(_)), "{error}");
    let other = DEBIAN.make(IMAGE);
    let error = refusal(mount::open_host(other.path(), Some(&folder), options(0)));
    assert!(matches!(error, Error::InUse(_)), "{error}");
    session.close().unwrap();
    support::e2fsck::assert_clean(image.path());
    let session = when_free(image.path()).mount().unwrap();
    assert_eq!(session.course(), Course::GoOn);
    drop(session);
    // A process that dies leaves no lock behind.
    let opened = when_free(image.path());
    assert_eq!(opened.course(), Course::Recover);
    assert!(opened.recover().unwrap().is_some());
    support::e2fsck::assert_clean(image.path());
}

#[test]
fn a_refused_image_gets_no_journal_folder() {
    let image = Image::blank(1 << 20);
    assert!(mount::open_host(image.path(), None, options(0)).is_err());
    assert!(!mount::journal_folder(image.path()).exists());
}

#[test]
fn an_image_behind_a_loop_device_is_refused() {
    let image = DEBIAN.make(IMAGE);
    let Some(mount) = Mount::read_write(image.path()) else {
        return;
    };
    let error = refusal(mount::open_host(image.path(), None, options(0)));
    assert!(matches!(error, Error::InUse(_)), "{error}");
    mount.unmount();
    support::e2fsck::assert_clean(image.path());
}

#[test]
fn a_journal_with_a_past_but_no_session_does_not_hold_an_image_back() {
    let image = DEBIAN.make(IMAGE);
    let disk: Arc<dyn Disk> = image.to_memory();
    let dir: Arc<dyn Dir> = Arc::new(MemoryDir::default());
    // As a cut before the first session's record leaves it.
    let fresh = journalfs::journal::Journal::open(dir.clone()).unwrap();
    let kept = journalfs::journal::Options::for_image(IMAGE, 4096);
    drop(fresh.begin_anew(disk.clone(), kept).unwrap());
    let opened = mount::open(disk.clone(), dir, options(1)).unwrap();
    let session = opened.mount().unwrap();
    make(session.fs(), "a", b"1");
    session.close().unwrap();
    support::e2fsck::assert_clean_disk(&*disk);
}

/// A host that has no space left for the image's blocks.
struct Sparse(Arc<dyn Disk>);

impl Disk for Sparse {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn allocate(&self, _: u64, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn discard(&self, _: u64, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> std::io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn without_space_to_recover_an_image_is_shown_for_reading_only() {
    let image = DEBIAN.make(IMAGE);
    let host = host(&image);
    let session = mounted(&host, options(1));
    make(session.fs(), "a", &[1; 3000]);
    let host = Judged::new(host.kill());
    let full = Arc::new(Sparse(host.image()));
    let session = mount::open(full, host.folder(), options(2))
        .unwrap()
        .mount()
        .unwrap();
    assert!(session.degraded().is_some());
    assert!(has(session.fs(), "a"));
    let refused = session.fs().unlink(&Caller::default(), InodeNo::ROOT, b"a");
    assert!(matches!(refused, Err(journalfs::fs::Error::ReadOnly(_))));
    session.close().unwrap();
    // With space again, nothing is lost.
    let session = mounted(&host, options(3));
    assert!(session.degraded().is_none() && has(session.fs(), "a"));
    session.close().unwrap();
}

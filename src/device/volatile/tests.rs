//! What faults do to a host in memory.

use super::*;

/// A host whose image is a page of ones, with these faults.
fn host(faults: &[&str]) -> (Arc<Host>, Arc<dyn Disk>) {
    let host = Host::new(Snapshot {
        image: Pages::from_bytes(&[1; 4096]),
        files: BTreeMap::new(),
    });
    for fault in faults {
        host.faults().arm(fault.parse().unwrap());
    }
    let image = host.image();
    (host, image)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// What stands on the disk if the power fails and nothing pending is kept.
fn stable(host: &Host) -> Vec<u8> {
    let mut frontier = Frontier::new(&host.start());
    host.trace().iter().for_each(|event| frontier.pass(event));
    frontier.crash(&Plan::default()).0.image.to_vec()
}

#[test]
fn calls_that_fail_change_nothing() {
    let (host, image) = host(&["any:eio"]);
    let folder = host.folder();
    let failed = [
        errno(image.read_at(&mut [0], 0)),
        errno(image.write_at(&[2; 512], 0)),
        errno(image.set_len(1)),
        errno(image.allocate(0, 9000)),
        errno(image.discard(0, 512)),
        errno(image.sync()),
        errno(folder.list()),
        errno(folder.open("a")),
        errno(folder.create("a")),
        errno(folder.rename("a", "b")),
        errno(folder.remove("a")),
        errno(folder.sync()),
    ];
    assert_eq!(failed, [Some(libc::EIO); 12]);
    assert_eq!(host.events(), 0);
    assert_eq!(host.faults().list()[0].met, 12);
}

#[test]
fn a_short_write_leaves_its_beginning() {
    let (host, image) = host(&["write@image:enospc,part=3,times=1"]);
    assert_eq!(errno(image.write_at(&[2; 8], 100)), Some(libc::ENOSPC));
    let left = host.kill().image.to_vec();
    assert_eq!(left[98..105], [1, 1, 2, 2, 2, 1, 1]);
    image.write_at(&[2; 8], 100).unwrap();
}

#[test]
fn a_full_disk_still_takes_what_needs_no_room() {
    let (host, image) = host(&["any:enospc,room=100"]);
    image.write_at(&[2; 4096], 0).unwrap();
    assert_eq!(errno(image.allocate(0, 9000)), Some(libc::ENOSPC));
    assert_eq!(errno(image.write_at(&[2; 200], 4096)), Some(libc::ENOSPC));
    assert_eq!(host.kill().image.len(), 4196);
    image.set_len(10).unwrap();
}

#[test]
fn what_a_failed_sync_leaves_dirty_a_later_one_makes_stable() {
    let (host, image) = host(&["sync:eio,times=1"]);
    image.write_at(&[2; 512], 0).unwrap();
    assert_eq!(errno(image.sync()), Some(libc::EIO));
    assert_eq!(stable(&host)[0], 1);
    image.sync().unwrap();
    assert_eq!(stable(&host)[0], 2);
}

#[test]
fn what_a_failed_sync_forgets_is_read_and_never_stable() {
    let (host, image) = host(&["sync:eio,forget,times=1"]);
    image.write_at(&[2; 512], 0).unwrap();
    assert_eq!(errno(image.sync()), Some(libc::EIO));
    image.write_at(&[3; 512], 512).unwrap();
    image.sync().unwrap();
    let mut byte = [0];
    image.read_at(&mut byte, 0).unwrap();
    assert_eq!((byte, host.kill().image.to_vec()[0]), ([2], 2));
    assert_eq!((stable(&host)[0], stable(&host)[512]), (1, 3));
}

#[test]
fn a_failed_sync_forgets_pages_and_not_the_length() {
    let (host, image) = host(&["sync:eio,forget,times=1"]);
    image.write_at(&[2; 512], 8192).unwrap();
    assert_eq!(errno(image.sync()), Some(libc::EIO));
    image.sync().unwrap();
    assert_eq!(stable(&host)[4096..], [0; 4608]);
}

#[test]
fn a_sync_that_lies_makes_nothing_stable_and_an_honest_one_all() {
    let (host, image) = host(&["sync:lie,times=2"]);
    let folder = host.folder();
    image.write_at(&[2; 512], 0).unwrap();
    folder.create("a").unwrap();
    image.sync().unwrap();
    folder.sync().unwrap();
    assert_eq!(stable(&host)[0], 1);
    assert!(host.trace().iter().all(|event| *event != Event::SyncNames));
    image.sync().unwrap();
    assert_eq!(stable(&host)[0], 2);
}

#[test]
fn rot_is_on_the_medium_until_it_is_written_over() {
    let (host, image) = host(&["read:rot,at=512-1024,bit=1,times=1"]);
    let read = || {
        let mut byte = [0];
        image.read_at(&mut byte, 512).unwrap();
        byte[0]
    };
    image.read_at(&mut [0; 512], 0).unwrap();
    assert_eq!((read(), read()), (3, 3));
    assert_eq!(
        (stable(&host)[512], host.kill().image.to_vec()[512]),
        (3, 3)
    );
    let again = Host::killed_at(&host, host.events());
    assert_eq!(again.kill().image.to_vec()[512], 3);
    image.write_at(&[7], 512).unwrap();
    image.sync().unwrap();
    assert_eq!((read(), stable(&host)[512]), (7, 7));
}

#[test]
fn what_is_on_its_way_to_a_rotten_place_is_rotten_there() {
    let (host, image) = host(&[]);
    image.write_at(&[2; 512], 0).unwrap();
    host.rot(FileId::IMAGE, 5, 0x80);
    assert_eq!(stable(&host)[5], 0x81);
    image.sync().unwrap();
    assert_eq!((stable(&host)[4], stable(&host)[5]), (2, 0x82));
    assert_eq!(host.kill().image.to_vec(), stable(&host));
    let hash = |host: &Host| {
        let mut frontier = Frontier::new(&host.start());
        host.trace().iter().for_each(|event| frontier.pass(event));
        frontier.crash(&Plan::default()).1
    };
    // The same bytes, come by otherwise.
    assert_eq!(hash(&host), hash(&Host::new(host.kill())));
}

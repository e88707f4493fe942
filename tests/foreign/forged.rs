//! Journals of others with bytes changed at random: refused or replayed, but
//! no panic, no endless reading; and who refuses has changed nothing.

use std::sync::Arc;

use journalfs::check;
use journalfs::device::Disk;
use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use journalfs::fs::mount;

use crate::dirty::options;
use crate::support::images::{Variant, pages_of};
use crate::support::random::Seeded;

/// An image with a few transactions in its journal, and where that begins.
fn image(args: &'static [&'static str], how: &str) -> (Pages, u64) {
    let image = Variant { name: "", args }.make(8 << 20);
    let map = image.debugfs("bmap <8> 0");
    let first: u64 = map
        .lines()
        .find_map(|line| line.trim().parse().ok())
        .expect("where the journal begins");
    std::fs::write(image.folder().join("data"), [0xAB; 4096]).unwrap();
    let data = image.folder().join("data");
    let data = data.display();
    image.debugfs_script(&format!(
        "journal_open {how}\njournal_write -b 5001,5002,5003 {data}\n\
         journal_write -r 5001\njournal_write -b 5002,5004 {data}\njournal_close\n"
    ));
    (pages_of(image.path()), first)
}

#[test]
fn forged_journals_are_refused_or_replayed() {
    let layouts: [(&[&str], &str); 3] = [
        (
            &["-b1024", "-I256", "-Jsize=1", "-O^metadata_csum,^64bit"],
            "",
        ),
        (
            &["-b1024", "-I256", "-Jsize=1", "-O^metadata_csum,64bit"],
            "",
        ),
        (&["-b1024", "-I256", "-Jsize=1"], "-c -v 3"),
    ];
    let (mut random, mut refused, mut replayed) = (Seeded::new("forged"), 0, 0);
    for (args, how) in layouts {
        let (whole, first) = image(args, how);
        for _ in 0..300 {
            let mut forged = whole.clone();
            for _ in 0..random.usize(1..4) {
                let block = first + random.u64(0..12);
                let at = block * 1024 + random.u64(0..0x50);
                forged.write(&[random.u8(..)], at);
            }
            let disk = Arc::new(MemoryDisk::from_pages(forged.clone()));
            let dir = Arc::new(MemoryDir::default());
            check::run_disks(disk.clone() as Arc<dyn Disk>, None);
            let looked = mount::open(disk.clone(), dir.clone(), options(1, true));
            drop(looked.and_then(mount::Opened::mount));
            assert!(disk.pages() == forged, "written to by a reader");
            match mount::open(disk.clone(), dir.clone(), options(1, false)) {
                Err(_) => refused += 1,
                Ok(opened) => {
                    replayed += 1;
                    // (What it replays may be anything: errors are in order.)
                    drop(opened.recover());
                    continue;
                }
            }
            assert!(disk.pages() == forged, "refused, and written to");
        }
    }
    assert!(refused > 100 && replayed > 50, "{refused} {replayed}");
}

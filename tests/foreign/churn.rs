//! What a busy file system does to its journal: names that come and go, blocks
//! that are metadata first and data later, orphans.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use crate::support::random::Seeded;

/// Rounds of changes with syncs between them; some things are left undone
/// on purpose. Keep what it answers until the power has failed: open files
/// without names.
pub fn churn(root: &Path, random: &mut Seeded) -> Vec<File> {
    // In a journal, blocks that begin so are written differently.
    let magic = [0xC0, 0x3B, 0x39, 0x98].repeat(5000);
    let mut held = Vec::new();
    for round in 0..6 {
        let dir = root.join(format!("round {round}"));
        plant(&dir, random);
        sync(&dir);
        change(&dir, random);
        if round % 2 == 1 {
            sync(&dir);
        }
        // Its directories' blocks are free now: revoked, and soon data.
        if round >= 2 {
            fs::remove_dir_all(root.join(format!("round {}", round - 2))).unwrap();
            sync(root);
            let data = random.bytes(60_000);
            fs::write(root.join(format!("data {round}")), data).unwrap();
        }
        let open = dir.join("open");
        fs::write(&open, random.bytes(9000)).unwrap();
        held.push(File::open(&open).unwrap());
        fs::remove_file(&open).unwrap();
        sync(root);
    }
    fs::write(root.join("magic"), &magic).unwrap();
    sync(root);
    let cut = OpenOptions::new()
        .write(true)
        .open(root.join("magic"))
        .unwrap();
    cut.set_len(9000).unwrap();
    fs::write(root.join("perhaps"), random.bytes(5000)).unwrap();
    fs::rename(root.join("data 5"), root.join("data 4")).unwrap();
    held
}

fn plant(dir: &Path, random: &mut Seeded) {
    fs::create_dir(dir).unwrap();
    for n in 0..12 {
        let sub = dir.join(format!("directory {n}"));
        fs::create_dir(&sub).unwrap();
        for m in 0..random.usize(2..30) {
            let size = random.usize(0..9000);
            fs::write(sub.join(format!("a file, number {m}")), random.bytes(size)).unwrap();
        }
        symlink("t/".repeat(100), sub.join("symlink")).unwrap();
        fs::hard_link(sub.join("a file, number 1"), dir.join(format!("link {n}"))).unwrap();
        // (Where attributes need a block of their own.)
        let _ = xattr::set(&sub, "user.large", &random.bytes(300));
    }
}

fn change(dir: &Path, random: &mut Seeded) {
    for n in 0..12 {
        let sub = dir.join(format!("directory {n}"));
        match n % 4 {
            0 => fs::remove_dir_all(&sub).unwrap(),
            1 => fs::rename(&sub, dir.join(format!("renamed {n}"))).unwrap(),
            2 => {
                let file = OpenOptions::new()
                    .write(true)
                    .open(sub.join("a file, number 0"))
                    .unwrap();
                file.set_len(random.u64(0..3000)).unwrap();
                file.write_all_at(&random.bytes(700), 40_000).unwrap();
            }
            _ => fs::remove_file(sub.join("a file, number 1")).unwrap(),
        }
    }
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

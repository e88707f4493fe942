//! What chattr(1) has set on a directory goes over to what is made in it.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::bench::Bench;
use crate::support::images::{Image, Variant, run};
use crate::support::kernel::Mount;

/// All of `i_flags` but immutable, and what says how the inode's own bytes are
/// to be read or must not be set at all.
fn bits() -> impl Iterator<Item = u32> {
    (0..32).filter(|bit| ![4, 11, 12, 13, 18, 19, 21, 28, 30].contains(bit))
}

const NAMES: [&str; 4] = ["file", "directory", "symlink", "fifo"];

fn flags(image: Image) -> Vec<(String, u32)> {
    let bench = Bench::over(image).looked_at();
    let flags = |path: String| {
        let flags = bench.attr(&path).unwrap().flags;
        (path, flags)
    };
    let paths = bits().flat_map(|bit| NAMES.map(|name| format!("{bit}/{name}")));
    paths.map(flags).collect()
}

#[test]
fn flags_of_a_directory_are_inherited_as_from_the_kernel() {
    let image = Variant::named("debian").make(16 << 20);
    let requests = bits().map(|bit| {
        let flags = 1 << bit | 0x8_0000u32; // EXTENTS
        format!("mkdir {bit}\nsif {bit} flags {flags:#x}\n")
    });
    image.debugfs_script(&requests.collect::<String>());

    let copy = image.duplicate();
    let Some(mount) = Mount::read_write(copy.path()) else {
        return;
    };
    for bit in bits() {
        let at = |name| mount.at(&format!("{bit}/{name}"));
        std::fs::write(at("file"), b"").unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        symlink("x", at("symlink")).unwrap();
        run(Command::new("mkfifo").arg(at("fifo")));
    }
    mount.unmount();
    let wanted = flags(copy);

    let bench = Bench::over(image);
    for bit in bits() {
        let at = |name| format!("{bit}/{name}");
        bench.create(&at("file")).unwrap();
        bench.mkdir(&at("directory")).unwrap();
        bench.symlink(&at("symlink"), b"x").unwrap();
        bench
            .mknod(&at("fifo"), libc::S_IFIFO as u16 | 0o644, 0)
            .unwrap();
    }
    bench.judge("inherited flags");
    for (path, wanted) in wanted {
        let ours = bench.attr(&path).unwrap().flags;
        assert_eq!(ours, wanted, "{path}: {ours:#x}, the kernel's {wanted:#x}");
    }
}

//! Images whose own journal waits to be replayed, and hosts that nobody may
//! write to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::World;
use crate::needs_fuse;
use crate::support::images::{Image, Variant, run};
use crate::support::kernel::{self, Mount};
use crate::support::tree::Tree;

/// An image that the kernel had in use when the power failed, and what it
/// makes of it.
fn cut_off() -> Option<(Image, Tree)> {
    let args = &["-b4096", "-I256", "-Jsize=4"];
    let image = Variant {
        name: "cut off",
        args,
    }
    .make(64 << 20);
    let mount = Mount::read_write(image.path())?;
    for n in 0..200 {
        fs::create_dir(mount.at(&format!("{n}"))).unwrap();
        fs::write(mount.at(&format!("{n}/file")), format!("{n}").repeat(n)).unwrap();
    }
    mount.cut(true, ());
    let copy = image.duplicate();
    let mount = Mount::read_write(copy.path())?;
    let tree = Tree::of(mount.path());
    assert!(tree.nodes.len() > 400, "the journal had nothing");
    Some((image, tree))
}

/// Images that lack something, and what they hold with it: of jbd2's journal,
/// and of ours.
fn lagging() -> Vec<(&'static str, World, Tree)> {
    let mut ours = World::new("64M");
    ours.mount_to_kill(&[]);
    fs::create_dir(ours.at("dir")).unwrap();
    fs::write(ours.at("dir/file"), b"acknowledged").unwrap();
    let tree = Tree::of(&ours.point());
    ours.kill();
    ours.detach_dead();
    let theirs = cut_off().map(|(image, tree)| ("jbd2's", World::with_image(&image), tree));
    theirs.into_iter().chain([("ours", ours, tree)]).collect()
}

/// Image and journal, the latter if there is one.
fn left(world: &World) -> (Vec<u8>, Vec<(PathBuf, Vec<u8>)>) {
    let image = fs::read(world.image()).unwrap();
    let files = fs::read_dir(world.journal()).into_iter().flatten();
    let paths = files.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.is_file()) // (A killed daemon leaves its socket.)
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    (image, files)
}

#[test]
fn readers_see_what_any_journal_has_and_write_nothing() {
    needs_fuse!();
    for (whose, mut world, tree) in lagging() {
        let before = left(&world);
        for options in [&["--read-only"][..], &["-o", "ro"]] {
            world.mount(options);
            Tree::of(&world.point()).assert_same(whose, &tree, "wanted");
            world.umount();
            assert!(left(&world) == before, "{whose}: {options:?} wrote");
        }
        let said = world.succeeds(&["check", world.image_str()]);
        assert!(said.contains("clean"), "{whose}: {said}");
        assert!(left(&world) == before, "{whose}: check wrote");
        world.mount(&[]);
        Tree::of(&world.point()).assert_same(whose, &tree, "wanted");
        fs::write(world.at("more"), b"x").unwrap();
        world.umount_and_judge();
    }
}

#[test]
fn recover_replays_an_images_own_journal() {
    needs_fuse!();
    let Some((image, tree)) = cut_off() else {
        return;
    };
    let mut world = World::with_image(&image);
    let said = world.succeeds(&["recover", world.image_str()]);
    assert!(
        said.contains("transactions of the image's own journal replayed"),
        "{said}"
    );
    let said = world.succeeds(&["recover", world.image_str()]);
    assert!(said.contains("nothing to replay"), "{said}");
    crate::support::e2fsck::assert_clean(&world.image());
    world.mount(&["-o", "powercut"]);
    Tree::of(&world.point()).assert_same("recovered", &tree, "kernel");
    world.umount_and_judge();
}

/// A folder that is mounted over itself for reading only.
struct Sealed<'p>(&'p Path);

impl<'p> Sealed<'p> {
    fn seal(folder: &'p Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(folder).arg(folder));
        let sealed = Sealed(folder);
        run(Command::new("mount")
            .args(["-o", "remount,ro,bind"])
            .arg(folder));
        sealed
    }
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn on_a_read_only_host_images_are_read_and_the_rest_is_refused_in_one_line() {
    needs_fuse!();
    if !kernel::allowed() {
        return;
    }
    for (whose, world, tree) in lagging() {
        let host = world.beside("sealed");
        fs::create_dir(&host).unwrap();
        let image = host.join("disk.img");
        fs::rename(world.image(), &image).unwrap();
        if world.journal().exists() {
            fs::rename(world.journal(), host.join("disk.img.journal")).unwrap();
        }
        let sealed = Sealed::seal(&host);
        let image = image.to_str().unwrap();
        world.succeeds(&["mount", "-o", "ro", image, world.point_str()]);
        Tree::of(&world.point()).assert_same(whose, &tree, "wanted");
        world.succeeds(&["umount", world.point_str()]);
        let refusals: [&[&str]; 4] = [
            &["mount", image, world.point_str()],
            &["recover", image],
            &["detach", image],
            &["mkfs", "--force", image],
        ];
        for args in refusals {
            let said = world.fails(32, args);
            assert_eq!(
                said.matches("disk.img").count(),
                1,
                "{whose}: {args:?}: {said}"
            );
            assert!(
                said.contains("only a mount with -o ro"),
                "{whose}: {args:?}: {said}"
            );
        }
        drop(sealed);
    }
}

//! Points in time on real mounts: seen beside the live one, restored, compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::daemon::{World, journalfs};
use crate::model::{Model, choose};
use crate::modes::wait_until;
use crate::needs_fuse;
use crate::support::e2fsck;
use crate::support::kernel;
use crate::support::random::Seeded;
use crate::support::tree::Tree;

/// A look at a moment, mounted; taken away also when a test fails.
struct View(PathBuf);

impl View {
    #[track_caller]
    fn at(world: &World, when: &str) -> View {
        let point = world.beside("view");
        fs::create_dir_all(&point).unwrap();
        let view = View(point);
        let printed = world.succeeds(&["mount", "--at", when, world.image_str(), view.text()]);
        assert_eq!(printed, "");
        view
    }
    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let umount = Command::new("umount").arg("-l").arg(&self.0).output();
        drop(umount);
    }
}

fn pattern(seed: u32, len: u32) -> Vec<u8> {
    (0..len)
        .map(|n| ((n ^ seed).wrapping_mul(7919) >> 5) as u8)
        .collect()
}

/// Overwrites and syncs so much that a journal of 8 MiB is used several times
/// over.
fn overwrite_much(world: &World, name: &str) {
    for seed in 0..12 {
        let path = world.at(name);
        fs::write(&path, pattern(100 + seed, 1_500_000)).unwrap();
        fs::File::open(&path).unwrap().sync_all().unwrap();
    }
}

fn removed_tree(world: &World) {
    fs::create_dir_all(world.at("docs/deep")).unwrap();
    fs::write(world.at("docs/a"), "first\nsame\n").unwrap();
    fs::write(world.at("docs/deep/b"), "deep").unwrap();
    fs::hard_link(world.at("docs/a"), world.at("docs/deep/link")).unwrap();
    fs::write(world.at("kept"), "one\ntwo\n").unwrap();
    world.succeeds(&["mark", world.point_str(), "good"]);
    fs::write(world.at("kept"), "one\n2\n").unwrap();
    let removed = Command::new("rm").arg("-r").arg(world.at("docs")).status();
    assert!(removed.unwrap().success());
    fs::write(world.at("new"), "new").unwrap();
}

#[test]
fn a_moment_is_seen_printed_compared_and_restored_beside_the_live_mount() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    removed_tree(&world);
    let (dir, image) = (world.point_str(), world.image_str());

    let view = View::at(&world, "good");
    assert_eq!(view.read("docs/deep/b").unwrap(), b"deep");
    assert_eq!(view.read("kept").unwrap(), b"one\ntwo\n");
    assert!(fs::write(view.0.join("kept"), "x").is_err());
    let live = world.succeeds(&["status", "--json", view.text()]);
    assert!(live.contains(dir), "the view leads to its image: {live}");
    world.succeeds(&["umount", view.text()]);

    assert_eq!(
        world.succeeds(&["cat", "--at", "good", dir, "/docs/a"]),
        "first\nsame\n"
    );
    let changes = world.succeeds(&["diff", "--json", dir, "good", "-0s"]);
    let changes: Vec<Value> = changes
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let change = |path: &str| {
        let found = changes.iter().find(|change| change["path"] == path);
        found.unwrap_or_else(|| panic!("{path} is not among {changes:?}"))["change"].clone()
    };
    assert_eq!(change("/docs/deep/b"), "removed");
    assert_eq!(change("/new"), "added");
    assert_eq!(change("/kept"), "changed");
    let lines = world.succeeds(&["diff", "--content", "/kept", dir, "good", "-0s"]);
    assert!(lines.contains("\n-two\n+2\n"), "{lines}");

    let back = world.beside("back");
    world.succeeds(&["undelete", dir, "/docs", "--to", back.to_str().unwrap()]);
    assert_eq!(fs::read(back.join("a")).unwrap(), b"first\nsame\n");
    assert_eq!(fs::read(back.join("deep/link")).unwrap(), b"first\nsame\n");
    assert_eq!(fs::read(back.join("deep/b")).unwrap(), b"deep");
    let line = world.fails(1, &["undelete", dir, "/nothing"]);
    assert!(line.contains("removed /nothing"), "{line}");
    let line = world.fails(1, &["undelete", dir, "/"]);
    assert!(line.contains("the root is never removed"), "{line}");

    restores(&world, "good", &[]);
    let line = world.fails(8, &["cat", "--at", "2220-01-01", image, "/kept"]);
    assert!(line.contains("is yet to come"), "{line}");
    let line = world.fails(8, &["cat", "--at", "2020-01-01", image, "/kept"]);
    assert!(line.contains("nothing is known of 2020-01-01"), "{line}");
    let line = world.fails(
        8,
        &["restore", "--at", "99999", "--to", "/nowhere/x", image],
    );
    assert!(line.contains("the last is"), "{line}");
    world.umount_and_judge();
}

#[test]
fn a_renamed_file_is_compared_with_itself() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    fs::write(world.at("old"), "same\nbefore\n").unwrap();
    fs::create_dir(world.at("d")).unwrap();
    world.succeeds(&["mark", world.point_str(), "then"]);
    fs::write(world.at("old"), "same\nafter\n").unwrap();
    fs::rename(world.at("old"), world.at("d/new")).unwrap();
    for name in ["/old", "/d/new"] {
        let diff = ["diff", "--content", name, world.point_str(), "then", "-0s"];
        let lines = world.succeeds(&diff);
        assert!(lines.contains("--- /old (record "), "{lines}");
        assert!(lines.contains("+++ /d/new (record "), "{lines}");
        assert!(lines.contains("\n same\n-before\n+after\n"), "{lines}");
    }
    let view = View::at(&world, "then");
    world.umount_and_judge();
    let status = world.succeeds(&["status", view.text()]);
    let shows = format!("({} shows it as it was after record ", view.text());
    assert!(status.contains(&shows), "{status}");
}

/// Restores to an image that must please, and mounts it.
#[track_caller]
fn restores(world: &World, when: &str, more: &[&str]) {
    let out = world.beside("restored.img");
    let mut args = vec![
        "restore",
        "--verify",
        "--at",
        when,
        "--to",
        out.to_str().unwrap(),
    ];
    args.extend(more);
    args.push(world.image_str());
    let said = world.succeeds(&args);
    assert!(said.contains(": clean:"), "{said}");
    e2fsck::assert_clean(&out);
    let line = world.fails(32, &args);
    assert!(line.contains("--force"), "{line}");
    // Whatever it leads to, a link or a device is never replaced.
    let link = world.beside("link.img");
    std::os::unix::fs::symlink(&out, &link).unwrap();
    for odd in [link.to_str().unwrap(), "/dev/null"] {
        let restore = ["restore", "--force", "--at", "-0s", "--to", odd];
        let line = world.fails(32, &[&restore[..], &[world.image_str()]].concat());
        assert!(line.contains("is no regular file"), "{line}");
    }
    fs::remove_file(&link).unwrap();
    let before = fs::read(&out).unwrap();
    world.succeeds(&[&args[..], &["--force"]].concat());
    assert!(fs::read(&out).unwrap() == before, "each time the same");
    let listed: Vec<_> = fs::read_dir(out.parent().unwrap()).unwrap().collect();
    let parts = listed.into_iter().flatten().filter(|e| is_part(&e.path()));
    assert_eq!(parts.count(), 0);
    let printed = world.succeeds(&["cat", "--at", "-0s", world.image_str(), "/kept"]);
    assert!(!printed.is_empty());
    fs::remove_file(&out).unwrap();
}

fn is_part(path: &Path) -> bool {
    path.to_string_lossy().contains(".part-")
}

#[test]
fn without_an_archive_a_view_ends_when_the_image_moves_on_and_is_never_a_mixture() {
    needs_fuse!();
    let mut world = World::new("64M");
    let old = pattern(1, 1_500_000);
    world.mount(&["-o", "journal_size=8M"]);
    fs::write(world.at("old"), &old).unwrap();
    fs::write(world.at("kept"), "kept").unwrap();
    world.umount();
    world.mount(&["-o", "journal_size=8M"]);
    world.succeeds(&["mark", world.point_str(), "then"]);
    let view = View::at(&world, "then");
    overwrite_much(&world, "old");
    wait_until(|| match view.read("old") {
        Ok(bytes) => {
            assert_eq!(bytes, old, "a mixture");
            overwrite_much(&world, "old");
            false
        }
        Err(_) => true,
    });
    let out = world.beside("out.img");
    let args = [
        "restore",
        "--at",
        "then",
        "--to",
        out.to_str().unwrap(),
        world.image_str(),
    ];
    let output = journalfs().args(args).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(!out.exists());
    drop(view);
    world.umount_and_judge();
}

#[test]
fn with_an_archive_a_view_lives_on_while_the_journal_forgets() {
    needs_fuse!();
    let mut world = World::new("64M");
    let archive = world.beside("archive");
    let option = format!("journal_size=8M,archive={}", archive.display());
    world.mount(&["-o", &option]);
    let old = pattern(1, 1_500_000);
    fs::write(world.at("old"), &old).unwrap();
    fs::write(world.at("kept"), "kept").unwrap();
    wait_until(|| archive.join("manifest.json").exists());
    world.succeeds(&["mark", world.point_str(), "then"]);
    let view = View::at(&world, "then");
    overwrite_much(&world, "old");
    overwrite_much(&world, "old");
    assert!(view.read("old").unwrap() == old);
    assert_eq!(view.read("kept").unwrap(), b"kept");
    restores(&world, "then", &[]);
    drop(view);
    world.umount_and_judge();
    restores(&world, "then", &[]);
    let dir = archive.to_str().unwrap();
    let journal = world.journal();
    let printed = world.succeeds(&[
        "cat",
        "--at",
        "then",
        "--journal",
        journal.to_str().unwrap(),
        dir,
        "kept",
    ]);
    assert_eq!(printed, "kept");
}

/// What was seen at a mark.
struct Moment {
    mark: String,
    model: Model,
    tree: Tree,
}

#[test]
fn random_moments_mounted_and_restored_are_what_was_there() {
    needs_fuse!();
    let mut random = Seeded::new("random_moments");
    let mut world = World::new("64M");
    let archive = world.beside("archive");
    let option = format!("noatime,journal_size=8M,archive={}", archive.display());
    world.mount_to_kill(&["-o", &option]);
    wait_until(|| archive.join("manifest.json").exists());
    fs::create_dir(world.at("d")).unwrap();
    let mut model = Model::default();
    let mut moments = Vec::new();
    for n in 0..12 {
        for _ in 0..random.u32(1..60) {
            let act = choose(&model, &mut random);
            act.perform(&world.at("d")).unwrap();
            model.apply(&act);
        }
        // Caches of the kernel go to the journal, and times become final.
        fs::File::open(world.point()).unwrap().sync_all().unwrap();
        let tree = Tree::of(&world.point());
        let mark = format!("moment-{n}");
        world.succeeds(&["mark", world.point_str(), &mark]);
        moments.push(Moment {
            mark,
            model: model.clone(),
            tree,
        });
        if n % 4 == 1 {
            overwrite_much(&world, "large");
        }
        if n == 6 {
            world.kill();
            world.detach_dead();
            world.mount_to_kill(&["-o", &option]);
        }
    }
    for moment in &moments {
        let view = View::at(&world, &moment.mark);
        let differences = moment.model.differences(&view.0.join("d"));
        assert_eq!(differences, Vec::<String>::new(), "{}", moment.mark);
        moment
            .tree
            .assert_same("then", &Tree::of(&view.0), "mounted");
        drop(view);
        let out = world.beside("out.img");
        let to = out.to_str().unwrap();
        world.succeeds(&[
            "restore",
            "--force",
            "--at",
            &moment.mark,
            "--to",
            to,
            world.image_str(),
        ]);
        e2fsck::assert_clean(&out);
        if let Some(kernel) = kernel::Mount::read_only(&out) {
            (moment.tree).assert_same("then", &Tree::of(kernel.path()), "restored");
            kernel.unmount();
        }
    }
    world.umount_and_judge();
}

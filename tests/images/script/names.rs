//! Names: made, linked, renamed, removed, listed while they change.

use journalfs::fs::{Error, SetAttr};

use super::files::PUNCH;
use crate::support::bench::{Bench, assert_refused};
use crate::support::random::Seeded;

pub fn names_come_and_go(bench: &Bench, random: &mut Seeded) {
    let mut deep = String::from("deep");
    for level in 0..25 {
        bench.mkdir(&deep).unwrap();
        deep.push_str(&format!("/{level}"));
    }
    for (i, len) in [1, 59, 60, 61, 200, 1000, 4095].into_iter().enumerate() {
        let target = "t/".repeat(len).as_bytes()[..len].to_vec();
        match bench.symlink(&format!("link {i}"), &target) {
            Ok(inode) => assert_eq!(bench.fs.readlink(inode).unwrap(), target),
            Err(Error::NameTooLong | Error::Unsupported) => {}
            Err(e) => panic!("symlink of {len}: {e}"),
        }
    }
    for (name, mode, rdev) in [
        ("fifo", 0o010_600, 0),
        ("socket", 0o140_644, 0),
        ("null", 0o020_666, 0x103),
        ("big", 0o060_600, 0x11_12c70),
    ] {
        bench.mknod(name, mode, rdev).unwrap();
        assert_eq!(bench.attr(name).unwrap().rdev, rdev);
    }
    bench.mkdir("names").unwrap();
    let long = "n".repeat(255);
    bench.create(&format!("names/{long}")).unwrap();
    assert_refused(bench.create(&format!("names/{long}n")), &Error::NameTooLong);
    assert_refused(bench.create(&format!("names/{long}")), &Error::Exists);
    for n in 0..60 {
        bench
            .link(&format!("names/{long}"), &format!("names/{n}"))
            .unwrap();
    }
    assert_eq!(bench.attr("names/7").unwrap().links, 61);
    for n in (0..60).filter(|_| random.bool()) {
        bench.unlink(&format!("names/{n}")).unwrap();
    }
    assert_refused(bench.rmdir("names"), &Error::NotEmpty);
    assert_refused(bench.rmdir("fifo"), &Error::NotDirectory);
    assert_refused(bench.unlink("names"), &Error::IsDirectory);
    assert_refused(bench.unlink("nothing"), &Error::NotFound);
    bench.rmdir(deep.rsplit_once('/').unwrap().0).unwrap();
    bench.unlink("link 2").unwrap();
    bench.unlink("null").unwrap();
    bench.unlink("socket").unwrap();
}

pub fn renames_of_every_kind(bench: &Bench, _random: &mut Seeded) {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    for dir in ["a", "b", "a/inner", "b/empty", "b/full", "b/full/x"] {
        bench.mkdir(dir).unwrap();
    }
    for file in ["a/one", "a/two", "b/three", "a/inner/four"] {
        bench.create(file).unwrap();
    }
    bench.link("a/one", "a/same").unwrap();
    let roots = bench.attr("").unwrap().links;
    bench.rename("a/one", "a/renamed", 0).unwrap();
    bench.rename("a/renamed", "b/moved", 0).unwrap();
    bench.rename("a/two", "b/three", 0).unwrap();
    bench.rename("a/same", "b/moved", 0).unwrap(); // the same file: nothing happens
    assert_eq!(bench.attr("b/moved").unwrap().links, 2);
    assert_refused(
        bench.rename("b/moved", "b/three", NOREPLACE),
        &Error::Exists,
    );
    bench.rename("b/moved", "b/fresh", NOREPLACE).unwrap();
    bench.rename("a/inner", "b/empty", 0).unwrap(); // over an empty directory
    assert_eq!(bench.attr("a").unwrap().links, 2);
    assert_refused(bench.rename("b/empty", "b/full", 0), &Error::NotEmpty);
    assert_refused(bench.rename("b", "b/full/x/b", 0), &Error::Invalid);
    assert_refused(bench.rename("b/three", "b/full", 0), &Error::IsDirectory);
    assert_refused(bench.rename("b/full", "b/three", 0), &Error::NotDirectory);
    bench.rename("b/three", "b/full", EXCHANGE).unwrap();
    bench.rename("b/three", "a/up", 0).unwrap(); // a directory to another parent
    bench.rename("a/up/x", "x", 0).unwrap();
    assert_eq!(bench.attr("").unwrap().links, roots + 1);
    bench.rename("b/empty", "a/up", EXCHANGE).unwrap();
    bench.rename("x", "b/full", EXCHANGE).unwrap(); // a directory for a file across parents
    assert_eq!(bench.attr("").unwrap().links, roots);
    let long = "l".repeat(250);
    for n in 0..40 {
        bench.create(&format!("a/{n} {}", &long[..200])).unwrap();
    }
    for n in 0..40 {
        bench
            .rename(
                &format!("a/{n} {}", &long[..200]),
                &format!("b/{long}{n}"),
                0,
            )
            .unwrap();
    }
}

pub fn large_directories_grow_and_shrink(bench: &Bench, random: &mut Seeded) {
    const COUNT: usize = 4000;
    bench.mkdir("large").unwrap();
    bench.create("file").unwrap();
    let name = |n: usize| format!("large/{n} {}", "long ".repeat(n % 20));
    let mut there = vec![false; COUNT];
    for round in 0..3 {
        let mut order: Vec<usize> = (0..COUNT).collect();
        random.shuffle(&mut order);
        for n in order {
            match (there[n], (n + round) % 3 == 0) {
                (false, _) => bench.link("file", &name(n)).unwrap(),
                (true, true) => bench.unlink(&name(n)).unwrap(),
                (true, false) => continue,
            }
            there[n] = !there[n];
        }
        let mut names = bench.names("large").unwrap();
        names.sort();
        let mut want: Vec<Vec<u8>> = (0..COUNT)
            .filter(|&n| there[n])
            .map(|n| name(n).as_bytes()["large/".len()..].to_vec())
            .collect();
        want.sort();
        assert!(
            names == want,
            "the listing has {} names, want {}",
            names.len(),
            want.len()
        );
        for (n, &there) in there.iter().enumerate() {
            assert_eq!(bench.at(&name(n)).is_ok(), there, "look-up of {}", name(n));
        }
    }
    listing_stays_right(bench, &there, name);
    bench.mkdir("emptied").unwrap();
    for n in 0..500 {
        bench
            .link("file", &format!("emptied/{n} {}", "x".repeat(100)))
            .unwrap();
    }
    for n in 0..500 {
        bench
            .unlink(&format!("emptied/{n} {}", "x".repeat(100)))
            .unwrap();
    }
    bench.rmdir("emptied").unwrap();
}

/// While names come and go, those that stay are listed once each.
fn listing_stays_right(bench: &Bench, there: &[bool], name: impl Fn(usize) -> String) {
    let inode = bench.at("large").unwrap();
    let mut cookie = 0;
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut round = 0;
    loop {
        let mut some = Vec::new();
        bench
            .fs
            .readdir(&bench.by, inode, cookie, &mut |next, name, _, _| {
                cookie = next;
                some.push(name.to_vec());
                some.len() < 100
            })
            .unwrap();
        if some.is_empty() {
            break;
        }
        seen.extend(some);
        for n in 0..30 {
            bench
                .link("file", &format!("large/during {round} {n}"))
                .unwrap();
        }
        round += 1;
        assert!(round < 1000, "the listing does not end");
    }
    seen.sort();
    for n in (0..there.len()).filter(|&n| there[n]) {
        let name = &name(n)["large/".len()..];
        let from = seen.partition_point(|seen| seen.as_slice() < name.as_bytes());
        let count = seen[from..]
            .iter()
            .take_while(|seen| seen.as_slice() == name.as_bytes())
            .count();
        assert_eq!(count, 1, "{name:?} is listed {count} times");
    }
}

/// Every file of a tree gets an operation or two of a random kind.
pub fn change_everything(bench: &Bench, random: &mut Seeded) {
    for (path, kind) in all_paths(bench, "") {
        if kind == 'd' {
            bench.create(&format!("{path}/new")).unwrap();
            continue;
        }
        match random.u8(0..9) {
            0 if kind == '-' => bench.truncate(&path, random.u64(0..10_000)).unwrap(),
            1 | 2 if kind == '-' => bench
                .write(&path, random.u64(0..50_000), &random.bytes(300))
                .unwrap(),
            3 if kind == '-' => bench.fallocate(&path, PUNCH, 0, 10_000).unwrap(),
            4 if kind == '-' => bench
                .set_xattr(&path, "user.new", &random.bytes(60))
                .unwrap(),
            5 => bench.rename(&path, &format!("{path} renamed"), 0).unwrap(),
            6 => bench.link(&path, &format!("{path} linked")).unwrap(),
            7 => bench.unlink(&path).unwrap(),
            _ => bench
                .setattr(
                    &path,
                    SetAttr {
                        uid: Some(77),
                        ..SetAttr::default()
                    },
                )
                .unwrap(),
        }
    }
}

/// Removes all below a directory; `lost+found` stays.
pub fn remove_everything(bench: &Bench, path: &str) {
    for (path, kind) in all_paths(bench, path).into_iter().rev() {
        match kind {
            'd' => bench.rmdir(&path).unwrap(),
            _ => bench.unlink(&path).unwrap(),
        }
    }
}

/// Paths below a directory, each before those below it.
fn all_paths(bench: &Bench, path: &str) -> Vec<(String, char)> {
    let nodes = bench.tree().nodes;
    let paths = nodes
        .into_iter()
        .map(|(name, node)| (name.to_string_lossy().into_owned(), node.kind));
    paths
        .filter(|(name, _)| {
            name.len() > path.len() && name.starts_with(path) && name != "lost+found"
        })
        .collect()
}

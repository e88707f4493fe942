//! Imports only go down.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

fn allowed() -> HashMap<&'static str, Vec<&'static str>> {
    HashMap::from([
        ("units", vec![]),
        ("sync", vec![]),
        ("device", vec!["sync", "units"]),
        ("log", vec!["device", "sync", "units"]),
        ("journal", vec!["log", "device", "sync", "units"]),
        ("ext4", vec!["units"]),
        ("fs", vec!["journal", "log", "device", "ext4", "units"]),
        ("check", vec!["journal", "log", "device", "ext4", "units"]),
        ("history", vec!["journal", "log", "device", "ext4", "units"]),
        (
            "sim",
            vec!["fs", "check", "journal", "log", "device", "ext4", "units"],
        ),
        (
            "fuse",
            vec!["fs", "journal", "log", "device", "ext4", "units"],
        ),
        (
            "past",
            vec!["history", "fs", "journal", "log", "device", "ext4", "units"],
        ),
        (
            "cli",
            vec![
                "past", "fuse", "sim", "check", "history", "fs", "journal", "log", "device",
                "ext4", "units",
            ],
        ),
    ])
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The layers named by `crate::NAME` in a source text, with their lines.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for part in line.split("crate::").skip(1) {
            let rest = part.strip_prefix('{').unwrap_or(part);
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            found.push((at + 1, name));
        }
    }
    found
}

#[test]
fn imports_only_go_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed = allowed();
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 10, "the sources were not found");
    let mut bad = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let layer = inside
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let Some(below) = allowed.get(layer.as_str()) else {
            continue;
        };
        for (line, name) in imports(&fs::read_to_string(&file).unwrap()) {
            if name != layer
                && allowed.contains_key(name.as_str())
                && !below.contains(&name.as_str())
            {
                bad.push(format!(
                    "{}:{line}: {layer} imports {name}",
                    inside.display()
                ));
            }
        }
    }
    assert!(bad.is_empty(), "imports that go up:\n{}", bad.join("\n"));
}

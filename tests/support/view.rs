//! The third reader: the `ext4-view` crate, which shares no code with the
//! kernel, e2fsprogs or us.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ext4_view::{Ext4, Ext4Error, Metadata};

use super::tree::{Node, Tree, sum};

/// Longer files are not read: it gives them whole.
const LONGEST: u64 = 256 << 20;

/// Fails unless it reads this tree from an image: names, types, sizes,
/// contents, targets, modes, owners and mtimes. Links, attributes, ctimes and
/// devices' numbers it does not show.
///
/// Version 1.0 refuses times whose low 32 bits are negative, takes unwritten
/// extents for data, and stumbles over holes in block maps: `beyond` says of a
/// file whether it has one of the last two, and only its contents are believed
/// then.
#[track_caller]
pub fn assert_reads(image: &Path, wanted: &Tree, beyond: &dyn Fn(&Path) -> bool, what: &str) {
    let mut seen = Tree::default();
    let read = Ext4::load_from_path(image)
        .and_then(|ext4| walk(&ext4, PathBuf::from(""), wanted, beyond, &mut seen));
    read.unwrap_or_else(|e| panic!("{what}: ext4-view: {e}"));
    wanted.assert_same(what, &seen, "ext4-view");
}

fn walk(
    ext4: &Ext4,
    name: PathBuf,
    wanted: &Tree,
    beyond: &dyn Fn(&Path) -> bool,
    seen: &mut Tree,
) -> Result<(), Ext4Error> {
    let path = Path::new("/").join(&name);
    let path = path.as_os_str().as_bytes();
    let known = wanted.nodes.get(&name).cloned().unwrap_or_default();
    if has_negative_time(&known) {
        seen.nodes.insert(name, known);
        return Ok(());
    }
    let about = ext4.symlink_metadata(path)?;
    let believed = known.kind == '-' && (known.size > LONGEST || beyond(&name));
    let node = node(ext4, path, &about, known, believed)?;
    seen.nodes.insert(name.clone(), node);
    if !about.is_dir() {
        return Ok(());
    }
    for entry in ext4.read_dir(path)? {
        let entry = entry?;
        let entry = OsStr::from_bytes(entry.file_name().as_ref()).to_owned();
        if entry != "." && entry != ".." {
            walk(ext4, name.join(entry), wanted, beyond, seen)?;
        }
    }
    Ok(())
}

fn has_negative_time(node: &Node) -> bool {
    let negative = |secs: i64| (secs as u32) >> 31 == 1;
    node.kind != 'd' && (negative(node.mtime.0) || negative(node.ctime.0))
}

/// What it shows of a file; the rest is as `known`, contents if they are to be
/// believed.
fn node(
    ext4: &Ext4,
    path: &[u8],
    about: &Metadata,
    known: Node,
    believed: bool,
) -> Result<Node, Ext4Error> {
    let kind = about.file_type();
    let kind = match () {
        () if kind.is_regular_file() => '-',
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_char_dev() => 'c',
        () if kind.is_block_dev() => 'b',
        () if kind.is_fifo() => 'p',
        () => 's',
    };
    let contents = match kind {
        '-' if believed => known.contents,
        '-' => sum(&ext4.read(path)?),
        _ => 0,
    };
    let target = match kind {
        // (Components beyond 255 bytes it refuses.)
        'l' if known
            .target
            .split(|b| *b == b'/')
            .any(|part| part.len() > 255) =>
        {
            known.target.clone()
        }
        'l' => ext4.read_link(path)?.as_ref().to_vec(),
        _ => Vec::new(),
    };
    Ok(Node {
        kind,
        mode: u32::from(about.mode() & 0o7777),
        uid: about.uid(),
        gid: about.gid(),
        size: if kind == 'd' { 0 } else { about.len() },
        mtime: (about.modified().seconds(), about.modified().nanoseconds()),
        contents,
        target,
        ..known
    })
}

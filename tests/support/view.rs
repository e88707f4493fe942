//! The third reader: the `ext4-view` crate, which shares no code with the
//! kernel, e2fsprogs or us.

use std::collections::BTreeMap;
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
/// What it can't read must be for one of these reasons, and is said: `whole`
/// for the image, `contents` for a file's. Where the reason has gone it fails.
#[track_caller]
pub fn assert_reads(
    image: &Path,
    wanted: &Tree,
    whole: Option<Skip>,
    contents: &dyn Fn(&Path) -> Option<Skip>,
    what: &str,
) {
    let mut seen = Tree::default();
    let mut skipped = BTreeMap::new();
    let read = Ext4::load_from_path(image).and_then(|ext4| {
        let mut walk = Walk {
            ext4,
            wanted,
            contents,
            skipped: &mut skipped,
        };
        walk.from(PathBuf::from(""), &mut seen)
    });
    match (read, whole) {
        (Ok(()), None) => wanted.assert_same(what, &seen, "ext4-view"),
        (Ok(()), Some(skip)) => panic!("{what}: ext4-view reads it, though {skip:?}"),
        (Err(e), Some(skip)) => eprintln!("{what}: ext4-view skips the image: {skip:?}: {e}"),
        (Err(e), None) => panic!("{what}: ext4-view: {e}"),
    }
    for (skip, files) in skipped {
        eprintln!("{what}: ext4-view skips {files} files: {skip:?}");
    }
}

/// Why version 1.0 of it can't read something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// An image with metadata_csum and inodes of 128 bytes, which have half a
    /// checksum: it wants a whole one.
    HalfChecksums,
    /// An image without `filetype`.
    NoTypes,
    /// A time whose low 32 bits are negative.
    NegativeTime,
    /// A target with a component beyond 255 bytes.
    LongTarget,
    /// Contents with unwritten extents: it takes them for data.
    Unwritten,
    /// Contents with holes in a block map.
    HolesInMap,
    /// Contents that are too long: it gives them whole.
    Long,
}

struct Walk<'a> {
    ext4: Ext4,
    wanted: &'a Tree,
    contents: &'a dyn Fn(&Path) -> Option<Skip>,
    skipped: &'a mut BTreeMap<Skip, usize>,
}

impl Walk<'_> {
    fn skip(&mut self, why: Skip) {
        *self.skipped.entry(why).or_default() += 1;
    }

    fn from(&mut self, name: PathBuf, seen: &mut Tree) -> Result<(), Ext4Error> {
        let path = Path::new("/").join(&name);
        let path = path.as_os_str().as_bytes();
        let known = self.wanted.nodes.get(&name).cloned().unwrap_or_default();
        if has_negative_time(&known) {
            self.skip(Skip::NegativeTime);
            seen.nodes.insert(name, known);
            return Ok(());
        }
        let about = self.ext4.symlink_metadata(path)?;
        let node = self.node(&name, path, &about, known)?;
        seen.nodes.insert(name.clone(), node);
        if !about.is_dir() {
            return Ok(());
        }
        for entry in self.ext4.read_dir(path)? {
            let entry = entry?;
            let entry = OsStr::from_bytes(entry.file_name().as_ref()).to_owned();
            if entry != "." && entry != ".." {
                self.from(name.join(entry), seen)?;
            }
        }
        Ok(())
    }

    /// What it shows of a file; the rest is as `known`.
    fn node(
        &mut self,
        name: &Path,
        path: &[u8],
        about: &Metadata,
        known: Node,
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
        let skip = match kind {
            '-' if known.size > LONGEST => Some(Skip::Long),
            '-' => (self.contents)(name),
            'l' if has_long_part(&known.target) => Some(Skip::LongTarget),
            _ => None,
        };
        if let Some(skip) = skip {
            self.skip(skip);
        }
        let contents = match kind {
            '-' if skip.is_some() => known.contents,
            '-' => sum(&self.ext4.read(path)?),
            _ => 0,
        };
        let target = match kind {
            'l' if skip.is_some() => known.target.clone(),
            'l' => self.ext4.read_link(path)?.as_ref().to_vec(),
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
}

fn has_long_part(target: &[u8]) -> bool {
    target.split(|b| *b == b'/').any(|part| part.len() > 255)
}

fn has_negative_time(node: &Node) -> bool {
    let negative = |secs: i64| (secs as u32) >> 31 == 1;
    node.kind != 'd' && (negative(node.mtime.0) || negative(node.ctime.0))
}

//! Which operations must have survived a power cut, and which may have.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::iter;
use std::ops::Range;
use std::str::FromStr;

use crate::journal::Op;
use crate::journal::record::Name;
use crate::units::{InodeNo, Lsn, Time};

use super::super::random::Random;
use super::ledger::{Entry, Synced};

/// What a file system promises about what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// journalfs: a prefix of the history, no shorter than the last sync.
    Prefix,
    /// ext4 with `data=ordered,noauto_da_alloc`: names, sizes by truncate and
    /// attributes keep their order, and any fsync (or five seconds) makes all
    /// of them durable up to there; written data come later, in any order, by
    /// an fsync of their own file or after half a minute.
    Ext4,
    /// POSIX, read by its letter: an fsync makes its own file's data and
    /// attributes durable, a sync of a directory the names in it; everything
    /// else may be missing, in any combination.
    Posix,
}

/// What becomes of operations that need not survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// None does.
    None,
    /// All do.
    All,
    /// Chance decides.
    #[default]
    Random,
    /// Those up to this record (the prefix model only).
    Through(Lsn),
}

/// How the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What is promised about what was not synced.
    pub model: Model,
    /// What survives of it.
    pub keep: Keep,
    /// Writes may be torn, within the model.
    pub torn: bool,
    /// Decides what is left to chance.
    pub seed: u64,
}

/// How much of an operation survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Of a write, its times and these ranges of its bytes.
    Pieces(Vec<Range<usize>>),
    /// Of a write, those bytes in these ranges that replace others in blocks
    /// which the file has already; no times, and no more length.
    Over(Vec<Range<usize>>),
}

/// What becomes of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is as if it had not been.
    Lost,
    /// It survives, because it must (`true`) or by choice.
    Kept(Part, bool),
}

/// ext4 writes dirty data back after `dirty_expire_centisecs` (30 seconds),
/// looked at every five; then a commit follows within five more.
const WRITTEN_BACK: i64 = 40;

/// Pages of a write get to the disk one by one.
const PAGE: u64 = 4096;

/// Which operations must survive a cut at `now`. `durable`: the last record
/// that was on stable storage.
pub fn required(
    model: Model,
    entries: &[Entry],
    syncs: &[Synced],
    durable: Lsn,
    now: Time,
) -> Vec<bool> {
    match model {
        Model::Prefix => entries.iter().map(|entry| entry.lsn <= durable).collect(),
        Model::Ext4 => {
            let covered = covered(entries, syncs);
            let old = |op: &Op| time(op).is_some_and(|time| now.secs - time.secs >= WRITTEN_BACK);
            (entries.iter().zip(covered))
                .map(|(entry, covered)| match &entry.op {
                    op @ Op::Write { .. } => covered || old(op) && entry.lsn <= durable,
                    _ => entry.lsn <= durable,
                })
                .collect()
        }
        Model::Posix => closed(entries, covered(entries, syncs)),
    }
}

/// What survives: all that must, and of the rest what `keep` says.
pub fn choose(
    model: Model,
    entries: &[Entry],
    required: &[bool],
    keep: Keep,
    torn: bool,
    seed: u64,
) -> Vec<Choice> {
    let mut random = Random::new(seed);
    // The seed also decides how much is kept on the whole.
    let share = random.below(101);
    let committed = committed(entries, required, keep, &mut random);
    let mut freed = Freed::default();
    let mut one = |entry: &Entry, must: bool| {
        let chosen = match keep {
            Keep::None => false,
            Keep::All => true,
            Keep::Random => random.below(100) < share,
            Keep::Through(lsn) => entry.lsn <= lsn,
        };
        let (whole, pieces) = match &entry.op {
            Op::Write { offset, len, .. } if torn && !must && random.one_in(2) => {
                (false, pieces(*offset, *len, &mut random))
            }
            Op::Write { len, .. } => (true, iter::once(0..*len as usize).collect()),
            _ => (true, Vec::new()),
        };
        let committed = model != Model::Ext4 || entry.lsn <= committed;
        if !committed {
            freed.note(&entry.op);
        }
        match (&entry.op, model) {
            _ if must => Choice::Kept(Part::Whole, true),
            (Op::Write { .. }, Model::Ext4) => match (committed, chosen) {
                (true, true) if whole => Choice::Kept(Part::Whole, false),
                (true, true) => Choice::Kept(Part::Pieces(pieces), false),
                // Its times are metadata.
                (true, false) => Choice::Kept(Part::Pieces(Vec::new()), false),
                (false, true) => Choice::Kept(Part::Over(freed.spare(&entry.op, pieces)), false),
                (false, false) => Choice::Lost,
            },
            (_, Model::Ext4) if committed => Choice::Kept(Part::Whole, false),
            (_, Model::Ext4) => Choice::Lost,
            (_, Model::Posix | Model::Prefix) if !chosen => Choice::Lost,
            (_, Model::Posix | Model::Prefix) if whole => Choice::Kept(Part::Whole, false),
            (_, Model::Posix | Model::Prefix) => Choice::Kept(Part::Pieces(pieces), false),
        }
    };
    entries
        .iter()
        .zip(required)
        .map(|(entry, must)| one(entry, *must))
        .collect()
}

/// From which byte on a file has given blocks up since the last commit. What
/// is written there then gets new ones, which a cut before the next commit
/// takes away; the old ones, and all in them, come back.
#[derive(Default)]
struct Freed(HashMap<InodeNo, u64>);

impl Freed {
    fn note(&mut self, op: &Op) {
        let (inode, from) = match op {
            Op::SetAttr {
                inode,
                size: Some(size),
                ..
            } => (inode, size),
            Op::Fallocate {
                inode,
                mode,
                offset,
                ..
            } if *mode & !(libc::FALLOC_FL_KEEP_SIZE as u32) != 0 => (inode, offset),
            _ => return,
        };
        let least = self.0.entry(*inode).or_insert(*from);
        *least = (*from).min(*least);
    }

    /// The ranges of a write that lie before that.
    fn spare(&self, op: &Op, mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
        if let Op::Write { inode, offset, .. } = op
            && let Some(from) = self.0.get(inode)
        {
            let most = from.saturating_sub(*offset);
            ranges.iter_mut().for_each(|range| {
                range.end = range.end.min(usize::try_from(most).unwrap_or(usize::MAX));
            });
            ranges.retain(|range| !range.is_empty());
        }
        ranges
    }
}

/// How far ext4's journal got: names and attributes up to there survive.
fn committed(entries: &[Entry], required: &[bool], keep: Keep, random: &mut Random) -> Lsn {
    let metadata = || {
        let all = entries.iter().zip(required);
        all.filter(|(entry, _)| !matches!(entry.op, Op::Write { .. }))
    };
    let least = metadata()
        .filter(|(_, must)| **must)
        .map(|(entry, _)| entry.lsn)
        .next_back();
    let open: Vec<Lsn> = metadata()
        .filter(|(_, must)| !**must)
        .map(|(entry, _)| entry.lsn)
        .collect();
    let taken = match keep {
        Keep::None => 0,
        Keep::All => open.len(),
        Keep::Random => random.below(open.len() as u64 + 1) as usize,
        Keep::Through(lsn) => open.partition_point(|at| *at <= lsn),
    };
    let most = match taken.checked_sub(1) {
        _ if taken == open.len() && keep != Keep::None => Some(Lsn(u64::MAX)),
        None => None,
        Some(last) => Some(open[last]),
    };
    most.max(least).unwrap_or(Lsn(0))
}

/// Some of the pages that a write touches.
fn pieces(offset: u64, len: u64, random: &mut Random) -> Vec<Range<usize>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < len {
        let next = (len - at).min(PAGE - (offset + at) % PAGE);
        if random.one_in(2) {
            pieces.push(at as usize..(at + next) as usize);
        }
        at += next;
    }
    pieces
}

/// What the syncs of files and directories cover, by POSIX's letter.
fn covered(entries: &[Entry], syncs: &[Synced]) -> Vec<bool> {
    let mut covered = vec![false; entries.len()];
    let everything = syncs
        .iter()
        .filter(|sync| sync.inode.is_none())
        .map(|sync| sync.through)
        .max();
    let mut of: HashMap<InodeNo, Vec<&Synced>> = HashMap::new();
    for sync in syncs {
        if let Some(inode) = sync.inode {
            of.entry(inode).or_default().push(sync);
        }
    }
    // Nearly in order already: syncs are noted when they end.
    (of.values_mut()).for_each(|syncs| syncs.sort_by_key(|sync| sync.through));
    // For each inode: what a later sync of it has covered, going back in time.
    let mut later: HashMap<InodeNo, Granted> = HashMap::new();
    for (entry, covered) in entries.iter().zip(&mut covered).rev() {
        *covered = everything.is_some_and(|through| entry.lsn <= through);
        for inode in touched(&entry.op) {
            let granted = later.entry(inode).or_default();
            for sync in no_earlier(&mut of, inode, entry.lsn) {
                granted.data = true;
                granted.all |= !sync.data_only;
            }
            *covered |= match &entry.op {
                Op::Write { inode: of, .. } | Op::Fallocate { inode: of, .. } if *of == inode => {
                    granted.data
                }
                Op::SetAttr {
                    inode: of, size, ..
                } if *of == inode => granted.all || granted.data && size.is_some(),
                Op::SetXattr { .. } | Op::RemoveXattr { .. } | Op::SetFlags { .. } => granted.all,
                // A directory's data are its names.
                _ => granted.data,
            };
        }
        if let Op::Create { inode, .. } = &entry.op {
            // What had the number before was another file.
            later.remove(inode);
            no_earlier(&mut of, *inode, entry.lsn);
        }
    }
    covered
}

/// Takes out an inode's syncs that cover this record.
fn no_earlier<'a>(
    of: &mut HashMap<InodeNo, Vec<&'a Synced>>,
    inode: InodeNo,
    lsn: Lsn,
) -> Vec<&'a Synced> {
    let Some(waiting) = of.get_mut(&inode) else {
        return Vec::new();
    };
    let earlier = waiting.partition_point(|sync| sync.through < lsn);
    waiting.split_off(earlier)
}

#[derive(Default)]
struct Granted {
    data: bool,
    all: bool,
}

/// The inodes whose sync makes an operation durable.
fn touched(op: &Op) -> Vec<InodeNo> {
    match op {
        Op::Create { .. }
        | Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename { .. } => op.directories().collect(),
        Op::Write { inode, .. }
        | Op::SetAttr { inode, .. }
        | Op::Fallocate { inode, .. }
        | Op::SetXattr { inode, .. }
        | Op::RemoveXattr { inode, .. }
        | Op::SetFlags { inode, .. } => vec![*inode],
        Op::Atime { .. } | Op::Orphan { .. } | Op::Mark { .. } => Vec::new(),
    }
}

/// Adds what operations that must survive can't do without. (More may survive
/// than must, so too much is legal; too little would not be.)
fn closed(entries: &[Entry], mut required: Vec<bool>) -> Vec<bool> {
    let mut need = Need {
        directories: directories(entries),
        ..Need::default()
    };
    for (entry, required) in entries.iter().zip(&mut required).rev() {
        *required |= need.of(&entry.op);
        need.given_by(&entry.op);
        if *required {
            need.add(&entry.op);
        }
    }
    required
}

/// What operations further on rely on.
#[derive(Default)]
struct Need {
    /// Known to be directories.
    directories: HashSet<InodeNo>,
    /// Names that must have meant, and ceased to mean, just what they did.
    names: HashSet<(InodeNo, Vec<u8>)>,
    /// Inodes that must exist, and so the directories that they were made in.
    births: HashSet<InodeNo>,
    /// Directories that must have become empty.
    emptied: HashSet<InodeNo>,
    /// A directory is moved: no other move may be missing, or it might end
    /// within itself.
    moves: bool,
}

fn directories(entries: &[Entry]) -> HashSet<InodeNo> {
    (entries.iter())
        .flat_map(|entry| {
            let made = match &entry.op {
                Op::Create { inode, mode, .. } if mode & 0o170000 == 0o040000 => Some(*inode),
                Op::Rmdir { inode, .. } => Some(*inode),
                _ => None,
            };
            entry.op.directories().chain(made)
        })
        .collect()
}

impl Need {
    /// Whether an operation is one of those that are relied on.
    fn of(&self, op: &Op) -> bool {
        let named = names(op).any(|at| self.names.contains(&key(at)));
        let empties = op.directories().any(|dir| self.emptied.contains(&dir));
        named
            || empties
            || match op {
                Op::Create { inode, .. } => self.births.contains(inode),
                Op::Rename { inode, .. } => self.moves && self.directories.contains(inode),
                _ => false,
            }
    }

    /// What this operation gives is not needed of earlier ones.
    fn given_by(&mut self, op: &Op) {
        if let Op::Create { at, inode, .. } = op {
            self.emptied.remove(inode);
            if self.births.remove(inode) {
                self.births.insert(at.parent);
            }
        }
    }

    /// What this operation relies on.
    fn add(&mut self, op: &Op) {
        self.names.extend(names(op).map(key));
        match op {
            Op::Link { inode, .. } => drop(self.births.insert(*inode)),
            Op::Rmdir { inode, .. } => drop(self.emptied.insert(*inode)),
            Op::Rename {
                from,
                to,
                inode,
                replaced,
                flags,
                ..
            } => {
                // Else it could not be done, and the old name would stay.
                self.births.extend([from.parent, to.parent]);
                let both = [inode, replaced];
                self.moves |= both.iter().any(|inode| self.directories.contains(inode));
                if flags & libc::RENAME_EXCHANGE == 0 {
                    self.emptied.extend(self.directories.get(replaced));
                }
            }
            _ => {}
        }
    }
}

/// The names that an operation changes.
fn names(op: &Op) -> impl Iterator<Item = &Name> {
    let (first, second) = match op {
        Op::Create { at, .. }
        | Op::Link { at, .. }
        | Op::Unlink { at, .. }
        | Op::Rmdir { at, .. } => (Some(at), None),
        Op::Rename { from, to, .. } => (Some(from), Some(to)),
        _ => (None, None),
    };
    first.into_iter().chain(second)
}

fn key(at: &Name) -> (InodeNo, Vec<u8>) {
    (at.parent, at.name.clone())
}

fn time(op: &Op) -> Option<Time> {
    match op {
        Op::Write { time, .. } => Some(*time),
        _ => None,
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::Prefix => "prefix",
            Model::Ext4 => "ext4",
            Model::Posix => "posix",
        })
    }
}

impl FromStr for Model {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "prefix" => Ok(Model::Prefix),
            "ext4" => Ok(Model::Ext4),
            "posix" => Ok(Model::Posix),
            _ => Err("want prefix, ext4 or posix".to_owned()),
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::None => f.write_str("none"),
            Keep::All => f.write_str("all"),
            Keep::Random => f.write_str("random"),
            Keep::Through(lsn) => lsn.fmt(f),
        }
    }
}

impl FromStr for Keep {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "none" => Ok(Keep::None),
            "all" => Ok(Keep::All),
            "random" => Ok(Keep::Random),
            lsn => (lsn.parse().map(|lsn| Keep::Through(Lsn(lsn))))
                .map_err(|_| "want none, all, random, or a record's number".to_owned()),
        }
    }
}

//! One step of a workload, and its text.
//!
//! A step is a line (`rename a/b c exchange`), so that a failing run can be
//! pasted into a test. Steps that make no sense any more (after shrinking,
//! say) are harmless: the file system and the model refuse them alike.

use std::fmt;
use std::str::FromStr;

use crate::units::Time;

/// A path from the root, components separated by `/`; `.` is the root. A
/// component `~NN` stands for a name of 120 bytes, of which few fit a block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub String);

impl Path {
    /// The names on the way, spelled out.
    pub fn names(&self) -> Vec<Vec<u8>> {
        self.0
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".")
            .map(spelled)
            .collect()
    }
}

fn spelled(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    if bytes.first() == Some(&b'~') {
        bytes.resize(120, b'x');
    }
    bytes
}

/// What a step acts on: a path, or a file that an earlier step opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Target {
    Path(Path),
    Handle(u8),
}

/// renameat2(2)'s flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum How {
    Plain,
    NoReplace,
    Exchange,
}

/// fallocate(2)'s modes, as far as they are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Space {
    Plain,
    Keep,
    Punch,
    Zero,
    ZeroKeep,
}

/// setxattr(2)'s flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Put {
    Any,
    Create,
    Replace,
}

/// One step. Bytes are given by length and the seed of a pattern (0: zeros).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    /// Whom the following steps act as.
    As {
        uid: u32,
        gid: u32,
    },
    Create {
        at: Path,
        mode: u16,
    },
    Mknod {
        at: Path,
        mode: u16,
        rdev: u32,
    },
    Mkdir {
        at: Path,
        mode: u16,
    },
    Symlink {
        at: Path,
        target: String,
    },
    Link {
        from: Target,
        to: Path,
    },
    Unlink {
        at: Path,
    },
    Rmdir {
        at: Path,
    },
    Rename {
        from: Path,
        to: Path,
        how: How,
    },
    Write {
        to: Target,
        offset: u64,
        len: u32,
        seed: u32,
    },
    /// A write at the end that the file has then.
    Append {
        to: Target,
        len: u32,
        seed: u32,
    },
    Truncate {
        of: Target,
        size: u64,
    },
    Fallocate {
        of: Target,
        space: Space,
        offset: u64,
        len: u64,
    },
    Chmod {
        of: Target,
        mode: u16,
    },
    Chown {
        of: Target,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Utimens {
        of: Target,
        atime: Time,
        mtime: Time,
    },
    SetXattr {
        of: Target,
        name: String,
        len: u32,
        seed: u32,
        put: Put,
    },
    RemoveXattr {
        of: Target,
        name: String,
    },
    Open {
        handle: u8,
        at: Path,
        truncate: bool,
    },
    Release {
        handle: u8,
    },
    /// The three ways to ask for durability; each goes the way that a
    /// mount's requests go.
    Fsync,
    Fdatasync,
    Fsyncdir,
    Checkpoint,
    /// What the background does from time to time: mark, clean, prepare.
    Tick,
    /// Lets the clock run.
    Sleep {
        millis: u32,
    },
    /// A clean unmount, and a mount.
    Remount,
    /// SIGKILL, and a mount: memory is lost, the host's page cache is not.
    Kill,
    /// A power cut that keeps what the seed says, and a mount.
    Cut {
        seed: u32,
    },
}

/// A set of kinds of operations, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verbs(pub u32);

impl Verbs {
    /// Both sets together.
    pub fn with(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    /// The kinds two by two, and each one with itself.
    pub fn pairs(self) -> impl Iterator<Item = (u32, u32)> {
        let has = move |bit: &u32| self.0 >> bit & 1 == 1;
        (0..32)
            .filter(has)
            .flat_map(move |a| (a..32).filter(has).map(move |b| (a, b)))
    }
}

impl Step {
    /// What kind of operation this is; nothing for what leaves no record.
    pub fn verb(&self) -> Verbs {
        let bit = match self {
            Step::Create { .. } => 0,
            Step::Mknod { .. } => 1,
            Step::Mkdir { .. } => 2,
            Step::Symlink { .. } => 3,
            Step::Link { .. } => 4,
            Step::Unlink { .. } => 5,
            Step::Rmdir { .. } => 6,
            Step::Rename { how, .. } => 7 + *how as u32,
            Step::Write { .. } => 10,
            Step::Append { .. } => 11,
            Step::Truncate { .. } => 12,
            Step::Fallocate { space, .. } => 13 + *space as u32,
            Step::Chmod { .. } => 18,
            Step::Chown { .. } => 19,
            Step::Utimens { .. } => 20,
            Step::SetXattr { .. } => 21,
            Step::RemoveXattr { .. } => 22,
            Step::Open { .. } => 23,
            Step::Release { .. } => 24,
            Step::As { .. }
            | Step::Fsync
            | Step::Fdatasync
            | Step::Fsyncdir
            | Step::Checkpoint
            | Step::Tick
            | Step::Sleep { .. }
            | Step::Remount
            | Step::Kill
            | Step::Cut { .. } => return Verbs::default(),
        };
        Verbs(1 << bit)
    }

    /// Whether the caller waits until all that was done is durable.
    pub fn is_sync(&self) -> bool {
        matches!(self, Step::Fsync | Step::Fdatasync | Step::Fsyncdir)
    }
}

/// The bytes that a step's `len` and `seed` stand for.
pub fn pattern(len: u32, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while seed != 0 && bytes.len() < len as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.resize(len as usize, 0);
    bytes
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Path(path) => path.fmt(f),
            Target::Handle(handle) => write!(f, "#{handle}"),
        }
    }
}

/// Lower-case words for enums without fields.
macro_rules! words {
    ($name:ident: $($variant:ident = $word:literal),+) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word),+ })
            }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok($name::$variant),)+
                    _ => Err(format!("unknown word {word:?}")),
                }
            }
        }
    };
}

words!(How: Plain = "plain", NoReplace = "noreplace", Exchange = "exchange");
words!(Space: Plain = "plain", Keep = "keep", Punch = "punch", Zero = "zero", ZeroKeep = "zerokeep");
words!(Put: Any = "any", Create = "create", Replace = "replace");

struct Maybe(Option<u32>);

impl fmt::Display for Maybe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(n) => n.fmt(f),
            None => f.write_str("-"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::As { uid, gid } => write!(f, "as {uid} {gid}"),
            Step::Create { at, mode } => write!(f, "create {at} {mode:o}"),
            Step::Mknod { at, mode, rdev } => write!(f, "mknod {at} {mode:o} {rdev}"),
            Step::Mkdir { at, mode } => write!(f, "mkdir {at} {mode:o}"),
            Step::Symlink { at, target } => write!(f, "symlink {at} {target}"),
            Step::Link { from, to } => write!(f, "link {from} {to}"),
            Step::Unlink { at } => write!(f, "unlink {at}"),
            Step::Rmdir { at } => write!(f, "rmdir {at}"),
            Step::Rename { from, to, how } => write!(f, "rename {from} {to} {how}"),
            Step::Write {
                to,
                offset,
                len,
                seed,
            } => write!(f, "write {to} {offset} {len} {seed}"),
            Step::Append { to, len, seed } => write!(f, "append {to} {len} {seed}"),
            Step::Truncate { of, size } => write!(f, "truncate {of} {size}"),
            Step::Fallocate {
                of,
                space,
                offset,
                len,
            } => write!(f, "fallocate {of} {space} {offset} {len}"),
            Step::Chmod { of, mode } => write!(f, "chmod {of} {mode:o}"),
            Step::Chown { of, uid, gid } => write!(f, "chown {of} {} {}", Maybe(*uid), Maybe(*gid)),
            Step::Utimens { of, atime, mtime } => {
                write!(
                    f,
                    "utimens {of} {} {} {} {}",
                    atime.secs, atime.nanos, mtime.secs, mtime.nanos
                )
            }
            Step::SetXattr {
                of,
                name,
                len,
                seed,
                put,
            } => write!(f, "setxattr {of} {name} {len} {seed} {put}"),
            Step::RemoveXattr { of, name } => write!(f, "removexattr {of} {name}"),
            Step::Open {
                handle,
                at,
                truncate: false,
            } => write!(f, "open {handle} {at}"),
            Step::Open {
                handle,
                at,
                truncate: true,
            } => write!(f, "opentrunc {handle} {at}"),
            Step::Release { handle } => write!(f, "release {handle}"),
            Step::Fsync => f.write_str("fsync"),
            Step::Fdatasync => f.write_str("fdatasync"),
            Step::Fsyncdir => f.write_str("fsyncdir"),
            Step::Checkpoint => f.write_str("checkpoint"),
            Step::Tick => f.write_str("tick"),
            Step::Sleep { millis } => write!(f, "sleep {millis}"),
            Step::Remount => f.write_str("remount"),
            Step::Kill => f.write_str("kill"),
            Step::Cut { seed } => write!(f, "cut {seed}"),
        }
    }
}

/// The words of a line, taken one by one.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl Words<'_> {
    fn next<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.0.next().ok_or("a word is missing")?;
        word.parse().map_err(|_| format!("cannot read {word:?}"))
    }
    fn octal(&mut self) -> Result<u16, String> {
        let word: String = self.next()?;
        u16::from_str_radix(&word, 8).map_err(|e| format!("{word:?}: {e}"))
    }
    fn maybe(&mut self) -> Result<Option<u32>, String> {
        let word: String = self.next()?;
        if word == "-" {
            Ok(None)
        } else {
            word.parse()
                .map(Some)
                .map_err(|_| format!("cannot read {word:?}"))
        }
    }
    fn time(&mut self) -> Result<Time, String> {
        Ok(Time {
            secs: self.next()?,
            nanos: self.next()?,
        })
    }
}

impl FromStr for Path {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        Ok(Path(word.to_owned()))
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word.strip_prefix('#') {
            Some(handle) => handle
                .parse()
                .map(Target::Handle)
                .map_err(|_| format!("no handle: {word:?}")),
            None => word.parse().map(Target::Path),
        }
    }
}

impl FromStr for Step {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = Words(line.split_whitespace());
        let w = &mut words;
        let verb: String = w.next()?;
        let step = match verb.as_str() {
            "as" => Step::As {
                uid: w.next()?,
                gid: w.next()?,
            },
            "create" => Step::Create {
                at: w.next()?,
                mode: w.octal()?,
            },
            "mknod" => Step::Mknod {
                at: w.next()?,
                mode: w.octal()?,
                rdev: w.next()?,
            },
            "mkdir" => Step::Mkdir {
                at: w.next()?,
                mode: w.octal()?,
            },
            "symlink" => Step::Symlink {
                at: w.next()?,
                target: w.next()?,
            },
            "link" => Step::Link {
                from: w.next()?,
                to: w.next()?,
            },
            "unlink" => Step::Unlink { at: w.next()? },
            "rmdir" => Step::Rmdir { at: w.next()? },
            "rename" => Step::Rename {
                from: w.next()?,
                to: w.next()?,
                how: w.next()?,
            },
            "write" => Step::Write {
                to: w.next()?,
                offset: w.next()?,
                len: w.next()?,
                seed: w.next()?,
            },
            "append" => Step::Append {
                to: w.next()?,
                len: w.next()?,
                seed: w.next()?,
            },
            "truncate" => Step::Truncate {
                of: w.next()?,
                size: w.next()?,
            },
            "fallocate" => Step::Fallocate {
                of: w.next()?,
                space: w.next()?,
                offset: w.next()?,
                len: w.next()?,
            },
            "chmod" => Step::Chmod {
                of: w.next()?,
                mode: w.octal()?,
            },
            "chown" => Step::Chown {
                of: w.next()?,
                uid: w.maybe()?,
                gid: w.maybe()?,
            },
            "utimens" => Step::Utimens {
                of: w.next()?,
                atime: w.time()?,
                mtime: w.time()?,
            },
            "setxattr" => Step::SetXattr {
                of: w.next()?,
                name: w.next()?,
                len: w.next()?,
                seed: w.next()?,
                put: w.next()?,
            },
            "removexattr" => Step::RemoveXattr {
                of: w.next()?,
                name: w.next()?,
            },
            "open" => Step::Open {
                handle: w.next()?,
                at: w.next()?,
                truncate: false,
            },
            "opentrunc" => Step::Open {
                handle: w.next()?,
                at: w.next()?,
                truncate: true,
            },
            "release" => Step::Release { handle: w.next()? },
            "fsync" => Step::Fsync,
            "fdatasync" => Step::Fdatasync,
            "fsyncdir" => Step::Fsyncdir,
            "checkpoint" => Step::Checkpoint,
            "tick" => Step::Tick,
            "sleep" => Step::Sleep { millis: w.next()? },
            "remount" => Step::Remount,
            "kill" => Step::Kill,
            "cut" => Step::Cut { seed: w.next()? },
            _ => return Err(format!("unknown step {verb:?}")),
        };
        match words.0.next() {
            None => Ok(step),
            Some(word) => Err(format!("{word:?} is one word too many in {line:?}")),
        }
    }
}

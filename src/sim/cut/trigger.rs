//! When the power is to go.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::units::Lsn;

/// What a cut waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing.
    Now,
    /// So much time.
    After(Duration),
    /// This record being written.
    AtLsn(Lsn),
    /// A mark of this name.
    AtMark(String),
    /// An operation being asked for.
    BeforeOp(Pattern),
    /// An operation having succeeded, before its caller is told.
    AfterOp(Pattern),
}

/// `KIND:GLOB`, as in `fsync:/db/*`; `*` for any kind, no glob for any path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    kind: String,
    path: glob::Pattern,
}

/// The kinds of operations that a pattern may name.
pub const KINDS: [&str; 22] = [
    "create",
    "mknod",
    "mkdir",
    "symlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "write",
    "truncate",
    "fallocate",
    "chmod",
    "chown",
    "utimens",
    "setxattr",
    "removexattr",
    "fsync",
    "fdatasync",
    "open",
    "close",
    "read",
    "readlink",
];

impl Pattern {
    /// Whether an operation on this path (of a rename: on either) is meant.
    pub fn matches(&self, kind: &str, paths: &[Vec<u8>]) -> bool {
        let mut paths = paths.iter().map(|path| String::from_utf8_lossy(path));
        (self.kind == "*" || self.kind == kind) && paths.any(|path| self.path.matches(&path))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.path)
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, path) = text.split_once(':').unwrap_or((text, "*"));
        // fsync of a directory is an fsync, as strace has it.
        let kind = if kind == "fsyncdir" { "fsync" } else { kind };
        if kind != "*" && !KINDS.contains(&kind) {
            return Err(format!(
                "no such operation {kind:?}: {} or *",
                KINDS.join(", ")
            ));
        }
        let path = glob::Pattern::new(path).map_err(|e| format!("{path:?}: {e}"))?;
        Ok(Pattern {
            kind: kind.to_owned(),
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_an_operation_and_a_path() {
        let pattern: Pattern = "fsync:/db/*".parse().unwrap();
        assert!(pattern.matches("fsync", &[b"/db/wal".to_vec()]));
        assert!(!pattern.matches("fdatasync", &[b"/db/wal".to_vec()]));
        assert!(!pattern.matches("fsync", &[b"/other".to_vec()]));
        let rename: Pattern = "rename:*/final".parse().unwrap();
        assert!(rename.matches("rename", &[b"/a/tmp".to_vec(), b"/a/final".to_vec()]));
        assert!(
            "*".parse::<Pattern>()
                .unwrap()
                .matches("write", &[b"/x".to_vec()])
        );
        let wrong = "fsink:/db".parse::<Pattern>().unwrap_err();
        assert!(
            wrong.contains("fsink") && wrong.contains("fsync"),
            "{wrong}"
        );
        assert!("write:[".parse::<Pattern>().is_err());
    }
}

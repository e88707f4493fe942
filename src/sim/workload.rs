//! Seeded lists of steps over a small name space, and their text.
//!
//! Small, so that steps meet each other: the same few files are written,
//! linked, renamed over, removed while open and made again.

use std::fmt;
use std::str::FromStr;

use super::model::Model;
use super::random::Random;
use super::step::{How, Path, Put, Space, Step, Target};
use super::tree::Tree;
use crate::fs::Kind;
use crate::units::Time;

/// A list of steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload(pub Vec<Step>);

/// What a workload is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Everything, evenly.
    All,
    /// Mostly names: large directories, renames, links.
    Names,
    /// Mostly contents: writes, holes, truncation, space.
    Contents,
    /// Everything, with unmounts, kills and power cuts in between.
    Sessions,
}

impl Mix {
    /// All of them.
    pub const ALL: [Mix; 4] = [Mix::All, Mix::Names, Mix::Contents, Mix::Sessions];
}

const FILES: [&str; 5] = ["a", "b", "c", "é", "~00"];
const DIRS: [&str; 3] = ["d", "e", "~dir"];
const XATTRS: [&str; 4] = [
    "user.a",
    "user.b",
    "user.a-rather-long-name-of-an-attribute",
    "trusted.c",
];

/// Chooses steps; follows them in a model, so that most of them make sense.
struct Chooser {
    random: Random,
    model: Model,
    tree: Tree,
    mix: Mix,
    /// Bytes that the files of a small image may take together.
    largest: u64,
}

impl Workload {
    /// `count` steps that the seed decides, for an image that holds `tree`.
    pub fn random(seed: u64, count: usize, mix: Mix, tree: &Tree) -> Self {
        let mut chooser = Chooser {
            random: Random::new(seed),
            model: Model::of(tree),
            tree: tree.clone(),
            mix,
            largest: 40_000,
        };
        Workload((0..count).map(|n| chooser.step(n as i64)).collect())
    }
}

impl Chooser {
    fn step(&mut self, n: i64) -> Step {
        let step = match self.mix {
            Mix::All => self.any(),
            Mix::Names if self.random.one_in(4) => self.any(),
            Mix::Names => self.names(),
            Mix::Contents if self.random.one_in(4) => self.any(),
            Mix::Contents => self.contents(),
            Mix::Sessions if self.random.one_in(12) => self.session(),
            Mix::Sessions => self.any(),
        };
        if self.model.apply(&step, Time { secs: n, nanos: 0 }).is_ok() {
            self.tree = self.model.tree();
        }
        step
    }

    fn any(&mut self) -> Step {
        match self.random.below(20) {
            0..=5 => self.names(),
            6..=11 => self.contents(),
            12..=14 => self.attributes(),
            15 => self.handles(),
            16 => Step::Fsync,
            17 => self
                .random
                .pick(&[Step::Fsync, Step::Fdatasync, Step::Fsyncdir])
                .clone(),
            18 => Step::Tick,
            _ => match self.random.below(4) {
                0 => Step::Checkpoint,
                1 => Step::Sleep {
                    millis: 1 + self.random.below(5000) as u32,
                },
                2 => Step::As { uid: 0, gid: 0 },
                _ => Step::As {
                    uid: 1000 * self.random.below(2) as u32,
                    gid: 100 * self.random.below(3) as u32,
                },
            },
        }
    }

    fn names(&mut self) -> Step {
        match self.random.below(16) {
            0..=3 => Step::Create {
                at: self.new_path(),
                mode: self.mode(),
            },
            4..=5 => Step::Mkdir {
                at: self.new_path(),
                mode: self.mode(),
            },
            6 => Step::Symlink {
                at: self.new_path(),
                target: "t".repeat(1 + self.random.below(200) as usize),
            },
            7 => self.mknod(),
            8 => Step::Link {
                from: self.target(),
                to: self.new_path(),
            },
            9..=10 => Step::Unlink { at: self.path() },
            11 => Step::Rmdir {
                at: self.directory(),
            },
            12..=13 => Step::Rename {
                from: self.path(),
                to: self.new_path(),
                how: How::Plain,
            },
            14 => Step::Rename {
                from: self.path(),
                to: self.path(),
                how: How::Plain,
            },
            _ => Step::Rename {
                from: self.path(),
                to: self.path(),
                how: *self
                    .random
                    .pick(&[How::Exchange, How::Exchange, How::NoReplace]),
            },
        }
    }

    fn mknod(&mut self) -> Step {
        let kind = *self
            .random
            .pick(&[0o010000u16, 0o020000, 0o060000, 0o140000, 0o100000]);
        // Small numbers have the old encoding, large ones the new.
        let rdev = *self.random.pick(&[0x0103u32, 0x0812, 0x0010_2345]);
        let device = matches!(kind, 0o020000 | 0o060000);
        Step::Mknod {
            at: self.new_path(),
            mode: kind | 0o640,
            rdev: if device { rdev } else { 0 },
        }
    }

    fn contents(&mut self) -> Step {
        let (of, seed) = (self.file(), self.random.below(1000) as u32);
        match self.random.below(16) {
            0..=5 => Step::Write {
                to: of,
                offset: self.offset(),
                len: self.len(),
                seed,
            },
            6..=8 => Step::Append {
                to: of,
                len: self.len(),
                seed,
            },
            9..=10 => Step::Truncate {
                of,
                size: self.offset(),
            },
            11 => Step::Truncate { of, size: 0 },
            12..=13 => Step::Fallocate {
                of,
                space: self.space(),
                offset: self.offset(),
                len: 1 + self.offset() / 2,
            },
            14 => Step::Create {
                at: self.new_path(),
                mode: 0o644,
            },
            _ => self.handles(),
        }
    }

    fn attributes(&mut self) -> Step {
        let of = self.target();
        match self.random.below(8) {
            0 => Step::Chmod {
                of,
                mode: self.mode(),
            },
            1 => Step::Chown {
                of,
                uid: Some(self.random.below(3) as u32 * 1000),
                gid: None,
            },
            2 => Step::Chown {
                of,
                uid: None,
                gid: Some(self.random.below(70_000) as u32),
            },
            3 => Step::Utimens {
                of,
                atime: self.time(),
                mtime: self.time(),
            },
            4..=6 => Step::SetXattr {
                of: self.with_xattrs(),
                name: (*self.random.pick(&XATTRS)).to_owned(),
                len: *self.random.pick(&[0, 5, 30, 70, 300, 600]),
                seed: self.random.below(1000) as u32,
                put: *self
                    .random
                    .pick(&[Put::Any, Put::Any, Put::Create, Put::Replace]),
            },
            _ => Step::RemoveXattr {
                of: self.with_xattrs(),
                name: (*self.random.pick(&XATTRS)).to_owned(),
            },
        }
    }

    fn handles(&mut self) -> Step {
        let handle = self.random.below(3) as u8;
        match self.model.handles().any(|open| open == handle) && !self.random.one_in(4) {
            true => Step::Release { handle },
            false => match self.file() {
                Target::Path(at) => Step::Open {
                    handle,
                    at,
                    truncate: self.random.one_in(4),
                },
                Target::Handle(handle) => Step::Release { handle },
            },
        }
    }

    fn session(&mut self) -> Step {
        match self.random.below(4) {
            0 => Step::Remount,
            1 => Step::Kill,
            _ => Step::Cut {
                seed: self.random.below(1 << 30) as u32,
            },
        }
    }

    // Arguments.

    fn existing(&mut self, kinds: &[Kind]) -> Option<Path> {
        let paths: Vec<&Vec<u8>> = (self.tree.names.iter())
            .filter(|(path, node)| {
                kinds.contains(&self.tree.nodes[**node].kind)
                    && !path.is_empty()
                    && !path.starts_with(b"lost+found")
            })
            .map(|(path, _)| path)
            .collect();
        let chosen = paths.get(self.random.below(paths.len() as u64) as usize)?;
        Some(Path(compact(chosen)))
    }

    fn path(&mut self) -> Path {
        const EVERYTHING: [Kind; 7] = [
            Kind::Regular,
            Kind::Directory,
            Kind::Symlink,
            Kind::CharDevice,
            Kind::BlockDevice,
            Kind::Fifo,
            Kind::Socket,
        ];
        match self.random.one_in(8) {
            true => self.new_path(),
            false => self
                .existing(&EVERYTHING)
                .unwrap_or_else(|| self.new_path()),
        }
    }

    fn directory(&mut self) -> Path {
        match self.random.one_in(6) {
            true => self.path(),
            false => self
                .existing(&[Kind::Directory])
                .unwrap_or_else(|| self.new_path()),
        }
    }

    /// A path that may or may not exist, seldom deeper than three.
    fn new_path(&mut self) -> Path {
        let dir = match self.random.below(3) {
            0 => None,
            _ => self
                .existing(&[Kind::Directory])
                .filter(|dir| dir.0.split('/').count() < 3),
        };
        let name = match self.random.below(8) {
            0..=3 => (*self.random.pick(&FILES)).to_owned(),
            4..=5 => (*self.random.pick(&DIRS)).to_owned(),
            _ if self.mix == Mix::Names => format!("~{:02}", self.random.below(60)),
            _ => format!("~{:02}", self.random.below(16)),
        };
        Path(dir.map_or(name.clone(), |dir| format!("{dir}/{name}")))
    }

    fn target(&mut self) -> Target {
        let handles: Vec<u8> = self.model.handles().collect();
        match handles.is_empty() || !self.random.one_in(5) {
            true => Target::Path(self.path()),
            false => Target::Handle(*self.random.pick(&handles)),
        }
    }

    fn file(&mut self) -> Target {
        let handles: Vec<u8> = self.model.handles().collect();
        match handles.is_empty() || !self.random.one_in(3) {
            true => Target::Path(
                self.existing(&[Kind::Regular])
                    .unwrap_or_else(|| self.new_path()),
            ),
            false => Target::Handle(*self.random.pick(&handles)),
        }
    }

    /// Only files and directories have attributes of users.
    fn with_xattrs(&mut self) -> Target {
        Target::Path(
            self.existing(&[Kind::Regular, Kind::Directory])
                .unwrap_or(Path(".".to_owned())),
        )
    }

    fn mode(&mut self) -> u16 {
        *self
            .random
            .pick(&[0o644, 0o755, 0o600, 0o4755, 0o2755, 0o2644, 0o1777])
    }

    fn space(&mut self) -> Space {
        *self.random.pick(&[
            Space::Plain,
            Space::Keep,
            Space::Punch,
            Space::Punch,
            Space::Zero,
            Space::ZeroKeep,
        ])
    }

    /// Offsets gather around the edges of blocks; one in many lies far out.
    fn offset(&mut self) -> u64 {
        let near = self.random.below(self.largest);
        match self.random.below(16) {
            0..=3 => 0,
            4..=7 => near / 1024 * 1024,
            8..=9 => (near / 1024 * 1024).saturating_sub(1) + self.random.below(3),
            10 => (1 << 22) + near * 64,
            _ => near,
        }
    }

    /// Never more than one record of the smallest journal takes: a longer
    /// write is several operations.
    fn len(&mut self) -> u32 {
        match self.random.below(8) {
            0..=1 => 1 + self.random.below(100) as u32,
            2..=3 => 1024 << self.random.below(4),
            4..=6 => 1 + self.random.below(5000) as u32,
            _ => 1 + self.random.below(12_000) as u32,
        }
    }

    fn time(&mut self) -> Time {
        let secs = *self.random.pick(&[0, 1, 1_700_000_000, 5_000_000_000, -1]);
        Time {
            secs,
            nanos: self.random.below(1_000_000_000) as u32,
        }
    }
}

/// A real path in the short spelling of [`Path`].
fn compact(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let short = |name: &str| match name.starts_with('~') {
        true => name.trim_end_matches('x').to_owned(),
        false => name.to_owned(),
    };
    text.split('/').map(short).collect::<Vec<_>>().join("/")
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl FromStr for Workload {
    type Err = String;
    /// Blank lines and lines that begin with `//` don't count.
    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("//"));
        lines
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_survives_the_way_through_its_text() {
        for (seed, mix) in (0..).zip(Mix::ALL) {
            let workload = Workload::random(seed, 300, mix, &Tree::root());
            assert_eq!(workload.to_string().parse(), Ok(workload));
        }
    }

    #[test]
    fn most_steps_make_sense_and_files_link_and_grow() {
        let workload = Workload::random(1, 500, Mix::All, &Tree::root());
        let mut model = Model::of(&Tree::root());
        let done = workload
            .0
            .iter()
            .filter(|step| model.apply(step, Time::default()).is_ok())
            .count();
        let tree = model.tree();
        assert!(done > 300, "{done} of 500 steps were possible");
        assert!(
            tree.names.len() > 10
                && tree
                    .nodes
                    .iter()
                    .any(|node| node.links > 1 && node.kind == Kind::Regular)
        );
        assert_eq!(Model::of(&tree).tree().difference(&tree), None);
    }
}

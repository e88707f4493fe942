//! Which of the system's own movements a point of a run lies in.
//!
//! A campaign must not only be long: its cuts have to fall where a journal
//! is weakest. Every point is sorted by what is pending there, so that a run
//! which never recycles a segment can't pass for one that does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::device::volatile::{Event, FileId, Snapshot};

/// A movement that a cut may interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    /// mkfs writes an image.
    Mkfs,
    /// A journal is put beside an image with an internal one.
    Adoption,
    /// A mount, from its first write on.
    Mount,
    /// An unmount.
    Unmount,
    /// The superblock's guard comes or goes.
    Guard,
    /// A checkpoint's blocks are on their way home.
    Checkpoint,
    /// The log goes on in another segment.
    Rotation,
    /// The file of that segment was one before.
    Recycling,
    /// A segment becomes a spare, or is removed.
    Cleaning,
}

impl Window {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Window; 9] = [
        Window::Mkfs,
        Window::Adoption,
        Window::Mount,
        Window::Unmount,
        Window::Guard,
        Window::Checkpoint,
        Window::Rotation,
        Window::Recycling,
        Window::Cleaning,
    ];
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Window::Mkfs => "mkfs",
            Window::Adoption => "adoption",
            Window::Mount => "mount",
            Window::Unmount => "unmount",
            Window::Guard => "guard",
            Window::Checkpoint => "checkpoint",
            Window::Rotation => "rotation",
            Window::Recycling => "recycling",
            Window::Cleaning => "cleaning",
        })
    }
}

/// Follows a trace, and remembers which files have been segments.
pub(super) struct Watch {
    names: BTreeMap<FileId, String>,
    segments: BTreeSet<FileId>,
    /// Names given to files that had been segments before.
    recycled: BTreeSet<(FileId, String)>,
}

impl Watch {
    pub fn new(start: &Snapshot) -> Self {
        let mut watch = Watch {
            names: BTreeMap::new(),
            segments: BTreeSet::new(),
            recycled: BTreeSet::new(),
        };
        (start.files.keys().zip((1..).map(FileId))).for_each(|(name, file)| watch.name(file, name));
        watch
    }

    pub fn pass(&mut self, event: &Event) {
        if let Event::Name { file, name } = event {
            self.name(*file, name);
        }
    }

    fn name(&mut self, file: FileId, name: &str) {
        let before = self.names.insert(file, name.to_owned());
        if is_segment(name) {
            let was_spare = before.is_some_and(|before| !is_segment(&before));
            if !self.segments.insert(file) && was_spare {
                self.recycled.insert((file, name.to_owned()));
            }
        }
    }

    /// What a pending change is a part of.
    pub fn window(&self, pending: &Event) -> Option<Window> {
        match pending {
            Event::Write {
                file: FileId::IMAGE,
                offset,
                bytes,
                ..
            } => Some(
                match *offset >= 1024 && offset + bytes.len() as u64 <= 2048 {
                    true => Window::Guard,
                    false => Window::Checkpoint,
                },
            ),
            Event::Name { file, name } if is_segment(name) => {
                Some(match self.recycled.contains(&(*file, name.clone())) {
                    true => Window::Recycling,
                    false => Window::Rotation,
                })
            }
            Event::Name { file, .. } if self.segments.contains(file) => Some(Window::Cleaning),
            Event::Unname { file, .. } if self.segments.contains(file) => Some(Window::Cleaning),
            _ => None,
        }
    }
}

/// A segment's store; the index files go their own, unimportant ways.
fn is_segment(name: &str) -> bool {
    name.ends_with(".store") && name.starts_with(|first: char| first.is_ascii_digit())
}

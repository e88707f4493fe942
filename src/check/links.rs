//! From the root to every directory, and every link count.

use super::finding::Finding;
use super::walk::{Reach, Walk, state};

const ROOT: u32 = 2;

impl Walk<'_> {
    /// Every directory must be named by one that the root leads to, and know it.
    pub fn connections(&mut self) {
        let mut path = Vec::new();
        for i in 0..self.directories.len() {
            let mut at = Some(i);
            // Up until something known. (A circle comes back to its own path.)
            let end = loop {
                let Some(directory) = at.map(|at| &mut self.directories[at]) else {
                    break Reach::Lost;
                };
                if directory.reach != Reach::Unknown {
                    break directory.reach;
                }
                directory.reach = Reach::Lost;
                path.extend(at);
                let parent = directory.parent;
                at = self
                    .directories
                    .binary_search_by_key(&parent, |d| d.inode)
                    .ok();
            };
            for at in path.drain(..) {
                self.directories[at].reach = end;
            }
            self.judge_connection(i);
        }
    }

    fn judge_connection(&mut self, i: usize) {
        let directory = self.directories[i];
        let removed = directory.links == 0 && self.state(directory.inode) & state::ORPHAN != 0;
        if removed {
            return;
        }
        let parent = if directory.inode == ROOT {
            ROOT
        } else {
            directory.parent
        };
        if directory.reach != Reach::Found {
            self.report.add(Finding::Unreachable {
                directory: directory.inode,
            });
        } else if !directory.skip && directory.dotdot != parent {
            let (directory, dotdot) = (directory.inode, directory.dotdot);
            self.report.add(Finding::Parent {
                directory,
                dotdot,
                parent,
            });
        }
    }

    /// Every link count against the names seen.
    pub fn link_counts(&mut self) {
        for directory in std::mem::take(&mut self.directories) {
            // 1 means "more than the field can count", and stays when they become fewer.
            let many = directory.links == 1 && self.sb.dir_nlink();
            if directory.links != directory.counted && !many {
                self.judge_links(directory.inode, directory.links, directory.counted);
            }
        }
        for inode in self.sb.first_inode..=self.sb.inodes {
            let known = self.state(inode);
            if known & state::USED != 0
                && known & state::KIND != state::DIRECTORY
                && inode != self.sb.orphan_file
            {
                self.judge_file(inode, known);
            }
        }
    }

    fn judge_file(&mut self, inode: u32, known: u8) {
        let named = u32::from(known & state::NAMED != 0);
        let stored = match known & state::ONE_LINK {
            0 => self.links.get(&inode).copied().unwrap_or(0),
            _ => 1,
        };
        let counted = named + self.more_names.get(&inode).copied().unwrap_or(0);
        match (stored, counted) {
            (stored, counted) if stored == counted => {}
            (_, 0) => self.report.add(Finding::Nameless { inode }),
            _ => self.judge_links(inode, stored, counted),
        }
    }

    fn judge_links(&mut self, inode: u32, stored: u32, counted: u32) {
        self.report.add(Finding::Links {
            inode,
            stored,
            counted,
        });
    }
}

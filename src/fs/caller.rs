//! Who asks: what permission checks need to know.
//!
//! A transport brings user, group and process; supplementary groups have to
//! be looked up elsewhere, so they are asked for only when an answer depends
//! on them, and then once a request.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Number of the task that asks; 0 inside journalfs.
    pub pid: u32,
    /// Supplementary groups; ask through [`Caller::in_group`].
    pub groups: Groups,
}

impl Caller {
    /// The process that asks; 0 inside journalfs.
    pub fn process(&self) -> u32 {
        self.groups.process(self.pid)
    }

    /// Whether `gid` is the caller's group or one of the supplementary ones.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.of(self.pid).contains(&gid)
    }
}

/// Whoever knows the host's processes. (A task is what Linux calls a thread.)
pub trait ProcessTable: Send + Sync {
    /// A task's supplementary groups; none if it has gone.
    fn groups(&self, task: u32) -> Arc<[u32]>;
    /// The process that a task belongs to; the task itself if it has gone.
    fn process(&self, task: u32) -> u32;
}

/// Supplementary groups: known, or to be asked for.
#[derive(Clone, Default)]
pub struct Groups {
    known: OnceLock<Arc<[u32]>>,
    ask: Option<Arc<dyn ProcessTable>>,
}

impl Groups {
    /// To be asked for when first needed.
    pub fn ask(whom: Arc<dyn ProcessTable>) -> Self {
        Groups {
            known: OnceLock::new(),
            ask: Some(whom),
        }
    }

    fn process(&self, task: u32) -> u32 {
        match &self.ask {
            Some(whom) if task != 0 => whom.process(task),
            _ => task,
        }
    }

    fn of(&self, pid: u32) -> &[u32] {
        self.known.get_or_init(|| match &self.ask {
            Some(whom) => whom.groups(pid),
            None => Arc::default(),
        })
    }
}

impl From<Vec<u32>> for Groups {
    fn from(groups: Vec<u32>) -> Self {
        Groups {
            known: OnceLock::from(Arc::from(groups)),
            ask: None,
        }
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known.get() {
            Some(groups) => groups.fmt(f),
            None => f.write_str("not asked"),
        }
    }
}

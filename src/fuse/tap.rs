//! Somebody between the transport and the file system, who sees each request
//! before it is served and each answer before it goes out: the power switch of
//! a mount for crash tests. A mount without one pays nothing for it.

use crate::fs::Error;
use crate::units::InodeNo;

use super::request::{Answer, Request};

/// Sees requests and answers.
pub trait Tap: Send + Sync {
    /// Before a request is served; an error is its answer.
    fn before(&self, request: &Request<'_>) -> Result<(), Error>;
    /// The kernel learned (or is about to) what a name means.
    fn named(&self, parent: InodeNo, name: &[u8], inode: InodeNo);
    /// Before an answer goes out, from whichever thread gives it; what comes
    /// back goes out instead.
    fn after(&self, served: Served, answer: Answer) -> Answer;
}

/// What was asked for, as far as it is of interest once it has been served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// What it is called, as in `strace`: `fsync`, `rename`, `write` …
    pub kind: &'static str,
    /// The inodes that it acted on, and the names.
    pub places: Vec<Spot>,
    /// It asked for durability, and an answer without an error grants it.
    pub sync: Option<Wanted>,
}

/// What a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Spot {
    Inode(InodeNo),
    Name(InodeNo, Vec<u8>),
}

/// What was asked to be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Wanted {
    File { inode: InodeNo, data_only: bool },
    Everything,
}

impl Served {
    /// A request; `asked`: what is durable with its answer though it doesn't say so.
    pub fn of(request: &Request<'_>, asked: Option<Wanted>) -> Served {
        use Request as R;
        let on = |kind, inode: &InodeNo| (kind, vec![Spot::Inode(*inode)]);
        let at =
            |kind, parent: &InodeNo, name: &[u8]| (kind, vec![Spot::Name(*parent, name.to_vec())]);
        let (kind, places) = match request {
            R::Lookup { parent, name } => at("lookup", parent, name),
            R::GetAttr { inode } => on("getattr", inode),
            R::SetAttr { inode, set } if set.size.is_some() => on("truncate", inode),
            R::SetAttr { inode, set } if set.mode.is_some() => on("chmod", inode),
            R::SetAttr { inode, set } if set.uid.is_some() || set.gid.is_some() => {
                on("chown", inode)
            }
            R::SetAttr { inode, .. } => on("utimens", inode),
            R::ReadLink { inode } => on("readlink", inode),
            R::Create { parent, name, .. } => at("create", parent, name),
            R::MakeNode { parent, name, .. } => at("mknod", parent, name),
            R::MakeDir { parent, name, .. } => at("mkdir", parent, name),
            R::Symlink { parent, name, .. } => at("symlink", parent, name),
            R::Link { parent, name, .. } => at("link", parent, name),
            R::Unlink { parent, name } => at("unlink", parent, name),
            R::RemoveDir { parent, name } => at("rmdir", parent, name),
            R::Rename {
                from,
                name,
                to,
                new_name,
                ..
            } => (
                "rename",
                vec![
                    Spot::Name(*from, name.to_vec()),
                    Spot::Name(*to, new_name.to_vec()),
                ],
            ),
            R::Open { inode, .. } => on("open", inode),
            R::Release { inode } => on("close", inode),
            R::OpenDir { inode } => on("opendir", inode),
            R::ReleaseDir { inode } => on("closedir", inode),
            R::Read { inode, .. } => on("read", inode),
            R::Write { inode, .. } => on("write", inode),
            R::Sync {
                inode,
                data_only: false,
            } => on("fsync", inode),
            R::Sync { inode, .. } => on("fdatasync", inode),
            R::Fallocate { inode, .. } => on("fallocate", inode),
            R::Seek { inode, .. } => on("lseek", inode),
            R::Statfs => on("statfs", &InodeNo::ROOT),
            R::Trim { .. } => on("trim", &InodeNo::ROOT),
            R::GetXattr { inode, .. } => on("getxattr", inode),
            R::ListXattr { inode } => on("listxattr", inode),
            R::SetXattr { inode, .. } => on("setxattr", inode),
            R::RemoveXattr { inode, .. } => on("removexattr", inode),
            R::SetFlags { inode, .. } => on("setflags", inode),
            R::Access { inode, .. } => on("access", inode),
            R::Forget { inode, .. } => on("forget", inode),
        };
        Served {
            kind,
            places,
            sync: asked.or_else(|| sync_of(request)),
        }
    }
}

fn sync_of(request: &Request<'_>) -> Option<Wanted> {
    match request {
        Request::Sync { inode, data_only } => Some(Wanted::File {
            inode: *inode,
            data_only: *data_only,
        }),
        // O_DSYNC past the cache: as if an fdatasync followed.
        Request::Write {
            inode,
            durable: true,
            ..
        } => Some(Wanted::File {
            inode: *inode,
            data_only: true,
        }),
        _ => None,
    }
}

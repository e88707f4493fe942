//! Names, attributes and directories, in-process on memory disks, judged by
//! e2fsck and the kernel.

mod support;

#[path = "names/world.rs"]
mod world;

#[path = "names/again.rs"]
mod again;
#[path = "names/damage.rs"]
mod damage;
#[path = "names/directories.rs"]
mod directories;
#[path = "names/full.rs"]
mod full;
#[path = "names/permissions.rs"]
mod permissions;
#[path = "names/rename.rs"]
mod rename;
#[path = "names/requests.rs"]
mod requests;
#[path = "names/xattrs.rs"]
mod xattrs;

//! `-o` options, with the meaning that ext4's users know.

use std::path::PathBuf;

use crate::fs::{Access, Atime};
use crate::fuse::transport::{MountFlag, Transport};
use crate::history::parse_age;

use super::{Failure, size};

/// Where to archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Where the journal did before, if it did.
    #[default]
    AsBefore,
    /// Nowhere, from now on.
    Nowhere,
    /// Into this folder.
    To(PathBuf),
}

/// What `-o` (and `--read-only`) asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub read_only: bool,
    pub atime: Atime,
    /// Not when a directory is read.
    pub nodiratime: bool,
    /// New files get their directory's group.
    pub grpid: bool,
    /// Every change is durable when it is answered.
    pub sync: bool,
    /// Seconds between background syncs.
    pub commit: Option<u32>,
    pub allow_other: bool,
    pub default_permissions: bool,
    pub fakeroot: bool,
    /// The host gets back the space of freed blocks.
    pub discard: bool,
    /// Where history goes that the journal has no room for.
    pub archive: Wish,
    /// Seconds back to which every state is to be reached.
    pub archive_age: Option<u64>,
    /// Bytes that an archive should not exceed.
    pub archive_size: Option<u64>,
    /// A power switch under the mount.
    pub powercut: bool,
    pub threads: usize,
    /// Each of them keeps to a processor of its own.
    pub pinned: bool,
    pub transport: Transport,
    pub cache_size: Option<u64>,
    pub journal_size: Option<u64>,
    /// What only the kernel minds.
    pub flags: Vec<MountFlag>,
}

impl Options {
    /// Reads lists as in `-o ro,commit=10`; a later option overrides an
    /// earlier one.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Options, Failure> {
        let mut options = Options::default();
        for option in lists.into_iter().flat_map(|list| list.split(',')) {
            options.set(option)?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str) -> Result<(), Failure> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            // For mount(8), fstab(5) and who reads that, or how it is anyway.
            (
                "" | "defaults" | "async" | "auto" | "noauto" | "nofail" | "_netdev" | "user"
                | "nouser" | "users" | "nousers" | "owner" | "noowner" | "group" | "nogroup"
                | "silent" | "loud" | "lazytime" | "nolazytime" | "norelatime" | "loop",
                None,
            )
            | ("user" | "comment", Some(_)) => {}
            // ext4's, for what is so here too, or promises less than we do.
            (
                "acl" | "user_xattr" | "barrier" | "delalloc" | "nodelalloc" | "auto_da_alloc"
                | "noauto_da_alloc" | "i_version" | "iversion" | "noiversion" | "journal_checksum"
                | "nojournal_checksum" | "dioread_lock" | "dioread_nolock" | "block_validity"
                | "noblock_validity" | "init_itable" | "noinit_itable" | "bsddf",
                None,
            )
            | ("barrier", Some("1"))
            | ("data", Some("journal" | "ordered" | "writeback")) => {}
            ("nobarrier", None) | ("barrier", Some("0")) => {
                return Err(Failure::usage(format!(
                    "-o {option}: not supported: without barriers a power cut could take what was synced"
                )));
            }
            ("noload" | "norecovery", None) => {
                return Err(Failure::usage(format!(
                    "-o {option}: not supported: -o ro writes nothing, and shows the image as its journal leaves it"
                )));
            }
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            // As mount(8) has it, in any order: strictatime before noatime before
            // relatime.
            ("relatime", None) => {}
            ("atime", None) if self.atime == Atime::Noatime => self.atime = Atime::Relatime,
            ("atime", None) => {}
            ("noatime", None) if self.atime == Atime::Strict => {}
            ("noatime", None) => self.atime = Atime::Noatime,
            ("strictatime", None) => self.atime = Atime::Strict,
            ("nodiratime", None) => self.nodiratime = true,
            ("diratime", None) => self.nodiratime = false,
            ("nostrictatime", None) if self.atime == Atime::Strict => self.atime = Atime::Relatime,
            ("nostrictatime", None) => {}
            ("grpid" | "bsdgroups", None) => self.grpid = true,
            ("nogrpid" | "sysvgroups", None) => self.grpid = false,
            ("sync", None) => self.sync = true,
            ("dirsync", None) => self.flag(MountFlag::DirSync, MountFlag::DirSync),
            ("allow_other", None) => self.allow_other = true,
            ("default_permissions", None) => self.default_permissions = true,
            ("fakeroot", None) => self.fakeroot = true,
            ("powercut", None) => self.powercut = true,
            ("dev", None) => self.flag(MountFlag::Dev, MountFlag::NoDev),
            ("nodev", None) => self.flag(MountFlag::NoDev, MountFlag::Dev),
            ("suid", None) => self.flag(MountFlag::Suid, MountFlag::NoSuid),
            ("nosuid", None) => self.flag(MountFlag::NoSuid, MountFlag::Suid),
            ("exec", None) => self.flag(MountFlag::Exec, MountFlag::NoExec),
            ("noexec", None) => self.flag(MountFlag::NoExec, MountFlag::Exec),
            ("commit", Some(value)) => self.commit = Some(number(option, value, 1, 3600)? as u32),
            ("threads", Some(value)) => self.threads = number(option, value, 1, 64)? as usize,
            ("pinned", None) => self.pinned = true,
            ("nopinned", None) => self.pinned = false,
            ("transport", Some("auto")) => self.transport = Transport::Auto,
            ("transport", Some("classic")) => self.transport = Transport::Classic,
            ("transport", Some("uring")) => self.transport = Transport::Uring,
            ("transport", _) => {
                return Err(Failure::usage(format!(
                    "-o {option}: want transport=auto, classic or uring"
                )));
            }
            ("cache_size", Some(value)) => self.cache_size = Some(bytes(option, value, 4 << 20)?),
            ("journal_size", Some(value)) => {
                self.journal_size = Some(bytes(option, value, 8 << 20)?)
            }
            ("archive", Some("none")) => self.archive = Wish::Nowhere,
            ("archive", Some(dir)) if !dir.is_empty() => self.archive = Wish::To(dir.into()),
            ("archive_age", Some(value)) => self.archive_age = Some(age(option, value)?),
            ("archive_size", Some(value)) => {
                self.archive_size = Some(bytes(option, value, 64 << 20)?)
            }
            // What we do in any case after an error.
            ("errors", Some("remount-ro")) => {}
            ("errors", Some("continue" | "panic")) => {
                return Err(Failure::usage(format!(
                    "-o {option}: not supported: after an error the mount always turns read-only (errors=remount-ro)"
                )));
            }
            ("discard", None) => self.discard = true,
            ("nodiscard", None) => self.discard = false,
            _ => {
                return Err(Failure::usage(format!(
                    "-o {option}: unknown option: see journalfs mount --help for those that there are"
                )));
            }
        }
        Ok(())
    }

    fn flag(&mut self, flag: MountFlag, instead_of: MountFlag) {
        self.flags
            .retain(|other| *other != flag && *other != instead_of);
        self.flags.push(flag);
    }

    /// Who checks permissions. Only the kernel can tell several users apart
    /// on every path; alone, we check what it asks for.
    pub fn access(&self) -> Access {
        match (self.fakeroot, self.allow_other || self.default_permissions) {
            (true, _) => Access::Fakeroot,
            (false, true) => Access::Kernel,
            (false, false) => Access::Check,
        }
    }
}

fn number(option: &str, value: &str, least: u64, most: u64) -> Result<u64, Failure> {
    match value.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(Failure::usage(format!(
            "-o {option}: want a number from {least} to {most}"
        ))),
    }
}

/// `90s`, `5m`, `2h`, `30d` in seconds.
fn age(option: &str, value: &str) -> Result<u64, Failure> {
    let nanos = parse_age(value).filter(|nanos| *nanos > 0);
    let seconds = nanos.map(|nanos| nanos as u64 / 1_000_000_000);
    seconds.ok_or_else(|| Failure::usage(format!("-o {option}: want an age: 90s, 5m, 2h or 30d")))
}

fn bytes(option: &str, value: &str, least: u64) -> Result<u64, Failure> {
    match size::parse(value) {
        Ok(n) if n >= least => Ok(n),
        Ok(_) => Err(Failure::usage(format!(
            "-o {option}: want at least {}M",
            least >> 20
        ))),
        Err(why) => Err(Failure::usage(format!("-o {option}: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_mean_what_ext4_users_know() {
        let options =
            Options::parse(["ro,noatime,commit=30", "nosuid,suid,rw,allow_other"]).unwrap();
        assert!(!options.read_only && options.allow_other);
        assert_eq!(options.atime, Atime::Noatime);
        assert_eq!(options.commit, Some(30));
        assert_eq!(options.flags, [MountFlag::Suid]);
        assert_eq!(options.access(), Access::Kernel);
        assert_eq!(Options::parse([""]).unwrap(), Options::default());
        assert_eq!(Options::default().access(), Access::Check);
    }

    #[test]
    fn what_fstab_says_to_others_changes_nothing() {
        let lists = [
            "defaults,noauto,nofail,_netdev,user,users,group,owner,async",
            "user=somebody,x-systemd.automount,x-systemd.requires=/home,X-mount.mkdir=0755",
            "comment=the disk,lazytime,silent,atime",
        ];
        assert_eq!(Options::parse(lists).unwrap(), Options::default());
        // Words that only look like one.
        for wrong in ["noauto=1", "x", "users=all"] {
            assert!(Options::parse([wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_ext4_calls_what_is_so_anyway_changes_nothing() {
        let lists = [
            "acl,user_xattr,barrier,barrier=1,nodelalloc,delalloc,auto_da_alloc,noauto_da_alloc",
            "data=journal,data=ordered,i_version,journal_checksum,loop,lazytime",
        ];
        assert_eq!(Options::parse(lists).unwrap(), Options::default());
    }

    #[test]
    fn words_on_access_times_count_as_for_mount_and_the_last_on_groups() {
        let atime = |list| Options::parse([list]).unwrap().atime;
        assert_eq!(atime("noatime,relatime"), Atime::Noatime);
        assert_eq!(atime("relatime,noatime"), Atime::Noatime);
        assert_eq!(atime("noatime,atime"), Atime::Relatime);
        assert_eq!(atime("strictatime,noatime"), Atime::Strict);
        assert_eq!(atime("noatime,strictatime"), Atime::Strict);
        assert_eq!(atime("strictatime,nostrictatime"), Atime::Relatime);
        assert_eq!(atime("noatime,nostrictatime"), Atime::Noatime);
        let grpid = |list| Options::parse([list]).unwrap().grpid;
        assert!(grpid("sysvgroups,bsdgroups") && !grpid("grpid,nogrpid"));
    }

    #[test]
    fn what_would_break_a_promise_is_refused_with_the_reason() {
        for (option, reason) in [
            ("nobarrier", "power cut"),
            ("barrier=0", "power cut"),
            ("noload", "-o ro"),
            ("norecovery", "-o ro"),
        ] {
            let failure = Options::parse([option]).unwrap_err();
            assert_eq!(failure.code, 1);
            assert!(failure.line.contains(option) && failure.line.contains(reason));
        }
    }

    #[test]
    fn an_unknown_or_wrong_option_is_named() {
        for wrong in [
            "nosuch",
            "commit=0",
            "commit",
            "threads=x",
            "transport=tcp",
            "errors=panic",
            "discard=1",
            "cache_size=1",
            "archive=",
            "archive_age=soon",
            "archive_size=1",
            "noacl",
            "barrier=2",
            "data=none",
        ] {
            let failure = Options::parse([wrong]).unwrap_err();
            assert_eq!(failure.code, 1);
            assert!(failure.line.contains(wrong), "{}", failure.line);
            assert!(!failure.line.contains('\n'));
        }
    }
}

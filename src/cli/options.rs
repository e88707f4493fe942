//! `-o` options, with the meaning that ext4's users know.

use std::path::PathBuf;

use crate::ext4::bytes::le32;
use crate::ext4::superblock::SIZE;
use crate::fs::{Access, Atime};
use crate::fuse::transport::{MountFlag, Transport};
use crate::history::parse_age;

use super::{Failure, size};

/// `s_default_mount_opts`, and those of its bits that count here: the others
/// stand for what is so anyway, or promises less.
const DEFAULT_MOUNT_OPTS: usize = 0x100;
const BSD_GROUPS: u32 = 0x2;
const DISCARD: u32 = 0x400;
/// `s_mount_opts`
const MOUNT_OPTS: std::ops::Range<usize> = 0x200..0x240;

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
    /// Who may use the reserved blocks.
    pub resuid: Option<u32>,
    pub resgid: Option<u32>,
    /// df(1) counts what the format itself needs.
    pub minixdf: bool,
    /// Directories of this many KiB grow no more.
    pub max_dir_size_kb: u32,
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
    /// Reads lists as in `-o ro,commit=10` on top of what is there; a later
    /// option overrides an earlier one.
    pub fn and<'a>(mut self, lists: impl IntoIterator<Item = &'a str>) -> Result<Options, Failure> {
        for option in lists.into_iter().flat_map(|list| list.split(',')) {
            self.set(option)?;
        }
        Ok(self)
    }

    /// What an image's superblock asks for by itself (`tune2fs -o`, `tune2fs
    /// -E mount_opts=`). Only ext4's own: whoever made the image has no say in
    /// where this host writes, or what it trusts.
    pub fn of_image(raw: &[u8; SIZE]) -> Result<Options, Failure> {
        let default = le32(raw, DEFAULT_MOUNT_OPTS);
        let mut options = Options {
            grpid: default & BSD_GROUPS != 0,
            discard: default & DISCARD != 0,
            ..Options::default()
        };
        let list = raw[MOUNT_OPTS].split(|byte| *byte == 0).next();
        let list = String::from_utf8_lossy(list.unwrap_or_default());
        for option in list.split(',').filter(|option| !option.is_empty()) {
            // (Errors show it: nothing in it may reach a terminal as it is.)
            let option = &*option.escape_debug().to_string();
            let taken = match options.set_ext4(option) {
                Ok(taken) => taken,
                Err(failure) => return from_image(&failure.line),
            };
            if !taken {
                return from_image(&format!("-o {option}: unknown option"));
            }
        }
        Ok(options)
    }

    fn set(&mut self, option: &str) -> Result<(), Failure> {
        let (name, value) = split(option);
        if self.set_ext4(option)? {
            return Ok(());
        }
        match (name, value) {
            // For mount(8), fstab(5) and who reads that, or how it is anyway.
            (
                "" | "defaults" | "async" | "auto" | "noauto" | "nofail" | "_netdev" | "nouser"
                | "nousers" | "noowner" | "nogroup" | "silent" | "loud" | "lazytime" | "nolazytime"
                | "norelatime" | "loop",
                None,
            )
            | ("comment", Some(_)) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            // What mount(8) has follow from these; a later option may say otherwise.
            ("user" | "users" | "owner" | "group", None) | ("user", Some(_)) => {
                self.flag(MountFlag::NoSuid, MountFlag::Suid);
                self.flag(MountFlag::NoDev, MountFlag::Dev);
                if name.starts_with("user") {
                    self.flag(MountFlag::NoExec, MountFlag::Exec);
                }
            }
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
            ("symfollow", None) => {}
            ("nosymfollow", None) => {
                return refuse(
                    option,
                    "mount it, then mount -o remount,bind,nosymfollow DIR",
                );
            }
            ("context" | "fscontext" | "defcontext" | "rootcontext", Some(_)) => {
                return refuse(option, "labels are those of the files (security.selinux)");
            }
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
            _ => {
                return Err(Failure::usage(format!(
                    "-o {option}: unknown option: see journalfs mount --help for those that there are"
                )));
            }
        }
        Ok(())
    }

    /// Those of ext4 alone, which an image may bring along; whether it is one.
    fn set_ext4(&mut self, option: &str) -> Result<bool, Failure> {
        match split(option) {
            // What is so here too, or promises less than we do.
            (
                "acl"
                | "user_xattr"
                | "barrier"
                | "delalloc"
                | "nodelalloc"
                | "auto_da_alloc"
                | "noauto_da_alloc"
                | "i_version"
                | "iversion"
                | "noiversion"
                | "journal_checksum"
                | "nojournal_checksum"
                | "journal_async_commit"
                | "dioread_lock"
                | "dioread_nolock"
                | "nodioread_nolock"
                | "block_validity"
                | "noblock_validity"
                | "init_itable"
                | "noinit_itable"
                | "mblk_io_submit"
                | "nomblk_io_submit"
                | "prefetch_block_bitmaps"
                | "no_prefetch_block_bitmaps"
                | "mbcache"
                | "nombcache"
                | "no_mbcache"
                | "orlov"
                | "oldalloc"
                | "debug"
                | "nowarn_on_error"
                | "bh"
                | "nobh"
                | "noquota",
                None,
            )
            | ("barrier", Some("1"))
            | ("data", Some("journal" | "ordered" | "writeback"))
            | ("data_err", Some("abort" | "ignore"))
            | ("dax", Some("never")) => {}
            // What only tunes the kernel.
            (
                "stripe"
                | "inode_readahead_blks"
                | "max_batch_time"
                | "min_batch_time"
                | "journal_ioprio"
                | "init_itable"
                | "auto_da_alloc"
                | "mb_optimize_scan",
                Some(value),
            ) => drop(number(option, value, 0, u32::MAX.into())?),
            ("nobarrier", None) | ("barrier", Some("0")) => {
                return refuse(
                    option,
                    "without barriers a power cut could take what was synced",
                );
            }
            ("noload" | "norecovery", None) => {
                return refuse(
                    option,
                    "-o ro writes nothing, and shows the image as its journal leaves it",
                );
            }
            ("sb", Some(_)) => {
                return refuse(option, "let e2fsck -b mend the superblock from that copy");
            }
            ("noacl" | "nouser_xattr", None) => {
                return refuse(option, "attributes and access control lists always count");
            }
            ("usrquota" | "grpquota" | "prjquota" | "quota", None)
            | ("usrjquota" | "grpjquota" | "jqfmt" | "usrquota" | "grpquota", Some(_)) => {
                return refuse(option, "there are no quotas");
            }
            ("journal_dev" | "journal_path", Some(_)) => {
                return refuse(option, "journals on another device are not read");
            }
            // What we do in any case after an error.
            ("errors", Some("remount-ro")) => {}
            ("errors", Some("continue" | "panic")) => {
                return refuse(
                    option,
                    "after an error the mount always turns read-only (errors=remount-ro)",
                );
            }
            ("grpid" | "bsdgroups", None) => self.grpid = true,
            ("nogrpid" | "sysvgroups", None) => self.grpid = false,
            ("resuid", Some(value)) => self.resuid = Some(id(option, value)?),
            ("resgid", Some(value)) => self.resgid = Some(id(option, value)?),
            ("minixdf", None) => self.minixdf = true,
            ("bsddf", None) => self.minixdf = false,
            ("max_dir_size_kb", Some(value)) => {
                self.max_dir_size_kb = number(option, value, 0, u32::MAX.into())? as u32
            }
            // As for ext4: the usual.
            ("commit", Some("0")) => self.commit = None,
            ("commit", Some(value)) => self.commit = Some(number(option, value, 1, 3600)? as u32),
            ("discard", None) => self.discard = true,
            ("nodiscard", None) => self.discard = false,
            _ => return Ok(false),
        }
        Ok(true)
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

fn from_image(why: &str) -> Result<Options, Failure> {
    Err(Failure::usage(format!(
        "{why}: the image asks for it by itself: tune2fs -E mount_opts= sets what it asks for"
    )))
}

fn split(option: &str) -> (&str, Option<&str>) {
    match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    }
}

fn refuse<T>(option: &str, why: &str) -> Result<T, Failure> {
    Err(Failure::usage(format!("-o {option}: not supported: {why}")))
}

/// A user's or group's number. (-1 means nobody.)
fn id(option: &str, value: &str) -> Result<u32, Failure> {
    Ok(number(option, value, 0, u64::from(u32::MAX) - 1)? as u32)
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

    impl Options {
        fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Options, Failure> {
            Options::default().and(lists)
        }
    }

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
            "defaults,noauto,nofail,_netdev,nouser,async",
            "x-systemd.automount,x-systemd.requires=/home,X-mount.mkdir=0755",
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
            "data=journal,data=ordered,i_version,journal_checksum,loop,lazytime,commit=0",
            "journal_async_commit,data_err=abort,stripe=16,inode_readahead_blks=32,bsddf",
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
    fn an_image_may_bring_ext4s_options_along_and_no_others() {
        let image = |bits: u32, list: &str| {
            let mut raw = [0; SIZE];
            raw[DEFAULT_MOUNT_OPTS..][..4].copy_from_slice(&bits.to_le_bytes());
            raw[MOUNT_OPTS][..list.len()].copy_from_slice(list.as_bytes());
            Options::of_image(&raw)
        };
        assert_eq!(image(0x9fd, "").unwrap(), Options::default());
        let asked = image(0x402, "commit=9,minixdf,stripe=4").unwrap();
        assert!(asked.grpid && asked.discard && asked.minixdf);
        assert_eq!(asked.commit, Some(9));
        let told = asked.and(["nogrpid,nodiscard,bsddf,commit=0"]).unwrap();
        assert_eq!(told, Options::default());
        for wrong in [
            "archive=/etc",
            "allow_other",
            "suid",
            "nobarrier",
            "\u{1b}[",
            "commit=\u{1b}[",
        ] {
            let line = image(0, wrong).unwrap_err().line;
            assert!(line.contains("mount_opts"), "{line}");
            assert!(line.chars().all(|c| !c.is_control()), "{line}");
        }
        image(0, &"x".repeat(64)).unwrap_err();
    }

    #[test]
    fn a_line_of_fstab_for_users_takes_devices_suid_and_programs_away() {
        let flags = |list| Options::parse([list]).unwrap().flags;
        use MountFlag::*;
        for list in ["user", "users", "user=me", "exec,dev,user"] {
            assert_eq!(flags(list), [NoSuid, NoDev, NoExec], "{list}");
        }
        assert_eq!(flags("owner"), [NoSuid, NoDev]);
        assert_eq!(flags("group"), [NoSuid, NoDev]);
        assert_eq!(flags("user,exec,suid"), [NoDev, Exec, Suid]);
    }

    #[test]
    fn what_would_break_a_promise_is_refused_with_the_reason() {
        for (option, reason) in [
            ("nobarrier", "power cut"),
            ("barrier=0", "power cut"),
            ("noload", "-o ro"),
            ("norecovery", "-o ro"),
            ("errors=panic", "read-only"),
            ("nosymfollow", "remount"),
            ("context=x", "labels"),
            ("sb=32768", "e2fsck -b"),
            ("usrquota", "quotas"),
            ("noacl", "always"),
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
            "commit",
            "stripe=wide",
            "resuid=me",
            "minixdf=1",
            "max_dir_size_kb",
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

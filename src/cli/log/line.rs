//! An event as a line: in columns for people, as an object for programs.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::ext4::inode::flag;
use crate::history::Event;
use crate::history::chart::device_number;
use crate::journal::record::{By, Op, Record};
use crate::units::{InodeNo, Lsn, Time};

/// Appends to a string, which takes all.
macro_rules! put {
    ($line:expr, $($what:tt)*) => {{
        let _ = write!($line, $($what)*);
    }};
}

/// Bytes of a name as text: what isn't UTF-8 or printable, or would change how
/// what follows looks, becomes `\xNN`, a backslash `\\`.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |c: char| !c.is_control() && !is_invisible(c) && c != '\\';
    // (Most names are plain ASCII, which costs a look at each byte.)
    let ascii = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    let is_ascii = bytes.iter().all(ascii);
    if let Ok(text) = std::str::from_utf8(bytes)
        && (is_ascii || text.chars().all(plain))
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if plain(c) => out.push(c),
                c => {
                    let mut utf8 = [0; 4];
                    escape(c.encode_utf8(&mut utf8).as_bytes(), &mut out);
                }
            }
        }
        escape(chunk.invalid(), &mut out);
    }
    Cow::Owned(out)
}

/// Unicode's format characters, with which names could deceive: they set the
/// direction of writing, join letters, or have no width. And its separators of
/// lines.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        put!(out, "\\x{byte:02x}");
    }
}

/// An instant in RFC 3339, UTC, nanoseconds.
pub fn utc(time: Time) -> String {
    match stamp(time) {
        Some(stamp) => stamp.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
        None => "?".to_owned(),
    }
}

fn stamp(time: Time) -> Option<Timestamp> {
    Timestamp::new(time.secs, time.nanos as i32).ok()
}

/// Text that a line often has in common with the one before: its second, in
/// local time, and whoever asked.
pub struct Common {
    zone: TimeZone,
    second: i64,
    text: String,
    by: (By, Option<Arc<[u8]>>),
    who: String,
}

impl Common {
    /// By this machine's time zone.
    pub fn new() -> Common {
        Common {
            zone: TimeZone::system(),
            second: i64::MIN,
            text: "?".to_owned(),
            by: Default::default(),
            who: String::new(),
        }
    }

    /// `cp[2231] 1000:1000`.
    fn who(&mut self, by: &By, program: Option<&Arc<[u8]>>) -> &str {
        if self.who.is_empty() || (&self.by.0, self.by.1.as_ref()) != (by, program) {
            self.by = (*by, program.cloned());
            self.who.clear();
            put_who(by, program.map(|program| &**program), &mut self.who);
        }
        &self.who
    }

    /// `2026-11-25 08:30:00`; microseconds are the caller's.
    pub fn second(&mut self, time: Time) -> &str {
        if self.second != time.secs {
            self.second = time.secs;
            self.text = match stamp(Time { nanos: 0, ..time }) {
                Some(stamp) => {
                    let zoned = stamp.to_zoned(self.zone.clone());
                    zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
                }
                None => "?".to_owned(),
            };
        }
        &self.text
    }
}

/// An event's stable keys.
#[derive(Default, Serialize)]
#[serde(default)]
struct Object<'e> {
    lsn: u64,
    epoch: u32,
    time: String,
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'e, str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Cow<'e, str>>,
    /// Of a link, the name that there was.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<Cow<'e, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<u32>,
    /// Of a rename, the inode that stood at the new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Octal, with the type where it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    /// Of a new device, `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    atime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<String>,
    /// Of an extended attribute or a mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'e, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'e, str>>,
    /// Of a rename or fallocate, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<String>,
    /// Of a session, a checkpoint or what precedes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    through: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<Cow<'e, str>>,
    durable: bool,
    /// It lies behind a record that is bad: recovery drops it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dropped: bool,
}

/// Stands where records are left out.
#[derive(Serialize)]
struct Left {
    gap: Gap,
}

/// A gap's stable keys.
#[derive(Serialize)]
struct Gap {
    first: u64,
    last: u64,
    why: &'static str,
}

/// Writes one JSON object for records that are not there any more.
pub fn gap((first, last): (Lsn, Lsn), why: &'static str, out: &mut dyn Write) -> io::Result<()> {
    let (first, last) = (first.0, last.0);
    let gap = Gap { first, last, why };
    serde_json::to_writer(&mut *out, &Left { gap })?;
    out.write_all(b"\n")
}

/// The inode that a rename replaces, or with which it exchanges the names.
pub fn replaced(op: &Op) -> Option<InodeNo> {
    match op {
        Op::Rename { replaced, .. } => Some(*replaced).filter(|inode| *inode != InodeNo(0)),
        _ => None,
    }
}

/// Writes an event as one JSON object; `dropped` as its key says.
pub fn object(event: &Event<'_>, dropped: bool, out: &mut dyn Write) -> io::Result<()> {
    let by = event.op().and_then(Op::by);
    let mut object = Object {
        lsn: event.frame.lsn.0,
        epoch: event.frame.epoch.0,
        time: utc(event.frame.time),
        op: event.kind(),
        path: event.path.as_deref().map(text),
        deleted: event.deleted,
        to: event.to.as_deref().map(text),
        of: event.of.as_deref().map(text),
        inode: event.op().and_then(Op::inode).map(|inode| inode.0),
        replaced: event.op().and_then(replaced).map(|inode| inode.0),
        uid: by.map(|by| by.uid),
        gid: by.map(|by| by.gid),
        pid: by.map(|by| by.pid),
        program: event.program.as_deref().map(text),
        durable: event.durable,
        dropped,
        ..Object::default()
    };
    match event.record {
        Record::Session(base) | Record::Checkpoint(base) => object.through = Some(base.through.0),
        Record::Install(through) => object.through = Some(through.0),
        Record::Clean(_) => {}
        Record::Operation(operation) => describe(&operation.op, &mut object),
    }
    serde_json::to_writer(&mut *out, &object)?;
    out.write_all(b"\n")
}

fn describe<'e>(op: &'e Op, object: &mut Object<'e>) {
    match op {
        Op::Create {
            mode,
            uid,
            gid,
            rdev,
            target,
            ..
        } => {
            object.mode = Some(format!("{mode:06o}"));
            object.device = device(*mode, *rdev);
            (object.owner, object.group) = (Some(*uid), Some(*gid));
            object.target = (!target.is_empty()).then(|| text(target));
        }
        Op::Rename { flags, .. } => {
            object.flags = (*flags != 0).then(|| rename_flags(*flags));
        }
        Op::Write { offset, len, .. } => {
            (object.offset, object.length) = (Some(*offset), Some(*len));
        }
        Op::SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            ..
        } => {
            object.mode = mode.map(|mode| format!("{:04o}", mode & 0o7777));
            (object.owner, object.group, object.size) = (*uid, *gid, *size);
            object.atime = atime.map(utc);
            object.mtime = mtime.map(utc);
        }
        Op::Fallocate {
            mode, offset, len, ..
        } => {
            (object.offset, object.length) = (Some(*offset), Some(*len));
            object.flags = (*mode != 0).then(|| fallocate_mode(*mode));
        }
        Op::SetXattr { name, value, .. } => {
            object.name = Some(text(name));
            object.length = Some(value.len() as u64);
        }
        Op::RemoveXattr { name, .. } | Op::Mark { name, .. } => object.name = Some(text(name)),
        Op::SetFlags { flags, .. } => object.flags = Some(inode_flags(*flags)),
        Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Atime { .. }
        | Op::Orphan { .. } => {}
    }
}

/// An event's columns but for its time.
pub struct Cells {
    /// Number.
    pub lsn: Lsn,
    /// Operation.
    pub kind: &'static str,
    /// Path and details.
    pub what: String,
    /// Process, user and group.
    pub who: String,
}

/// An event for a table.
pub fn cells(event: &Event<'_>) -> Cells {
    let (mut what, mut name) = (String::new(), String::new());
    put_what(event, &mut what);
    if let Some(by) = event.op().and_then(Op::by) {
        put_who(by, event.program.as_deref(), &mut name);
    }
    Cells {
        lsn: event.frame.lsn,
        kind: event.kind(),
        what,
        who: name,
    }
}

/// Appends an event in columns: number, time, operation, path and details, who.
/// (To a line that is used again: a million of them are to take two seconds.)
pub fn columns(event: &Event<'_>, common: &mut Common, line: &mut String) {
    let time = event.frame.time;
    put!(
        line,
        "{:>8}  {}.{:06}  {:<11} ",
        event.frame.lsn,
        common.second(time),
        time.nanos / 1000,
        event.kind(),
    );
    put_what(event, line);
    if let Some(by) = event.op().and_then(Op::by) {
        line.push_str("  ");
        line.push_str(common.who(by, event.program.as_ref()));
    }
}

/// What an event acts on, and how.
fn put_what(event: &Event<'_>, line: &mut String) {
    let begin = line.len();
    match (&event.path, event.op().and_then(Op::inode)) {
        (Some(path), _) => {
            line.push_str(&text(path));
            if event.deleted {
                line.push_str(" (deleted)");
            }
        }
        // No record told its path.
        (None, Some(inode)) => put!(line, "#{inode}"),
        (None, None) => {}
    }
    if let Some(to) = &event.to {
        put!(line, " → {}", text(to));
    }
    if let Some(of) = &event.of {
        put!(line, ", another name of {}", text(of));
    }
    let mut details = Details {
        separate: line.len() > begin,
        line,
    };
    match event.record {
        Record::Operation(operation) => put_details(&operation.op, &mut details),
        Record::Session(_) => details.say(format_args!("begins")),
        Record::Checkpoint(base) => {
            details.say(format_args!("all up to {} is in the image", base.through));
        }
        Record::Clean(_) => details.say(format_args!("the session ended well")),
        Record::Install(through) => details.say(format_args!(
            "what was changed up to {through} goes to the image"
        )),
    }
}

/// `cp[2231] 1000:1000`.
fn put_who(by: &By, program: Option<&[u8]>, line: &mut String) {
    line.push_str(&program.map_or("?".into(), text));
    put!(line, "[{}] {}:{}", by.pid, by.uid, by.gid);
}

/// A list with commas.
struct Details<'l> {
    line: &'l mut String,
    /// Something is before what comes next.
    separate: bool,
}

impl Details<'_> {
    fn say(&mut self, what: fmt::Arguments<'_>) {
        if std::mem::replace(&mut self.separate, true) {
            self.line.push_str(", ");
        }
        put!(self.line, "{what}");
    }
}

fn put_details(op: &Op, details: &mut Details<'_>) {
    match op {
        Op::Create {
            mode, rdev, target, ..
        } => match (target.is_empty(), device(*mode, *rdev)) {
            (true, None) => details.say(format_args!("{} {:04o}", kind(*mode), mode & 0o7777)),
            (true, Some(device)) => details.say(format_args!(
                "{} {device} {:04o}",
                kind(*mode),
                mode & 0o7777
            )),
            (false, _) => details.say(format_args!("symlink to {}", text(target))),
        },
        Op::Rename { flags, .. } if *flags != 0 => {
            details.say(format_args!("{}", rename_flags(*flags)));
        }
        Op::Write { offset, len, .. } => details.say(format_args!("{len} bytes at {offset}")),
        Op::SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            ..
        } => {
            if let Some(size) = size {
                details.say(format_args!("size {size}"));
            }
            if let Some(mode) = mode {
                details.say(format_args!("mode {:04o}", mode & 0o7777));
            }
            if let Some(uid) = uid {
                details.say(format_args!("owner {uid}"));
            }
            if let Some(gid) = gid {
                details.say(format_args!("group {gid}"));
            }
            if atime.is_some() {
                details.say(format_args!("atime"));
            }
            if mtime.is_some() {
                details.say(format_args!("mtime"));
            }
        }
        Op::Fallocate {
            mode, offset, len, ..
        } => match mode {
            0 => details.say(format_args!("{len} bytes at {offset}")),
            mode => {
                let how = fallocate_mode(*mode);
                details.say(format_args!("{how}: {len} bytes at {offset}"));
            }
        },
        Op::SetXattr { name, value, .. } => {
            details.say(format_args!("{}, {} bytes", text(name), value.len()));
        }
        Op::RemoveXattr { name, .. } | Op::Mark { name, .. } => {
            details.say(format_args!("{}", text(name)));
        }
        Op::SetFlags { flags, .. } => details.say(format_args!("{}", inode_flags(*flags))),
        Op::Rename { .. }
        | Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Atime { .. }
        | Op::Orphan { .. } => {}
    }
}

/// A device's `major:minor`; `None` for what is no device.
fn device(mode: u16, rdev: u32) -> Option<String> {
    let is_device = matches!(
        u32::from(mode) & libc::S_IFMT,
        libc::S_IFCHR | libc::S_IFBLK
    );
    is_device.then(|| device_number(rdev))
}

fn kind(mode: u16) -> &'static str {
    match u32::from(mode) & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        libc::S_IFLNK => "symlink",
        libc::S_IFIFO => "fifo",
        libc::S_IFSOCK => "socket",
        libc::S_IFCHR => "character device",
        libc::S_IFBLK => "block device",
        _ => "unknown type",
    }
}

/// Names of the bits that are set; a number for those without one.
fn words(bits: u32, names: &[(u32, &str)]) -> String {
    let mut left = bits;
    let mut said: Vec<String> = Vec::new();
    for (bit, name) in names {
        if left & bit != 0 {
            said.push((*name).to_owned());
            left &= !bit;
        }
    }
    if left != 0 {
        said.push(format!("{left:#x}"));
    }
    said.join(",")
}

fn rename_flags(flags: u32) -> String {
    let names = [
        (libc::RENAME_NOREPLACE, "noreplace"),
        (libc::RENAME_EXCHANGE, "exchange"),
        (libc::RENAME_WHITEOUT, "whiteout"),
    ];
    words(flags, &names)
}

fn fallocate_mode(mode: u32) -> String {
    let names = [
        (libc::FALLOC_FL_KEEP_SIZE as u32, "keep-size"),
        (libc::FALLOC_FL_PUNCH_HOLE as u32, "punch-hole"),
        (libc::FALLOC_FL_COLLAPSE_RANGE as u32, "collapse-range"),
        (libc::FALLOC_FL_ZERO_RANGE as u32, "zero-range"),
        (libc::FALLOC_FL_INSERT_RANGE as u32, "insert-range"),
        (libc::FALLOC_FL_UNSHARE_RANGE as u32, "unshare-range"),
    ];
    words(mode, &names)
}

/// Those that chattr(1) sets.
fn inode_flags(flags: u32) -> String {
    let names = [
        (0x1, "secure-deletion"),
        (0x2, "undelete"),
        (0x4, "compress"),
        (flag::SYNC, "sync"),
        (flag::IMMUTABLE, "immutable"),
        (flag::APPEND, "append-only"),
        (0x40, "no-dump"),
        (flag::NOATIME, "no-atime"),
        (flag::JOURNAL_DATA, "journal-data"),
        (0x8000, "no-tail"),
        (flag::DIRSYNC, "dirsync"),
        (0x2_0000, "top-directory"),
        (flag::EXTENTS, "extents"),
        (flag::INDEX, "index"),
    ];
    match flags {
        0 => "none".to_owned(),
        flags => words(flags, &names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_become_text_that_tells_them_apart() {
        assert_eq!(text(b"/plain \xc3\xbc"), "/plain ü");
        assert_eq!(text(b"/a\xffb"), "/a\\xffb");
        assert_eq!(text(b"/a\\xffb"), "/a\\\\xffb");
        assert_eq!(text(b"/new\nline\x1b"), "/new\\x0aline\\x1b");
        let reversed = "/gpj.\u{202e}exe";
        assert_eq!(text(reversed.as_bytes()), "/gpj.\\xe2\\x80\\xaeexe");
    }

    #[test]
    fn times_are_told_to_the_nanosecond_or_not_at_all() {
        let time = Time {
            secs: 1_795_595_400,
            nanos: 7,
        };
        assert_eq!(utc(time), "2026-11-25T08:30:00.000000007Z");
        let beyond = Time {
            secs: i64::MAX,
            nanos: 0,
        };
        assert_eq!(utc(beyond), "?");
        assert_eq!(Common::new().second(beyond), "?");
    }

    #[test]
    fn flags_have_their_names() {
        assert_eq!(fallocate_mode(3), "keep-size,punch-hole");
        assert_eq!(rename_flags(0x12), "exchange,0x10");
    }
}

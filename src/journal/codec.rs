//! Records as bytes, and back. (`FORMAT.md` has every one of them.)
//!
//! Decoding takes any bytes and never panics: a frame's checksum says that
//! they are what was written, not that it was we who wrote them.

use super::ranges::Ranges;
use super::record::{Base, By, Clean, Name, Op, Operation, Record, Session};
use super::redo::Redo;
use crate::units::{BlockNo, InodeNo, Lsn, Time};

/// Version of the record format: what it means never changes.
const VERSION: u8 = 1;

/// What does not hold in a record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Another version of journalfs made it.
    #[error("its format version is {version}, this journalfs knows {known}")]
    Version {
        /// The version that it has.
        version: u32,
        /// Ours.
        known: u32,
    },
    /// It makes no sense.
    #[error("{0}")]
    Wrong(&'static str),
}

impl From<&'static str> for Flaw {
    fn from(what: &'static str) -> Flaw {
        Flaw::Wrong(what)
    }
}

type Read<T> = Result<T, Flaw>;

/// Each is looked for in every later record.
const MOST_SAMPLES: usize = 64;

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(256));
        w.u8(VERSION);
        match self {
            Record::Operation(operation) => {
                w.u8(1);
                operation.write(&mut w);
            }
            Record::Session(base) => {
                w.u8(2);
                base.write(&mut w);
            }
            Record::Checkpoint(base) => {
                w.u8(3);
                base.write(&mut w);
            }
            Record::Clean(clean) => {
                w.u8(4);
                w.bytes(&clean.fingerprint);
                w.bytes(&clean.restored);
            }
            Record::Install(through) => {
                w.u8(5);
                w.u64(through.0);
            }
        }
        w.0
    }

    /// The record that these bytes tell.
    pub fn decode(bytes: &[u8]) -> Read<Record> {
        let mut r = Reader(bytes);
        let mut record = Record::begin(&mut r)?;
        if let Record::Operation(operation) = &mut record {
            operation.redo = (0..r.u32()?)
                .map(|_| Redo::read(&mut r))
                .collect::<Read<_>>()?;
        }
        match r.0 {
            [] => Ok(record),
            _ => Err("bytes follow its end".into()),
        }
    }

    /// The same without an operation's redo, most of a record's bytes, which
    /// listings don't need.
    pub fn decode_meaning(bytes: &[u8]) -> Read<Record> {
        Record::begin(&mut Reader(bytes))
    }

    /// Up to an operation's redo.
    fn begin(r: &mut Reader<'_>) -> Read<Record> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(Flaw::Version {
                version: version.into(),
                known: VERSION.into(),
            });
        }
        Ok(match r.u8()? {
            1 => Record::Operation(Operation::begin(r)?),
            2 => Record::Session(Base::read(r)?),
            3 => Record::Checkpoint(Base::read(r)?),
            4 => Record::Clean(Clean {
                fingerprint: r.bytes()?,
                restored: r.bytes()?,
            }),
            5 => Record::Install(Lsn(r.u64()?)),
            _ => return Err("its kind is unknown".into()),
        })
    }
}

impl Operation {
    fn write(&self, w: &mut Writer) {
        self.op.write(w);
        w.u16(self.paths.len() as u16);
        for (inode, path) in &self.paths {
            w.u32(inode.0);
            w.bytes(path);
        }
        w.option(&self.program, |w, name| w.bytes(name));
        w.u32(self.redo.len() as u32);
        for redo in &self.redo {
            redo.write(w);
        }
    }

    fn begin(r: &mut Reader<'_>) -> Read<Self> {
        let op = Op::read(r)?;
        let paths = (0..r.u16()?)
            .map(|_| Ok((InodeNo(r.u32()?), r.bytes()?)))
            .collect::<Read<_>>()?;
        let program = r.option(Reader::bytes)?;
        Ok(Operation {
            op,
            paths,
            program,
            redo: Vec::new(),
        })
    }
}

impl Base {
    fn write(&self, w: &mut Writer) {
        w.0.extend(self.session.guard);
        w.bytes(&self.session.prior);
        w.bytes(&self.session.guarded);
        w.u64(self.through.0);
        w.bytes(&self.pinned);
        w.u16(self.samples.len() as u16);
        for (block, crc) in &self.samples {
            w.u64(block.0);
            w.u32(*crc);
        }
    }

    fn read(r: &mut Reader<'_>) -> Read<Self> {
        let session = Session {
            guard: r.array()?,
            prior: r.bytes()?,
            guarded: r.bytes()?,
        };
        let (through, pinned) = (Lsn(r.u64()?), r.bytes()?);
        let samples = (0..r.u16()?)
            .map(|_| Ok((r.block()?, r.u32()?)))
            .collect::<Read<Vec<_>>>()?;
        if samples.len() > MOST_SAMPLES {
            return Err("it has too many samples".into());
        }
        Ok(Base {
            session,
            through,
            pinned,
            samples,
        })
    }
}

impl Redo {
    fn write(&self, w: &mut Writer) {
        match self {
            Redo::Zeros { block } => {
                w.u8(1);
                w.u64(block.0);
            }
            Redo::Image { block, bytes } => {
                w.u8(2);
                w.u64(block.0);
                w.bytes(bytes);
            }
            Redo::Edit { block, ranges } => {
                w.u8(3);
                w.u64(block.0);
                w.u16(ranges.len() as u16);
                for (offset, bytes) in ranges.iter() {
                    w.u16(offset as u16);
                    w.u16(bytes.len() as u16);
                    w.0.extend_from_slice(bytes);
                }
            }
            Redo::Put { first, count, from } => {
                w.u8(4);
                w.u64(first.0);
                w.u32(*count);
                w.u32(*from);
            }
            Redo::Patch {
                block,
                offset,
                from,
                len,
            } => {
                w.u8(5);
                w.u64(block.0);
                w.u16(*offset);
                w.u32(*from);
                w.u32(*len);
            }
            Redo::Free { first, count } => {
                w.u8(6);
                w.u64(first.0);
                w.u64(*count);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Read<Self> {
        Ok(match r.u8()? {
            1 => Redo::Zeros { block: r.block()? },
            2 => Redo::Image {
                block: r.block()?,
                bytes: r.bytes()?,
            },
            3 => {
                let block = r.block()?;
                let ranges = (0..r.u16()?).map(|_| r.range()).collect::<Read<Ranges>>()?;
                Redo::Edit { block, ranges }
            }
            4 => Redo::Put {
                first: r.block()?,
                count: r.u32()?,
                from: r.u32()?,
            },
            5 => Redo::Patch {
                block: r.block()?,
                offset: r.u16()?,
                from: r.u32()?,
                len: r.u32()?,
            },
            6 => Redo::Free {
                first: r.block()?,
                count: r.u64()?,
            },
            _ => return Err("a redo's kind is unknown".into()),
        })
    }
}

impl Op {
    fn write(&self, w: &mut Writer) {
        match self {
            Op::Create {
                by,
                at,
                inode,
                mode,
                uid,
                gid,
                rdev,
                target,
                time,
            } => {
                w.u8(1);
                w.by(by);
                w.name(at);
                w.u32(inode.0);
                w.u16(*mode);
                w.u32(*uid);
                w.u32(*gid);
                w.u32(*rdev);
                w.bytes(target);
                w.time(time);
            }
            Op::Link {
                by,
                at,
                inode,
                time,
            } => w.named(2, by, at, inode, time),
            Op::Unlink {
                by,
                at,
                inode,
                time,
            } => w.named(3, by, at, inode, time),
            Op::Rmdir {
                by,
                at,
                inode,
                time,
            } => w.named(4, by, at, inode, time),
            Op::Rename {
                by,
                from,
                to,
                flags,
                inode,
                replaced,
                time,
            } => {
                w.u8(5);
                w.by(by);
                w.name(from);
                w.name(to);
                w.u32(*flags);
                w.u32(inode.0);
                w.u32(replaced.0);
                w.time(time);
            }
            Op::Write {
                by,
                inode,
                offset,
                len,
                time,
            } => {
                w.u8(6);
                w.by(by);
                w.u32(inode.0);
                w.u64(*offset);
                w.u64(*len);
                w.time(time);
            }
            Op::SetAttr {
                by,
                inode,
                mode,
                uid,
                gid,
                size,
                atime,
                mtime,
                ctime,
            } => {
                w.u8(7);
                w.by(by);
                w.u32(inode.0);
                w.option(mode, |w, v| w.u16(*v));
                w.option(uid, |w, v| w.u32(*v));
                w.option(gid, |w, v| w.u32(*v));
                w.option(size, |w, v| w.u64(*v));
                w.option(atime, Writer::time);
                w.option(mtime, Writer::time);
                w.time(ctime);
            }
            Op::Fallocate {
                by,
                inode,
                mode,
                offset,
                len,
                time,
            } => {
                w.u8(8);
                w.by(by);
                w.u32(inode.0);
                w.u32(*mode);
                w.u64(*offset);
                w.u64(*len);
                w.time(time);
            }
            Op::SetXattr {
                by,
                inode,
                name,
                value,
                flags,
                time,
            } => {
                w.u8(9);
                w.by(by);
                w.u32(inode.0);
                w.bytes(name);
                w.bytes(value);
                w.u32(*flags);
                w.time(time);
            }
            Op::RemoveXattr {
                by,
                inode,
                name,
                time,
            } => {
                w.u8(10);
                w.by(by);
                w.u32(inode.0);
                w.bytes(name);
                w.time(time);
            }
            Op::SetFlags {
                by,
                inode,
                flags,
                time,
            } => {
                w.u8(14);
                w.by(by);
                w.u32(inode.0);
                w.u32(*flags);
                w.time(time);
            }
            Op::Atime { inode, time } => {
                w.u8(11);
                w.u32(inode.0);
                w.time(time);
            }
            Op::Orphan { inode } => {
                w.u8(12);
                w.u32(inode.0);
            }
            Op::Mark { name, time } => {
                w.u8(13);
                w.bytes(name);
                w.time(time);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Read<Op> {
        Ok(match r.u8()? {
            1 => Op::Create {
                by: r.by()?,
                at: r.name()?,
                inode: r.inode()?,
                mode: r.u16()?,
                uid: r.u32()?,
                gid: r.u32()?,
                rdev: r.u32()?,
                target: r.bytes()?,
                time: r.time()?,
            },
            2 => Op::Link {
                by: r.by()?,
                at: r.name()?,
                inode: r.inode()?,
                time: r.time()?,
            },
            3 => Op::Unlink {
                by: r.by()?,
                at: r.name()?,
                inode: r.inode()?,
                time: r.time()?,
            },
            4 => Op::Rmdir {
                by: r.by()?,
                at: r.name()?,
                inode: r.inode()?,
                time: r.time()?,
            },
            5 => Op::Rename {
                by: r.by()?,
                from: r.name()?,
                to: r.name()?,
                flags: r.u32()?,
                inode: r.inode()?,
                replaced: r.inode()?,
                time: r.time()?,
            },
            6 => Op::Write {
                by: r.by()?,
                inode: r.inode()?,
                offset: r.u64()?,
                len: r.u64()?,
                time: r.time()?,
            },
            7 => Op::SetAttr {
                by: r.by()?,
                inode: r.inode()?,
                mode: r.option(Reader::u16)?,
                uid: r.option(Reader::u32)?,
                gid: r.option(Reader::u32)?,
                size: r.option(Reader::u64)?,
                atime: r.option(Reader::time)?,
                mtime: r.option(Reader::time)?,
                ctime: r.time()?,
            },
            8 => Op::Fallocate {
                by: r.by()?,
                inode: r.inode()?,
                mode: r.u32()?,
                offset: r.u64()?,
                len: r.u64()?,
                time: r.time()?,
            },
            9 => Op::SetXattr {
                by: r.by()?,
                inode: r.inode()?,
                name: r.bytes()?,
                value: r.bytes()?,
                flags: r.u32()?,
                time: r.time()?,
            },
            10 => Op::RemoveXattr {
                by: r.by()?,
                inode: r.inode()?,
                name: r.bytes()?,
                time: r.time()?,
            },
            11 => Op::Atime {
                inode: r.inode()?,
                time: r.time()?,
            },
            12 => Op::Orphan { inode: r.inode()? },
            13 => Op::Mark {
                name: r.bytes()?,
                time: r.time()?,
            },
            14 => Op::SetFlags {
                by: r.by()?,
                inode: r.inode()?,
                flags: r.u32()?,
                time: r.time()?,
            },
            _ => return Err("its operation is unknown".into()),
        })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    fn u16(&mut self, v: u16) {
        self.0.extend(v.to_le_bytes());
    }
    fn u32(&mut self, v: u32) {
        self.0.extend(v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend(v.to_le_bytes());
    }
    fn bytes(&mut self, v: &[u8]) {
        self.u32(v.len() as u32);
        self.0.extend_from_slice(v);
    }
    fn by(&mut self, v: &By) {
        self.u32(v.uid);
        self.u32(v.gid);
        self.u32(v.pid);
    }
    fn name(&mut self, v: &Name) {
        self.u32(v.parent.0);
        self.bytes(&v.name);
    }
    fn time(&mut self, v: &Time) {
        self.u64(v.secs as u64);
        self.u32(v.nanos);
    }
    fn option<T>(&mut self, v: &Option<T>, write: impl FnOnce(&mut Self, &T)) {
        match v {
            None => self.u8(0),
            Some(v) => {
                self.u8(1);
                write(self, v);
            }
        }
    }
    fn named(&mut self, tag: u8, by: &By, at: &Name, inode: &InodeNo, time: &Time) {
        self.u8(tag);
        self.by(by);
        self.name(at);
        self.u32(inode.0);
        self.time(time);
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }
    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.take(N)?
            .try_into()
            .map_err(|_| "it ends too early".into())
    }
    fn u8(&mut self) -> Read<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    fn u16(&mut self) -> Read<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    fn bytes(&mut self) -> Read<Vec<u8>> {
        let len = self.u32()? as usize;
        Ok(self.take(len)?.to_vec())
    }
    fn block(&mut self) -> Read<BlockNo> {
        Ok(BlockNo(self.u64()?))
    }
    fn inode(&mut self) -> Read<InodeNo> {
        Ok(InodeNo(self.u32()?))
    }
    fn by(&mut self) -> Read<By> {
        Ok(By {
            uid: self.u32()?,
            gid: self.u32()?,
            pid: self.u32()?,
        })
    }
    fn name(&mut self) -> Read<Name> {
        Ok(Name {
            parent: self.inode()?,
            name: self.bytes()?,
        })
    }
    fn time(&mut self) -> Read<Time> {
        let time = Time {
            secs: self.u64()? as i64,
            nanos: self.u32()?,
        };
        if time.nanos >= 1_000_000_000 {
            return Err("a time has more than a second of nanoseconds".into());
        }
        Ok(time)
    }
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(read(self)?)),
            _ => Err("an option is neither there nor absent".into()),
        }
    }
    fn range(&mut self) -> Read<(u16, &'a [u8])> {
        let (offset, len) = (self.u16()?, self.u16()?);
        Ok((offset, self.take(len.into())?))
    }
}

#[cfg(test)]
mod tests;

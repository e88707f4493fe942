//! A record suffices to do its operation again: the records of one image,
//! done on another, make the same tree, times included.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::device::volatile::Host;
use journalfs::fs::{Access, Caller, Result, SetAttr, SetTime};
use journalfs::journal::Op;
use journalfs::journal::record::{By, Operation, Record};
use journalfs::log::Survey;
use journalfs::sim::clock::StillClock;
use journalfs::sim::step::Step;
use journalfs::sim::system::{Setup, format};
use journalfs::sim::walk::walk;
use journalfs::sim::world::{Looking, World as Run};
use journalfs::sim::{Mix, Tree, Workload};
use journalfs::units::{Clock, InodeNo, Lsn, Time};

use crate::support::images::Image;
use crate::world::World;

/// Shows the time of the operation that is being done.
#[derive(Default)]
struct OpClock(AtomicI64);

impl Clock for OpClock {
    fn wall(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

fn over(image: Pages, clock: Arc<OpClock>) -> World {
    let disk = Arc::new(MemoryDisk::from_pages(image));
    World::at_time(Image::blank(0), disk, Access::Kernel, clock)
}

/// Does operations again; inodes have other numbers here.
struct Again {
    world: World,
    clock: Arc<OpClock>,
    inodes: HashMap<InodeNo, InodeNo>,
}

impl Again {
    fn inode(&self, there: InodeNo) -> InodeNo {
        self.inodes.get(&there).copied().unwrap_or(there)
    }

    fn on(&self, by: &By, time: Time) -> Caller {
        self.clock.0.store(time.as_nanos(), Ordering::Relaxed);
        Caller {
            uid: by.uid,
            gid: by.gid,
            ..Caller::default()
        }
    }

    fn apply(&mut self, op: &Op, data: &[u8]) -> Result<()> {
        let fs = &self.world.fs;
        match op {
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
                let by = Caller {
                    uid: *uid,
                    gid: *gid,
                    ..self.on(by, *time)
                };
                let parent = self.inode(at.parent);
                let made = match mode & 0o170000 {
                    0o040000 => fs.mkdir(&by, parent, &at.name, *mode, 0)?,
                    0o120000 => fs.symlink(&by, parent, &at.name, target)?,
                    _ => fs.mknod(&by, parent, &at.name, *mode, 0, *rdev)?,
                };
                // What is written to after its last name went was open.
                fs.opened(made.value.inode);
                self.inodes.insert(*inode, made.value.inode);
            }
            Op::Link {
                by,
                at,
                inode,
                time,
            } => {
                fs.link(
                    &self.on(by, *time),
                    self.inode(*inode),
                    self.inode(at.parent),
                    &at.name,
                )?;
            }
            Op::Unlink { by, at, time, .. } => {
                fs.unlink(&self.on(by, *time), self.inode(at.parent), &at.name)?;
            }
            Op::Rmdir { by, at, time, .. } => {
                fs.rmdir(&self.on(by, *time), self.inode(at.parent), &at.name)?;
            }
            Op::Rename {
                by,
                from,
                to,
                flags,
                time,
                ..
            } => {
                let (old, new) = (self.inode(from.parent), self.inode(to.parent));
                fs.rename(&self.on(by, *time), old, &from.name, new, &to.name, *flags)?;
            }
            Op::Write {
                by,
                inode,
                offset,
                time,
                ..
            } => {
                let caller = self.on(by, *time);
                fs.write(&caller, self.inode(*inode), *offset, data, by.uid != 0)?;
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
                let set = SetAttr {
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    size: *size,
                    atime: atime.map(SetTime::At),
                    mtime: mtime.map(SetTime::At),
                    by_handle: true,
                };
                fs.setattr(&self.on(by, *ctime), self.inode(*inode), &set)?;
            }
            Op::Fallocate {
                by,
                inode,
                mode,
                offset,
                len,
                time,
            } => {
                let caller = self.on(by, *time);
                fs.fallocate(&caller, self.inode(*inode), *mode as i32, *offset, *len)?;
            }
            Op::SetXattr {
                by,
                inode,
                name,
                value,
                flags,
                time,
            } => {
                fs.setxattr(&self.on(by, *time), self.inode(*inode), name, value, *flags)?;
            }
            Op::RemoveXattr {
                by,
                inode,
                name,
                time,
            } => {
                fs.removexattr(&self.on(by, *time), self.inode(*inode), name)?;
            }
            Op::Atime { .. } | Op::Orphan { .. } | Op::Mark { .. } => {}
        }
        Ok(())
    }
}

#[test]
fn records_done_again_make_the_same_tree() {
    for seed in 1..8 {
        let setup = Setup {
            size: 8 << 20,
            block_size: if seed % 2 == 0 { 4096 } else { 1024 },
            // Room for everything: nothing is recycled.
            segment_size: 8 << 20,
            segments: 8,
            atime: journalfs::fs::Atime::Noatime,
            seed,
        };
        let fresh = format(&setup, &StillClock::new()).unwrap();
        let mix = [Mix::All, Mix::Names, Mix::Contents][seed as usize % 3];
        let mut workload = Workload::random(seed, 400, mix, &Tree::root());
        workload
            .0
            .retain(|step| !matches!(step, Step::Remount | Step::Kill | Step::Cut { .. }));
        let world = Run::run(&setup, fresh.clone(), &workload, Looking::Seldom).unwrap();
        let (left, _) = world.finish().unwrap();

        let clock = Arc::new(OpClock::default());
        let mut again = Again {
            world: over(fresh, clock.clone()),
            clock: clock.clone(),
            inodes: HashMap::new(),
        };
        let host = Host::new(left.clone());
        let survey = Survey::read(host.folder()).unwrap();
        assert_eq!(survey.first(), Some(Lsn(1)));
        let mut count = 0;
        for frame in survey.frames(Lsn(1)) {
            let frame = frame.unwrap();
            if frame.kind != journalfs::log::Kind::Record {
                continue;
            }
            let Ok(Record::Operation(Operation { op, .. })) = Record::decode(&frame.meta) else {
                continue;
            };
            let mut data = vec![0; frame.data.as_ref().map_or(0, |place| place.len())];
            if let Some(place) = &frame.data {
                place.read(0, &mut data).unwrap();
            }
            again
                .apply(&op, &data)
                .unwrap_or_else(|error| panic!("seed {seed}: {op:?} again: {error}"));
            count += 1;
        }
        assert!(count > 100, "{count} operations");
        let (theirs, ours) = (
            walk(&over(left.image, clock).fs).unwrap(),
            walk(&again.world.fs).unwrap(),
        );
        assert_eq!(theirs.difference(&ours), None, "seed {seed}");
    }
}

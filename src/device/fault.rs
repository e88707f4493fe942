//! Faults of a device: errors, a full disk, rot, syncs that lie, slowness.
//!
//! A table of [`Faults`] stands beside a device and knows nothing of it. The
//! device [asks](Faults::admit) before each call and does what the
//! [`Outcome`] says. Which call meets a fault is a matter of counting, never
//! of chance, so that a run can be repeated.
//!
//! A fault is a line of text (see [`text`]), as in `sync@store:eio,after=2`.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub mod text;

/// A kind of call to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// Reading bytes, mapping a file, opening one, listing the folder.
    Read,
    /// Writing bytes.
    Write,
    /// Changing a length, setting space aside, giving it back.
    Space,
    /// A sync of a file or of the folder.
    Sync,
    /// Creating, renaming, removing a name.
    Name,
}

impl Call {
    /// All of them.
    pub const ALL: [Call; 5] = [Call::Read, Call::Write, Call::Space, Call::Sync, Call::Name];
}

/// What a call is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On<'a> {
    /// The image.
    Image,
    /// The journal's folder: its names.
    Folder,
    /// A file of the folder, by its name (empty if it has none any more).
    File(&'a str),
}

/// What a fault is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything.
    Any,
    /// The image.
    Image,
    /// All that is the journal's: files and folder.
    Journal,
    /// The journal's store files.
    Store,
    /// The journal's index files.
    Index,
    /// The journal's folder: its names.
    Folder,
    /// One file of the folder.
    File(String),
}

impl Target {
    fn covers(&self, on: On) -> bool {
        match (self, on) {
            (Target::Any, _) | (Target::Image, On::Image) | (Target::Folder, On::Folder) => true,
            (Target::Journal, on) => on != On::Image,
            (Target::Store, On::File(name)) => name.ends_with(".store"),
            (Target::Index, On::File(name)) => name.ends_with(".index"),
            (Target::File(only), On::File(name)) => only == name,
            _ => false,
        }
    }
}

/// What a fault does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails, and nothing has changed.
    Fail {
        /// The error: `libc::EIO`, say.
        errno: i32,
    },
    /// A write writes its first bytes (less than all of it) and fails then.
    Short {
        /// The error.
        errno: i32,
        /// How many bytes are written.
        part: u64,
    },
    /// A sync fails, and the host calls what was dirty clean, as Linux does:
    /// reads still show it, and no later sync brings it to the disk.
    Forget {
        /// The error.
        errno: i32,
    },
    /// The disk has room for so many bytes more. A write or a change of
    /// length that grows a file beyond fails; of a write, what fits is written.
    Full {
        /// `libc::ENOSPC` or `libc::EDQUOT`.
        errno: i32,
        /// Bytes; what is removed does not come back.
        room: u64,
    },
    /// A bit of what is read has changed on the medium, for good.
    Rot {
        /// Which, counted from the first byte that the fault and the call
        /// have in common, and again from there past the last.
        bit: u64,
    },
    /// A sync reports success and has made nothing stable.
    Lie,
    /// It takes so much longer.
    Slow {
        /// How much.
        delay: Duration,
    },
}

/// A fault to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of call meets it; `None`: each.
    pub call: Option<Call>,
    /// On what.
    pub target: Target,
    /// On which bytes of it: reads and writes that touch none of them pass.
    pub at: Option<Range<u64>>,
    /// How many such calls pass first.
    pub after: u64,
    /// How many meet it then; the later ones pass again.
    pub times: u64,
    /// What it does.
    pub effect: Effect,
}

/// A call that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Its kind.
    pub call: Call,
    /// On what.
    pub on: On<'a>,
    /// Its first byte (0 where there are none).
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// By how much the file would become longer.
    pub grows: u64,
}

/// What is to become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is made.
    Go,
    /// It fails with this error; of a write, the first `part` bytes are written.
    Fail {
        /// The error.
        errno: i32,
        /// Bytes that are written all the same.
        part: u64,
    },
    /// A sync fails, and what was dirty counts as clean.
    Forget {
        /// The error.
        errno: i32,
    },
    /// These bits of a byte flip on the medium, then the read is made.
    Rot {
        /// The byte's place in the file.
        at: u64,
        /// The bits.
        mask: u8,
    },
    /// Nothing is done, and success reported.
    Lie,
}

impl Outcome {
    /// The error that the caller gets, if it gets one.
    pub fn check(self) -> std::io::Result<()> {
        match self {
            Outcome::Fail { errno, .. } | Outcome::Forget { errno } => {
                Err(std::io::Error::from_raw_os_error(errno))
            }
            Outcome::Go | Outcome::Rot { .. } | Outcome::Lie => Ok(()),
        }
    }
}

/// The answer to [`Asked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// To be waited first; a simulation does not.
    pub delay: Duration,
    /// What becomes of the call.
    pub outcome: Outcome,
}

/// A fault in the table, and what has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Armed {
    /// As it was armed.
    pub fault: Fault,
    /// Calls that were its, and passed.
    pub passed: u64,
    /// Calls that met it.
    pub met: u64,
    /// The last of them.
    pub last: Option<String>,
}

/// The faults of a device.
#[derive(Debug, Default)]
pub struct Faults {
    armed: Mutex<Vec<Armed>>,
    deceived: AtomicBool,
}

impl Fault {
    /// Every call of this kind, on anything, always.
    pub fn new(call: Call, effect: Effect) -> Self {
        Fault {
            call: Some(call),
            target: Target::Any,
            at: None,
            after: 0,
            times: u64::MAX,
            effect,
        }
    }
    /// Only on this.
    pub fn on(self, target: Target) -> Self {
        Fault { target, ..self }
    }
    /// Only after so many calls that pass.
    pub fn after(self, after: u64) -> Self {
        Fault { after, ..self }
    }
    /// Only so often.
    pub fn times(self, times: u64) -> Self {
        Fault { times, ..self }
    }
    /// Only where these bytes are touched.
    pub fn at(self, at: Range<u64>) -> Self {
        Fault {
            at: Some(at),
            ..self
        }
    }

    fn concerns(&self, asked: &Asked) -> bool {
        let kind = self.call.is_none_or(|call| call == asked.call);
        let fits = match self.effect {
            Effect::Full { .. } => asked.grows > 0,
            Effect::Short { .. } => asked.call == Call::Write,
            Effect::Forget { .. } | Effect::Lie => asked.call == Call::Sync,
            Effect::Rot { .. } => asked.call == Call::Read && asked.len > 0,
            Effect::Fail { .. } | Effect::Slow { .. } => true,
        };
        kind && fits && self.target.covers(asked.on) && self.common(asked).is_some()
    }

    /// The bytes that are the fault's and the call's; `None` if the fault has
    /// bytes, and none of them are.
    fn common(&self, asked: &Asked) -> Option<Range<u64>> {
        let end = asked.offset.saturating_add(asked.len);
        match &self.at {
            None => Some(asked.offset..end),
            Some(at) => {
                let common = at.start.max(asked.offset)..at.end.min(end);
                (!common.is_empty()).then_some(common)
            }
        }
    }
}

impl Faults {
    /// Adds a fault; it counts calls from now on.
    pub fn arm(&self, fault: Fault) {
        self.armed.lock().push(Armed {
            fault,
            passed: 0,
            met: 0,
            last: None,
        });
    }

    /// Takes all faults away; tells whether each of them had been met.
    pub fn heal(&self) -> bool {
        self.armed.lock().drain(..).all(|armed| armed.met > 0)
    }

    /// The faults, and what has come of them.
    pub fn list(&self) -> Vec<Armed> {
        self.armed.lock().clone()
    }

    /// Whether a sync has lied or a bit has rotted: then no promise holds that
    /// relies on the device's word.
    pub fn have_deceived(&self) -> bool {
        self.deceived.load(Ordering::Relaxed)
    }

    /// What becomes of a call. Of several faults that it would meet, the one
    /// that was armed first counts; delays add up.
    pub fn admit(&self, asked: &Asked) -> Admitted {
        let mut admitted = Admitted {
            delay: Duration::ZERO,
            outcome: Outcome::Go,
        };
        for armed in self.armed.lock().iter_mut() {
            if !armed.fault.concerns(asked) || !armed.meets(asked) {
                continue;
            }
            match armed.outcome(asked) {
                Err(delay) => admitted.delay += delay,
                Ok(outcome) => {
                    if matches!(outcome, Outcome::Lie | Outcome::Rot { .. }) {
                        self.deceived.store(true, Ordering::Relaxed);
                    }
                    admitted.outcome = outcome;
                    break;
                }
            }
        }
        admitted
    }
}

impl Armed {
    /// Counts a call that is the fault's; tells whether it meets it.
    fn meets(&mut self, asked: &Asked) -> bool {
        let due = self.passed >= self.fault.after && self.met < self.fault.times;
        if !due || self.fits(asked) {
            self.passed += 1;
            return false;
        }
        self.met += 1;
        self.last = Some(asked.to_string());
        true
    }

    /// Whether there is room for a call, which then takes it.
    fn fits(&mut self, asked: &Asked) -> bool {
        let Effect::Full { room, .. } = &mut self.fault.effect else {
            return false;
        };
        let left = room.checked_sub(asked.grows);
        *room = left.unwrap_or(*room);
        left.is_some()
    }

    /// What the fault does to a call that meets it; or by how much it slows it.
    fn outcome(&mut self, asked: &Asked) -> Result<Outcome, Duration> {
        let common = self.fault.common(asked).unwrap_or_default();
        Ok(match &mut self.fault.effect {
            Effect::Slow { delay } => return Err(*delay),
            Effect::Lie => Outcome::Lie,
            Effect::Forget { errno } => Outcome::Forget { errno: *errno },
            Effect::Fail { errno } => Outcome::Fail {
                errno: *errno,
                part: 0,
            },
            Effect::Short { errno, part } => Outcome::Fail {
                errno: *errno,
                part: (*part).min(asked.len.saturating_sub(1)),
            },
            Effect::Full { errno, room } => {
                let part = match asked.call {
                    Call::Write => asked.len.saturating_sub(asked.grows - *room),
                    _ => 0,
                };
                *room = if part > 0 { 0 } else { *room };
                Outcome::Fail {
                    errno: *errno,
                    part,
                }
            }
            Effect::Rot { bit } => Outcome::Rot {
                at: common.start + *bit / 8 % (common.end - common.start),
                mask: 1 << (*bit % 8),
            },
        })
    }
}

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            On::Image => "the image",
            On::Folder => "the journal's folder",
            On::File(name) => name,
        })
    }
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked {
            call,
            on,
            offset,
            len,
            ..
        } = self;
        match len {
            0 => write!(f, "{call} of {on}"),
            len => write!(f, "{call} of {on}, {len} bytes at {offset}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "00000000000000000001.store";

    fn asked(call: Call, on: On<'_>, offset: u64, len: u64) -> Asked<'_> {
        Asked {
            call,
            on,
            offset,
            len,
            grows: 0,
        }
    }

    fn outcome(faults: &Faults, asked: &Asked) -> Outcome {
        faults.admit(asked).outcome
    }

    const EIO: Effect = Effect::Fail { errno: libc::EIO };
    const FAILED: Outcome = Outcome::Fail {
        errno: libc::EIO,
        part: 0,
    };

    #[test]
    fn a_fault_comes_after_so_many_calls_and_so_often() {
        let faults = Faults::default();
        faults.arm(Fault::new(Call::Sync, EIO).after(2).times(1));
        let sync = asked(Call::Sync, On::Image, 0, 0);
        let read = asked(Call::Read, On::Image, 0, 10);
        let met = [sync, read, sync, sync, sync].map(|call| outcome(&faults, &call));
        assert_eq!(
            met,
            [Outcome::Go, Outcome::Go, Outcome::Go, FAILED, Outcome::Go]
        );
        let armed = &faults.list()[0];
        assert_eq!((armed.passed, armed.met), (3, 1));
        assert_eq!(armed.last.as_deref(), Some("sync of the image"));
    }

    #[test]
    fn a_fault_is_for_its_target_and_its_bytes_alone() {
        let all = [
            On::Image,
            On::Folder,
            On::File(FILE),
            On::File("1.index"),
            On::File(""),
        ];
        let covered = |target: Target| all.map(|on| u8::from(target.covers(on)));
        assert_eq!(covered(Target::Any), [1, 1, 1, 1, 1]);
        assert_eq!(covered(Target::Image), [1, 0, 0, 0, 0]);
        assert_eq!(covered(Target::Journal), [0, 1, 1, 1, 1]);
        assert_eq!(covered(Target::Store), [0, 0, 1, 0, 0]);
        assert_eq!(covered(Target::Index), [0, 0, 0, 1, 0]);
        assert_eq!(covered(Target::Folder), [0, 1, 0, 0, 0]);
        assert_eq!(covered(Target::File(FILE.into())), [0, 0, 1, 0, 0]);

        let faults = Faults::default();
        faults.arm(Fault::new(Call::Read, EIO).at(4096..8192));
        let read = |offset, len| outcome(&faults, &asked(Call::Read, On::Image, offset, len));
        assert_eq!(read(0, 4096), Outcome::Go);
        assert_eq!(read(8192, 4096), Outcome::Go);
        assert_eq!(read(0, 4097), FAILED);
        assert_eq!(read(8191, 1), FAILED);
    }

    #[test]
    fn a_short_write_never_writes_all() {
        let faults = Faults::default();
        let (errno, part) = (libc::ENOSPC, 512);
        let short = Effect::Short { errno, part };
        faults.arm(Fault {
            call: None,
            ..Fault::new(Call::Write, short)
        });
        let write = |len| outcome(&faults, &asked(Call::Write, On::Image, 0, len));
        assert_eq!(write(4096), Outcome::Fail { errno, part });
        assert_eq!(write(512), Outcome::Fail { errno, part: 511 });
        let read = asked(Call::Read, On::Image, 0, 512);
        assert_eq!(outcome(&faults, &read), Outcome::Go);
    }

    #[test]
    fn a_full_disk_refuses_growth_alone_and_takes_what_fits() {
        let errno = libc::EDQUOT;
        let faults = Faults::default();
        faults.arm(Fault {
            call: None,
            ..Fault::new(Call::Write, Effect::Full { errno, room: 1000 })
        });
        let ask = |call, len, grows| {
            let asked = asked(call, On::Image, 0, len);
            outcome(&faults, &Asked { grows, ..asked })
        };
        let failed = |part| Outcome::Fail { errno, part };
        assert_eq!(ask(Call::Write, 5000, 0), Outcome::Go);
        assert_eq!(ask(Call::Write, 5000, 400), Outcome::Go);
        assert_eq!(ask(Call::Space, 0, 601), failed(0));
        assert_eq!(ask(Call::Space, 0, 100), Outcome::Go);
        // Past the end: nothing of it would be within the room.
        assert_eq!(ask(Call::Write, 10, 5000), failed(0));
        assert_eq!(ask(Call::Write, 5000, 1000), failed(4500));
        assert_eq!(ask(Call::Write, 5000, 1), failed(4999));
        assert_eq!(ask(Call::Write, 5000, 0), Outcome::Go);
    }

    #[test]
    fn syncs_alone_lie_and_forget_and_reads_alone_find_rot() {
        let faults = Faults::default();
        let errno = libc::EIO;
        let effects = [
            Effect::Lie,
            Effect::Forget { errno },
            Effect::Rot { bit: 8 * 513 + 3 },
        ];
        for effect in effects {
            faults.arm(Fault {
                call: None,
                times: 1,
                ..Fault::new(Call::Sync, effect)
            });
        }
        let ask = |call| outcome(&faults, &asked(call, On::Image, 1024, 512));
        assert_eq!(ask(Call::Write), Outcome::Go);
        assert_eq!(ask(Call::Sync), Outcome::Lie);
        assert_eq!(ask(Call::Sync), Outcome::Forget { errno });
        assert_eq!(ask(Call::Sync), Outcome::Go);
        let (at, mask) = (1024 + 1, 1 << 3);
        assert_eq!(ask(Call::Read), Outcome::Rot { at, mask });
        assert_eq!(ask(Call::Read), Outcome::Go);
    }

    #[test]
    fn delays_add_up_and_hide_no_error() {
        let faults = Faults::default();
        let slow = |millis| Effect::Slow {
            delay: Duration::from_millis(millis),
        };
        faults.arm(Fault::new(Call::Read, slow(5)));
        faults.arm(Fault::new(Call::Read, slow(7)).times(1));
        faults.arm(Fault::new(Call::Read, EIO).after(1));
        let read = asked(Call::Read, On::File(FILE), 0, 1);
        let both = [faults.admit(&read), faults.admit(&read)];
        assert_eq!(
            both.map(|admitted| (admitted.delay.as_millis(), admitted.outcome)),
            [(12, Outcome::Go), (5, FAILED)]
        );
    }

    #[test]
    fn healing_takes_all_faults_away_and_tells_whether_they_were_met() {
        let faults = Faults::default();
        let sync = asked(Call::Sync, On::Folder, 0, 0);
        faults.arm(Fault::new(Call::Sync, EIO).after(1));
        assert_eq!(outcome(&faults, &sync), Outcome::Go);
        assert!(!faults.heal());
        faults.arm(Fault::new(Call::Sync, EIO));
        assert_eq!(outcome(&faults, &sync), FAILED);
        assert!(faults.heal());
        assert_eq!(outcome(&faults, &sync), Outcome::Go);
    }
}

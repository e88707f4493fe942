//! Faults as text.
//!
//! ```text
//! CALL[@TARGET]:EFFECT[,OPTION]...
//!
//! CALL    read | write | space | sync | name | any
//! TARGET  image | journal | store | index | folder, or the name of a file of the journal
//! EFFECT  eio | enospc | edquot | enomem | erofs, or the number of another error
//!         rot     a bit of what is read has changed on the medium
//!         lie     a sync reports success and makes nothing stable
//!         slow    with ms=N: so many milliseconds longer
//! OPTION  after=N         so many such calls pass first
//!         times=N         so many meet it (without this: all)
//!         at=FROM[-TO]    only where these bytes of a file are touched (TO not included)
//!         part=N          a failing write writes its first N bytes
//!         forget          a failing sync makes the host forget what was dirty
//!         room=N          (enospc, edquot) only once files have grown by more than N bytes
//!         bit=N           (rot) which
//! ```
//!
//! A failing sync without `forget` leaves dirty what was dirty. `space` is
//! the setting aside of space and the changing of lengths.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Call, Effect, Fault, Target};

const ERRORS: [(i32, &str); 5] = [
    (libc::EIO, "eio"),
    (libc::ENOSPC, "enospc"),
    (libc::EDQUOT, "edquot"),
    (libc::ENOMEM, "enomem"),
    (libc::EROFS, "erofs"),
];

const TARGETS: [(Target, &str); 6] = [
    (Target::Any, ""),
    (Target::Image, "image"),
    (Target::Journal, "journal"),
    (Target::Store, "store"),
    (Target::Index, "index"),
    (Target::Folder, "folder"),
];

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Read => "read",
            Call::Write => "write",
            Call::Space => "space",
            Call::Sync => "sync",
            Call::Name => "name",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = TARGETS.iter().find(|(target, _)| target == self);
        match (known, self) {
            (Some((_, name)), _) => f.write_str(name),
            (None, Target::File(name)) => f.write_str(name),
            (None, other) => unreachable!("{other:?} is in the table"),
        }
    }
}

/// An error number by its name, where it has one here.
struct Errno(i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ERRORS.iter().find(|(errno, _)| *errno == self.0) {
            Some((_, name)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Effect::Fail { errno } => Errno(errno).fmt(f),
            Effect::Short { errno, part } => write!(f, "{},part={part}", Errno(errno)),
            Effect::Forget { errno } => write!(f, "{},forget", Errno(errno)),
            Effect::Full { errno, room } => write!(f, "{},room={room}", Errno(errno)),
            Effect::Rot { bit } => write!(f, "rot,bit={bit}"),
            Effect::Lie => f.write_str("lie"),
            Effect::Slow { delay } => write!(f, "slow,ms={}", delay.as_millis()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.call {
            Some(call) => call.fmt(f)?,
            None => f.write_str("any")?,
        }
        if self.target != Target::Any {
            write!(f, "@{}", self.target)?;
        }
        write!(f, ":{}", self.effect)?;
        if let Some(at) = &self.at {
            write!(f, ",at={}-{}", at.start, at.end)?;
        }
        if self.after > 0 {
            write!(f, ",after={}", self.after)?;
        }
        if self.times < u64::MAX {
            write!(f, ",times={}", self.times)?;
        }
        Ok(())
    }
}

/// The options of a line, taken out one by one.
struct Options<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> Options<'a> {
    fn take(&mut self, key: &str) -> Option<Option<&'a str>> {
        let at = self.0.iter().position(|(name, _)| *name == key)?;
        Some(self.0.remove(at).1)
    }
    fn value(&mut self, key: &str) -> Result<Option<&'a str>, String> {
        match self.take(key) {
            Some(None) => Err(format!("{key} needs a value, as in {key}=1")),
            Some(value) => Ok(value),
            None => Ok(None),
        }
    }
    fn number(&mut self, key: &str) -> Result<Option<u64>, String> {
        self.value(key)?.map(|text| number(key, text)).transpose()
    }
}

fn number(key: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{key}={text}: not a number"))
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (place, rest) = text
            .split_once(':')
            .ok_or_else(|| format!("{text}: not CALL[@TARGET]:EFFECT, as in sync:eio"))?;
        let (call, target) = place.split_once('@').unwrap_or((place, ""));
        let mut words = rest.split(',');
        let effect = words.next().unwrap_or_default();
        let options = words.map(|word| match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        });
        let mut options = Options(options.collect());
        let fault = Fault {
            call: call_named(call)?,
            target: target_named(target)?,
            at: options.value("at")?.map(range).transpose()?,
            after: options.number("after")?.unwrap_or(0),
            times: options.number("times")?.unwrap_or(u64::MAX),
            effect: effect_named(effect, &mut options)?,
        };
        match options.0.first() {
            Some((key, _)) => Err(format!("{effect} has no option {key}")),
            None => fault.sensible(),
        }
    }
}

fn call_named(text: &str) -> Result<Option<Call>, String> {
    if text == "any" {
        return Ok(None);
    }
    let call = Call::ALL.into_iter().find(|call| call.to_string() == text);
    call.map(Some)
        .ok_or_else(|| format!("{text}: not read, write, space, sync, name or any"))
}

fn target_named(text: &str) -> Result<Target, String> {
    match TARGETS.iter().find(|(_, name)| *name == text) {
        Some((target, _)) => Ok(target.clone()),
        None if text.contains('.') => Ok(Target::File(text.to_owned())),
        None => Err(format!(
            "{text}: not image, journal, store, index or folder, nor a file's name"
        )),
    }
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, ""));
    let from = number("at", from)?;
    let to = match to {
        "" => from.saturating_add(1),
        to => number("at", to)?,
    };
    match from < to {
        true => Ok(from..to),
        false => Err(format!("at={text}: no bytes lie between")),
    }
}

fn effect_named(text: &str, options: &mut Options) -> Result<Effect, String> {
    Ok(match text {
        "lie" => Effect::Lie,
        "rot" => Effect::Rot {
            bit: options.number("bit")?.unwrap_or(0),
        },
        "slow" => Effect::Slow {
            delay: Duration::from_millis(options.number("ms")?.ok_or("slow needs ms=N")?),
        },
        error => {
            let errno = errno_named(error)?;
            let full = matches!(errno, libc::ENOSPC | libc::EDQUOT);
            if let Some(part) = options.number("part")? {
                Effect::Short { errno, part }
            } else if options.take("forget").is_some() {
                Effect::Forget { errno }
            } else if let Some(room) = full.then(|| options.number("room")).transpose()?.flatten() {
                Effect::Full { errno, room }
            } else {
                Effect::Fail { errno }
            }
        }
    })
}

fn errno_named(text: &str) -> Result<i32, String> {
    let known = ERRORS.iter().find(|(_, name)| *name == text);
    let number = || text.parse().ok().filter(|errno| (1..4096).contains(errno));
    known
        .map(|(errno, _)| *errno)
        .or_else(number)
        .ok_or_else(|| format!("{text}: neither an error nor rot, lie or slow"))
}

impl Fault {
    /// Refuses what no call would ever meet.
    fn sensible(self) -> Result<Self, String> {
        let only = match self.effect {
            Effect::Rot { .. } => Some(&[Call::Read][..]),
            Effect::Lie | Effect::Forget { .. } => Some(&[Call::Sync][..]),
            Effect::Short { .. } => Some(&[Call::Write][..]),
            Effect::Full { .. } => Some(&[Call::Write, Call::Space][..]),
            Effect::Fail { .. } | Effect::Slow { .. } => None,
        };
        let meets = |call: &Call| only.is_none_or(|only| only.contains(call));
        match self.call.is_none_or(|call| meets(&call)) {
            true => Ok(self),
            false => Err(format!("{self}: no such call is ever met by that")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_the_way_through_its_text() {
        for line in [
            "sync:eio",
            "any:eio,after=7",
            "sync@store:eio,forget,after=2,times=1",
            "write@image:enospc,part=512,times=1",
            "any:edquot,room=1048576",
            "name@folder:enospc",
            "read@00000000000000000001.store:rot,bit=77,at=4096-8192",
            "sync@journal:lie",
            "any:slow,ms=20",
            "space@index:28,times=3",
        ] {
            let fault: Fault = line.parse().unwrap();
            let again = fault.to_string();
            assert_eq!(again.parse().as_ref(), Ok(&fault), "{line}");
            assert_eq!(again, line.replace(":28", ":enospc"));
        }
        let one: Fault = "read:eio,at=5".parse().unwrap();
        assert_eq!(one.at, Some(5..6));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (line, said) in [
            ("sync", "CALL[@TARGET]:EFFECT"),
            ("fsync:eio", "fsync: not read"),
            ("sync@disk:eio", "disk: not image"),
            ("sync:broken", "broken: neither"),
            ("sync:eio,often", "no option often"),
            ("sync:eio,after", "after needs a value"),
            ("sync:eio,after=soon", "after=soon: not a number"),
            ("read:eio,at=9-9", "no bytes"),
            ("write:rot", "no such call"),
            ("read:lie", "no such call"),
            ("sync:eio,part=1", "no such call"),
            ("write:eio,forget", "no such call"),
            ("write:eio,room=5", "no option room"),
            ("sync:enospc,room=5", "no such call"),
            ("any:slow", "slow needs ms=N"),
        ] {
            let error = line.parse::<Fault>().unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}

//! The manifest: what an archive holds, in one file for people and programs.
//!
//! Everything in it but the image's UUID, the bases' times and whether they are
//! whole can be told from the other files, and is: a damaged or missing manifest
//! costs no more.

use std::collections::BTreeSet;
use std::io;

use serde::{Deserialize, Serialize};

use super::{ImageBase, State, io as failed, refused};
use crate::device::Dir;
use crate::journal::Result;
use crate::log::Found;
use crate::units::Time;

/// Its file's name.
pub const NAME: &str = "manifest.json";
/// Longer than any that makes sense.
const LONGEST: u64 = 64 << 20;
/// Its format's version.
const VERSION: u32 = 1;

/// What it says.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    version: u32,
    /// The image's UUID, in hexadecimal.
    image: String,
    #[serde(skip)]
    pub identity: [u8; 16],
    /// A segment has gone without having been kept since the newest base.
    pub lost: bool,
    pub bases: Vec<Base>,
    segments: Vec<Segment>,
}

/// A base; times in nanoseconds since 1970.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Base {
    pub name: String,
    from: u64,
    through: u64,
    epoch: u32,
    time: Option<i64>,
    pub bytes: u64,
    /// Its superblock's block is as of `from` too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Segment {
    name: String,
    epoch: u32,
    first: u64,
    last: u64,
    /// The number that binds its frames to it, and that of the one before, in
    /// hexadecimal: many readers of JSON round long numbers.
    salt: String,
    before: String,
    /// A new timeline begins with it.
    timeline: bool,
    begun: i64,
    ended: Option<i64>,
    bytes: u64,
}

impl Base {
    pub fn time(&self) -> Option<Time> {
        self.time.map(Time::from_nanos)
    }
}

impl From<&Found> for Segment {
    fn from(found: &Found) -> Segment {
        Segment {
            name: found.name.clone(),
            epoch: found.epoch.0,
            first: found.base.0,
            last: found.last.0,
            salt: format!("{:016x}", found.salt),
            before: format!("{:016x}", found.before),
            timeline: found.anew,
            begun: found.begun.as_nanos(),
            ended: found.ended.map(Time::as_nanos),
            bytes: found.bytes,
        }
    }
}

impl Manifest {
    pub fn of(identity: [u8; 16], state: &State) -> Manifest {
        let bases = state.bases.iter().map(|base| Base {
            name: base.name.clone(),
            from: base.from.0,
            through: base.through.0,
            epoch: base.epoch.0,
            time: base.time.map(Time::as_nanos),
            bytes: base.bytes,
            whole: base.whole,
        });
        Manifest {
            version: VERSION,
            image: identity.iter().map(|byte| format!("{byte:02x}")).collect(),
            identity,
            lost: state.lost,
            bases: bases.collect(),
            segments: state.segments.values().map(Segment::from).collect(),
        }
    }

    /// Files that it names and that are not among these, in words.
    pub fn missing<'f>(
        &self,
        bases: &[ImageBase],
        found: impl Iterator<Item = &'f Found>,
    ) -> Vec<String> {
        let mut here: BTreeSet<&str> = found.map(|found| found.name.as_str()).collect();
        here.extend(bases.iter().map(|base| base.name.as_str()));
        let bases = self.bases.iter().map(|base| &base.name);
        let named = bases.chain(self.segments.iter().map(|segment| &segment.name));
        named
            .filter(|name| !here.contains(name.as_str()))
            .map(|name| format!("{name} is in the manifest, and not in the folder"))
            .collect()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads it; `None` if there is none that can be understood. One of a
    /// later version is refused: its archive may be another than it looks.
    pub fn read(dir: &dyn Dir) -> Result<Option<Manifest>> {
        let read = || {
            let disk = dir.open(NAME)?;
            let mut bytes = vec![0; disk.len()?.min(LONGEST) as usize];
            disk.read_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => match serde_json::from_slice::<Manifest>(&bytes) {
                Ok(manifest) if manifest.version > VERSION => Err(refused(&format!(
                    "{NAME} has format version {}, this journalfs knows {VERSION}",
                    manifest.version
                ))),
                Ok(manifest) => Ok(manifest.identified()),
                Err(_) => Ok(None),
            },
            Err(e) if io::Error::kind(&e) == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(NAME)(e)),
        }
    }

    /// With the image's UUID as bytes.
    fn identified(mut self) -> Option<Manifest> {
        let digits = self.image.as_bytes();
        if self.version != VERSION || digits.len() != 32 {
            return None;
        }
        for (byte, pair) in self.identity.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(self)
    }
}

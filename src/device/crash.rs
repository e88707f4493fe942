//! What a power cut leaves.
//!
//! A [`Frontier`] follows a host's trace and knows at each point what is
//! stable and what is [`Pending`]. A [`Plan`] gives each pending change its
//! fate, and [`Frontier::crash`] builds the disks that stand afterwards.
//!
//! The model: pending writes, lengths and names persist in any combination;
//! a sector (512 bytes) of a torn write ends old, new or garbage; sectors of
//! no pending write never change. Within one sector the order of writes is
//! kept, since it is one page of the host's cache that goes to the disk: a
//! sector shows the state after some prefix of its writes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::memory::Pages;
use super::volatile::{Event, FileId, Snapshot};

pub(super) const SECTOR: u64 = 512;

/// A change that is not stable yet: a write, a length or a name.
pub type Pending = Event;

/// What becomes of one pending change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is as if it had not been.
    Lost,
    /// It is on the disk.
    Kept,
    /// Each sector of it is old, new or garbage as the seed decides (what is
    /// not a write is lost).
    Torn(u32),
}

/// The fate of each pending change, in their order; those past its end are lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Plan(pub Vec<Fate>);

/// What is stable at one point of a trace, and what is pending.
#[derive(Clone)]
pub struct Frontier {
    names: BTreeMap<String, FileId>,
    files: Vec<Pages>,
    pending: Vec<Pending>,
    /// Sum of the hashes of all stable sectors.
    sectors: u64,
}

/// A file's sector.
type Place = (FileId, u64);

/// How a sector ends.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// As after this pending change and all before it.
    Through(usize),
    Garbage(u64),
}

impl Frontier {
    /// At the start: everything is stable.
    pub fn new(start: &Snapshot) -> Self {
        let files: Vec<Pages> = std::iter::once(start.image.clone())
            .chain(start.files.values().cloned())
            .collect();
        let names = start.files.keys().cloned().zip((1..).map(FileId)).collect();
        let all = (files.iter().zip((0..).map(FileId))).flat_map(|(pages, file)| {
            (0..pages.len().div_ceil(SECTOR)).map(move |at| (pages, file, at))
        });
        let sectors = all.fold(0u64, |sum, (pages, file, at)| {
            sum.wrapping_add(hash_sector(file, at, &sector(pages, at)))
        });
        Frontier {
            names,
            files,
            pending: Vec::new(),
            sectors,
        }
    }

    /// The changes that may be lost, oldest first.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Goes past one event.
    pub fn pass(&mut self, event: &Event) {
        match event {
            Event::Sync { file } => {
                self.settle(|pending| pending.file() == Some(*file) && !pending.is_name())
            }
            Event::SyncNames => self.settle(Pending::is_name),
            // The length is no page: it stays dirty until a sync succeeds.
            Event::Forget { file } => self.pending.retain(|pending| {
                !matches!(pending, Event::Write { .. }) || pending.file() != Some(*file)
            }),
            Event::Rot { file, at, mask } => self.rot(*file, *at, *mask),
            other => self.pending.push(other.clone()),
        }
        if let Event::Name { file, .. } = event {
            self.files
                .resize(self.files.len().max(file.0 as usize + 1), Pages::default());
        }
    }

    /// What is stable changes, and what is on its way to the same place.
    fn rot(&mut self, file: FileId, at: u64, mask: u8) {
        let pages = &mut self.files[file.0 as usize];
        if at < pages.len() {
            let sum = |pages: &Pages| hash_sector(file, at / SECTOR, &sector(pages, at / SECTOR));
            let before = sum(pages);
            pages.flip(at, mask);
            self.sectors = (self.sectors.wrapping_sub(before)).wrapping_add(sum(pages));
        }
        for pending in &mut self.pending {
            if let Event::Write {
                file: other,
                offset,
                bytes,
                ..
            } = pending
                && *other == file
                && let Some(n) = at.checked_sub(*offset)
                && n < bytes.len() as u64
            {
                let mut rotten = bytes.to_vec();
                rotten[n as usize] ^= mask;
                *bytes = rotten.into();
            }
        }
    }

    /// Makes stable what is chosen.
    fn settle(&mut self, chosen: impl Fn(&Pending) -> bool) {
        let (now, later): (Vec<Pending>, Vec<Pending>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(chosen);
        self.pending = now;
        let (stable, sectors) = self.apply(&Plan(vec![Fate::Kept; self.pending.len()]));
        *self = Frontier {
            pending: later,
            sectors,
            ..stable
        };
    }

    /// The disks after a cut here, and a hash of them.
    pub fn crash(&self, plan: &Plan) -> (Snapshot, u64) {
        let (left, sectors) = self.apply(plan);
        // Zeros count nothing in the sum, lengths do.
        let image = sectors.wrapping_add(hash(&[], left.files[0].len()));
        let named = left.names.iter().fold(image, |sum, (name, file)| {
            let len = left.files[file.0 as usize].len();
            sum.wrapping_add(hash(name.as_bytes(), u64::from(file.0) << 40 ^ len))
        });
        let files = left
            .names
            .iter()
            .map(|(name, file)| (name.clone(), left.files[file.0 as usize].clone()));
        (
            Snapshot {
                image: left.files[0].clone(),
                files: files.collect(),
            },
            named,
        )
    }

    /// The state in which each pending change has met its fate, and the sum
    /// of its sectors' hashes.
    fn apply(&self, plan: &Plan) -> (Frontier, u64) {
        let (names, files) = (self.names.clone(), self.files.clone());
        let mut left = Frontier {
            names,
            files,
            pending: Vec::new(),
            sectors: 0,
        };
        let mut outcomes = Vec::new();
        let mut lens: BTreeMap<FileId, u64> = BTreeMap::new();
        for (n, (pending, fate)) in self.pending.iter().zip(&plan.0).enumerate() {
            match (pending, fate) {
                (_, Fate::Lost) => {}
                (
                    Event::Write {
                        file,
                        offset,
                        bytes,
                        ..
                    },
                    fate,
                ) => {
                    let touched = sectors(*offset, bytes.len());
                    outcomes.extend(
                        touched.filter_map(|at| Some(((*file, at), fate.of_sector(at, n)?))),
                    );
                }
                (_, Fate::Torn(_)) => {}
                (Event::Len { file, len }, _) => drop(lens.insert(*file, *len)),
                (Event::Name { file, name }, _) => {
                    left.names.retain(|_, named| named != file);
                    left.names.insert(name.clone(), *file);
                }
                (Event::Unname { file, name }, _) => {
                    if left.names.get(name) == Some(file) {
                        left.names.remove(name);
                    }
                }
                (
                    Event::Sync { .. }
                    | Event::SyncNames
                    | Event::Forget { .. }
                    | Event::Rot { .. },
                    _,
                ) => {}
            }
        }
        let hashes = self.write_sectors(outcomes, &mut left.files);
        for ((file, before), number) in left
            .files
            .iter_mut()
            .zip(&self.files)
            .zip((0..).map(FileId))
        {
            // Sectors may have been written past the end: they are not seen.
            file.set_len(lens.get(&number).copied().unwrap_or(before.len()));
        }
        (left, hashes)
    }

    /// Gives every touched sector its outcome, the last one named; answers
    /// the new sum of hashes.
    fn write_sectors(&self, mut outcomes: Vec<(Place, Outcome)>, files: &mut [Pages]) -> u64 {
        outcomes.sort_by_key(|(place, _)| *place);
        // A sector's last outcome moves to the front of its run, and stays.
        outcomes.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        for (n, pending) in self.pending.iter().enumerate() {
            let Event::Write {
                file,
                offset,
                bytes,
                ..
            } = pending
            else {
                continue;
            };
            let touched = sectors(*offset, bytes.len());
            let first = outcomes.partition_point(|(place, _)| *place < (*file, touched.start));
            let touched = outcomes[first..]
                .iter()
                .take_while(|((other, at), _)| other == file && *at < touched.end);
            for ((_, at), outcome) in touched {
                if matches!(outcome, Outcome::Through(last) if n <= *last) {
                    let (piece, to) = within(at * SECTOR, bytes, *offset);
                    files[file.0 as usize].write(piece, to);
                }
            }
        }
        let mut sum = self.sectors;
        for ((file, at), outcome) in outcomes {
            let old = sector(&self.files[file.0 as usize], at);
            let files = &mut files[file.0 as usize];
            if let Outcome::Garbage(seed) = outcome {
                files.write(&garbage(seed), at * SECTOR);
            }
            let new = sector(files, at);
            if new != old {
                sum = sum
                    .wrapping_sub(hash_sector(file, at, &old))
                    .wrapping_add(hash_sector(file, at, &new));
            }
        }
        sum
    }
}

impl Event {
    /// Whether this is a write that a process asked for in a system call.
    pub fn is_write(&self) -> bool {
        matches!(self, Event::Write { mapped: false, .. })
    }

    /// Whether a name was given or taken away.
    pub fn is_name(&self) -> bool {
        matches!(self, Event::Name { .. } | Event::Unname { .. })
    }

    /// The file whose bytes or length change.
    pub fn file(&self) -> Option<FileId> {
        match self {
            Event::Write { file, .. } | Event::Len { file, .. } => Some(*file),
            _ => None,
        }
    }
}

impl Fate {
    /// What becomes of one sector of the write that is pending number `n`.
    pub(super) fn of_sector(self, at: u64, n: usize) -> Option<Outcome> {
        match self {
            Fate::Lost => None,
            Fate::Kept => Some(Outcome::Through(n)),
            Fate::Torn(seed) => {
                let drawn = mix(u64::from(seed) << 32 ^ at);
                match drawn % 3 {
                    0 => None,
                    1 => Some(Outcome::Through(n)),
                    _ => Some(Outcome::Garbage(drawn)),
                }
            }
        }
    }
}

impl fmt::Display for Plan {
    /// `+` kept, `-` lost, `~seed` torn; a repeated fate is written once with its count.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.0.chunk_by(|a, b| a == b) {
            match run[0] {
                Fate::Kept => write!(f, "+{} ", run.len())?,
                Fate::Lost => write!(f, "-{} ", run.len())?,
                Fate::Torn(seed) => run.iter().try_for_each(|_| write!(f, "~{seed} "))?,
            }
        }
        f.write_str("and the rest lost")
    }
}

impl FromStr for Plan {
    type Err = String;
    /// What `Display` writes; the closing words may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut fates = Vec::new();
        for word in text.split_whitespace().take_while(|word| *word != "and") {
            let (sign, number) = word.split_at(1.min(word.len()));
            let number: u32 = number
                .parse()
                .map_err(|_| format!("{word:?} is no fate of a plan"))?;
            let (fate, count) = match sign {
                "+" => (Fate::Kept, number),
                "-" => (Fate::Lost, number),
                "~" => (Fate::Torn(number), 1),
                _ => return Err(format!("{word:?} is no fate of a plan")),
            };
            fates.extend(std::iter::repeat_n(fate, count as usize));
        }
        Ok(Plan(fates))
    }
}

impl Plan {
    /// What is past its end is lost: says so.
    pub fn spell_out(&mut self, pending: &[Pending]) {
        self.0.resize(pending.len(), Fate::Lost);
    }

    /// Everything gets to the disk.
    pub fn all(pending: &[Pending]) -> Self {
        Plan(vec![Fate::Kept; pending.len()])
    }

    /// A seeded choice for each change; the seed also decides how much is
    /// kept, and whether anything is torn.
    pub fn random(pending: &[Pending], seed: u64) -> Self {
        Self::seeded(pending.len(), seed)
    }

    /// The same for so many changes.
    pub fn seeded(count: usize, seed: u64) -> Self {
        let (kept, torn) = (
            mix(seed) % 101,
            if mix(!seed).is_multiple_of(2) {
                0
            } else {
                mix(!seed) % 40
            },
        );
        let fate = |n: u64| {
            let drawn = mix(seed ^ mix(n));
            match ((drawn >> 8) % 100 < torn, drawn % 100 < kept) {
                (true, _) => Fate::Torn(drawn as u32),
                (false, true) => Fate::Kept,
                (false, false) => Fate::Lost,
            }
        };
        Plan((0..count as u64).map(fate).collect())
    }
}

pub(super) type Sector = [u8; SECTOR as usize];

/// The sectors that a write touches.
pub(super) fn sectors(offset: u64, len: usize) -> std::ops::Range<u64> {
    offset / SECTOR..(offset + len as u64).div_ceil(SECTOR)
}

/// A sector's bytes; zeros past the end.
fn sector(pages: &Pages, at: u64) -> Sector {
    let mut bytes = [0; SECTOR as usize];
    let there = pages.len().saturating_sub(at * SECTOR).min(SECTOR) as usize;
    pages.read(&mut bytes[..there], at * SECTOR);
    bytes
}

/// The part of `bytes` (which begin at `offset`) that falls into the sector
/// at `start`, and where it goes.
fn within(start: u64, bytes: &[u8], offset: u64) -> (&[u8], u64) {
    let from = offset.max(start);
    let to = (offset + bytes.len() as u64).min(start + SECTOR);
    (
        &bytes[(from - offset) as usize..(to - offset) as usize],
        from,
    )
}

pub(super) fn garbage(seed: u64) -> Sector {
    let mut sector = [0; SECTOR as usize];
    for (word, n) in sector.chunks_exact_mut(8).zip(0..) {
        word.copy_from_slice(&mix(seed ^ n).to_le_bytes());
    }
    sector
}

/// splitmix64's finish: every bit of the answer depends on every bit of `z`.
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut sum = mix(seed);
    for word in &mut words {
        let word = u64::from_le_bytes([
            word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
        ]);
        sum = (sum ^ word)
            .wrapping_mul(0x9FB2_1C65_1E98_DF25)
            .rotate_left(29);
    }
    for byte in words.remainder() {
        sum = mix(sum ^ u64::from(*byte));
    }
    mix(sum)
}

/// A sector of zeros counts nothing: what it adds is for lengths to say.
fn hash_sector(file: FileId, at: u64, bytes: &Sector) -> u64 {
    if bytes.iter().all(|&b| b == 0) {
        0
    } else {
        hash(bytes, u64::from(file.0) << 40 ^ at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::volatile::Host;
    use super::super::{Dir, Disk};
    use super::*;

    fn host() -> (
        std::sync::Arc<Host>,
        std::sync::Arc<dyn Disk>,
        std::sync::Arc<dyn Dir>,
    ) {
        let host = Host::new(Snapshot {
            image: Pages::from_bytes(&[1; 4096]),
            files: BTreeMap::new(),
        });
        let (image, folder) = (host.image(), host.folder());
        (host, image, folder)
    }

    fn frontier(host: &Host) -> Frontier {
        let mut frontier = Frontier::new(&host.start());
        host.trace().iter().for_each(|event| frontier.pass(event));
        frontier
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_be_lost() {
        let (host, image, _) = host();
        image.write_at(&[2; 512], 0).unwrap();
        image.sync().unwrap();
        image.write_at(&[3; 1024], 512).unwrap();
        let left = frontier(&host).crash(&Plan::default()).0.image.to_vec();
        assert_eq!((left[0], left[512], left[1024]), (2, 1, 1));
        let kept = frontier(&host)
            .crash(&Plan(vec![Fate::Kept]))
            .0
            .image
            .to_vec();
        assert_eq!(kept, host.kill().image.to_vec());
    }

    #[test]
    fn writes_persist_in_any_order_but_a_sector_keeps_its_own() {
        let (host, image, _) = host();
        image.write_at(&[2; 100], 0).unwrap();
        image.write_at(&[3; 512], 512).unwrap();
        image.write_at(&[4; 100], 100).unwrap();
        let left = frontier(&host)
            .crash(&Plan(vec![Fate::Lost, Fate::Lost, Fate::Kept]))
            .0
            .image
            .to_vec();
        assert_eq!((left[0], left[100], left[200], left[512]), (2, 4, 1, 1));
    }

    #[test]
    fn a_torn_write_leaves_each_sector_old_new_or_garbage() {
        let (host, image, _) = host();
        image.write_at(&[2; 2048], 1024).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let left = frontier(&host)
                .crash(&Plan(vec![Fate::Torn(seed)]))
                .0
                .image
                .to_vec();
            assert!(left[..1024].iter().chain(&left[3072..]).all(|&b| b == 1));
            seen.extend(left[1024..3072].chunks(512).map(|sector| match sector {
                old if old.iter().all(|&b| b == 1) => "old",
                new if new.iter().all(|&b| b == 2) => "new",
                _ => "garbage",
            }));
        }
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn lengths_and_names_wait_for_their_syncs() {
        let (host, _, folder) = host();
        let file = folder.create("a").unwrap();
        file.write_at(&[7; 600], 0).unwrap();
        file.sync().unwrap();
        assert!(frontier(&host).crash(&Plan::default()).0.files.is_empty());
        folder.sync().unwrap();
        folder.rename("a", "b").unwrap();
        file.write_at(&[8; 600], 600).unwrap();
        let left = frontier(&host).crash(&Plan::default()).0;
        assert_eq!(left.files["a"].to_vec(), [7; 600]);
        // The length without the bytes, and the other way round.
        let left = frontier(&host)
            .crash(&Plan(vec![Fate::Kept, Fate::Lost, Fate::Kept]))
            .0;
        assert_eq!(
            (left.files["b"].len(), left.files["b"].to_vec()[1199]),
            (1200, 0)
        );
        let left = frontier(&host)
            .crash(&Plan(vec![Fate::Lost, Fate::Kept, Fate::Lost]))
            .0;
        assert_eq!(left.files["a"].to_vec(), [7; 600]);
    }

    #[test]
    fn a_plan_survives_the_way_through_its_text() {
        let fates = [
            Fate::Kept,
            Fate::Torn(7),
            Fate::Torn(7),
            Fate::Lost,
            Fate::Lost,
        ];
        let plan = Plan(fates.to_vec());
        assert_eq!(plan.to_string().parse(), Ok(plan));
        assert!("+x".parse::<Plan>().is_err());
    }

    #[test]
    fn equal_states_have_equal_hashes() {
        let (host, image, _) = host();
        image.write_at(&[2; 1024], 0).unwrap();
        let before = frontier(&host);
        image.sync().unwrap();
        let after = frontier(&host);
        assert_eq!(
            before.crash(&Plan(vec![Fate::Kept])).1,
            after.crash(&Plan::default()).1
        );
        assert_ne!(
            before.crash(&Plan::default()).1,
            after.crash(&Plan::default()).1
        );
        assert_eq!(
            host.cut(5).image.to_vec(),
            after.crash(&Plan::default()).0.image.to_vec()
        );
    }

    #[test]
    fn an_image_without_its_length_is_another_state() {
        let (host, image, _) = host();
        image.set_len(8192).unwrap();
        let longer = frontier(&host);
        assert_ne!(
            longer.crash(&Plan(vec![Fate::Kept])).1,
            longer.crash(&Plan::default()).1
        );
    }
}

//! The rig of a mount for crash tests: its switch, its ledger, its cut.
//!
//! ```text
//!   file system ──► power switch ──► layer ──► the image, as it was at the mount
//!                        └─────────► the journal's folder
//! ```
//! The image below changes only at the end of the mount, or at the cut.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::legal::{Choice, Keep, Model, Order, Part};
use super::loss::{Loss, Lost};
use super::{Again, Ledger, Outcome, choose, required};
use crate::device::crash::{Fate, Plan};
use crate::device::fault::Faults;
use crate::device::host::HostDisk;
use crate::device::layer::Layer;
use crate::device::powercut::{PowerCut, What};
use crate::device::{Dir, Disk};
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::fs::Access;
use crate::fs::guard;
use crate::fs::mount::{self, Options};
use crate::log::{Survey, lsn_of};
use crate::units::{Lsn, Time};

/// A mount's switch and what belongs to it.
pub struct Rig {
    switch: Arc<PowerCut>,
    layer: Arc<Layer>,
    ledger: Arc<Ledger>,
    image: Arc<dyn Disk>,
    folder: Arc<dyn Dir>,
    options: Options,
}

/// A result in words.
type Result<T> = std::result::Result<T, String>;

fn words(what: &str) -> impl Fn(io::Error) -> String + use<'_> {
    move |error| format!("{what}: {error}")
}

impl Rig {
    /// Over an image that lacks nothing and its journal's folder; scratch
    /// files go to the folder `scratch`. `options`: how it is mounted.
    pub fn over(
        image: Arc<dyn Disk>,
        folder: Arc<dyn Dir>,
        scratch: &Path,
        options: Options,
    ) -> io::Result<Self> {
        let file = || Ok::<_, io::Error>(Arc::new(HostDisk::scratch(scratch)?));
        let layer = Arc::new(Layer::over(image.clone(), file()?)?);
        let ours = |name: &str| name.ends_with(".store") || name.ends_with(".index");
        Ok(Rig {
            switch: PowerCut::over(layer.clone(), folder.clone(), ours, file()?)?,
            ledger: Arc::new(Ledger::new(file()?)),
            layer,
            image,
            folder,
            options,
        })
    }

    /// The image as the file system is to have it.
    pub fn image(&self) -> Arc<dyn Disk> {
        self.switch.image()
    }

    /// The journal's folder as the file system is to have it.
    pub fn folder(&self) -> Arc<dyn Dir> {
        self.switch.folder()
    }

    /// What is done on the mount.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The faults of its disks.
    pub fn faults(&self) -> &Faults {
        self.switch.faults()
    }

    /// The power goes: everything fails from now on. `false`: it was off.
    pub fn off(&self) -> bool {
        self.switch.off()
    }

    /// The end of a mount without a cut: everything goes to the host's disks.
    pub fn settle(&self) -> io::Result<()> {
        self.switch.settle()?;
        self.settle_image()
    }

    /// Brings the image's changes down. Whoever is killed meanwhile leaves
    /// neither the old image nor the new: until the superblock comes, last, it
    /// says that it has errors.
    fn settle_image(&self) -> io::Result<()> {
        let mut raw = [0; SIZE];
        self.layer.read_at(&mut raw, OFFSET)?;
        // So that it does come, whether it has changed or not.
        self.layer.write_at(&raw, OFFSET)?;
        self.image.read_at(&mut raw, OFFSET)?;
        self.image.write_at(&guard::give_up(&raw), OFFSET)?;
        self.image.sync()?;
        self.layer.settle()
    }

    /// What a cut would take at worst.
    pub fn unsynced(&self, model: Model, durable: Lsn, now: Time) -> Vec<Lost> {
        self.ledger.read(|entries, syncs| {
            let required = required(model, entries, syncs, durable, now);
            let open = entries.iter().zip(required).filter(|(_, must)| !must);
            open.map(|(entry, _)| Lost::all_of(entry)).collect()
        })
    }

    /// What the cut leaves, once the power is [off](Rig::off). `durable`: the
    /// last record that a sync had made so.
    pub fn cut(&self, order: Order, durable: Lsn, now: Time) -> Result<Loss> {
        self.ledger.close();
        match order.model {
            Model::Prefix => self.cut_here(order, durable),
            Model::Ext4 | Model::Posix => self.cut_elsewhere(order, durable, now),
        }
    }

    /// The cut of our own disks.
    fn cut_here(&self, order: Order, durable: Lsn) -> Result<Loss> {
        let cut = self.switch.cut(|pending| plan(order, pending));
        let writes = cut.map_err(words("cutting the power"))?;
        self.settle_image().map_err(words("cutting the power"))?;
        let survey = Survey::read(self.folder.clone()).map_err(|e| e.to_string())?;
        let last = survey.last();
        if last < durable && !self.faults().have_deceived() {
            return Err(format!(
                "journalfs broke its promise: record {durable} was durable, but the journal ends with {last}"
            ));
        }
        let lost = self.ledger.read(|entries, _| {
            let lost = entries.iter().filter(|entry| entry.lsn > last);
            lost.map(Lost::all_of).collect()
        });
        Ok(Loss::new(order, durable, last, lost).with_writes(writes))
    }

    /// What another file system might have left, done on the image as it was.
    fn cut_elsewhere(&self, order: Order, durable: Lsn, now: Time) -> Result<Loss> {
        // Names and lengths in the folder as they are stable; the layer's
        // changes are given up.
        let cut = self.switch.cut(|_| Plan::default());
        cut.map_err(words("cutting the power"))?;
        let choices = self.ledger.read(|entries, syncs| {
            let required = required(order.model, entries, syncs, durable, now);
            choose(
                order.model,
                entries,
                &required,
                order.keep,
                order.torn,
                order.seed,
            )
        });
        let mut mounted = None;
        let mut again = Again::on(|clock| {
            // Whoever was allowed to do it may do it again.
            let options = Options {
                clock,
                fs: crate::fs::Options {
                    access: Access::Fakeroot,
                    ..self.options.fs
                },
                ..self.options.clone()
            };
            let opened = mount::open(self.image.clone(), self.folder.clone(), options)?;
            let inner = opened.mount()?;
            let fs = inner.fs().clone();
            mounted = Some(inner);
            Ok::<_, mount::Error>(fs)
        })
        .map_err(|e| format!("the image as it was at the mount: {e}"))?;
        let mut lost = Vec::new();
        let mut last = Lsn(0);
        let replayed = self.ledger.replay(|number, entry, data| {
            let part = match &choices[number] {
                Choice::Lost => {
                    again.leave_out(&entry.op);
                    lost.push(Lost::all_of(entry));
                    return Ok(());
                }
                Choice::Kept(part, must) => (part, *must),
            };
            let failed = |e: crate::fs::Error| {
                io::Error::other(format!("record {} could not be done again: {e}", entry.lsn))
            };
            match again.apply(&entry.op, data, part.0).map_err(failed)? {
                Outcome::Refused(error) if part.1 => return Err(failed(error)),
                Outcome::Refused(_) | Outcome::Unreachable => lost.push(Lost::all_of(entry)),
                Outcome::Done if *part.0 == Part::Whole => last = entry.lsn,
                Outcome::Done => {
                    let part = Lost::part_of(entry, part.0);
                    last = if part.partly { entry.lsn } else { last };
                    lost.push(part);
                }
            }
            Ok(())
        });
        replayed.map_err(|e| e.to_string())?;
        let synced = again.fs().journal().sync();
        synced.map_err(|e| e.to_string())?;
        // Dropped as a machine drops it: the next mount recovers.
        drop(mounted);
        Ok(Loss::new(order, durable, last, lost))
    }
}

/// The fates of what is pending on our own disks.
fn plan(order: Order, pending: &[What]) -> Plan {
    let all = |fate: Fate| Plan(vec![fate; pending.len()]);
    match order.keep {
        Keep::None => all(Fate::Lost),
        Keep::All => all(Fate::Kept),
        Keep::Random => {
            let mut plan = Plan::seeded(pending.len(), order.seed);
            if !order.torn {
                let tears = plan
                    .0
                    .iter_mut()
                    .filter(|fate| matches!(fate, Fate::Torn(_)));
                tears.for_each(|fate| *fate = Fate::Lost);
            }
            plan
        }
        Keep::Through(last) => {
            let beyond = |what: &What| match what {
                What::Store { head, .. } => lsn_of(head).is_some_and(|lsn| lsn > last),
                What::Image | What::About => false,
            };
            let fates = pending.iter().map(|what| match beyond(what) {
                true => Fate::Lost,
                false => Fate::Kept,
            });
            Plan(fates.collect())
        }
    }
}

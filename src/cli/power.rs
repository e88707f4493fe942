//! The daemon's side of `-o powercut`: sees requests, waits for the moment,
//! cuts, tells, and ends the process, as a machine without power ends it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::fs::{Error, Fs};
use crate::fuse::request::{Answer, Request};
use crate::fuse::tap::{Served, Spot, Tap, Wanted};
use crate::journal;
use crate::sim::cut::{Keep, Loss, Lost, Order, Rig, Synced, When};
use crate::units::{Clock, HostClock, InodeNo, Lsn};

use super::control::{Client, CutRequest};

/// How often a record's number is looked at when nobody asks for anything.
const LOOK: Duration = Duration::from_millis(20);

/// Those who ordered a cut hear of it before everything ends, but a client
/// that doesn't listen holds nobody up for longer.
const HEARD: Duration = Duration::from_secs(10);
/// How often it is looked at whether they have.
const HEARING: Duration = Duration::from_millis(5);

/// A mount's power.
pub struct Power {
    rig: Arc<Rig>,
    fs: Arc<Fs>,
    off: AtomicBool,
    armed: Mutex<Vec<Arc<(When, Order)>>>,
    cut: Mutex<Cut>,
    changed: Condvar,
    /// Held by each client that has not been answered yet, too.
    owed: Arc<()>,
    /// The control socket: nobody else removes it when the process ends here.
    socket: Mutex<Option<PathBuf>>,
}

#[derive(Default)]
enum Cut {
    #[default]
    None,
    /// The power is off; these records were durable.
    Ordered(Order, Lsn),
    /// What it took.
    Done(Arc<Result<Loss, String>>),
    /// The mount ends without one.
    Never,
}

impl Power {
    /// Switched on. Its thread waits for a cut and ends the process after it.
    pub fn on(rig: Arc<Rig>, fs: Arc<Fs>) -> std::io::Result<Arc<Self>> {
        let ledger = rig.ledger().clone();
        let note = move |lsn, op: &journal::Op, data: &[u8]| ledger.note(lsn, op, data);
        fs.journal().set_observer(Box::new(note));
        let power = Arc::new(Power {
            rig,
            fs,
            off: AtomicBool::new(false),
            armed: Mutex::default(),
            cut: Mutex::default(),
            changed: Condvar::new(),
            owed: Arc::default(),
            socket: Mutex::default(),
        });
        let cutting = power.clone();
        thread::Builder::new()
            .name("power".to_owned())
            .spawn(move || cutting.serve_cut())?;
        Ok(power)
    }

    /// Arms a cut, or makes it now, and waits for it: what it took, or why
    /// that failed. An error: there was and will be none, since it makes no
    /// sense, since the client has gone, or since the mount ends.
    pub fn order(
        &self,
        request: &CutRequest,
        client: &Client,
    ) -> Result<Result<Loss, String>, String> {
        let (when, order) = parse(request)?;
        let marks = self.fs.journal().watermarks();
        if let Keep::Through(lsn) = order.keep
            && lsn < marks.durable
        {
            return Err(format!(
                "--keep {lsn}: records up to {} are durable: no cut takes those",
                marks.durable
            ));
        }
        let deadline = match when {
            When::Now => Some(Instant::now()),
            When::After(time) => Some(Instant::now() + time),
            _ => None,
        };
        let mine = Arc::new((when, order));
        self.armed.lock().push(mine.clone());
        if !matches!(mine.0, When::Now) {
            client.say_armed();
        }
        let came = self.wait(deadline, order, client);
        self.armed.lock().retain(|armed| !Arc::ptr_eq(armed, &mine));
        came
    }

    fn wait(
        &self,
        deadline: Option<Instant>,
        order: Order,
        client: &Client,
    ) -> Result<Result<Loss, String>, String> {
        loop {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.trip(order);
            }
            self.look(|when| matches!(when, When::AtLsn(lsn) if self.written() >= *lsn));
            let mut cut = self.cut.lock();
            match &*cut {
                Cut::Done(loss) => return Ok((**loss).clone()),
                Cut::Never => return Err("unmounted before the cut was due".to_owned()),
                Cut::None if client.has_gone() => return Err("given up".to_owned()),
                Cut::None | Cut::Ordered(..) => {}
            }
            let until = deadline.filter(|deadline| *deadline > now);
            let until = until.map_or(now + LOOK, |deadline| deadline.min(now + LOOK));
            self.changed.wait_until(&mut cut, until);
        }
    }

    /// The mount ends; from now on the power stays on. If it is off, the
    /// process ends here.
    pub fn end(&self) {
        let mut cut = self.cut.lock();
        if matches!(*cut, Cut::None) {
            *cut = Cut::Never;
        }
        self.changed.notify_all();
        while !matches!(*cut, Cut::Never) {
            self.changed.wait(&mut cut);
        }
        drop(cut);
        self.wait_until_heard();
    }

    /// To be kept by whoever orders a cut until the answer has gone out: the
    /// process does not end before.
    pub fn owed(&self) -> Arc<()> {
        self.owed.clone()
    }

    fn wait_until_heard(&self) {
        let end = Instant::now() + HEARD;
        while Arc::strong_count(&self.owed) > 1 && Instant::now() < end {
            thread::sleep(HEARING);
        }
    }

    /// Where it is listened to until a cut has happened.
    pub fn is_heard_at(&self, socket: PathBuf) {
        *self.socket.lock() = Some(socket);
    }

    /// A mark of this name has been made.
    pub fn marked(&self, name: &str) {
        self.look(|when| matches!(when, When::AtMark(wanted) if wanted == name));
    }

    /// What a cut now would take at worst.
    pub fn unsynced(&self, model: &str) -> Result<Vec<Lost>, String> {
        let model = model.parse()?;
        let durable = self.fs.journal().watermarks().durable;
        Ok(self.rig.unsynced(model, durable, HostClock.wall()))
    }

    /// Its disks, for faults.
    pub fn rig(&self) -> &Rig {
        &self.rig
    }

    fn written(&self) -> Lsn {
        self.fs.journal().watermarks().written
    }

    /// Cuts for the first armed trigger that is `due`.
    fn look(&self, due: impl Fn(&When) -> bool) {
        let found = {
            let armed = self.armed.lock();
            let found = armed.iter().find(|armed| due(&armed.0));
            found.map(|armed| armed.1)
        };
        if let Some(order) = found {
            self.trip(order);
        }
    }

    /// The power goes now; the rest is done by the thread that waits for it.
    fn trip(&self, order: Order) {
        let mut cut = self.cut.lock();
        if matches!(*cut, Cut::None) {
            self.off.store(true, Ordering::SeqCst);
            self.rig.off();
            let durable = self.fs.journal().watermarks().durable;
            *cut = Cut::Ordered(order, durable);
            self.changed.notify_all();
        }
    }

    fn serve_cut(&self) {
        let mut cut = self.cut.lock();
        let (order, durable) = loop {
            match &*cut {
                Cut::Ordered(order, durable) => break (*order, *durable),
                _ => self.changed.wait(&mut cut),
            }
        };
        drop(cut);
        let cut = AssertUnwindSafe(|| self.rig.cut(order, durable, HostClock.wall()));
        // A machine that is off for ever would be worse.
        let loss = catch_unwind(cut).unwrap_or_else(|_| Err("a bug in journalfs".to_owned()));
        let code = match &loss {
            Ok(loss) => {
                log::warn!("the power is cut: {} operations lost", loss.lost.len());
                0
            }
            Err(why) => {
                log::error!("the power is cut: {why}");
                32
            }
        };
        if let Some(socket) = self.socket.lock().take() {
            // Whoever waits has been connected long since.
            let _ = std::fs::remove_file(socket);
        }
        *self.cut.lock() = Cut::Done(Arc::new(loss));
        self.changed.notify_all();
        self.wait_until_heard();
        std::process::exit(code);
    }

    fn is_off(&self) -> Result<(), Error> {
        match self.off.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(Error::Journal(journal::Error::ReadOnly(
                "the power is off".into(),
            ))),
        }
    }

    /// The full names of what a request acts on, if anyone waits for names.
    fn paths(&self, served: &Served) -> Vec<Vec<u8>> {
        let ledger = self.rig.ledger();
        let path = |spot: &Spot| match spot {
            Spot::Inode(inode) => ledger.path(*inode),
            Spot::Name(parent, name) => ledger.path_in(*parent, name),
        };
        served.places.iter().map(path).collect()
    }

    fn waits_for_operations(&self) -> bool {
        let armed = self.armed.lock();
        armed
            .iter()
            .any(|armed| matches!(armed.0, When::BeforeOp(_) | When::AfterOp(_)))
    }
}

impl Tap for Power {
    fn before(&self, request: &Request<'_>) -> Result<(), Error> {
        if self.waits_for_operations() {
            let served = Served::of(request, None);
            let paths = self.paths(&served);
            self.look(|when| matches!(when, When::BeforeOp(pattern) if pattern.matches(served.kind, &paths)));
        }
        self.is_off()
    }

    fn named(&self, parent: InodeNo, name: &[u8], inode: InodeNo) {
        self.rig.ledger().named(inode, parent, name);
    }

    fn after(&self, served: Served, answer: Answer) -> Answer {
        let reply = answer?;
        if let Some(wanted) = served.sync {
            let through = self.fs.journal().watermarks().durable;
            let (inode, data_only) = match wanted {
                Wanted::File { inode, data_only } => (Some(inode), data_only),
                Wanted::Everything => (None, false),
            };
            self.rig.ledger().synced(Synced {
                inode,
                data_only,
                through,
            });
        }
        // Nobody is told of success that a cut may not have seen.
        self.is_off()?;
        if self.waits_for_operations() {
            let paths = self.paths(&served);
            self.look(|when| matches!(when, When::AfterOp(pattern) if pattern.matches(served.kind, &paths)));
        }
        self.look(|when| matches!(when, When::AtLsn(lsn) if self.written() >= *lsn));
        Ok(reply)
    }
}

/// What was ordered, understood.
pub fn parse(request: &CutRequest) -> Result<(When, Order), String> {
    let CutRequest {
        model,
        keep,
        torn,
        seed,
        ..
    } = request;
    let order = Order {
        model: model.parse().map_err(|e| format!("--model {model}: {e}"))?,
        keep: keep.parse().map_err(|e| format!("--keep {keep}: {e}"))?,
        torn: *torn,
        seed: *seed,
    };
    let pattern =
        |option: &str, text: &str| text.parse().map_err(|e| format!("--{option} {text}: {e}"));
    let mut when: Vec<When> = Vec::new();
    when.extend(
        request
            .after_millis
            .map(|millis| When::After(Duration::from_millis(millis))),
    );
    when.extend(request.at_lsn.map(|lsn| When::AtLsn(Lsn(lsn))));
    when.extend(request.at_mark.clone().map(When::AtMark));
    if let Some(text) = &request.before_op {
        when.push(When::BeforeOp(pattern("before-op", text)?));
    }
    if let Some(text) = &request.after_op {
        when.push(When::AfterOp(pattern("after-op", text)?));
    }
    match when.len() {
        0 => Ok((When::Now, order)),
        1 => Ok((when.remove(0), order)),
        _ => Err("a cut waits for one thing only: give one of --after, --at-lsn, --at-mark, --before-op, --after-op".to_owned()),
    }
}

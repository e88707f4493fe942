//! What the daemon does when a command asks it through the control socket.

use std::sync::{Arc, mpsc};

use serde_json::Value;

use crate::device::fault::Faults;
use crate::fs::Fs;
use crate::journal::record::Operation;
use crate::journal::{self, Heading, Op, Record, Replay};
use crate::log::Place;
use crate::sim::cut::{Lost, Model, paths};
use crate::units::{Clock, HostClock, InodeNo, Lsn};

use super::control::{Request, Serve};
use super::power::Power;

const NO_SWITCH: &str = "this mount has no power switch: mount it with -o powercut";

/// Serves requests on a file system.
pub fn serve(fs: Arc<Fs>, power: Option<Arc<Power>>) -> Arc<Serve> {
    Arc::new(move |request, client| {
        let power = power.as_deref();
        let switched = || power.ok_or_else(|| NO_SWITCH.to_owned());
        match request {
            Request::Mark { name } => {
                let lsn = mark(&fs, &name)?;
                if let Some(power) = power {
                    power.marked(&name);
                }
                Ok(lsn.0.into())
            }
            Request::Cut(wanted) => {
                let power = switched()?;
                client.keep(power.owed());
                to_value(&power.order(&wanted, client)?)
            }
            Request::Unsynced { model } => match power {
                Some(power) => to_value(&power.unsynced(&model)?),
                None if model == Model::Prefix.to_string() => to_value(&unsynced(&fs)?),
                None => Err(format!(
                    "only -o powercut keeps what the model {model} needs: without it ask for --model prefix"
                )),
            },
            Request::Inject { faults, heal } => inject(switched()?.rig().faults(), &faults, heal),
        }
    })
}

fn to_value(value: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|e| e.to_string())
}

/// What a cut now would take at worst, as far as the log knows names.
fn unsynced(fs: &Fs) -> Result<Vec<Lost>, String> {
    let Some(log) = fs.journal().log() else {
        return Ok(Vec::new());
    };
    let mut open = Open {
        fs,
        lost: Vec::new(),
    };
    let durable = log.watermarks().durable;
    let read = journal::replay(log.frames(durable.next()), &mut open);
    read.map_err(|e| e.to_string())?;
    Ok(open.lost)
}

struct Open<'a> {
    fs: &'a Fs,
    lost: Vec<Lost>,
}

impl Replay for Open<'_> {
    fn record(&mut self, at: &Heading, record: &Record, _: Option<&Place>) -> journal::Result<()> {
        if let Record::Operation(Operation { op, .. }) = record
            && op.is_operation()
        {
            let unnamed = |inode: InodeNo| format!("/#{inode}").into_bytes();
            let path = |inode| self.fs.path(inode).unwrap_or_else(|| unnamed(inode));
            let (path, to) = paths(op, path);
            self.lost.push(Lost::of(at.lsn, op, &path, to.as_deref()));
        }
        Ok(())
    }
}

/// A named point in the log.
fn mark(fs: &Fs, name: &str) -> Result<Lsn, String> {
    if name.is_empty() || name.len() > 255 || name.contains(char::is_control) {
        return Err(
            "a mark's name has 1 to 255 bytes, none of them a control character".to_owned(),
        );
    }
    let mark = Op::Mark {
        name: name.as_bytes().to_vec(),
        time: HostClock.wall(),
    };
    loop {
        match fs.journal().begin().and_then(|txn| txn.commit(&mark)) {
            Err(journal::Error::Full) => {
                let (tell, room) = mpsc::channel();
                fs.journal().when_room(Box::new(move || drop(tell)));
                // An error here is the sender's end: there may be room now.
                let _: Result<(), _> = room.recv();
            }
            done => return done.map_err(|e| e.to_string()),
        }
    }
}

/// Arms faults (all or none of those given) and lists what is armed.
fn inject(faults: &Faults, given: &[String], heal: bool) -> Result<Value, String> {
    let parsed = given
        .iter()
        .map(|text| text.parse().map_err(|e| format!("{text}: {e}")));
    let parsed = parsed.collect::<Result<Vec<_>, String>>()?;
    if heal {
        faults.heal();
    }
    parsed.into_iter().for_each(|fault| faults.arm(fault));
    let lines = faults.list().into_iter().map(|armed| {
        let last = armed
            .last
            .map(|call| format!(", last: {call}"))
            .unwrap_or_default();
        format!("{} (met {} times{last})", armed.fault, armed.met)
    });
    to_value(&lines.collect::<Vec<String>>())
}

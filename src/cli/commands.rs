//! What the daemon does when a command asks it through the control socket.

use std::sync::{Arc, mpsc};

use serde_json::Value;

use crate::device::fault::Faults;
use crate::fs::Fs;
use crate::journal::{self, Op};
use crate::units::{Clock, HostClock, Lsn};

use super::control::{Request, Serve};
use super::power::Power;

const NO_SWITCH: &str = "this mount has no power switch: mount it with -o powercut";

/// Serves requests on a file system.
pub fn serve(fs: Arc<Fs>, power: Option<Arc<Power>>) -> Arc<Serve> {
    Arc::new(move |request| {
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
            Request::Cut(wanted) => to_value(&switched()?.order(&wanted)?),
            Request::Unsynced { model } => to_value(&switched()?.unsynced(&model)?),
            Request::Inject { faults, heal } => inject(switched()?.rig().faults(), &faults, heal),
        }
    })
}

fn to_value(value: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|e| e.to_string())
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

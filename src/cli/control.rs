//! The daemon's ear: a socket in the journal's folder, by which other
//! commands ask a mount for what no file operation can say.
//!
//! A client sends one JSON object and gets one back, each on a line. Only the
//! daemon's user and root are listened to.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt::PeerCredentials};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fuse::point;

use super::place::{self, Place};
use super::{Failure, at};

const NAME: &str = "control";

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "command")]
pub enum Request {
    /// A named point in the log.
    Mark { name: String },
    /// Cut the power.
    Cut(CutRequest),
    /// What a cut would take.
    Unsynced { model: String },
    /// Arms faults, given as text; lists those armed.
    Inject { faults: Vec<String>, heal: bool },
}

/// When and how the power is cut, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRequest {
    pub model: String,
    pub keep: String,
    pub torn: bool,
    pub seed: u64,
    pub after_millis: Option<u64>,
    pub at_lsn: Option<u64>,
    pub at_mark: Option<String>,
    pub before_op: Option<String>,
    pub after_op: Option<String>,
}

/// What it gets: a value of the command's own, or a line that says why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// Not yet: it waits for its moment. Another answer follows.
    Armed,
    Ok(serde_json::Value),
    Error(String),
}

/// Answers a request of a client; the error is one line.
pub type Serve = dyn Fn(Request, &Client) -> Result<serde_json::Value, String> + Send + Sync;

/// Whoever asked.
pub struct Client {
    stream: UnixStream,
    kept: RefCell<Vec<Arc<()>>>,
}

impl Client {
    /// Tells that what was asked for waits for its moment. (Whoever has gone is
    /// noticed by [`Client::has_gone`].)
    pub fn say_armed(&self) {
        let _ = send(&self.stream, &Answer::Armed);
    }

    /// Keeps this until it has been answered.
    pub fn keep(&self, it: Arc<()>) {
        self.kept.borrow_mut().push(it);
    }

    /// Nobody waits for the answer any more.
    pub fn has_gone(&self) -> bool {
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.stream.as_raw_fd(), &mut [0], look) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error != Errno::EAGAIN,
        }
    }
}

/// Listens until it is dropped.
pub struct Control {
    /// The socket.
    pub path: PathBuf,
}

impl Control {
    /// Begins to listen in a journal's folder, which is ours alone.
    pub fn listen(journal: &Path, serve: Arc<Serve>) -> io::Result<Control> {
        let path = journal.join(NAME);
        // Of a daemon that was killed.
        let _ = std::fs::remove_file(&path);
        let folder = File::open(journal)?;
        let listener = UnixListener::bind(address(&folder))?;
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || listen(&listener, &serve))?;
        Ok(Control { path })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A socket's address has 108 bytes, a path may have more: by the folder's
/// descriptor any folder is near.
fn address(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(NAME)
}

fn listen(listener: &UnixListener, serve: &Arc<Serve>) {
    for stream in listener.incoming().flatten() {
        let serve = serve.clone();
        let one = move || {
            let client = Client {
                stream,
                kept: RefCell::default(),
            };
            if let Err(error) = answer(&client, &*serve) {
                log::debug!("a client of the control socket: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("client".to_owned()).spawn(one) {
            log::warn!("a client of the control socket can't be served: {error}");
        }
    }
}

fn answer(client: &Client, serve: &Serve) -> io::Result<()> {
    let stream = &client.stream;
    let peer = getsockopt(stream, PeerCredentials)?.uid();
    let mut line = String::new();
    // A request is short; whoever sends more is no client of ours.
    BufReader::new(io::Read::take(stream, 1 << 20)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        _ if peer != 0 && peer != nix::unistd::geteuid().as_raw() => {
            Answer::Error("only the daemon's user and root may ask".to_owned())
        }
        Ok(request) => match serve(request, client) {
            Ok(value) => Answer::Ok(value),
            Err(why) => Answer::Error(why),
        },
        Err(error) => Answer::Error(format!("this version does not understand that: {error}")),
    };
    send(stream, &answer)
}

fn send(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_string(answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}

/// A live mount, as found from its directory (or its image).
pub struct Mount {
    /// Where it is.
    pub point: PathBuf,
    place: Place,
}

impl Mount {
    /// Finds the mount at a directory, or of an image.
    pub fn find(target: &Path) -> Result<Mount, Failure> {
        let full = point::absolute(target).map_err(|e| Failure::refused(at(target, e)))?;
        let mount = match point::find(&full).filter(|mount| mount.kind == point::FS_TYPE) {
            Some(mount) => Some(mount),
            None => point::of_image(&full).into_iter().next(),
        };
        let mount = mount.ok_or_else(|| {
            Failure::usage(at(
                target,
                "no journalfs is mounted here: give a mountpoint",
            ))
        })?;
        if super::view::is_view(&mount.source) {
            return Err(Failure::usage(at(
                target,
                "shows the past, which takes nothing new: give the mountpoint of the image itself",
            )));
        }
        let image = PathBuf::from(&mount.source);
        let place = Place::find(&image, journal(&mount.point).as_deref())?;
        Ok(Mount {
            point: mount.point,
            place,
        })
    }

    /// Whether it has a power switch.
    pub fn has_switch(&self) -> bool {
        super::status::Live::ask(&self.point).is_some_and(|live| live.powercut)
    }

    /// Waits until its daemon has let go of image and journal.
    pub fn wait_until_free(&self) -> Result<(), Failure> {
        let free = place::wait_until_free(&self.place.image, &self.place.journal);
        free.map_err(|e| Failure::refused(at(&self.place.image, e)))
    }

    /// Asks the daemon, and waits for its answer.
    pub fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        self.ask_and_wait(request, || ())
    }

    /// The same; `armed` is called when it waits for its moment.
    pub fn ask_and_wait<T: DeserializeOwned>(
        &self,
        request: &Request,
        armed: impl Fn(),
    ) -> Result<T, Failure> {
        let gone = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::refused(at(
                &self.point,
                "its daemon does not listen: it has died, or the mount is read-only",
            )),
            _ => Failure::refused(at(&self.point, e)),
        };
        let folder = File::open(&self.place.journal).map_err(gone)?;
        let mut stream = UnixStream::connect(address(&folder)).map_err(gone)?;
        let mut text = serde_json::to_string(request).map_err(Failure::system)?;
        text.push('\n');
        stream.write_all(text.as_bytes()).map_err(gone)?;
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).map_err(gone)?;
            return match serde_json::from_str(&line) {
                Ok(Answer::Armed) => {
                    armed();
                    continue;
                }
                Ok(Answer::Ok(value)) => serde_json::from_value(value).map_err(Failure::system),
                Ok(Answer::Error(why)) => Err(Failure::refused(at(&self.point, why))),
                Err(_) => Err(Failure::refused(at(
                    &self.point,
                    "its daemon ended before it answered",
                ))),
            };
        }
    }
}

/// The journal's folder of a mount that says where it is.
fn journal(point: &Path) -> Option<PathBuf> {
    super::status::Live::ask(point).map(|live| live.journal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_objects_with_stable_keys() {
        let text = serde_json::to_string(&Request::Mark { name: "a".into() }).unwrap();
        assert_eq!(text, r#"{"command":"mark","name":"a"}"#);
        let cut = serde_json::to_string(&Request::Cut(CutRequest::default())).unwrap();
        assert!(cut.starts_with(r#"{"command":"cut","model":"""#), "{cut}");
    }

    #[test]
    fn a_client_is_answered_however_long_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("j".repeat(200));
        std::fs::create_dir(&journal).unwrap();
        let serve = |request, _: &Client| match request {
            Request::Mark { name } => Ok(name.into()),
            _ => Err("no".to_owned()),
        };
        let control = Control::listen(&journal, Arc::new(serve)).unwrap();
        let ask = |text: &str| {
            let folder = File::open(&journal).unwrap();
            let mut stream = UnixStream::connect(address(&folder)).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        };
        assert_eq!(
            ask("{\"command\":\"mark\",\"name\":\"x\"}\n"),
            "{\"ok\":\"x\"}\n"
        );
        assert_eq!(
            ask("{\"command\":\"unsynced\",\"model\":\"\"}\n"),
            "{\"error\":\"no\"}\n"
        );
        assert!(ask("nonsense\n").contains("does not understand"));
        drop(control);
        assert!(!journal.join(NAME).exists());
    }
}

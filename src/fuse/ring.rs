//! The transport over io_uring: a ring for each processor, so that a request is
//! answered on the processor that asks.
//!
//! ```text
//!   kernel ─► completion of a slot ─► decode ─► service ─┬─► answered here and now
//!   kernel ◄─ commit of the slot ◄─── encode ◄─ outbox ◄─┴─► or later, from another thread
//! ```
//! Only its own thread touches a ring: an answer from another thread waits in
//! the outbox, and a bell wakes the ring's thread. What would wait for a disk is
//! left to other threads; one that reads a file's bytes or lists a directory has
//! the slot's payload meanwhile.
//! fuser mounts, shakes hands and goes on with FORGET and INTERRUPT.
//!
//! Source: the kernel's "FUSE-over-io-uring design documentation" and
//! `linux/fuse.h`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use memmap2::MmapMut;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use crate::fs::{Caller, Groups};

use super::negotiate::Negotiate;
use super::processes::Processes;
use super::processor;
use super::readers::Readers;
use super::reply::number_of;
use super::request::{Answer, Request};
use super::service::{Entry, Patience, Service};
use super::wire::{Asked, Form, Header, Listing};

/// Requests that a processor's programs may have under way. One that waits for
/// a disk's sync keeps its slot, and others must still be served.
pub const DEPTH: usize = 32;
/// The part of a slot that the kernel calls its header: a page, of which
/// `struct fuse_uring_req_header` takes 288 bytes.
const HEADER: usize = 4096;
/// Where that has the operation's arguments, and where they end.
const ARGS: usize = 128;
const ARGS_END: usize = 256;
/// Where it has the number to commit with, and the payload's length.
const COMMIT: usize = 264;
const PAYLOAD: usize = 272;

const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// A queue that no kernel has.
const NO_QUEUE: u16 = u16::MAX;
/// The mark of a completion that is not a slot's.
const BELL: u64 = u64::MAX;

/// A test's: the ring of this number can't be registered.
#[cfg(test)]
pub static SPOILED: std::sync::atomic::AtomicUsize =
    std::sync::atomic::AtomicUsize::new(usize::MAX);

/// What all rings have in common.
pub struct Server<S> {
    /// Answers.
    pub service: Arc<S>,
    /// Knows who asks.
    pub processes: Arc<Processes>,
    /// What INIT was asked for.
    pub negotiate: Negotiate,
}

/// Rings and their threads, made before the mount: what can fail, fails then.
pub struct Rings(Vec<Prepared>);

struct Prepared {
    go: mpsc::Sender<(OwnedFd, mpsc::Sender<io::Result<()>>)>,
    thread: JoinHandle<()>,
}

/// Rings that serve, until the mount's end.
pub struct Serving(Vec<JoinHandle<()>>);

/// Why the kernel won't have it, if it can be told beforehand.
pub fn offered() -> io::Result<()> {
    let switch = "/sys/module/fuse/parameters/enable_uring";
    match std::fs::read_to_string(switch) {
        Ok(text) if text.trim() == "Y" => Ok(()),
        Ok(_) => Err(io::Error::other(format!(
            "the kernel has it switched off (root: echo 1 > {switch})"
        ))),
        Err(_) => Err(io::Error::other("this kernel has none (Linux 6.14 has)")),
    }
}

impl Rings {
    /// A ring with its thread for each processor that the kernel may ever have.
    pub fn prepare<S: Service>(server: Server<S>) -> io::Result<Rings> {
        offered()?;
        let server = Arc::new(server);
        let readers = Arc::new(Readers::start(|| Fatal)?);
        let (tell, told) = mpsc::channel();
        let mut rings = Vec::new();
        for cpu in 0..processor::possible()? {
            let (go, order) = mpsc::channel::<(OwnedFd, mpsc::Sender<io::Result<()>>)>();
            let (server, readers, tell) = (server.clone(), readers.clone(), tell.clone());
            let work = move || {
                processor::pin(cpu);
                processor::go_before();
                let made = Queue::new(cpu, server, readers);
                let (mut queue, said) = match made {
                    Ok(queue) => (queue, Ok(())),
                    Err(error) => return drop(tell.send(Err(error))),
                };
                let _ = tell.send(said);
                drop(tell);
                let Ok((device, registered)) = order.recv() else {
                    return;
                };
                let _panicking = Fatal;
                let _ = registered.send(queue.register(&device));
                drop((registered, device));
                queue.run();
            };
            let thread = thread::Builder::new()
                .name(format!("ring-{cpu}"))
                .spawn(work)?;
            rings.push(Prepared { go, thread });
        }
        drop(tell);
        hear(&told, rings.len())?;
        Ok(Rings(rings))
    }

    /// Takes over the requests of a mount whose INIT has agreed to it. After an
    /// error the kernel uses `device` itself.
    pub fn start(self, device: BorrowedFd<'_>) -> io::Result<Serving> {
        let (tell, told) = mpsc::channel();
        let mut threads = Vec::new();
        for ring in self.0 {
            match device.try_clone_to_owned() {
                Ok(device) => drop(ring.go.send((device, tell.clone()))),
                Err(error) => drop(tell.send(Err(error))),
            }
            threads.push(ring.thread);
        }
        drop(tell);
        hear(&told, threads.len()).inspect_err(|_| refuse(device))?;
        // (After an error they end with the mount.)
        Ok(Serving(threads))
    }
}

impl Serving {
    /// Waits for the rings' end, which comes with the mount's.
    pub fn join(self) {
        for thread in self.0 {
            let _ = thread.join();
        }
    }

    /// How many rings.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Whether so many threads say that it went well. One that says nothing has
/// ended, and a ring that is missing would leave every program waiting.
fn hear(told: &mpsc::Receiver<io::Result<()>>, count: usize) -> io::Result<()> {
    match told.iter().collect::<io::Result<Vec<()>>>()?.len() == count {
        true => Ok(()),
        false => Err(io::Error::other("a ring's thread has ended")),
    }
}

/// A ring that serves no more would leave programs waiting for ever; without
/// the process they get an error, and the next mount recovers.
fn give_up(why: &dyn fmt::Display) -> ! {
    log::error!("a thread that serves requests: {why}");
    std::process::abort();
}

/// Gives up when its thread panics.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if thread::panicking() {
            give_up(&"it has panicked");
        }
    }
}

/// Makes the kernel give up waiting for rings: it does on the first one that
/// it can't take.
fn refuse(device: BorrowedFd<'_>) {
    let refused = IoUring::<Entry128>::builder()
        .build(1)
        .and_then(|mut ring| {
            let fd = types::Fd(device.as_raw_fd());
            let entry = opcode::UringCmd80::new(fd, REGISTER).cmd(command(0, NO_QUEUE));
            push(&mut ring, &entry.build())?;
            ring.submit()
        });
    if let Err(error) = refused {
        log::warn!("can't give back the transport over io_uring: {error}");
    }
}

/// An answer on its way to a ring's thread.
enum Coming {
    /// To be encoded.
    Answer(Answer),
    /// So much of the payload, or why nothing.
    Filled(Result<usize, i32>),
}

/// Answers on their way to a ring's thread.
struct Outbox {
    /// Each for a slot, with its payload if that was lent.
    answers: Mutex<Vec<(usize, Option<MmapMut>, Coming)>>,
    /// The thread waits, or is about to, and has to be woken.
    asleep: AtomicBool,
    bell: EventFd,
}

impl Outbox {
    fn put(&self, slot: usize, lent: Option<MmapMut>, coming: Coming) {
        self.answers.lock().push((slot, lent, coming));
        if self.asleep.swap(false, Ordering::SeqCst) {
            let _ = self.bell.write(1);
        }
    }
}

/// A processor's ring, its slots, and what they wait for.
struct Queue<S> {
    /// Before the memory that the kernel writes to: it goes first.
    ring: IoUring<Entry128>,
    /// The slots' headers.
    heads: MmapMut,
    /// Their payloads; `None` while another thread fills it.
    payloads: Vec<Option<MmapMut>>,
    /// Header and payload of each slot, as the kernel is told of them.
    places: Vec<[libc::iovec; 2]>,
    number: u16,
    waiting: Vec<Option<(Header, Form)>>,
    outbox: Arc<Outbox>,
    /// Reused.
    answers: Vec<(usize, Option<MmapMut>, Coming)>,
    /// Slots that will still come back from the kernel or be given to it.
    live: usize,
    server: Arc<Server<S>>,
    readers: Arc<Readers>,
}

impl<S: Service> Queue<S> {
    fn new(cpu: usize, server: Arc<Server<S>>, readers: Arc<Readers>) -> io::Result<Self> {
        let number = u16::try_from(cpu).map_err(|_| io::Error::other("too many processors"))?;
        let ring = IoUring::builder()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(2 * DEPTH as u32)?;
        let payload = server.negotiate.longest_payload();
        let mut heads = MmapMut::map_anon(DEPTH * HEADER)?;
        let mut payloads = (0..DEPTH)
            .map(|_| MmapMut::map_anon(payload))
            .collect::<io::Result<Vec<_>>>()?;
        let place = |(head, payload): (&mut [u8], &mut MmapMut)| {
            [head, payload].map(|part| libc::iovec {
                iov_base: part.as_mut_ptr().cast(),
                iov_len: part.len(),
            })
        };
        let slots = heads.chunks_exact_mut(HEADER).zip(&mut payloads);
        let places = slots.map(place).collect();
        let bell =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let outbox = Arc::new(Outbox {
            answers: Mutex::default(),
            asleep: AtomicBool::new(false),
            bell,
        });
        Ok(Queue {
            ring,
            heads,
            payloads: payloads.into_iter().map(Some).collect(),
            places,
            number,
            waiting: vec![None; DEPTH],
            outbox,
            answers: Vec::new(),
            live: 0,
            server,
            readers,
        })
    }

    /// Gives all slots to the kernel.
    fn register(&mut self, device: &OwnedFd) -> io::Result<()> {
        self.ring
            .submitter()
            .register_files(&[device.as_raw_fd()])?;
        self.listen()?;
        #[cfg(test)]
        if SPOILED.load(Ordering::SeqCst) == usize::from(self.number) {
            return Err(io::Error::other("spoiled"));
        }
        for slot in 0..DEPTH {
            let places = self.places[slot].as_ptr() as u64;
            let entry = opcode::UringCmd80::new(types::Fixed(0), REGISTER)
                .cmd(command(0, self.number))
                .addr(Some(places))
                .build()
                .user_data(slot as u64);
            push(&mut self.ring, &with_len(entry, 2))?;
            self.live += 1;
        }
        self.ring.submit()?;
        // What the kernel refuses, it refuses at once.
        let mut refused = None;
        for done in self.ring.completion() {
            if done.user_data() != BELL && done.result() < 0 {
                self.live -= 1;
                refused = Some(io::Error::from_raw_os_error(-done.result()));
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Has the bell tell whenever it is rung.
    fn listen(&mut self) -> io::Result<()> {
        let bell = types::Fd(self.outbox.bell.as_fd().as_raw_fd());
        let poll = opcode::PollAdd::new(bell, libc::POLLIN as u32).multi(true);
        push(&mut self.ring, &poll.build().user_data(BELL).into())
    }

    /// Serves until the kernel has taken back every slot.
    fn run(&mut self) {
        let mut done = Vec::with_capacity(2 * DEPTH);
        while self.live > 0 {
            self.wait().unwrap_or_else(|error| give_up(&error));
            done.extend(self.ring.completion());
            for done in done.drain(..) {
                self.complete(&done);
                self.deliver();
            }
            self.deliver();
        }
    }

    /// Submits what there is and waits for a completion, unless an answer is
    /// there already.
    fn wait(&mut self) -> io::Result<()> {
        self.outbox.asleep.store(true, Ordering::SeqCst);
        let idle = self.outbox.answers.lock().is_empty();
        let waited = self.ring.submit_and_wait(usize::from(idle));
        self.outbox.asleep.store(false, Ordering::SeqCst);
        let again = |error: &io::Error| {
            let number = error.raw_os_error();
            matches!(number, Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
        };
        match waited {
            Err(error) if !again(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn complete(&mut self, done: &cqueue::Entry) {
        if done.user_data() == BELL {
            let _ = self.outbox.bell.read();
            if !cqueue::more(done.flags()) {
                self.listen().unwrap_or_else(|error| give_up(&error));
            }
            return;
        }
        match done.result() {
            0 => self.serve(done.user_data() as usize),
            _ => self.live -= 1, // the mount has ended
        }
    }

    fn serve(&mut self, slot: usize) {
        let (server, outbox) = (self.server.clone(), self.outbox.clone());
        let readers = self.readers.clone();
        let (head, payload) = self.parts(slot);
        let header = Header::read(head);
        let mut args = [0; ARGS_END - ARGS];
        args.copy_from_slice(&head[ARGS..ARGS_END]);
        let len = u32::from_ne_bytes(*head[PAYLOAD..].first_chunk().unwrap_or(&[0; 4]));
        let len = payload.len().min(len as usize);
        let by = Caller {
            uid: header.uid,
            gid: header.gid,
            pid: header.pid,
            groups: Groups::ask(server.processes.clone()),
        };
        match header.decode(&args, &payload[..len]) {
            Asked::Refused(errno) => self.commit(slot, &header, Err(errno)),
            Asked::List {
                inode,
                from,
                size,
                plus,
            } => {
                let room = payload.len().min(size);
                let list = move |patience, into: &mut [u8]| {
                    let mut listing = Listing::new(into, plus);
                    let mut add = |entry: Entry<'_>| listing.add(&entry);
                    let service = &server.service;
                    let listed = service.list(&by, inode, from, plus, patience, &mut add);
                    listed
                        .map(|done| done.then(|| listing.len()))
                        .map_err(|error| number_of(&error))
                };
                match list(Patience::AtOnce, &mut payload[..room]).transpose() {
                    Some(answer) => self.commit(slot, &header, answer),
                    None => {
                        let mut payload = self.lend(slot, header, Form::Data);
                        readers.have(Box::new(move || {
                            let listed = list(Patience::Waits, &mut payload[..room]);
                            let listed = listed.map(Option::unwrap_or_default);
                            outbox.put(slot, Some(payload), Coming::Filled(listed));
                        }));
                    }
                }
            }
            Asked::Request(
                Request::Read {
                    inode,
                    offset,
                    size,
                    crooked: false,
                },
                form,
            ) => {
                let room = payload.len().min(size as usize);
                let service = server.service.clone();
                let read = move |patience, into: &mut [u8]| {
                    let read = service.read(inode, offset, patience, into).transpose()?;
                    Some(read.map_err(|error| number_of(&error)))
                };
                match read(Patience::AtOnce, &mut payload[..room]) {
                    Some(answer) => self.commit(slot, &header, answer),
                    None => {
                        let mut payload = self.lend(slot, header, form);
                        let request = Request::Read {
                            inode,
                            offset,
                            size: room as u32,
                            crooked: false,
                        };
                        readers.have(Box::new(move || {
                            match read(Patience::Waits, &mut payload[..room]) {
                                Some(read) => {
                                    outbox.put(slot, Some(payload), Coming::Filled(read));
                                }
                                None => {
                                    let answer = move |answer| {
                                        outbox.put(slot, Some(payload), Coming::Answer(answer));
                                    };
                                    server.service.serve(by, request, answer, None);
                                }
                            }
                        }));
                    }
                }
            }
            Asked::Request(request, form) => {
                let answer = move |answer| outbox.put(slot, None, Coming::Answer(answer));
                let elsewhere = |work| readers.have(work);
                server.service.serve(by, request, answer, Some(&elsewhere));
                self.waiting[slot] = Some((header, form));
            }
        }
    }

    /// Encodes all answers that have come.
    fn deliver(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        std::mem::swap(&mut *self.outbox.answers.lock(), &mut answers);
        for (slot, lent, coming) in answers.drain(..) {
            if lent.is_some() {
                self.payloads[slot] = lent;
            }
            if let Some((header, form)) = self.waiting[slot].take() {
                let answer = match coming {
                    Coming::Answer(answer) => form.encode(&answer, self.parts(slot).1),
                    Coming::Filled(answer) => answer,
                };
                self.commit(slot, &header, answer);
            }
        }
        self.answers = answers;
    }

    /// Lets another thread fill a slot's payload; its answer is waited for, and
    /// brings that back.
    fn lend(&mut self, slot: usize, header: Header, form: Form) -> MmapMut {
        self.waiting[slot] = Some((header, form));
        let payload = self.payloads[slot].take();
        payload.unwrap_or_else(|| give_up(&"a slot's payload is lent already"))
    }

    /// Gives a slot back to the kernel, answered.
    fn commit(&mut self, slot: usize, header: &Header, answer: Result<usize, i32>) {
        let (errno, len) = match answer {
            Ok(len) => (0, len),
            Err(errno) => (errno, 0),
        };
        let (head, _) = self.parts(slot);
        let id = u64::from_ne_bytes(*head[COMMIT..].first_chunk().unwrap_or(&[0; 8]));
        header.answer(errno, len, &mut head[..16]);
        head[PAYLOAD..PAYLOAD + 4].copy_from_slice(&(len as u32).to_ne_bytes());
        let entry = opcode::UringCmd80::new(types::Fixed(0), COMMIT_AND_FETCH)
            .cmd(command(id, self.number))
            .build()
            .user_data(slot as u64);
        // There is room: a slot has one entry at most, and so has the bell.
        push(&mut self.ring, &entry).unwrap_or_else(|error| give_up(&error));
    }

    /// A slot's header and payload, which is empty while it is lent.
    fn parts(&mut self, slot: usize) -> (&mut [u8], &mut [u8]) {
        let head = &mut self.heads[slot * HEADER..(slot + 1) * HEADER];
        (head, self.payloads[slot].as_deref_mut().unwrap_or_default())
    }
}

/// `struct fuse_uring_cmd_req`
fn command(commit: u64, queue: u16) -> [u8; 80] {
    let mut command = [0; 80];
    command[8..16].copy_from_slice(&commit.to_ne_bytes());
    command[16..18].copy_from_slice(&queue.to_ne_bytes());
    command
}

/// The number of places that a REGISTER brings.
#[allow(unsafe_code)]
fn with_len(mut entry: Entry128, len: u32) -> Entry128 {
    // `len` of `struct io_uring_sqe`; the crate has no setter for it.
    const LEN: usize = 24;
    // SAFETY: an entry is 128 plain bytes of that struct, 8-byte aligned.
    unsafe {
        (&raw mut entry)
            .cast::<u8>()
            .add(LEN)
            .cast::<u32>()
            .write(len);
    }
    entry
}

#[allow(unsafe_code)]
fn push(ring: &mut IoUring<Entry128>, entry: &Entry128) -> io::Result<()> {
    // SAFETY: an entry names a slot's memory, the list of a slot's places or
    // the bell, all of which their queue keeps until after its ring has gone (a
    // payload that is lent comes back before its slot is the kernel's again);
    // a slot's memory is left alone while the kernel has it.
    unsafe { ring.submission().push(entry) }.map_err(|_| io::Error::other("the ring is full"))
}

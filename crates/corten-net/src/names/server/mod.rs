//! The process that serves: one for an engine, one thread, one loop over what is ready.
//!
//! It is a function of the folder. A container's file is looked at when somebody says `sync ID`
//! (and all of them at the start); when its process ends, its sockets are closed, so that nothing
//! here keeps a network namespace alive. With the last container the process ends.

pub(super) mod control;
mod forward;
mod sandbox;
mod stream;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corten_spec::chain;
use corten_sys::spawn::{self, Program};
use rustix::event::epoll;
use rustix::fs::{FlockOperation, flock};

use super::packet::{Code, MAX_QUERY, Query, Refusal, answer, refuse};
use super::registration::{Document, Folder};
use super::zone::Zone;
use control::Control;
use forward::Forwarder;
use sandbox::Sandbox;
use stream::Streams;

/// Where the process writes what it could not do; begun anew with each process.
pub const LOG: &str = "log";
const LOCK: &str = "lock";
const LOG_MAX: usize = 256 << 10;
/// Given as a second argument to the process that stays.
const SERVE: &str = "--serve";
/// Datagrams of one container in a row, before the others get their turn.
const TURN: usize = 32;
/// How often deadlines are looked at while anything is outstanding.
const TICK: Duration = Duration::from_millis(100);
/// How long a process that starts waits for one that ends.
const HANDOVER: Duration = Duration::from_millis(200);
/// How long a process waits for whoever started it.
const LINGER: Duration = Duration::from_secs(2);

/// The command line `NAME FOLDER`: starts the process that serves the folder, unless one does, and
/// returns. Nothing is printed; what goes wrong is in the folder's log.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    match &args[..] {
        [name, folder] => match detach(name, folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        [name, folder, serve] if serve == SERVE => {
            // Else it would be called as the path that it was started by: `exe`.
            let name = std::path::Path::new(name).file_name().unwrap_or_default();
            if let Ok(name) = std::ffi::CString::new(name.as_encoded_bytes()) {
                // Only for people's eyes.
                let _ = rustix::thread::set_name(&name);
            }
            serve_folder(folder.into())
        }
        _ => ExitCode::from(2),
    }
}

/// Starts the process that stays, and waits until it serves or has ended.
fn detach(name: &OsString, folder: &OsString) -> Result<(), rustix::io::Errno> {
    // Whatever the engine was started with stays there.
    corten_sys::process::cloexec_from(3)?;
    let (ready, served) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    spawn::spawn(&Program {
        path: std::path::Path::new("/proc/self/exe"),
        arguments: &[name, folder, SERVE.as_ref()],
        environment: &[],
        stdio: [None, None, None],
        descriptors: &[served.as_fd()],
        session: true,
    })?;
    drop(served);
    rustix::io::retry_on_intr(|| rustix::io::read(&ready, &mut [0])).map(drop)
}

fn serve_folder(path: PathBuf) -> ExitCode {
    // Closed when this process serves, or ends.
    let Ok(served) = spawn::inherited(1) else {
        return ExitCode::FAILURE;
    };
    let Ok(path) = std::path::absolute(path) else {
        return ExitCode::FAILURE;
    };
    let folder = Folder { path };
    // Where the engine was called from may be unmounted while this process lives.
    if std::env::set_current_dir("/").is_err() {
        return ExitCode::FAILURE;
    }
    let Some(_lock) = take_over(&folder) else {
        return ExitCode::SUCCESS;
    };
    let log = Log::open(&folder);
    let server = Server::new(folder, log);
    drop(served);
    match server.map(|mut server| server.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

/// Becomes the one process that serves; `None` if another is.
fn take_over(folder: &Folder) -> Option<File> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false);
    let file = options.open(folder.file(LOCK)).ok()?;
    let until = Instant::now() + HANDOVER;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(file),
            Err(_) if Instant::now() > until => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A bounded file of lines.
#[derive(Debug)]
struct Log {
    file: Option<File>,
    room: usize,
}

impl Log {
    fn open(folder: &Folder) -> Self {
        Self {
            file: File::create(folder.file(LOG)).ok(),
            room: LOG_MAX,
        }
    }

    fn line(&mut self, text: &str) {
        let line = format!("{text}\n");
        if let Some(file) = &mut self.file
            && let Some(room) = self.room.checked_sub(line.len())
        {
            self.room = room;
            // There is nowhere to say that the log cannot be written.
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// What an event is about: the kind in the upper byte, a number in the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Listener,
    Client(u64),
    Datagrams(u64),
    Connections(u64),
    Life(u64),
    Stream(u64),
    Upstream(u64),
}

const KIND_SHIFT: u32 = 56;

impl Source {
    fn data(self) -> epoll::EventData {
        let (kind, number) = match self {
            Source::Listener => (0, 0),
            Source::Client(n) => (1, n),
            Source::Datagrams(n) => (2, n),
            Source::Connections(n) => (3, n),
            Source::Life(n) => (4, n),
            Source::Stream(n) => (5, n),
            Source::Upstream(n) => (6, n),
        };
        epoll::EventData::new_u64(kind << KIND_SHIFT | number)
    }

    fn of(data: epoll::EventData) -> Self {
        let number = data.u64() & ((1 << KIND_SHIFT) - 1);
        match data.u64() >> KIND_SHIFT {
            0 => Source::Listener,
            1 => Source::Client(number),
            2 => Source::Datagrams(number),
            3 => Source::Connections(number),
            4 => Source::Life(number),
            5 => Source::Stream(number),
            _ => Source::Upstream(number),
        }
    }
}

/// The set of descriptors that the loop waits for.
#[derive(Debug)]
struct Poll {
    fd: OwnedFd,
}

impl Poll {
    fn add(&self, fd: impl AsFd, source: Source, flags: epoll::EventFlags) -> std::io::Result<()> {
        Ok(epoll::add(&self.fd, fd, source.data(), flags)?)
    }

    fn change(&self, fd: impl AsFd, source: Source, flags: epoll::EventFlags) {
        // Fails only for a descriptor that was never added.
        let _ = epoll::modify(&self.fd, fd, source.data(), flags);
    }
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
enum Client {
    Datagram(SocketAddr),
    Stream(u64),
}

/// What becomes of a message.
enum Outcome {
    /// The answer is in the buffer.
    Answered,
    Nothing,
    /// Somebody else is to be asked.
    Forward,
}

struct Server {
    folder: Folder,
    log: Log,
    poll: Poll,
    control: Control,
    zone: Zone,
    sandboxes: HashMap<u64, Sandbox>,
    streams: Streams,
    forwarder: Forwarder,
    /// The number of the next sandbox.
    next: u64,
    /// Until when, without a container, the first client is waited for: it is to hear why its
    /// container cannot be served.
    linger: Option<Instant>,
    /// Threads that take tables out of namespaces, with whose those were.
    clearing: Vec<(Document, JoinHandle<()>)>,
    /// Counts answers, so that several addresses of a name take turns.
    turn: usize,
    input: Box<[u8]>,
    output: Vec<u8>,
}

impl Server {
    fn new(folder: Folder, mut log: Log) -> Result<Self, ()> {
        raise_descriptors();
        let made = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(|fd| {
                let poll = Poll { fd };
                Control::open(&folder, &poll).map(|control| (poll, control))
            });
        let (poll, control) = made.map_err(|e| log.line(&format!("cannot serve: {e}")))?;
        Ok(Self {
            folder,
            log,
            poll,
            control,
            zone: Zone::default(),
            sandboxes: HashMap::new(),
            streams: Streams::default(),
            forwarder: Forwarder::default(),
            next: 0,
            linger: Some(Instant::now() + LINGER),
            clearing: Vec::new(),
            turn: 0,
            // One more than is read, to know a longer one.
            input: vec![0; MAX_QUERY + 1].into(),
            output: Vec::with_capacity(MAX_QUERY),
        })
    }

    /// Until no container is left.
    fn run(&mut self) {
        self.load();
        let mut events = Vec::with_capacity(64);
        loop {
            let lingers = self.linger.is_some_and(|until| Instant::now() < until);
            if self.sandboxes.is_empty() && !lingers && self.has_ended() {
                return;
            }
            let waits = lingers || !self.forwarder.is_empty() || !self.streams.is_empty();
            let tick = waits.then(|| rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: TICK.as_nanos() as _,
            });
            events.clear();
            match epoll::wait(
                &self.poll.fd,
                rustix::buffer::spare_capacity(&mut events),
                tick.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return self.log.line(&format!("cannot wait: {e}")),
            }
            for event in &events {
                self.work(Source::of(event.data), event.flags);
            }
            if waits {
                self.expire();
            }
        }
    }

    fn work(&mut self, source: Source, flags: epoll::EventFlags) {
        match source {
            Source::Listener => self.control.accept(&self.poll),
            Source::Client(n) => self.command(n),
            Source::Datagrams(n) => self.datagrams(n),
            Source::Connections(n) => self.connections(n),
            Source::Life(n) => self.died(n),
            Source::Stream(n) => self.stream(n, flags),
            Source::Upstream(n) => self.upstream(n),
        }
    }

    /// Serves whoever is registered.
    fn load(&mut self) {
        if let Err(e) = self.folder.clean() {
            self.log.line(&chain(&e));
        }
        let all = match self.folder.list() {
            Ok(all) => all,
            Err(e) => return self.log.line(&chain(&e)),
        };
        for (path, found) in all {
            let problem = match found {
                Ok(document) if !document.is_alive() => continue,
                Ok(document) => self.admit(document).err(),
                Err(reason) => Some(reason),
            };
            if let Some(problem) = problem {
                self.log.line(&format!("{}: {problem}", path.display()));
            }
        }
    }

    /// Whether this process is to end. Whoever registers writes the file first and then connects:
    /// so either the file is seen here, or the connection is refused and another process started.
    fn has_ended(&mut self) -> bool {
        self.control.close(&self.folder);
        self.load();
        if self.sandboxes.is_empty() {
            self.wait_for_clearing(|_| true);
            return true;
        }
        match Control::open(&self.folder, &self.poll) {
            Ok(control) => {
                self.control = control;
                false
            }
            Err(e) => {
                self.log.line(&format!("cannot serve: {e}"));
                true
            }
        }
    }

    /// What a command line of a client says, until it says no more.
    fn command(&mut self, number: u64) {
        while let Some(id) = self.control.read(number) {
            self.linger = None;
            let answer = self.sync(&id).err();
            if let Some(reason) = &answer {
                self.log.line(&format!("container {id}: {reason}"));
            }
            self.control.answer(number, answer.as_deref());
        }
    }

    /// Brings one container in line with its file.
    fn sync(&mut self, id: &str) -> Result<(), String> {
        let known = self.number_of(id);
        let Some(document) = self.folder.read(id)? else {
            if let Some(number) = known {
                self.withdraw(number);
            }
            return Ok(());
        };
        if !document.is_alive() {
            return Err("its process has ended".into());
        }
        match known.and_then(|n| self.sandboxes.get_mut(&n)) {
            Some(sandbox) if sandbox.document.same_place(&document) => {
                self.zone.remove(&sandbox.document.registration);
                self.zone.insert(&document.registration);
                sandbox.update(document);
                Ok(())
            }
            _ => {
                known.into_iter().for_each(|n| drop(self.forget(n)));
                self.admit(document)
            }
        }
    }

    fn number_of(&self, id: &str) -> Option<u64> {
        let mut all = self.sandboxes.iter();
        all.find(|(_, s)| s.document.registration.container.as_str() == id)
            .map(|(n, _)| *n)
    }

    fn admit(&mut self, document: Document) -> Result<(), String> {
        let container = document.registration.container.as_str();
        if self.number_of(container).is_some() {
            return Ok(());
        }
        // A table that is being taken out must not be the new one.
        self.wait_for_clearing(|old| old.same_namespace(&document));
        let number = self.next;
        let sandbox = Sandbox::open(document, number, &self.poll).map_err(|e| chain(&e))?;
        self.next += 1;
        self.zone.insert(&sandbox.document.registration);
        self.sandboxes.insert(number, sandbox);
        Ok(())
    }

    /// Lets a container go: its sockets, and all that is outstanding for it.
    fn forget(&mut self, number: u64) -> Option<Sandbox> {
        let sandbox = self.sandboxes.remove(&number)?;
        self.zone.remove(&sandbox.document.registration);
        self.streams.forget(number);
        self.forwarder.forget(number);
        Some(sandbox)
    }

    fn withdraw(&mut self, number: u64) {
        let clearing = self.forget(number).and_then(Sandbox::clear);
        self.clearing.retain(|(_, thread)| !thread.is_finished());
        self.clearing.extend(clearing);
    }

    fn wait_for_clearing(&mut self, which: impl Fn(&Document) -> bool) {
        for (_, thread) in self.clearing.extract_if(.., |(old, _)| which(old)) {
            // One that panicked has left a table that does no harm.
            let _ = thread.join();
        }
    }

    fn died(&mut self, number: u64) {
        self.forget(number);
        // Its file is of no use to anybody; the engine's own withdrawal will not miss it.
        if let Err(e) = self.folder.clean() {
            self.log.line(&chain(&e));
        }
    }

    fn datagrams(&mut self, number: u64) {
        let mut input = std::mem::take(&mut self.input);
        let mut output = std::mem::take(&mut self.output);
        for _ in 0..TURN {
            let Some(sandbox) = self.sandboxes.get(&number) else {
                break;
            };
            // Nothing (more) there, or an error of an earlier answer (ICMP), which is nobody's loss.
            let Ok((length, from)) = sandbox.udp.recv_from(&mut input) else {
                break;
            };
            output.clear();
            let client = Client::Datagram(from);
            self.query(number, client, &input[..length], &mut output);
            if let Some(sandbox) = self.sandboxes.get(&number)
                && !output.is_empty()
            {
                // A client that does not listen any more asks again.
                let _ = sandbox.udp.send_to(&output, from);
            }
        }
        self.input = input;
        self.output = output;
    }

    /// Works on a message of a container; the answer, if there is one already, goes to `out`.
    fn query(&mut self, number: u64, client: Client, bytes: &[u8], out: &mut Vec<u8>) {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Refusal::Silence) => return,
            Err(Refusal::Code(code)) => return refuse(bytes, code, out),
        };
        let limit = match client {
            Client::Datagram(_) => query.udp_limit(),
            Client::Stream(_) => usize::from(u16::MAX),
        };
        match self.local(number, &query, limit, out) {
            Outcome::Answered | Outcome::Nothing => {}
            Outcome::Forward => {
                if !self.forward(number, client, &query, limit) {
                    answer(&query, Code::ServFail, std::iter::empty(), limit, out);
                }
            }
        }
    }

    fn local(
        &mut self,
        number: u64,
        query: &Query<'_>,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return Outcome::Nothing;
        };
        if !query.is_internet() {
            answer(query, Code::Refused, std::iter::empty(), limit, out);
            return Outcome::Answered;
        }
        self.turn = self.turn.wrapping_add(1);
        let registration = &sandbox.document.registration;
        let known = self
            .zone
            .answer(&registration.networks, query, self.turn, |records| {
                answer(query, Code::NoError, records, limit, out);
            });
        if known {
            return Outcome::Answered;
        }
        if registration.may_forward() {
            return Outcome::Forward;
        }
        answer(query, Code::NxDomain, std::iter::empty(), limit, out);
        Outcome::Answered
    }

    /// Sends an answer that came later.
    fn deliver(&mut self, number: u64, client: Client, bytes: &[u8]) {
        match client {
            Client::Datagram(to) => {
                if let Some(sandbox) = self.sandboxes.get(&number) {
                    let _ = sandbox.udp.send_to(bytes, to);
                }
            }
            Client::Stream(stream) => self.streams.deliver(stream, bytes, &self.poll),
        }
    }
}

/// Every container needs three descriptors, and every question that is out one.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // If it may not, it serves fewer; the ones over the limit are refused by name.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// The value of a small file of the kernel, as a number.
fn number_in(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

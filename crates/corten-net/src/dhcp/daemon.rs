//! `dhcp daemon`: holds the leases of containers. A thread for each question of a plugin, one that
//! sees to what is due, and threads for what is.
//!
//! Killed at any point, it leaves a file for each lease that a server may have given; the next one
//! goes on with those whose namespace is still there.

mod flags;
mod start;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use corten_spec::chain;

use super::exchange::{self, Client, Manner, Renewed};
use super::lease::{Due, Folder, Lease, Record, below, key, now};
use super::protocol::{self, Answer, Ask, Verb};
use crate::Error;
use crate::error::file_error;
use crate::link::netns;
use flags::Flags;
pub use start::ensure;
pub(crate) use start::forget;

/// Questions that are worked on at the same time.
const MAX_QUESTIONS: usize = 256;
/// Leases that are seen to at the same time; the others a moment later.
const MAX_WORK: usize = 32;
/// How often the namespaces of leases are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// How long a client may take to say what it wants.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// In place of the suffix of the socket's name: the folder of the leases.
const LEASES: &str = "leases";

/// The command line after `dhcp daemon`. Returns when it cannot serve.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let served = Flags::parse(args.iter().cloned()).and_then(|flags| {
        if flags.detach {
            return start::detach(&args, &below(&flags.prefix, &flags.socket));
        }
        let flags = start::settle(flags).map_err(|e| format!("cannot leave the folder: {e}"))?;
        Daemon::open(flags)
            .map_err(|e| chain(&e))
            .and_then(|(daemon, listener)| daemon.serve(&listener))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&reason);
            ExitCode::FAILURE
        }
    }
}

/// What the daemon has to tell goes where it was started: a terminal or a journal.
fn say(text: &str) {
    // If that has gone, there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "dhcp: {text}");
}

/// What is known of a lease beside its file.
#[derive(Debug)]
struct Held {
    record: Record,
    /// When it is looked at next, in seconds as its record's.
    next: u64,
    /// A thread is at it.
    busy: bool,
}

#[derive(Debug)]
struct State {
    /// When something was last asked, or a lease was last there.
    used: Instant,
    leases: HashMap<String, Held>,
    /// Those that a plugin is being answered about.
    asked: HashSet<String>,
    questions: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            used: Instant::now(),
            leases: HashMap::new(),
            asked: HashSet::new(),
            questions: 0,
        }
    }
}

#[derive(Debug)]
struct Daemon {
    socket: PathBuf,
    idle: Option<Duration>,
    prefix: PathBuf,
    manner: Manner,
    folder: Folder,
    state: Mutex<State>,
    changed: Condvar,
    _lock: File,
}

impl Daemon {
    fn open(flags: Flags) -> Result<(Arc<Self>, UnixListener), Error> {
        let socket = below(&flags.prefix, &flags.socket);
        let folder = Folder {
            path: socket.with_extension(LEASES),
        };
        fs::create_dir_all(&folder.path).map_err(file_error("make", &folder.path))?;
        let owned = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&folder.path, owned).map_err(file_error("protect", &folder.path))?;
        let lock = start::lock(&folder.path, &socket)?;
        let listener = start::listen(&socket)?;
        if let Some(path) = &flags.pidfile {
            fs::write(path, std::process::id().to_string()).map_err(file_error("write", path))?;
        }
        let daemon = Self {
            socket,
            idle: flags.idle,
            prefix: flags.prefix,
            manner: Manner {
                timeout: flags.timeout,
                resend_max: flags.resend_max,
                broadcast: flags.broadcast,
            },
            folder,
            state: Mutex::default(),
            changed: Condvar::new(),
            _lock: lock,
        };
        daemon.load();
        Ok((Arc::new(daemon), listener))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has changed nothing halfway: each change is one insertion.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier daemon had.
    fn load(&self) {
        let (records, broken) = self.folder.list();
        for (path, reason) in broken {
            say(&format!("{}: {reason}", path.display()));
        }
        let mut state = self.state();
        for record in records {
            let held = Held {
                next: now(),
                busy: false,
                record,
            };
            state.leases.insert(held.record.key(), held);
        }
    }

    fn serve(self: &Arc<Self>, listener: &UnixListener) -> Result<(), String> {
        let daemon = Arc::clone(self);
        std::thread::Builder::new()
            .name("leases".into())
            .spawn(move || daemon.keep())
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(e) => {
                    say(&format!("cannot accept: {e}"));
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let daemon = Arc::clone(self);
            if daemon.state().questions >= MAX_QUESTIONS {
                continue;
            }
            daemon.state().questions += 1;
            let worker = Arc::clone(&daemon);
            let started = std::thread::Builder::new().spawn(move || {
                worker.question(&stream);
                let mut state = worker.state();
                state.questions -= 1;
                state.used = Instant::now();
            });
            if started.is_err() {
                daemon.state().questions -= 1;
            }
        }
        Ok(())
    }

    fn question(&self, stream: &UnixStream) {
        let asked = stream
            .set_read_timeout(Some(CLIENT_PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(CLIENT_PATIENCE)))
            .and_then(|()| protocol::read::<Ask>(stream));
        let answer = match asked {
            Ok(ask) => self
                .answer(&ask)
                .unwrap_or_else(|e| Answer::Error(chain(&e))),
            Err(e) => Answer::Error(format!("the question is none: {e}")),
        };
        // A plugin that was killed does not hear it; its DEL will release the lease.
        if let Err(e) = protocol::write(stream, &answer) {
            say(&format!("cannot answer: {e}"));
        }
    }

    fn answer(&self, ask: &Ask) -> Result<Answer, Error> {
        match ask.verb {
            Verb::Status => return Ok(Answer::Done(true)),
            Verb::Collect => return self.collect(ask).map(|()| Answer::Done(true)),
            Verb::Allocate | Verb::Release | Verb::Check => {}
        }
        let key = key(&ask.container, &ask.network, &ask.ifname);
        let _turn = Turn::take(self, &key);
        match ask.verb {
            Verb::Allocate => self.allocate(ask, &key).map(Answer::Lease),
            Verb::Release => self.release(&key).map(|()| Answer::Done(true)),
            Verb::Check | Verb::Collect | Verb::Status => match self.record(&key) {
                Some(record) if record.is_there(&self.prefix) => Ok(Answer::Lease(record.lease)),
                _ => Err(Error::Mismatch {
                    what: format!("the DHCP lease of {key}"),
                    found: "not held".into(),
                    wanted: "held".into(),
                }),
            },
        }
    }

    fn record(&self, key: &str) -> Option<Record> {
        self.state().leases.get(key).map(|h| h.record.clone())
    }

    fn allocate(&self, ask: &Ask, key: &str) -> Result<Lease, Error> {
        let known = self.record(key).filter(|r| r.is_there(&self.prefix));
        if let Some(record) = known.filter(|r| r.netns == ask.netns && r.due(now()) != Due::Expired)
        {
            return Ok(record.lease);
        }
        let path = below(&self.prefix, &ask.netns);
        let namespace = netns::open(&path)?;
        let metadata = namespace.metadata().map_err(file_error("look at", &path))?;
        let record = |lease| Record {
            container: ask.container.clone(),
            ifname: ask.ifname.clone(),
            network: ask.network.clone(),
            netns: ask.netns.clone(),
            namespace: (metadata.dev(), metadata.ino()),
            lease,
            since: now(),
            provide: ask.provide.clone(),
            request: ask.request.clone(),
        };
        let client = Client {
            ifname: &ask.ifname,
            id: key,
            provide: &ask.provide,
            request: &ask.request,
            manner: &self.manner,
        };
        let given = netns::inside(&namespace, &path, || {
            // From the request on a server may think that the address is ours.
            exchange::acquire(&client, |offer| self.folder.write(&record(offer.clone())))
        });
        let lease = match given {
            Ok(lease) => lease,
            Err(error) => {
                self.folder.remove(key)?;
                return Err(error);
            }
        };
        let record = record(lease.clone());
        self.folder.write(&record)?;
        self.hold(record);
        Ok(lease)
    }

    fn hold(&self, record: Record) {
        let next = match record.due(now()) {
            Due::Later(at) => at,
            Due::Never => u64::MAX,
            _ => now(),
        };
        let held = Held {
            next,
            busy: false,
            record,
        };
        self.state().leases.insert(held.record.key(), held);
        self.changed.notify_all();
    }

    fn collect(&self, ask: &Ask) -> Result<(), Error> {
        let is_valid = |r: &Record| {
            let mut all = ask.valid.iter();
            all.any(|(container, ifname)| (container, ifname) == (&r.container, &r.ifname))
        };
        let stale: Vec<String> = {
            let state = self.state();
            let all = state.leases.values().map(|h| &h.record);
            all.filter(|r| r.network == ask.network && !is_valid(r))
                .map(Record::key)
                .collect()
        };
        let failures = stale.iter().filter_map(|key| {
            let _turn = Turn::take(self, key);
            self.release(key).err()
        });
        Error::several(failures.collect())
    }

    fn release(&self, key: &str) -> Result<(), Error> {
        let held = self.state().leases.remove(key);
        if let Some(held) = held {
            let released = self.inside(&held.record, exchange::release);
            if let Some(Err(e)) = released {
                // It runs out by itself.
                say(&format!(
                    "cannot give back the lease of {key}: {}",
                    chain(&e)
                ));
            }
        }
        self.folder.remove(key)
    }

    /// Does something in a lease's namespace; `None` if that has gone.
    fn inside<T: Send>(
        &self,
        record: &Record,
        work: impl FnOnce(&Client<'_>, &Lease) -> Result<T, Error> + Send,
    ) -> Option<Result<T, Error>> {
        let path = below(&self.prefix, &record.netns);
        let namespace = netns::open(&path).ok()?;
        let same = namespace
            .metadata()
            .is_ok_and(|m| (m.dev(), m.ino()) == record.namespace);
        let key = record.key();
        let client = Client {
            ifname: &record.ifname,
            id: &key,
            provide: &record.provide,
            request: &record.request,
            manner: &self.manner,
        };
        same.then(|| netns::inside(&namespace, &path, || work(&client, &record.lease)))
    }

    /// Sees to what is due, for ever.
    fn keep(self: &Arc<Self>) {
        loop {
            for key in self.due() {
                let daemon = Arc::clone(self);
                let name = key.clone();
                let started = std::thread::Builder::new().spawn(move || daemon.attend(&key));
                if started.is_err() {
                    self.later(&name, now() + 1);
                }
            }
            let state = self.state();
            let state = self.end_if_idle(state);
            let next = state
                .leases
                .values()
                .filter(|h| !h.busy)
                .map(|h| h.next)
                .min();
            let wait = next.map_or(LOOK, |at| Duration::from_secs(at.saturating_sub(now())));
            // Half a second at least: the clock is read in seconds.
            let wait = wait.clamp(Duration::from_millis(500), LOOK);
            drop(self.changed.wait_timeout(state, wait));
        }
    }

    /// Ends the process if it was started to end. Who asks just now is refused, and starts another.
    fn end_if_idle<'s>(&self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        if !state.leases.is_empty() || state.questions > 0 {
            state.used = Instant::now();
        }
        if self.idle.is_some_and(|idle| state.used.elapsed() >= idle) {
            // A socket that stays is replaced by the next daemon.
            let _ = fs::remove_file(&self.socket);
            std::process::exit(0);
        }
        state
    }

    /// The leases to be seen to now, marked as such; those whose namespace has gone are dropped.
    fn due(&self) -> Vec<String> {
        let mut state = self.state();
        let State { leases, asked, .. } = &mut *state;
        let free = |key: &String, h: &Held| !h.busy && !asked.contains(key);
        let gone: Vec<String> = leases
            .iter()
            .filter(|(key, h)| free(key, h) && !h.record.is_there(&self.prefix))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            leases.remove(&key);
            if let Err(e) = self.folder.remove(&key) {
                say(&chain(&e));
            }
        }
        let working = leases.values().filter(|h| h.busy).count();
        let now = now();
        let mut all = Vec::new();
        for (key, held) in leases.iter_mut() {
            if free(key, held) && held.next <= now && working + all.len() < MAX_WORK {
                held.busy = true;
                all.push(key.clone());
            }
        }
        all
    }

    fn later(&self, key: &str, next: u64) {
        if let Some(held) = self.state().leases.get_mut(key) {
            held.busy = false;
            held.next = next;
        }
        self.changed.notify_all();
    }

    fn attend(&self, key: &str) {
        let Some(record) = self.record(key) else {
            return;
        };
        let (renewed, again) = match record.due(now()) {
            Due::Never => return self.later(key, u64::MAX),
            Due::Later(at) => return self.later(key, at),
            Due::Expired => return self.lose(&record, "has run out"),
            Due::Renew { again } => (self.inside(&record, exchange::renew), again),
            Due::Rebind { again } => (self.inside(&record, exchange::rebind), again),
        };
        match renewed {
            // Dropped at the next look.
            None => self.later(key, 0),
            Some(Ok(Renewed::Lease(lease))) => self.prolong(record, lease),
            Some(Ok(Renewed::Refused)) => self.lose(&record, "was taken back by its server"),
            Some(Ok(Renewed::Silence)) => self.later(key, again),
            Some(Err(e)) => {
                say(&format!("cannot renew the lease of {key}: {}", chain(&e)));
                self.later(key, again);
            }
        }
    }

    fn prolong(&self, mut record: Record, lease: Lease) {
        record.lease = lease;
        record.since = now();
        let key = record.key();
        // Released meanwhile: then it stays so.
        if !self.state().leases.contains_key(&key) {
            return;
        }
        if let Err(e) = self.folder.write(&record) {
            say(&chain(&e));
        }
        self.hold(record);
    }

    fn lose(&self, record: &Record, why: &str) {
        let key = record.key();
        say(&format!(
            "the lease of {key} for {} {why}: its link is set down",
            record.lease.address
        ));
        let down = self.inside(record, |client, _| exchange::give_up(client.ifname));
        if let Some(Err(e)) = down {
            say(&chain(&e));
            return self.later(&key, now() + 5);
        }
        self.state().leases.remove(&key);
        if let Err(e) = self.folder.remove(&key) {
            say(&chain(&e));
        }
    }
}

/// One question at a time about one lease.
struct Turn<'d> {
    daemon: &'d Daemon,
    key: String,
}

impl<'d> Turn<'d> {
    fn take(daemon: &'d Daemon, key: &str) -> Self {
        let mut state = daemon.state();
        while state.asked.contains(key) || state.leases.get(key).is_some_and(|h| h.busy) {
            state = daemon
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.asked.insert(key.into());
        Self {
            daemon,
            key: key.into(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.daemon.state().asked.remove(&self.key);
        self.daemon.changed.notify_all();
    }
}

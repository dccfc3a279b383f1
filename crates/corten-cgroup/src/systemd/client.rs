//! One connection to a bus, or straight to systemd: authentication, calls, and waiting for signals.
//!
//! Blocking, with a deadline around every wait. One call is under way at a time; what comes meanwhile is
//! kept if it is a signal, and there is a bound on that too.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

use super::message::{FIXED, Kind, Message};
use super::value::{Malformed, Value};
use crate::Error;

/// As long as runc waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// Signals kept for later; more than these are none that we asked for.
const KEPT: usize = 256;
/// A line of the authentication; "OK" and 32 digits are 35 bytes.
const LINE: usize = 512;

/// Where a bus listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Path(String),
    Abstract(String),
}

impl Address {
    fn socket(&self) -> Result<SocketAddrUnix, Errno> {
        match self {
            Self::Path(path) => SocketAddrUnix::new(path.as_str()),
            Self::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// A method and what it is given.
pub(crate) struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub method: &'static str,
    pub body: Vec<Value>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    address: String,
    serial: u32,
    /// Bytes that were read and not yet used.
    unread: Vec<u8>,
    signals: VecDeque<Message>,
    patience: Duration,
}

impl Connection {
    /// Connects and authenticates as whoever the kernel says that we are.
    pub(crate) fn open(address: &Address) -> Result<Self, Error> {
        let fail = |step| {
            let address = address.to_string();
            move |source| Error::Bus {
                step,
                address,
                source,
            }
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(fail("reach"))?;
        let to = address.socket().map_err(fail("reach"))?;
        connect(&socket, &to).map_err(fail("reach"))?;
        let mut connection = Self {
            socket,
            address: address.to_string(),
            serial: 0,
            unread: Vec::new(),
            signals: VecDeque::new(),
            patience: PATIENCE,
        };
        connection.authenticate()?;
        Ok(connection)
    }

    /// SASL EXTERNAL without naming a user: the bus takes the id that the kernel tells of the socket, which
    /// is right inside of a user namespace too, where our own number is not the bus's.
    fn authenticate(&mut self) -> Result<(), Error> {
        let end = self.deadline();
        self.send(b"\0AUTH EXTERNAL\r\n", end)?;
        let mut answer = self.line(end)?;
        let mut begun = false;
        if answer == "DATA" || answer.starts_with("DATA ") {
            // Together, as sd-bus has it: systemd's own socket forgets a message that it reads in one go with
            // a BEGIN of its own, and there is no sign of when it has read that.
            self.send(b"DATA\r\nBEGIN\r\n", end)?;
            answer = self.line(end)?;
            begun = true;
        }
        if !answer.starts_with("OK ") {
            return Err(match answer.starts_with("REJECTED") {
                true => self.refuse_bus("authenticate at", Errno::ACCESS),
                false => self.protocol("an answer that is none to AUTH"),
            });
        }
        match begun {
            true => Ok(()),
            false => self.send(b"BEGIN\r\n", end),
        }
    }

    /// The body of the answer, and who gave it.
    pub(crate) fn call(&mut self, call: Call<'_>) -> Result<Message, Error> {
        self.serial = self.serial.wrapping_add(1).max(1);
        let (serial, method, end) = (self.serial, call.method, self.deadline());
        let message = Message {
            kind: Kind::Call,
            serial,
            path: Some(call.path.into()),
            interface: Some(call.interface.into()),
            member: Some(method.into()),
            destination: Some(call.destination.into()),
            body: call.body,
            ..Message::default()
        };
        self.send(&message.encode(), end)?;
        loop {
            let message = self.receive(method, end)?;
            match message.kind {
                Kind::Signal => self.keep(message)?,
                Kind::Return if message.reply_to == Some(serial) => return Ok(message),
                Kind::Error if message.reply_to == Some(serial) => {
                    let text = message.body.first().and_then(Value::as_text);
                    return Err(Error::Refused {
                        method,
                        message: text.unwrap_or("no reason given").into(),
                        name: message.error.unwrap_or_default(),
                    });
                }
                // Nobody calls us, and answers to nothing are nobody's.
                _ => {}
            }
        }
    }

    /// The first signal, kept or to come, for which `wanted` has an answer.
    pub(crate) fn wait_signal<T>(
        &mut self,
        step: &'static str,
        wanted: impl Fn(&Message) -> Option<T>,
    ) -> Result<T, Error> {
        if let Some(found) = self.signals.iter().find_map(&wanted) {
            self.signals.clear();
            return Ok(found);
        }
        self.signals.clear();
        let end = self.deadline();
        loop {
            let message = self.receive(step, end)?;
            if message.kind == Kind::Signal
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }

    pub(crate) fn protocol(&self, problem: &'static str) -> Error {
        Error::Protocol {
            address: self.address.clone(),
            problem,
        }
    }

    fn refuse_bus(&self, step: &'static str, source: Errno) -> Error {
        Error::Bus {
            step,
            address: self.address.clone(),
            source,
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    #[cfg(test)]
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    fn keep(&mut self, signal: Message) -> Result<(), Error> {
        if self.signals.len() >= KEPT {
            return Err(self.protocol("more signals than were asked for"));
        }
        self.signals.push_back(signal);
        Ok(())
    }

    fn receive(&mut self, step: &'static str, end: Instant) -> Result<Message, Error> {
        let malformed = |connection: &Self, bad: Malformed| connection.protocol(bad.0);
        self.fill(FIXED, step, end)?;
        let fixed = self.unread.first_chunk::<FIXED>().copied();
        let length = match fixed.map(|fixed| Message::length(&fixed)) {
            Some(Ok(length)) => length,
            Some(Err(bad)) => return Err(malformed(self, bad)),
            None => return Err(self.protocol("a message is cut short")),
        };
        self.fill(length, step, end)?;
        let message = Message::decode(&self.unread[..length]);
        self.unread.drain(..length);
        message.map_err(|bad| malformed(self, bad))
    }

    /// Reads until at least `count` bytes are there.
    fn fill(&mut self, count: usize, step: &'static str, end: Instant) -> Result<(), Error> {
        while self.unread.len() < count {
            self.read_some(step, end)?;
        }
        Ok(())
    }

    fn read_some(&mut self, step: &'static str, end: Instant) -> Result<(), Error> {
        let mut chunk = [0u8; 4096];
        self.ready(PollFlags::IN, step, end)?;
        match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(self.refuse_bus("read from", Errno::CONNRESET)),
            Ok((count, _)) => {
                self.unread.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(()),
            Err(errno) => Err(self.refuse_bus("read from", errno)),
        }
    }

    fn line(&mut self, end: Instant) -> Result<String, Error> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8(self.unread[..at].to_vec());
                self.unread.drain(..at + 2);
                return line.map_err(|_| self.protocol("a line that is not ASCII"));
            }
            if self.unread.len() > LINE {
                return Err(self.protocol("a line without end"));
            }
            self.read_some("authenticate", end)?;
        }
    }

    fn send(&self, mut bytes: &[u8], end: Instant) -> Result<(), Error> {
        while !bytes.is_empty() {
            // NOSIGNAL: a bus that goes away must not end the runtime by SIGPIPE.
            match send(
                &self.socket,
                bytes,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => self.ready(PollFlags::OUT, "take a message", end)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.refuse_bus("write to", errno)),
            }
        }
        Ok(())
    }

    fn ready(&self, events: PollFlags, step: &'static str, end: Instant) -> Result<(), Error> {
        let left = end.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&self.socket, events)], Some(&limit)) {
            Ok(0) => Err(Error::Silent {
                step,
                seconds: self.patience.as_secs(),
            }),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(self.refuse_bus("wait for", errno)),
        }
    }
}

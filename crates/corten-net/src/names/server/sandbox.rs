//! One container: two sockets in its network namespace, and an eye on its first process.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::registration::Document;
use super::super::{PORT, SERVER};
use super::forward::Servers;
use super::{Poll, Source};
use crate::Error;
use crate::firewall::redirect;
use crate::link::netns;

/// How often a port that UDP has and TCP has not is given back.
const PORT_TRIES: usize = 16;

#[derive(Debug)]
pub struct Sandbox {
    pub document: Document,
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    /// Whom it asks for other names; `None`: the host's servers.
    pub servers: Option<Rc<Servers>>,
    /// Queries that others are asked about.
    pub outstanding: usize,
    /// Held for the loop, which hears of the end.
    _life: OwnedFd,
}

fn invalid(what: &'static str, value: impl ToString, reason: &str) -> Error {
    Error::Invalid {
        what,
        value: value.to_string(),
        reason: reason.into(),
    }
}

impl Sandbox {
    /// Opens the sockets and has port 53 rewritten to theirs.
    pub(super) fn open(document: Document, number: u64, poll: &Poll) -> Result<Self, Error> {
        let registration = &document.registration;
        let pid = registration.pid;
        let life = Pid::from_raw(pid.cast_signed())
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|e| invalid("process", pid, &format!("cannot be watched: {e}")))?;
        // The file descriptor stands for the process that the registration means only if that one
        // is still there now; and the path for its namespace only if that is the same one.
        let namespace = netns::open(&registration.netns)?;
        if !document.is_alive() || !document.is_namespace(&namespace) {
            return Err(invalid(
                "process",
                pid,
                "is not the one that was registered",
            ));
        }
        if netns::open("/proc/self/ns/net".as_ref()).is_ok_and(|own| document.is_namespace(&own)) {
            return Err(invalid(
                "network namespace",
                registration.netns.display(),
                "is the host's: a container in it has the host's resolver",
            ));
        }
        let (udp, tcp) = netns::inside(&namespace, &registration.netns, sockets)?;
        let watched = poll
            .add(&udp, Source::Datagrams(number), EventFlags::IN)
            .and_then(|()| poll.add(&tcp, Source::Connections(number), EventFlags::IN))
            .and_then(|()| poll.add(&life, Source::Life(number), EventFlags::IN));
        watched.map_err(|e| invalid("process", pid, &format!("cannot be watched: {e}")))?;
        Ok(Self {
            servers: servers(&document),
            document,
            udp,
            tcp,
            outstanding: 0,
            _life: life,
        })
    }

    pub(super) fn update(&mut self, document: Document) {
        if self.document.registration.upstream != document.registration.upstream {
            self.servers = servers(&document);
        }
        self.document = document;
    }

    /// Takes the table out of a namespace that lives on. On a thread of its own:
    /// closing the socket waits until the kernel has freed what was removed, some 10 ms in which
    /// nobody's lookups would be answered. What it cannot remove is a rule to a port where nobody
    /// listens, replaced by the next registration.
    pub(super) fn clear(self) -> Option<(Document, JoinHandle<()>)> {
        let path = self.document.registration.netns.clone();
        let namespace = netns::open_if_there(&path).ok()??;
        if !self.document.is_namespace(&namespace) {
            return None;
        }
        let work = move || drop(netns::inside(&namespace, &path, redirect::unset));
        let thread = std::thread::Builder::new().spawn(work).ok()?;
        Some((self.document, thread))
    }
}

fn servers(document: &Document) -> Option<Rc<Servers>> {
    let upstream = &document.registration.upstream;
    (!upstream.is_empty()).then(|| Rc::new(Servers::new(upstream.clone())))
}

/// Both sockets on one port, with the redirection to it.
fn sockets() -> Result<(UdpSocket, TcpListener), Error> {
    let failed = |source: std::io::Error| Error::Address {
        address: (SERVER, 0).into(),
        source,
    };
    let mut refused = None;
    for _ in 0..PORT_TRIES {
        let udp = UdpSocket::bind((SERVER, 0)).map_err(failed)?;
        let port = udp.local_addr().map_err(failed)?.port();
        let tcp = match TcpListener::bind((SERVER, port)) {
            Ok(tcp) => tcp,
            Err(e) => {
                refused = Some(e);
                continue;
            }
        };
        udp.set_nonblocking(true).map_err(failed)?;
        tcp.set_nonblocking(true).map_err(failed)?;
        redirect::set(SERVER, PORT, port)?;
        return Ok((udp, tcp));
    }
    Err(failed(refused.unwrap_or_else(|| Errno::ADDRINUSE.into())))
}

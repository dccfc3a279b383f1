//! Names that no network of the container knows: its queries go to other servers, as they are but
//! for the id, and their answers back.
//!
//! Each question has a socket of its own for as long as it is out, so its source port is the
//! kernel's random choice and its id is ours: whoever would forge an answer has 31 bits to guess, and
//! the connected socket takes datagrams from the server alone.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::super::PORT;
use super::super::packet::{Code, Query, Reply, answer, relay, reply};
use super::{Client, Poll, Server, Source, number_in};

/// Questions that are out, of one container, and of all.
const MAX_OF_ONE: usize = 512;
const MAX_OF_ALL: usize = 8192;
/// A client of glibc's asks again after five seconds: by then it has heard that there is no
/// answer.
const PATIENCE: Duration = Duration::from_millis(4500);
const TRIES_MIN: usize = 2;
const TRIES_MAX: usize = 4;
/// glibc uses no more than three; others list more.
const MAX_SERVERS: usize = 8;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const MAX_RESOLV_CONF: u64 = 64 << 10;
/// How often the file is looked at, at most.
const FRESH: Duration = Duration::from_secs(1);
const ENTROPY: usize = 512;
const MAX_ANSWER: usize = u16::MAX as usize;

#[derive(Debug)]
pub struct Forwarder {
    pending: HashMap<u64, Pending>,
    next: u64,
    host: Host,
    random: Vec<u8>,
    input: Box<[u8]>,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            pending: HashMap::new(),
            next: 0,
            host: Host::default(),
            random: Vec::new(),
            input: vec![0; MAX_ANSWER].into(),
        }
    }
}

/// A question that is out.
#[derive(Debug)]
struct Pending {
    sandbox: u64,
    client: Client,
    /// The client's id; `asked` has ours.
    id: [u8; 2],
    asked: Vec<u8>,
    end: usize,
    limit: usize,
    servers: Rc<Servers>,
    /// How many servers were tried before this one.
    tries: usize,
    transport: Transport,
    deadline: Instant,
}

#[derive(Debug)]
enum Transport {
    Udp(UdpSocket),
    Tcp {
        socket: TcpStream,
        output: Vec<u8>,
        input: Vec<u8>,
    },
}

#[derive(Debug, Default)]
pub struct Servers {
    all: Vec<SocketAddr>,
    /// The one that answered last, and is asked first.
    first: std::cell::Cell<usize>,
}

impl Servers {
    pub fn new(mut all: Vec<SocketAddr>) -> Self {
        all.truncate(MAX_SERVERS);
        Self {
            all,
            first: 0.into(),
        }
    }

    fn index(&self, tries: usize) -> usize {
        (self.first.get() + tries) % self.all.len().max(1)
    }

    fn tries(&self) -> usize {
        match self.all.len() {
            0 => 0,
            n => n.clamp(TRIES_MIN, TRIES_MAX),
        }
    }

    fn patience(&self) -> Duration {
        PATIENCE / self.tries().max(1) as u32
    }
}

/// The servers of the host's `resolv.conf`.
#[derive(Debug, Default)]
struct Host {
    servers: Rc<Servers>,
    looked: Option<Instant>,
    /// Inode, size, modification: another file, or other content.
    seen: Option<(u64, u64, i64, i64)>,
}

impl Host {
    fn servers(&mut self, now: Instant) -> Rc<Servers> {
        if self.looked.is_none_or(|at| now > at + FRESH) {
            self.looked = Some(now);
            let seen = fs::metadata(RESOLV_CONF)
                .ok()
                .map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
            if seen != self.seen || seen.is_none() {
                self.seen = seen;
                let mut text = Vec::new();
                let read = fs::File::open(RESOLV_CONF)
                    .and_then(|f| f.take(MAX_RESOLV_CONF).read_to_end(&mut text));
                // A host without the file asks itself (resolv.conf(5)).
                read.map_or_else(|_| text.clear(), drop);
                self.servers = Rc::new(Servers::new(servers(&String::from_utf8_lossy(&text))));
            }
        }
        Rc::clone(&self.servers)
    }
}

/// The name servers of a `resolv.conf`; the local one if it names none.
pub fn servers(text: &str) -> Vec<SocketAddr> {
    let line = |line: &str| {
        let line = line.split(['#', ';']).next().unwrap_or("");
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next().and_then(server))
            .flatten()
    };
    let all: Vec<SocketAddr> = text.lines().filter_map(line).collect();
    match all.is_empty() {
        true => vec![(Ipv4Addr::LOCALHOST, PORT).into()],
        false => all,
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return Some((text.parse::<IpAddr>().ok()?, PORT).into());
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-@".contains(&b);
    let scope = match link.parse() {
        Ok(index) => index,
        Err(_) if link.bytes().all(plain) => number_in(&format!("/sys/class/net/{link}/ifindex"))?,
        Err(_) => return None,
    };
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

fn socket(to: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, kind, flags, None)?)
}

impl Transport {
    /// Not bound first: connecting picks a random port as well.
    fn udp(to: SocketAddr, bytes: &[u8]) -> io::Result<Self> {
        let socket = UdpSocket::from(socket(to, SocketType::DGRAM)?);
        connect(&socket, &to)?;
        socket.send(bytes)?;
        Ok(Self::Udp(socket))
    }

    fn tcp(to: SocketAddr, bytes: &[u8]) -> io::Result<Self> {
        let socket = socket(to, SocketType::STREAM)?;
        match connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        let mut output = (bytes.len() as u16).to_be_bytes().to_vec();
        output.extend_from_slice(bytes);
        Ok(Self::Tcp {
            socket: socket.into(),
            output,
            input: Vec::new(),
        })
    }

    fn watch(&self, poll: &Poll, number: u64) -> io::Result<()> {
        let source = Source::Upstream(number);
        match self {
            Self::Udp(socket) => poll.add(socket, source, EventFlags::IN),
            Self::Tcp { socket, .. } => poll.add(socket, source, EventFlags::OUT),
        }
    }

    /// Reads one message into `out`; its length. `None`: it is not there yet.
    fn receive(&mut self, poll: &Poll, number: u64, out: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Udp(socket) => socket.recv(out).map(Some),
            Self::Tcp {
                socket,
                output,
                input,
            } => {
                while !output.is_empty() {
                    let written = socket.write(output)?;
                    output.drain(..written);
                    if output.is_empty() {
                        poll.change(&*socket, Source::Upstream(number), EventFlags::IN);
                    }
                }
                let mut bytes = [0; 4096];
                match socket.read(&mut bytes)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => input.extend_from_slice(&bytes[..length]),
                }
                let Some((length, rest)) = input.split_first_chunk::<2>() else {
                    return Ok(None);
                };
                let message = rest.get(..usize::from(u16::from_be_bytes(*length)));
                Ok(message.map(|m| {
                    out[..m.len()].copy_from_slice(m);
                    m.len()
                }))
            }
        }
    }
}

impl Forwarder {
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub fn forget(&mut self, sandbox: u64) {
        self.pending.retain(|_, p| p.sandbox != sandbox);
    }

    /// An id that nobody can guess.
    fn id(&mut self) -> Option<[u8; 2]> {
        if self.random.len() < 2 {
            let mut bytes = [0; ENTROPY];
            let flags = rustix::rand::GetRandomFlags::empty();
            let length = rustix::rand::getrandom(&mut bytes, flags).ok()?;
            self.random.extend_from_slice(&bytes[..length]);
        }
        Some([self.random.pop()?, self.random.pop()?])
    }
}

impl Server {
    /// Asks others. `false`: there is nobody to ask, or too much is out already.
    pub(super) fn forward(
        &mut self,
        number: u64,
        client: Client,
        query: &Query<'_>,
        limit: usize,
    ) -> bool {
        let now = Instant::now();
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return false;
        };
        let full = self.forwarder.pending.len() >= MAX_OF_ALL;
        if full || sandbox.outstanding >= MAX_OF_ONE {
            return false;
        }
        let servers = match &sandbox.servers {
            Some(servers) => Rc::clone(servers),
            None => self.forwarder.host.servers(now),
        };
        let Some(id) = self.forwarder.id() else {
            return false;
        };
        let mut asked = query.bytes().to_vec();
        asked[..2].copy_from_slice(&id);
        let Some((tries, transport)) = reach(&servers, 0, &asked) else {
            return false;
        };
        let out = self.forwarder.next;
        if transport.watch(&self.poll, out).is_err() {
            return false;
        }
        self.forwarder.next += 1;
        let deadline = now + servers.patience();
        let pending = Pending {
            sandbox: number,
            client,
            id: query.id(),
            asked,
            end: query.question_end(),
            limit,
            servers,
            tries,
            transport,
            deadline,
        };
        self.forwarder.pending.insert(out, pending);
        self.count(number, 1);
        true
    }

    fn count(&mut self, number: u64, by: isize) {
        if let Some(sandbox) = self.sandboxes.get_mut(&number) {
            sandbox.outstanding = sandbox.outstanding.saturating_add_signed(by);
        }
    }

    /// A server has answered, or cannot be reached.
    pub(super) fn upstream(&mut self, number: u64) {
        let Some(pending) = self.forwarder.pending.get_mut(&number) else {
            return;
        };
        let mut bytes = std::mem::take(&mut self.forwarder.input);
        match pending.transport.receive(&self.poll, number, &mut bytes) {
            Ok(None) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.retry(number),
            Ok(Some(length)) => match reply(&pending.asked, pending.end, &bytes[..length]) {
                Reply::Other => {}
                Reply::Failed => self.retry(number),
                Reply::Answer { truncated } => {
                    if !(truncated && self.by_tcp(number)) {
                        self.finish(number, Some(&mut bytes[..length]));
                    }
                }
            },
        }
        self.forwarder.input = bytes;
    }

    /// Asks the same server again over TCP, if the client has the room for its answer.
    fn by_tcp(&mut self, number: u64) -> bool {
        let Some(pending) = self.forwarder.pending.get_mut(&number) else {
            return false;
        };
        let Client::Stream(_) = pending.client else {
            // It hears that the answer is cut, and comes again over TCP itself.
            return false;
        };
        let index = pending.servers.index(pending.tries);
        let udp = matches!(pending.transport, Transport::Udp(_));
        let (Some(to), true) = (pending.servers.all.get(index), udp) else {
            return false;
        };
        let Ok(transport) = Transport::tcp(*to, &pending.asked) else {
            return false;
        };
        if transport.watch(&self.poll, number).is_err() {
            return false;
        }
        pending.transport = transport;
        pending.deadline = Instant::now() + pending.servers.patience();
        true
    }

    /// Goes on to the next server, or gives up.
    fn retry(&mut self, number: u64) {
        let Some(pending) = self.forwarder.pending.get_mut(&number) else {
            return;
        };
        if let Some((tries, transport)) = reach(&pending.servers, pending.tries + 1, &pending.asked)
            && transport.watch(&self.poll, number).is_ok()
        {
            pending.tries = tries;
            pending.transport = transport;
            pending.deadline = Instant::now() + pending.servers.patience();
            return;
        }
        self.finish(number, None);
    }

    /// Hands the answer on; without one, says so.
    fn finish(&mut self, number: u64, bytes: Option<&mut [u8]>) {
        let Some(pending) = self.forwarder.pending.remove(&number) else {
            return;
        };
        self.count(pending.sandbox, -1);
        if let Some(bytes) = bytes {
            let answered = pending.servers.index(pending.tries);
            pending.servers.first.set(answered);
            let bytes = relay(pending.id, pending.end, pending.limit, bytes);
            return self.deliver(pending.sandbox, pending.client, bytes);
        }
        let mut asked = pending.asked;
        asked[..2].copy_from_slice(&pending.id);
        let mut out = Vec::new();
        if let Ok(query) = Query::parse(&asked) {
            let none = std::iter::empty();
            answer(&query, Code::ServFail, none, pending.limit, &mut out);
        }
        self.deliver(pending.sandbox, pending.client, &out);
    }

    /// Looks at the deadlines of everything that is out.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let pending = self.forwarder.pending.iter();
        let late: Vec<u64> = pending
            .filter(|(_, p)| p.deadline <= now)
            .map(|(n, _)| *n)
            .collect();
        late.into_iter().for_each(|n| self.retry(n));
        self.streams.expire(now);
    }
}

/// The first server from the `tries`th on that a question can be sent to.
fn reach(servers: &Servers, tries: usize, asked: &[u8]) -> Option<(usize, Transport)> {
    (tries..servers.tries()).find_map(|tries| {
        let to = servers.all.get(servers.index(tries))?;
        Some((tries, Transport::udp(*to, asked).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_read_loopback_and_all() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver ::1 # y\nnameserver bad\nsearch a\n\
                    nameserver fe80::1%7\nnameserver fe80::1%../x\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53", "[fe80::1%7]:53"]);
        assert_eq!(servers("search a\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn every_server_has_its_turn_from_the_one_that_answered_last() {
        let all = ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"];
        let servers = Servers::new(all.map(|s| s.parse().unwrap()).to_vec());
        servers.first.set(2);
        let order: Vec<usize> = (0..servers.tries()).map(|t| servers.index(t)).collect();
        assert_eq!(order, [2, 0, 1]);
        assert_eq!(Servers::new(Vec::new()).tries(), 0);
    }
}

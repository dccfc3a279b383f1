//! Published ports on addresses that the kernel cannot forward from: `[::1]`, mostly.
//!
//! The firewall rewrites packets to every other host address. The engine passes us a
//! listening TCP or a bound UDP socket; what arrives there is carried to the container's address from
//! the same poll loop.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

/// A silent UDP peer is forgotten after this, as conntrack does with replied flows.
const IDLE: Duration = Duration::from_secs(60);
/// Peers or connections at once. More wait (TCP) or push out the oldest (UDP).
const MANY: usize = 512;

/// Which descriptor of a forward.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Front,
    /// Side 0 (the peer) or 1 (the container) of a connection.
    Side(u32, usize),
    Flow(u32),
}

/// One published port.
#[derive(Debug)]
pub struct Forward {
    target: SocketAddr,
    front: Front,
    serial: u32,
}

#[derive(Debug)]
enum Front {
    Tcp {
        listener: TcpListener,
        pairs: Vec<Pair>,
    },
    Udp {
        socket: UdpSocket,
        flows: Vec<Flow>,
    },
}

/// A TCP connection: what is read on one side is written to the other.
#[derive(Debug)]
struct Pair {
    id: u32,
    sides: [Side; 2],
    connected: bool,
}

#[derive(Debug)]
struct Side {
    fd: OwnedFd,
    /// To be written here.
    behind: Vec<u8>,
    /// Nothing more will be read here.
    ended: bool,
    /// The end was passed on to this side.
    shut: bool,
}

impl Side {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            behind: Vec::new(),
            ended: false,
            shut: false,
        }
    }
}

/// The container's answers to one UDP peer come back on a socket of their own.
#[derive(Debug)]
struct Flow {
    id: u32,
    peer: SocketAddr,
    socket: UdpSocket,
    used: Instant,
}

impl Forward {
    /// Takes a listening (`tcp`) or bound (`udp`) socket.
    pub fn new(socket: OwnedFd, protocol: &str, target: &str) -> Result<Self, String> {
        let address = target.parse();
        let target = address.map_err(|_| format!("loopback forward: bad target {target:?}"))?;
        crate::stdio::open::unblock(&socket).map_err(|e| format!("loopback forward: {e}"))?;
        let front = match protocol {
            "tcp" => Front::Tcp {
                listener: socket.into(),
                pairs: Vec::new(),
            },
            "udp" => Front::Udp {
                socket: socket.into(),
                flows: Vec::new(),
            },
            other => return Err(format!("loopback forward: no protocol {other:?}")),
        };
        Ok(Self {
            target,
            front,
            serial: 0,
        })
    }

    pub fn interest<'a>(&'a self, mut add: impl FnMut(BorrowedFd<'a>, PollFlags, Part)) {
        match &self.front {
            Front::Tcp { listener, pairs } => {
                if pairs.len() < MANY {
                    add(listener.as_fd(), PollFlags::IN, Part::Front);
                }
                for pair in pairs {
                    for (i, side) in pair.sides.iter().enumerate() {
                        let other = &pair.sides[1 - i];
                        let mut flags = PollFlags::empty();
                        let waits = !side.ended && other.behind.is_empty() && pair.connected;
                        flags.set(PollFlags::IN, waits);
                        let writes = !side.behind.is_empty() || (i == 1 && !pair.connected);
                        flags.set(PollFlags::OUT, writes);
                        // Left out if nothing is wanted: a hang-up would wake the poll without end.
                        if !flags.is_empty() {
                            add(side.fd.as_fd(), flags, Part::Side(pair.id, i));
                        }
                    }
                }
            }
            Front::Udp { socket, flows } => {
                add(socket.as_fd(), PollFlags::IN, Part::Front);
                for flow in flows {
                    add(flow.socket.as_fd(), PollFlags::IN, Part::Flow(flow.id));
                }
            }
        }
    }

    /// An error says why nobody could be taken on.
    pub fn ready(&mut self, part: Part, flags: PollFlags, scratch: &mut [u8]) -> io::Result<()> {
        self.serial = self.serial.wrapping_add(1);
        match (&mut self.front, part) {
            (Front::Tcp { listener, pairs }, Part::Front) => {
                let (peer, _) = listener.accept()?;
                if peer.set_nonblocking(true).is_ok()
                    && let Ok(inner) = connect(self.target)
                {
                    pairs.push(Pair {
                        id: self.serial,
                        sides: [Side::new(peer.into()), Side::new(inner)],
                        connected: false,
                    });
                }
            }
            (Front::Tcp { pairs, .. }, Part::Side(id, side)) => {
                if let Some(pair) = pairs.iter_mut().find(|p| p.id == id)
                    && pair.step(side, flags, scratch).is_err()
                {
                    pairs.retain(|p| p.id != id);
                }
                pairs.retain(|p| !p.is_over());
            }
            (Front::Udp { socket, flows }, Part::Front) => {
                if let Ok((n, peer)) = socket.recv_from(scratch) {
                    // As a router: what cannot be delivered is lost.
                    let _ = from_peer(flows, self.serial, peer, self.target, &scratch[..n]);
                }
            }
            (Front::Udp { socket, flows }, Part::Flow(id)) => {
                let Some(flow) = flows.iter_mut().find(|f| f.id == id) else {
                    return Ok(());
                };
                match flow.socket.recv(scratch) {
                    Ok(n) => {
                        flow.used = Instant::now();
                        let _ = socket.send_to(&scratch[..n], flow.peer);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    // Port unreachable: nobody listens in the container.
                    Err(_) => flows.retain(|f| f.id != id),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets silent UDP peers.
    pub fn expire(&mut self) {
        if let Front::Udp { flows, .. } = &mut self.front {
            flows.retain(|f| f.used.elapsed() < IDLE);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match &self.front {
            Front::Tcp { .. } => None,
            Front::Udp { flows, .. } => flows.iter().map(|f| f.used + IDLE).min(),
        }
    }
}

fn connect(target: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn from_peer(
    flows: &mut Vec<Flow>,
    id: u32,
    peer: SocketAddr,
    target: SocketAddr,
    bytes: &[u8],
) -> io::Result<usize> {
    if let Some(flow) = flows.iter_mut().find(|f| f.peer == peer) {
        flow.used = Instant::now();
        return flow.socket.send(bytes);
    }
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    let sent = socket.send(bytes);
    if flows.len() >= MANY
        && let Some(oldest) = (0..flows.len()).min_by_key(|i| flows[*i].used)
    {
        flows.swap_remove(oldest);
    }
    flows.push(Flow {
        id,
        peer,
        socket,
        used: Instant::now(),
    });
    sent
}

impl Pair {
    /// Moves what can move at one side. `Err`: the connection is broken.
    fn step(&mut self, at: usize, flags: PollFlags, scratch: &mut [u8]) -> Result<(), Errno> {
        if at == 1 && !self.connected {
            match rustix::net::sockopt::socket_error(&self.sides[1].fd)? {
                Ok(()) => self.connected = true,
                Err(errno) => return Err(errno),
            }
        }
        let other = 1 - at;
        self.flush(at)?;
        let readable = flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        if readable && !self.sides[at].ended && self.sides[other].behind.is_empty() {
            match rustix::io::read(&self.sides[at].fd, &mut *scratch) {
                Ok(0) => self.sides[at].ended = true,
                Ok(n) => self.sides[other].behind.extend_from_slice(&scratch[..n]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            self.flush(other)?;
        }
        Ok(())
    }

    /// Writes what waits for a side, and passes the end on after it.
    fn flush(&mut self, at: usize) -> Result<(), Errno> {
        if !self.connected {
            return Ok(());
        }
        let ended = self.sides[1 - at].ended;
        let side = &mut self.sides[at];
        if !side.behind.is_empty() {
            let written = match rustix::io::write(&side.fd, &side.behind) {
                Ok(n) => n,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(errno) => return Err(errno),
            };
            side.behind.drain(..written);
            if side.behind.is_empty() {
                side.behind = Vec::new();
            }
        }
        if ended && side.behind.is_empty() && !side.shut {
            side.shut = true;
            rustix::net::shutdown(&side.fd, Shutdown::Write)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.sides.iter().all(|s| s.ended && s.shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, Timespec, poll};
    use std::io::{Read, Write};

    /// Turns the forward until `done`.
    fn drive(forward: &mut Forward, done: impl Fn() -> bool) {
        let mut scratch = [0; 4096];
        let end = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < end, "stuck: {forward:?}");
            let (mut fds, mut parts) = (Vec::new(), Vec::new());
            forward.interest(|fd, flags, part| {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                parts.push(part);
            });
            let limit = Timespec {
                tv_sec: 0,
                tv_nsec: 5_000_000,
            };
            poll(&mut fds, Some(&limit)).unwrap();
            let ready: Vec<_> = fds.iter().map(|f| f.revents()).zip(parts).collect();
            for (flags, part) in ready.into_iter().filter(|(f, _)| !f.is_empty()) {
                forward.ready(part, flags, &mut scratch).unwrap();
            }
        }
    }

    #[test]
    fn tcp_is_carried_both_ways_with_its_half_close() {
        let inner = TcpListener::bind("127.0.0.1:0").unwrap();
        let outer = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = outer.local_addr().unwrap();
        let target = inner.local_addr().unwrap().to_string();
        let mut forward = Forward::new(outer.into(), "tcp", &target).unwrap();
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = inner.accept().unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got.reverse();
            stream.write_all(&got).unwrap();
        });
        let bytes = sent.clone();
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got
        });
        drive(&mut forward, || client.is_finished());
        let mut got = client.join().unwrap();
        got.reverse();
        assert!(got == sent);
        server.join().unwrap();
        drive(&mut forward, || true);
    }

    #[test]
    fn udp_answers_find_their_peer() {
        let inner = UdpSocket::bind("[::1]:0").unwrap();
        let outer = UdpSocket::bind("[::1]:0").unwrap();
        let address = outer.local_addr().unwrap();
        let target = inner.local_addr().unwrap().to_string();
        let mut forward = Forward::new(outer.into(), "udp", &target).unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let mut bytes = [0; 100];
                let (n, from) = inner.recv_from(&mut bytes).unwrap();
                bytes[..n].reverse();
                inner.send_to(&bytes[..n], from).unwrap();
            }
        });
        let clients = [b"abc", b"xyz"].map(|text| {
            std::thread::spawn(move || {
                let socket = UdpSocket::bind("[::1]:0").unwrap();
                socket.send_to(text, address).unwrap();
                let mut bytes = [0; 100];
                let n = socket.recv(&mut bytes).unwrap();
                bytes[..n].to_vec()
            })
        });
        drive(&mut forward, || clients.iter().all(|c| c.is_finished()));
        let got = clients.map(|c| c.join().unwrap());
        assert_eq!(got, [b"cba".to_vec(), b"zyx".to_vec()]);
        server.join().unwrap();
    }
}

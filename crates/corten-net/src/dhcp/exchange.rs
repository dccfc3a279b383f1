//! The client's talk with servers: asking for an address, keeping it, giving it back. Each of these
//! runs on a thread inside the container's network namespace.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use corten_sys::packet::PacketSocket;

use super::lease::Lease;
use super::message::{CLIENT_PORT, Incoming, Kind, Outgoing, SERVER_PORT, code, packet, unpack};
use crate::Error;
use crate::link::{Links, Mac};

/// Ethernet's, and some.
const BUFFER: usize = 2048;
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// A lease that nobody answers for is not worth more tries than the next time brings.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(4);
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// How a client asks.
#[derive(Clone, Debug)]
pub struct Manner {
    /// How long one message is waited for, at most.
    pub timeout: Duration,
    /// The pause between two of the same doubles, up to this: then it gives up.
    pub resend_max: Duration,
    /// Asks servers to answer to everybody.
    pub broadcast: bool,
}

/// Who asks, and for what.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    pub ifname: &'a str,
    pub id: &'a str,
    pub provide: &'a [(u8, Vec<u8>)],
    pub request: &'a [u8],
    pub manner: &'a Manner,
}

/// What asking for a lease once more comes to.
#[derive(Debug)]
pub enum Renewed {
    Lease(Lease),
    /// A server says that the address is not ours.
    Refused,
    Silence,
}

fn failed(what: &str, reason: impl std::fmt::Display) -> Error {
    Error::Invalid {
        what: "link",
        value: what.into(),
        reason: reason.to_string(),
    }
}

fn random() -> Result<u32, Error> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| failed("random numbers", format!("cannot be had: {e}")))?;
    Ok(u32::from_ne_bytes(bytes))
}

/// The link of a client, and what it talks through.
struct Wire<'a> {
    client: &'a Client<'a>,
    mac: Mac,
    socket: PacketSocket,
    xid: u32,
    began: Instant,
}

impl<'a> Wire<'a> {
    fn open(client: &'a Client<'a>) -> Result<Self, Error> {
        let mut links = Links::open()?;
        let link = links
            .by_name(client.ifname)?
            .ok_or_else(|| failed(client.ifname, "is not there"))?;
        if !link.up {
            links.set_up(&link)?;
        }
        links.settle(link.index)?;
        let mac = link
            .mac
            .ok_or_else(|| failed(client.ifname, "has no Ethernet address"))?;
        let socket = PacketSocket::open(link.index, CLIENT_PORT)
            .map_err(|e| failed(client.ifname, format!("cannot be listened on: {e}")))?;
        Ok(Self {
            client,
            mac,
            socket,
            xid: random()?,
            began: Instant::now(),
        })
    }

    fn message(&self, kind: Kind, own: Ipv4Addr, own_options: &[(u8, Vec<u8>)]) -> Vec<u8> {
        message(
            self.client,
            self.mac,
            self.xid,
            self.began,
            kind,
            own,
            own_options,
        )
    }

    fn send(&self, own: Ipv4Addr, message: &[u8]) -> Result<(), Error> {
        self.socket
            .broadcast(&packet(own, message))
            .map_err(|e| failed(self.client.ifname, format!("cannot be sent through: {e}")))
    }

    /// Sends a message again and again, until an answer is what `accept` wants.
    fn ask<T>(
        &self,
        own: Ipv4Addr,
        make: impl Fn() -> Vec<u8>,
        mut accept: impl FnMut(&Incoming) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        // Once at least, however short that is.
        let mut delay = FIRST_DELAY.min(self.client.manner.resend_max);
        while delay <= self.client.manner.resend_max {
            self.send(own, &make())?;
            // Clients that were started together do not stay together (section 4.1).
            let jitter = Duration::from_millis(u64::from(random()? % 500));
            let wait = (delay + jitter).min(self.client.manner.timeout);
            if let Some(found) = self.listen(wait, &mut accept)? {
                return Ok(Some(found));
            }
            delay *= 2;
        }
        Ok(None)
    }

    fn listen<T>(
        &self,
        wait: Duration,
        accept: &mut impl FnMut(&Incoming) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let until = Instant::now() + wait;
        let mut buffer = [0; BUFFER];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let received = self.socket.receive(&mut buffer, left);
            let length = received
                .map_err(|e| failed(self.client.ifname, format!("cannot be read from: {e}")))?;
            let message = length
                .and_then(|length| unpack(&buffer[..length]))
                .and_then(|(_, message)| Incoming::parse(message))
                .filter(|m| m.xid == self.xid && m.mac == self.mac);
            if let Some(found) = message.as_ref().and_then(&mut *accept) {
                return Ok(Some(found));
            }
        }
    }
}

fn message(
    client: &Client<'_>,
    mac: Mac,
    xid: u32,
    began: Instant,
    kind: Kind,
    own: Ipv4Addr,
    own_options: &[(u8, Vec<u8>)],
) -> Vec<u8> {
    // Type 0: an identifier that is no hardware address.
    let mut id = vec![0];
    id.extend(client.id.bytes().take(254));
    let mut options = own_options.to_vec();
    let provided = |code| client.provide.iter().any(|(c, _)| *c == code);
    if !provided(code::CLIENT_ID) {
        options.push((code::CLIENT_ID, id));
    }
    options.extend(client.provide.iter().cloned());
    if kind != Kind::Release && !client.request.is_empty() {
        options.push((code::PARAMETERS, client.request.to_vec()));
    }
    Outgoing {
        kind,
        xid,
        seconds: began.elapsed().as_secs().try_into().unwrap_or(u16::MAX),
        broadcast: client.manner.broadcast,
        mac,
        own,
        options: &options,
    }
    .encode()
}

fn octets(address: Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

/// DISCOVER, OFFER, REQUEST, ACK. `chosen` hears of the offer before it is asked for.
pub fn acquire(
    client: &Client<'_>,
    mut chosen: impl FnMut(&Lease) -> Result<(), Error>,
) -> Result<Lease, Error> {
    let none = Ipv4Addr::UNSPECIFIED;
    let wire = Wire::open(client)?;
    let mut unusable = None;
    let offered = wire.ask(
        none,
        || wire.message(Kind::Discover, none, &[]),
        |m| match (m.kind, Lease::read(m)) {
            (Kind::Offer, Ok(lease)) => Some(lease),
            (Kind::Offer, Err(reason)) => {
                unusable = Some(reason);
                None
            }
            _ => None,
        },
    )?;
    let Some(offer) = offered else {
        return Err(failed(
            client.ifname,
            match unusable {
                Some(reason) => format!("is offered no address: a DHCP server's offer {reason}"),
                None => "is offered no address: no DHCP server answers".into(),
            },
        ));
    };
    chosen(&offer)?;
    let asked = [
        (code::REQUESTED_ADDRESS, octets(offer.host())),
        (code::SERVER_ID, octets(offer.server)),
    ];
    let given = wire.ask(
        none,
        || wire.message(Kind::Request, none, &asked),
        |m| answer(m, &offer, true),
    )?;
    match given {
        Some(Renewed::Lease(lease)) => Ok(lease),
        Some(Renewed::Refused) => Err(failed(
            client.ifname,
            "is refused the address it was offered",
        )),
        _ => Err(failed(
            client.ifname,
            "got an offer, but no answer to the request for it",
        )),
    }
}

/// What a message says to a request for the lease that we have, or were offered. The server must
/// be the same where only that one was asked.
fn answer(message: &Incoming, ours: &Lease, same_server: bool) -> Option<Renewed> {
    let server = message.addresses(code::SERVER_ID).first().copied();
    if same_server && server != Some(ours.server) {
        return None;
    }
    match (message.kind, Lease::read(message)) {
        (Kind::Nak, _) => Some(Renewed::Refused),
        (Kind::Ack, Ok(lease)) if lease.host() == ours.host() => Some(Renewed::Lease(lease)),
        _ => None,
    }
}

/// A UDP socket from the client's own address to its server.
fn unicast(lease: &Lease) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((lease.host(), CLIENT_PORT))?;
    socket.connect((lease.server, SERVER_PORT))?;
    Ok(socket)
}

/// Asks the server that gave the lease for more time.
pub fn renew(client: &Client<'_>, lease: &Lease) -> Result<Renewed, Error> {
    let mac = mac_of(client.ifname)?;
    let (xid, began) = (random()?, Instant::now());
    let bytes = message(client, mac, xid, began, Kind::Request, lease.host(), &[]);
    // The container may have a client of its own on the port: then any server is asked in time.
    let Ok(socket) = unicast(lease) else {
        return Ok(Renewed::Silence);
    };
    if socket.send(&bytes).is_err() {
        return Ok(Renewed::Silence);
    }
    let mut buffer = [0; BUFFER];
    let until = began + RENEWAL_PATIENCE.min(client.manner.timeout);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return Ok(Renewed::Silence);
        }
        let Ok(length) = socket.recv(&mut buffer) else {
            return Ok(Renewed::Silence);
        };
        let message = Incoming::parse(&buffer[..length]).filter(|m| m.xid == xid && m.mac == mac);
        if let Some(found) = message.and_then(|m| answer(&m, lease, true)) {
            return Ok(found);
        }
    }
}

/// Asks any server for more time.
pub fn rebind(client: &Client<'_>, lease: &Lease) -> Result<Renewed, Error> {
    let wire = Wire::open(client)?;
    let own = lease.host();
    wire.send(own, &wire.message(Kind::Request, own, &[]))?;
    let wait = RENEWAL_PATIENCE.min(client.manner.timeout);
    let found = wire.listen(wait, &mut |m| answer(m, lease, false))?;
    Ok(found.unwrap_or(Renewed::Silence))
}

/// Gives the address back. There is no answer to it; if it does not arrive, the lease runs out.
pub fn release(client: &Client<'_>, lease: &Lease) -> Result<(), Error> {
    let mac = mac_of(client.ifname)?;
    let server = [(code::SERVER_ID, octets(lease.server))];
    let xid = random()?;
    let began = Instant::now();
    let bytes = message(
        client,
        mac,
        xid,
        began,
        Kind::Release,
        lease.host(),
        &server,
    );
    let sent = unicast(lease).and_then(|socket| socket.send(&bytes).map(|_| socket));
    let Ok(socket) = sent else {
        // The address may be off the link already.
        return Wire::open(client)?.send(lease.host(), &bytes);
    };
    // The caller is about to take the link away: not while the server's hardware address is asked
    // for.
    let until = Instant::now() + RELEASE_PATIENCE;
    while corten_sys::socket::unsent(&socket).is_ok_and(|n| n > 0) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn mac_of(ifname: &str) -> Result<Mac, Error> {
    let link = Links::open()?.by_name(ifname)?;
    let mac = link.and_then(|l| l.mac);
    mac.ok_or_else(|| failed(ifname, "is not there, or has no Ethernet address"))
}

/// Takes a link whose lease is over off the network: its address may be another's by now.
pub fn give_up(ifname: &str) -> Result<(), Error> {
    let mut links = Links::open()?;
    match links.by_name(ifname)? {
        Some(link) => links.set_down(&link),
        None => Ok(()),
    }
}

//! The socket: send, receive, and what counts as an answer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recvfrom, sendto,
    socket_with, sockopt,
};

use super::flag;
use super::later::{self, Last};
use super::message::{Attributes, HEADER, Message, Reply, align, replies, u32_at};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The list changed while it was dumped.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The acknowledgement carries attributes, and only the header of what it answers.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
/// The kernel cuts dumps into datagrams of at most 32 KiB, or what the reader offers.
const BUFFER: usize = 64 << 10;
/// No list that we ask for comes near: 100,000 routes are 10 MiB.
const MAX_DUMP: usize = 256 << 20;
/// nf_tables calls a dump of more than one datagram changed whenever anybody commits anything.
const DUMP_TRIES: usize = 32;
/// What the least buffer that a distribution sets holds.
const ROOM: usize = 64 << 10;
/// What one refusal takes of the receive buffer, the kernel's own book-keeping included.
const REFUSAL: usize = 1024;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes (rtnetlink(7)).
    Route,
    /// nf_tables and conntrack.
    Netfilter,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's refusal.
    #[error("the kernel refuses: {errno}{text}", errno = io::Error::from_raw_os_error(errno.raw_os_error()),
        text = text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
    Refused {
        errno: Errno,
        /// The extended acknowledgement, if the kernel gave one.
        text: Option<String>,
        /// Where in the request the offending attribute starts, in bytes.
        offset: Option<u32>,
    },
    #[error("cannot {action} a netlink socket")]
    Socket {
        action: &'static str,
        #[source]
        source: Errno,
    },
    #[error("the kernel's answer is {what}")]
    Answer { what: &'static str },
}

impl Error {
    /// The errno, if the kernel refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            Error::Socket { source, .. } => Some(*source),
            Error::Answer { .. } => None,
        }
    }
}

/// Why a batch failed: all of it, as it is one transaction.
#[derive(Debug, thiserror::Error)]
#[error("message {index} of the transaction is refused")]
pub struct BatchError {
    /// Which of the messages, counted from zero; the first that was refused.
    pub index: usize,
    #[source]
    pub source: Error,
}

/// A netlink socket, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    /// How large a request fits for certain.
    room: usize,
    /// Closing it may wait for what a transaction removed.
    lingers: bool,
    /// Closed after `fd`, for fields go in their order.
    last: Option<Last>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.lingers {
            self.last = later::close_later(self.fd.as_fd());
        }
    }
}

impl Socket {
    pub fn open(family: Family) -> Result<Self, Error> {
        let protocol = match family {
            // NETLINK_ROUTE is 0, which is what no protocol means.
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(|source| Error::Socket {
            action: "open",
            source,
        })?;
        set_option(&fd, libc::NETLINK_EXT_ACK)?;
        set_option(&fd, libc::NETLINK_CAP_ACK)?;
        // Filters of a dump are looked at only when strict (since Linux 4.20).
        set_option(&fd, libc::NETLINK_GET_STRICT_CHK)?;
        Ok(Self {
            fd,
            sequence: 1,
            buffer: Vec::new(),
            room: ROOM,
            lingers: false,
            last: None,
        })
    }

    /// Sends a request and waits for its acknowledgement.
    pub fn request(&mut self, message: Message) -> Result<(), Error> {
        self.requests(vec![message]).map_err(|e| e.source)
    }

    /// Sends several requests in one system call and waits for the acknowledgement of each. The
    /// kernel works on them in order and does not stop at a refusal; the first one is returned.
    pub fn requests(&mut self, messages: Vec<Message>) -> Result<(), BatchError> {
        let messages: Vec<Message> = messages
            .into_iter()
            .map(|m| m.with_flags(flag::ACK))
            .collect();
        self.transact(messages)
    }

    /// Sends messages in one system call; the last one that asks for an acknowledgement must get
    /// one, and no message may be refused.
    pub fn transact(&mut self, messages: Vec<Message>) -> Result<(), BatchError> {
        let at_start = |source| BatchError { index: 0, source };
        let first = self.sequence;
        let mut bytes = Vec::new();
        let mut awaited = None;
        for (i, mut message) in messages.into_iter().enumerate() {
            if message.flags() & flag::ACK != 0 {
                awaited = Some(first.wrapping_add(i as u32));
            }
            self.lingers |= later::removes(message.kind());
            bytes.extend_from_slice(message.finish(self.sequence));
            bytes.resize(align(bytes.len()), 0);
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.make_room(bytes.len(), self.sequence.wrapping_sub(first) as usize)
            .map_err(at_start)?;
        self.send(&bytes).map_err(at_start)?;
        self.acknowledgements(first, awaited)
    }

    /// A datagram goes whole into the send buffer, and every message of it may be refused into the
    /// receive buffer. The default of some 200 KiB is short for some thousand messages.
    fn make_room(&mut self, bytes: usize, messages: usize) -> Result<(), Error> {
        if bytes <= self.room {
            return Ok(());
        }
        let failed = |source| Error::Socket {
            action: "enlarge the buffers of",
            source,
        };
        // Beyond net.core.wmem_max: CAP_NET_ADMIN, which the requests need anyway; but in the host's
        // user namespace. In another one that limit stays, twice over as the kernel counts, and what
        // does not fit is refused as too long.
        let room = bytes + BUFFER;
        let answers = (messages * REFUSAL).max(BUFFER);
        match sockopt::set_socket_send_buffer_size_force(&self.fd, room) {
            Ok(()) => sockopt::set_socket_recv_buffer_size_force(&self.fd, answers),
            Err(Errno::PERM) => sockopt::set_socket_send_buffer_size(&self.fd, room)
                .and_then(|()| sockopt::set_socket_recv_buffer_size(&self.fd, answers)),
            Err(e) => Err(e),
        }
        .map_err(failed)?;
        self.room = bytes;
        Ok(())
    }

    fn acknowledgements(&mut self, first: u32, awaited: Option<u32>) -> Result<(), BatchError> {
        let at_start = |source| BatchError { index: 0, source };
        let count = self.sequence.wrapping_sub(first);
        let mut seen = false;
        let mut refused: Option<BatchError> = None;
        // All answers are there already; an empty socket means that no more will come.
        while let Some(length) = self.receive(RecvFlags::DONTWAIT).map_err(at_start)? {
            for reply in replies(&self.buffer[..length]) {
                let index = reply.sequence.wrapping_sub(first);
                if index >= count || reply.kind != NLMSG_ERROR {
                    continue;
                }
                seen |= awaited == Some(reply.sequence);
                let earlier = refused.as_ref().is_none_or(|r| (index as usize) < r.index);
                if let Err(source) = acknowledgement(&reply)
                    && earlier
                {
                    refused = Some(BatchError {
                        index: index as usize,
                        source,
                    });
                }
            }
        }
        match (refused, seen) {
            (Some(error), _) => Err(error),
            (None, true) => Ok(()),
            (None, false) => Err(at_start(Error::Answer { what: "missing" })),
        }
    }

    /// Sends a request that is answered by messages (a GET of one thing), and hands each to
    /// `each`.
    pub fn query(
        &mut self,
        message: Message,
        mut each: impl FnMut(Reply<'_>),
    ) -> Result<(), Error> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.send(message.with_flags(flag::ACK).finish(sequence))?;
        while let Some(length) = self.receive(RecvFlags::DONTWAIT)? {
            for reply in replies(&self.buffer[..length]).filter(|r| r.sequence == sequence) {
                match reply.kind {
                    NLMSG_ERROR => return acknowledgement(&reply),
                    _ => each(reply),
                }
            }
        }
        Err(Error::Answer { what: "missing" })
    }

    /// Dumps a list. `each` gets every message; if the list changes meanwhile the dump begins
    /// anew, after a call of `restart`.
    pub fn dump<T: Default>(
        &mut self,
        message: Message,
        mut each: impl FnMut(&mut T, Reply<'_>),
    ) -> Result<T, Error> {
        let message = message.with_flags(flag::DUMP);
        for _ in 0..DUMP_TRIES {
            let mut all = T::default();
            if self.dump_once(message.clone(), &mut |r| each(&mut all, r))? {
                return Ok(all);
            }
        }
        Err(Error::Answer {
            what: "a list that keeps changing",
        })
    }

    /// Whether the dump is consistent.
    fn dump_once(
        &mut self,
        mut message: Message,
        each: &mut dyn FnMut(Reply<'_>),
    ) -> Result<bool, Error> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.send(message.finish(sequence))?;
        let (mut consistent, mut total) = (true, 0);
        loop {
            let length = self.receive(RecvFlags::empty())?.unwrap_or(0);
            total += length;
            if total > MAX_DUMP {
                return Err(Error::Answer { what: "too long" });
            }
            for reply in replies(&self.buffer[..length]).filter(|r| r.sequence == sequence) {
                consistent &= reply.flags & NLM_F_DUMP_INTR == 0;
                match reply.kind {
                    NLMSG_DONE => {
                        // The status of the dump follows: zero, or a negative errno.
                        return done(&reply).map(|()| consistent);
                    }
                    NLMSG_ERROR => return acknowledgement(&reply).map(|()| consistent),
                    _ => each(reply),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let failed = |source| Error::Socket {
            action: "write to",
            source,
        };
        let sent =
            rustix::io::retry_on_intr(|| sendto(&self.fd, bytes, SendFlags::empty(), &kernel))
                .map_err(failed)?;
        // A datagram goes whole or not at all.
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(failed(Errno::MSGSIZE))
        }
    }

    /// The length of the next datagram from the kernel, now in the buffer; `None` if there is
    /// none and `flags` say not to wait.
    fn receive(&mut self, flags: RecvFlags) -> Result<Option<usize>, Error> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
        loop {
            let received = recvfrom(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC);
            let (length, whole, from) = match received {
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(source) => {
                    return Err(Error::Socket {
                        action: "read from",
                        source,
                    });
                }
                Ok((length, whole, from)) => (length, whole, from),
            };
            if whole > length {
                return Err(Error::Answer { what: "too long" });
            }
            // Any process may send to our port; only port 0 is the kernel.
            let kernel =
                from.is_some_and(|a| SocketAddrNetlink::try_from(a).is_ok_and(|a| a.pid() == 0));
            if kernel {
                return Ok(Some(length));
            }
        }
    }
}

fn set_option(fd: &OwnedFd, option: libc::c_int) -> Result<(), Error> {
    let on: libc::c_int = 1;
    // SAFETY: `on` lives across the call and its size is passed with it; the kernel only reads.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if rc == 0 {
        return Ok(());
    }
    Err(Error::Socket {
        action: "set an option of",
        source: Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL),
    })
}

fn errno_of(negative: u32) -> Option<Errno> {
    match (negative as i32).checked_neg() {
        Some(0) => None,
        Some(n) if n > 0 => Some(Errno::from_raw_os_error(n)),
        // A positive or impossible number is none of the kernel's errors.
        _ => Some(Errno::INVAL),
    }
}

fn done(reply: &Reply<'_>) -> Result<(), Error> {
    match u32_at(reply.payload, 0).and_then(errno_of) {
        None => Ok(()),
        Some(errno) => Err(Error::Refused {
            errno,
            text: None,
            offset: None,
        }),
    }
}

/// Reads `struct nlmsgerr`: the errno, the header of the request, then (if flagged) attributes.
fn acknowledgement(reply: &Reply<'_>) -> Result<(), Error> {
    let Some(code) = u32_at(reply.payload, 0) else {
        return Err(Error::Answer { what: "cut" });
    };
    let Some(errno) = errno_of(code) else {
        return Ok(());
    };
    let (mut text, mut offset) = (None, None);
    if reply.flags & NLM_F_ACK_TLVS != 0 {
        let length = match reply.flags & NLM_F_CAPPED {
            0 => u32_at(reply.payload, 4).map_or(HEADER, |l| align(l as usize)),
            _ => HEADER,
        };
        let rest = reply
            .payload
            .get(4usize.saturating_add(length)..)
            .unwrap_or(&[]);
        let attributes = Attributes::new(rest);
        text = attributes.string(NLMSGERR_ATTR_MSG);
        offset = attributes.u32(NLMSGERR_ATTR_OFFS);
    }
    Err(Error::Refused {
        errno,
        text,
        offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTM_GETLINK: u16 = 18;
    const RTM_DELLINK: u16 = 17;

    fn by_index(kind: u16, index: i32) -> Message {
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        Message::new(kind, 0).header(&header)
    }

    #[test]
    fn loopback_is_found_alone_and_in_the_dump() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let mut names = Vec::new();
        socket
            .query(by_index(RTM_GETLINK, 1), |r| {
                names.push(r.split(16).unwrap().1.string(3));
            })
            .unwrap();
        assert_eq!(names, [Some("lo".to_owned())]);
        let all: Vec<Option<String>> = socket
            .dump(by_index(RTM_GETLINK, 0), |all: &mut Vec<_>, r| {
                all.push(r.split(16).unwrap().1.string(3));
            })
            .unwrap();
        assert!(all.contains(&Some("lo".to_owned())));
    }

    #[test]
    fn a_refusal_names_errno_and_message() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let none = by_index(RTM_DELLINK, i32::MAX);
        let error = socket
            .requests(vec![by_index(RTM_GETLINK, 1), none.clone()])
            .unwrap_err();
        assert_eq!(error.index, 1);
        assert!(matches!(
            error.source.errno(),
            Some(Errno::NODEV | Errno::PERM)
        ));
        // The socket is as good as before.
        assert!(socket.request(none).is_err());
        socket.query(by_index(RTM_GETLINK, 1), |_| ()).unwrap();
    }

    #[test]
    fn odd_acknowledgements_are_errors_not_panics() {
        for payload in [&[][..], &[1], &[0xff; 4], &[0, 0, 0, 0x80]] {
            let reply = Reply {
                kind: NLMSG_ERROR,
                flags: NLM_F_ACK_TLVS,
                sequence: 0,
                payload,
            };
            assert!(acknowledgement(&reply).is_err());
        }
    }
}

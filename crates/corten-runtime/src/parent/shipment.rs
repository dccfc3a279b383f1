//! Mounts, and what else is made meanwhile, on their way from the maker to init, who is born before they are made.
//!
//! Both work at the same time: init enters its groups and makes the file systems of its own namespaces, the
//! maker makes all others and sends them (`SCM_RIGHTS`) over the pair of sockets of the handshake.
//!
//! ```text
//!   message:  last u8 │ item …      with one descriptor for each item but `ByInit`
//!   item:     tag u8 │ length of the name u8 │ name
//! ```
//! The receiver is a copy of the sender, so a message that does not fit together is a defect and no
//! attack; it ends in an error all the same.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use corten_sys::socket::{FDS_MAX, receive_fds, send_fds};
use rustix::io::Errno;

use super::prepare::{Prepared, Ready};

/// Longest message. Room for an item with the longest name, and small: it is on init's stack.
const MESSAGE_MAX: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Root = 1,
    /// The next of the plan's mounts.
    Tree,
    /// The next, which init makes.
    ByInit,
    /// A mount in the one before, by name.
    Child,
    /// A node of the host's for `/dev`, by name.
    DeviceBind,
    Empty,
    Console,
    /// The terminal's slave, for stdio.
    Terminal,
    /// A network namespace to join.
    Network,
}

impl Tag {
    const ALL: [Self; 9] = [
        Self::Root,
        Self::Tree,
        Self::ByInit,
        Self::Child,
        Self::DeviceBind,
        Self::Empty,
        Self::Console,
        Self::Terminal,
        Self::Network,
    ];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| *tag as u8 == byte)
    }
}

/// One message being filled.
struct Message<'a> {
    bytes: Vec<u8>,
    fds: Vec<BorrowedFd<'a>>,
}

impl<'a> Message<'a> {
    fn new() -> Self {
        Self {
            bytes: vec![0],
            fds: Vec::with_capacity(FDS_MAX),
        }
    }

    fn send(&mut self, socket: &OwnedFd, last: bool) -> Result<(), Errno> {
        self.bytes[0] = u8::from(last);
        send_fds(socket, &self.bytes, &self.fds)?;
        self.bytes.truncate(1);
        self.fds.clear();
        Ok(())
    }
}

struct Sender<'a> {
    socket: &'a OwnedFd,
    message: Message<'a>,
}

impl<'a> Sender<'a> {
    fn item(&mut self, tag: Tag, name: &[u8], fd: Option<BorrowedFd<'a>>) -> Result<(), Errno> {
        let len = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let room = self.message.bytes.len() + 2 + name.len() <= MESSAGE_MAX;
        if self.message.fds.len() == FDS_MAX || !room {
            self.message.send(self.socket, false)?;
        }
        self.message.bytes.extend([tag as u8, len]);
        self.message.bytes.extend_from_slice(name);
        self.message.fds.extend(fd);
        Ok(())
    }
}

/// Sends all of it, the terminal that is to be init's stdio, and its network namespace.
pub(crate) fn send(
    socket: &OwnedFd,
    prepared: &Prepared,
    terminal: Option<&OwnedFd>,
    network: Option<&OwnedFd>,
) -> Result<(), Errno> {
    let mut sender = Sender {
        socket,
        message: Message::new(),
    };
    if let Some(root) = &prepared.root {
        sender.item(Tag::Root, b"", Some(root.as_fd()))?;
    }
    for mount in &prepared.mounts {
        match mount {
            // Links are init's.
            Ready::ByInit | Ready::Link(_) => sender.item(Tag::ByInit, b"", None)?,
            Ready::Tree(tree) => sender.item(Tag::Tree, b"", Some(tree.as_fd()))?,
            Ready::Nested { tree, children } => {
                sender.item(Tag::Tree, b"", Some(tree.as_fd()))?;
                for (name, child) in children {
                    sender.item(Tag::Child, name.as_bytes(), Some(child.as_fd()))?;
                }
            }
        }
    }
    for (name, node) in &prepared.device_binds {
        sender.item(Tag::DeviceBind, name.as_bytes(), Some(node.as_fd()))?;
    }
    let rest = [
        (Tag::Empty, prepared.empty.as_ref()),
        (Tag::Console, prepared.console.as_ref()),
        (Tag::Terminal, terminal),
        (Tag::Network, network),
    ];
    for (tag, fd) in rest {
        if let Some(fd) = fd {
            sender.item(tag, b"", Some(fd.as_fd()))?;
        }
    }
    sender.message.send(socket, true)
}

/// What has arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub prepared: Prepared,
    pub terminal: Option<OwnedFd>,
    pub network: Option<OwnedFd>,
}

/// Init: waits for all of it. The maker's end is `ECONNRESET`.
pub(crate) fn receive(socket: &OwnedFd) -> Result<Received, Errno> {
    let mut received = Received {
        prepared: Prepared::default(),
        terminal: None,
        network: None,
    };
    let mut buffer = [0u8; MESSAGE_MAX];
    loop {
        let mut fds = Vec::with_capacity(FDS_MAX);
        let len = receive_fds(socket, &mut buffer, &mut fds)?;
        let (last, items) = buffer[..len].split_first().ok_or(Errno::CONNRESET)?;
        let mut fds = fds.into_iter();
        let mut rest = items;
        while let [tag, len, tail @ ..] = rest {
            let (name, tail) = tail
                .split_at_checked(usize::from(*len))
                .ok_or(Errno::PROTO)?;
            rest = tail;
            let tag = Tag::of(*tag).ok_or(Errno::PROTO)?;
            received.take(tag, name, &mut fds)?;
        }
        if *last == 1 {
            return Ok(received);
        }
    }
}

impl Received {
    fn take(
        &mut self,
        tag: Tag,
        name: &[u8],
        fds: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Errno> {
        let prepared = &mut self.prepared;
        if tag == Tag::ByInit {
            prepared.mounts.push(Ready::ByInit);
            return Ok(());
        }
        let fd = fds.next().ok_or(Errno::PROTO)?;
        let name = CString::new(name).map_err(|_| Errno::PROTO)?;
        match tag {
            Tag::Root => prepared.root = Some(fd),
            Tag::Tree => prepared.mounts.push(Ready::Tree(fd)),
            Tag::Child => match prepared.mounts.pop() {
                Some(Ready::Tree(tree)) => prepared.mounts.push(Ready::Nested {
                    tree,
                    children: vec![(name, fd)],
                }),
                Some(Ready::Nested { tree, mut children }) => {
                    children.push((name, fd));
                    prepared.mounts.push(Ready::Nested { tree, children });
                }
                _ => return Err(Errno::PROTO),
            },
            Tag::DeviceBind => prepared.device_binds.push((name, fd)),
            Tag::Empty => prepared.empty = Some(fd),
            Tag::Console => prepared.console = Some(fd),
            Tag::Terminal => self.terminal = Some(fd),
            Tag::Network => self.network = Some(fd),
            Tag::ByInit => return Err(Errno::PROTO),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_sent_arrives_in_order() {
        let (ours, theirs) = pair();
        let nested = Ready::Nested {
            tree: fd(),
            children: vec![(c"cpu".into(), fd()), (c"pids".into(), fd())],
        };
        let many = (0..300).map(|_| Ready::Tree(fd()));
        let prepared = Prepared {
            root: Some(fd()),
            mounts: [Ready::ByInit, nested].into_iter().chain(many).collect(),
            device_binds: vec![(c"null".into(), fd())],
            empty: Some(fd()),
            console: None,
        };
        send(&ours, &prepared, Some(&fd()), None).unwrap();
        let got = receive(&theirs).unwrap();
        assert_eq!(got.prepared.mounts.len(), 302);
        assert!(matches!(got.prepared.mounts[0], Ready::ByInit));
        let Ready::Nested { children, .. } = &got.prepared.mounts[1] else {
            panic!("{:?}", got.prepared.mounts[1]);
        };
        let names: Vec<_> = children.iter().map(|(name, _)| name.as_c_str()).collect();
        assert_eq!(names, [c"cpu", c"pids"]);
        assert_eq!(got.prepared.device_binds[0].0.as_c_str(), c"null");
        assert!(got.prepared.root.is_some() && got.prepared.empty.is_some());
        assert!(got.prepared.console.is_none() && got.terminal.is_some());
        assert!(got.network.is_none());
    }

    #[test]
    fn the_end_of_the_maker_and_nonsense_are_errors() {
        let (ours, theirs) = pair();
        send_fds(&ours, &[1, 99, 0], &[]).unwrap();
        assert_eq!(receive(&theirs).unwrap_err(), Errno::PROTO);
        send_fds(&ours, &[1, Tag::Root as u8, 0], &[]).unwrap();
        assert_eq!(receive(&theirs).unwrap_err(), Errno::PROTO);
        drop(ours);
        assert_eq!(receive(&theirs).unwrap_err(), Errno::CONNRESET);
    }
}

//! Closing a socket without waiting for it.
//!
//! After an nf_tables transaction that removed something, closing its socket waits until the kernel has freed that: an RCU
//! grace period, 10 to 30 ms (`nft_rcv_nl_event`). Nobody needs to: the transaction has been in force since its
//! acknowledgement.
//!
//! So the last reference to the socket is left to the kernel. It goes, as a passed descriptor (unix(7), `SCM_RIGHTS`), into the queue of a
//! Unix socket that lies in that very queue itself. Once we have closed our ends, nobody can reach either; the collector of such
//! cycles finds them, and closes both, in a worker of the kernel's since Linux 6.10. Before, it runs as we close, and we wait as
//! we would have.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// The last of the messages about tables, chains, rules, sets and elements, which come as NEW, GET, DEL.
const NFT_MSG_DELSETELEM: u16 = 14;

/// Whether this is a message of nf_tables that removes something.
pub(super) fn removes(kind: u16) -> bool {
    let message = kind & 0xff;
    kind >> 8 == NFNL_SUBSYS_NFTABLES && message <= NFT_MSG_DELSETELEM && message % 3 == 2
}

/// What keeps a socket: to be closed after it.
#[derive(Debug)]
pub(super) struct Last {
    _pair: (OwnedFd, OwnedFd),
}

/// Has the kernel close what `fd` stands for, once `fd` and then what is returned are closed. Where that cannot be had,
/// closing `fd` is as it always is.
pub(super) fn close_later(fd: BorrowedFd<'_>) -> Option<Last> {
    let pair = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let (here, there) = pair.ok()?;
    let passed = [fd, there.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&passed)) {
        return None;
    }
    let byte = [IoSlice::new(&[0])];
    sendmsg(&here, &byte, &mut ancillary, SendFlags::empty()).ok()?;
    Some(Last {
        _pair: (here, there),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn removals_are_told_from_the_rest() {
        let kinds: Vec<u16> = (0..32)
            .map(|m| 10 << 8 | m)
            .filter(|k| removes(*k))
            .collect();
        assert_eq!(kinds, [2, 5, 8, 11, 14].map(|m| 10 << 8 | m));
        // RTM_DELLINK; conntrack's, of which the first is a deletion.
        assert!(!removes(17) && !removes(1 << 8 | 2));
    }

    #[test]
    fn what_is_left_to_the_kernel_is_closed_by_it() {
        // The other end of a stream tells.
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let last = close_later(theirs.as_fd()).unwrap();
        drop(theirs);
        drop(last);
        assert_eq!(open(), before - 1);
        ours.set_nonblocking(true).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while (&ours).read_to_end(&mut Vec::new()).is_err() {
            assert!(Instant::now() < end, "it is never closed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

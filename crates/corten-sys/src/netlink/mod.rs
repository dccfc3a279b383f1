//! Netlink sockets: requests with acknowledgement, dumps, and batches, with sequence checks,
//! bounded buffers and the kernel's own words for an error.
//!
//! This module knows the framing (netlink(7)) and nothing of what the messages say: rtnetlink
//! and nf_tables are encoded in `corten-net`, with the [`Message`] builder and the
//! [`Attributes`] reader from here.
//!
//! The kernel works on a request inside `sendmsg`, so all answers but the later parts of a dump
//! are in the receive buffer when it returns. A socket keeps the network namespace of the thread
//! that opened it, wherever it is used.

mod later;
mod message;
mod socket;

pub use message::{Attributes, Message, Reply, align};
pub use socket::{BatchError, Error, Family, Socket};

/// Flags of a request (`NLM_F_*`, linux/netlink.h).
pub mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

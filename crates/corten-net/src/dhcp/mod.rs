//! Addresses from DHCP servers (IPv4), for the `dhcp` plugin: a client, and the daemon that keeps
//! leases alive after the plugin has ended.
//!
//! ```text
//!  plugin dhcp ── one line of JSON ──▶ daemon ── a thread in the container's namespace ──▶ server
//!                                       │        ADD: DISCOVER, OFFER, REQUEST, ACK
//!                                       │        then: renew, rebind
//!                                       │        DEL: RELEASE
//!                                       └── FOLDER/HASH.json, one a lease
//! ```
//!
//! The daemon holds no namespace open: it enters one by its path when something is due, and only if
//! that is still the same one. When it has gone, so has the lease.

pub mod daemon;
mod exchange;
mod lease;
mod message;
mod options;
pub mod protocol;

pub(crate) use options::{Provide, Request as RequestOption, provided, requested};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    //! What the fuzzer gets to see of this module.

    use super::lease::Lease;
    use super::message::{Incoming, Kind, Outgoing, packet, unpack};

    /// A packet from the wire.
    pub fn packet_from_wire(bytes: &[u8]) {
        let message = unpack(bytes).map_or(bytes, |(_, message)| message);
        let Some(message) = Incoming::parse(message) else {
            return;
        };
        let Ok(lease) = Lease::read(&message) else {
            return;
        };
        assert!(lease.renewal <= lease.rebinding && lease.rebinding < lease.duration);
        assert!(lease.renewal > 0 && super::message::is_host(lease.host()));
        assert!(lease.routes.iter().all(|(to, _)| to.is_ipv4()));
        assert!(lease.domain.is_none_or(|d| !d.contains(['\n', ' '])));
    }

    /// Options of ours, which have to be readable whatever is in them.
    pub fn own_message(bytes: &[u8]) {
        let options = [(61, bytes.to_vec()), (12, bytes.to_vec())];
        let message = Outgoing {
            kind: Kind::Discover,
            xid: 1,
            seconds: 0,
            broadcast: false,
            mac: [2, 0, 0, 0, 0, 1],
            own: std::net::Ipv4Addr::UNSPECIFIED,
            options: &options,
        }
        .encode();
        let sent = packet(std::net::Ipv4Addr::UNSPECIFIED, &message);
        // It is a client's: a server's would come from the other port.
        assert!(unpack(&sent).is_none());
    }
}

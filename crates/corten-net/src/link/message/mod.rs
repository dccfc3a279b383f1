//! rtnetlink messages (rtnetlink(7), linux/if_link.h): what we ask, and what we read of the
//! answers, a file a family. Pure.

mod address;
mod bridge;
#[cfg(test)]
mod golden;
mod kind;
mod link;
mod route;
mod rule;
mod traffic;

use std::net::IpAddr;

pub use address::*;
pub use bridge::*;
pub use kind::{Details, IpvlanMode, Kind, MacvlanMode};
pub use link::*;
pub use route::*;
pub use rule::*;
pub use traffic::*;

pub(super) const AF_UNSPEC: u8 = 0;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(crate) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use corten_sys::netlink::Reply;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(kind in 14u16..48, payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let reply = Reply { kind, flags: 0, sequence: 0, payload: &payload };
            let _ = (read_link(&reply), read_address(&reply), read_route(&reply));
            let _ = (read_rule(&reply), read_qdisc(&reply));
        }
    }
}

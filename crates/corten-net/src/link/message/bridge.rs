//! A bridge's ports: what they do, and their VLANs.

use std::ops::RangeInclusive;

use corten_sys::netlink::Message;

use super::kind::write_port;
use super::link::{
    IFLA_AF_SPEC, IFLA_IFNAME, IFLA_LINKINFO, RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, ifinfo,
};

const AF_BRIDGE: u8 = 7;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 2;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 4;
const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 8;
const BRIDGE_VLAN_INFO_RANGE_END: u16 = 16;

/// The numbers that a VLAN may have (IEEE 802.1Q: 0 is no VLAN, 4095 reserved).
pub const VLANS: RangeInclusive<u16> = 1..=4094;

/// The VLANs of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortVlans {
    /// What untagged frames belong to, and what leaves without its tag.
    pub native: Option<u16>,
    /// Carried with their tags; each range with both its ends.
    pub tagged: Vec<RangeInclusive<u16>>,
}

/// Sets a bridge's port up, in one message with what it is to do.
pub fn set_port_up(name: &str, hairpin: bool, isolated: bool) -> Message {
    let mut m = Message::new(RTM_NEWLINK, 0).header(&ifinfo(0, true));
    m.attr_str(IFLA_IFNAME, name);
    m.nest(IFLA_LINKINFO, |m| write_port(m, hairpin, isolated));
    m
}

/// Takes all VLANs off a port, among them the one that the bridge gave it when it joined. The
/// kernel passes over those that it is not in.
pub fn clear_port_vlans(index: u32) -> Message {
    vlan_message(RTM_DELLINK, index, |m| range(m, &VLANS, 0))
}

pub fn add_port_vlans(index: u32, vlans: &PortVlans) -> Message {
    vlan_message(RTM_SETLINK, index, |m| {
        for tagged in &vlans.tagged {
            range(m, tagged, 0);
        }
        // Last: the kernel lets the last word on a VLAN count.
        if let Some(native) = vlans.native {
            let flags = BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED;
            range(m, &(native..=native), flags);
        }
    })
}

fn vlan_message(kind: u16, index: u32, fill: impl FnOnce(&mut Message)) -> Message {
    let mut header = ifinfo(index, false);
    header[0] = AF_BRIDGE;
    let mut m = Message::new(kind, 0).header(&header);
    m.nest(IFLA_AF_SPEC, fill);
    m
}

/// `struct bridge_vlan_info`: flags u16, number u16; a range is two of them.
fn range(m: &mut Message, vlans: &RangeInclusive<u16>, flags: u16) {
    let mut info = |flags: u16, vlan: u16| {
        let mut bytes = [0; 4];
        bytes[..2].copy_from_slice(&flags.to_ne_bytes());
        bytes[2..].copy_from_slice(&vlan.to_ne_bytes());
        m.attr(IFLA_BRIDGE_VLAN_INFO, &bytes);
    };
    let (first, last) = (*vlans.start(), *vlans.end());
    if first == last {
        return info(flags, first);
    }
    info(flags | BRIDGE_VLAN_INFO_RANGE_BEGIN, first);
    info(flags | BRIDGE_VLAN_INFO_RANGE_END, last);
}

/// Numbers as ranges, in order and each once.
pub fn ranges(mut vlans: Vec<u16>) -> Vec<RangeInclusive<u16>> {
    vlans.sort_unstable();
    vlans.dedup();
    let mut all: Vec<RangeInclusive<u16>> = Vec::new();
    for vlan in vlans {
        match all.last_mut() {
            Some(last) if last.end() + 1 == vlan => *last = *last.start()..=vlan,
            _ => all.push(vlan..=vlan),
        }
    }
    all
}

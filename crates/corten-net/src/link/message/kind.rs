//! What kinds of link there are: how each is asked for, and what it says of itself
//! (`IFLA_LINKINFO`).

use corten_sys::netlink::{Attributes, Message};

pub(super) const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VRF_TABLE: u16 = 1;

/// How the links above one and the same link see each other (`enum macvlan_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    Private = 1,
    Vepa = 2,
    #[default]
    // The reference plugin takes the empty text for the default as well.
    #[serde(alias = "")]
    Bridge = 4,
    Passthru = 8,
}

/// `IPVLAN_MODE_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    #[default]
    #[serde(alias = "")]
    L2 = 0,
    L3 = 1,
    L3s = 2,
}

/// A kind of link, with what only that kind has. Veth pairs have [`super::NewVeth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without spanning tree.
    Bridge {
        vlan_filtering: bool,
    },
    Macvlan {
        mode: MacvlanMode,
        /// Packets of the queue of broadcasts; the kernel's 1000 if absent.
        bc_queue_len: Option<u32>,
    },
    Ipvlan {
        mode: IpvlanMode,
    },
    Vlan {
        id: u16,
    },
    Vrf {
        table: u32,
    },
    Dummy,
    Ifb,
}

/// What links of some kinds say of themselves. What does not apply is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub macvlan_mode: Option<u32>,
    pub ipvlan_mode: Option<u32>,
    pub vlan_id: Option<u16>,
    pub vrf_table: Option<u32>,
    pub vlan_filtering: Option<bool>,
    /// As a port of a bridge.
    pub hairpin: Option<bool>,
    pub isolated: Option<bool>,
}

impl Kind {
    /// The kernel's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Bridge { .. } => "bridge",
            Kind::Macvlan { .. } => "macvlan",
            Kind::Ipvlan { .. } => "ipvlan",
            Kind::Vlan { .. } => "vlan",
            Kind::Vrf { .. } => "vrf",
            Kind::Dummy => "dummy",
            Kind::Ifb => "ifb",
        }
    }

    /// Into `IFLA_LINKINFO`.
    pub(super) fn write(&self, m: &mut Message) {
        m.attr_str(IFLA_INFO_KIND, self.name());
        m.nest(IFLA_INFO_DATA, |m| match *self {
            Kind::Bridge { vlan_filtering } => {
                // A port forwards at once, instead of after 15 s of learning.
                m.attr_u32(IFLA_BR_STP_STATE, 0);
                m.attr_u32(IFLA_BR_FORWARD_DELAY, 0);
                if vlan_filtering {
                    m.attr_u8(IFLA_BR_VLAN_FILTERING, 1);
                }
            }
            Kind::Macvlan { mode, bc_queue_len } => {
                m.attr_u32(IFLA_MACVLAN_MODE, mode as u32);
                if let Some(length) = bc_queue_len {
                    m.attr_u32(IFLA_MACVLAN_BC_QUEUE_LEN, length);
                }
            }
            Kind::Ipvlan { mode } => {
                m.attr_u16(IFLA_IPVLAN_MODE, mode as u16);
            }
            Kind::Vlan { id } => {
                m.attr_u16(IFLA_VLAN_ID, id);
            }
            Kind::Vrf { table } => {
                m.attr_u32(IFLA_VRF_TABLE, table);
            }
            Kind::Dummy | Kind::Ifb => {}
        });
    }
}

pub(super) fn write_veth(m: &mut Message, peer: impl FnOnce(&mut Message)) {
    m.attr_str(IFLA_INFO_KIND, "veth");
    m.nest(IFLA_INFO_DATA, |m| {
        m.nest(VETH_INFO_PEER, peer);
    });
}

/// What a bridge's port is to do, into `IFLA_LINKINFO`.
pub(super) fn write_port(m: &mut Message, hairpin: bool, isolated: bool) {
    m.attr_str(IFLA_INFO_SLAVE_KIND, "bridge");
    m.nest(IFLA_INFO_SLAVE_DATA, |m| {
        m.attr_u8(IFLA_BRPORT_MODE, u8::from(hairpin));
        // Since Linux 4.18; not named when not wanted.
        if isolated {
            m.attr_u8(IFLA_BRPORT_ISOLATED, 1);
        }
    });
}

impl Details {
    /// From `IFLA_LINKINFO`.
    pub(super) fn read(kind: &str, info: &Attributes<'_>) -> Self {
        let mut details = Self::default();
        if let Some(data) = info.nested(IFLA_INFO_DATA) {
            let word = |n| data.get(n).and_then(u16_at);
            match kind {
                "macvlan" => details.macvlan_mode = data.u32(IFLA_MACVLAN_MODE),
                "ipvlan" => details.ipvlan_mode = word(IFLA_IPVLAN_MODE).map(u32::from),
                "vlan" => details.vlan_id = word(IFLA_VLAN_ID),
                "vrf" => details.vrf_table = data.u32(IFLA_VRF_TABLE),
                "bridge" => details.vlan_filtering = flag(&data, IFLA_BR_VLAN_FILTERING),
                _ => {}
            }
        }
        let of_bridge = info.string(IFLA_INFO_SLAVE_KIND).as_deref() == Some("bridge");
        if let Some(port) = info.nested(IFLA_INFO_SLAVE_DATA).filter(|_| of_bridge) {
            details.hairpin = flag(&port, IFLA_BRPORT_MODE);
            details.isolated = flag(&port, IFLA_BRPORT_ISOLATED);
        }
        details
    }
}

fn flag(attributes: &Attributes<'_>, kind: u16) -> Option<bool> {
    attributes.get(kind)?.first().map(|b| *b != 0)
}

fn u16_at(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

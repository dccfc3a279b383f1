//! The configuration of `bridge`, checked.

use serde::Deserialize;

use super::super::Request;
use super::super::container::{Asked, Shared, given, wrong_key};
use crate::Error;
use crate::link::{Mac, PortVlans, VLANS, ranges};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default = "default_bridge")]
    pub bridge: String,
    #[serde(default)]
    pub is_gateway: bool,
    #[serde(default)]
    pub is_default_gateway: bool,
    #[serde(default)]
    pub force_address: bool,
    ip_masq_backend: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub hairpin_mode: bool,
    #[serde(default)]
    pub promisc_mode: bool,
    #[serde(default)]
    pub vlan: u16,
    #[serde(default)]
    vlan_trunk: Option<Vec<Trunk>>,
    #[serde(default)]
    pub preserve_default_vlan: bool,
    #[serde(default)]
    pub enabledad: bool,
    #[serde(default)]
    pub disable_container_interface: bool,
    #[serde(default)]
    pub port_isolation: bool,
    #[serde(skip)]
    pub mac: Option<Mac>,
    #[serde(skip)]
    pub vlans: Option<PortVlans>,
}

/// VLANs that a port carries with their tags: one, or a range with both ends, or both.
#[derive(Deserialize)]
struct Trunk {
    id: Option<u16>,
    #[serde(rename = "minID")]
    min: Option<u16>,
    #[serde(rename = "maxID")]
    max: Option<u16>,
}

/// The link that is the gateway of a VLAN: the bridge itself is in none.
pub fn gateway_link(bridge: &str, vlan: u16) -> String {
    match vlan {
        0 => bridge.to_owned(),
        vlan => format!("{bridge}.{vlan}"),
    }
}

pub fn default_bridge() -> String {
    "cni0".into()
}

impl Config {
    pub fn read(request: &Request<'_>, shared: &Shared) -> Result<Self, Error> {
        let mut config: Self = request.read("bridge")?;
        corten_spec::cni::check_ifname(&config.bridge)?;
        config.is_gateway |= config.is_default_gateway;
        config.mac = Asked::mac(request, "bridge", None)?;
        config.vlans = config.port_vlans()?;
        if config.vlan != 0 && config.is_gateway {
            corten_spec::cni::check_ifname(&config.gateway_link())?;
        }
        config.refuse(shared)?;
        Ok(config)
    }

    fn refuse(&self, shared: &Shared) -> Result<(), Error> {
        refuse_iptables(self.ip_masq_backend.as_deref())?;
        if self.hairpin_mode && self.promisc_mode {
            let reason = "cannot be on together with hairpinMode";
            return Err(wrong_key("promiscMode", true, reason));
        }
        if self.disable_container_interface && shared.has_ipam() {
            let reason = "leaves no link for the addresses of ipam";
            return Err(wrong_key("disableContainerInterface", true, reason));
        }
        Ok(())
    }

    pub fn gateway_link(&self) -> String {
        gateway_link(&self.bridge, self.vlan)
    }

    /// `None` if the network is not about VLANs.
    fn port_vlans(&self) -> Result<Option<PortVlans>, Error> {
        if self.vlan != 0 {
            check_vlan("vlan", self.vlan)?;
        }
        let mut tagged = Vec::new();
        for trunk in self.vlan_trunk.iter().flatten() {
            match (trunk.min, trunk.max) {
                (None, None) => {}
                (Some(min), Some(max)) => {
                    check_vlan("vlanTrunk.minID", min)?;
                    check_vlan("vlanTrunk.maxID", max)?;
                    if min > max {
                        return Err(wrong_key("vlanTrunk.minID", min, "is above maxID"));
                    }
                    tagged.extend(min..=max);
                }
                (Some(min), None) => {
                    return Err(wrong_key("vlanTrunk.minID", min, "has no maxID beside it"));
                }
                (None, Some(max)) => {
                    return Err(wrong_key("vlanTrunk.maxID", max, "has no minID beside it"));
                }
            }
            if let Some(id) = trunk.id {
                check_vlan("vlanTrunk.id", id)?;
                tagged.push(id);
            }
        }
        let native = match (self.vlan, tagged.is_empty()) {
            (0, true) if self.vlan_trunk.is_none() => return Ok(None),
            (0, true) => None,
            // As the reference plugin has it: a trunk that names no VLAN for untagged frames has 1.
            (0, false) => Some(1),
            (vlan, _) => Some(vlan),
        };
        Ok(Some(PortVlans {
            native,
            tagged: ranges(tagged),
        }))
    }
}

fn check_vlan(key: &'static str, vlan: u16) -> Result<(), Error> {
    match VLANS.contains(&vlan) {
        true => Ok(()),
        false => Err(wrong_key(key, vlan, "is none of 1 to 4094")),
    }
}

/// Our masquerading is nftables'.
pub fn refuse_iptables(backend: Option<&str>) -> Result<(), Error> {
    match backend {
        None | Some("" | "nftables") => Ok(()),
        Some(other) => Err(wrong_key("ipMasqBackend", other, "is not nftables")),
    }
}

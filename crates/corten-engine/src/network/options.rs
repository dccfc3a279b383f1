//! The options of network drivers (`--opt KEY=VALUE`), docker's names and podman's. One that a driver does not have is
//! refused.

use std::collections::BTreeMap;

use corten_net::definition::Driver;

use super::NetworkError;

/// What the options come to.
#[derive(Clone, Debug)]
pub struct Settings {
    kind: Kind,
    pub mtu: Option<u32>,
    pub masquerade: bool,
    pub apart: bool,
    pub default_route: bool,
    pub host_loopback: bool,
    pub isolated: bool,
    /// The bridge's name.
    pub link: Option<String>,
    vlan: Option<u16>,
    parent: Option<String>,
    mode: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bridge,
    Macvlan,
    Ipvlan,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Bridge => "bridge",
            Kind::Macvlan => "macvlan",
            Kind::Ipvlan => "ipvlan",
        }
    }
}

/// macvlan(4)'s modes, and those of Documentation/networking/ipvlan.rst.
const MACVLAN_MODES: [&str; 4] = ["bridge", "private", "vepa", "passthru"];
const IPVLAN_MODES: [&str; 3] = ["l2", "l3", "l3s"];

impl Settings {
    /// The driver, on `link` where it makes one.
    pub fn driver(&self, link: String) -> Driver {
        let (parent, mode) = (self.parent.clone(), self.mode.clone());
        match self.kind {
            Kind::Bridge => Driver::Bridge {
                link,
                vlan: self.vlan,
            },
            Kind::Macvlan => Driver::Macvlan { parent, mode },
            Kind::Ipvlan => Driver::Ipvlan { parent, mode },
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), NetworkError> {
        use Kind::{Bridge, Ipvlan, Macvlan};
        let wrong = |reason| NetworkError::OptionValue {
            key: key.into(),
            value: value.into(),
            reason,
        };
        let flag = || match value {
            "true" | "1" | "yes" | "" => Ok(true),
            "false" | "0" | "no" => Ok(false),
            _ => Err(wrong("it is true or false")),
        };
        let number = || value.parse::<u32>().map_err(|_| wrong("it is a number"));
        let one_of = |all: &[&str], reason| match all.contains(&value) {
            true => Ok(Some(value.to_owned())),
            false => Err(wrong(reason)),
        };
        match (key, self.kind) {
            ("mtu" | "com.docker.network.driver.mtu", _) => self.mtu = Some(number()?),
            ("no_default_route", _) => self.default_route = !flag()?,
            ("isolate", Bridge) => self.isolated = flag()?,
            ("host-loopback", Bridge) => self.host_loopback = flag()?,
            ("vlan", Bridge) => {
                let id = u16::try_from(number()?);
                self.vlan = Some(id.map_err(|_| wrong("it is from 1 to 4094"))?);
            }
            ("com.docker.network.bridge.name", Bridge) => self.link = Some(value.into()),
            ("com.docker.network.bridge.enable_ip_masquerade", Bridge) => self.masquerade = flag()?,
            ("com.docker.network.bridge.enable_icc", Bridge) => self.apart = !flag()?,
            ("parent", Macvlan | Ipvlan) => self.parent = Some(value.into()),
            ("mode" | "macvlan_mode", Macvlan) => {
                self.mode = one_of(
                    &MACVLAN_MODES,
                    "the modes are bridge, private, vepa and passthru",
                )?;
            }
            ("mode" | "ipvlan_mode", Ipvlan) => {
                self.mode = one_of(&IPVLAN_MODES, "the modes are l2, l3 and l3s")?;
            }
            _ => {
                return Err(NetworkError::Option {
                    driver: self.kind.as_str(),
                    key: key.into(),
                });
            }
        }
        Ok(())
    }
}

/// Reads the options of a driver, named as docker and podman name it.
pub fn read_options(
    driver: &str,
    options: &BTreeMap<String, String>,
) -> Result<Settings, NetworkError> {
    let kind = match driver {
        "" | "bridge" => Kind::Bridge,
        "macvlan" => Kind::Macvlan,
        "ipvlan" => Kind::Ipvlan,
        other => return Err(NetworkError::Driver { name: other.into() }),
    };
    let mut settings = Settings {
        kind,
        mtu: None,
        masquerade: true,
        apart: false,
        default_route: true,
        host_loopback: false,
        isolated: false,
        link: None,
        vlan: None,
        parent: None,
        mode: None,
    };
    for (key, value) in options {
        settings.set(key, value)?;
    }
    Ok(settings)
}

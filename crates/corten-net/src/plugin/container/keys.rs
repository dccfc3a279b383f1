//! The keys that plugins have in common, and what a runtime asks of each.

use corten_spec::cni::{CniResult, Dns};
use serde::Deserialize;

use super::super::{IPAM, Request, delegate, is_bundled};
use crate::Error;
use crate::link::Mac;

/// The keys that the specification gives every main plugin.
#[derive(Default, Deserialize)]
pub struct Shared {
    #[serde(default)]
    ipam: Option<Ipam>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(rename = "type", default)]
    kind: String,
}

impl Shared {
    pub fn read(request: &Request<'_>, plugin: &'static str) -> Result<Self, Error> {
        let mut shared: Self = request.read(plugin)?;
        // A network with nothing but layer 2 has `"ipam": {}`.
        shared.ipam = shared.ipam.filter(|i| !i.kind.is_empty());
        match &shared.ipam {
            // One that delegates itself would do so without end: it gets the same configuration.
            Some(ipam) if is_bundled(&ipam.kind) && !IPAM.contains(&&*ipam.kind) => Err(wrong_key(
                "the key ipam.type",
                &ipam.kind,
                "is no plugin that gives addresses",
            )),
            _ => Ok(shared),
        }
    }

    pub fn has_ipam(&self) -> bool {
        self.ipam.is_some()
    }

    /// For plugins that are nothing without addresses.
    pub fn need_ipam(&self, plugin: &'static str) -> Result<(), Error> {
        match self.has_ipam() {
            true => Ok(()),
            false => Err(Error::Invalid {
                what: "the configuration of plugin",
                value: plugin.into(),
                reason: "has no ipam".into(),
            }),
        }
    }

    /// Whether IPAM is asked before there is a link, so that a full range changes nothing. An IPAM
    /// that we do not know may want to speak through the link, as `dhcp` does.
    pub fn ipam_first(&self) -> bool {
        self.ipam
            .as_ref()
            .is_some_and(|i| ["host-local", "static"].contains(&i.kind.as_str()))
    }

    /// ADD of the IPAM plugin, with its addresses; an empty result if there is no IPAM.
    pub fn addresses(&self, request: &Request<'_>) -> Result<CniResult, Error> {
        let Some(ipam) = &self.ipam else {
            return Ok(CniResult::default());
        };
        let result = delegate(&ipam.kind, request)?.unwrap_or_default();
        if result.ips.is_empty() {
            return Err(Error::Mismatch {
                what: format!("the result of IPAM plugin {}", ipam.kind),
                found: "without an address".into(),
                wanted: "one with addresses".into(),
            });
        }
        Ok(result)
    }

    /// DEL: the address first, then the rest, whether the address could be given back or not.
    pub fn release(
        &self,
        request: &Request<'_>,
        rest: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let address = self.forward(request).err();
        Error::several(address.into_iter().chain(rest().err()).collect())
    }

    /// Any other verb of the IPAM plugin.
    pub fn forward(&self, request: &Request<'_>) -> Result<(), Error> {
        match &self.ipam {
            Some(ipam) => delegate(&ipam.kind, request).map(drop),
            None => Ok(()),
        }
    }

    /// The configuration's resolver, if it has one, in the place of IPAM's.
    pub fn override_dns(&self, result: &mut CniResult) {
        if let Some(dns) = self.dns.as_ref().filter(|d| !d.is_empty()) {
            result.dns = dns.clone();
        }
    }
}

/// The first of these that names an Ethernet address: the order in which the reference plugins
/// let one way of asking overrule another.
pub fn asked_mac(ways: &[Option<&str>]) -> Result<Option<Mac>, Error> {
    let Some(text) = ways.iter().copied().flatten().find(|t| !t.is_empty()) else {
        return Ok(None);
    };
    match crate::link::parse_mac(text) {
        Some(mac) => Ok(Some(mac)),
        None => Err(Error::Invalid {
            what: "MAC address",
            value: text.chars().take(64).collect(),
            reason: "is no unicast Ethernet address".into(),
        }),
    }
}

/// What a runtime asks of every plugin that makes a link.
#[derive(Default, Deserialize)]
pub struct Asked {
    #[serde(default, rename = "runtimeConfig")]
    runtime: AskedMac,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    cni: AskedMac,
}

#[derive(Default, Deserialize)]
struct AskedMac {
    mac: Option<String>,
}

impl Asked {
    /// By capability, else by `args.cni.mac`, else by `MAC` of CNI_ARGS, else by `own`, a key of
    /// the plugin's.
    pub fn mac(
        request: &Request<'_>,
        plugin: &'static str,
        own: Option<&str>,
    ) -> Result<Option<Mac>, Error> {
        let asked: Self = request.read(plugin)?;
        asked_mac(&[
            asked.runtime.mac.as_deref(),
            asked.args.cni.mac.as_deref(),
            request.arg("MAC"),
            own,
        ])
    }
}

/// `0` is how Go says "not given".
pub fn given<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(d)?.filter(|n| *n != 0))
}

/// An error in a key of a plugin's configuration.
pub fn wrong_key(key: &'static str, value: impl ToString, reason: impl Into<String>) -> Error {
    let value: String = value.to_string().chars().take(128).collect();
    Error::Invalid {
        what: key,
        value,
        reason: reason.into(),
    }
}

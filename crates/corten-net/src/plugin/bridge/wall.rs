//! The bridge in nf_tables: its link, its subnets and who may reach whom; and of each port, the MAC
//! address that it may send from (`macspoofchk`).

use corten_spec::Cidr;
use corten_spec::cni::CniResult;
use serde::Deserialize;

use super::config::{default_bridge, gateway_link};
use crate::Error;
use crate::cni::ValidAttachment;
use crate::failpoint::failpoint;
use crate::firewall::{Guarded, Network, Wanted};
use crate::link::parse_mac;
use crate::plugin::Request;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default)]
    vlan: u16,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    macspoofchk: bool,
    #[serde(default)]
    corten_internal: bool,
    #[serde(default)]
    corten_isolate: bool,
    #[serde(default)]
    corten_host_loopback: bool,
    /// Given at all: the network is one of the engine's, whose links know each other.
    corten_table: Option<String>,
}

impl Config {
    fn read(request: &Request<'_>) -> Result<Self, Error> {
        request.read("bridge")
    }

    fn link(&self) -> String {
        gateway_link(&self.bridge, self.vlan)
    }

    fn network<'a>(&self, link: &'a str, subnets: &'a [Cidr]) -> Option<Network<'a>> {
        let admits = self.ip_masq
            || self.corten_internal
            || self.corten_isolate
            || self.corten_host_loopback
            || self.corten_table.is_some();
        admits.then_some(Network {
            link: Some(link),
            subnets,
            // What has no way out needs no address for it.
            masquerade: self.ip_masq && !self.corten_internal,
            internal: self.corten_internal,
            isolated: self.corten_isolate,
            host_loopback: self.corten_host_loopback,
        })
    }
}

fn subnets(result: &CniResult) -> Vec<Cidr> {
    result.ips.iter().map(|ip| ip.address.network()).collect()
}

/// The port, and the address of the container behind it as the result has it.
fn guarded(request: &Request<'_>, result: &CniResult) -> Option<Guarded> {
    let owner = request.owner();
    Some(Guarded {
        port: owner.veth_name(),
        mac: parse_mac(&result.container_interface()?.mac)?,
        owner,
    })
}

/// The last step of ADD, when the result is whole.
pub fn admit(request: &Request<'_>, result: &CniResult) -> Result<(), Error> {
    let config = Config::read(request)?;
    let (link, subnets) = (config.link(), subnets(result));
    let network = config.network(&link, &subnets);
    if network.is_none() && !config.macspoofchk {
        return Ok(());
    }
    let mut firewall = request.session.firewall(&request.table()?)?;
    if let Some(network) = network {
        firewall.admit(&network)?;
        failpoint!("bridge.add.admitted");
    }
    if config.macspoofchk {
        let guarded = guarded(request, result).ok_or_else(|| Error::Mismatch {
            what: "the bridge's port of the container".into(),
            found: "not in the result".into(),
            wanted: "there, for macspoofchk".into(),
        })?;
        firewall.guard(&guarded)?;
        failpoint!("bridge.add.guarded");
    }
    Ok(())
}

/// For a reload and CHECK: what [`admit`] with this result had done.
pub fn wanted(request: &Request<'_>, result: &CniResult) -> Result<Wanted, Error> {
    let config = Config::read(request)?;
    let mut wanted = Wanted::default();
    if let Some(network) = config.network(&config.link(), &subnets(result)) {
        wanted.network(&network);
    }
    if config.macspoofchk
        && let Some(guarded) = guarded(request, result)
    {
        wanted.guarded(&guarded);
    }
    Ok(wanted)
}

/// DEL's part: what is the container's own. The network's stays with the bridge.
pub fn release(request: &Request<'_>) -> Result<(), Error> {
    let owner = request.owner();
    unguard(request, |o| *o == owner)
}

/// GC's part.
pub fn collect(request: &Request<'_>, valid: &[ValidAttachment]) -> Result<(), Error> {
    unguard(request, |o| !request.is_valid(valid, o))
}

/// GC's part where the bridge is gone: somebody has deleted it, with all its ports.
pub fn gather(request: &Request<'_>) -> Result<(), Error> {
    let ipam = request.config.get("ipam");
    let subnets = ipam.map(crate::network::subnets).unwrap_or_default();
    let mut firewall = request.session.firewall(&request.table()?)?;
    firewall.dismiss_link(&Config::read(request)?.link())?;
    firewall.gather(&subnets)
}

fn unguard(
    request: &Request<'_>,
    which: impl Fn(&crate::owner::Owner) -> bool,
) -> Result<(), Error> {
    let config = Config::read(request)?;
    if !config.macspoofchk {
        return Ok(());
    }
    request.session.firewall(&request.table()?)?.unguard(which)
}

/// CHECK's part.
pub fn check(request: &Request<'_>, previous: &CniResult) -> Result<(), Error> {
    let wanted = wanted(request, previous)?;
    if wanted == Wanted::default() {
        return Ok(());
    }
    let mut firewall = request.session.firewall(&request.table()?)?;
    match firewall.missing(&wanted)?.into_iter().next() {
        None => Ok(()),
        Some(missing) => Err(Error::Mismatch {
            what: missing,
            found: "missing".into(),
            wanted: format!("in table {}", firewall.table()),
        }),
    }
}

//! `static`: addresses that the configuration, or the runtime, names. Nothing is kept.

use std::net::IpAddr;

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, Dns, IpConfig, Route};
use serde::Deserialize;

use super::container::wrong_key;
use super::{Request, Verb};
use crate::Error;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    ipam: Ipam,
    #[serde(default)]
    runtime_config: Ips,
    #[serde(default)]
    args: Args,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(default)]
    addresses: Vec<Address>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Clone, Deserialize)]
struct Address {
    address: Cidr,
    gateway: Option<IpAddr>,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    cni: Ips,
}

#[derive(Default, Deserialize)]
struct Ips {
    #[serde(default)]
    ips: Vec<String>,
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config: Config = request.read("static")?;
    let addresses = addresses(request, &config)?;
    match request.verb {
        Verb::Add => Ok(Some(CniResult {
            ips: addresses,
            routes: config.ipam.routes,
            dns: config.ipam.dns.unwrap_or_default(),
            ..Default::default()
        })),
        Verb::Check => check(request, &addresses).map(|()| None),
        Verb::Gc => request.valid_attachments().map(|_| None),
        Verb::Del | Verb::Status => Ok(None),
    }
}

/// Those of the capability; else those of `args`; else the configuration's with those of CNI_ARGS.
fn addresses(request: &Request<'_>, config: &Config) -> Result<Vec<IpConfig>, Error> {
    let plain = |text: &String| {
        Ok(IpConfig {
            interface: None,
            address: cidr("ips", text)?,
            gateway: None,
        })
    };
    for asked in [&config.runtime_config.ips, &config.args.cni.ips] {
        if !asked.is_empty() {
            return asked.iter().map(plain).collect();
        }
    }
    let mut all: Vec<IpConfig> = Vec::new();
    for own in &config.ipam.addresses {
        let family = |g: &IpAddr| g.is_ipv4() == own.address.is_ipv4();
        if let Some(gateway) = own.gateway.filter(|g| !family(g)) {
            let reason = format!("is not of the family of {}", own.address);
            return Err(wrong_key("gateway", gateway, reason));
        }
        all.push(IpConfig {
            interface: None,
            address: own.address,
            gateway: own.gateway,
        });
    }
    for text in words(request.arg("IP")) {
        all.push(plain(&text)?);
    }
    for text in words(request.arg("GATEWAY")) {
        let gateway: IpAddr = text
            .parse()
            .map_err(|_| wrong_key("GATEWAY", &text, "is no address"))?;
        let of_subnet = all.iter_mut().filter(|ip| ip.address.contains(gateway));
        of_subnet.for_each(|ip| ip.gateway = Some(gateway));
    }
    Ok(all)
}

fn words(text: Option<&str>) -> Vec<String> {
    let words = text.unwrap_or_default().split(',').map(str::trim);
    words.filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn cidr(key: &'static str, text: &str) -> Result<Cidr, Error> {
    text.parse()
        .map_err(|_| wrong_key(key, text, "is no address with a prefix length"))
}

/// What prevResult has of our addresses has their gateways too.
fn check(request: &Request<'_>, addresses: &[IpConfig]) -> Result<(), Error> {
    let previous = request.need_previous("static")?;
    for ours in addresses {
        let same = |ip: &&IpConfig| ip.address.address() == ours.address.address();
        let Some(there) = previous.ips.iter().find(same) else {
            continue;
        };
        if ours.gateway.is_some() && there.gateway != ours.gateway {
            let text = |g: Option<IpAddr>| g.map_or_else(|| "none".into(), |g| g.to_string());
            return Err(Error::Mismatch {
                what: format!("the gateway of address {}", ours.address),
                found: text(there.gateway),
                wanted: text(ours.gateway),
            });
        }
    }
    Ok(())
}

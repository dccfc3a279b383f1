//! `dhcp`: addresses from a DHCP server on the network. The lease outlives the plugin, so a daemon
//! holds it; the plugin asks that daemon, and starts none: it belongs to the host's set-up.

use std::path::PathBuf;

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, Dns, IpConfig, Route};
use serde::Deserialize;

use super::{Request, Verb};
use crate::Error;
use crate::dhcp::protocol::{self, Answer, Ask, Lease, SOCKET};
use crate::dhcp::{Provide, RequestOption, provided, requested};

#[derive(Deserialize)]
struct Config {
    ipam: Ipam,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    #[serde(default = "default_socket")]
    daemon_socket_path: PathBuf,
    #[serde(default)]
    provide: Vec<Provide>,
    #[serde(default)]
    request: Vec<RequestOption>,
    /// The metric of the routes.
    priority: Option<u32>,
}

fn default_socket() -> PathBuf {
    SOCKET.into()
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config: Config = request.read("dhcp")?;
    let ipam = &config.ipam;
    match request.verb {
        Verb::Add => {
            let lease = ask(request, ipam, protocol::Verb::Allocate)?;
            Ok(lease.map(|lease| result(&lease, ipam.priority)))
        }
        Verb::Del => ask(request, ipam, protocol::Verb::Release).map(|_| None),
        Verb::Check => {
            let previous = request.need_previous("dhcp")?;
            let lease = ask(request, ipam, protocol::Verb::Check)?;
            lease
                .map_or(Ok(()), |lease| check(&previous, &lease))
                .map(|()| None)
        }
        Verb::Gc => ask(request, ipam, protocol::Verb::Collect).map(|_| None),
        Verb::Status => {
            options(request, ipam)?;
            ask(request, ipam, protocol::Verb::Status).map(|_| None)
        }
    }
}

type Options = (Vec<(u8, Vec<u8>)>, Vec<u8>);

fn options(request: &Request<'_>, ipam: &Ipam) -> Result<Options, Error> {
    Ok((
        provided(&ipam.provide, request.args)?,
        requested(&ipam.request)?,
    ))
}

fn ask(request: &Request<'_>, ipam: &Ipam, verb: protocol::Verb) -> Result<Option<Lease>, Error> {
    let (provide, wanted) = options(request, ipam)?;
    let valid = match verb {
        protocol::Verb::Collect => request.valid_attachments()?,
        _ => Vec::new(),
    };
    let question = Ask {
        verb,
        container: request.container_id.into(),
        ifname: request.ifname.into(),
        network: request.network().into(),
        netns: request.netns.into(),
        provide,
        request: wanted,
        valid: valid
            .into_iter()
            .map(|v| (v.container_id, v.ifname))
            .collect(),
    };
    match protocol::ask(&ipam.daemon_socket_path, &question)? {
        Answer::Lease(lease) => Ok(Some(lease)),
        Answer::Done(_) => Ok(None),
        Answer::Error(reason) => Err(Error::Dhcp {
            network: request.network().into(),
            reason,
        }),
    }
}

fn result(lease: &Lease, priority: Option<u32>) -> CniResult {
    let route = |(to, via): &(Cidr, std::net::Ipv4Addr)| Route {
        mtu: lease.mtu.map(u32::from),
        priority,
        ..Route::to(*to, Some((*via).into()))
    };
    CniResult {
        ips: vec![IpConfig {
            interface: None,
            address: lease.address,
            gateway: lease.gateway.map(Into::into),
        }],
        routes: lease.routes.iter().map(route).collect(),
        dns: Dns {
            nameservers: lease.nameservers.iter().map(ToString::to_string).collect(),
            domain: lease.domain.clone().unwrap_or_default(),
            ..Dns::default()
        },
        ..CniResult::default()
    }
}

fn check(previous: &CniResult, lease: &Lease) -> Result<(), Error> {
    let held = previous
        .container_ips()
        .any(|ip| ip.address == lease.address);
    match held {
        true => Ok(()),
        false => Err(Error::Mismatch {
            what: "the address that the DHCP server gave".into(),
            found: lease.address.to_string(),
            wanted: previous
                .container_ips()
                .map(|ip| ip.address.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

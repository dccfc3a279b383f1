//! `firewall`: lets a container's packets through the firewalls that drop what is forwarded, and
//! says who else may send to it (`ingressPolicy`).
//!
//! | policy | from other links with a policy | from the same bridge |
//! | --- | --- | --- |
//! | `open` | yes | yes |
//! | `same-bridge` | no | yes |
//! | `isolated` | no | no |
//!
//! The addresses admitted are elements of our table, with their owner: what DEL, CHECK and GC go
//! by. As with the reference plugin, `same-bridge` and `isolated` hold between links that have one
//! of them. `isolated` is a matter of the bridge's ports, in the table of family bridge, so it
//! holds without br_netfilter.

use corten_spec::cni::CniResult;
use serde::Deserialize;

use super::{Request, Verb, portmap};
use crate::Error;
use crate::failpoint::failpoint;
use crate::firewall::{Admitted, Wanted};
use crate::link::Links;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    backend: Option<String>,
    ingress_policy: Option<String>,
    iptables_admin_chain_name: Option<String>,
    firewalld_zone: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Open,
    SameBridge,
    Isolated,
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let mut firewall = request.session.firewall(&request.table()?)?;
    match request.verb {
        Verb::Add => {
            let policy = policy(request)?;
            let previous = request.need_previous("firewall")?;
            for admitted in plan(request, policy, &previous)? {
                firewall.admit_addresses(&admitted)?;
                failpoint!("firewall.add.admitted");
            }
            return Ok(Some(previous));
        }
        Verb::Del => {
            let owner = request.owner();
            firewall.expel(|o| *o == owner)?;
            failpoint!("firewall.del.expelled");
        }
        Verb::Gc => {
            let valid = request.valid_attachments()?;
            firewall.expel(|o| !request.is_valid(&valid, o))?;
        }
        Verb::Check => {
            let previous = request.need_previous("firewall")?;
            let wanted = wanted(request, &previous)?;
            if let Some(missing) = firewall.missing(&wanted)?.into_iter().next() {
                return Err(Error::Mismatch {
                    what: missing,
                    found: "missing".into(),
                    wanted: format!("in table {}", firewall.table()),
                });
            }
        }
        Verb::Status => {
            policy(request)?;
            firewall.probe()?;
        }
    }
    Ok(None)
}

/// For a reload: what ADD with this result had done.
pub fn wanted(request: &Request<'_>, result: &CniResult) -> Result<Wanted, Error> {
    let mut wanted = Wanted::default();
    for admitted in plan(request, policy(request)?, result)? {
        wanted.admitted(&admitted);
    }
    Ok(wanted)
}

fn policy(request: &Request<'_>) -> Result<Policy, Error> {
    let config: Config = request.read("firewall")?;
    let refuse = |key: &str, why: &str| {
        Err(Error::Invalid {
            what: "the key of plugin firewall",
            value: key.into(),
            reason: why.into(),
        })
    };
    let given = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    if given(&config.backend) && config.backend.as_deref() != Some("nftables") {
        return refuse(
            "backend",
            "is not nftables, which is all that this plugin speaks",
        );
    }
    if given(&config.iptables_admin_chain_name) {
        return refuse(
            "iptablesAdminChainName",
            "names a chain of iptables, and this plugin speaks nftables",
        );
    }
    if given(&config.firewalld_zone) {
        return refuse(
            "firewalldZone",
            "is set, and this plugin does not speak with firewalld",
        );
    }
    match config.ingress_policy.as_deref().unwrap_or("") {
        "" | "open" => Ok(Policy::Open),
        "same-bridge" => Ok(Policy::SameBridge),
        "isolated" => Ok(Policy::Isolated),
        _ => refuse("ingressPolicy", "is none of open, same-bridge, isolated"),
    }
}

/// What to admit: the addresses behind each link of the host.
fn plan(
    request: &Request<'_>,
    policy: Policy,
    previous: &CniResult,
) -> Result<Vec<Admitted>, Error> {
    let mut links = Links::open()?;
    let mut all = Vec::new();
    for (link, subnets) in portmap::ways(previous)? {
        let mut alone = Vec::new();
        if policy == Policy::Isolated {
            let bridge = links.by_name(&link)?.map(|b| b.index);
            let host_ends = previous.interfaces.iter().filter(|i| i.sandbox.is_empty());
            for end in host_ends {
                let port = links.by_name(&end.name)?.filter(|p| p.master.is_some());
                alone.extend(port.filter(|p| p.master == bridge).map(|p| p.name));
            }
        }
        let addresses = previous
            .container_ips()
            .map(|ip| ip.address)
            .filter(|a| subnets.contains(&a.network()))
            .map(|a| a.address());
        all.push(Admitted {
            addresses: addresses.collect(),
            link,
            between_links: policy != Policy::Open,
            alone,
            owner: request.owner(),
        });
    }
    Ok(all)
}

//! `host-local`: gives out addresses of ranges, kept in files on this host.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use corten_spec::cni::{CniResult, Dns, IpConfig, Route};
use corten_spec::{Cidr, cidr};
use serde::Deserialize;

use super::{Request, Verb};
use crate::Error;
use crate::address::range::RangeConfig;
use crate::address::{Range, RangeSet, Store};
use crate::failpoint::failpoint;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    ipam: Ipam,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(default)]
    args: Args,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    #[serde(default = "default_dir")]
    data_dir: PathBuf,
    #[serde(default)]
    ranges: Vec<Vec<RangeConfig>>,
    /// The form with a single range, older than `ranges`.
    subnet: Option<Cidr>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
    resolv_conf: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    ip_ranges: Vec<Vec<RangeConfig>>,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    cni: ArgsCni,
}

#[derive(Default, Deserialize)]
struct ArgsCni {
    #[serde(default)]
    ips: Vec<String>,
}

fn default_dir() -> PathBuf {
    "/var/lib/cni/networks".into()
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config: Config = request.read("host-local")?;
    let existing = || Store::open_existing(&config.ipam.data_dir, request.network());
    match request.verb {
        Verb::Add => add(request, &config).map(Some),
        Verb::Del => {
            if let Some(store) = existing()? {
                store.release(request.container_id, request.ifname)?;
            }
            Ok(None)
        }
        Verb::Check => {
            let held = match existing()? {
                Some(store) => store.held(request.container_id, request.ifname)?,
                None => Vec::new(),
            };
            check(request, &held).map(|()| None)
        }
        Verb::Gc => {
            let valid = request.valid_attachments()?;
            if let Some(store) = existing()? {
                store.release_if(|r| {
                    !valid.iter().any(|v| {
                        v.container_id == r.container_id
                            && (v.ifname == r.ifname || r.ifname.is_empty())
                    })
                })?;
            }
            Ok(None)
        }
        Verb::Status => {
            sets(&config)?;
            Ok(None)
        }
    }
}

/// The range sets: those of the runtime first, as in the reference plugin.
fn sets(config: &Config) -> Result<Vec<RangeSet>, Error> {
    let ipam = &config.ipam;
    let single = ipam.subnet.map(|subnet| {
        vec![RangeConfig {
            subnet,
            range_start: ipam.range_start,
            range_end: ipam.range_end,
            gateway: ipam.gateway,
        }]
    });
    let sets = config
        .runtime_config
        .ip_ranges
        .iter()
        .cloned()
        .chain(single)
        .chain(config.ipam.ranges.iter().cloned())
        .map(|set| RangeSet::new(set.iter().map(Range::new).collect::<Result<_, _>>()?))
        .collect::<Result<Vec<_>, Error>>()?;
    if sets.is_empty() {
        return Err(Error::Invalid {
            what: "the configuration of plugin",
            value: "host-local".into(),
            reason: "has no ranges".into(),
        });
    }
    RangeSet::check_disjoint(&sets)?;
    Ok(sets)
}

/// The addresses that were asked for, by any of the three ways there are.
fn asked(request: &Request<'_>, config: &Config) -> Result<Vec<IpAddr>, Error> {
    let legacy = request
        .args
        .iter()
        .filter(|(key, _)| key == "IP")
        .flat_map(|(_, value)| value.split(','));
    config
        .runtime_config
        .ips
        .iter()
        .chain(&config.args.cni.ips)
        .map(String::as_str)
        .chain(legacy)
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse::<Cidr>()
                .map(|c| c.address())
                .or_else(|_| text.parse())
                .map_err(|_| Error::Invalid {
                    what: "requested address",
                    value: text.chars().take(64).collect(),
                    reason: "is no address".into(),
                })
        })
        .collect()
}

fn add(request: &Request<'_>, config: &Config) -> Result<CniResult, Error> {
    let sets = sets(config)?;
    let mut asked = asked(request, config)?;
    let dns = match &config.ipam.resolv_conf {
        Some(path) => read_dns(path)?,
        None => Dns::default(),
    };
    let store = Store::open(&config.ipam.data_dir, request.network())?;
    let mut ips = Vec::new();
    match reserve(request, &store, &sets, &mut asked, &mut ips) {
        Ok(()) => Ok(CniResult {
            ips,
            routes: config.ipam.routes.clone(),
            dns,
            ..Default::default()
        }),
        Err(error) => {
            let ours = |a: IpAddr| ips.iter().any(|ip| ip.address.address() == a);
            store.release_if(|r| ours(r.address))?;
            Err(error)
        }
    }
}

/// One address from each set: the one asked for that lies in it, else the next.
fn reserve(
    request: &Request<'_>,
    store: &Store,
    sets: &[RangeSet],
    asked: &mut Vec<IpAddr>,
    ips: &mut Vec<IpConfig>,
) -> Result<(), Error> {
    let nowhere = |a: &&IpAddr| sets.iter().all(|s| s.range_of(**a).is_none());
    if let Some(stray) = asked.iter().find(nowhere) {
        return Err(not_free(*stray, "is in none of the network's ranges"));
    }
    let (id, ifname) = (request.container_id, request.ifname);
    for (number, set) in sets.iter().enumerate() {
        let wanted = asked.iter().position(|a| set.range_of(*a).is_some());
        let (address, range) = match wanted.map(|i| asked.remove(i)) {
            Some(address) => {
                // Just found to be in one of them.
                let Some(range) = set.range_of(address) else {
                    continue;
                };
                if address == range.gateway {
                    return Err(not_free(address, "is the gateway's"));
                }
                store.reserve(address, id, ifname)?;
                (address, range)
            }
            None => next(store, (number, set), id, ifname)?,
        };
        failpoint!("host-local.add.reserved");
        ips.extend(
            Cidr::new(address, range.subnet.prefix()).map(|address| IpConfig {
                interface: None,
                address,
                gateway: Some(range.gateway),
            }),
        );
    }
    match asked.first() {
        Some(left) => Err(not_free(*left, "is the second one asked for of its ranges")),
        None => Ok(()),
    }
}

/// The next free address. Where there is none, what an ADD that was killed has left us is as good; it is not
/// looked for before that, since finding it takes reading every reservation.
fn next<'s>(
    store: &Store,
    (number, set): (usize, &'s RangeSet),
    id: &str,
    ifname: &str,
) -> Result<(IpAddr, &'s Range), Error> {
    let full = match store.reserve_next(number, set, id, ifname) {
        Err(full @ Error::RangeFull { .. }) => full,
        other => return other,
    };
    let held = store.held(id, ifname)?;
    let own = |a: IpAddr| Some((a, set.range_of(a)?));
    held.into_iter().find_map(own).ok_or(full)
}

fn not_free(address: IpAddr, reason: &str) -> Error {
    Error::Invalid {
        what: "requested address",
        value: address.to_string(),
        reason: reason.into(),
    }
}

fn check(request: &Request<'_>, held: &[IpAddr]) -> Result<(), Error> {
    let previous = request.need_previous("host-local")?;
    for ip in previous.container_ips() {
        let address = ip.address.address();
        if !held.contains(&address) {
            return Err(Error::Mismatch {
                what: format!("address {address} of container {}", request.container_id),
                found: "not reserved".into(),
                wanted: "reserved".into(),
            });
        }
    }
    Ok(())
}

/// The largest resolver configuration that is read.
const MAX_RESOLV_CONF: u64 = 64 << 10;

fn read_dns(path: &Path) -> Result<Dns, Error> {
    let failed = |source| Error::File {
        action: "read",
        path: path.into(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_RESOLV_CONF)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let mut dns = Dns::default();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let line = line.split(['#', ';']).next().unwrap_or("");
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    Ok(dns)
}

/// The gateway that a subnet has when nobody names one: its first host.
pub(super) fn first_host(address: &Cidr) -> IpAddr {
    let first = address.first();
    cidr::next(first).unwrap_or(first)
}

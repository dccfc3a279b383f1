//! `bandwidth`: rates for what the container receives and sends, on the host's end of its veth pair.
//!
//! ```text
//!   to the container:    veth1a2b3c4d  root: tbf
//!   from the container:  veth1a2b3c4d  ingress ──▶ bwp5e6f7a8b9c0d  root: tbf ──▶ on as before
//! ```
//!
//! Both can be held to some subnets of the other side (`shapedSubnets`), or to all but some
//! (`unshapedSubnets`).

use corten_spec::Cidr;
use corten_spec::cni::CniResult;
use serde::Deserialize;

use super::container::{interface, missing, need_link, or_undo, wrong_key};
use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Kind, Link, Links, NewLink, Portion, Rate, Side, netns};
use crate::owner::Owner;

/// The reference plugin's prefix.
const PREFIX: &str = "bwp";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    runtime_config: RuntimeConfig,
}

#[derive(Default, Deserialize)]
struct RuntimeConfig {
    bandwidth: Option<Entry>,
}

/// Bits a second, and bits, as the capability has them.
#[derive(Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
    shaped_subnets: Vec<String>,
    unshaped_subnets: Vec<String>,
}

/// The limits, checked.
struct Plan {
    /// What the container receives.
    ingress: Option<Rate>,
    egress: Option<Rate>,
    shaped: Vec<Cidr>,
    unshaped: Vec<Cidr>,
}

impl Plan {
    /// The configuration's own keys, or, if it has none, the runtime's.
    fn read(request: &Request<'_>) -> Result<Self, Error> {
        let config: Config = request.read("bandwidth")?;
        let own: Entry = request.read("bandwidth")?;
        let entry = match config.runtime_config.bandwidth {
            Some(runtime) if own == Entry::default() => runtime,
            _ => own,
        };
        let plan = Self {
            ingress: rate("ingress", entry.ingress_rate, entry.ingress_burst)?,
            egress: rate("egress", entry.egress_rate, entry.egress_burst)?,
            shaped: subnets("shapedSubnets", &entry.shaped_subnets)?,
            unshaped: subnets("unshapedSubnets", &entry.unshaped_subnets)?,
        };
        if !plan.shaped.is_empty() && !plan.unshaped.is_empty() {
            let reason = "cannot be given together with shapedSubnets";
            return Err(wrong_key(
                "unshapedSubnets",
                &entry.unshaped_subnets[0],
                reason,
            ));
        }
        Ok(plan)
    }

    fn portion(&self, side: Side) -> Portion<'_> {
        match (self.shaped.as_slice(), self.unshaped.as_slice()) {
            ([], []) => Portion::All,
            ([], others) => Portion::Not(side, others),
            (these, _) => Portion::Only(side, these),
        }
    }

    fn in_part(&self) -> bool {
        self.portion(Side::Source) != Portion::All
    }
}

fn rate(what: &'static str, rate: u64, burst: u64) -> Result<Option<Rate>, Error> {
    let (key, other) = match what {
        "ingress" => ("ingressRate", "ingressBurst"),
        _ => ("egressRate", "egressBurst"),
    };
    match (rate / 8, burst / 8) {
        _ if rate == 0 && burst == 0 => Ok(None),
        _ if burst == 0 => Err(wrong_key(key, rate, format!("has no {other} beside it"))),
        _ if rate == 0 => Err(wrong_key(other, burst, format!("has no {key} beside it"))),
        (0, _) => Err(wrong_key(key, rate, "is less than a byte a second")),
        (_, 0) => Err(wrong_key(other, burst, "is less than a byte")),
        (rate, burst) => match u32::try_from(burst) {
            Ok(burst) => Ok(Some(Rate { rate, burst })),
            Err(_) => Err(wrong_key(other, burst * 8, "is 4 GiB or more")),
        },
    }
}

/// An address alone is a subnet of one.
fn subnets(key: &'static str, texts: &[String]) -> Result<Vec<Cidr>, Error> {
    let one = |text: &String| match (text.parse::<Cidr>(), text.parse()) {
        (Ok(subnet), _) => Ok(subnet),
        (Err(_), Ok(address)) => Ok(Cidr::host(address)),
        (Err(_), Err(_)) => Err(wrong_key(key, text, "is no subnet")),
    };
    texts.iter().map(one).collect()
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    match request.verb {
        Verb::Add => {
            let plan = Plan::read(request)?;
            let result = request.need_previous("bandwidth")?;
            or_undo(request, || add(request, &plan, result), del).map(Some)
        }
        Verb::Del => del(request).map(|()| None),
        Verb::Check => check(request, &Plan::read(request)?).map(|()| None),
        Verb::Gc => gc(request).map(|()| None),
        Verb::Status => Plan::read(request).map(|_| None),
    }
}

/// The same for the same owner. The reference plugin has one a container and network, which a
/// container with two links on a network cannot have.
fn ifb_name(owner: &Owner) -> String {
    let hash = crate::owner::fnv1a(owner.to_string().as_bytes());
    format!("{PREFIX}{:012x}", hash >> 16)
}

/// The host's end of the container's veth pair, which prevResult must name.
fn host_end(request: &Request<'_>, links: &mut Links, result: &CniResult) -> Result<Link, Error> {
    let inside = netns::open(request.netns)?;
    let ifname = request.ifname;
    let link = netns::inside(&inside, request.netns, || {
        need_link(&mut Links::open()?, ifname)
    })?;
    let peer = match (link.kind.as_str(), link.parent) {
        ("veth", Some(index)) => links.by_index(index)?,
        _ => None,
    };
    let named = |peer: &Link| {
        let mut host = result.interfaces.iter().filter(|i| i.sandbox.is_empty());
        host.any(|i| i.name == peer.name)
    };
    peer.filter(|p| p.kind == "veth" && named(p))
        .ok_or_else(|| missing(&format!("on the host that is the other end of {ifname}")))
}

fn add(request: &Request<'_>, plan: &Plan, mut result: CniResult) -> Result<CniResult, Error> {
    if plan.ingress.is_none() && plan.egress.is_none() {
        return Ok(result);
    }
    let mut links = Links::open()?;
    let host = host_end(request, &mut links, &result)?;
    if let Some(rate) = plan.ingress {
        // What is sent to the container comes from the other side.
        links.shape(&host, rate, plan.portion(Side::Source))?;
    }
    failpoint!("bandwidth.add.ingress");
    if let Some(rate) = plan.egress {
        let owner = request.owner();
        let name = ifb_name(&owner);
        delete_ifb(&mut links, &owner)?;
        let ifb = NewLink {
            mtu: Some(host.mtu),
            mac: Some(owner.mac("ifb")),
            up: true,
            ..NewLink::new(&name, Kind::Ifb)
        };
        links.add_owned(&ifb, &owner.to_string())?;
        failpoint!("bandwidth.add.ifb");
        let ifb = need_link(&mut links, &name)?;
        // The rate before the way to it.
        links.shape(&ifb, rate, plan.portion(Side::Destination))?;
        links.redirect(&host, &ifb)?;
        failpoint!("bandwidth.add.redirected");
        result.interfaces.push(interface(&ifb, String::new()));
    }
    Ok(result)
}

fn delete_ifb(links: &mut Links, owner: &Owner) -> Result<(), Error> {
    match links.by_name(&ifb_name(owner))? {
        Some(link) if link.alias == owner.to_string() => links.delete(&link),
        _ => Ok(()),
    }
}

fn del(request: &Request<'_>) -> Result<(), Error> {
    let mut links = Links::open()?;
    delete_ifb(&mut links, &request.owner())?;
    // The reference plugin's has a name of its own making, which its result tells.
    let Some(previous) = request.previous()? else {
        return Ok(());
    };
    let theirs = previous
        .interfaces
        .iter()
        .filter(|i| i.sandbox.is_empty() && i.name.starts_with(PREFIX));
    for told in theirs {
        if let Some(link) = links.by_name(&told.name)?
            && link.kind == "ifb"
            && link.alias.is_empty()
        {
            links.delete(&link)?;
        }
    }
    Ok(())
}

fn check(request: &Request<'_>, plan: &Plan) -> Result<(), Error> {
    let previous = request.need_previous("bandwidth")?;
    if plan.ingress.is_none() && plan.egress.is_none() {
        return Ok(());
    }
    let mut links = Links::open()?;
    let host = host_end(request, &mut links, &previous)?;
    if let Some(rate) = plan.ingress {
        check_shaper(&mut links, &host, rate, plan.in_part())?;
    }
    if let Some(rate) = plan.egress {
        let owner = request.owner();
        let told = previous
            .interfaces
            .iter()
            .find(|i| i.sandbox.is_empty() && i.name.starts_with(PREFIX));
        let name = told.map_or_else(|| ifb_name(&owner), |i| i.name.clone());
        let ifb = need_link(&mut links, &name)?;
        check_shaper(&mut links, &ifb, rate, plan.in_part())?;
    }
    Ok(())
}

fn check_shaper(links: &mut Links, link: &Link, rate: Rate, in_part: bool) -> Result<(), Error> {
    let there = links.shaper(link)?;
    if there.as_ref().is_some_and(|s| s.is(rate, in_part)) {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: format!("the rate of link {}", link.name),
        found: there.map_or_else(|| "unlimited".into(), |s| s.to_string()),
        wanted: format!("{} bytes a second", rate.rate),
    })
}

fn gc(request: &Request<'_>) -> Result<(), Error> {
    let valid = request.valid_attachments()?;
    let mut links = Links::open()?;
    for link in links.list(None)? {
        let stale = |o: Owner| !request.is_valid(&valid, &o);
        if link.kind == "ifb" && Owner::parse(&link.alias).is_some_and(stale) {
            links.delete(&link)?;
        }
    }
    Ok(())
}

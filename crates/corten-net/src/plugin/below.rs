//! The links that hang on another link: `macvlan`, `ipvlan`, `vlan`. Each container gets one of its
//! own, on a master of the host (or, by `linkInContainer`, of its own namespace).
//!
//! ```text
//!   host    eth1 (master) ──┬── container a: net1      its own MAC (macvlan), the master's
//!                           └── container b: net1      (ipvlan), or a VLAN of the master's
//! ```

use std::fs::File;

use corten_spec::cni::CniResult;
use serde::Deserialize;

use super::container::{
    Asked, Shared, Source, add_inside, check_inside, delete_inside, given, make_inside, missing,
    or_undo, same, same_detail, wrong_key,
};
use super::{Request, Verb};
use crate::Error;
use crate::link::{IpvlanMode, Kind, Link, Links, Mac, MacvlanMode, NewLink, VLANS, netns};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    master: String,
    #[serde(default, deserialize_with = "given")]
    mtu: Option<u32>,
    #[serde(default)]
    link_in_container: bool,
}

#[derive(Deserialize)]
struct Macvlan {
    #[serde(default)]
    mode: MacvlanMode,
    mac: Option<String>,
    #[serde(default, deserialize_with = "given")]
    bcqueuelen: Option<u32>,
}

#[derive(Deserialize)]
struct Ipvlan {
    #[serde(default)]
    mode: IpvlanMode,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vlan {
    #[serde(default)]
    vlan_id: u16,
}

/// What is to be made, and on what.
struct Plan {
    shared: Shared,
    config: Config,
    kind: Kind,
    mac: Option<Mac>,
}

pub fn run(name: &'static str, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let plan = Plan::read(name, request)?;
    match request.verb {
        Verb::Add => or_undo(
            request,
            || plan.add(request),
            |request| plan.del(request, true),
        )
        .map(Some),
        Verb::Del => plan.del(request, false).map(|()| None),
        Verb::Check => plan.check(request).map(|()| None),
        Verb::Gc => {
            request.valid_attachments()?;
            plan.shared.forward(request).map(|()| None)
        }
        Verb::Status => plan.status(request).map(|()| None),
    }
}

impl Plan {
    fn read(name: &'static str, request: &Request<'_>) -> Result<Self, Error> {
        let shared = Shared::read(request, name)?;
        let config: Config = request.read(name)?;
        if !config.master.is_empty() {
            corten_spec::cni::check_ifname(&config.master)?;
        }
        let mut mac = None;
        let kind = match name {
            "macvlan" => {
                let own: Macvlan = request.read(name)?;
                mac = Asked::mac(request, name, own.mac.as_deref())?;
                Kind::Macvlan {
                    mode: own.mode,
                    bc_queue_len: own.bcqueuelen,
                }
            }
            "ipvlan" => {
                let own: Ipvlan = request.read(name)?;
                Kind::Ipvlan { mode: own.mode }
            }
            _ => {
                let own: Vlan = request.read(name)?;
                shared.need_ipam(name)?;
                if config.master.is_empty() {
                    return Err(wrong_key("master", "", "is needed: the link to tag on"));
                }
                if !VLANS.contains(&own.vlan_id) {
                    return Err(wrong_key("vlanId", own.vlan_id, "is none of 1 to 4094"));
                }
                Kind::Vlan { id: own.vlan_id }
            }
        };
        Ok(Self {
            shared,
            config,
            kind,
            mac,
        })
    }

    fn add(&self, request: &Request<'_>) -> Result<CniResult, Error> {
        let (master, source) = self.master_and_source(request)?;
        let inside = netns::open(request.netns)?;
        let within = self.config.link_in_container;
        let master = self.look(request, &inside, |links| find_master(links, &master))?;
        if let Some(mtu) = self.config.mtu.filter(|m| *m > master.mtu) {
            let reason = format!(
                "is above that of its master {}, {}",
                master.name, master.mtu
            );
            return Err(wrong_key("mtu", mtu, reason));
        }
        let link = NewLink {
            mac: self.mac.or_else(|| self.stable_mac(request)),
            mtu: self.config.mtu,
            parent: Some(master.index),
            ..NewLink::new(request.ifname, self.kind)
        };
        let mut result = add_inside(request, source, |inside| {
            make_inside(request, inside, &link, within)
        })?;
        self.shared.override_dns(&mut result);
        Ok(result)
    }

    /// The kernel draws a macvlan's address; ours is the same for the same owner, so that the
    /// neighbours' tables stay right when a container comes again. In passthru mode the address
    /// is the master's, and setting one would change it.
    fn stable_mac(&self, request: &Request<'_>) -> Option<Mac> {
        match self.kind {
            Kind::Macvlan { mode, .. } if mode != MacvlanMode::Passthru => {
                Some(request.owner().mac("container"))
            }
            _ => None,
        }
    }

    /// The master's name (empty: that of the default route), and where addresses come from. A
    /// chained ipvlan hangs on the one link of prevResult, and may take over its addresses.
    fn master_and_source(&self, request: &Request<'_>) -> Result<(String, Source<'_>), Error> {
        let own = self.config.master.clone();
        let previous = match self.kind {
            Kind::Ipvlan { .. } => request.previous()?,
            _ => return Ok((own, Source::Ipam(&self.shared))),
        };
        let master = match previous.as_ref().map(|p| p.interfaces.as_slice()) {
            Some([only]) if own.is_empty() && !only.name.is_empty() => only.name.clone(),
            Some(_) if own.is_empty() => {
                let reason = "is not given, and prevResult has not one link with a name";
                return Err(wrong_key("master", "", reason));
            }
            _ => own,
        };
        match previous.filter(|p| !p.ips.is_empty()) {
            Some(previous) if !self.shared.has_ipam() => Ok((master, Source::Given(previous))),
            _ => {
                self.shared.need_ipam("ipvlan")?;
                Ok((master, Source::Ipam(&self.shared)))
            }
        }
    }

    /// Runs `work` where the master is.
    fn look<T: Send>(
        &self,
        request: &Request<'_>,
        inside: &File,
        work: impl FnOnce(&mut Links) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        match self.config.link_in_container {
            true => netns::inside(inside, request.netns, || work(&mut Links::open()?)),
            false => work(&mut Links::open()?),
        }
    }

    fn del(&self, request: &Request<'_>, undo: bool) -> Result<(), Error> {
        self.shared
            .release(request, || delete_inside(request, self.kind.name(), undo))
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        self.shared.forward(request)?;
        let previous = request.need_previous(self.kind.name())?;
        let inside = netns::open(request.netns)?;
        if !self.config.master.is_empty() {
            let name = &self.config.master;
            self.look(request, &inside, |links| find_master(links, name))?;
        }
        check_inside(request, &previous, Some(self.kind.name()), |link| {
            match self.kind {
                Kind::Macvlan { mode, .. } => {
                    same_detail(link, "mode", |d| d.macvlan_mode, mode as u32)
                }
                Kind::Ipvlan { mode } => same_detail(link, "mode", |d| d.ipvlan_mode, mode as u32),
                Kind::Vlan { id } => same_detail(link, "VLAN", |d| d.vlan_id, id),
                _ => Ok(()),
            }?;
            let mtu = self.config.mtu.unwrap_or(link.mtu);
            same(link, "mtu", &link.mtu, &mtu)
        })
    }

    /// The master is there, as ADD will need it. One in the container cannot be looked for.
    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        if !self.config.master.is_empty() && !self.config.link_in_container {
            find_master(&mut Links::open()?, &self.config.master)?;
        }
        self.shared.forward(request)
    }
}

/// The link of this name, or, without one, that of the default route.
fn find_master(links: &mut Links, name: &str) -> Result<Link, Error> {
    if !name.is_empty() {
        return links.by_name(name)?.ok_or_else(|| missing(name));
    }
    for v4 in [true, false] {
        let routes = links.routes(v4)?;
        if let Some(default) = routes.iter().find(|r| r.dst.is_none())
            && let Some(link) = links.by_index(default.link)?
        {
            return Ok(link);
        }
    }
    Err(wrong_key(
        "master",
        "",
        "is not given, and there is no default route to take it from",
    ))
}

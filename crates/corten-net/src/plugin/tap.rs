//! `tap`: a link inside whose other end is a file that a program of the container opens by the
//! link's name (a virtual machine, usually), alone or as a port of a bridge in there.
//!
//! The link is made with an open file, and kept beyond it last: killed before, it is gone.

use corten_spec::cni::CniResult;
use corten_sys::tap;
use serde::Deserialize;

use super::container::{
    Asked, Shared, Source, add_inside, check_inside, delete_inside, given, need_link, or_undo,
    prepare_inside, wrong_key,
};
use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Change, Links, Mac, netns};
use crate::owner::Owner;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    multi_queue: bool,
    #[serde(default, deserialize_with = "given")]
    mtu: Option<u32>,
    mac: Option<String>,
    owner: Option<u32>,
    group: Option<u32>,
    #[serde(default)]
    selinux_context: String,
    #[serde(default)]
    bridge: String,
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let shared = Shared::read(request, "tap")?;
    let config: Config = request.read("tap")?;
    if !config.bridge.is_empty() {
        corten_spec::cni::check_ifname(&config.bridge)?;
    }
    let delete = |request: &Request<'_>, undo| {
        shared.release(request, || delete_inside(request, "tun", undo))
    };
    match request.verb {
        Verb::Add => or_undo(
            request,
            || add(request, &config, &shared),
            |request| delete(request, true),
        )
        .map(Some),
        Verb::Del => delete(request, false).map(|()| None),
        Verb::Check => {
            shared.forward(request)?;
            let previous = request.need_previous("tap")?;
            check_inside(request, &previous, Some("tun"), |_| Ok(())).map(|()| None)
        }
        Verb::Gc => {
            request.valid_attachments()?;
            shared.forward(request).map(|()| None)
        }
        Verb::Status => shared.forward(request).map(|()| None),
    }
}

fn add(request: &Request<'_>, config: &Config, shared: &Shared) -> Result<CniResult, Error> {
    if !config.selinux_context.is_empty() {
        // The link's label is that of the process that makes it, and a thread cannot change its
        // own away from its process's.
        let reason = "would need a process of that context to make the link";
        return Err(wrong_key("selinuxContext", &config.selinux_context, reason));
    }
    let mac = Asked::mac(request, "tap", config.mac.as_deref())?;
    let mac = mac.unwrap_or_else(|| request.owner().mac("container"));
    let mut result = add_inside(request, Source::Ipam(shared), |inside| {
        let owner = request.owner();
        netns::inside(inside, request.netns, || make(&owner, config, mac))
    })?;
    shared.override_dns(&mut result);
    Ok(result)
}

fn make(owner: &Owner, config: &Config, mac: Mac) -> Result<(), Error> {
    let mut links = Links::open()?;
    prepare_inside(&mut links, owner)?;
    let master = match config.bridge.as_str() {
        "" => None,
        bridge => Some(need_link(&mut links, bridge)?.index),
    };
    let refused = |source| Error::Tap {
        name: owner.ifname.clone(),
        source,
    };
    let file = tap::create(&owner.ifname, config.multi_queue).map_err(refused)?;
    if let Some(uid) = config.owner {
        tap::set_owner(&file, uid).map_err(refused)?;
    }
    if let Some(gid) = config.group {
        tap::set_group(&file, gid).map_err(refused)?;
    }
    let alias = owner.to_string();
    let change = Change {
        mac: Some(mac),
        mtu: config.mtu,
        alias: Some(&alias),
        master,
        ..Default::default()
    };
    let link = need_link(&mut links, &owner.ifname)?;
    links.change(&link, &change)?;
    failpoint!("tap.add.unkept");
    tap::keep(&file).map_err(refused)
}

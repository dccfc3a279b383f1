//! `host-device`: gives a link of the host to the container, and takes it back.
//!
//! ```text
//!   host: eth1 ──ADD──▶ container: net1, alias "eth1" ──DEL──▶ host: eth1
//! ```
//!
//! The link moves, gets its name and its alias in one message, so that it is never anywhere under a
//! name that clashes. Its name on the host is in its alias, where the reference plugin looks too, and
//! in a record on disk: what is inside belongs to the container, which may have changed it.

mod find;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use corten_spec::cni::{CniResult, check_ifname};
use serde::{Deserialize, Serialize};

use super::container::{
    Shared, Source, Told, add_inside, check_inside, missing, or_undo, prepare_inside,
};
use super::record::{Records, Whose};
use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Change, Link, Links, Mac, mac_text, netns};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    device: String,
    #[serde(default)]
    hwaddr: String,
    #[serde(default)]
    kernelpath: String,
    #[serde(default, rename = "pciBusID")]
    pci_bus_id: String,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    /// Ours: where the records are.
    #[serde(default = "default_dir")]
    data_dir: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    #[serde(default, rename = "deviceID")]
    device_id: String,
}

fn default_dir() -> PathBuf {
    "/run/cni/host-device".into()
}

/// What must be known to bring the link home.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    #[serde(flatten)]
    whose: Whose,
    /// On the host.
    name: String,
    mac: String,
    kind: String,
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let shared = Shared::read(request, "host-device")?;
    let config: Config = request.read("host-device")?;
    let records = Records::new(&config.data_dir);
    match request.verb {
        Verb::Add => or_undo(
            request,
            || add(request, &config, &shared, &records),
            |request| del(request, &shared, &records, true),
        )
        .map(Some),
        Verb::Del => del(request, &shared, &records, false).map(|()| None),
        Verb::Check => {
            shared.forward(request)?;
            let previous = request.need_previous("host-device")?;
            check_inside(request, &previous, None, |_| Ok(())).map(|()| None)
        }
        Verb::Gc => gc(request, &shared, &records).map(|()| None),
        Verb::Status => {
            find::Wanted::of(&config)?;
            shared.forward(request).map(|()| None)
        }
    }
}

fn add(
    request: &Request<'_>,
    config: &Config,
    shared: &Shared,
    records: &Records,
) -> Result<CniResult, Error> {
    let wanted = find::Wanted::of(config)?;
    let (id, ifname) = (request.container_id, request.ifname);
    // A killed ADD may have got the link inside, where it would not be found.
    if let Some(record) = records.read::<Record>(id, ifname)? {
        bring_home(request.netns, ifname, &record, records)?;
    }
    let mut links = Links::open()?;
    let device = wanted.find(&mut links)?;
    let record = Record {
        whose: Whose::of(request),
        name: device.name.clone(),
        mac: device.mac.map(mac_text).unwrap_or_default(),
        kind: device.kind.clone(),
    };
    let owner = request.owner();
    let mut result = add_inside(request, Source::Ipam(shared), |inside| {
        netns::inside(inside, request.netns, || {
            prepare_inside(&mut Links::open()?, &owner)
        })?;
        records.write(id, ifname, &record)?;
        failpoint!("host-device.add.recorded");
        let change = Change {
            netns: Some(inside.as_raw_fd()),
            name: Some(ifname),
            alias: Some(&device.name),
            ..Default::default()
        };
        links.change(&device, &change)
    })?;
    shared.override_dns(&mut result);
    Ok(result)
}

/// `undo`: what an ADD of ours moved, as its record says.
fn del(request: &Request<'_>, shared: &Shared, records: &Records, undo: bool) -> Result<(), Error> {
    shared.release(request, || give_back(request, records, undo))
}

fn give_back(request: &Request<'_>, records: &Records, undo: bool) -> Result<(), Error> {
    let (id, ifname) = (request.container_id, request.ifname);
    if let Some(record) = records.read::<Record>(id, ifname)? {
        return bring_home(request.netns, ifname, &record, records);
    }
    // Moved by the reference plugin, which has but the alias. A card cannot be made inside; any other
    // link can, with any alias, and would come to the host under the name of the container's choice.
    let Some(inside) = netns::open_if_there(request.netns)?.filter(|_| !undo) else {
        return Ok(());
    };
    let home = netns::open(Path::new("/proc/thread-self/ns/net"))?;
    let told = Told::of(request);
    netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        match links.by_name(ifname)? {
            Some(link)
                if check_ifname(&link.alias).is_ok()
                    && (link.kind.is_empty() || told.is(&link)) =>
            {
                let name = link.alias.clone();
                links.change(&link, &homewards(home.as_raw_fd(), &name))
            }
            _ => Ok(()),
        }
    })
}

fn homewards(home: i32, name: &str) -> Change<'_> {
    Change {
        netns: Some(home),
        name: Some(name),
        alias: Some(""),
        ..Default::default()
    }
}

/// Brings the link back under its own name, down, and forgets it.
fn bring_home(path: &Path, ifname: &str, record: &Record, records: &Records) -> Result<(), Error> {
    let whose = &record.whose;
    let home = netns::open(Path::new("/proc/thread-self/ns/net"))?;
    let inside = match whose.is_at(path) {
        true => netns::open_if_there(path)?,
        false => None,
    };
    let mut back = false;
    if let Some(inside) = inside {
        back = netns::inside(&inside, path, || {
            let mut links = Links::open()?;
            let Some(link) = recognize(&mut links, ifname, record)? else {
                return Ok(false);
            };
            links.change(&link, &homewards(home.as_raw_fd(), &record.name))?;
            Ok(true)
        })?;
    }
    let mut links = Links::open()?;
    if !back {
        back = take_from_kernel(&mut links, record)?;
    }
    // A namespace that has just died gives its links back in a thread of the kernel's: the record
    // stays until somebody (ADD, DEL again, GC) sees the link.
    if back {
        records.remove(&whose.container_id, &whose.ifname)?;
    }
    Ok(())
}

/// The link inside, as far as it is what it was: a container may have put another in its place,
/// which is not to appear on the host.
fn recognize(links: &mut Links, ifname: &str, record: &Record) -> Result<Option<Link>, Error> {
    let is_it = |link: &Link| link.kind == record.kind && link.alias == record.name;
    let by_name = links.by_name(ifname)?.filter(|l| is_it(l));
    if by_name.is_some() {
        return Ok(by_name);
    }
    Ok(links.list(None)?.into_iter().find(is_it))
}

/// The kernel gives a dead namespace's physical links back under whatever name is free. Whether the
/// link is home.
fn take_from_kernel(links: &mut Links, record: &Record) -> Result<bool, Error> {
    let mac: Option<Mac> = crate::link::parse_mac(&record.mac);
    for link in links.list(None)? {
        if link.kind != record.kind || link.mac != mac {
            continue;
        }
        if link.alias == record.name {
            let change = Change {
                name: Some(&record.name),
                alias: Some(""),
                ..Default::default()
            };
            links.change(&link, &change)?;
            return Ok(true);
        }
        if link.name == record.name {
            return Ok(true);
        }
    }
    // Not a physical one: gone with its namespace.
    Ok(!record.kind.is_empty())
}

fn gc(request: &Request<'_>, shared: &Shared, records: &Records) -> Result<(), Error> {
    let valid = request.valid_attachments()?;
    shared.forward(request)?;
    for (whose, record) in records.of_network::<Record>(request.network())? {
        let kept = valid
            .iter()
            .any(|v| v.container_id == whose.container_id && v.ifname == whose.ifname);
        if !kept {
            bring_home(&whose.netns, &whose.ifname, &record, records)?;
        }
    }
    Ok(())
}

/// A link that is not there.
fn not_found(what: &str) -> Error {
    missing(what)
}

//! Which link of the host is meant: by name, address, or place in sysfs.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::container::wrong_key;
use super::{Config, not_found};
use crate::Error;
use crate::link::{Link, Links, Mac, mac_text, parse_mac};

const PCI: &str = "/sys/bus/pci/devices";
const AUXILIARY: &str = "/sys/bus/auxiliary/devices";
/// Drivers that hand a network card to a program: it has no link then.
const USERSPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// What the configuration asks for.
#[derive(Debug)]
pub enum Wanted {
    Name(String),
    Address(Mac),
    /// A folder of sysfs with the names of links.
    Folder(PathBuf),
}

impl Wanted {
    pub fn of(config: &Config) -> Result<Self, Error> {
        let id = config.runtime_config.device_id.as_str();
        if !id.is_empty() {
            return by_device_id(id);
        }
        if !config.device.is_empty() {
            corten_spec::cni::check_ifname(&config.device)?;
            return Ok(Self::Name(config.device.clone()));
        }
        if !config.hwaddr.is_empty() {
            let mac = parse_mac(&config.hwaddr);
            return mac.map(Self::Address).ok_or_else(|| {
                wrong_key("hwaddr", &config.hwaddr, "is no unicast Ethernet address")
            });
        }
        if !config.kernelpath.is_empty() {
            let path = Path::new(&config.kernelpath);
            let plain = path
                .components()
                .all(|c| !matches!(c, std::path::Component::ParentDir));
            if !path.starts_with("/sys/devices") || !plain {
                let reason = "is no path below /sys/devices";
                return Err(wrong_key("kernelpath", &config.kernelpath, reason));
            }
            return Ok(Self::Folder(path.join("net")));
        }
        if !config.pci_bus_id.is_empty() {
            return by_pci("pciBusID", &config.pci_bus_id);
        }
        Err(Error::Invalid {
            what: "the configuration of plugin",
            value: "host-device".into(),
            reason: "names no device, hwaddr, kernelpath or pciBusID".into(),
        })
    }

    pub fn find(&self, links: &mut Links) -> Result<Link, Error> {
        match self {
            Self::Name(name) => links.by_name(name)?.ok_or_else(|| not_found(name)),
            Self::Address(mac) => links
                .list(None)?
                .into_iter()
                .find(|l| l.mac == Some(*mac))
                .ok_or_else(|| not_found(&mac_text(*mac))),
            Self::Folder(folder) => {
                let entries = fs::read_dir(folder).map_err(|source| Error::File {
                    action: "list",
                    path: folder.clone(),
                    source,
                })?;
                let mut names: Vec<String> = entries
                    .flatten()
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .collect();
                names.sort_unstable();
                let name = names
                    .first()
                    .ok_or_else(|| not_found(&folder.display().to_string()))?;
                links.by_name(name)?.ok_or_else(|| not_found(name))
            }
        }
    }
}

/// A name that is one component of a path.
fn component(key: &'static str, id: &str) -> Result<(), Error> {
    match id.contains('/') || id == "." || id == ".." {
        false => Ok(()),
        true => Err(wrong_key(key, id, "is no device's")),
    }
}

fn by_device_id(id: &str) -> Result<Wanted, Error> {
    component("deviceID", id)?;
    if Path::new(PCI).join(id).exists() {
        return by_pci("deviceID", id);
    }
    let auxiliary = Path::new(AUXILIARY).join(id);
    match auxiliary.exists() {
        true => Ok(Wanted::Folder(auxiliary.join("net"))),
        false => Err(wrong_key(
            "deviceID",
            id,
            "is no device of the PCI or auxiliary bus",
        )),
    }
}

fn by_pci(key: &'static str, id: &str) -> Result<Wanted, Error> {
    component(key, id)?;
    let device = Path::new(PCI).join(id);
    let driver = fs::read_link(device.join("driver")).unwrap_or_default();
    let driver = driver.file_name().unwrap_or_default().to_string_lossy();
    if USERSPACE_DRIVERS.contains(&driver.as_ref()) {
        let reason = format!("is bound to {driver}: a card for DPDK, which has no link to move");
        return Err(wrong_key(key, id, reason));
    }
    if device.join("net").exists() {
        return Ok(Wanted::Folder(device.join("net")));
    }
    // A virtio card has its link one level below.
    let below = fs::read_dir(&device).into_iter().flatten().flatten();
    let virtio = below
        .map(|e| e.path())
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("virtio"))
        })
        .map(|p| p.join("net"))
        .find(|p| p.exists());
    virtio
        .map(Wanted::Folder)
        .ok_or_else(|| wrong_key(key, id, "has no network link"))
}

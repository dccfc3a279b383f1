//! What crashes left of networks: compared with the containers that run, named, and put right.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use corten_net::cni::{Attachment, NetworkConfigList};
use corten_net::{network, recover};
use corten_spec::Kind;

use super::attach::attachment;
use super::{Network, Plan, Reloaded};
use crate::Engine;
use crate::container::Status;
use crate::container::record::Attached;
use crate::error::Error;
use crate::recovery::Finding;

/// What is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The container that has it; the network itself if absent.
    pub container: Option<String>,
    pub text: String,
}

impl Fault {
    fn new(container: Option<&str>, error: &corten_net::Error) -> Self {
        Self {
            container: container.map(Into::into),
            text: error.chain(),
        }
    }
}

impl Engine {
    /// Looks at each network for what belongs to a container that does not run.
    pub(crate) fn check_networks(
        &self,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let networks = self.networks()?;
        for name in self.caller().networks()? {
            // A configuration that was taken out of its folder since.
            if !networks.iter().any(|n| n.name == name) {
                self.check_remembered(&name, repair, found)?;
            }
        }
        for network in networks {
            let list = network.list(&self.place(), 0)?;
            if let Plan::Definition(_) = network.plan {
                self.check_holdings(&list, repair, found)?;
            }
            self.check_remembered(&network.name, repair, found)?;
            for missing in recover::intact(&list, &self.paths.cni_cache())? {
                found.push(Finding {
                    what: format!("firewall rule of network {}, which is gone", network.name),
                    place: missing,
                    repaired: repair,
                });
            }
            if repair {
                recover::gather(&list)?;
                self.reload_network(&network)?;
            }
        }
        self.check_names(repair, found)
    }

    /// Links, addresses and ports, each of which says whose it is.
    fn check_holdings(
        &self,
        list: &NetworkConfigList,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let holdings = self.settled_holdings(list)?;
        let owners: BTreeSet<&str> = holdings.containers().into_iter().collect();
        for owner in owners {
            let Some(_claim) = self.claim(owner)? else {
                continue;
            };
            let links = holdings
                .links
                .iter()
                .filter(|l| l.container_id == owner)
                .map(|l| ("link", l.name.clone()));
            let addresses = holdings
                .addresses
                .iter()
                .filter(|a| a.container_id == owner)
                .map(|a| ("address", a.address.to_string()));
            let ports = holdings
                .ports
                .iter()
                .filter(|p| p.container_id == owner)
                .map(|p| ("published port", format!("{}/{}", p.host, p.protocol)));
            let admissions = holdings
                .admissions
                .iter()
                .filter(|a| a.container_id == owner)
                .map(|a| ("firewall rule", a.what.clone()));
            for (what, place) in links.chain(addresses).chain(ports).chain(admissions) {
                found.push(Finding {
                    what: format!("{what} of container {owner:.12}, which does not run"),
                    place,
                    repaired: repair,
                });
            }
            if repair {
                recover::free(list, owner)?;
            }
        }
        Ok(())
    }

    /// The kernel takes a dead container's link away some milliseconds after its last process.
    fn settled_holdings(&self, list: &NetworkConfigList) -> Result<recover::Holdings, Error> {
        let mut holdings = recover::holdings(list)?;
        for _ in 0..20 {
            let mut stray = false;
            for link in &holdings.links {
                stray |= self.claim(&link.container_id)?.is_some();
            }
            if !stray {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            holdings = recover::holdings(list)?;
        }
        Ok(holdings)
    }

    /// Attachments that ADD made and no DEL has taken off; of foreign plugins they are all that is known.
    fn check_remembered(
        &self,
        network: &str,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let caller = self.caller();
        for attached in caller.attached(network)? {
            let Some(_claim) = self.claim(&attached.container_id)? else {
                continue;
            };
            if repair {
                let mut from = Attachment::new(attached.container_id.parse()?, "");
                from.ifname.clone_from(&attached.ifname);
                caller.del_remembered(network, &from)?;
            }
            found.push(Finding {
                what: format!(
                    "attachment of container {:.12}, which does not run",
                    attached.container_id
                ),
                place: format!("{} on network {network}", attached.ifname),
                repaired: repair,
            });
        }
        Ok(())
    }

    /// Whether the network could take a container, and whether those that run on it have what they were given.
    pub fn check_network(&self, network: &Network) -> Result<Vec<Fault>, Error> {
        let caller = self.caller();
        let list = network.list(&self.place(), 0)?;
        // As for a container that would attach now.
        self.ensure_leases(network)?;
        let ready = caller.validate(&list).and_then(|_| caller.status(&list));
        let mut faults: Vec<Fault> = Vec::new();
        faults.extend(ready.err().map(|e| Fault::new(None, &e)));
        let members = self.members(network)?;
        if !members.is_empty() {
            let obstacles = recover::obstacles(&list)?;
            faults.extend(obstacles.iter().map(|o| Fault {
                container: None,
                text: o.to_string(),
            }));
        }
        for container in members {
            let (_lock, container) = match self.try_hold(&container.id) {
                Ok(Some(held)) => held,
                // Another process changes it at this moment, or has removed it.
                Ok(None) | Err(Error::ContainerMissing { .. } | Error::ContainerState { .. }) => {
                    continue;
                }
                Err(e) => return Err(e),
            };
            let Status::Running { pid } = self.status(&container)? else {
                continue;
            };
            let run = container.record.run.clone().unwrap_or_default();
            let endpoints = container.record.options.network.endpoints();
            for endpoint in endpoints.iter().filter(|e| e.network == network.name) {
                let publishes = |n: &&Attached| n.network == network.name && n.publishes;
                let ports = match run.networks.iter().find(publishes) {
                    Some(_) => run.ports.as_slice(),
                    None => &[],
                };
                let netns = format!("/proc/{pid}/ns/net");
                let of = attachment(&container.id, &netns, endpoint, ports);
                let list = network.list(&self.place(), endpoint.ordinal)?;
                let differs = caller.check(&list, &of).err();
                // One that has ended meanwhile has lost its link, as it should; its supervisor may not know yet.
                let ended = || {
                    Ok::<_, Error>(
                        !Path::new(&netns).exists() || !self.status(&container)?.is_running(),
                    )
                };
                if differs.is_some() && ended()? {
                    break;
                }
                faults.extend(differs.map(|e| Fault::new(Some(container.name.as_str()), &e)));
            }
        }
        Ok(faults)
    }

    /// Puts back what other programs have taken out of the firewall; says what was missing.
    pub fn reload_network(&self, network: &Network) -> Result<Reloaded, Error> {
        let list = network.list(&self.place(), 0)?;
        Ok(recover::reload(&list, &self.paths.cni_cache())?)
    }

    /// Takes away what the default network has on the host; it comes again with the next container.
    pub(crate) fn remove_default_network(&self) -> Result<(), Error> {
        match network::remove(&self.default_network().list(&self.place(), 0)?) {
            // Another engine with the same settings has containers on it.
            Err(e) if e.kind() == Kind::Busy => Ok(()),
            done => Ok(done?),
        }
    }
}

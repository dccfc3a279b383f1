//! Names: containers of a network find each other by them. One resolver serves all networks of an engine; it is
//! started by the first container that needs it, ends with the last, and is started again by any container's supervisor.

use std::net::SocketAddr;

use corten_net::names::{Entry, Membership, PORT, Registration, Resolver};
use corten_shim::client::Client;

use super::Network;
use crate::Engine;
use crate::container::options::Endpoint;
use crate::container::record::{Attached, Run};
use crate::container::{Container, executable, global_flags};
use crate::error::Error;
use crate::recovery::Finding;

/// The name by which our executable is the resolver.
pub const RESOLVER: &str = "corten-dns";

impl Engine {
    fn resolver(&self) -> Result<Resolver, Error> {
        let folder = self.paths.run().join("dns");
        Ok(Resolver::new(&folder, &executable()?, RESOLVER))
    }

    /// Whether a container on these networks asks our resolver.
    pub(crate) fn has_names<'n>(
        &self,
        networks: impl IntoIterator<Item = &'n str>,
    ) -> Result<bool, Error> {
        for name in networks {
            if self.network_named(name)?.is_some_and(|n| n.dns) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Enters a container that is attached: its lookups are answered, and others find it.
    pub(crate) fn register_names(
        &self,
        container: &Container,
        run: &Run,
        shim: &mut Client,
    ) -> Result<(), Error> {
        let networks = self.memberships(container, run)?;
        let options = &container.record.options.network;
        let resolver = self.resolver()?;
        resolver.register(&Registration {
            container: container.id.clone(),
            pid: run.pid,
            netns: format!("/proc/{}/ns/net", run.pid).into(),
            networks,
            upstream: options
                .dns
                .iter()
                .map(|ip| SocketAddr::new(*ip, PORT))
                .collect(),
        })?;
        let mut command = global_flags(&self.paths)?;
        command.extend(["system", "names"].map(Into::into));
        Ok(shim.watch(&resolver.socket_path(), command)?)
    }

    /// What it is called on each of its networks that has names; those without are ways out all the same.
    fn memberships(&self, container: &Container, run: &Run) -> Result<Vec<Membership>, Error> {
        let mut all = Vec::new();
        for endpoint in container.record.options.network.endpoints() {
            let attached = run.networks.iter().find(|n| n.network == endpoint.network);
            let Some(attached) = attached else { continue };
            if let Some(network) = self.network_named(&endpoint.network)? {
                all.push(membership(container, &endpoint, &network, attached));
            }
        }
        Ok(all)
    }

    /// Takes a container's names back, and its namespace out of the resolver's hands; where it has none, nothing.
    pub(crate) fn withdraw_names(&self, container: &Container) -> Result<(), Error> {
        Ok(self.resolver()?.withdraw(&container.id)?)
    }

    /// What a supervisor asks for when the resolver has gone.
    pub fn ensure_names(&self) -> Result<(), Error> {
        Ok(self.resolver()?.ensure()?)
    }

    /// Names of containers that do not run, and files that are none.
    pub(crate) fn check_names(&self, repair: bool, found: &mut Vec<Finding>) -> Result<(), Error> {
        let resolver = self.resolver()?;
        for entry in resolver.list()? {
            let (what, place) = match &entry {
                Entry::Alive(r) | Entry::Dead(r) => {
                    let Some(_claim) = self.claim(r.container.as_str())? else {
                        continue;
                    };
                    if repair {
                        resolver.withdraw(&r.container)?;
                    }
                    let id = r.container.short();
                    (
                        format!("names of container {id}, which does not run"),
                        r.container.to_string(),
                    )
                }
                Entry::Broken { path, reason } => {
                    if repair {
                        std::fs::remove_file(path).map_err(Error::io("remove", path))?;
                    }
                    (
                        format!("registration of names that is none ({reason})"),
                        path.display().to_string(),
                    )
                }
            };
            found.push(Finding {
                what,
                place,
                repaired: repair,
            });
        }
        Ok(())
    }
}

/// What the network's other containers find it by.
pub(crate) fn names_on(
    network: &Network,
    container: &Container,
    endpoint: &Endpoint,
) -> Vec<String> {
    if !network.dns {
        return Vec::new();
    }
    let mut names = vec![container.name.to_string(), container.id.short().to_owned()];
    names.extend(endpoint.aliases.clone());
    names
}

fn membership(
    container: &Container,
    endpoint: &Endpoint,
    network: &Network,
    attached: &Attached,
) -> Membership {
    let mut addresses = Vec::new();
    if network.dns {
        addresses.extend(attached.addresses.iter().map(|a| a.address()));
    }
    Membership {
        network: network.name.clone(),
        names: names_on(network, container, endpoint),
        addresses,
        internal: network.is_internal(),
    }
}

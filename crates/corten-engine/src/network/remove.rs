//! Taking networks away: what they have on the host first, their row last.

use corten_net::network;
use corten_spec::Kind;

use super::{Network, NetworkError, Origin};
use crate::Engine;
use crate::container::Container;
use crate::error::Error;

impl Engine {
    /// Removes a network that no container is on. `force`: with the containers that are on it, running or not.
    pub fn remove_network(&self, network: &Network, force: bool) -> Result<(), Error> {
        let what = match &network.origin {
            Origin::Created => None,
            Origin::Default => Some("the default network".to_owned()),
            Origin::File(path) => Some(format!("the configuration {}", path.display())),
        };
        if let Some(what) = what {
            return Err(NetworkError::NotOurs {
                name: network.name.clone(),
                action: "removed",
                what,
            }
            .into());
        }
        for container in self.members(network)? {
            match force {
                true => self.remove(&container, true, true)?,
                false => return Err(self.in_use(network)?),
            }
        }
        match network::remove(&network.list(&self.place(), 0)?) {
            // A container came meanwhile.
            Err(e) if e.kind() == Kind::Busy && !self.members(network)?.is_empty() => {
                return Err(self.in_use(network)?);
            }
            done => done?,
        }
        match self.store.networks().delete(&network.id.parse()?) {
            // Another process was faster.
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            Err(e) if e.kind() == Kind::Busy => Err(self.in_use(network)?),
            done => Ok(done?),
        }
    }

    /// Every container that is on the network, running or not.
    pub fn members(&self, network: &Network) -> Result<Vec<Container>, Error> {
        let mut all = self.containers()?;
        all.retain(|c| {
            let endpoints = c.record.options.network.endpoints();
            endpoints.iter().any(|e| e.network == network.name)
        });
        Ok(all)
    }

    fn in_use(&self, network: &Network) -> Result<Error, Error> {
        let members = self.members(network)?;
        Ok(NetworkError::InUse {
            name: network.name.clone(),
            containers: members.iter().map(|c| c.name.to_string()).collect(),
        }
        .into())
    }

    /// Removes the networks that were made, fit, and have no container.
    pub fn prune_networks(&self, fits: impl Fn(&Network) -> bool) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for network in self.networks()? {
            if network.origin != Origin::Created
                || !fits(&network)
                || !self.members(&network)?.is_empty()
            {
                continue;
            }
            match self.remove_network(&network, false) {
                Ok(()) => removed.push(network.name),
                // A container came meanwhile.
                Err(e) if e.kind() == Kind::Busy => {}
                Err(e) => return Err(e),
            }
        }
        Ok(removed)
    }
}

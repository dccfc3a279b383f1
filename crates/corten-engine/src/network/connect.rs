//! Connect and disconnect: changes of a container's networks, while it runs or not. The record comes first and goes
//! last, so that whatever a crash leaves has an owner that says so.
//!
//! ```text
//!              wanted (options)   had (run)
//!   on it            x               x
//!   in between       x                        begun by connect, or not ended by disconnect: a repair takes it off
//!   off it
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use corten_net::recover;
use corten_spec::ContainerId;

use super::attach::{attachment, namespace_of};
use super::ports::forwards;
use super::{Files, Network, NetworkError};
use crate::Engine;
use crate::container::options::{Endpoint, NetworkMode, NetworkOptions};
use crate::container::record::Run;
use crate::container::{Container, Status, hostname, row};
use crate::error::Error;
use crate::recovery::Finding;

/// What a container wants on a network that it is connected to.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    pub aliases: Vec<String>,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<String>,
    pub interface: Option<String>,
}

impl Engine {
    /// Puts a container on one more network; at once if it runs.
    pub fn connect(
        &self,
        network: &Network,
        container: &Container,
        options: ConnectOptions,
    ) -> Result<(), Error> {
        let (_lock, mut container) = self.hold(&container.id)?;
        let before = own_endpoints(&container)?;
        if before.iter().any(|e| e.network == network.name) {
            return Err(NetworkError::Connected {
                container: container.name.to_string(),
                network: network.name.clone(),
            }
            .into());
        }
        let endpoint = Endpoint {
            network: network.name.clone(),
            ordinal: before.iter().map(|e| e.ordinal + 1).max().unwrap_or(0),
            aliases: options.aliases,
            ip: options.ip,
            ip6: options.ip6,
            mac: options.mac,
            interface: options.interface,
        };
        let mut after = before.clone();
        after.push(endpoint.clone());
        let checked = NetworkOptions {
            endpoints: Some(after.clone()),
            ports: Vec::new(),
            ..container.record.options.network.clone()
        };
        self.check_network_options(&checked)?;
        self.change_endpoints(&mut container, after)?;
        let Some((pid, run)) = self.running(&container)? else {
            return Ok(());
        };
        // Where a disconnect has left the published ports without a network, they go on here.
        let ports = match run.networks.iter().any(|n| n.publishes) || !network.can_publish() {
            true => &[],
            false => run.ports.as_slice(),
        };
        match self.attach_to(&container.id, &namespace_of(pid), &endpoint, network, ports) {
            Ok(attached) => {
                let mut now = run.clone();
                now.attached(attached);
                self.renew_run(&mut container, &run, now)
            }
            Err(e) => {
                self.change_endpoints(&mut container, before)?;
                Err(e)
            }
        }
    }

    /// Takes a container off a network; at once if it runs. `force`: even where a plugin refuses, in which case what is
    /// known to belong to it is freed.
    pub fn disconnect(
        &self,
        network: &str,
        container: &Container,
        force: bool,
    ) -> Result<(), Error> {
        let (_lock, mut container) = self.hold(&container.id)?;
        self.take_off(network, &mut container, force)
    }

    /// Of a container that is held.
    fn take_off(&self, network: &str, container: &mut Container, force: bool) -> Result<(), Error> {
        let mut endpoints = own_endpoints(container)?;
        // By the name that the network has, or had.
        let name = match endpoints.iter().any(|e| e.network == network) {
            true => network.to_owned(),
            false => self.network(network)?.name,
        };
        let Some(at) = endpoints.iter().position(|e| e.network == name) else {
            return Err(NetworkError::NotConnected {
                container: container.name.to_string(),
                network: name,
            }
            .into());
        };
        let endpoint = endpoints.remove(at);
        if let Some((pid, run)) = self.running(container)? {
            let mut now = run.clone();
            now.detached(&name);
            // Whoever finds it so knows what was under way.
            self.set_run(container, &now)?;
            // The others must not be told an address that is nobody's; it is entered again without this network below.
            self.withdraw_names(container)?;
            match self.detach_from(&container.id, &format!("/proc/{pid}/ns/net"), &endpoint) {
                Err(_) if force => {
                    if let Some(network) = self.network_named(&name)? {
                        let list = network.list(&self.place(), endpoint.ordinal)?;
                        recover::free(&list, container.id.as_str())?;
                    }
                }
                Err(e) => {
                    self.renew_run(container, &now, run)?;
                    return Err(e);
                }
                Ok(()) => {}
            }
            if !now.ports.is_empty() && now.networks.iter().all(|n| !n.publishes) {
                self.publish_elsewhere(container, pid, &endpoints, &mut now)?;
            }
            self.renew_run(container, &run, now)?;
        }
        self.change_endpoints(container, endpoints)
    }

    /// Networks that a running container is neither on nor off, after a kill: it is taken off them.
    pub(crate) fn check_connections(
        &self,
        repair: bool,
        found: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        for container in self.containers()? {
            let (_lock, mut container) = match self.try_hold(&container.id) {
                // Another process is at it; or it has nothing but its row.
                Ok(None) | Err(Error::ContainerMissing { .. } | Error::ContainerState { .. }) => {
                    continue;
                }
                Ok(Some(held)) => held,
                Err(e) => return Err(e),
            };
            let Some((_, run)) = self.running(&container)? else {
                continue;
            };
            let NetworkMode::Bridge = container.record.options.network.mode else {
                continue;
            };
            // One that has not started yet has its networks to come, or is a finding of its own.
            if self.waits_for_nobody(&container)? {
                continue;
            }
            for endpoint in own_endpoints(&container)? {
                let name = &endpoint.network;
                if run.networks.iter().any(|n| n.network == *name) {
                    continue;
                }
                if repair {
                    self.take_off(name, &mut container, true)?;
                }
                found.push(Finding {
                    what: format!("connection to network {name} that is neither made nor undone"),
                    place: container.name.to_string(),
                    repaired: repair,
                });
            }
        }
        Ok(())
    }

    /// The published ports go on through the next of the networks that can.
    fn publish_elsewhere(
        &self,
        container: &Container,
        pid: u32,
        endpoints: &[Endpoint],
        run: &mut Run,
    ) -> Result<(), Error> {
        for endpoint in endpoints {
            let network = self.network_named(&endpoint.network)?;
            let Some(network) = network.filter(Network::can_publish) else {
                continue;
            };
            let list = network.list(&self.place(), endpoint.ordinal)?;
            let netns = format!("/proc/{pid}/ns/net");
            let to = attachment(&container.id, &netns, endpoint, &run.ports);
            self.caller().renew(&list, &to, "portmap")?;
            for n in &mut run.networks {
                n.publishes = n.network == network.name;
            }
            break;
        }
        Ok(())
    }

    /// The pid and the run of a container that runs.
    fn running(&self, container: &Container) -> Result<Option<(u32, Run)>, Error> {
        match self.status(container)? {
            Status::Running { pid } => Ok(Some((
                pid,
                container.record.run.clone().unwrap_or_default(),
            ))),
            _ => Ok(None),
        }
    }

    /// After a change: the record, the names, the files that the container reads, the sockets that pass on.
    fn renew_run(&self, container: &mut Container, before: &Run, now: Run) -> Result<(), Error> {
        self.set_run(container, &now)?;
        match self.tell_of_run(container, before, &now) {
            // It has ended meanwhile: nobody is left to be told.
            Err(_) if !self.status(container)?.is_running() => Ok(()),
            told => told,
        }
    }

    fn tell_of_run(&self, container: &Container, before: &Run, now: &Run) -> Result<(), Error> {
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Ok(());
        };
        let names = |run: &Run| self.has_names(run.networks.iter().map(|n| n.network.as_str()));
        let (named_before, named_now) = (names(before)?, names(now)?);
        match named_now {
            true => self.register_names(container, now, &mut shim)?,
            // Nobody to look after any more.
            false if named_before => shim.watch(Path::new(""), Vec::new())?,
            false => {}
        }
        let files = Files::of(&self.paths.container(&container.id));
        let options = &container.record.options;
        let hostname = hostname(options, &container.id)?;
        let old = files.texts(&hostname, &options.network, before, named_before)?;
        let new = files.texts(&hostname, &options.network, now, named_now)?;
        files.rewrite(&old, &new)?;
        if before.published_to() != now.published_to() {
            shim.forward(forwards(&now.ports, &now.published_to()))?;
        }
        Ok(())
    }

    fn set_run(&self, container: &mut Container, run: &Run) -> Result<(), Error> {
        container.record.run = Some(run.clone());
        self.update(container)
    }

    fn change_endpoints(
        &self,
        container: &mut Container,
        endpoints: Vec<Endpoint>,
    ) -> Result<(), Error> {
        let rows = self.rows_of(&endpoints)?;
        container.record.options.network.endpoints = Some(endpoints);
        let record = row(container)?.record;
        let networks = self.store.networks();
        Ok(networks.set_members(&container.id, &record, &rows)?)
    }

    /// The ids of those of the networks that have rows.
    pub(crate) fn rows_of(&self, endpoints: &[Endpoint]) -> Result<Vec<ContainerId>, Error> {
        let mut ids = Vec::new();
        for endpoint in endpoints {
            match self.network_named(&endpoint.network)? {
                Some(n) if n.origin == super::Origin::Created => ids.push(n.id.parse()?),
                // A file has no row, whether it is still there or not.
                _ => {}
            }
        }
        Ok(ids)
    }
}

/// The networks of a container that may have several.
fn own_endpoints(container: &Container) -> Result<Vec<Endpoint>, Error> {
    let options = &container.record.options.network;
    match &options.mode {
        NetworkMode::Bridge => Ok(options.endpoints()),
        other => Err(NetworkError::Alone {
            container: container.name.to_string(),
            mode: other.text(),
        }
        .into()),
    }
}

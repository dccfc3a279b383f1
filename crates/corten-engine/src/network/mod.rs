//! A container's place on the network: its ports held, its address given, its hosts and
//! resolver files written.

mod files;
mod ports;

use corten_net::cni::{Attachment, Caller, Capabilities, NetworkConfigList};
use corten_net::network::Bridge;
use corten_spec::ContainerId;

use crate::Engine;
use crate::container::options::{NetworkMode, NetworkOptions};
use crate::container::record::Run;
use crate::error::Error;

pub(crate) use files::Files;
use ports::port_argument;
pub(crate) use ports::{HeldPort, hold_ports};

impl Engine {
    pub(crate) fn network_list(&self) -> Result<NetworkConfigList, Error> {
        let n = &self.config.network;
        let mut bridge = Bridge::new(&self.paths.ipam());
        bridge.bridge.clone_from(&n.bridge);
        bridge.subnets.clone_from(&n.subnets);
        bridge.table.clone_from(&n.table);
        Ok(bridge.list()?)
    }

    fn caller(&self) -> Caller {
        Caller::new(vec![], self.paths.cni_cache())
    }

    /// Puts the container on its network. Its init must exist, and not have started.
    pub(crate) fn attach_network(
        &self,
        id: &ContainerId,
        options: &NetworkOptions,
        run: &mut Run,
    ) -> Result<(), Error> {
        match options.mode {
            NetworkMode::Host => return Ok(()),
            NetworkMode::None => return Ok(()),
            NetworkMode::Bridge => {}
        }
        let mut to = Attachment::new(id.clone(), format!("/proc/{}/ns/net", run.pid));
        to.capabilities = Capabilities {
            port_mappings: run.ports.iter().map(port_argument).collect(),
            ..Capabilities::default()
        };
        let result = self.caller().add(&self.network_list()?, &to)?;
        run.addresses = result
            .container_ips()
            .map(|ip| ip.address.address())
            .collect();
        run.mac = result.container_interface().map(|i| i.mac.clone());
        Ok(())
    }

    /// Takes the container off; what is gone already is fine.
    pub(crate) fn detach_network(&self, id: &ContainerId, mode: NetworkMode) -> Result<(), Error> {
        if mode != NetworkMode::Bridge {
            return Ok(());
        }
        // The namespace went with its last process, and the veth with it: no path.
        Ok(self
            .caller()
            .del(&self.network_list()?, &Attachment::new(id.clone(), ""))?)
    }
}

//! A run's attachments: ADD on each network when its init exists, DEL on each when it has ended.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use corten_net::cni::{Attachment, Capabilities};
use corten_spec::ContainerId;

use super::ports::port_argument;
use super::{Network, NetworkError, Plan};
use crate::Engine;
use crate::container::options::{Endpoint, NetworkMode, NetworkOptions, PortMapping};
use crate::container::record::{Attached, Run};
use crate::container::{Container, Status};
use crate::error::{Error, Is};

/// What has become of a container whose network another one was to share.
const REMOVED: Is = Is("removed");

/// A network namespace that is there already, held open while a container joins it.
pub(crate) struct Joined {
    file: File,
}

impl Joined {
    /// A path that leads every process to the very namespace that was looked at.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }
}

/// The network namespace of a process.
pub(crate) fn namespace_of(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

/// A new network namespace with nothing but its loopback, which is up. It lasts for as long as somebody has it open.
pub(crate) fn new_namespace() -> Result<File, Error> {
    use corten_sys::namespace::{Namespaces, loopback_up, unshare};
    // On a thread of its own: this one stays where it is.
    let made = std::thread::spawn(|| {
        unshare(Namespaces::NETWORK)?;
        loopback_up()?;
        File::open("/proc/thread-self/ns/net")
    });
    let failed = Error::io("make", "a network namespace");
    match made.join() {
        Ok(made) => made.map_err(failed),
        Err(_panic) => Err(failed(std::io::ErrorKind::Other.into())),
    }
}

impl Engine {
    /// From here on networks are known by their names: what was given may be an id.
    pub(crate) fn name_networks(&self, options: &mut NetworkOptions) -> Result<(), Error> {
        for endpoint in options.endpoints.iter_mut().flatten() {
            endpoint.network = self.network(&endpoint.network)?.name;
        }
        Ok(())
    }

    /// The network of an endpoint that is on record.
    pub(super) fn network_of(&self, endpoint: &Endpoint) -> Result<Network, Error> {
        let name = &endpoint.network;
        let missing = || NetworkError::Missing { name: name.clone() };
        Ok(self.network_named(name)?.ok_or_else(missing)?)
    }

    /// Says what is wrong with what a container asks of networks, before anything is made.
    pub(crate) fn check_network_options(&self, options: &NetworkOptions) -> Result<(), Error> {
        if !matches!(options.mode, NetworkMode::Bridge) {
            return self.check_joined(options);
        }
        let endpoints = options.endpoints();
        let mut publishes = false;
        for (i, endpoint) in endpoints.iter().enumerate() {
            let network = self.network_of(endpoint)?;
            network.check(endpoint)?;
            publishes |= network.can_publish();
            let earlier = &endpoints[..i];
            if earlier.iter().any(|e| e.network == endpoint.network) {
                let network = network.name;
                return Err(NetworkError::Twice { network }.into());
            }
            if earlier
                .iter()
                .any(|e| e.interface() == endpoint.interface())
            {
                let interface = endpoint.interface();
                return Err(NetworkError::Interface { interface }.into());
            }
        }
        match publishes || options.ports.is_empty() {
            true => Ok(()),
            false => Err(NetworkError::Ports.into()),
        }
    }

    /// What has a network that is not its own cannot change that.
    fn check_joined(&self, options: &NetworkOptions) -> Result<(), Error> {
        let together = |what| {
            Err(NetworkError::Together {
                what,
                mode: options.mode.text(),
            }
            .into())
        };
        if !options.ports.is_empty() {
            return together("published ports");
        }
        if options.endpoints.as_ref().is_some_and(|e| !e.is_empty()) {
            return together("other networks");
        }
        match &options.mode {
            NetworkMode::Container(_) if !options.dns.is_empty() => together("name servers"),
            NetworkMode::Container(_) if !options.add_host.is_empty() => together("host names"),
            NetworkMode::Namespace(path) => open_namespace(path).map(drop),
            _ => Ok(()),
        }
    }

    /// The namespace that a container is to run in, where it is not one of its own.
    pub(crate) fn joined(&self, mode: &NetworkMode) -> Result<Option<Joined>, Error> {
        match mode {
            NetworkMode::Bridge | NetworkMode::None | NetworkMode::Host => Ok(None),
            NetworkMode::Namespace(path) => {
                let file = open_namespace(path)?;
                Ok(Some(Joined { file }))
            }
            NetworkMode::Container(id) => {
                let target = match self.container(id) {
                    Err(Error::ContainerMissing { .. }) => {
                        return Err(NetworkError::Join {
                            container: id.chars().take(12).collect(),
                            source: REMOVED,
                        }
                        .into());
                    }
                    found => found?,
                };
                let state = |status: Status| match status {
                    Status::Running { pid } => Ok(pid),
                    other => Err(NetworkError::Join {
                        container: target.name.to_string(),
                        source: Is(other.as_str()),
                    }),
                };
                let pid = state(self.status(&target)?)?;
                let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                // The pid is that container's still, so what was opened is its namespace.
                if state(self.status(&target)?)? != pid {
                    state(Status::Lost)?;
                }
                Ok(Some(Joined { file }))
            }
        }
    }

    /// Puts the container, whose namespace this is, on its networks. Its init must not have started.
    pub(crate) fn attach_networks(
        &self,
        container: &Container,
        netns: &str,
        run: &mut Run,
    ) -> Result<(), Error> {
        let mut ports = Some(run.ports.clone()).filter(|p| !p.is_empty());
        for endpoint in container.record.options.network.endpoints() {
            let network = self.network_of(&endpoint)?;
            let ports = match network.can_publish() {
                true => ports.take().unwrap_or_default(),
                false => Vec::new(),
            };
            let attached = self.attach_to(&container.id, netns, &endpoint, &network, &ports)?;
            run.attached(attached);
        }
        Ok(())
    }

    /// One ADD.
    pub(super) fn attach_to(
        &self,
        id: &ContainerId,
        netns: &str,
        endpoint: &Endpoint,
        network: &Network,
        ports: &[PortMapping],
    ) -> Result<Attached, Error> {
        let list = network.list(&self.place(), endpoint.ordinal)?;
        self.ensure_leases(network)?;
        let to = attachment(id, netns, endpoint, ports);
        let result = self.caller().add(&list, &to)?;
        Ok(Attached {
            network: network.name.clone(),
            interface: to.ifname,
            addresses: result.container_ips().map(|ip| ip.address).collect(),
            gateways: result.container_ips().filter_map(|ip| ip.gateway).collect(),
            mac: result.container_interface().map(|i| i.mac.clone()),
            publishes: !ports.is_empty(),
        })
    }

    /// Takes the container off all its networks; what is gone already is fine. Every one gets its turn.
    pub(crate) fn detach_networks(&self, container: &Container) -> Result<(), Error> {
        let mut failed = None;
        for endpoint in container.record.options.network.endpoints().iter().rev() {
            // The namespace went with its last process, and the veth with it: no path.
            if let Err(e) = self.detach_from(&container.id, "", endpoint) {
                failed.get_or_insert(e);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// One DEL.
    pub(super) fn detach_from(
        &self,
        id: &ContainerId,
        netns: &str,
        endpoint: &Endpoint,
    ) -> Result<(), Error> {
        let Some(network) = self.network_named(&endpoint.network)? else {
            // As it was when the container was attached.
            let from = attachment(id, netns, endpoint, &[]);
            return Ok(self.caller().del_remembered(&endpoint.network, &from)?);
        };
        let list = network.list(&self.place(), endpoint.ordinal)?;
        self.ensure_leases(&network)?;
        let from = attachment(id, netns, endpoint, &[]);
        Ok(self.caller().del(&list, &from)?)
    }
}

/// What CNI is told of an endpoint.
pub(super) fn attachment(
    id: &ContainerId,
    netns: &str,
    endpoint: &Endpoint,
    ports: &[PortMapping],
) -> Attachment {
    let mut to = Attachment::new(id.clone(), netns);
    to.ifname = endpoint.interface();
    to.capabilities = Capabilities {
        port_mappings: ports.iter().map(port_argument).collect(),
        ips: endpoint.addresses().map(|a| a.to_string()).collect(),
        mac: endpoint.mac.clone(),
        aliases: endpoint.aliases.clone(),
        ..Capabilities::default()
    };
    to
}

fn open_namespace(path: &Path) -> Result<File, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // NSFS_MAGIC; which kind of namespace it is, the runtime sees when it enters.
    let kind = rustix::fs::fstatfs(&file).map_err(|e| Error::io("look at", path)(e.into()))?;
    match kind.f_type {
        0x6e73_6673 => Ok(file),
        _ => Err(NetworkError::Namespace { path: path.into() }.into()),
    }
}

impl Network {
    /// Whether an endpoint can be had here. Pure.
    pub(super) fn check(&self, endpoint: &Endpoint) -> Result<(), Error> {
        corten_spec::cni::check_ifname(&endpoint.interface()).map_err(corten_net::Error::from)?;
        for address in endpoint.addresses() {
            let reason = match &self.plan {
                Plan::List(list) => {
                    let mut declared = list.plugins.iter().flat_map(|p| &p.capabilities);
                    match declared.any(|c| c == "ips") {
                        true => continue,
                        false => "none of its plugins has the capability ips",
                    }
                }
                Plan::Definition(d) => {
                    let subnet = d.subnets.iter().find(|s| s.subnet.contains(address));
                    match subnet {
                        None => "it is in none of its subnets",
                        Some(s) if s.gateway() == address => "it is the gateway's",
                        Some(s) if s.subnet.first() == address => "it is the subnet's own",
                        Some(s) if s.subnet.is_ipv4() && s.subnet.last() == address => {
                            "it is the broadcast address"
                        }
                        Some(_) => continue,
                    }
                }
            };
            return Err(NetworkError::Address {
                address,
                network: self.name.clone(),
                reason,
            }
            .into());
        }
        Ok(())
    }
}

//! The flags of `run` and `create` about networks: from words to [`NetworkOptions`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use corten_engine::container::options::{
    DEFAULT_NETWORK, Endpoint, NetworkMode, NetworkOptions, PortMapping,
};

use super::value::{self, HostAddress};
use crate::failure::Failure;

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub struct NetworkFlags {
    /// A network to be on, or: bridge, host, none, container:NAME, ns:PATH
    ///
    /// May be given several times with networks; the container goes out by the first. What it is
    /// to have there follows the name: NET:alias=NAME,ip=ADDRESS,ip6=ADDRESS,mac=ADDRESS,
    /// interface_name=NAME (or docker's form, name=NET,alias=NAME,…).
    #[arg(long, visible_alias = "net", value_name = "NETWORK", value_parser = network, verbatim_doc_comment)]
    network: Vec<NetworkArg>,
    /// Publish a port of the container on the host
    #[arg(short, long, value_name = "[[IP:]HOST:]PORT[/PROTO]", value_parser = publish)]
    publish: Vec<Ports>,
    /// Publish every port that the image exposes, on ports that are free
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// IPv4 address on the network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address on the network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// MAC address of the interface
    #[arg(long, value_name = "ADDRESS", value_parser = value::mac)]
    mac_address: Option<String>,
    /// One more name for the network's other containers to find it by
    #[arg(long, visible_alias = "net-alias", value_name = "NAME", value_parser = value::alias)]
    network_alias: Vec<String>,
    /// Ask this DNS server instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Complete names with this domain; '.' for none
    #[arg(long, value_name = "DOMAIN", value_parser = value::domain)]
    dns_search: Vec<String>,
    /// Set an option of /etc/resolv.conf
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = value::word)]
    dns_option: Vec<String>,
    /// Add a line to /etc/hosts; 'host-gateway' is the address of the host
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = value::add_host)]
    add_host: Vec<(String, HostAddress)>,
}

/// What one `-p` means; a type of its own, since clap takes a plain list for many values.
#[derive(Clone, Debug)]
struct Ports(Vec<PortMapping>);

fn publish(s: &str) -> Result<Ports, value::ValueError> {
    value::publish(s).map(Ports)
}

/// One `--network`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkArg {
    /// A namespace that has no networks of ours.
    Mode(NetworkMode),
    On(Endpoint),
}

fn network(s: &str) -> Result<NetworkArg, value::ValueError> {
    match s {
        "host" => return Ok(NetworkArg::Mode(NetworkMode::Host)),
        "none" => return Ok(NetworkArg::Mode(NetworkMode::None)),
        _ => {}
    }
    if let Some(name) = s.strip_prefix("container:").filter(|n| !n.is_empty()) {
        return Ok(NetworkArg::Mode(NetworkMode::Container(name.into())));
    }
    if let Some(path) = s.strip_prefix("ns:").filter(|p| p.starts_with('/')) {
        return Ok(NetworkArg::Mode(NetworkMode::Namespace(PathBuf::from(
            path,
        ))));
    }
    // docker's form names the network by a key, podman's puts it first.
    let docker = s.split(',').any(|o| o.starts_with("name="));
    if !docker && (s == "ns" || s.starts_with("ns:")) {
        return Err(value::ValueError::NamespacePath);
    }
    let (name, options) = match docker {
        true => ("", s),
        false => s.split_once(':').unwrap_or((s, "")),
    };
    let mut endpoint = Endpoint::new(name);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        set(&mut endpoint, option)?;
    }
    if endpoint.network == "default" {
        endpoint.network = DEFAULT_NETWORK.into();
    }
    if ["container", "ns", "host", "none"].contains(&endpoint.network.as_str()) {
        return Err(value::ValueError::NetworkName(s.into()));
    }
    value::network_name(&endpoint.network)?;
    Ok(NetworkArg::On(endpoint))
}

fn set(endpoint: &mut Endpoint, option: &str) -> Result<(), value::ValueError> {
    let wrong = || value::ValueError::NetworkOption(option.into());
    let (key, value) = option.split_once('=').ok_or_else(wrong)?;
    match key {
        "name" => endpoint.network = value.into(),
        "alias" => endpoint.aliases.push(value::alias(value)?),
        // podman takes both families under one key.
        "ip" => match value.parse().map_err(|_| wrong())? {
            IpAddr::V4(ip) => endpoint.ip = Some(ip),
            IpAddr::V6(ip) => endpoint.ip6 = Some(ip),
        },
        "ip6" => endpoint.ip6 = Some(value.parse().map_err(|_| wrong())?),
        "mac" | "mac-address" => endpoint.mac = Some(value::mac(value)?),
        "interface_name" => endpoint.interface = Some(value::interface(value)?),
        _ => return Err(wrong()),
    }
    Ok(())
}

impl NetworkFlags {
    pub fn options(&self) -> Result<NetworkOptions, Failure> {
        let (mode, mut endpoints) = self.networks()?;
        let one = self.ip.is_some()
            || self.ip6.is_some()
            || self.mac_address.is_some()
            || !self.network_alias.is_empty();
        if one {
            if mode != NetworkMode::Bridge || endpoints.len() > 1 {
                return Err(Failure::new(
                    "--ip, --ip6, --mac-address and --network-alias are of one network",
                    "with several write them after each: --network NET:ip=ADDRESS,alias=NAME",
                ));
            }
            if endpoints.is_empty() {
                endpoints.push(Endpoint::new(DEFAULT_NETWORK));
            }
            let endpoint = &mut endpoints[0];
            endpoint.ip = self.ip.or(endpoint.ip);
            endpoint.ip6 = self.ip6.or(endpoint.ip6);
            endpoint.mac = self.mac_address.clone().or(endpoint.mac.take());
            endpoint.aliases.extend(self.network_alias.clone());
        }
        let mut options = NetworkOptions {
            mode,
            endpoints: (!endpoints.is_empty()).then_some(endpoints),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            ports: self.publish.iter().flat_map(|p| p.0.clone()).collect(),
            publish_all: self.publish_all,
            ..NetworkOptions::default()
        };
        for (name, address) in &self.add_host {
            match address {
                HostAddress::Gateway => options.gateway_hosts.push(name.clone()),
                HostAddress::Ip(ip) => options.add_host.push((name.clone(), *ip)),
            }
        }
        Ok(options)
    }

    /// All `--network` together.
    fn networks(&self) -> Result<(NetworkMode, Vec<Endpoint>), Failure> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for arg in &self.network {
            match arg {
                NetworkArg::Mode(mode) if self.network.len() == 1 => {
                    return Ok((mode.clone(), Vec::new()));
                }
                NetworkArg::Mode(mode) => {
                    return Err(Failure::new(
                        format!("the network {} cannot be one of several", mode.text()),
                        "give it alone, or name networks only",
                    ));
                }
                NetworkArg::On(endpoint) => {
                    let ordinal = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
                    endpoints.push(Endpoint {
                        ordinal,
                        ..endpoint.clone()
                    });
                }
            }
        }
        Ok((NetworkMode::Bridge, endpoints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_and_what_is_wanted_there_in_both_forms() {
        let podman = network("net:alias=db,alias=sql,ip=10.0.0.5,ip=fd00::5,mac=02:00:00:00:00:01");
        let docker = network(
            "name=net,alias=db,alias=sql,ip=10.0.0.5,ip6=fd00::5,mac-address=02:00:00:00:00:01",
        );
        let wanted = Endpoint {
            network: "net".into(),
            aliases: vec!["db".into(), "sql".into()],
            ip: "10.0.0.5".parse().ok(),
            ip6: "fd00::5".parse().ok(),
            mac: Some("02:00:00:00:00:01".into()),
            ..Endpoint::default()
        };
        assert_eq!(podman, Ok(NetworkArg::On(wanted.clone())));
        assert_eq!(docker, Ok(NetworkArg::On(wanted)));
        assert_eq!(
            network("default"),
            Ok(NetworkArg::On(Endpoint::new("bridge")))
        );
    }

    #[test]
    fn namespaces_of_others() {
        let mode = |s: &str| match network(s) {
            Ok(NetworkArg::Mode(mode)) => Some(mode),
            _ => None,
        };
        assert_eq!(mode("host"), Some(NetworkMode::Host));
        assert_eq!(
            mode("container:web"),
            Some(NetworkMode::Container("web".into()))
        );
        assert_eq!(
            mode("ns:/run/netns/x"),
            Some(NetworkMode::Namespace("/run/netns/x".into()))
        );
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for bad in [
            "",
            ":",
            "container:",
            "ns:relative",
            "net:ip=x",
            "net:colour=red",
            "net:ip",
            "a b",
            "name=",
            "net:mac=01:00:00:00:00:01",
            "net:alias=-x",
            "net:interface_name=a/b",
        ] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}

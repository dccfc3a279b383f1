//! `corten network connect`, `disconnect`, `reload`.

use std::net::{Ipv4Addr, Ipv6Addr};

use corten_engine::Engine;
use corten_engine::network::{ConnectOptions, Network};

use crate::cli::{Global, value};
use crate::failure::Failure;
use crate::output;

/// Put a container on one more network
///
/// A running container gets the interface at once. Its way out stays the network that it had first.
#[derive(clap::Args)]
pub struct ConnectArgs {
    /// One more name for the network's other containers to find it by
    #[arg(long, value_name = "NAME", value_parser = value::alias)]
    alias: Vec<String>,
    /// IPv4 address on the network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address on the network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// MAC address of the interface
    #[arg(long, value_name = "ADDRESS", value_parser = value::mac)]
    mac_address: Option<String>,
    /// Name of the interface in the container
    #[arg(long, value_name = "NAME", value_parser = value::interface)]
    interface_name: Option<String>,
    /// The network, by name or id
    network: String,
    /// The container, by name or id
    container: String,
}

pub fn connect(global: &Global, args: ConnectArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let network = engine.network(&args.network)?;
    let container = engine.container(&args.container)?;
    let options = ConnectOptions {
        aliases: args.alias,
        ip: args.ip,
        ip6: args.ip6,
        mac: args.mac_address,
        interface: args.interface_name,
    };
    Ok(engine.connect(&network, &container, options)?)
}

/// Take a container off a network
///
/// Ports that are published through it go on through the next of the container's networks that can publish.
#[derive(clap::Args)]
pub struct DisconnectArgs {
    /// Even if a plugin refuses
    #[arg(short, long)]
    force: bool,
    /// The network, by name or id
    network: String,
    /// The container, by name or id
    container: String,
}

pub fn disconnect(global: &Global, args: DisconnectArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let container = engine.container(&args.container)?;
    Ok(engine.disconnect(&args.network, &container, args.force)?)
}

/// Put the firewall rules of networks back
///
/// After another program has flushed them ('nft flush ruleset', a firewall's restart): addresses that are masqueraded,
/// published ports, isolation. What is there stays; connections are not cut. Says what was missing.
#[derive(clap::Args)]
pub struct ReloadArgs {
    /// Networks, by name or id; all of them without
    #[arg(value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn reload(global: &Global, args: ReloadArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let mut refused = Vec::new();
    for network in named(&engine, &args.networks)? {
        let done = engine.reload_network(&network)?;
        for restored in &done.restored {
            output::line(format!("{}: {restored}", network.name))?;
        }
        for what in done.refused {
            refused.push(format!("{}: {what}", network.name));
        }
    }
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            format!("not all could be put back: {}", refused.join("; ")),
            "another container has it by now; stop one of them",
        )),
    }
}

/// These, or all.
pub(super) fn named(engine: &Engine, names: &[String]) -> Result<Vec<Network>, Failure> {
    if names.is_empty() {
        return Ok(engine.networks()?);
    }
    let all = names.iter().map(|n| engine.network(n));
    Ok(all.collect::<Result<Vec<_>, _>>()?)
}

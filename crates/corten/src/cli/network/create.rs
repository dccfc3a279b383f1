//! `corten network create`.

use std::net::IpAddr;

use corten_engine::network::{CreateNetwork, Ipam};
use corten_spec::Cidr;
use corten_spec::cni::Route;
use serde_json::json;

use crate::cli::{Global, value};
use crate::failure::Failure;
use crate::output;

/// Make a network
///
/// Without --subnet the network gets one that nothing else has, out of the pools in config.toml.
/// Its bridge is made with its first container.
///
/// Options of the driver bridge: mtu=BYTES, isolate=BOOL, host-loopback=BOOL (containers reach what
/// the host serves on 127.0.0.1, by the gateway's address), vlan=ID, no_default_route=BOOL,
/// com.docker.network.bridge.name=NAME, com.docker.network.bridge.enable_icc=BOOL,
/// com.docker.network.bridge.enable_ip_masquerade=BOOL.
/// Of macvlan and ipvlan: parent=LINK, mode=MODE, mtu=BYTES, no_default_route=BOOL.
///
/// Examples:
///   corten network create --subnet 10.5.0.0/24 --ip-range 10.5.0.128/25 web
///   corten network create --internal --isolate back
///   corten network create --driver macvlan --subnet 192.168.1.0/24 --opt parent=eth0 lan
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// bridge, macvlan or ipvlan
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// A subnet; one of each family, or more
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<Cidr>,
    /// The gateway of a subnet instead of its first address
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// Give addresses from this part of a subnet only
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<Cidr>,
    /// An address of a subnet that is somebody else's
    #[arg(long, value_name = "[NAME=]ADDRESS", value_parser = reserved)]
    aux_address: Vec<IpAddr>,
    /// An IPv6 subnet too
    #[arg(long)]
    ipv6: bool,
    /// No way in or out but to the host
    #[arg(long)]
    internal: bool,
    /// No way to and from this engine's other networks
    #[arg(long)]
    isolate: bool,
    /// Who gives addresses: host-local (from the subnets), dhcp, none
    #[arg(long, value_name = "DRIVER", value_parser = ipam)]
    ipam_driver: Option<Ipam>,
    /// Containers do not find each other by name
    #[arg(long)]
    disable_dns: bool,
    /// Name of the bridge on the host
    #[arg(long, value_name = "NAME", value_parser = value::interface)]
    interface_name: Option<String>,
    /// A route beside the default one
    #[arg(long, value_name = "CIDR[,GATEWAY[,METRIC]]", value_parser = route)]
    route: Vec<Route>,
    /// Set an option of the driver
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = value::label)]
    options: Vec<(String, String)>,
    /// Set a label
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = value::label)]
    label: Vec<(String, String)>,
    /// Do not fail if there is a network of that name
    #[arg(long)]
    ignore: bool,
    /// Name of the network
    name: String,
}

fn ipam(s: &str) -> Result<Ipam, String> {
    match s {
        "host-local" | "default" => Ok(Ipam::Ranges),
        "dhcp" => Ok(Ipam::Dhcp),
        "none" => Ok(Ipam::None),
        _ => Err("it is host-local, dhcp or none".into()),
    }
}

fn reserved(s: &str) -> Result<IpAddr, String> {
    let address = s.split_once('=').map_or(s, |(_, address)| address);
    address
        .parse()
        .map_err(|_| format!("{address:?} is no address"))
}

fn route(s: &str) -> Result<Route, String> {
    let mut parts = s.split(',');
    let dst: Cidr = parts
        .next()
        .and_then(|d| d.parse().ok())
        .ok_or("it begins with a subnet")?;
    let gw: Option<IpAddr> = match parts.next() {
        None | Some("") => None,
        Some(g) => Some(g.parse().map_err(|_| format!("{g:?} is no gateway"))?),
    };
    if gw.is_some_and(|g| g.is_ipv4() != dst.is_ipv4()) {
        return Err("subnet and gateway are of two families".into());
    }
    let metric = parts.next().map(str::parse).transpose();
    let priority = metric.map_err(|_| "the metric is a number")?;
    match parts.next() {
        None => Ok(Route {
            priority,
            ..Route::to(dst, gw)
        }),
        Some(_) => Err("it has at most three parts".into()),
    }
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    if args.ignore && engine.network(&args.name).is_ok() {
        return Ok(output::line(&args.name)?);
    }
    let network = engine.create_network(&CreateNetwork {
        name: args.name,
        driver: args.driver,
        subnets: args.subnet,
        gateways: args.gateway,
        ranges: args.ip_range,
        reserved: args.aux_address,
        ipv6: args.ipv6,
        internal: args.internal,
        isolated: args.isolate,
        ipam: args.ipam_driver,
        dns: !args.disable_dns,
        interface: args.interface_name,
        routes: args.route,
        options: args.options.into_iter().collect(),
        labels: args.label.into_iter().collect(),
    })?;
    match global.json {
        true => Ok(output::json(
            &json!({ "Id": network.id, "Name": network.name }),
        )?),
        false => Ok(output::line(network.name)?),
    }
}

//! `corten port`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use corten_engine::container::options::PortMapping;
use serde_json::json;

use super::Global;
use crate::failure::Failure;
use crate::output;

/// Show the published ports of a container
///
/// 'PORT/PROTOCOL -> ADDRESS:PORT' for each, or the addresses alone of the one that is named.
#[derive(clap::Args)]
pub struct Args {
    /// The container, by name or id
    container: String,
    /// A port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let container = engine.container(&args.container)?;
    let running = engine.status(&container)?.is_running();
    let run = container.record.run.as_ref().filter(|_| running);
    let mut ports: Vec<&PortMapping> = run.map_or(Vec::new(), |r| r.ports.iter().collect());
    ports.sort_by_key(|p| (p.container_port, p.protocol, p.host_port));
    let mut lines: Vec<(String, SocketAddr)> = Vec::new();
    for port in ports {
        let inside = format!("{}/{}", port.container_port, port.protocol.as_str());
        let on = addresses(port).into_iter();
        lines.extend(on.map(|address| (inside.clone(), address)));
    }
    if let Some(wanted) = &args.port {
        let whole = match wanted.contains('/') {
            true => wanted.clone(),
            false => format!("{wanted}/tcp"),
        };
        lines.retain(|(inside, _)| *inside == whole);
        if lines.is_empty() {
            return Err(Failure::new(
                format!(
                    "port {whole} of container {} is not published",
                    container.name
                ),
                "'corten ps' shows what runs with which ports; --publish of 'corten run' publishes one",
            ));
        }
    }
    if global.json {
        let one =
            |(inside, address): &(String, SocketAddr)| json!({ "Port": inside, "Host": address });
        return Ok(output::json(&lines.iter().map(one).collect::<Vec<_>>())?);
    }
    for (inside, address) in &lines {
        match args.port {
            Some(_) => output::line(address)?,
            None => output::line(format!("{inside} -> {address}"))?,
        }
    }
    Ok(())
}

/// Where it is on the host: all addresses of both families where none was asked for.
fn addresses(port: &PortMapping) -> Vec<SocketAddr> {
    let at = |ip| SocketAddr::new(ip, port.host_port);
    match port.host_ip {
        Some(ip) => vec![at(ip)],
        None => vec![
            at(Ipv4Addr::UNSPECIFIED.into()),
            at(Ipv6Addr::UNSPECIFIED.into()),
        ],
    }
}

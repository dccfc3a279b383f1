//! `corten network inspect`, `exists`, `check`.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::Global;
use crate::cli::inspect::documents;
use crate::failure::Failure;
use crate::output;

/// Show everything about networks, as JSON
#[derive(clap::Args)]
pub struct Args {
    /// A template over each, or 'json' for one line
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Networks, by name or id
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    documents(args.format.as_deref(), &args.networks, |name| {
        engine.inspect_network(&engine.network(name)?)
    })
}

/// Say by the exit code whether a network is there: 0 or 1
#[derive(clap::Args)]
pub struct ExistsArgs {
    /// The network, by name or id
    network: String,
}

pub fn exists(global: &Global, args: ExistsArgs) -> Result<ExitCode, Failure> {
    match global.engine()?.network(&args.network) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(e) if e.kind() == corten_spec::Kind::NotFound => Ok(ExitCode::from(1)),
        Err(e) => Err(e.into()),
    }
}

/// Look whether networks are as they should be
///
/// Asks the plugins of each network whether they are there, speak its version and could attach a container now, and
/// compares every running container's interface, addresses, routes and ports with what it was given. Exit 1 if something
/// differs.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Networks, by name or id; all of them without
    #[arg(value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn check(global: &Global, args: CheckArgs) -> Result<ExitCode, Failure> {
    let engine = global.engine()?;
    let networks = super::change::named(&engine, &args.networks)?;
    let mut lines = Vec::new();
    for network in &networks {
        for fault in engine.check_network(network)? {
            lines.push((network.name.clone(), fault));
        }
    }
    if global.json {
        let all: Vec<_> = lines
            .iter()
            .map(|(n, f)| json!({ "Network": n, "Container": f.container, "Fault": f.text }))
            .collect();
        output::json(&all)?;
    } else {
        for (network, fault) in &lines {
            let whose = fault.container.as_ref();
            let whose = whose.map_or(String::new(), |c| format!(": container {c}"));
            output::line(format!("{network}{whose}: {}", fault.text))?;
        }
    }
    match lines.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => {
            eprintln!("hint: 'corten network reload' puts lost firewall rules back");
            Ok(ExitCode::from(1))
        }
    }
}

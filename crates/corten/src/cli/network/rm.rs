//! `corten network rm` and `prune`.

use serde_json::json;

use super::ls::Filter;
use crate::cli::{Global, confirm, each};
use crate::failure::Failure;
use crate::output;

/// Remove networks
#[derive(clap::Args)]
pub struct Args {
    /// With the containers that are on them, running or not
    #[arg(short, long)]
    force: bool,
    /// Networks, by name or id
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    each(&args.networks, |name| {
        Ok(engine.remove_network(&engine.network(name)?, args.force)?)
    })
}

/// Remove every network that no container is on
///
/// Filters: until=TIME (made before then: a time stamp, a date, or an age such as 24h),
/// label=KEY[=VALUE], label!=KEY[=VALUE]
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PruneArgs {
    /// Remove those only that fit
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub fn prune(global: &Global, args: PruneArgs) -> Result<(), Failure> {
    let filters = args.filters.iter().map(|f| Filter::parse(f));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    let engine = global.engine()?;
    if !args.force && !confirm("This will remove all networks without at least one container.")? {
        return Ok(());
    }
    let removed = engine.prune_networks(|n| filters.iter().all(|f| f.admits(&engine, n)))?;
    if global.json {
        return Ok(output::json(&json!({ "NetworksDeleted": removed }))?);
    }
    for name in &removed {
        output::line(name)?;
    }
    Ok(())
}

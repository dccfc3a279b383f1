//! `corten rm`.

use super::{Global, each};
use crate::failure::Failure;

/// Remove containers
#[derive(clap::Args)]
pub struct Args {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Remove their volumes that have no name
    #[arg(short, long)]
    volumes: bool,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    each(&args.containers, |name| {
        let container = match engine.container(name) {
            // docker: what is not there needs no force.
            Err(corten_engine::Error::ContainerMissing { .. }) if args.force => return Ok(()),
            found => found?,
        };
        Ok(engine.remove(&container, args.force, args.volumes)?)
    })?;
    engine.sweep()?;
    Ok(())
}

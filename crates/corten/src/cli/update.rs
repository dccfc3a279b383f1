//! `corten update`.

use corten_engine::container::options::RestartPolicy;

use super::{Global, each, supervision_flags};
use crate::failure::Failure;

/// Change what containers were made with
#[derive(clap::Args)]
pub struct Args {
    /// When to start them again: no, on-failure[:TIMES], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = supervision_flags::restart, required = true, allow_hyphen_values = true)]
    restart: RestartPolicy,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    each(&args.containers, |name| {
        let container = engine.container(name)?;
        Ok(engine.set_restart_policy(&container, args.restart)?)
    })
}

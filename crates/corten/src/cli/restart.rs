//! `corten restart`.

use std::time::Duration;

use super::{Global, each};
use crate::failure::Failure;

/// Stop containers, and start them again; those that do not run are started
#[derive(clap::Args)]
pub struct Args {
    /// Seconds to wait before killing
    #[arg(
        short,
        long = "time",
        visible_alias = "timeout",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    time: u64,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    each(&args.containers, |name| {
        let container = engine.container(name)?;
        Ok(engine.restart(&container, Duration::from_secs(args.time))?)
    })
}

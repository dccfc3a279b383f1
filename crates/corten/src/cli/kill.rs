//! `corten kill`.

use corten_engine::container::signal;

use super::{Global, each};
use crate::failure::Failure;

/// Send a signal to containers
#[derive(clap::Args)]
pub struct Args {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = parse)]
    signal: i32,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

fn parse(s: &str) -> Result<i32, super::value::ValueError> {
    signal(s).ok_or(super::value::ValueError::Signal)
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    each(&args.containers, |name| {
        Ok(engine.kill(&engine.container(name)?, args.signal)?)
    })
}

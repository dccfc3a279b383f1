//! `corten inspect`.

use super::Global;
use crate::failure::Failure;
use crate::output;

/// Show everything about containers, as JSON
#[derive(clap::Args)]
pub struct Args {
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let mut all = Vec::new();
    for name in &args.containers {
        all.push(engine.inspect(&engine.container(name)?)?);
    }
    Ok(output::json(&all)?)
}

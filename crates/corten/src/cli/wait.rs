//! `corten wait`.

use super::Global;
use crate::failure::Failure;
use crate::output;

/// Wait until containers have ended, and print their exit codes
#[derive(clap::Args)]
pub struct Args {
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    for name in &args.containers {
        let exit = engine.wait(&engine.container(name)?)?;
        output::line(exit.exit_status)?;
    }
    Ok(())
}

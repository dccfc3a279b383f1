//! `corten start`.

use std::process::ExitCode;

use super::{Global, attach, each, run};
use crate::failure::Failure;

/// Start containers that were made or have exited
#[derive(clap::Args)]
pub struct Args {
    /// Stay with the container's output, and end as it does
    #[arg(short, long)]
    attach: bool,
    /// Pass stdin to the container too
    #[arg(short, long)]
    interactive: bool,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let engine = global.engine()?;
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            return Err(Failure::new(
                "only one container can be attached to",
                "name one, or leave --attach and --interactive out",
            ));
        };
        let container = engine.container(name)?;
        // docker: one that runs is attached to.
        return match engine.status(&container)?.is_running() {
            true => attach::to(&engine, &container, args.interactive),
            false => run::foreground(&engine, &container, args.interactive),
        };
    }
    each(&args.containers, |name| {
        let container = engine.container(name)?;
        // docker: one that is being restarted counts as running.
        if engine.status(&container)?.is_active() {
            return Ok(());
        }
        engine.prepare(&container)?.start()?;
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

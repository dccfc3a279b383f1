//! `corten attach`.

use std::process::ExitCode;

use corten_engine::Engine;
use corten_engine::container::{Container, RunEnd};

use super::Global;
use crate::failure::Failure;
use crate::session::Session;

/// Connect this terminal to a running container
#[derive(clap::Args)]
pub struct Args {
    /// Do not pass stdin to the container
    #[arg(long)]
    no_stdin: bool,
    /// The container, by name or id
    container: String,
}

pub fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let engine = global.engine()?;
    to(&engine, &engine.container(&args.container)?, !args.no_stdin)
}

/// Stays with a running container, and ends as it does.
pub fn to(engine: &Engine, container: &Container, stdin: bool) -> Result<ExitCode, Failure> {
    let status = engine.status(container)?;
    if !status.is_running() {
        return Err(corten_engine::Error::ContainerState {
            name: container.name.to_string(),
            action: "attached to",
            source: corten_engine::Is(status.as_str()),
        }
        .into());
    }
    let process = &container.record.options.process;
    let stdin = process.open_stdin && stdin;
    let end = engine.run_end(container)?;
    let streams = engine.attach(container, "", stdin)?;
    let ended = Session::new(streams, process.tty, stdin)?.run(engine.controller(container))?;
    if ended.detached {
        return Ok(ExitCode::SUCCESS);
    }
    let status = match end.and_then(RunEnd::status) {
        Some(status) => status,
        None => engine.wait(container)?.exit_status,
    };
    Ok(ExitCode::from(status.min(255) as u8))
}

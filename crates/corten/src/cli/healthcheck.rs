//! `corten healthcheck`.

use std::process::ExitCode;

use super::Global;
use crate::failure::Failure;
use crate::output;

/// Check containers' health
#[derive(clap::Subcommand)]
pub enum Command {
    /// Run a container's health check now; exit 1 if it fails
    ///
    /// The outcome counts as one of the container's own checks do: 'corten inspect' shows it, and so many failures in a row make it
    /// unhealthy. Exit 125: there is no check, or the container does not run.
    Run {
        /// The container, by name or id
        container: String,
    },
}

pub fn run(global: &Global, command: Command) -> Result<ExitCode, Failure> {
    let Command::Run { container } = command;
    let engine = global.engine()?;
    let answer = engine.check_health(&engine.container(&container)?)?;
    Ok(match answer.exit_code {
        0 => ExitCode::SUCCESS,
        _ => {
            output::line(answer.status)?;
            ExitCode::from(1)
        }
    })
}

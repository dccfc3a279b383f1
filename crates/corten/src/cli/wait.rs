//! `corten wait`.

use corten_engine::container::Condition;

use super::Global;
use crate::failure::Failure;
use crate::output;

/// Wait until containers have ended, and print their exit codes
///
/// A container that its restart policy starts again has not ended. Conditions: stopped (also exited, not-running), running, healthy,
/// unhealthy, removed. Where a container is not running by the time that the condition is met, its last exit code is printed, else -1.
#[derive(clap::Args)]
pub struct Args {
    /// What to wait for, instead of the end
    #[arg(long, value_name = "CONDITION", default_value = "stopped", value_parser = condition)]
    condition: Condition,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

fn condition(s: &str) -> Result<Condition, String> {
    Ok(match s {
        "stopped" | "exited" | "not-running" => Condition::Stopped,
        "running" => Condition::Running,
        "healthy" => Condition::Healthy,
        "unhealthy" => Condition::Unhealthy,
        "removed" => Condition::Removed,
        _ => return Err("it is stopped, running, healthy, unhealthy or removed".into()),
    })
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    for name in &args.containers {
        match engine.wait_until(&engine.container(name)?, args.condition)? {
            Some(code) => output::line(code)?,
            None => output::line(-1)?,
        }
    }
    Ok(())
}

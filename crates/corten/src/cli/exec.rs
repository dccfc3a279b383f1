//! `corten exec`.

use std::process::ExitCode;

use corten_engine::container::ExecOptions;

use super::{Global, value};
use crate::failure::Failure;
use crate::session::Session;

/// Run another command in a running container
#[derive(clap::Args)]
pub struct Args {
    /// Leave the command running
    #[arg(short, long)]
    detach: bool,
    /// Keep stdin open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable; without a value, take it from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working folder in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Give the command every capability
    #[arg(long)]
    privileged: bool,
    /// The container, and the command to run in it
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    container_and_command: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let engine = global.engine()?;
    let mut words = args.container_and_command.into_iter();
    let container = engine.container(&words.next().unwrap_or_default())?;
    if let Some(folder) = args.workdir.as_ref().filter(|w| !w.starts_with('/')) {
        return Err(Failure::new(
            format!("working folder {folder:?} is not absolute"),
            "start it with /",
        ));
    }
    let mut env = Vec::new();
    for e in &args.env {
        env.extend(
            value::variable(e).map_err(|err| Failure::hinted(err, "as in --env NAME=VALUE"))?,
        );
    }
    let options = ExecOptions {
        command: words.collect(),
        env,
        workdir: args.workdir,
        user: args.user,
        tty: args.tty,
        stdin: args.interactive,
        privileged: args.privileged,
        detach: args.detach,
    };
    let mut exec = engine.exec(&container, &options)?;
    let Some(streams) = exec.take_streams() else {
        exec.start()?;
        return Ok(ExitCode::SUCCESS);
    };
    let session = Session::new(streams, args.tty, args.interactive)?.of_exec(exec.id());
    exec.start()?;
    let ended = session.run(engine.controller(&container))?;
    if ended.detached {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(exec.finish()?.min(255) as u8))
}

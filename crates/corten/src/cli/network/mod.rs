//! `corten network …`: one file a command.

mod change;
mod create;
mod inspect;
mod ls;
mod rm;

use std::process::ExitCode;

use super::Global;
use crate::failure::Failure;

/// Work with networks
#[derive(clap::Subcommand)]
pub enum Command {
    Create(create::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Inspect(inspect::Args),
    Exists(inspect::ExistsArgs),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    Prune(rm::PruneArgs),
    Connect(change::ConnectArgs),
    Disconnect(change::DisconnectArgs),
    Check(inspect::CheckArgs),
    Reload(change::ReloadArgs),
}

pub fn run(global: &Global, command: Command) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Create(args) => create::run(global, args).map(done),
        Command::Ls(args) => ls::run(global, args).map(done),
        Command::Inspect(args) => inspect::run(global, args).map(done),
        Command::Exists(args) => inspect::exists(global, args),
        Command::Rm(args) => rm::run(global, args).map(done),
        Command::Prune(args) => rm::prune(global, args).map(done),
        Command::Connect(args) => change::connect(global, args).map(done),
        Command::Disconnect(args) => change::disconnect(global, args).map(done),
        Command::Check(args) => inspect::check(global, args),
        Command::Reload(args) => change::reload(global, args).map(done),
    }
}

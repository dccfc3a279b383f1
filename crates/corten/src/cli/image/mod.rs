//! `corten image …`, and the short forms `images`, `rmi`, `tag`, `history`, …: one file a command.

pub mod changes;
pub mod copy;
pub mod history;
pub mod import;
pub mod inspect;
pub mod load;
pub mod ls;
pub mod mount;
pub mod prune;
pub mod push;
pub mod referrers;
pub mod rm;
pub mod save;
pub mod search;
pub mod tag;
pub mod tree;

use super::Global;
use crate::failure::Failure;

/// Work with images
#[derive(clap::Subcommand)]
pub enum Command {
    Inspect(inspect::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    Prune(prune::Args),
    Tag(tag::Args),
    History(history::Args),
    Tree(tree::Args),
    Platforms(inspect::PlatformsArgs),
    Policy(inspect::PolicyArgs),
    Referrers(referrers::ListArgs),
    Attach(referrers::AttachArgs),
    Artifact(referrers::ArtifactArgs),
    Pull(super::pull::Args),
    Push(push::Args),
    Mount(mount::MountArgs),
    #[command(visible_alias = "umount")]
    Unmount(mount::UnmountArgs),
    Save(save::Args),
    Load(load::Args),
    Import(import::Args),
    #[command(visible_alias = "changes")]
    Diff(changes::Args),
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Inspect(args) => inspect::run(global, args),
        Command::Ls(args) => ls::run(global, args),
        Command::Rm(args) => rm::run(global, args),
        Command::Prune(args) => prune::run(global, args),
        Command::Tag(args) => tag::run(global, args),
        Command::History(args) => history::run(global, args),
        Command::Tree(args) => tree::run(global, args),
        Command::Platforms(args) => inspect::platforms(global, args),
        Command::Policy(args) => inspect::policy(global, args),
        Command::Referrers(args) => referrers::list(global, args),
        Command::Attach(args) => referrers::attach(global, args),
        Command::Artifact(args) => referrers::artifact(global, args),
        Command::Pull(args) => super::pull::run(global, args),
        Command::Push(args) => push::run(global, args),
        Command::Mount(args) => mount::mount(global, args),
        Command::Unmount(args) => mount::unmount(global, args),
        Command::Save(args) => save::run(global, args),
        Command::Load(args) => load::run(global, args),
        Command::Import(args) => import::run(global, args),
        Command::Diff(args) => changes::run(global, args),
    }
}

/// `sha256:` and all of it, or the first twelve digits.
fn id(digest: &corten_spec::Digest, whole: bool) -> String {
    match whole {
        true => digest.to_string(),
        false => digest.short().to_owned(),
    }
}

//! `corten export`, `corten commit`.

use std::path::PathBuf;

use corten_engine::image::Beside;
use corten_engine::image::change::Instruction;
use corten_engine::image::export::CommitOptions;

use super::Global;
use super::image::{import, save};
use crate::failure::Failure;
use crate::output;

/// Write a container's root file system as a tar
///
/// The image with what the container has changed, as files: nothing of it remembers layers. Volumes and
/// other mounts are not in it. The container may run meanwhile.
#[derive(clap::Args)]
pub struct ExportArgs {
    /// The file; without it, standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The container, by name or id
    container: String,
}

pub fn export(global: &Global, args: ExportArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let container = engine.container(&args.container)?;
    let Some(path) = args.output else {
        return Ok(engine.export(&container, save::stdout()?)?);
    };
    let new = Beside::create(&path)?;
    let out = std::io::BufWriter::with_capacity(256 << 10, &new.file);
    engine.export(&container, out)?;
    Ok(new.publish()?)
}

/// Make an image of what a container has become
///
/// The image that the container was made from, with one layer more: what the container has written, changed and deleted.
/// Volumes are not in it. Prints the new image's id. A container that runs is not paused: stop it
/// first if its files change together.
#[derive(clap::Args)]
pub struct CommitArgs {
    /// Who made it
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    author: String,
    /// What the image's history says of it
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Set something of the image's config: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<Instruction>,
    /// The container, by name or id
    container: String,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
}

pub fn commit(global: &Global, args: CommitArgs) -> Result<(), Failure> {
    let options = CommitOptions {
        author: args.author,
        message: args.message,
        changes: args.changes,
        name: args.name.as_deref().map(import::name).transpose()?,
    };
    let engine = global.engine()?;
    let container = engine.container(&args.container)?;
    output::line(engine.commit(&container, &options)?)?;
    Ok(engine.flush()?)
}

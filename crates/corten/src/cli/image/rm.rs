//! `corten rmi`, `corten image rm`.

use crate::cli::Global;
use crate::failure::Failure;
use crate::output;

/// Remove images
///
/// A name takes that name away; the image goes with its last one. An id stands for all names of its image.
/// An image that a container was made from stays unless --force takes its name, and then its
/// layers stay until the container goes.
#[derive(clap::Args)]
pub struct Args {
    /// Remove the name of an image that a container was made from, and all names of an id
    #[arg(short, long)]
    force: bool,
    /// Say nothing of what was removed
    #[arg(short, long)]
    quiet: bool,
    /// Images, by name, digest (NAME@DIGEST) or id
    #[arg(required = true)]
    images: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let mut failed: Option<Failure> = None;
    for name in &args.images {
        match engine.remove_image(name, args.force) {
            Ok(removed) if !args.quiet => {
                for name in &removed.untagged {
                    output::line(format!("Untagged: {name}"))?;
                }
                for id in &removed.deleted {
                    output::line(format!("Deleted: {id}"))?;
                }
            }
            Ok(_) => {}
            Err(e) => {
                if let Some(earlier) = failed.replace(e.into()) {
                    earlier.report();
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

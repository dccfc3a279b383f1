//! `corten pull`.

use corten_spec::Platform;

use super::{Global, run};
use crate::failure::Failure;
use crate::output;

/// Download an image from a registry
#[derive(clap::Args)]
pub struct Args {
    /// Print the image's reference and digest only
    #[arg(short, long)]
    quiet: bool,
    /// Take the image for this platform instead of the host's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// The image: [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    image: String,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let platform = args.platform.unwrap_or_else(Platform::host);
    let image = run::pull(&engine, &args.image, platform, args.quiet)?;
    if !args.quiet {
        eprintln!("digest: {}", image.target.digest);
    }
    output::line(&image.reference)?;
    Ok(engine.flush()?)
}

//! `corten tag`.

use crate::cli::Global;
use crate::failure::Failure;

/// Give an image another name
///
/// Prints nothing. If the name belonged to another image, that one loses it, and stays, without a tag, if it had no other.
#[derive(clap::Args)]
pub struct Args {
    /// The image, by name or id
    image: String,
    /// The new name: [HOST[:PORT]/]PATH[:TAG]
    name: String,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    global.engine()?.tag_image(&args.image, &args.name)?;
    Ok(())
}

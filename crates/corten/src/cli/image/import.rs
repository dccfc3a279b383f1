//! `corten import`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use corten_engine::image::build::ImportOptions;
use corten_engine::image::change::Instruction;
use corten_spec::{Platform, Reference};

use crate::cli::Global;
use crate::failure::Failure;
use crate::output;

/// Make an image of a root file system in a tar
///
/// The tar may be packed with gzip or zstd. The image has one layer, and nothing to run unless --change says what.
/// Prints its id.
///
/// Examples:
///   corten export box | corten import --change 'CMD ["sh"]' - box:1
///   mmdebstrap bookworm | corten import - debian:bookworm
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Set something of the image's config: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<Instruction>,
    /// What the image's history says of it
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// What the image is for, instead of the host's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// The tar; - is standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let name = args.name.as_deref().map(name).transpose()?;
    let source: Box<dyn Read> = match args.file.as_os_str().as_encoded_bytes() {
        b"-" if io::stdin().is_terminal() => {
            return Err(Failure::new(
                "there is no archive on a terminal",
                "name a file, or send the archive in by a pipe",
            ));
        }
        b"-" => Box::new(io::stdin().lock()),
        _ => {
            Box::new(File::open(&args.file).map_err(corten_engine::Error::io("open", &args.file))?)
        }
    };
    let engine = global.engine()?;
    let options = ImportOptions {
        platform: args.platform.unwrap_or_else(Platform::host),
        message: args.message,
        changes: args.changes,
        name,
    };
    output::line(engine.import(source, &options)?)?;
    Ok(engine.flush()?)
}

/// A name for something new: whole, and without a digest.
pub fn name(text: &str) -> Result<String, Failure> {
    let reference: Reference = text.parse().map_err(corten_engine::Error::from)?;
    match reference.digest() {
        None => Ok(reference.to_string()),
        Some(_) => Err(corten_engine::Error::from(
            corten_engine::image::ImageError::TagWithDigest { name: text.into() },
        )
        .into()),
    }
}

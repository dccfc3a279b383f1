//! `corten save`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use corten_engine::image::save::{Output, SaveFormat};
use corten_spec::Platform;

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::progress;

/// Write images to an archive
///
/// The archive holds layers and manifests as they were pulled: what is loaded from it elsewhere has the same digests.
///
/// Examples:
///   corten save -o images.tar busybox alpine:3.20
///   corten save busybox | zstd > busybox.tar.zst
///   corten save --format oci-dir -o layout busybox
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The file or folder; without it, standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The archive's form
    #[arg(long, value_name = "FORM", default_value = "docker-archive", value_parser = ["docker-archive", "oci-archive", "oci-dir", "docker-dir"])]
    format: String,
    /// Save one platform's image of an index
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Images, by name or id
    #[arg(required = true)]
    images: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let format = match args.format.as_str() {
        "oci-archive" => SaveFormat::OciArchive,
        "oci-dir" => SaveFormat::OciDir,
        "docker-dir" => SaveFormat::DockerDir,
        _ => SaveFormat::DockerArchive,
    };
    let output = match args.output {
        Some(path) => Output::Path(path),
        None if args.format.ends_with("dir") => {
            return Err(Failure::new(
                format!("{} needs a folder", args.format),
                "name it with --output",
            ));
        }
        None => Output::Stream(stdout()?),
    };
    let progress = progress::of(args.quiet);
    global.engine()?.save(
        &args.images,
        format,
        args.platform.as_ref(),
        output,
        progress,
    )?;
    Ok(())
}

/// Standard output, for what no person reads.
pub fn stdout() -> Result<Box<dyn io::Write + Send>, Failure> {
    match io::stdout().is_terminal() {
        true => Err(Failure::new(
            "an archive is not written to a terminal",
            "use --output FILE, or send it into a file or pipe",
        )),
        false => Ok(Box::new(io::BufWriter::with_capacity(
            128 << 10,
            io::stdout(),
        ))),
    }
}

//! `corten load`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use corten_engine::image::load::Input;
use corten_spec::{Platform, Reference};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{self, progress};

/// Load the images of an archive or folder
///
/// Archives of docker, podman, skopeo and corten, plain or packed with gzip or zstd, and folders of skopeo's oci: and
/// dir:. Every layer is checked against its digest, and unpacked with the same care as one from a registry.
#[derive(clap::Args)]
pub struct Args {
    /// The file or folder; without it, standard input
    #[arg(short, long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// Of an index, take the image for this platform instead of the host's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let platform = args.platform.unwrap_or_else(Platform::host);
    let progress = progress::of(args.quiet);
    let loaded = match &args.input {
        Some(path) => engine.load(Input::Path(path), &platform, progress)?,
        None if io::stdin().is_terminal() => {
            return Err(Failure::new(
                "there is no archive on a terminal",
                "use --input FILE, or send the archive in by a pipe",
            ));
        }
        None => engine.load(Input::Stream(&mut io::stdin().lock()), &platform, progress)?,
    };
    if global.json {
        let all: Vec<Value> = loaded
            .iter()
            .map(|l| json!({ "Id": l.id, "Names": l.names }))
            .collect();
        output::json(&all)?;
        return Ok(engine.flush()?);
    }
    for image in &loaded {
        for name in &image.names {
            let name = name
                .parse::<Reference>()
                .map_or_else(|_| name.clone(), |r| r.familiar());
            output::line(format!("Loaded image: {name}"))?;
        }
        if image.names.is_empty() {
            output::line(format!("Loaded image ID: {}", image.id))?;
        }
    }
    Ok(engine.flush()?)
}

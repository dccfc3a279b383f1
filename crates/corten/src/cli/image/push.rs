//! `corten push`.

use std::sync::Arc;

use corten_engine::image::Progress;
use corten_engine::image::push::PushOptions;
use corten_registry::client::ClientConfig;
use corten_spec::Platform;
use serde_json::json;

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{self, progress};

/// Upload an image to a registry
///
/// What was pulled is pushed as it came: blobs and manifest byte for byte, so its digest is the same everywhere. If the
/// image's index is here with every platform, all of it goes; otherwise the one image that is here. Layers that the
/// registry has under another name that is known here are taken over from there.
///
/// Examples:
///   corten tag busybox registry.example.com/team/busybox:1
///   corten push registry.example.com/team/busybox:1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Push every tag of the name that is here
    #[arg(short, long)]
    all_tags: bool,
    /// Print what was pushed only
    #[arg(short, long)]
    quiet: bool,
    /// Push one platform's image of an index
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// The image: [HOST[:PORT]/]PATH[:TAG]
    image: String,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let options = PushOptions {
        client: ClientConfig::load(engine.paths().etc()),
        platform: args.platform,
    };
    let names = match args.all_tags {
        true => engine.tags_of(&args.image)?,
        false => vec![args.image],
    };
    for name in names {
        let progress: Arc<dyn Progress> = progress::of(args.quiet);
        let pushed = engine.push(&name, &options, progress)?;
        if pushed.narrowed && !args.quiet {
            eprintln!(
                "not all platforms of the index are here: one platform's image is pushed alone"
            );
        }
        if global.json {
            output::json(&json!({
                "Reference": pushed.reference, "Digest": pushed.digest, "Size": pushed.size,
            }))?;
            continue;
        }
        match args.quiet {
            true => output::line(pushed.reference.familiar())?,
            false => {
                let key = pushed.reference.tag().unwrap_or("digest").to_owned();
                output::line(format!(
                    "{key}: digest: {} size: {}",
                    pushed.digest, pushed.size
                ))?;
            }
        }
    }
    Ok(())
}

//! `corten sync`.

use std::path::PathBuf;

use corten_engine::image::Wanted;
use corten_engine::image::copy::transfer::CopyOptions;
use corten_engine::image::sync::{self, Destination, Selection};
use corten_registry::client::ClientConfig;
use corten_spec::Platform;

use serde_json::json;

use super::Global;
use crate::failure::Failure;
use crate::output::{self, progress};

/// Copy all images of a repository, or of a list, to another registry or a folder
///
/// The source is a repository (all its tags, or one) or, with --list, a file of TOML:
///   ["registry.example.com"]
///   images.busybox = []                  # all tags
///   images."team/app" = ["1.0", "2.*"]   # these, and those that fit
/// The destination is HOST[:PORT]/PATH, or a folder with --dir (one of skopeo's dir: an image) or --oci (one layout).
///
/// Examples:
///   corten sync registry.example.com/busybox mirror.example.org/mirrored
///   corten sync --dir --scoped --list images.toml /media/usb
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Copy every platform of an index
    #[arg(short, long)]
    all: bool,
    /// Copy what refers to the images, too
    #[arg(long)]
    referrers: bool,
    /// Put the source's host and path before each name
    #[arg(long)]
    scoped: bool,
    /// The source is a file that lists images
    #[arg(short, long)]
    list: bool,
    /// The destination is a folder: a folder in it for each image
    #[arg(long, conflicts_with = "oci")]
    dir: bool,
    /// The destination is a folder: one OCI layout
    #[arg(long)]
    oci: bool,
    /// Go on after an image that failed, and fail at the end
    #[arg(short, long)]
    keep_going: bool,
    /// Say what would be copied only
    #[arg(long)]
    dry_run: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The repository, or the file
    source: String,
    /// The registry, or the folder
    destination: String,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let selections = match args.list {
        true => sync::read(&PathBuf::from(&args.source))?,
        false => vec![Selection::of(
            args.source
                .strip_prefix("docker://")
                .unwrap_or(&args.source),
        )?],
    };
    let destination = match (args.dir, args.oci) {
        (true, _) => Destination::Folder(PathBuf::from(&args.destination)),
        (_, true) => Destination::Layout(PathBuf::from(&args.destination)),
        _ => Destination::Registry(args.destination.clone()),
    };
    let client = ClientConfig::load(engine.paths().etc());
    let steps = engine.plan_sync(&selections, &destination, args.scoped, &client)?;
    let options = CopyOptions {
        client,
        wanted: match args.all {
            true => Wanted::All,
            false => Wanted::Platform(Platform::host()),
        },
        referrers: args.referrers,
        preserve_digests: false,
    };
    let mut failed = 0;
    let mut done = Vec::new();
    for step in &steps {
        let line = format!("{} -> {}", step.from.familiar(), step.to);
        let (from, to) = (step.from.familiar(), step.to.to_string());
        if args.dry_run {
            match global.json {
                true => done.push(json!({ "From": from, "To": to })),
                false => output::line(line)?,
            }
            continue;
        }
        match engine.sync_step(step, &options, progress::of(args.quiet)) {
            Ok(digest) if global.json => {
                done.push(json!({ "From": from, "To": to, "Digest": digest }));
            }
            Ok(digest) => output::line(format!("{line} {digest}"))?,
            Err(e) if args.keep_going => {
                failed += 1;
                Failure::from(e).report();
            }
            Err(e) => return Err(e.into()),
        }
    }
    if global.json {
        output::json(&done)?;
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::new(
            format!("{n} of {} images were not copied", steps.len()),
            "the errors above say why; run it again for the rest",
        )),
    }
}

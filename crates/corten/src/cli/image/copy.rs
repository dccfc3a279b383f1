//! `corten copy`.

use corten_engine::image::copy::transfer::CopyOptions;
use corten_engine::image::{Place, Wanted};
use corten_registry::client::ClientConfig;
use corten_spec::Platform;
use serde_json::json;

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{self, progress};

/// Copy an image between registries, archives and folders
///
/// Nothing of it enters the store, and no layer is held in memory. Places are named as skopeo names them:
///   docker://[HOST[:PORT]/]PATH[:TAG|@DIGEST]   a registry
///   oci:FOLDER[:TAG]                            an OCI layout
///   oci-archive:FILE[:NAME]                     the same as a tar
///   docker-archive:FILE[:NAME]                  what docker save and load know
///   dir:FOLDER                                  one image's manifest and blobs as plain files
///   store:IMAGE                                 an image of this engine, as a source
///
/// Examples:
///   corten copy docker://busybox:1.36 docker://registry.example.com/busybox:1.36
///   corten copy --all --referrers docker://a.example/app:2 oci:backup:app-2
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Copy every platform of an index; without it, the host's, and an index is not kept
    #[arg(short, long)]
    all: bool,
    /// Copy this platform's image of an index
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all")]
    platform: Option<Platform>,
    /// Fail rather than copy something with another digest (one image of an index)
    #[arg(long)]
    preserve_digests: bool,
    /// Copy what refers to the image, too: signatures, bills of materials, attestations
    #[arg(long, visible_alias = "signatures")]
    referrers: bool,
    /// Write the digest of what was copied to this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<std::path::PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Where the image is
    source: Place,
    /// Where it is to go
    destination: Place,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let options = CopyOptions {
        client: ClientConfig::load(engine.paths().etc()),
        wanted: match (args.all, args.platform) {
            (true, _) => Wanted::All,
            (false, Some(p)) => Wanted::Platform(p),
            (false, None) if matches!(args.source, Place::Store(_)) => Wanted::default(),
            (false, None) => Wanted::Platform(Platform::host()),
        },
        referrers: args.referrers,
        preserve_digests: args.preserve_digests,
    };
    let progress = progress::of(args.quiet);
    let copied = engine.copy(&args.source, &args.destination, &options, progress)?;
    if copied.narrowed && !args.quiet {
        eprintln!("not all platforms of the index are here: one platform's image is copied alone");
    }
    if let Some(file) = &args.digestfile {
        std::fs::write(file, copied.digest.to_string())?;
    }
    match global.json {
        true => output::json(&json!({
            "Digest": copied.digest, "Size": copied.size, "MediaType": copied.media_type,
            "Referrers": copied.referrers,
        }))?,
        false => output::line(&copied.digest)?,
    }
    Ok(())
}

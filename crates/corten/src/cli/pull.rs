//! `corten pull`.

use corten_engine::image::sync::Selection;
use corten_engine::{Engine, Error};
use corten_registry::client::ClientConfig;
use corten_spec::{Platform, Reference};
use serde_json::json;

use super::{Global, run};
use crate::failure::Failure;
use crate::output;

/// Download an image from a registry
///
/// What the policy (policy.toml) requires a signature on is refused without one, before any layer is fetched.
///
/// Examples:
///   corten pull alpine:3.20
///   corten pull --platform linux/arm64 registry.example.com/app@sha256:5d0c…
///   corten pull --all-tags registry.example.com/app
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Pull every tag of the repository
    #[arg(short, long, conflicts_with = "policy")]
    all_tags: bool,
    /// Print the image's reference only
    #[arg(short, long)]
    quiet: bool,
    /// Take the image for this platform instead of the host's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// When to ask the registry: always; if the image is missing; never; or newer: always, but what is here does if
    /// the registry cannot be reached
    #[arg(long, value_name = "WHEN", default_value = "always", value_parser = ["always", "missing", "never", "newer"])]
    policy: String,
    /// Images: [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    #[arg(required = true)]
    images: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let mut pulled = Vec::new();
    for name in &args.images {
        let names = match args.all_tags {
            true => all_tags(&engine, name)?,
            false => vec![name.clone()],
        };
        for name in names {
            let image = one(&engine, &name, &platform, &args)?;
            if !args.quiet {
                eprintln!("digest: {}", image.target.digest);
            }
            match global.json {
                true => pulled.push(json!({
                    "Reference": image.reference, "Digest": image.target.digest, "Id": image.config,
                })),
                false => output::line(&image.reference)?,
            }
        }
    }
    if global.json {
        output::json(&pulled)?;
    }
    Ok(engine.flush()?)
}

fn one(
    engine: &Engine,
    name: &str,
    platform: &Platform,
    args: &Args,
) -> Result<corten_store::ImageRecord, Failure> {
    let here = || match engine.image(name) {
        Ok(image) => Ok(Some(image)),
        Err(Error::ImageMissing { .. }) => Ok(None),
        Err(e) => Err(e),
    };
    let pull = || run::pull(engine, name, platform.clone(), args.quiet);
    match (args.policy.as_str(), here()?) {
        ("missing" | "never", Some(image)) => Ok(image),
        ("never", None) => Err(Error::ImageMissing { name: name.into() }.into()),
        ("newer", Some(image)) => match pull() {
            Err(e) if e.is_unavailable() => {
                eprintln!("the registry cannot be reached; what is here will do");
                Ok(image)
            }
            done => done,
        },
        _ => pull(),
    }
}

fn all_tags(engine: &Engine, name: &str) -> Result<Vec<String>, Failure> {
    let selection = Selection::of(name)?;
    if !selection.tags.is_empty() {
        return Err(Failure::new(
            format!("{name:?} names a tag, and all are asked for"),
            "leave out the tag, or --all-tags",
        ));
    }
    let repository: &Reference = &selection.repository;
    let tags = engine.remote_tags(repository, ClientConfig::load(engine.paths().etc()))?;
    let named = tags.iter().filter_map(|t| repository.with_tag(t));
    Ok(named.map(|r| r.to_string()).collect())
}

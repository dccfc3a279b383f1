//! `corten images`, `corten rmi`, `corten image …`.

use corten_spec::Reference;
use corten_store::ImageRecord;
use serde_json::{Value, json};

use super::{Global, each};
use crate::failure::Failure;
use crate::output::{self, table};

/// List the images that are here
#[derive(clap::Args)]
pub struct ListArgs {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
}

/// Remove images
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Remove the name of an image that a container was made from
    #[arg(short, long)]
    force: bool,
    /// Images, by name or id
    #[arg(required = true)]
    images: Vec<String>,
}

/// Work with images
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show everything about images, as JSON
    Inspect {
        /// Images, by name or id
        #[arg(required = true)]
        images: Vec<String>,
    },
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    Rm(RemoveArgs),
    Pull(super::pull::Args),
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Inspect { images } => inspect(global, &images),
        Command::Ls(args) => list(global, args),
        Command::Rm(args) => remove(global, args),
        Command::Pull(args) => super::pull::run(&global.engine()?, args),
    }
}

pub fn list(global: &Global, args: ListArgs) -> Result<(), Failure> {
    let images = global.engine()?.images()?;
    if global.json {
        let all: Vec<Value> = images.iter().map(summary).collect();
        return Ok(output::json(&all)?);
    }
    let id = |i: &ImageRecord| match args.no_trunc {
        true => i.config.to_string(),
        false => i.config.short().to_owned(),
    };
    if args.quiet {
        for image in &images {
            output::line(id(image))?;
        }
        return Ok(());
    }
    let now = output::now();
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|i| {
            let (name, tag) = names(&i.reference);
            let pulled = format!("{} ago", output::duration(now - i.pulled_at));
            vec![name, tag, id(i), pulled, output::size(i.size)]
        })
        .collect();
    Ok(table::print(
        &["REPOSITORY", "TAG", "IMAGE ID", "PULLED", "SIZE"],
        &rows,
    )?)
}

/// Repository and tag as people say them.
fn names(reference: &str) -> (String, String) {
    match reference.parse::<Reference>() {
        Ok(r) => {
            let tag = r.tag().unwrap_or("<none>").to_owned();
            let familiar = r.familiar();
            let bare = familiar.split('@').next().unwrap_or_default();
            let name = bare.strip_suffix(&format!(":{tag}")).unwrap_or(bare);
            (name.to_owned(), tag)
        }
        Err(_) => (reference.to_owned(), "<none>".into()),
    }
}

fn summary(i: &ImageRecord) -> Value {
    json!({
        "Id": i.config,
        "Reference": i.reference,
        "Digest": i.target.digest,
        "Size": i.size,
        "PulledAt": i.pulled_at,
    })
}

pub fn remove(global: &Global, args: RemoveArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    each(&args.images, |name| {
        Ok(engine.remove_image(name, args.force).map(|_| ())?)
    })
}

fn inspect(global: &Global, images: &[String]) -> Result<(), Failure> {
    let engine = global.engine()?;
    let mut all = Vec::new();
    for name in images {
        let image = engine.image(name)?;
        let config: Value = parse(&image, "config", &engine.image_config_bytes(&image)?)?;
        let manifest: Value = parse(&image, "manifest", &engine.image_manifest_bytes(&image)?)?;
        all.push(json!({
            "Id": image.config,
            "RepoTags": [image.reference],
            "RepoDigests": [format!("{}@{}", image.reference.split('@').next().unwrap_or_default().rsplit_once(':').map_or("", |(n, _)| n), image.target.digest)],
            "Digest": image.target.digest,
            "MediaType": image.target.media_type,
            "Created": config["created"],
            "Author": config["author"],
            "Architecture": config["architecture"],
            "Os": config["os"],
            "Size": image.size,
            "Config": config["config"],
            "RootFS": { "Type": "layers", "Layers": config["rootfs"]["diff_ids"] },
            "History": config["history"],
            "Manifest": manifest,
        }));
    }
    Ok(output::json(&all)?)
}

fn parse(image: &ImageRecord, what: &'static str, bytes: &[u8]) -> Result<Value, Failure> {
    let parsed =
        serde_json::from_slice(bytes).map_err(|source| corten_engine::Error::ImageDocument {
            what,
            image: image.reference.clone(),
            source,
        });
    Ok(parsed?)
}

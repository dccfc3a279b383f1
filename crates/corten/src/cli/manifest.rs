//! `corten manifest …`: lists of images for several platforms.

use corten_engine::image::ImageError;
use corten_engine::image::list::{Annotate, List};
use corten_engine::{Engine, Error};
use corten_registry::client::ClientConfig;
use corten_spec::Reference;
use serde_json::{Value, json};

use super::{Global, each, value};
use crate::failure::Failure;
use crate::output::template::Format;
use crate::output::{self, progress, table};

/// Make and push lists of images for several platforms
///
/// A list is kept here until it is removed, and is pushed as an OCI index (or docker's manifest list) together with the
/// images that the target lacks.
///
/// Examples:
///   corten manifest create registry.example.com/app:1 registry.example.com/app:1-amd64 registry.example.com/app:1-arm64
///   corten manifest annotate registry.example.com/app:1 registry.example.com/app:1-arm64 --variant v8
///   corten manifest push registry.example.com/app:1
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    /// Make a list, of these images if any are named
    Create {
        /// Add to a list that is there already
        #[arg(short, long)]
        amend: bool,
        /// Of an index, add all its images instead of the one for this host
        #[arg(long)]
        all: bool,
        /// Make a list of docker's format (v2s2) instead of an OCI index
        #[arg(long, value_name = "FORMAT", default_value = "oci", value_parser = ["oci", "v2s2"])]
        format: String,
        /// The list's name, which is where it will be pushed
        list: String,
        /// Images of the store, or else of a registry
        images: Vec<String>,
    },
    /// Add an image to a list
    Add {
        /// Of an index, add all its images instead of the one for this host
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        annotate: AnnotateFlags,
        /// The list
        list: String,
        /// Images of the store, or else of a registry
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Change what a list says of one of its images
    Annotate {
        #[command(flatten)]
        annotate: AnnotateFlags,
        /// The list
        list: String,
        /// The image: its name, or its digest in the list
        image: String,
    },
    /// Take an image out of a list
    Remove {
        /// The list
        list: String,
        /// The image: its name, or its digest in the list
        image: String,
    },
    /// Show a list of here, or else an image's manifest as its registry has it
    Inspect {
        /// The list or image
        name: String,
    },
    /// List the lists that are here
    Ls {
        /// Shape: 'json', a template, or 'table TEMPLATE'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Upload a list and its images
    Push {
        /// Remove the list when it is pushed
        #[arg(short, long, visible_alias = "rm")]
        purge: bool,
        /// Show no progress
        #[arg(short, long)]
        quiet: bool,
        /// The list
        list: String,
        /// Where to, if not where the list's name says
        destination: Option<String>,
    },
    /// Remove lists from here
    Rm {
        /// Lists
        #[arg(required = true)]
        lists: Vec<String>,
    },
}

/// What can be said of an image in a list.
#[derive(clap::Args)]
pub struct AnnotateFlags {
    /// Operating system
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// Processor, as Go names it: amd64, arm64, riscv64
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Variant of the processor, such as v8
    #[arg(long, value_name = "VARIANT")]
    variant: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    /// Features of the operating system that it needs
    #[arg(long, value_name = "FEATURE")]
    os_features: Vec<String>,
    /// Anything else
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = value::label)]
    annotations: Vec<(String, String)>,
}

impl AnnotateFlags {
    fn read(self) -> Annotate {
        Annotate {
            os: self.os,
            architecture: self.arch,
            variant: self.variant,
            os_version: self.os_version,
            os_features: self.os_features,
            annotations: self.annotations.into_iter().collect(),
        }
    }
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let engine = global.engine()?;
    match command {
        Command::Create {
            amend,
            all,
            format,
            list,
            images,
        } => create(&engine, &list, &images, &format, amend, all),
        Command::Add {
            all,
            annotate,
            list,
            images,
        } => add(&engine, &list, &images, &annotate.read(), all),
        Command::Annotate {
            annotate,
            list,
            image,
        } => {
            let mut found = engine.manifest_list(&list)?;
            Ok(engine.annotate_list(&mut found, &image, &annotate.read())?)
        }
        Command::Remove { list, image } => {
            let mut found = engine.manifest_list(&list)?;
            Ok(output::line(engine.remove_from_list(&mut found, &image)?)?)
        }
        Command::Inspect { name } => inspect(&engine, &name),
        Command::Ls { format } => ls(global, &engine.manifest_lists()?, format.as_deref()),
        Command::Push {
            purge,
            quiet,
            list,
            destination,
        } => push(&engine, &list, destination.as_deref(), purge, quiet),
        Command::Rm { lists } => each(&lists, |name| Ok(engine.remove_list(name)?)),
    }
}

fn client(engine: &Engine) -> ClientConfig {
    ClientConfig::load(engine.paths().etc())
}

fn create(
    engine: &Engine,
    list: &str,
    images: &[String],
    format: &str,
    amend: bool,
    all: bool,
) -> Result<(), Failure> {
    let mut made = engine.create_list(list, format == "v2s2", amend)?;
    let added = images.iter().try_for_each(|image| {
        let added = engine.add_to_list(&mut made, image, all, client(engine));
        added.map(|_| ())
    });
    if let Err(e) = added {
        if !amend {
            // It is ours, and not what was asked for.
            let _gone = engine.remove_list(list);
        }
        return Err(e.into());
    }
    Ok(output::line(&made.name)?)
}

fn add(
    engine: &Engine,
    list: &str,
    images: &[String],
    annotate: &Annotate,
    all: bool,
) -> Result<(), Failure> {
    let mut found = engine.manifest_list(list)?;
    for image in images {
        for digest in engine.add_to_list(&mut found, image, all, client(engine))? {
            engine.annotate_list(&mut found, &digest.to_string(), annotate)?;
            output::line(digest)?;
        }
    }
    Ok(())
}

/// A list of here, or what a registry has.
fn inspect(engine: &Engine, name: &str) -> Result<(), Failure> {
    match engine.manifest_list(name) {
        Ok(list) => Ok(output::json(&list.document())?),
        Err(Error::Image(ImageError::List { .. })) => {
            let reference: Reference = name.parse().map_err(Error::from)?;
            let artifact = engine.artifact(&reference, client(engine))?;
            Ok(output::json(&artifact.manifest)?)
        }
        Err(e) => Err(e.into()),
    }
}

fn push(
    engine: &Engine,
    list: &str,
    destination: Option<&str>,
    purge: bool,
    quiet: bool,
) -> Result<(), Failure> {
    let found = engine.manifest_list(list)?;
    let to = destination.unwrap_or(&found.name);
    let to = to.strip_prefix("docker://").unwrap_or(to);
    let to: Reference = to.parse().map_err(Error::from)?;
    let digest = engine.push_list(&found, &to, client(engine), progress::of(quiet))?;
    if purge {
        engine.remove_list(list)?;
    }
    Ok(output::line(digest)?)
}

fn ls(global: &Global, lists: &[List], format: Option<&str>) -> Result<(), Failure> {
    let format = Format::new(global.json, format)?;
    let items: Vec<Value> = lists
        .iter()
        .map(|l| json!({ "Name": l.name, "Images": l.entries.len(), "Format": if l.docker { "v2s2" } else { "oci" } }))
        .collect();
    if format.print(&items)? {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = lists
        .iter()
        .map(|l| vec![l.name.clone(), l.entries.len().to_string()])
        .collect();
    Ok(table::print(&["NAME", "IMAGES"], &rows)?)
}

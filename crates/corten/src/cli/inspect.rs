//! `corten inspect`.

use corten_engine::{Engine, Error};
use serde_json::Value;

use super::Global;
use crate::failure::Failure;
use crate::output::template;

/// Show everything about containers or images, as JSON
///
/// A name is looked for among containers first, then among images.
#[derive(clap::Args)]
pub struct Args {
    /// A template over each, or 'json' for one line
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Look among these only
    #[arg(long = "type", value_name = "TYPE", value_parser = ["container", "image"])]
    sort: Option<String>,
    /// Containers or images, by name or id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    documents(args.format.as_deref(), &args.names, |name| {
        look_up(&engine, name, args.sort.as_deref())
    })
}

/// Prints the documents of all names that there are; fails with the last of those that there are not.
pub(super) fn documents(
    format: Option<&str>,
    names: &[String],
    mut look_up: impl FnMut(&str) -> Result<Value, Error>,
) -> Result<(), Failure> {
    let mut documents = Vec::new();
    let mut failed: Option<Failure> = None;
    for name in names {
        match look_up(name) {
            Ok(document) => documents.push(document),
            Err(e) => {
                if let Some(earlier) = failed.replace(e.into()) {
                    earlier.report();
                }
            }
        }
    }
    if !(documents.is_empty() && failed.is_some()) {
        template::inspect(format, &documents)?;
    }
    failed.map_or(Ok(()), Err)
}

fn look_up(engine: &Engine, name: &str, sort: Option<&str>) -> Result<Value, Error> {
    let image = || engine.inspect_image(&engine.image(name)?);
    let container = || engine.inspect(&engine.container(name)?);
    match sort {
        Some("image") => image(),
        Some(_) => container(),
        None => match container() {
            Err(missing @ Error::ContainerMissing { .. }) => match image() {
                // Containers are what this command is asked about most.
                Err(Error::ImageMissing { .. } | Error::Reference(_)) => Err(missing),
                found => found,
            },
            found => found,
        },
    }
}

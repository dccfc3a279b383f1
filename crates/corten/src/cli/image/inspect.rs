//! `corten image inspect`, `corten image platforms`.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::failure::Failure;
use crate::output;
use crate::output::table;
use crate::output::template::{self, Format};

/// Show everything about images, as JSON
///
/// Examples:
///   corten image inspect busybox
///   corten image inspect --format '{{.Os}}/{{.Architecture}} {{json .Config.Env}}' busybox
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A template over each image, or 'json' for one line
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Images, by name or id
    #[arg(required = true)]
    images: Vec<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let mut documents = Vec::new();
    let mut failed: Option<Failure> = None;
    for name in &args.images {
        match engine
            .image(name)
            .and_then(|image| engine.inspect_image(&image))
        {
            Ok(document) => documents.push(document),
            Err(e) => {
                if let Some(earlier) = failed.replace(e.into()) {
                    earlier.report();
                }
            }
        }
    }
    template::inspect(args.format.as_deref(), &documents)?;
    failed.map_or(Ok(()), Err)
}

/// List the platforms that an image's index names, and which of them is here
///
/// Fields of a format: .Platform .Digest .Here
#[derive(clap::Args)]
pub struct PlatformsArgs {
    /// Shape: 'json', a template, or 'table TEMPLATE'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// The image, by name or id
    image: String,
}

pub fn platforms(global: &Global, args: PlatformsArgs) -> Result<(), Failure> {
    let format = Format::new(global.json, args.format.as_deref())?;
    let engine = global.engine()?;
    let image = engine.image(&args.image)?;
    let found = engine.image_platforms(&image)?;
    let items: Vec<Value> = found
        .iter()
        .map(|(platform, digest, here)| json!({ "Platform": platform, "Digest": digest, "Here": here }))
        .collect();
    if format.print(&items)? {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = found
        .into_iter()
        .map(|(platform, digest, here)| {
            vec![platform, digest, if here { "yes" } else { "no" }.into()]
        })
        .collect();
    Ok(table::print(&["PLATFORM", "DIGEST", "HERE"], &rows)?)
}

/// Tell what the policy says of a name: accept, reject or require (a signature), and by which rule
///
/// The policy is policy.toml in the configuration folder. Nobody is asked; the image need not exist.
#[derive(clap::Args)]
pub struct PolicyArgs {
    /// The name: [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    name: String,
}

pub fn policy(global: &Global, args: PolicyArgs) -> Result<(), Failure> {
    let reference = args.name.parse().map_err(corten_engine::Error::from)?;
    let (action, rule) = global.engine()?.policy_for(&reference)?;
    match global.json {
        true => Ok(output::json(&json!({ "Action": action, "Rule": rule }))?),
        false => Ok(output::line(format!("{action} by {rule}"))?),
    }
}

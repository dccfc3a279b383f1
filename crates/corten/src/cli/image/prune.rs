//! `corten image prune`.

use corten_engine::image::Filters;
use serde_json::json;

use crate::cli::{Global, confirm};
use crate::failure::Failure;
use crate::output;

/// Remove images that nothing uses
///
/// Without --all these are the ones without a tag that no container was made from: what a moved tag left behind, or
/// what was pulled by digest. With --all, every image without a container.
///
/// Filters: until=TIME (made before then: a time stamp, a date, or an age such as 24h), label=KEY[=VALUE],
/// label!=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Remove images with tags, too
    #[arg(short, long)]
    all: bool,
    /// Remove those only that fit
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let filters = Filters::parse(&args.filters, output::now())?;
    let engine = global.engine()?;
    let what = match args.all {
        true => "all images without at least one container",
        false => "all images that have neither a tag nor a container",
    };
    if !args.force && !confirm(&format!("This will remove {what}."))? {
        return Ok(());
    }
    let removed = engine.prune_images(args.all, &filters)?;
    if global.json {
        return Ok(output::json(&json!({
            "ImagesDeleted": removed.deleted,
            "Untagged": removed.untagged,
            "SpaceReclaimed": removed.freed,
        }))?);
    }
    for name in &removed.untagged {
        output::line(format!("Untagged: {name}"))?;
    }
    for id in &removed.deleted {
        output::line(format!("Deleted: {id}"))?;
    }
    Ok(output::line(format!(
        "Total reclaimed space: {}",
        output::size(removed.freed)
    ))?)
}

//! `corten images`, `corten image ls`.

use corten_engine::image::{Filters, Listed};
use serde_json::{Value, json};

use super::id;
use crate::cli::Global;
use crate::failure::Failure;
use crate::output::template::Format;
use crate::output::{self, table};

/// List the images that are here
///
/// An image is listed once for each of its names. Those without a tag (an image whose tag has moved on,
/// or that was pulled by digest) are listed with --all, or with --filter dangling=true.
///
/// Filters: reference=PATTERN, dangling=BOOL, label=KEY[=VALUE], label!=KEY[=VALUE], before=IMAGE,
/// since=IMAGE, until=TIME. Fields of a format: .ID .Repository .Tag .Digest .CreatedSince .CreatedAt
/// .Size .DownloadSize .Containers .Labels .Platform .PulledAt .Reference
///
/// Examples:
///   corten images 'alpine*'
///   corten image ls --filter until=720h --format '{{.ID}} {{.Repository}}:{{.Tag}}'
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// List images without a tag, too
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show what each name was pulled as: the digest of its manifest or index
    #[arg(long)]
    digests: bool,
    /// List those only that fit
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Shape: 'json', a template, or 'table TEMPLATE'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Names that fit only: NAME[:TAG], * and ? stand for anything
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let now = output::now();
    let format = Format::new(global.json, args.format.as_deref())?;
    let mut texts = args.filters.clone();
    texts.extend(args.name.iter().map(|n| format!("reference={n}")));
    let filters = Filters::parse(&texts, now)?;
    let mut images = global.engine()?.list_images(&filters)?;
    let found = images.len();
    images.retain(|i| args.all || filters.asks_for_dangling() || !i.is_untagged());
    let hidden = found - images.len();
    if args.quiet {
        let mut seen = Vec::new();
        for image in &images {
            if !seen.contains(&&image.record.config) {
                output::line(id(&image.record.config, args.no_trunc))?;
                seen.push(&image.record.config);
            }
        }
        return Ok(());
    }
    let programs = matches!(format, Format::Array);
    let shown = |i| item(i, args.no_trunc || programs, now, programs);
    let items: Vec<Value> = images.iter().map(shown).collect();
    if !format.print(&items)? {
        print(&items, args.digests)?;
        if hidden > 0 {
            eprintln!("{hidden} without a tag: '--all' lists them");
        }
    }
    Ok(())
}

/// `exact`: for programs, which want bytes.
fn item(image: &Listed, whole: bool, now: i64, exact: bool) -> Value {
    let record = &image.record;
    let (repository, tag) = image.names();
    let size = |bytes: u64| match exact {
        true => Value::from(bytes),
        false => output::size(bytes).into(),
    };
    json!({
        "Id": id(&record.config, whole),
        "Repository": repository,
        "Tag": tag,
        "Reference": record.reference,
        "Digest": record.target.digest,
        "CreatedSince": since(image.created, now),
        "CreatedAt": at(image.created),
        "Size": size(image.unpacked),
        "DownloadSize": size(record.size),
        "Containers": image.containers,
        "Labels": image.config["config"]["Labels"],
        "Platform": platform(&image.config),
        "PulledAt": at(record.pulled_at),
    })
}

fn print(items: &[Value], digests: bool) -> Result<(), Failure> {
    let mut columns = vec![
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("DIGEST", "Digest"),
        ("IMAGE ID", "Id"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ];
    columns.retain(|(_, key)| digests || *key != "Digest");
    let header: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let row = |item: &Value| {
        let cell = |(_, key): &(&str, &str)| item[*key].as_str().unwrap_or_default().to_owned();
        columns.iter().map(cell).collect()
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    Ok(table::print(&header, &rows)?)
}

/// `3 days ago`; images that tell no time of their making were made reproducibly.
pub fn since(seconds: i64, now: i64) -> String {
    match seconds {
        0 => "N/A".into(),
        at => format!("{} ago", output::duration(now - at)),
    }
}

pub fn at(seconds: i64) -> String {
    match seconds {
        0 => "N/A".into(),
        at => jiff::Timestamp::from_second(at).map_or_else(|_| "N/A".into(), |t| t.to_string()),
    }
}

pub fn platform(config: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|k| config[k].as_str().unwrap_or_default());
    let named: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    named.join("/")
}

//! `corten search`.

use corten_registry::client::ClientConfig;
use corten_spec::Reference;
use corten_spec::reference::DEFAULT_REGISTRY;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::table;
use crate::output::template::Format;

/// Search a registry for images
///
/// Docker Hub, unless a host stands before the word. A registry without a search of its own is asked for all
/// its names.
///
/// Fields of a format: .Name .Description .StarCount .IsOfficial; with --list-tags: .Name .Tag
///
/// Examples:
///   corten search --filter is-official=true postgres
///   corten search --list-tags registry.example.com/team/app
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// List those only that fit: is-official=BOOL, stars=NUMBER
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print whole descriptions
    #[arg(long)]
    no_trunc: bool,
    /// List the tags of the image that is named
    #[arg(long)]
    list_tags: bool,
    /// Shape: 'json', a template, or 'table TEMPLATE'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// [HOST[:PORT]/]WORD
    term: String,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let format = Format::new(global.json, args.format.as_deref())?;
    let filters = args
        .filters
        .iter()
        .map(|f| filter(f))
        .collect::<Result<Vec<_>, _>>()?;
    let engine = global.engine()?;
    let client = ClientConfig::load(engine.paths().etc());
    let limit = args.limit as usize;
    if args.list_tags {
        let name: Reference = args.term.parse().map_err(corten_engine::Error::from)?;
        let tags = engine.remote_tags(&name, client)?;
        let familiar = name.familiar();
        let bare = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        let tags = tags.into_iter().take(limit);
        let items: Vec<Value> = tags.map(|t| json!({ "Name": bare, "Tag": t })).collect();
        return show(&format, &items, &[("NAME", "Name"), ("TAG", "Tag")]);
    }
    let (registry, word) = split(&args.term);
    let mut found = engine.search(registry, word, limit, client)?;
    found.retain(|f| filters.iter().all(|x| x.admits(f)));
    let items: Vec<Value> = found
        .into_iter()
        .map(|f| {
            let name = match registry {
                DEFAULT_REGISTRY => f.name,
                host => format!("{host}/{}", f.name),
            };
            let description = match args.no_trunc || f.description.chars().count() <= 45 {
                true => f.description,
                false => f.description.chars().take(44).chain(['…']).collect(),
            };
            json!({
                "Name": name, "Description": description, "StarCount": f.stars,
                "IsOfficial": if f.official { "[OK]" } else { "" },
            })
        })
        .collect();
    let columns = [
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("STARS", "StarCount"),
        ("OFFICIAL", "IsOfficial"),
    ];
    show(&format, &items, &columns)
}

fn show(format: &Format, items: &[Value], columns: &[(&str, &str)]) -> Result<(), Failure> {
    if format.print(items)? {
        return Ok(());
    }
    let header: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let cell = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| columns.iter().map(|(_, key)| cell(&item[*key])).collect())
        .collect();
    Ok(table::print(&header, &rows)?)
}

/// The host as a reference's is told.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, word)) if host.contains(['.', ':']) || host == "localhost" => match host {
            "index.docker.io" => (DEFAULT_REGISTRY, word),
            _ => (host, word),
        },
        _ => (DEFAULT_REGISTRY, term),
    }
}

enum Filter {
    Official(bool),
    Stars(u64),
}

impl Filter {
    fn admits(&self, found: &corten_registry::client::Found) -> bool {
        match self {
            Self::Official(wanted) => found.official == *wanted,
            Self::Stars(least) => found.stars >= *least,
        }
    }
}

fn filter(text: &str) -> Result<Filter, Failure> {
    let wrong = || {
        Failure::new(
            format!("filter {text:?} cannot be used"),
            "the filters are is-official=true, is-official=false and stars=NUMBER",
        )
    };
    match text.split_once("=") {
        Some(("is-official", "true" | "1")) => Ok(Filter::Official(true)),
        Some(("is-official", "false" | "0")) => Ok(Filter::Official(false)),
        Some(("stars", n)) => Ok(Filter::Stars(n.parse().map_err(|_| wrong())?)),
        _ => Err(wrong()),
    }
}

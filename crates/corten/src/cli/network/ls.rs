//! `corten network ls`.

use corten_engine::Engine;
use corten_engine::image::filter::moment;
use corten_engine::network::{Network, Origin, rfc3339};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::template::Format;
use crate::output::{self, table};

/// List networks
///
/// Filters: id=, name= (parts of them), driver=DRIVER, label=KEY[=VALUE], internal=BOOL,
/// dangling=BOOL (no container is on it), type=custom|builtin, scope=local. Fields of a format:
/// .ID .Name .Driver .Scope .Internal .IPv6 .Subnets .CreatedAt .Labels
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// List those only that fit
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Shape: 'json', a template, or 'table TEMPLATE'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// One `--filter`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Id(String),
    Name(String),
    Driver(String),
    /// Key, value, and whether it is to be there.
    Label(String, Option<String>, bool),
    Internal(bool),
    Dangling(bool),
    /// Somebody made it, by a command or a file.
    Custom(bool),
    /// Every network has the scope `local`.
    Any,
    /// Made before this time, in seconds.
    Until(i64),
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::new(
                format!("filter {text:?} cannot be used"),
                "the filters are id, name, driver, label, label!, internal and dangling (true or false), type (custom or builtin), scope (local), until",
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        let flag = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong()),
        };
        let label = |there| match value.split_once('=') {
            Some((key, value)) => Self::Label(key.into(), Some(value.into()), there),
            None => Self::Label(value.into(), None, there),
        };
        Ok(match key {
            "id" => Self::Id(value.into()),
            "name" => Self::Name(value.into()),
            "driver" => Self::Driver(value.into()),
            "label" => label(true),
            "label!" => label(false),
            "internal" => Self::Internal(flag()?),
            "dangling" => Self::Dangling(flag()?),
            "type" if ["custom", "builtin"].contains(&value) => Self::Custom(value == "custom"),
            "scope" if value == "local" => Self::Any,
            "until" => Self::Until(moment(value, output::now()).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        })
    }

    pub(super) fn admits(&self, engine: &Engine, n: &Network) -> bool {
        match self {
            Self::Id(id) => n.id.starts_with(id.as_str()),
            Self::Name(name) => n.name.contains(name.as_str()),
            Self::Driver(driver) => n.driver() == driver,
            Self::Label(key, value, there) => {
                let found = n.labels.get(key);
                let fits = found.is_some_and(|f| value.as_ref().is_none_or(|v| v == f));
                fits == *there
            }
            Self::Internal(yes) => n.is_internal() == *yes,
            Self::Dangling(yes) => engine.members(n).is_ok_and(|m| m.is_empty() == *yes),
            Self::Custom(yes) => (n.origin != Origin::Default) == *yes,
            Self::Any => true,
            Self::Until(time) => n.created_at / 1_000_000_000 < *time,
        }
    }
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let format = Format::new(global.json, args.format.as_deref())?;
    let filters = args.filters.iter().map(|f| Filter::parse(f));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    let engine = global.engine()?;
    for broken in engine.broken_networks()? {
        Failure::from(broken).report();
    }
    let mut networks = engine.networks()?;
    networks.retain(|n| filters.iter().all(|f| f.admits(&engine, n)));
    if args.quiet {
        for network in &networks {
            output::line(&network.name)?;
        }
        return Ok(());
    }
    let id = |n: &Network| match args.no_trunc || global.json {
        true => n.id.clone(),
        false => n.id.chars().take(12).collect(),
    };
    let items: Vec<Value> = networks.iter().map(|n| summary(n, id(n))).collect();
    if format.print(&items)? {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = networks
        .iter()
        .map(|n| {
            vec![
                id(n),
                n.name.clone(),
                n.driver().into(),
                subnets(n).join(", "),
            ]
        })
        .collect();
    Ok(table::print(
        &["NETWORK ID", "NAME", "DRIVER", "SUBNETS"],
        &rows,
    )?)
}

fn subnets(n: &Network) -> Vec<String> {
    let all = n.definition().map(|d| &d.subnets).into_iter().flatten();
    all.map(|s| s.subnet.to_string()).collect()
}

fn summary(n: &Network, id: String) -> Value {
    json!({
        "ID": id,
        "Name": n.name,
        "Driver": n.driver(),
        "Scope": "local",
        "Internal": n.is_internal(),
        "IPv6": n.definition().is_some_and(|d| d.has_ipv6()),
        "Subnets": subnets(n),
        "CreatedAt": rfc3339(n.created_at),
        "Labels": n.labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_as_docker_has_them() {
        let read = |s: &str| Filter::parse(s).ok();
        assert_eq!(read("driver=bridge"), Some(Filter::Driver("bridge".into())));
        assert_eq!(
            read("label!=a=b"),
            Some(Filter::Label("a".into(), Some("b".into()), false))
        );
        assert_eq!(read("dangling=1"), Some(Filter::Dangling(true)));
        for bad in ["dangling=x", "colour=red", "name", "until=never"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

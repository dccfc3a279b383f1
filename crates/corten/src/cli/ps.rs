//! `corten ps`.

use std::net::SocketAddr;

use corten_engine::Engine;
use corten_engine::container::options::{NetworkMode, PortMapping};
use corten_engine::container::record::ExitRecord;
use corten_engine::container::restart;
use corten_engine::container::{Container, Status};
use serde_json::{Value, json};

use super::Global;
use crate::failure::Failure;
use crate::output::template::Format;
use crate::output::{self, table};

/// List containers
///
/// Filters: id=, name= (parts of them), label=KEY[=VALUE], status=created|running|restarting|exited|dead,
/// exited=CODE, ancestor=IMAGE, network=NETWORK, health=starting|healthy|unhealthy|none. Fields of a format: .ID .Names .Image .Command
/// .CreatedAt .RunningFor .State .Status .Ports .Networks .Labels .Pid .ExitCode .Health .Restarts
///
/// Examples:
///   corten ps --all --filter status=exited --format '{{.Names}}: {{.Status}}'
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// List those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// List those only that fit
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Shape: 'json', a template, or 'table TEMPLATE'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

const STATES: [&str; 5] = ["created", "running", "restarting", "exited", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// One `--filter`.
enum Filter {
    Id(String),
    Name(String),
    Label(String, Option<String>),
    Status(String),
    Exited(u32),
    Ancestor(String),
    Network(String),
    Health(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::new(
                format!("filter {text:?} cannot be used"),
                "the filters are id, name, label, status (created, running, restarting, exited, dead), exited, ancestor, network and health (starting, healthy, unhealthy, none)",
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        let owned = value.to_owned();
        Ok(match key {
            "id" => Self::Id(owned),
            "name" => Self::Name(owned),
            "label" => match value.split_once('=') {
                Some((key, value)) => Self::Label(key.into(), Some(value.into())),
                None => Self::Label(owned, None),
            },
            "status" if STATES.contains(&value) => Self::Status(owned),
            "health" if HEALTH.contains(&value) => Self::Health(owned),
            "exited" => Self::Exited(value.parse().map_err(|_| wrong())?),
            "ancestor" => Self::Ancestor(owned),
            "network" => Self::Network(owned),
            _ => return Err(wrong()),
        })
    }

    fn admits(&self, engine: &Engine, c: &Container, s: &Status) -> bool {
        match self {
            Self::Id(id) => c.id.as_str().starts_with(id.as_str()),
            Self::Name(name) => c.name.to_string().contains(name.as_str()),
            Self::Label(key, value) => {
                let found = c.record.options.labels.get(key);
                found.is_some_and(|f| value.as_ref().is_none_or(|v| v == f))
            }
            Self::Status(state) => state_of(s) == state,
            Self::Exited(code) => matches!(s, Status::Exited(e) if e.exit_status == *code),
            Self::Ancestor(image) => {
                let same = engine
                    .image(image)
                    .is_ok_and(|i| i.config == c.record.image_config);
                same || familiar(&c.image) == *image
            }
            Self::Network(network) => {
                let name = engine.network(network).map_or(network.clone(), |n| n.name);
                networks(c).contains(&name)
            }
            Self::Health(wanted) => health(engine, c).as_deref().unwrap_or("none") == wanted,
        }
    }

    /// Speaks of containers that need not run.
    fn is_of_all(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Exited(_))
    }
}

/// The names of its networks; or what it has instead, such as `host`.
fn networks(c: &Container) -> Vec<String> {
    let options = &c.record.options.network;
    match options.mode {
        NetworkMode::Bridge => options.endpoints().into_iter().map(|e| e.network).collect(),
        _ => vec![options.mode.text()],
    }
}

/// docker's word for a container whose supervisor is gone.
fn state_of(s: &Status) -> &'static str {
    match s {
        Status::Lost => "dead",
        other => other.as_str(),
    }
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let format = Format::new(global.json, args.format.as_deref())?;
    let filters = args.filters.iter().map(|f| Filter::parse(f));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    let engine = global.engine()?;
    let all = args.all || filters.iter().any(Filter::is_of_all);
    let mut found = Vec::new();
    for container in engine.containers()? {
        let status = engine.status(&container)?;
        let admitted = filters
            .iter()
            .all(|f| f.admits(&engine, &container, &status));
        if admitted && (all || status.is_active()) {
            found.push((container, status));
        }
    }
    let id = |c: &Container| match args.no_trunc {
        true => c.id.to_string(),
        false => c.id.short().to_owned(),
    };
    if args.quiet {
        for (container, _) in &found {
            output::line(id(container))?;
        }
        return Ok(());
    }
    let now = output::now();
    let whole = args.no_trunc || global.json;
    let items: Vec<Value> = found
        .iter()
        .map(|(c, s)| summary(&engine, c, s, whole, now))
        .collect();
    if format.print(&items)? {
        return Ok(());
    }
    print(&engine, &found, args.no_trunc, now)
}

fn print(
    engine: &Engine,
    found: &[(Container, Status)],
    whole: bool,
    now: i64,
) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(c, s)| {
            let age = format!(
                "{} ago",
                output::duration(now - c.created_at / 1_000_000_000)
            );
            let command = command(engine, c, whole);
            vec![
                if whole {
                    c.id.to_string()
                } else {
                    c.id.short().to_owned()
                },
                familiar(&c.image),
                command,
                age,
                status(engine, c, s, now),
                ports(c, s),
                c.name.to_string(),
            ]
        })
        .collect();
    Ok(table::print(
        &[
            "CONTAINER ID",
            "IMAGE",
            "COMMAND",
            "CREATED",
            "STATUS",
            "PORTS",
            "NAMES",
        ],
        &rows,
    )?)
}

fn familiar(image: &str) -> String {
    image
        .parse::<corten_spec::Reference>()
        .map_or_else(|_| image.to_owned(), |r| r.familiar())
}

fn command(engine: &Engine, c: &Container, whole: bool) -> String {
    // Its config may be damaged; the list is not to fail for that.
    let words = engine.command_line(c).unwrap_or_default();
    let text = words.join(" ");
    let short: String = text.chars().take(20).collect();
    match whole || text.chars().count() <= 20 {
        true => format!("{text:?}"),
        false => format!("{:?}", format!("{}…", short.trim_end())),
    }
}

/// The word for its health, if it is checked.
fn health(engine: &Engine, c: &Container) -> Option<String> {
    // Its report may be damaged; the list is not to fail for that.
    engine.health(c).ok().flatten().map(|report| report.status)
}

fn status(engine: &Engine, c: &Container, s: &Status, now: i64) -> String {
    let since = |at: i64| output::duration(now - at);
    let ended = |e: &ExitRecord| {
        let at = e.exited_at.parse::<jiff::Timestamp>();
        since(at.map_or(now, |t| t.as_second()))
    };
    match s {
        Status::Created => "Created".into(),
        Status::Running { .. } => {
            let started = c.record.run.as_ref().map_or(now, |r| r.started_at.0);
            // As docker writes it.
            let health = match health(engine, c).as_deref() {
                None => String::new(),
                Some("starting") => " (health: starting)".into(),
                Some(word) => format!(" ({word})"),
            };
            format!("Up {}{health}", since(started))
        }
        Status::Restarting(e) => format!("Restarting ({}) {} ago", e.exit_status, ended(e)),
        Status::Exited(e) => format!("Exited ({}) {} ago", e.exit_status, ended(e)),
        Status::Lost => "Dead (its supervisor is gone)".into(),
    }
}

/// `*:8080->80/tcp, [::1]:8081->81/tcp`, nearly as docker writes them.
fn ports(c: &Container, s: &Status) -> String {
    let Some(run) = c.record.run.as_ref().filter(|_| s.is_running()) else {
        return String::new();
    };
    let one = |p: &PortMapping| {
        let host = match p.host_ip {
            None => format!("*:{}", p.host_port),
            Some(ip) => SocketAddr::new(ip, p.host_port).to_string(),
        };
        format!("{host}->{}/{}", p.container_port, p.protocol.as_str())
    };
    run.ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn summary(engine: &Engine, c: &Container, s: &Status, whole: bool, now: i64) -> Value {
    let created = c.created_at / 1_000_000_000;
    let command: Value = match whole {
        true => engine.command_line(c).unwrap_or_default().into(),
        false => command(engine, c, false).into(),
    };
    json!({
        "Id": if whole { c.id.as_str() } else { c.id.short() },
        "Name": c.name,
        "Names": c.name,
        "Image": if whole { c.image.clone() } else { familiar(&c.image) },
        "Command": command,
        "CreatedAt": c.created_at,
        "RunningFor": format!("{} ago", output::duration(now - created)),
        "State": s.as_str(),
        "Status": status(engine, c, s, now),
        "Health": health(engine, c).unwrap_or_default(),
        "Restarts": restart::count(c.record.run.as_ref(), s),
        "Pid": if let Status::Running { pid } = s { *pid } else { 0 },
        "ExitCode": match s {
            Status::Exited(e) | Status::Restarting(e) => Some(e.exit_status),
            _ => None,
        },
        "Ports": ports(c, s),
        "Networks": networks(c).join(","),
        "Labels": c.record.options.labels,
    })
}

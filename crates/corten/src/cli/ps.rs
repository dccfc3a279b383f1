//! `corten ps`.

use std::net::SocketAddr;

use corten_engine::Engine;
use corten_engine::container::options::PortMapping;
use corten_engine::container::{Container, Status};
use serde_json::{Value, json};

use super::Global;
use crate::failure::Failure;
use crate::output::{self, table};

/// List containers
#[derive(clap::Args)]
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
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let mut found = Vec::new();
    for container in engine.containers()? {
        let status = engine.status(&container)?;
        if args.all || status.is_running() {
            found.push((container, status));
        }
    }
    let id = |c: &Container| match args.no_trunc {
        true => c.id.to_string(),
        false => c.id.short().to_owned(),
    };
    if global.json {
        let all: Vec<Value> = found.iter().map(|(c, s)| summary(&engine, c, s)).collect();
        return Ok(output::json(&all)?);
    }
    if args.quiet {
        for (container, _) in &found {
            output::line(id(container))?;
        }
        return Ok(());
    }
    let now = output::now();
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(c, s)| {
            let age = format!(
                "{} ago",
                output::duration(now - c.created_at / 1_000_000_000)
            );
            let command = command(&engine, c, args.no_trunc);
            vec![
                id(c),
                familiar(&c.image),
                command,
                age,
                status(c, s, now),
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

fn status(c: &Container, s: &Status, now: i64) -> String {
    let since = |at: i64| output::duration(now - at);
    match s {
        Status::Created => "Created".into(),
        Status::Running { .. } => {
            let started = c.record.run.as_ref().map_or(now, |r| r.started_at.0);
            format!("Up {}", since(started))
        }
        Status::Exited(e) => {
            let at = e
                .exited_at
                .parse::<jiff::Timestamp>()
                .map_or(now, |t| t.as_second());
            format!("Exited ({}) {} ago", e.exit_status, since(at))
        }
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

fn summary(engine: &Engine, c: &Container, s: &Status) -> Value {
    json!({
        "Id": c.id,
        "Name": c.name,
        "Image": c.image,
        "Command": engine.command_line(c).unwrap_or_default(),
        "CreatedAt": c.created_at,
        "State": s.as_str(),
        "Status": status(c, s, output::now()),
        "Pid": if let Status::Running { pid } = s { *pid } else { 0 },
        "ExitCode": if let Status::Exited(e) = s { Some(e.exit_status) } else { None },
        "Ports": ports(c, s),
        "Labels": c.record.options.labels,
    })
}

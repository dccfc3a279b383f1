//! What a connection to a published port costs with one port published and with five hundred, by the first and the last
//! of them; and how long a container with so many takes to start.

use std::process::Command;
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::peer::Engine;
use super::super::report::{Series, skipped};
use super::{Guest, HOST, OUT, Server, engines, own};
use crate::failure::{Context, Result, failure};

/// Of the first engine's ports; each has others, as the client remembers whom it was connected to.
const FIRST: u16 = 10_000;
const MANY: u16 = 500;
const CONNECTIONS: &str = "2000";

pub fn measure(bench: &Bench) -> Result<()> {
    let (mut cost, mut start) = (Series::default(), Series::default());
    for (first, engine) in (FIRST..).step_by(2000).zip(engines(bench)) {
        for (count, ports) in [(1, vec![first]), (MANY, vec![first, first + MANY - 1])] {
            let since = Instant::now();
            let guest = publishing(engine, first, count);
            let took = since.elapsed().as_secs_f64();
            let guest = match guest {
                Ok(guest) => guest,
                Err(why) => {
                    skipped(engine.name, why);
                    continue;
                }
            };
            start.add(&format!("{}: {count}", engine.name), took);
            for port in ports {
                let what = format!("{}: {count}, port {}", engine.name, port - first + 1);
                for _ in 0..3 {
                    match connect(&guest, port) {
                        Ok(micros) => cost.add(&what, micros),
                        Err(why) => skipped(&what, why),
                    }
                }
            }
        }
    }
    start.print("start of a container with published ports", "s", &[]);
    cost.print(
        "a connection from another machine, by the number of published ports",
        "us",
        &["corten: 1, port 1"],
    );
    Ok(())
}

fn publishing(engine: &Engine, first: u16, count: u16) -> Result<Guest<'_>> {
    let last = first + count - 1;
    let ports = match count {
        1 => format!("{first}:{first}"),
        _ => format!("{first}-{last}:{first}-{last}"),
    };
    Guest::start(engine, "ports", &["--publish", &ports])
}

fn connect(guest: &Guest<'_>, port: u16) -> Result<f64> {
    let own = own()?;
    let _server = Server::start(&mut guest.command(&[&own, "bench-accept", &port.to_string()]))?;
    let to = format!("{HOST}:{port}");
    let mut why = String::new();
    for _ in 0..50 {
        let out = Command::new("ip")
            .args([
                "netns",
                "exec",
                OUT,
                &own,
                "bench-connect",
                &to,
                CONNECTIONS,
            ])
            .output()
            .context("ip netns exec")?;
        let text = String::from_utf8_lossy(&out.stdout);
        if let Ok(micros) = text.trim().parse() {
            return Ok(micros);
        }
        why = String::from_utf8_lossy(&out.stderr).into_owned();
        // Until it listens.
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(failure(format!("no connection to {to}: {why}")))
}

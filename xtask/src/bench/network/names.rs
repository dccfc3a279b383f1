//! Lookups of another container's name in a container's namespace: a second, by dnsperf, as many as can be; and one after
//! the other.

use std::fs;

use super::super::peer::Engine;
use super::super::report::{Series, skipped};
use super::super::{Bench, call};
use super::{Guest, engines, own};
use crate::failure::{Context, Result, failure};

const SECONDS: &str = "3";
/// Name servers as engines put them into resolv.conf.
const RESOLV: &str = "/etc/resolv.conf";

const NETWORK: &str = "bench-names";
/// As [`Guest`] names it.
const NAMED: &str = "bench-named";

/// An engine, a container with a name, one that asks for it, and whom that asks.
type Asked<'b> = (&'b Engine, (Guest<'b>, Guest<'b>, String));

pub fn measure(bench: &Bench) -> Result<()> {
    if call("which", &["dnsperf"]).is_err() {
        skipped("names", "dnsperf is not installed");
        return Ok(());
    }
    let queries = bench.folder().join("queries");
    fs::write(&queries, format!("{NAMED} A\n")).context(queries.display())?;
    let queries = queries.display().to_string();
    let (mut many, mut one) = (Series::default(), Series::default());
    let mut asked: Vec<Asked<'_>> = Vec::new();
    for engine in engines(bench) {
        let create = engine.words(&["network", "create", NETWORK]);
        let network = ["--network", NETWORK];
        let made = engine.place.run(&create).and_then(|_| {
            let named = Guest::start(engine, "named", &network)?;
            let client = Guest::start(engine, "asks", &network)?;
            let server = server(&client)?;
            Ok((named, client, server))
        });
        match made {
            Ok(guests) => asked.push((engine, guests)),
            Err(why) => skipped(engine.name, why),
        }
    }
    for _ in 0..super::super::run::rounds().min(5) {
        for (engine, (_, client, server)) in &asked {
            match dnsperf(client, server, &queries) {
                Ok(rate) => many.add(engine.name, rate),
                Err(why) => skipped(engine.name, why),
            }
            match one_by_one(client, server) {
                Ok(micros) => one.add(engine.name, micros),
                Err(why) => skipped(engine.name, why),
            }
        }
    }
    runs(&asked);
    let against = ["podman + crun", "docker"];
    many.print("lookups a second, as many as can be", "1/s", &against);
    one.print("a lookup, one after the other", "us", &against);
    for (engine, guests) in asked {
        drop(guests);
        let remove = engine.words(&["network", "rm", NETWORK]);
        if let Err(why) = engine.place.run(&remove) {
            eprintln!("bench: {why}");
        }
    }
    Ok(())
}

/// A container that comes and goes on a network with names, where others are.
fn runs(asked: &[Asked<'_>]) {
    let mut series = Series::default();
    for _ in 0..super::super::run::rounds() {
        for (engine, _) in asked {
            let argv = engine.run_with(&["--network", NETWORK]);
            match engine.place.run(&argv) {
                Ok(timing) => series.add(engine.name, timing.millis),
                Err(why) => skipped(engine.name, why),
            }
        }
    }
    series.print(
        "run --rm busybox true, on a network with names",
        "ms",
        &["podman + crun", "docker"],
    );
}

/// Whom the container asks.
fn server(guest: &Guest<'_>) -> Result<String> {
    let argv = guest.engine.words(&["exec", &guest.name, "cat", RESOLV]);
    let text = guest.engine.place.run(&argv)?.stdout;
    let mut lines = text.lines().map(str::trim);
    let found = lines.find_map(|l| l.strip_prefix("nameserver "));
    found
        .map(|s| s.trim().to_owned())
        .ok_or_else(|| failure(format!("no name server in {RESOLV}")))
}

/// dnsperf itself pauses when only one question is out.
fn one_by_one(guest: &Guest<'_>, server: &str) -> Result<f64> {
    let own = own()?;
    let argv = [&own, "bench-lookup", server, NAMED, "3000"];
    let out = guest.command(&argv).output().context("bench-lookup")?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.trim()
        .parse()
        .map_err(|_| failure(String::from_utf8_lossy(&out.stderr).into_owned()))
}

fn dnsperf(guest: &Guest<'_>, server: &str, queries: &str) -> Result<f64> {
    let argv = [
        "dnsperf", "-s", server, "-d", queries, "-l", SECONDS, "-c", "4", "-q", "100",
    ];
    let out = guest.command(&argv).output().context("dnsperf")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let field = |name: &str| {
        let line = text.lines().find(|l| l.trim_start().starts_with(name))?;
        line.split_once(':')?
            .1
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    };
    let (rate, lost) = (field("Queries per second"), field("Queries lost"));
    // An answer that says no is quick, and worth nothing.
    let good = text.lines().any(|l| l.contains("NOERROR"));
    match (rate, good) {
        (Some(rate), true) if lost.is_none_or(|l| l < rate) => Ok(rate),
        _ => {
            let lines = text.lines().map(str::trim);
            let said: Vec<&str> = lines
                .filter(|l| l.starts_with("Quer") || l.starts_with("Resp"))
                .collect();
            Err(failure(format!("dnsperf on {server}: {}", said.join("; "))))
        }
    }
}

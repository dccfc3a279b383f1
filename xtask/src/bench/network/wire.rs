//! Throughput, by iperf3: from container to container, and from another machine to a published port; beside two
//! namespaces on a bare bridge that no engine has touched.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::super::report::{Series, skipped};
use super::super::{Bench, call};
use super::{Guest, HOST, OUT, Server, engines};
use crate::failure::{Context, Result, failure};

const PORT: &str = "5201";
const SECONDS: &str = "2";

/// Rounds of two seconds for each subject and way.
fn rounds() -> usize {
    super::super::run::rounds().min(7)
}

/// Where traffic goes from and to.
struct Pair {
    name: &'static str,
    /// What a command begins with to run there: `nsenter …`.
    server: Vec<String>,
    client: Vec<String>,
    /// The server, for its neighbour.
    near: String,
    /// The server, from outside.
    far: String,
    far_port: String,
}

pub fn measure(bench: &Bench) -> Result<()> {
    if call("iperf3", &["--version"]).is_err() {
        skipped("throughput", "iperf3 is not installed");
        return Ok(());
    }
    let mut guests = Vec::new();
    for (i, engine) in engines(bench).enumerate() {
        let port = format!("{}:{PORT}", 25_000 + i);
        let server = Guest::start(engine, "server", &["--publish", &port]);
        let client = Guest::start(engine, "client", &[]);
        match (server, client) {
            (Ok(server), Ok(client)) => guests.push((engine.name, server, client, 25_000 + i)),
            (Err(why), _) | (_, Err(why)) => skipped(engine.name, why),
        }
    }
    let mut pairs = vec![bare()?];
    for (name, server, client, port) in &guests {
        pairs.push(Pair {
            name,
            server: server.entering(),
            client: client.entering(),
            near: server.address.clone(),
            far: HOST.into(),
            far_port: port.to_string(),
        });
    }
    let (mut near, mut far) = (Series::default(), Series::default());
    for _ in 0..rounds() {
        for pair in &pairs {
            match iperf(pair, &pair.client, &pair.near, PORT) {
                Ok(rate) => near.add(pair.name, rate),
                Err(why) => skipped(pair.name, why),
            }
            match iperf(pair, &in_namespace(OUT), &pair.far, &pair.far_port) {
                Ok(rate) => far.add(pair.name, rate),
                Err(why) => skipped(pair.name, why),
            }
        }
    }
    near.print("from container to container", "Gbit/s", &["bare bridge"]);
    far.print(
        "from another machine to a published port (bare: to the address itself)",
        "Gbit/s",
        &["bare bridge"],
    );
    Ok(())
}

fn in_namespace(name: &str) -> Vec<String> {
    ["ip", "netns", "exec", name].map(str::to_owned).to_vec()
}

fn command(entering: &[String], argv: &[&str]) -> Command {
    let mut words = entering
        .iter()
        .map(String::as_str)
        .chain(argv.iter().copied());
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Two namespaces on a bridge with nothing else.
fn bare() -> Result<Pair> {
    let line = |text: &str| call("ip", &text.split(' ').collect::<Vec<_>>());
    line("link add bare0 type bridge")?;
    line("addr add 192.168.77.1/24 dev bare0")?;
    line("link set bare0 up")?;
    for (i, name) in ["ba", "bb"].iter().enumerate() {
        line(&format!("netns add {name}"))?;
        line(&format!(
            "link add v{name} master bare0 type veth peer name eth0 netns {name}"
        ))?;
        line(&format!("link set v{name} up"))?;
        line(&format!("-n {name} addr add 192.168.77.1{i}/24 dev eth0"))?;
        line(&format!("-n {name} link set eth0 up"))?;
        line(&format!("-n {name} route add default via 192.168.77.1"))?;
    }
    // docker's firewall drops what it does not know.
    for side in ["-i", "-o"] {
        call(
            "iptables",
            &["-I", "FORWARD", side, "bare0", "-j", "ACCEPT"],
        )?;
    }
    Ok(Pair {
        name: "bare bridge",
        server: in_namespace("ba"),
        client: in_namespace("bb"),
        near: "192.168.77.10".into(),
        far: "192.168.77.10".into(),
        far_port: PORT.into(),
    })
}

/// One transfer, in Gbit/s.
fn iperf(pair: &Pair, client: &[String], address: &str, port: &str) -> Result<f64> {
    let server = ["iperf3", "-s", "-1", "-p", PORT];
    let _server = Server::start(&mut command(&pair.server, &server))?;
    let argv = ["iperf3", "-c", address, "-p", port, "-t", SECONDS, "-J"];
    let mut why = String::new();
    // Until it listens.
    for _ in 0..50 {
        let out = command(client, &argv).output().context("iperf3")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let document: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if let Some(rate) = document["end"]["sum_received"]["bits_per_second"].as_f64() {
            return Ok(rate / 1e9);
        }
        why = document["error"].as_str().unwrap_or(&text).to_owned();
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(failure(format!("iperf3 to {address}:{port}: {why}")))
}

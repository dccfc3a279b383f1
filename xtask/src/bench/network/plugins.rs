//! ADD and DEL of bridge, host-local and portmap: ours and the reference's, called alike, one process a plugin as a
//! runtime does it; and ours in process, as our engine does.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::super::report::{Series, skipped};
use super::super::run::rounds;
use super::super::{Bench, built, call};
use crate::failure::{Context, Result, failure};

const WARM_UP: usize = 2;
const THEIRS: &str = "/usr/lib/cni";

/// One set of plugins, and a network of its own for it.
struct Set {
    name: &'static str,
    folder: PathBuf,
    bridge: &'static str,
    subnet: &'static str,
    port: u16,
}

pub fn measure(bench: &Bench) -> Result<()> {
    let ours = bench.folder().join("cni");
    std::fs::create_dir_all(&ours).context(ours.display())?;
    for name in ["bridge", "host-local", "portmap"] {
        symlink(&bench.corten, ours.join(name)).context(name)?;
    }
    let mut sets = vec![Set {
        name: "corten's, by exec",
        folder: ours,
        bridge: "benchc0",
        subnet: "10.201.0.0/16",
        port: 21000,
    }];
    match Path::new(THEIRS).join("bridge").exists() {
        true => sets.push(Set {
            name: "reference (Go)",
            folder: THEIRS.into(),
            bridge: "benchg0",
            subnet: "10.202.0.0/16",
            port: 22000,
        }),
        false => skipped("the reference plugins", format!("none in {THEIRS}")),
    }
    let (mut add, mut del, mut both) = (Series::default(), Series::default(), Series::default());
    for round in 0..rounds() + WARM_UP {
        for set in &sets {
            let (added, deleted) = set.round(bench, round)?;
            if round >= WARM_UP {
                add.add(set.name, added);
                del.add(set.name, deleted);
                both.add(set.name, added + deleted);
            }
        }
    }
    let against = ["reference (Go)"];
    add.print("ADD of bridge + host-local, portmap", "ms", &against);
    del.print("DEL of the same", "ms", &against);
    both.print("ADD and DEL", "ms", &against);
    in_process()
}

impl Set {
    fn round(&self, bench: &Bench, round: usize) -> Result<(f64, f64)> {
        let namespace = format!("b{round}");
        call("ip", &["netns", "add", &namespace])?;
        let state = bench.folder().join("ipam").display().to_string();
        let bridge = json!({
            "cniVersion": "1.0.0", "name": self.bridge, "type": "bridge", "bridge": self.bridge, "isGateway": true,
            "ipMasq": true, "hairpinMode": true,
            "ipam": { "type": "host-local", "dataDir": state, "ranges": [[{ "subnet": self.subnet }]],
                      "routes": [{ "dst": "0.0.0.0/0" }] },
        });
        let mapping = json!({ "hostPort": self.port, "containerPort": 80, "protocol": "tcp" });
        let mut portmap = json!({
            "cniVersion": "1.0.0", "name": self.bridge, "type": "portmap", "snat": true,
            "runtimeConfig": { "portMappings": [mapping] },
        });
        let since = Instant::now();
        let result = self.call("ADD", &bridge, &namespace)?;
        portmap["prevResult"] = result.clone();
        self.call("ADD", &portmap, &namespace)?;
        let added = since.elapsed().as_secs_f64() * 1e3;
        let mut bridge = bridge;
        bridge["prevResult"] = result;
        let since = Instant::now();
        self.call("DEL", &portmap, &namespace)?;
        self.call("DEL", &bridge, &namespace)?;
        let deleted = since.elapsed().as_secs_f64() * 1e3;
        call("ip", &["netns", "del", &namespace])?;
        Ok((added, deleted))
    }

    fn call(&self, verb: &str, config: &Value, namespace: &str) -> Result<Value> {
        let plugin = config["type"].as_str().unwrap_or_default();
        let program = self.folder.join(plugin);
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", namespace)
            .env("CNI_NETNS", format!("/run/netns/{namespace}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(program.display())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(config.to_string().as_bytes())
                .context(program.display())?;
        }
        let out = child.wait_with_output().context(program.display())?;
        let text = String::from_utf8_lossy(&out.stdout);
        match out.status.success() {
            true => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
            false => Err(failure(format!("{verb} of {}: {text}", program.display()))),
        }
    }
}

/// The example measures itself, in a network namespace of its own.
fn in_process() -> Result<()> {
    let example = built(
        &["--release", "-p", "corten-net", "--example", "attach-bench"],
        "attach-bench",
    )?;
    let text = call("unshare", &["--net", &example.to_string_lossy(), "50"])?;
    println!("\nADD and DEL of the same in our own process");
    for line in text.lines() {
        println!("  {line}");
    }
    Ok(())
}

//! Many processes at once, and processes that are killed.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use corten_net::{network, recover};
use serde_json::{Map, Value, json};

use crate::rig::{Host, Namespace, leftovers};

/// Starts our `bridge` executable.
fn spawn(host: &Host, bin: &Path, verb: &str, id: &str, netns: &Namespace) -> Child {
    let list = host.list();
    let config = list.plugins[0].document.clone();
    spawn_one(bin, "bridge", config, verb, id, netns)
}

/// Starts one of our executables, for the network `bridge`.
fn spawn_one(
    bin: &Path,
    plugin: &str,
    mut config: Map<String, Value>,
    verb: &str,
    id: &str,
    netns: &Namespace,
) -> Child {
    config.insert("cniVersion".into(), "1.1.0".into());
    config.insert("name".into(), "bridge".into());
    let mut child = Command::new(bin.join(plugin))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", netns.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", bin)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // A killed one breaks the pipe.
    let _ = pipe.write_all(Value::Object(config).to_string().as_bytes());
    child
}

#[test]
fn sixty_four_processes_get_sixty_four_addresses() {
    let host = Host::new();
    let bin = host.executables();
    let namespaces: Vec<Namespace> = (0..64).map(|_| Namespace::new()).collect();
    let mut addresses = BTreeSet::new();
    let children: Vec<Child> = namespaces
        .iter()
        .enumerate()
        .map(|(i, n)| spawn(&host, &bin, "ADD", &format!("c{i}"), n))
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let result: Value = serde_json::from_str(&text).unwrap();
        for ip in result["ips"].as_array().unwrap() {
            assert!(addresses.insert(ip["address"].to_string()), "{ip} twice");
        }
    }
    assert_eq!(addresses.len(), 128);
    let held = recover::holdings(&host.list()).unwrap();
    assert_eq!((held.links.len(), held.addresses.len()), (64, 128));
    let children: Vec<Child> = namespaces
        .iter()
        .enumerate()
        .map(|(i, n)| spawn(&host, &bin, "DEL", &format!("c{i}"), n))
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    network::remove(&host.list()).unwrap();
    assert_eq!(leftovers(&host), "");
}

#[test]
fn what_a_killed_process_leaves_is_found_and_freed() {
    let host = Host::new();
    let bin = host.executables();
    let namespace = Namespace::new();
    for round in 0..60u64 {
        let id = format!("c{round}");
        let mut child = spawn(&host, &bin, "ADD", &id, &namespace);
        std::thread::sleep(Duration::from_micros(round * 97 % 6000));
        child.kill().unwrap();
        child.wait().unwrap();
        let held = recover::holdings(&host.list()).unwrap();
        // Whatever is there says whose it is.
        assert!(held.containers().iter().all(|c| *c == id), "{held:?}");
        recover::free(&host.list(), &id).unwrap();
        assert!(recover::holdings(&host.list()).unwrap().is_empty());
    }
    network::remove(&host.list()).unwrap();
    assert_eq!(leftovers(&host), "");
}

/// portmap, and firewall, killed at whatever instruction: what there is says whose it is; the next
/// ADD of the same container works, and DEL leaves nothing of it.
#[test]
fn plugins_of_the_firewall_that_are_killed_leave_what_the_next_add_and_del_put_right() {
    let host = Host::new();
    let bin = host.executables();
    let c = host.container("c", &[]);
    let cached = host.dir.path().join("cni/results/bridge-c-eth0");
    let cached: Value = serde_json::from_slice(&std::fs::read(cached).unwrap()).unwrap();
    let previous = cached["result"].clone();
    let mappings: Vec<Value> = (1..=50)
        .map(|n| json!({"hostPort": 8000 + n, "containerPort": 80, "protocol": "udp"}))
        .collect();
    let configs = [
        (
            "portmap",
            json!({"masqAll": true, "runtimeConfig": {"portMappings": mappings}}),
        ),
        ("firewall", json!({"ingressPolicy": "isolated"})),
    ];
    for (plugin, config) in configs {
        let mut config = config.as_object().unwrap().clone();
        config.insert("prevResult".into(), previous.clone());
        let start = |verb| spawn_one(&bin, plugin, config.clone(), verb, "c", &c.namespace);
        let ends = |child: Child| {
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{plugin}: {text}");
        };
        for round in 0..20u64 {
            let mut child = start("ADD");
            std::thread::sleep(Duration::from_micros(round * 451 % 9000));
            child.kill().unwrap();
            child.wait().unwrap();
            let ruleset = crate::rig::shell("nft list ruleset");
            // All ports of the mapping or none, and whose they are.
            let published = ruleset.matches("comment \"corten c eth0 bridge\" : 10.90.0.2 . 80");
            let published = published.count();
            assert!([0, 50].contains(&published), "{published}: {ruleset}");
            ends(start("ADD"));
            ends(start("CHECK"));
            ends(start("DEL"));
            let ruleset = crate::rig::shell("nft list ruleset");
            assert!(!ruleset.contains("comment \"corten c"), "{ruleset}");
        }
    }
}

/// Sixteen callers at once, each attaching and taking off without a pause: a thousand of both. What one holds no other
/// is given, and at the end nothing is held.
#[test]
fn a_thousand_attachments_from_sixteen_processes_at_once() {
    const CALLERS: usize = 16;
    const TURNS: usize = 63;
    let host = Host::new();
    let bin = host.executables();
    let held: Mutex<BTreeSet<String>> = Mutex::default();
    let namespaces: Vec<Namespace> = (0..CALLERS).map(|_| Namespace::new()).collect();
    let end = |child: Child| {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        text
    };
    // Threads keep the namespace of the one that makes them.
    std::thread::scope(|scope| {
        for (caller, namespace) in namespaces.iter().enumerate() {
            let (held, host, bin) = (&held, &host, &bin);
            scope.spawn(move || {
                for turn in 0..TURNS {
                    let id = format!("c{caller}-{turn}");
                    let text = end(spawn(host, bin, "ADD", &id, namespace));
                    let result: Value = serde_json::from_str(&text).unwrap();
                    let ips = result["ips"].as_array().unwrap();
                    assert_eq!(ips.len(), 2);
                    let all: Vec<String> = ips.iter().map(|ip| ip["address"].to_string()).collect();
                    for address in &all {
                        let fresh = held.lock().unwrap().insert(address.clone());
                        assert!(fresh, "{address} was given twice");
                    }
                    // It is somebody else's from the moment that DEL gives it back.
                    for address in &all {
                        held.lock().unwrap().remove(address);
                    }
                    end(spawn(host, bin, "DEL", &id, namespace));
                }
            });
        }
    });
    assert!(recover::holdings(&host.list()).unwrap().is_empty());
    network::remove(&host.list()).unwrap();
    assert_eq!(leftovers(&host), "");
}

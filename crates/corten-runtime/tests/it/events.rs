//! `events`: lines of JSON that end with the container.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Bundle, text};

fn lines(bundle: &Bundle, args: &[&str]) -> std::thread::JoinHandle<Vec<Value>> {
    let mut command = bundle.command([&["events"], args].concat());
    let mut child = command
        .arg(&bundle.id)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::spawn(move || {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines
            .map(|l| serde_json::from_str(&l.unwrap()).unwrap())
            .collect();
        assert!(child.wait().unwrap().success());
        lines
    })
}

#[test]
fn statistics_are_told_until_the_end() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let pid = bundle.pid();
    let told = lines(&bundle, &["--interval", "100ms"]);
    std::thread::sleep(std::time::Duration::from_millis(600));
    bundle.ok(["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped(pid);
    let told = told.join().unwrap();
    assert!(told.len() >= 2, "{told:?}");
    for line in &told {
        assert_eq!(
            (&line["type"], &line["id"]),
            (&json!("stats"), &json!(bundle.id))
        );
        assert_eq!(line["data"]["pids"]["current"], 1);
    }
    let late = bundle.oci(["events", "--stats", &bundle.id]);
    assert_eq!(late.status.code(), Some(1), "{}", text(&late.stdout));
}

#[test]
fn statistics_are_told_once() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let told = lines(&bundle, &["--stats"]).join().unwrap();
    let [stats] = told.as_slice() else {
        panic!("{told:?}")
    };
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64);
    assert!(number("/data/cpu/usage/total").unwrap() > 0, "{stats}");
    assert!(number("/data/memory/usage/usage").is_some(), "{stats}");
    assert!(stats["data"]["network_interfaces"].is_array());
    for bad in ["0s", "5", "x"] {
        let output = bundle.oci(["events", "--interval", bad, &bundle.id]);
        assert_ne!(output.status.code(), Some(0), "{bad}");
    }
}

#[test]
fn a_kill_for_want_of_memory_is_told() {
    if !std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        return;
    }
    // The buffer is as large as the block.
    let mut bundle = Bundle::script(
        "while ! test -e /tmp/go; do sleep 0.05; done
         dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 0.3",
    );
    bundle.set("/linux/resources/memory", json!({"limit": 32 << 20}));
    bundle.up();
    let pid = bundle.pid();
    let told = lines(&bundle, &["--interval", "1h"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::write(bundle.root().join("tmp/go"), "").unwrap();
    bundle.wait_stopped(pid);
    let told = told.join().unwrap();
    assert!(!told.is_empty());
    assert!(told.iter().all(|l| l["type"] == "oom"), "{told:?}");
}

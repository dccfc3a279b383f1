//! What a plugin is told, verb by verb: the caller with executables that write down what they get.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use corten_net::cni::{
    Attachment, Caller, DnsArgument, NetworkConfigList, PortMapping, Protocol, ValidAttachment,
};
use serde_json::{Value, json};

/// Notes its call in a file of its own, numbered; gives back the previous result with an address of its own, or
/// fails where a file says so.
const RECORDER: &str = r#"#!/bin/sh
me=$(basename "$0")
dir=$(dirname "$0")
n=$(ls "$dir"/calls | wc -l)
{ echo "$me $CNI_COMMAND"; echo "$CNI_CONTAINERID|$CNI_NETNS|$CNI_IFNAME|$CNI_ARGS|$CNI_PATH"; cat; } > "$dir/calls/$(printf %03d $n)"
if [ -e "$dir/fail-$me-$CNI_COMMAND" ]; then
    echo '{"cniVersion": "1.1.0", "code": 11, "msg": "not now", "details": "later"}'
    exit 1
fi
case $CNI_COMMAND in
ADD) echo "{\"cniVersion\": \"1.1.0\", \"ips\": [{\"address\": \"10.0.0.$(printf %d "'$me")/24\"}]}" ;;
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}' ;;
esac
"#;

struct Rig {
    dir: tempfile::TempDir,
    caller: Caller,
}

/// One call as a plugin saw it.
struct Call {
    what: String,
    environment: String,
    config: Value,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir_all(bin.join("calls")).unwrap();
        for name in ["a", "b"] {
            fs::write(bin.join(name), RECORDER).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let caller = Caller::new(vec![bin], dir.path().join("cache"));
        Self { dir, caller }
    }

    fn bin(&self) -> std::path::PathBuf {
        self.dir.path().join("bin")
    }

    fn fail(&self, what: &str, yes: bool) {
        let path = self.bin().join(format!("fail-{what}"));
        match yes {
            true => fs::write(path, "").unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }

    /// The calls since the last time.
    fn calls(&self) -> Vec<Call> {
        let folder = self.bin().join("calls");
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        let read = |path: &std::path::PathBuf| {
            let text = fs::read_to_string(path).unwrap();
            fs::remove_file(path).unwrap();
            let mut lines = text.splitn(3, '\n').map(str::to_owned);
            let mut next = || lines.next().unwrap_or_default();
            Call {
                what: next(),
                environment: next(),
                config: serde_json::from_str(&next()).unwrap(),
            }
        };
        files.iter().map(read).collect()
    }

    fn what(&self) -> Vec<String> {
        self.calls().into_iter().map(|c| c.what).collect()
    }
}

fn list(version: &str, more: Value) -> NetworkConfigList {
    let mut document = json!({"cniVersion": version, "name": "net", "plugins": [
        {"type": "a", "own": {"key": 1}, "capabilities": {"mac": true, "portMappings": true, "aliases": false, "x": true}},
        {"type": "b", "capabilities": {"dns": true, "ips": true, "bandwidth": true, "aliases": true}}]});
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    NetworkConfigList::from_document(document).unwrap()
}

fn attachment() -> Attachment {
    let mut a = Attachment::new("c1".parse().unwrap(), "/proc/self/ns/net");
    a.args = vec![
        ("IgnoreUnknown".into(), "1".into()),
        ("K8S_POD_NAME".into(), "p".into()),
    ];
    a.capabilities.mac = Some("02:00:00:00:00:01".into());
    a.capabilities.ips = vec!["10.0.0.9/24".into()];
    a.capabilities.aliases = vec!["db".into()];
    a.capabilities.dns = Some(DnsArgument {
        servers: vec!["10.0.0.1".into()],
        ..DnsArgument::default()
    });
    a.capabilities.port_mappings = vec![PortMapping {
        host_port: 80,
        container_port: 8080,
        protocol: Protocol::Udp,
        host_ip: None,
    }];
    let bandwidth = json!({"ingressRate": 1000, "ingressBurst": 2000});
    a.capabilities.other.insert("bandwidth".into(), bandwidth);
    a
}

#[test]
fn add_goes_forward_and_each_plugin_gets_what_it_declared() {
    let rig = Rig::new();
    let result = rig
        .caller
        .add(&list("1.1.0", json!({})), &attachment())
        .unwrap();
    // The last plugin's: 'b' is 98.
    assert_eq!(result.ips[0].address.to_string(), "10.0.0.98/24");
    let calls = rig.calls();
    assert_eq!([&calls[0].what, &calls[1].what], ["a ADD", "b ADD"]);
    let path = rig.bin().display().to_string();
    let environment = format!("c1|/proc/self/ns/net|eth0|IgnoreUnknown=1;K8S_POD_NAME=p|{path}");
    assert!(calls.iter().all(|c| c.environment == environment));
    assert_eq!(
        calls[0].config,
        json!({"cniVersion": "1.1.0", "name": "net", "type": "a", "own": {"key": 1}, "runtimeConfig": {
            "mac": "02:00:00:00:00:01",
            "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "udp"}]}})
    );
    assert_eq!(
        calls[1].config,
        json!({"cniVersion": "1.1.0", "name": "net", "type": "b", "runtimeConfig": {
            "ips": ["10.0.0.9/24"], "aliases": ["db"], "dns": {"servers": ["10.0.0.1"]},
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000}},
            "prevResult": {"cniVersion": "1.1.0", "dns": {}, "ips": [{"address": "10.0.0.97/24"}]}})
    );
}

#[test]
fn check_goes_forward_and_del_backward_with_the_result_of_add() {
    let rig = Rig::new();
    let list = list("1.0.0", json!({}));
    rig.caller.add(&list, &attachment()).unwrap();
    rig.calls();
    rig.caller.check(&list, &attachment()).unwrap();
    // Whoever takes it off need not know how it was attached.
    let bare = Attachment::new("c1".parse().unwrap(), "");
    rig.caller.del(&list, &bare).unwrap();
    let calls = rig.calls();
    let what: Vec<&str> = calls.iter().map(|c| c.what.as_str()).collect();
    assert_eq!(what, ["a CHECK", "b CHECK", "b DEL", "a DEL"]);
    for call in &calls {
        assert_eq!(
            call.config["prevResult"]["ips"][0]["address"],
            "10.0.0.98/24"
        );
        assert!(call.environment.contains("IgnoreUnknown=1;K8S_POD_NAME=p"));
    }
    assert_eq!(
        calls[2].config["runtimeConfig"],
        calls[1].config["runtimeConfig"]
    );
    // Once more there is nothing to pass, and nothing to fail.
    rig.caller.del(&list, &bare).unwrap();
    let calls = rig.calls();
    assert!(calls.iter().all(|c| c.config.get("prevResult").is_none()));
    assert!(rig.caller.check(&list, &attachment()).is_err());
}

#[test]
fn a_failed_add_is_undone_by_every_plugin_and_not_remembered() {
    let rig = Rig::new();
    let list = list("1.1.0", json!({}));
    rig.fail("b-ADD", true);
    let error = rig.caller.add(&list, &attachment()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot attach container c1 to network net"
    );
    assert_eq!(error.kind(), corten_spec::Kind::Busy);
    assert_eq!(rig.what(), ["a ADD", "b ADD", "b DEL", "a DEL"]);
    assert!(rig.caller.check(&list, &attachment()).is_err());
}

#[test]
fn a_del_that_fails_keeps_the_rest_going_and_can_be_done_again() {
    let rig = Rig::new();
    let list = list("1.1.0", json!({}));
    rig.caller.add(&list, &attachment()).unwrap();
    rig.calls();
    rig.fail("b-DEL", true);
    rig.caller.del(&list, &attachment()).unwrap_err();
    assert_eq!(rig.what(), ["b DEL", "a DEL"]);
    rig.fail("b-DEL", false);
    rig.caller.del(&list, &attachment()).unwrap();
    let calls = rig.calls();
    // The result was kept for this.
    assert!(calls.iter().all(|c| c.config.get("prevResult").is_some()));
}

#[test]
fn old_lists_have_no_check_gc_or_status() {
    let rig = Rig::new();
    let old = list("0.3.1", json!({}));
    rig.caller.add(&old, &attachment()).unwrap();
    assert!(rig.caller.check(&old, &attachment()).is_err());
    rig.caller.status(&old).unwrap();
    rig.caller.del(&old, &attachment()).unwrap();
    let calls = rig.calls();
    let what: Vec<&str> = calls.iter().map(|c| c.what.as_str()).collect();
    assert_eq!(what, ["a ADD", "b ADD", "b DEL", "a DEL"]);
    assert!(calls[2].config.get("prevResult").is_none());
    // A list may say that CHECK makes no sense for it.
    let without = list("1.0.0", json!({"disableCheck": true}));
    rig.caller.check(&without, &attachment()).unwrap();
    assert!(rig.what().is_empty());
}

#[test]
fn gc_takes_off_what_is_not_valid_and_tells_the_plugins_what_is() {
    let rig = Rig::new();
    let list = list("1.1.0", json!({}));
    for id in ["c1", "c2"] {
        let mut a = attachment();
        a.container_id = id.parse().unwrap();
        rig.caller.add(&list, &a).unwrap();
    }
    rig.calls();
    let valid = [ValidAttachment {
        container_id: "c2".into(),
        ifname: "eth0".into(),
    }];
    let silent = self::list("1.1.0", json!({"disableGC": true}));
    rig.caller.gc(&silent, &valid).unwrap();
    assert!(rig.what().is_empty());
    // One that fails keeps none of the rest from its turn.
    rig.fail("a-GC", true);
    rig.caller.gc(&list, &valid).unwrap_err();
    let calls = rig.calls();
    let what: Vec<&str> = calls.iter().map(|c| c.what.as_str()).collect();
    assert_eq!(what, ["b DEL", "a DEL", "a GC", "b GC"]);
    assert!(calls[0].environment.starts_with("c1|"));
    for call in &calls[2..] {
        let wanted = json!([{"containerID": "c2", "ifname": "eth0"}]);
        assert_eq!(call.config["cni.dev/valid-attachments"], wanted);
        assert!(call.environment.starts_with("|||"));
    }
}

#[test]
fn status_stops_at_the_first_that_is_not_ready() {
    let rig = Rig::new();
    let list = list("1.1.0", json!({}));
    rig.caller.status(&list).unwrap();
    assert_eq!(rig.what(), ["a STATUS", "b STATUS"]);
    rig.fail("a-STATUS", true);
    let error = rig.caller.status(&list).unwrap_err();
    assert_eq!(error.to_string(), "CNI plugin a failed at STATUS");
    assert_eq!(rig.what(), ["a STATUS"]);
}

#[test]
fn version_is_asked_before_use() {
    let rig = Rig::new();
    let list = list("1.1.0", json!({}));
    let declared = rig.caller.validate(&list).unwrap();
    assert!(declared.contains("bandwidth") && !declared.contains("infinibandGUID"));
    assert_eq!(rig.what(), ["a VERSION", "b VERSION"]);
    fs::remove_file(rig.bin().join("b")).unwrap();
    let error = rig.caller.validate(&list).unwrap_err();
    assert_eq!(error.kind(), corten_spec::Kind::NotFound);
    assert_eq!(error.to_string(), "CNI plugin b failed at VERSION");
}

/// The error code of one of our executables, called as anybody may.
fn refused(command: &str, config: &Value) -> (u64, String) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let host = crate::rig::Host::new();
    let mut child = Command::new(host.executables().join("host-local"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c")
        .env("CNI_NETNS", "/nowhere")
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(config.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let said = format!("{} {}", text("msg"), text("details"));
    (object["code"].as_u64().unwrap(), said.trim().to_owned())
}

#[test]
fn an_executable_checks_the_networks_name_and_what_its_version_has() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = |name: Value, version: &str| {
        json!({"cniVersion": version, "name": name, "type": "host-local",
               "ipam": {"type": "host-local", "dataDir": data, "subnet": "10.0.0.0/24"}})
    };
    for name in [
        json!("../x"),
        json!(""),
        json!("a b"),
        json!(null),
        json!("n".repeat(200)),
    ] {
        let (code, msg) = refused("ADD", &config(name, "1.1.0"));
        assert_eq!(code, 7, "{msg}");
        assert!(msg.contains("name of the network configuration"), "{msg}");
    }
    assert!(!data.exists() && !dir.path().join("x").exists());
    for (command, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        let (code, msg) = refused(command, &config(json!("n"), version));
        assert_eq!((code, msg), (1, format!("CNI {version} has no {command}")));
    }
    let (code, _) = refused("FORGET", &config(json!("n"), "1.1.0"));
    assert_eq!(code, 4);
}

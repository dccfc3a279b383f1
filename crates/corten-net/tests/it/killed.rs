//! A plugin killed between any two of its steps. What it leaves names its owner, and ADD, DEL and GC
//! each cope with it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_net::owner::Owner;
use serde_json::{Value, json};

use crate::rig::{Host, Namespace, shell};

/// A plugin of ours, as an executable, with its host.
pub struct Rig {
    host: Host,
    namespace: Namespace,
    bin: PathBuf,
    config: Value,
    /// As if on a file system that has no files without a name.
    no_tmpfile: bool,
}

impl Rig {
    pub fn new(setup: &str, config: &Value) -> Self {
        let host = Host::new();
        shell(setup);
        let bin = host.executables();
        let text = config.to_string();
        let text = text.replace("DIR", &host.dir.path().display().to_string());
        Self {
            namespace: Namespace::new(),
            bin,
            config: serde_json::from_str(&text).unwrap(),
            no_tmpfile: false,
            host,
        }
    }

    /// What the plugin prints, and whether it succeeded.
    pub fn call(&self, plugin: usize, verb: &str, extra: &Value, failpoint: &str) -> (Value, bool) {
        let mut config = self.config[plugin].clone();
        config["cniVersion"] = json!("1.1.0");
        config["name"] = json!("n");
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        let mut child = Command::new(self.bin.join(config["type"].as_str().unwrap()))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "c")
            .env("CNI_NETNS", self.namespace.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.bin)
            .env("CORTEN_FAILPOINT", failpoint)
            .envs(self.no_tmpfile.then_some(("CORTEN_NO_TMPFILE", "1")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(config.to_string().as_bytes()).unwrap();
        drop(pipe);
        let output = child.wait_with_output().unwrap();
        let printed = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (printed, output.status.success())
    }

    /// ADD of all, the last of them with a failpoint; the last result.
    pub fn add(&self, failpoint: &str) -> (Value, bool) {
        let mut result = Value::Null;
        let last = self.config.as_array().unwrap().len() - 1;
        for plugin in 0..=last {
            let extra = match &result {
                Value::Null => json!({}),
                result => json!({"prevResult": result}),
            };
            let failpoint = if plugin == last { failpoint } else { "" };
            let (printed, success) = self.call(plugin, "ADD", &extra, failpoint);
            if !success {
                return (printed, false);
            }
            result = printed;
        }
        (result, true)
    }

    pub fn all(&self, verb: &str, extra: &Value) {
        for plugin in (0..self.config.as_array().unwrap().len()).rev() {
            let (printed, success) = self.call(plugin, verb, extra, "");
            assert!(success, "{verb} {printed}");
        }
    }

    /// Names of links here and inside, addresses held, records.
    pub fn left(&self) -> String {
        let links = "ip -o link show | cut -d: -f2 | cut -d@ -f1 | sort | tr -d '\\n'";
        let inside = self.namespace.run(|| shell(links));
        let dir = self.host.dir.path();
        let files = files(&dir.join("ipam/n"));
        let records = [files_of(&dir.join("hd")), files_of(&dir.join("tuning"))].concat();
        let elements = shell("nft list ruleset | grep -o '\"corten c [^\"]*\"' || true");
        // Of links that are one container's each: no subnet outlives the last.
        let links_alone = self.config[0]["type"] == "ptp";
        let subnets = shell("nft list ruleset | grep -o 'elements = { 10.90.*' || true");
        let subnets = if links_alone { subnets } else { String::new() };
        format!(
            "{} | {inside} | {files:?} {records:?} | {elements}{subnets}",
            shell(links)
        )
    }
}

/// Addresses that host-local holds.
pub fn files(folder: &Path) -> Vec<String> {
    let mut all = files_of(folder);
    all.retain(|name| name.parse::<std::net::IpAddr>().is_ok());
    all
}

pub fn files_of(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with('.'))
        .collect();
    all.sort_unstable();
    all
}

/// Every link of the host that a killed ADD made says whose it is.
fn all_owned(before: &str) {
    let links: Value = serde_json::from_str(&shell("ip -j -d link show")).unwrap();
    for link in links.as_array().unwrap() {
        let name = link["ifname"].as_str().unwrap();
        let kind = link["linkinfo"]["info_kind"].as_str().unwrap_or("");
        if before.contains(name) || kind == "bridge" || name == "lo" {
            continue;
        }
        let alias = link["ifalias"].as_str().unwrap_or("");
        let owner = Owner::parse(alias).unwrap_or_else(|| panic!("{name} is nobody's: {alias:?}"));
        assert_eq!(
            (owner.container_id.as_str(), owner.network.as_str()),
            ("c", "n")
        );
    }
}

/// Kills ADD at each place, and goes on in three ways.
pub fn at_each(failpoints: &[&str], setup: &str, config: Value) {
    for failpoint in failpoints {
        for way in WAYS {
            let rig = Rig::new(setup, &config);
            let what = format!("{failpoint}, then {way}");
            let before = rig.left();
            let (printed, success) = rig.add(failpoint);
            assert!(
                !success && printed.is_null(),
                "{what}: not killed: {printed}"
            );
            all_owned(&before);
            go_on(&rig, way, &what);
            assert_eq!(bridges(rig.left()), bridges(before), "{what}");
        }
    }
}

const WAYS: [&str; 3] = ["DEL", "GC", "ADD"];

/// Without the bridge, which stays, as it should.
fn bridges(text: String) -> String {
    text.replace(" br9", "")
}

/// Kills DEL of the last plugin at each place, and goes on in three ways.
pub fn at_each_of_del(failpoints: &[&str], setup: &str, config: &Value) {
    for failpoint in failpoints {
        for way in WAYS {
            let rig = Rig::new(setup, config);
            let what = format!("{failpoint}, then {way}");
            let before = rig.left();
            let (result, success) = rig.add("");
            assert!(success, "{result}");
            let last = rig.config.as_array().unwrap().len() - 1;
            let (printed, success) =
                rig.call(last, "DEL", &json!({"prevResult": result}), failpoint);
            assert!(
                !success && printed.is_null(),
                "{what}: not killed: {printed}"
            );
            all_owned(&before);
            go_on(&rig, way, &what);
            assert_eq!(bridges(rig.left()), bridges(before), "{what}");
        }
    }
}

/// What is done after a kill, until nothing should be left.
fn go_on(rig: &Rig, way: &str, what: &str) {
    match way {
        "DEL" => {
            rig.all("DEL", &json!({}));
            rig.all("DEL", &json!({}));
        }
        "GC" => {
            rig.all("GC", &json!({"cni.dev/valid-attachments": []}));
            // What is inside the container goes with it, or with its DEL.
            rig.all("DEL", &json!({}));
        }
        _ => {
            let (result, success) = rig.add("");
            assert!(success, "{what}: {result}");
            for plugin in 0..rig.config.as_array().unwrap().len() {
                let extra = json!({"prevResult": result});
                let (printed, success) = rig.call(plugin, "CHECK", &extra, "");
                assert!(success, "{what}: CHECK {printed}");
            }
            rig.all("DEL", &json!({"prevResult": result}));
        }
    }
}

pub fn local() -> Value {
    json!({ "type": "host-local", "dataDir": "DIR/ipam",
            "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd00:90::/64"}]] })
}

const DEVICE: &str =
    "ip link add dev9 address 02:00:00:00:00:09 type veth peer name far && ip link set far up";

#[test]
fn bridge_and_host_local() {
    at_each(
        &[
            "host-local.add.reserved",
            "bridge.add.addresses",
            "bridge.add.bridge",
            "bridge.add.pair",
            "bridge.add.connected",
        ],
        "true",
        json!([{ "type": "bridge", "bridge": "br9", "isGateway": true, "ipam": local() }]),
    );
}

#[test]
fn an_address_that_has_another_name_meanwhile() {
    for failpoint in ["nameless.written", "nameless.claimed"] {
        for way in WAYS {
            let mut rig = Rig::new("true", &json!([{ "type": "ptp", "ipam": local() }]));
            rig.no_tmpfile = true;
            let what = format!("{failpoint}, then {way}");
            let before = rig.left();
            let (printed, success) = rig.add(failpoint);
            assert!(!success && printed.is_null(), "{what}: {printed}");
            let other = rig.host.dir.path().join("ipam/n/.new");
            assert!(other.exists(), "{what}");
            go_on(&rig, way, &what);
            // Whoever comes next clears the way.
            let (result, success) = rig.add("");
            assert!(success, "{what}: {result}");
            rig.all("DEL", &json!({"prevResult": result}));
            assert!(!other.exists(), "{what}");
            assert_eq!(rig.left(), before, "{what}");
        }
    }
}

#[test]
fn ptp() {
    at_each(
        &[
            "ptp.add.addresses",
            "ptp.add.pair",
            "ptp.add.inner",
            "ptp.add.outer",
            "ptp.add.admitted",
        ],
        "true",
        json!([{ "type": "ptp", "ipMasq": true, "ipam": local() }]),
    );
    let list = json!([{ "type": "ptp", "ipMasq": true, "ipam": local() }]);
    at_each_of_del(&["ptp.del.pair"], "true", &list);
}

#[test]
fn macvlan() {
    at_each(
        &[
            "inside.add.addresses",
            "inside.make.unnamed",
            "inside.add.made",
            "inside.add.configured",
        ],
        DEVICE,
        json!([{ "type": "macvlan", "master": "dev9", "ipam": local() }]),
    );
}

#[test]
fn tap() {
    at_each(
        &["tap.add.unkept", "inside.add.made"],
        "true",
        json!([{ "type": "tap", "ipam": local() }]),
    );
}

#[test]
fn host_device() {
    at_each(
        &[
            "inside.add.addresses",
            "host-device.add.recorded",
            "inside.add.made",
            "inside.add.configured",
        ],
        DEVICE,
        json!([{ "type": "host-device", "device": "dev9", "dataDir": "DIR/hd", "ipam": local() }]),
    );
}

#[test]
fn tuning() {
    at_each(
        &[
            "tuning.add.recorded",
            "tuning.add.sysctl",
            "tuning.add.changed",
        ],
        DEVICE,
        json!([{ "type": "host-device", "device": "dev9", "dataDir": "DIR/hd" },
               { "type": "tuning", "dataDir": "DIR/tuning", "mac": "02:00:00:00:00:55", "mtu": 1300,
                 "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"} }]),
    );
    // The link has what it had, also when ADD came twice.
    let link = shell("ip -o link show dev9");
    assert!(
        link.contains("02:00:00:00:00:09") && link.contains("mtu 1500"),
        "{link}"
    );
}

#[test]
fn bandwidth() {
    at_each(
        &[
            "bandwidth.add.ingress",
            "bandwidth.add.ifb",
            "bandwidth.add.redirected",
        ],
        "true",
        json!([{ "type": "ptp", "ipam": local() },
               { "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
                 "egressRate": 8_000_000, "egressBurst": 800_000 }]),
    );
}

#[test]
fn sbr() {
    at_each(
        &["sbr.add.rule", "sbr.add.tables"],
        "true",
        json!([{ "type": "ptp", "ipam": local() }, { "type": "sbr" }]),
    );
}

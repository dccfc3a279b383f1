//! Killed between two steps, where the steps are rules of nf_tables: `portmap`, `firewall`, `macspoofchk`; and the
//! caller of a whole list, which remembers what it did. No element of the rules is nobody's, and none stays.

use std::process::Command;

use corten_net::cni::NetworkConfigList;
use corten_net::{network, recover};
use serde_json::{Value, json};

use crate::killed::{Rig, at_each, at_each_of_del, files, files_of, local};
use crate::rig::{Host, Namespace, shell};

fn bridge(keys: &Value) -> Value {
    let mut all = json!({"type": "bridge", "bridge": "br9", "isGateway": true, "ipMasq": true, "ipam": local()});
    for (key, value) in keys.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

fn ports() -> Value {
    json!({"type": "portmap", "runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]}})
}

#[test]
fn portmap() {
    let list = json!([bridge(&json!({})), ports()]);
    let add = [
        "portmap.add.admitted",
        "portmap.add.way",
        "portmap.add.unforgotten",
        "portmap.add.published",
    ];
    at_each(&add, "true", list.clone());
    at_each_of_del(&["portmap.del.withdrawn"], "true", &list);
}

#[test]
fn firewall() {
    // Debian's and Docker's way to drop, so that there is something to be accepted in.
    let setup = "nft add table ip filter && nft add chain ip filter FORWARD \
        '{ type filter hook forward priority 0; policy drop; }'";
    for policy in ["open", "same-bridge", "isolated"] {
        let list = json!([bridge(&json!({"ipMasq": false})),
                          {"type": "firewall", "ingressPolicy": policy}]);
        let add = ["firewall.add.unvouched", "firewall.add.admitted"];
        at_each(&add, setup, list.clone());
        at_each_of_del(&["firewall.del.expelled"], setup, &list);
        let vouched = shell("nft list chain ip filter FORWARD");
        assert!(!vouched.contains("br9"), "{policy}: {vouched}");
    }
}

#[test]
fn macspoofchk() {
    let list = json!([bridge(&json!({"macspoofchk": true}))]);
    at_each(
        &["bridge.add.admitted", "bridge.add.guarded"],
        "true",
        list.clone(),
    );
    let del = ["bridge.del.address", "bridge.del.unguarded"];
    at_each_of_del(&del, "true", &list);
}

#[test]
fn a_range_that_a_killed_add_has_filled_is_not_full_for_the_same_container() {
    let one = json!({"type": "host-local", "dataDir": "DIR/ipam", "ranges": [
        [{"subnet": "10.90.0.0/24", "rangeStart": "10.90.0.9", "rangeEnd": "10.90.0.9"}]]});
    at_each(
        &["host-local.add.reserved", "bridge.add.pair"],
        "true",
        json!([bridge(&json!({"ipam": one}))]),
    );
}

#[test]
fn gc_reads_what_the_reference_library_writes_and_no_less() {
    let list = json!([bridge(&json!({"macspoofchk": true})), ports(), {"type": "firewall"}]);
    for none in [
        json!({"cni.dev/valid-attachments": null, "cni.dev/attachments": null}),
        json!({"cni.dev/attachments": []}),
    ] {
        let rig = Rig::new("true", &list);
        let before = rig.left();
        let (result, success) = rig.add("");
        assert!(success, "{result}");
        let there = rig.left();
        for plugin in 0..3 {
            // Nobody has said what is to be kept.
            let (error, success) = rig.call(plugin, "GC", &json!({}), "");
            assert!(success, "{error}");
        }
        assert_eq!(rig.left(), there);
        let own = json!({"cni.dev/attachments": [{"containerID": "c", "ifname": "eth0"}]});
        rig.all("GC", &own);
        assert_eq!(rig.left(), there);
        rig.all("GC", &none);
        assert_eq!(rig.left().replace(" br9", "").replace("br9", ""), before);
    }
}

/// Found by the fuzzer: the stack was full.
#[test]
fn a_plugin_that_is_its_own_ipam_is_refused() {
    for kind in ["bridge", "ptp", "macvlan", "dummy", "tap"] {
        let own = json!([{"type": kind, "master": "lo", "ipam": {"type": kind}}]);
        let rig = Rig::new("true", &own);
        let before = rig.left();
        for verb in ["ADD", "DEL", "CHECK", "STATUS"] {
            let (error, success) = rig.call(0, verb, &json!({}), "");
            let said = error["msg"].as_str().unwrap_or_default();
            assert!(!success && error["code"] == 7, "{verb}: {error}");
            assert!(
                said.contains("is no plugin that gives addresses"),
                "{verb}: {error}"
            );
        }
        assert_eq!(rig.left(), before);
    }
}

#[test]
fn an_ipam_plugin_that_is_missing_leaves_no_link() {
    for kind in ["bridge", "ptp", "macvlan", "tap"] {
        let own =
            json!([{"type": kind, "bridge": "br9", "master": "dev9", "ipam": {"type": "absent"}}]);
        let rig = Rig::new("ip link add dev9 type veth peer name far", &own);
        let before = rig.left();
        let (error, success) = rig.call(0, "ADD", &json!({}), "");
        assert!(!success, "{error}");
        assert_eq!(rig.left().replace(" br9", ""), before, "{kind}");
    }
}

/// The caller as a process, on a host.
struct Caller {
    host: Host,
    namespace: Namespace,
    list: NetworkConfigList,
}

impl Caller {
    fn new() -> Self {
        let host = Host::new();
        let document = json!({"cniVersion": "1.1.0", "name": "n", "plugins": [
            bridge(&json!({"macspoofchk": true})),
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "firewall", "ingressPolicy": "isolated"},
            {"type": "tuning", "dataDir": "DIR/tuning", "mtu": 1300}]});
        let text = document.to_string();
        let text = text.replace("DIR", &host.dir.path().display().to_string());
        let list = NetworkConfigList::parse(text.as_bytes()).unwrap();
        std::fs::write(host.dir.path().join("n.conflist"), text).unwrap();
        Self {
            namespace: Namespace::new(),
            list,
            host,
        }
    }

    /// Whether the verb succeeded, and what was said.
    fn call(&self, container: &str, verb: &str, failpoint: &str) -> (bool, String) {
        let built = self
            .host
            .executables()
            .join("bridge")
            .canonicalize()
            .unwrap();
        let dir = self.host.dir.path();
        let output = Command::new(built.with_file_name("cni-caller"))
            .arg(verb)
            .args([dir.join("n.conflist"), dir.join("cache")])
            .arg(container)
            .arg(self.namespace.path())
            .env("CORTEN_FAILPOINT", failpoint)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    #[track_caller]
    fn succeed(&self, verb: &str) {
        let (success, said) = self.call("c", verb, "");
        assert!(success, "{verb}: {said}");
    }

    #[track_caller]
    fn is_killed(&self, verb: &str, failpoint: &str) {
        let (success, said) = self.call("c", verb, failpoint);
        assert!(
            !success && said.is_empty(),
            "{failpoint}: not killed: {said}"
        );
    }

    /// Nothing is held or remembered, and the network can go whole.
    #[track_caller]
    fn nothing_is_left(&self, what: &str) {
        let dir = self.host.dir.path();
        let held = recover::holdings(&self.list).unwrap();
        assert!(held.is_empty(), "{what}: {held:?}");
        assert_eq!(files(&dir.join("ipam/n")), [""; 0], "{what}");
        assert_eq!(files_of(&dir.join("tuning")), [""; 0], "{what}");
        let cached = std::fs::read_dir(dir.join("cache/results")).unwrap();
        let cached: Vec<_> = cached.map(|e| e.unwrap().file_name()).collect();
        assert!(cached.is_empty(), "{what}: {cached:?}");
        network::remove(&self.list).unwrap();
        let links = shell("ip -o link | grep -v ' lo:' || true");
        assert_eq!(
            (links.as_str(), shell("nft list ruleset").as_str()),
            ("", ""),
            "{what}"
        );
    }
}

const ADD: [&str; 3] = ["caller.add.one", "caller.add.all", "caller.add.remembered"];
const DEL: [&str; 2] = ["caller.del.one", "caller.del.all"];

#[test]
fn the_caller_in_add_and_del() {
    for (verb, failpoint) in ADD
        .map(|f| ("add", f))
        .into_iter()
        .chain(DEL.map(|f| ("del", f)))
    {
        for way in ["del", "gc", "add", "recover"] {
            let what = format!("{failpoint}, then {way}");
            let rig = Caller::new();
            if verb == "del" {
                rig.succeed("add");
            }
            rig.is_killed(verb, failpoint);
            match way {
                "add" => {
                    rig.succeed("add");
                    rig.succeed("check");
                    let held = recover::holdings(&rig.list).unwrap();
                    assert_eq!((held.ports.len(), held.links.len()), (2, 1), "{what}");
                    rig.succeed("del");
                    rig.succeed("del");
                }
                "recover" => {
                    recover::free(&rig.list, "c").unwrap();
                    // What is inside goes with the namespace, and what is on disk with the next DEL.
                    rig.succeed("del");
                }
                "gc" => {
                    rig.succeed("gc");
                    // Without an entry in the cache nobody knows the namespace, whose DEL it takes.
                    rig.succeed("del");
                }
                verb => rig.succeed(verb),
            }
            rig.nothing_is_left(&what);
        }
    }
}

#[test]
fn the_caller_in_renew() {
    for failpoint in ["caller.renew.called", "cache.write.temporary"] {
        for way in ["del", "gc", "renew"] {
            let rig = Caller::new();
            rig.succeed("add");
            rig.is_killed("renew", failpoint);
            if way == "renew" {
                rig.succeed("renew");
                rig.succeed("check");
                rig.succeed("del");
            }
            rig.succeed(if way == "renew" { "del" } else { way });
            rig.nothing_is_left(&format!("{failpoint}, then {way}"));
        }
    }
}

//! Our CNI plugins under others' callers: podman with its CNI backend, containerd's `ctr run --cni`. Each is run once
//! with the reference plugins (Debian's) and once with ours: results, links, addresses and routes inside and on the
//! host are the same, packets go the same ways, and nothing of the container stays.
//!
//! What may differ by intention is what [`plain`] does not look at: names and MAC addresses of pairs, which ours
//! draw from the owner; IPv6 link-local addresses, which a port of ours has none of; the queue's length, which the reference's
//! version sets to 0 by mistake; the rules, which are iptables' there and nf_tables' here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use corten_testkit::{Image, Result, Sandbox, need};
use serde_json::{Map, Value, json};

use super::peers::{apart, archive};
use super::sandbox;

const REFERENCE: &str = "/usr/lib/cni";

/// Our plugins by their names, for a caller's folder.
fn ours(sandbox: &Sandbox) -> String {
    let folder = sandbox.files().join("ours");
    fs::create_dir(&folder).expect("folder");
    for name in [
        "bridge",
        "firewall",
        "host-local",
        "loopback",
        "portmap",
        "tuning",
    ] {
        symlink(sandbox.binary(), folder.join(name)).expect("link");
    }
    folder.to_string_lossy().into_owned()
}

/// Shell functions: what is to be seen goes to files in the folder `$out`.
const LOOK: &str = r#"
    look() { # PID
        for what in link addr route; do
            ip -j -d $what show >"$out/host-$what"
            nsenter -t "$1" -n ip -j -d $what show >"$out/container-$what"
        done
        cat /var/lib/cni/results/$2-* >"$out/result"
    }
    left() {
        # The kernel takes a pair away some milliseconds after its namespace's last process.
        for try in $(seq 40); do ip -o link | grep -q ' veth' || break; sleep 0.05; done
        ip -o link | grep -c ' veth' || true
        ls /var/lib/cni/results | wc -l
        ls /var/lib/cni/networks/$1 | grep -c '^[0-9]*[.]' || true
        # Theirs leaves some of iptables' behind.
        nft list ruleset | grep -c "corten $2" || true
    }
"#;

fn read(folder: &Path, name: &str) -> Value {
    let text = fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What a round has shown, without what differs by intention.
fn seen(folder: &Path) -> Value {
    let mut all = Map::new();
    for place in ["host", "container"] {
        for what in ["link", "addr", "route"] {
            let name = format!("{place}-{what}");
            let list = read(folder, &name);
            let list = list.as_array().expect("a list");
            let mut list: Vec<Value> = list.iter().map(|v| plain(what, v)).collect();
            list.sort_by_key(Value::to_string);
            all.insert(name, list.into());
        }
    }
    let cached = read(folder, "result");
    let mut result = cached["result"].clone();
    for i in result["interfaces"].as_array_mut().expect("interfaces") {
        i["mac"] = json!("");
        i["name"] = json!(plain_name(&i["name"]));
        i["sandbox"] = json!(i["sandbox"].as_str().is_some_and(|s| !s.is_empty()));
    }
    all.insert("result".into(), result);
    Value::Object(all)
}

fn plain_name(name: &Value) -> &str {
    match name.as_str().unwrap_or("") {
        name if name.starts_with("veth") => "veth",
        name => name,
    }
}

fn plain(what: &str, value: &Value) -> Value {
    let pick = |keys: &[&str]| -> Value {
        let own = keys
            .iter()
            .filter_map(|k| Some(((*k).to_owned(), value.get(*k)?.clone())));
        Value::Object(own.collect())
    };
    let name = plain_name(&value["ifname"]);
    match what {
        "link" => {
            let mut out = pick(&["mtu", "master", "promiscuity", "link_type"]);
            let flags = value["flags"].as_array().expect("flags");
            out["up"] = json!(flags.contains(&json!("UP")));
            out["name"] = json!(name);
            out["kind"] = value["linkinfo"]["info_kind"].clone();
            out["hairpin"] = value["linkinfo"]["info_slave_data"]["hairpin"].clone();
            out
        }
        "addr" => {
            let all = value["addr_info"].as_array().expect("addresses").iter();
            let global = all.filter(|a| a["scope"] != json!("link"));
            let of = |a: &Value| json!([a["local"], a["prefixlen"], a["broadcast"], a["scope"]]);
            json!([name, global.map(of).collect::<Vec<_>>()])
        }
        _ => pick(&["dst", "gateway", "dev", "prefsrc", "scope", "metric"]),
    }
}

/// Once with theirs, once with ours; each says the same words.
fn both(script: impl Fn(&str, &str) -> String, said: &[&str]) -> Result<()> {
    if !need::file(Path::new(REFERENCE).join("bridge")) {
        return Ok(());
    }
    let sandbox = sandbox()?;
    let archive = archive(&sandbox, Image::Busybox)?;
    let ours = ours(&sandbox);
    let mut rounds = Vec::new();
    for (name, plugins) in [("theirs", REFERENCE), ("with-ours", &*ours)] {
        let out = sandbox.files().join(name);
        fs::create_dir(&out).expect("folder");
        let script = format!(
            "out={}\n{LOOK}\n{}",
            out.display(),
            script(plugins, &archive)
        );
        let words = apart(&sandbox, &script)?;
        let log = fs::read_to_string(sandbox.files().join("containerd.log")).unwrap_or_default();
        assert_eq!(words.lines().collect::<Vec<_>>(), said, "{name} {log}");
        rounds.push(seen(&out));
    }
    assert_eq!(rounds[0], rounds[1], "{:#}\n{:#}", rounds[0], rounds[1]);
    sandbox.finish();
    Ok(())
}

#[test]
fn podman_with_its_cni_backend() -> Result<()> {
    let script = |plugins: &str, archive: &str| {
        format!(
            r#"
        for fixed in /run /var/lib/containers /var/lib/cni; do mkdir -p $fixed; mount -t tmpfs test $fixed; done
        ip link set lo up
        rm -rf net.d podman; mkdir net.d
        cat >containers.conf <<END
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "$PWD/net.d"
END
        cat >run <<'END'
#!/bin/sh
CONTAINERS_CONF="$PWD/containers.conf" exec podman --cgroup-manager=cgroupfs --events-backend=file \
    --runtime "$(command -v corten-oci)" --root "$PWD/podman" --runroot /run/podman --tmpdir /run/podman-tmp "$@"
END
        chmod +x run
        ./run load --quiet --input {archive} >/dev/null
        image=example.test/busybox:latest
        limits="--ulimit nofile=1024:20000 --ulimit nproc=4096:4096"
        ./run network create --subnet 10.91.0.0/24 shop >/dev/null
        ./run run -d $limits --name server --network shop -p 8088:80 $image \
            sh -c 'while :; do echo hello | nc -l -p 80; done' >/dev/null
        pid=$(./run inspect --format '{{{{.State.Pid}}}}' server)
        look $pid shop
        ./run run --rm $limits --network shop $image sh -c 'ping -c 1 -W 3 10.91.0.2 >/dev/null && echo pinged'
        ./run run --rm $limits --network shop $image sh -c 'nc -w 3 10.91.0.2 80 </dev/null'
        for try in 1 2 3 4 5 6 7 8 9; do
            said=$(busybox nc -w 3 127.0.0.1 8088 </dev/null || true); test -z "$said" || break; sleep 0.2
        done
        echo published $said
        ./run restart -t 0 server >/dev/null
        ./run run --rm $limits --network shop $image sh -c 'nc -w 3 10.91.0.2 80 </dev/null || nc -w 3 10.91.0.4 80 </dev/null || nc -w 3 10.91.0.5 80 </dev/null'
        id=$(./run inspect --format '{{{{.Id}}}}' server)
        ./run rm -f -t 0 server >/dev/null
        left shop $id
        ./run network rm shop >/dev/null
        ip -o link | wc -l
        "#
        )
    };
    both(
        script,
        &[
            "pinged",
            "hello",
            "published hello",
            "hello",
            "0",
            "0",
            "0",
            "0",
            "1",
        ],
    )
}

#[test]
fn containerds_ctr_with_cni() -> Result<()> {
    let script = |plugins: &str, archive: &str| {
        format!(
            r#"
        for fixed in /run /opt /var/lib/cni; do mkdir -p $fixed; mount -t tmpfs test $fixed; done
        mkdir -p /run/etc/upper /run/etc/work
        mount -t overlay test -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
        # Where ctr looks, whatever containerd is told.
        mkdir -p /opt/cni /etc/cni/net.d; ln -s {plugins} /opt/cni/bin
        ip link set lo up
        cat >/etc/cni/net.d/10-shop.conflist <<'END'
{{"cniVersion": "1.0.0", "name": "shop", "plugins": [
  {{"type": "bridge", "bridge": "shop0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "10.92.0.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}},
  {{"type": "firewall"}},
  {{"type": "tuning"}}]}}
END
        rm -rf containerd
        cat >config.toml <<END
version = 2
root = "$PWD/containerd"
state = "/run/c"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/c.sock"
END
        containerd --config config.toml >containerd.log 2>&1 &
        for try in $(seq 200); do ctr -a /run/c.sock version >/dev/null 2>&1 && break; sleep 0.05; done
        c="ctr -a /run/c.sock"
        $c images import {archive} >/dev/null
        image=example.test/busybox:latest
        $c run --rm --cni $image server sh -c 'while :; do echo hello | nc -l -p 80; done' >run.log 2>&1 &
        client=$!
        for try in $(seq 100); do $c task ls | grep -q 'server.*RUNNING' && break; sleep 0.05; done
        for try in $(seq 100); do ls /var/lib/cni/results/shop-* >/dev/null 2>&1 && break; sleep 0.05; done
        pid=$($c task ls | awk '$1 == "server" {{ print $2 }}')
        look $pid shop
        busybox ping -c 1 -W 3 10.92.0.2 >/dev/null && echo pinged
        for try in $(seq 20); do
            said=$(busybox nc -w 3 10.92.0.2 80 </dev/null || true); test -z "$said" || break; sleep 0.1
        done
        echo $said
        $c run --rm --cni $image other sh -c 'nc -w 3 10.92.0.2 80 </dev/null'
        $c task kill -s KILL server; wait $client || true
        left shop default-server
        $c task ls -q | wc -l
        "#
        )
    };
    both(
        script,
        &["pinged", "hello", "hello", "0", "0", "0", "0", "0"],
    )
}

//! Whole lists as they are deployed: ours in process, ours as executables, the reference's. Results, what `ip` and `tc`
//! show and, between ours, the rules of nf_tables are the same; packets go the same ways; and GC of 1.1, which
//! the reference's version does not speak, takes all.
//!
//! What differs by intention is left out of the comparison in [`crate::plugins`], or said at the case.

use corten_net::cni::{Attachment, Caller, CniResult, Protocol, ValidAttachment};
use corten_net::{network, recover};
use serde_json::{Value, json};

use crate::plugins::{Case, MASTER, three, v4};
use crate::rig::{Host, Namespace, ask, shell};

fn ports() -> Value {
    json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})
}

/// The container answers at its address.
fn reached(result: &CniResult, container: &Namespace) {
    let _server = container.serve(80);
    for ip in &result.ips {
        let address = ip.address.address();
        if address.is_ipv4() {
            // Not UDP: with sbr, a socket that is bound to no address has no route to answer by.
            ask(Protocol::Tcp, &format!("{address}:80")).unwrap();
        }
    }
}

/// And at the host's port, from the host and from elsewhere.
fn published(result: &CniResult, container: &Namespace) {
    reached(result, container);
    let _server = container.serve(80);
    ask(Protocol::Tcp, "127.0.0.1:8080").unwrap();
    let far = Namespace::new();
    let path = far.path().display().to_string();
    shell(&format!(
        "ip link add far9 type veth peer name eth0 netns {path} && ip addr add 192.0.2.1/24 dev far9 && ip link set far9 up"
    ));
    far.run(|| {
        shell("ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up && ip link show eth0");
        let seen = ask(Protocol::Tcp, "192.0.2.1:8080").unwrap();
        assert_eq!(seen, "192.0.2.2");
    });
    shell("ip link delete far9");
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true})
}

/// As podman 4 writes it, but for our folder.
fn podmans() -> Case {
    let mut case = Case::new(
        "podman's default",
        json!([
            {"type": "bridge", "bridge": "br9", "isGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "routes": [{"dst": "0.0.0.0/0"}],
                      "ranges": [[{"subnet": "10.90.0.0/24", "gateway": "10.90.0.1"}]]}},
            portmap(),
            {"type": "firewall"},
            {"type": "tuning", "dataDir": "DIR/tuning"},
        ]),
    );
    case.capabilities = ports();
    case.traffic = published;
    case
}

/// As flannel's delegate and kindnet write it.
fn flannels() -> Case {
    let mut case = Case::new(
        "flannel's",
        json!([
            {"type": "bridge", "bridge": "br9", "hairpinMode": true, "isDefaultGateway": true, "mtu": 1450,
             "ipMasq": false,
             "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "subnet": "10.90.0.0/24",
                      "routes": [{"dst": "10.244.0.0/16"}]}},
            portmap(),
        ]),
    );
    case.capabilities = ports();
    case.traffic = published;
    case
}

fn kinds() -> Case {
    let mut case = Case::new(
        "kind's",
        json!([
            {"type": "ptp", "ipMasq": false, "mtu": 1500,
             "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "routes": [{"dst": "0.0.0.0/0"}],
                      "ranges": [[{"subnet": "10.90.0.0/24"}]]}},
            portmap(),
        ]),
    );
    case.capabilities = ports();
    case.traffic = published;
    case
}

fn macvlan() -> Case {
    let mut case = Case::new(
        "macvlan with a fixed address",
        json!([{"type": "macvlan", "master": "m0", "mode": "bridge",
                "ipam": {"type": "static", "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}],
                         "addresses": [{"address": "192.0.2.77/24", "gateway": "192.0.2.1"}]}}]),
    );
    case.host = MASTER;
    case
}

fn limited() -> Case {
    let mut case = Case::new(
        "bandwidth and sbr",
        json!([
            {"type": "bridge", "bridge": "br9", "isDefaultGateway": true, "ipam": v4()},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
            {"type": "sbr"},
        ]),
    );
    case.capabilities = json!({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000,
                                             "egressRate": 4_000_000, "egressBurst": 400_000}});
    case.traffic = reached;
    case
}

#[test]
fn podmans_default_of_bridge_portmap_firewall_and_tuning() {
    let mut case = podmans();
    // CHECK of 1.1.1: portmap asks `iptables` for what it gave to `iptables-save`'s other table.
    case.their_check = false;
    three(&case);
}

#[test]
fn flannels_bridge_and_portmap() {
    let mut case = flannels();
    // As above; and its bridge does not find the default route that it made.
    case.their_check = false;
    three(&case);
}

#[test]
fn kinds_ptp_and_portmap() {
    let mut case = kinds();
    case.their_check = false;
    three(&case);
}

#[test]
fn macvlan_and_static() {
    three(&macvlan());
}

#[test]
fn bridge_bandwidth_and_sbr() {
    let mut case = limited();
    // Its bridge does not find the default route that it made.
    case.their_check = false;
    three(&case);
}

#[test]
fn each_is_collected_whole_and_a_valid_neighbour_stays() {
    for case in [podmans(), flannels(), kinds(), limited()] {
        for by_exec in [false, true] {
            let host = Host::new();
            shell(case.host);
            let cache = host.dir.path().join("cni");
            let caller = match by_exec {
                false => Caller::new(Vec::new(), &cache),
                true => Caller::new(vec![host.executables()], &cache).without_bundled(),
            };
            let list = case.list_of("1.1.0", &host);
            let attach = |id: &str, capabilities: &Value| {
                let namespace = Namespace::new();
                let mut a = Attachment::new(id.parse().unwrap(), namespace.path());
                a.capabilities = serde_json::from_value(capabilities.clone()).unwrap();
                caller.add(&list, &a).unwrap();
                caller.check(&list, &a).unwrap();
                (namespace, a)
            };
            let (_stays, kept) = attach("kept", &json!({}));
            let before = recover::holdings(&list).unwrap();
            let (_goes, gone) = attach("gone", &case.capabilities);
            caller.status(&list).unwrap();
            let valid = |a: &Attachment| ValidAttachment {
                container_id: a.container_id.to_string(),
                ifname: a.ifname.clone(),
            };
            caller.gc(&list, &[valid(&kept)]).unwrap();
            assert_eq!(recover::holdings(&list).unwrap(), before);
            assert!(caller.check(&list, &gone).is_err());
            caller.check(&list, &kept).unwrap();
            caller.gc(&list, &[]).unwrap();
            assert!(recover::holdings(&list).unwrap().is_empty());
            network::remove(&list).unwrap();
            assert_eq!(shell("nft list ruleset"), "");
        }
    }
}

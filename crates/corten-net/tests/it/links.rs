//! The plugins with traffic through what they make, and what they refuse.

use std::net::SocketAddr;

use corten_net::Error;
use corten_net::cni::{Attachment, CniResult, NetworkConfigList, Protocol, ValidAttachment};
use corten_net::link::Links;
use corten_net::recover;
use corten_spec::Kind;
use serde_json::{Value, json};

use crate::rig::{Host, Namespace, ask, shell};

pub fn list(host: &Host, plugins: Value) -> NetworkConfigList {
    let text = plugins.to_string();
    let text = text.replace("DIR", &host.dir.path().display().to_string());
    let plugins: Value = serde_json::from_str(&text).unwrap();
    NetworkConfigList::from_document(
        json!({"cniVersion": "1.1.0", "name": "n", "plugins": plugins}),
    )
    .unwrap()
}

pub fn both() -> Value {
    json!({ "type": "host-local", "dataDir": "DIR/ipam",
            "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd00:90::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}] })
}

fn fixed(address: &str) -> Value {
    json!({ "type": "static", "addresses": [{"address": address}] })
}

pub struct Attached {
    pub namespace: Namespace,
    pub attachment: Attachment,
    pub result: CniResult,
}

impl Attached {
    pub fn to(host: &Host, list: &NetworkConfigList, id: &str) -> Result<Self, Error> {
        let namespace = Namespace::new();
        let attachment = Attachment::new(id.parse().unwrap(), namespace.path());
        let result = host.caller.add(list, &attachment)?;
        Ok(Self {
            namespace,
            attachment,
            result,
        })
    }

    /// Into a namespace that is there.
    pub fn into(
        host: &Host,
        list: &NetworkConfigList,
        id: &str,
        ifname: &str,
        namespace: &Namespace,
    ) -> Result<CniResult, Error> {
        let mut a = Attachment::new(id.parse().unwrap(), namespace.path());
        a.ifname = ifname.into();
        host.caller.add(list, &a)
    }

    pub fn address(&self, port: u16, v4: bool) -> String {
        let mut ips = self.result.ips.iter();
        let ip = ips.find(|ip| ip.address.is_ipv4() == v4).unwrap();
        SocketAddr::new(ip.address.address(), port).to_string()
    }

    /// Asks over both transports.
    pub fn asks(&self, to: &str) -> Result<(), String> {
        self.namespace.run(|| {
            ask(Protocol::Tcp, to)?;
            ask(Protocol::Udp, to).map(drop)
        })
    }
}

pub fn root(error: &Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string()
}

#[test]
fn ptp_containers_reach_the_host_and_each_other_by_way_of_it() {
    let host = Host::new();
    let list = list(&host, json!([{ "type": "ptp", "ipam": both() }]));
    let a = Attached::to(&host, &list, "a").unwrap();
    let b = Attached::to(&host, &list, "b").unwrap();
    let (_server, _host) = (a.namespace.serve(80), host.serve(81));
    for v4 in [true, false] {
        ask(Protocol::Tcp, &a.address(80, v4)).unwrap();
        b.asks(&a.address(80, v4)).unwrap();
        let gateway = if v4 {
            "10.90.0.1:81"
        } else {
            "[fd00:90::1]:81"
        };
        b.asks(gateway).unwrap();
        // Nothing of a container's neighbours is on its link.
        let neighbours = b.namespace.run(|| shell("ip neigh show dev eth0"));
        assert!(!neighbours.contains("10.90.0.2 "), "{neighbours}");
    }
    host.caller.check(&list, &a.attachment).unwrap();
    let held = recover::holdings(&list).unwrap();
    assert_eq!((held.links.len(), held.addresses.len()), (2, 4));
    let valid = [ValidAttachment {
        container_id: "b".into(),
        ifname: "eth0".into(),
    }];
    host.caller.gc(&list, &valid).unwrap();
    assert_eq!(recover::holdings(&list).unwrap().links.len(), 1);
    recover::free(&list, "b").unwrap();
    assert!(recover::holdings(&list).unwrap().is_empty());
}

#[test]
fn what_went_through_a_link_is_counted_at_both_ends() {
    let host = Host::new();
    let list = list(&host, json!([{ "type": "ptp", "ipam": both() }]));
    let a = Attached::to(&host, &list, "a").unwrap();
    let count = || {
        let all = a
            .namespace
            .run(|| Links::open().unwrap().counters().unwrap());
        let eth0 = all.into_iter().find(|(name, _)| name == "eth0");
        eth0.unwrap().1
    };
    let _server = a.namespace.serve(80);
    let before = count();
    ask(Protocol::Tcp, &a.address(80, true)).unwrap();
    let after = count();
    for (before, after) in [(before.received, after.received), (before.sent, after.sent)] {
        assert!(after.packets >= before.packets + 3, "{before:?} {after:?}");
        assert!(after.bytes > before.bytes);
        assert_eq!(after.errors, 0);
    }
    // The kernel's own file says the same.
    let text = a.namespace.run(|| shell("cat /proc/net/dev"));
    let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:"));
    let numbers: Vec<u64> = line
        .unwrap()
        .split_ascii_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let now = count();
    assert!(now.received.bytes >= numbers[0] && numbers[0] >= after.received.bytes);
    assert!(now.sent.packets >= numbers[9] && numbers[9] >= after.sent.packets);
}

/// A switch of the host's that `m0` and `outside`'s link are at.
pub fn outside() -> Namespace {
    let outside = Namespace::new();
    shell(&format!(
        "ip link add m0 type veth peer name eth0 netns {}",
        outside.path().display()
    ));
    outside.run(|| shell("ip addr add 10.90.0.200/24 dev eth0 && ip link set eth0 up"));
    shell("ip link set m0 up");
    outside.run(|| shell("ip link show eth0"));
    outside
}

#[test]
fn macvlan_modes_decide_who_reaches_whom() {
    for (mode, neighbours) in [("bridge", true), ("private", false)] {
        let host = Host::new();
        let outside = outside();
        let plugin = |ip| {
            json!([{ "type": "macvlan", "master": "m0", "mode": mode, "ipam": fixed(ip),
                     "capabilities": {"mac": true} }])
        };
        let a = Attached::to(&host, &list(&host, plugin("10.90.0.11/24")), "a").unwrap();
        let b = Attached::to(&host, &list(&host, plugin("10.90.0.12/24")), "b").unwrap();
        let (_a, _o) = (a.namespace.serve(80), outside.serve(80));
        b.asks("10.90.0.200:80").unwrap();
        outside.run(|| ask(Protocol::Tcp, "10.90.0.11:80")).unwrap();
        assert_eq!(b.asks("10.90.0.11:80").is_ok(), neighbours, "{mode}");
    }
}

#[test]
fn macvlan_on_a_link_of_the_container_and_over_a_name_that_the_host_has() {
    let host = Host::new();
    let inner = json!([{ "type": "macvlan", "master": "up0", "linkInContainer": true,
                         "ipam": fixed("10.90.0.11/24") }]);
    let list_of_inner = list(&host, inner);
    let namespace = Namespace::new();
    namespace.run(|| shell("ip link add up0 type veth peer name down0 && ip link set up0 up"));
    let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
    a.ifname = "net1".into();
    host.caller.add(&list_of_inner, &a).unwrap();
    host.caller.check(&list_of_inner, &a).unwrap();
    host.caller.del(&list_of_inner, &a).unwrap();
    assert!(!namespace.run(|| shell("ip -o link")).contains("net1"));

    // Until Linux 6.15 the kernel looks for a new link's name on the host.
    shell("ip link add eth0 type veth peer name far && ip link set eth0 up");
    let outer = list(
        &host,
        json!([{ "type": "macvlan", "master": "eth0", "ipam": fixed("10.90.0.11/24") }]),
    );
    let c = Attached::to(&host, &outer, "d").unwrap();
    host.caller.check(&outer, &c.attachment).unwrap();
}

/// The kernel takes the old one's namespace down in a thread of its own.
#[test]
fn a_macvlan_comes_again_with_its_ethernet_address_while_the_old_one_dies() {
    let host = Host::new();
    let outside = outside();
    let _server = outside.serve(80);
    let list = list(
        &host,
        json!([{ "type": "macvlan", "master": "m0", "ipam": fixed("10.90.0.11/24") }]),
    );
    let mut macs = Vec::new();
    for _ in 0..5 {
        let c = Attached::to(&host, &list, "c").unwrap();
        c.asks("10.90.0.200:80").unwrap();
        macs.push(c.result.interfaces[0].mac.clone());
    }
    macs.dedup();
    assert_eq!(macs.len(), 1);
}

#[test]
fn what_cannot_be_a_macvlan_is_refused_by_name_and_leaves_no_address() {
    let host = Host::new();
    shell("ip link add m0 mtu 1400 type veth peer name far");
    for (key, value, wanted) in [
        ("master", json!("m9"), "link m9 is missing"),
        ("master", json!("a/b"), "must have 1 to 15 characters"),
        (
            "master",
            json!(""),
            "there is no default route to take it from",
        ),
        ("mode", json!("vlan"), "unknown variant `vlan`"),
        ("mtu", json!(1500), "is above that of its master m0, 1400"),
        ("mtu", json!(-1), "invalid value: integer `-1`"),
        (
            "mac",
            json!("01:00:00:00:00:01"),
            "is no unicast Ethernet address",
        ),
        ("bcqueuelen", json!("x"), "invalid type"),
    ] {
        let mut plugin = json!({ "type": "macvlan", "master": "m0", "ipam": both() });
        plugin[key] = value;
        let list = list(&host, json!([plugin]));
        let error = Attached::to(&host, &list, "c").err().unwrap();
        assert!(root(&error).contains(wanted), "{key}: {}", root(&error));
        assert!(recover::holdings(&list).unwrap().is_empty(), "{key}");
    }
    // The name is the container's own.
    let list = list(
        &host,
        json!([{ "type": "macvlan", "master": "m0", "ipam": both() }]),
    );
    let namespace = Namespace::new();
    namespace.run(|| shell("ip link add eth0 type veth peer name other"));
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    let error = host.caller.add(&list, &a).unwrap_err();
    assert_eq!(
        root(&error),
        "the container has a link eth0 already, of kind \"veth\""
    );
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert!(namespace.run(|| shell("ip -o link")).contains("eth0"));
}

#[test]
fn host_device_goes_and_comes_back_whatever_the_container_does_to_it() {
    let host = Host::new();
    shell(
        "ip link add dev9 type veth peer name far && ip addr add 10.90.0.1/24 dev far && ip link set far up",
    );
    let list = list(
        &host,
        json!([{ "type": "host-device", "device": "dev9", "dataDir": "DIR/hd",
                                    "ipam": fixed("10.90.0.5/24") }]),
    );
    let c = Attached::to(&host, &list, "c").unwrap();
    let _server = c.namespace.serve(80);
    ask(Protocol::Tcp, "10.90.0.5:80").unwrap();
    host.caller.check(&list, &c.attachment).unwrap();
    // Another wants it: it is not there.
    let error = Attached::to(&host, &list, "d").err().unwrap();
    assert_eq!(root(&error), "link dev9 is missing, not there");
    c.namespace
        .run(|| shell("ip link set eth0 down && ip link set eth0 name mine"));
    host.caller.del(&list, &c.attachment).unwrap();
    let seen = shell("ip -o link show dev9");
    assert!(seen.contains("DOWN") && !seen.contains("alias"), "{seen}");
    host.caller.del(&list, &c.attachment).unwrap();

    // A link that the container put in its place does not come to the host.
    let c = Attached::to(&host, &list, "e").unwrap();
    c.namespace.run(|| {
        shell("ip link del eth0; ip link add eth0 type bridge && ip link set eth0 alias dev9")
    });
    host.caller.del(&list, &c.attachment).unwrap();
    assert!(!shell("ip -o link").contains("dev9"));
}

#[test]
fn host_device_needs_to_be_told_which() {
    let host = Host::new();
    for (keys, wanted) in [
        (json!({}), "names no device, hwaddr, kernelpath or pciBusID"),
        (json!({"device": "../x"}), "must have 1 to 15 characters"),
        (json!({"hwaddr": "02"}), "is no unicast Ethernet address"),
        (
            json!({"hwaddr": "02:00:00:00:00:07"}),
            "link 02:00:00:00:00:07 is missing",
        ),
        (
            json!({"kernelpath": "/etc"}),
            "is no path below /sys/devices",
        ),
        (
            json!({"kernelpath": "/sys/devices/../../etc"}),
            "is no path below /sys/devices",
        ),
        (json!({"pciBusID": "../../x"}), "is no device's"),
        (json!({"pciBusID": "ffff:ff:1f.7"}), "has no network link"),
        (
            json!({"runtimeConfig": {"deviceID": "x.y.1"}}),
            "is no device of the PCI or auxiliary bus",
        ),
    ] {
        let mut plugin = json!({ "type": "host-device", "dataDir": "DIR/hd" });
        plugin
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        let error = Attached::to(&host, &list(&host, json!([plugin])), "c")
            .err()
            .unwrap();
        assert!(root(&error).contains(wanted), "{keys}: {}", root(&error));
    }
}

#[test]
fn isolated_ports_reach_the_host_and_not_each_other() {
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "bridge", "bridge": "br9", "isGateway": true,
                                    "portIsolation": true, "ipam": both() }]),
    );
    let a = Attached::to(&host, &list, "a").unwrap();
    let b = Attached::to(&host, &list, "b").unwrap();
    let (_a, _host) = (a.namespace.serve(80), host.serve(81));
    b.asks("10.90.0.1:81").unwrap();
    b.asks(&a.address(80, true)).unwrap_err();
    host.caller.check(&list, &a.attachment).unwrap();
    let port = &a.result.interfaces[1].name;
    shell(&format!(
        "ip link set {port} type bridge_slave isolated off"
    ));
    let error = host.caller.check(&list, &a.attachment).unwrap_err();
    assert!(
        root(&error).contains("the isolation of link"),
        "{}",
        root(&error)
    );
    b.namespace.run(|| shell("ip neigh flush dev eth0"));
    b.asks(&a.address(80, true)).unwrap();
}

#[test]
fn duplicate_address_detection_finds_the_other() {
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "bridge", "bridge": "br9", "enabledad": true,
                                    "ipam": fixed("fd00:90::5/64") }]),
    );
    let first = Attached::to(&host, &list, "first").unwrap();
    let seen = first.namespace.run(|| shell("ip -6 addr show dev eth0"));
    assert!(!seen.contains("tentative"), "{seen}");
    let second = Attached::to(&host, &list, "second").err().unwrap();
    assert_eq!(
        root(&second),
        "address fd00:90::5 is held by another host on the link of eth0"
    );
    assert_eq!(recover::holdings(&list).unwrap().links.len(), 1);
}

#[test]
fn bridge_keys_that_contradict_each_other_are_refused() {
    let host = Host::new();
    for (keys, wanted) in [
        (
            json!({"hairpinMode": true, "promiscMode": true}),
            "cannot be on together with hairpinMode",
        ),
        (
            json!({"disableContainerInterface": true}),
            "leaves no link for the addresses",
        ),
        (
            json!({"ipMasqBackend": "iptables"}),
            "ipMasqBackend \"iptables\" is not nftables",
        ),
        (json!({"vlan": 4095}), "vlan \"4095\" is none of 1 to 4094"),
        (json!({"vlan": -1}), "invalid value: integer `-1`"),
        (
            json!({"vlanTrunk": [{"minID": 5}]}),
            "has no maxID beside it",
        ),
        (
            json!({"vlanTrunk": [{"maxID": 5}]}),
            "has no minID beside it",
        ),
        (
            json!({"vlanTrunk": [{"minID": 7, "maxID": 5}]}),
            "is above maxID",
        ),
        (
            json!({"vlanTrunk": [{"id": 0}]}),
            "vlanTrunk.id \"0\" is none of 1 to 4094",
        ),
        (
            json!({"vlanTrunk": [{"minID": 1, "maxID": 5000}]}),
            "vlanTrunk.maxID",
        ),
    ] {
        let mut plugin = json!({ "type": "bridge", "bridge": "br9", "ipam": both() });
        plugin
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        let error = Attached::to(&host, &list(&host, json!([plugin])), "c")
            .err()
            .unwrap();
        assert!(root(&error).contains(wanted), "{keys}: {}", root(&error));
        assert!(!shell("ip -o link").contains("br9"), "{keys}");
    }
    // Another network's address.
    shell("ip link add name br9 type bridge && ip addr add 10.77.0.1/24 dev br9");
    let plugin = json!([{ "type": "bridge", "bridge": "br9", "isGateway": true, "ipam": both() }]);
    let error = Attached::to(&host, &list(&host, plugin), "c")
        .err()
        .unwrap();
    assert_eq!(
        root(&error),
        "the address of gateway br9 is 10.77.0.1/24, not 10.90.0.1/24"
    );
}

#[test]
fn a_disabled_container_interface_stays_down() {
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "bridge", "bridge": "br9",
                                    "disableContainerInterface": true, "ipam": {} }]),
    );
    let c = Attached::to(&host, &list, "c").unwrap();
    assert!(
        c.namespace
            .run(|| shell("ip -o link show eth0"))
            .contains("state DOWN")
    );
    host.caller.del(&list, &c.attachment).unwrap();
}

#[test]
fn taps_belong_to_whom_they_are_for() {
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "tap", "owner": 61000, "group": 61001, "multiQueue": true,
        "mtu": 1400, "mac": "02:00:00:00:00:44", "ipam": fixed("10.90.0.5/24") }]),
    );
    let c = Attached::to(&host, &list, "c").unwrap();
    let seen = c.namespace.run(|| shell("ip -d -j addr show eth0"));
    let seen: Value = serde_json::from_str(&seen).unwrap();
    let (link, tun) = (&seen[0], &seen[0]["linkinfo"]["info_data"]);
    assert_eq!(link["address"], "02:00:00:00:00:44");
    assert_eq!(
        (&link["mtu"], &link["addr_info"][0]["local"]),
        (&json!(1400), &json!("10.90.0.5"))
    );
    assert_eq!(tun["type"], "tap");
    assert_eq!(
        (&tun["persist"], &tun["multi_queue"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        (&tun["user"], &tun["group"]),
        (&json!(61000), &json!(61001)),
        "{tun}"
    );
    host.caller.check(&list, &c.attachment).unwrap();
    host.caller.del(&list, &c.attachment).unwrap();
    assert!(!c.namespace.run(|| shell("ip -o link")).contains("eth0"));
}

#[test]
fn a_tap_is_a_port_of_the_containers_bridge_and_a_context_is_refused() {
    let host = Host::new();
    let plugin = json!({ "type": "tap", "bridge": "inner" });
    let plain = list(&host, json!([plugin]));
    let namespace = Namespace::new();
    namespace.run(|| shell("ip link add inner type bridge"));
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    host.caller.add(&plain, &a).unwrap();
    let ports = namespace.run(|| shell("ip -o link show master inner"));
    assert!(ports.contains("eth0"), "{ports}");
    host.caller.del(&plain, &a).unwrap();
    let mut labelled = plugin;
    labelled["selinuxContext"] = json!("system_u:system_r:container_t:s0");
    let error = Attached::to(&host, &list(&host, json!([labelled])), "c")
        .err()
        .unwrap();
    assert!(root(&error).contains("selinuxContext"), "{}", root(&error));
}

/// The path of a process that has gone leads to the host's namespace when its number is a process of
/// the host's by now.
#[test]
fn the_hosts_own_namespace_is_no_containers() {
    let host = Host::new();
    shell("ip link add eth0 type veth peer name far");
    let own = "/proc/thread-self/ns/net";
    for plugin in [
        json!({ "type": "loopback" }),
        json!({ "type": "bridge", "bridge": "br9", "ipam": {} }),
        json!({ "type": "ptp", "ipam": both() }),
        json!({ "type": "tuning", "dataDir": "DIR/tuning", "mtu": 1300 }),
    ] {
        let list = list(&host, json!([plugin]));
        let a = Attachment::new("c".parse().unwrap(), own);
        host.caller.del(&list, &a).unwrap();
        let links = shell("ip -o link show");
        assert!(
            links.contains("lo: <LOOPBACK,UP") && links.contains("eth0@far"),
            "{links}"
        );
        let error = host.caller.add(&list, &a).unwrap_err();
        let object = error.to_object("1.1.0");
        assert_eq!(object.code, 4, "{object:?}");
        assert!(
            object.details.contains("the plugin runs in")
                || object.msg.contains("the plugin runs in"),
            "{object:?}"
        );
    }
    let links = shell("ip -o link show");
    assert!(
        links.contains("lo: <LOOPBACK,UP") && links.contains("eth0@far"),
        "{links}"
    );
}

#[test]
fn a_del_by_a_path_that_has_become_anothers_leaves_that_ones_link() {
    for plugin in [
        json!({ "type": "bridge", "bridge": "br9", "isGateway": true, "ipam": both() }),
        json!({ "type": "ptp", "ipam": both() }),
        json!({ "type": "macvlan", "master": "m0", "ipam": both() }),
    ] {
        let host = Host::new();
        shell("ip link add m0 type veth peer name m1 && ip link set m0 up && ip link set m1 up");
        let list = list(&host, json!([plugin]));
        let gone = Attached::to(&host, &list, "gone").unwrap();
        let other = Attached::to(&host, &list, "other").unwrap();
        let mut a = gone.attachment.clone();
        drop(gone);
        let outer = "ip -o link show type veth | grep -c -e 'alias corten gone' || true";
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while shell(outer).trim() != "0" {
            assert!(std::time::Instant::now() < until);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        a.netns = other.namespace.path();
        host.caller.del(&list, &a).unwrap();
        host.caller.check(&list, &other.attachment).unwrap();
    }
}

/// What a container puts in the place of a link that has gone home already stays where it is.
#[test]
fn a_container_cannot_send_a_link_of_its_own_to_the_host() {
    let host = Host::new();
    shell("ip link add dev9 type veth peer name far");
    let list = list(
        &host,
        json!([{ "type": "host-device", "device": "dev9", "dataDir": "DIR/hd" }]),
    );
    let a = Attached::to(&host, &list, "a").unwrap();
    host.caller.del(&list, &a.attachment).unwrap();
    assert!(shell("ip -o link show").contains("dev9"));
    a.namespace
        .run(|| shell("ip link add eth0 type veth peer name inner && ip link set eth0 alias wan0"));
    host.caller.del(&list, &a.attachment).unwrap();
    let links = shell("ip -o link show");
    assert!(!links.contains("wan0"), "{links}");
    assert!(
        a.namespace
            .run(|| shell("ip -o link show"))
            .contains("alias wan0")
    );
}

#[test]
fn a_container_that_locks_its_namespace_keeps_nobody_waiting() {
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "ptp", "ipam": both() }, { "type": "sbr" }]),
    );
    let namespace = Namespace::new();
    let held = std::fs::File::open(namespace.path()).unwrap();
    held.lock().unwrap();
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    let start = std::time::Instant::now();
    let error = host.caller.add(&list, &a).unwrap_err();
    assert!(
        error.chain().contains("cannot enter the network namespace"),
        "{}",
        error.chain()
    );
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
    drop(held);
    host.caller.add(&list, &a).unwrap();
}

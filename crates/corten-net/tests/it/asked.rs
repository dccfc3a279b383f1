//! What is asked for in more than one way, IPAM of others, STATUS, and configurations that are wrong.

use std::os::unix::fs::PermissionsExt;

use corten_net::cni::{Attachment, Caller, Protocol};
use corten_net::{network, recover};
use corten_spec::Kind;
use serde_json::json;

use crate::links::{Attached, both, list, root};
use crate::plugins::MASTER;
use crate::rig::{Host, Namespace, ask, shell};

/// An IPAM plugin that is no business of ours: it wants the link to be up, and notes its calls.
const LATE: &str = r#"#!/bin/sh
cat > /dev/null
echo "$CNI_COMMAND" >> DIR/calls
[ "$CNI_COMMAND" = ADD ] || exit 0
nsenter --net="$CNI_NETNS" ip -o link show "$CNI_IFNAME" | grep -q ',UP' || fail=1
[ -e DIR/fail ] && fail=1
[ -z "$fail" ] || { echo '{"cniVersion": "1.0.0", "code": 11, "msg": "no lease"}'; exit 1; }
echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.90.0.5/24", "gateway": "10.90.0.1"}]}'
"#;

fn with_late(host: &Host) -> Caller {
    let folder = host.dir.path().join("theirs");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("late");
    let text = LATE.replace("DIR", &host.dir.path().display().to_string());
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    Caller::new(vec![folder], host.dir.path().join("cni"))
}

#[test]
fn an_ipam_that_speaks_through_the_link_finds_it_up_and_is_undone() {
    for plugin in [
        json!({"type": "bridge", "bridge": "br9", "isDefaultGateway": true}),
        json!({"type": "ptp"}),
        json!({"type": "macvlan", "master": "m0"}),
        json!({"type": "tap"}),
        json!({"type": "host-device", "device": "m0", "dataDir": "DIR/hd"}),
    ] {
        let host = Host::new();
        shell(MASTER);
        let caller = with_late(&host);
        let mut plugin = plugin;
        plugin["ipam"] = json!({"type": "late"});
        let list = list(&host, json!([plugin]));
        let namespace = Namespace::new();
        let a = Attachment::new("c".parse().unwrap(), namespace.path());
        let links = || shell("ip -o link | cut -d: -f2 | cut -d@ -f1 | sort");
        let (before, calls) = (links(), host.dir.path().join("calls"));
        let result = caller.add(&list, &a).unwrap();
        assert_eq!(result.ips[0].address.to_string(), "10.90.0.5/24");
        let inside = namespace.run(|| shell("ip -o -4 addr show eth0"));
        assert!(inside.contains("10.90.0.5/24"), "{plugin}: {inside}");
        caller.check(&list, &a).unwrap();
        caller.del(&list, &a).unwrap();
        std::fs::remove_file(&calls).unwrap();
        std::fs::write(host.dir.path().join("fail"), "").unwrap();
        let error = caller.add(&list, &a).unwrap_err();
        assert_eq!(root(&error), "no lease (code 11)");
        assert_eq!(
            (error.kind(), error.to_object("1.0.0").code),
            (Kind::Busy, 11)
        );
        // Once by the plugin that delegated, once by the caller.
        let calls = std::fs::read_to_string(&calls).unwrap();
        assert_eq!(calls, "ADD\nDEL\nDEL\n", "{plugin}");
        assert_eq!(links().replace(" br9\n", ""), before, "{plugin}");
        assert_eq!(namespace.run(links).trim(), "lo", "{plugin}");
    }
}

#[test]
fn an_ethernet_address_is_asked_for_in_four_ways() {
    let [capability, args, environment, own] = [1, 2, 3, 4].map(|n| format!("02:00:00:00:00:0{n}"));
    for ways in 1..=4 {
        let host = Host::new();
        shell(MASTER);
        let mut plugin = json!({ "type": "macvlan", "master": "m0", "mac": own,
                                 "capabilities": {"mac": true}, "ipam": both() });
        let namespace = Namespace::new();
        let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
        if ways >= 2 {
            a.args = vec![("MAC".into(), environment.clone())];
        }
        if ways >= 3 {
            plugin["args"] = json!({"cni": {"mac": args}});
        }
        if ways >= 4 {
            a.capabilities.mac = Some(capability.clone());
        }
        let list = list(&host, json!([plugin]));
        let result = host.caller.add(&list, &a).unwrap();
        let wanted = [&own, &environment, &args, &capability][ways - 1];
        assert_eq!(&result.interfaces[0].mac, wanted, "{ways}");
        host.caller.check(&list, &a).unwrap();
    }
}

#[test]
fn an_address_asked_for_again_after_a_kill_is_given() {
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "ptp", "capabilities": {"ips": true}, "ipam": both() }]),
    );
    let folder = host.dir.path().join("ipam/n");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("10.90.0.77"), "c\r\neth0").unwrap();
    let namespace = Namespace::new();
    let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
    a.capabilities.ips = vec!["10.90.0.77".into()];
    let result = host.caller.add(&list, &a).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.90.0.77/24");
    let another = Namespace::new();
    let mut other = Attachment::new("d".parse().unwrap(), another.path());
    other.capabilities = a.capabilities.clone();
    let error = host.caller.add(&list, &other).unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
}

#[test]
fn ptp_masquerades_and_remove_takes_that_back() {
    let host = Host::new();
    let outside = host.outside();
    let _server = outside.serve(80);
    let with = list(
        &host,
        json!([{ "type": "ptp", "ipMasq": true, "ipam": both() }]),
    );
    let c = Attached::to(&host, &with, "c").unwrap();
    for (to, wanted) in [
        ("192.0.2.2:80", "192.0.2.1"),
        ("[2001:db8::2]:80", "2001:db8::1"),
    ] {
        let seen = c.namespace.run(|| ask(Protocol::Tcp, to)).unwrap();
        assert_eq!(seen, wanted);
    }
    assert!(network::remove(&with).is_err());
    shell("nft flush ruleset");
    let cache = host.dir.path().join("cni");
    recover::reload(&with, &cache).unwrap();
    assert!(recover::intact(&with, &cache).unwrap().is_empty());
    let seen = c.namespace.run(|| ask(Protocol::Tcp, "192.0.2.2:80"));
    assert_eq!(seen.unwrap(), "192.0.2.1");
    host.caller.del(&with, &c.attachment).unwrap();
    network::remove(&with).unwrap();
    assert_eq!(shell("nft list ruleset"), "");
    assert!(!host.dir.path().join("ipam/n").exists());
}

#[test]
fn a_subnet_is_masqueraded_until_the_last_container_of_ptp_has_gone() {
    let host = Host::new();
    let with = |plugins: &[&str]| {
        let ptp = json!({ "type": "ptp", "ipMasq": true, "ipam": both() });
        let chained = plugins.iter().map(|kind| json!({"type": kind}));
        let all: Vec<_> = std::iter::once(ptp).chain(chained).collect();
        list(&host, json!(all))
    };
    for plugins in [&[][..], &["firewall"], &["portmap"]] {
        let with = with(plugins);
        let first = Attached::to(&host, &with, "first").unwrap();
        let last = Attached::to(&host, &with, "last").unwrap();
        host.caller.del(&with, &first.attachment).unwrap();
        let rules = shell("nft list ruleset");
        assert!(rules.contains("elements = { 10.90.0.0/24 }"), "{rules}");
        assert!(rules.contains("elements = { fd00:90::/64 }"), "{rules}");
        host.caller.del(&with, &last.attachment).unwrap();
        assert_eq!(shell("nft list ruleset"), "", "{plugins:?}");
    }
    // What nobody took off, and what nobody is told of.
    let bare = with(&[]);
    let lost = Attached::to(&host, &bare, "lost").unwrap();
    let gone = lost.attachment.clone();
    shell("ip -o link show type veth | cut -d: -f2 | cut -d@ -f1 | xargs -n1 ip link delete");
    assert_ne!(shell("nft list ruleset"), "");
    recover::gather(&bare).unwrap();
    assert_eq!(shell("nft list ruleset"), "");
    host.caller.del(&bare, &gone).unwrap();
}

#[test]
fn a_container_on_its_way_keeps_the_subnet_that_the_last_one_leaves() {
    let host = Host::new();
    let with = list(
        &host,
        json!([{ "type": "ptp", "ipMasq": true, "ipam": both() }]),
    );
    // Its place in the set is what a killed process has left.
    let first = Attached::to(&host, &with, "first").unwrap();
    shell("ip -o link show type veth | cut -d: -f2 | cut -d@ -f1 | xargs -n1 ip link delete");
    let rules = || shell("nft list ruleset");
    let before = rules();
    let next = Attached::to(&host, &with, "next").unwrap();
    assert_eq!(rules(), before);
    host.caller.del(&with, &first.attachment).unwrap();
    assert_eq!(rules(), before);
    host.caller.del(&with, &next.attachment).unwrap();
    assert_eq!(shell("nft list ruleset"), "");
}

#[test]
fn a_bridge_that_somebody_has_deleted_leaves_no_rules() {
    let host = Host::new();
    let with = host.list();
    let c = Attached::to(&host, &with, "c").unwrap();
    recover::gather(&with).unwrap();
    assert_ne!(shell("nft list ruleset"), "");
    shell("ip link delete corten0");
    host.caller.del(&with, &c.attachment).unwrap();
    for way in ["gather", "remove", "GC"] {
        match way {
            "gather" => recover::gather(&with).unwrap(),
            "remove" => network::remove(&with).unwrap(),
            _ => host.caller.gc(&with, &[]).unwrap(),
        }
        assert_eq!(shell("nft list ruleset"), "", "{way}");
        let d = Attached::to(&host, &with, "d").unwrap();
        host.caller.del(&with, &d.attachment).unwrap();
        assert_ne!(shell("nft list ruleset"), "");
        shell("ip link delete corten0");
    }
}

#[test]
fn sbr_by_a_given_gateway_and_with_hints() {
    let host = Host::new();
    let list = list(
        &host,
        json!([
        { "type": "bridge", "bridge": "br9", "isDefaultGateway": true, "ipam":
          { "type": "static", "addresses": [{"address": "10.90.0.5/24"}] } },
        { "type": "sbr", "gateways": ["10.90.0.99"], "addSourceHints": true } ]),
    );
    let c = Attached::to(&host, &list, "c").unwrap();
    let routes = |table: &str| {
        let command = format!("ip route show table {table}");
        c.namespace.run(|| shell(&command))
    };
    assert!(
        routes("100").contains("10.90.0.0/24 dev eth0"),
        "{}",
        routes("100")
    );
    assert!(
        routes("100").contains("default via 10.90.0.99"),
        "{}",
        routes("100")
    );
    let main = routes("main");
    assert!(
        main.contains("10.90.0.0/24 dev eth0") && main.contains("src 10.90.0.5"),
        "{main}"
    );
    assert!(!main.contains("default"), "{main}");
    host.caller.check(&list, &c.attachment).unwrap();
}

#[test]
fn a_status_that_fails_has_its_code() {
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "macvlan", "master": "m9", "ipam": both() }]),
    );
    let error = host.caller.status(&list).unwrap_err();
    assert_eq!(error.to_object("1.1.0").code, 50);
    assert_eq!(root(&error), "link m9 is missing, not there");
    shell("ip link add m9 type veth peer name far");
    host.caller.status(&list).unwrap();
}

#[test]
fn gc_gives_a_link_back_with_what_it_had() {
    let host = Host::new();
    shell("ip link add dev9 mtu 1500 type veth peer name far");
    let list = list(
        &host,
        json!([
        { "type": "host-device", "device": "dev9", "dataDir": "DIR/hd" },
        { "type": "tuning", "dataDir": "DIR/tuning", "mtu": 1300 } ]),
    );
    let _c = Attached::to(&host, &list, "c").unwrap();
    // As if the cache were lost with the engine's state.
    std::fs::remove_dir_all(host.dir.path().join("cni")).unwrap();
    let kept = corten_net::cni::ValidAttachment {
        container_id: "c".into(),
        ifname: "eth0".into(),
    };
    host.caller.gc(&list, std::slice::from_ref(&kept)).unwrap();
    assert!(!shell("ip -o link").contains("dev9"));
    host.caller.gc(&list, &[]).unwrap();
    assert!(shell("ip -o link show dev9").contains("DOWN"));
    assert!(recover::holdings(&list).unwrap().is_empty());
}

#[test]
fn wrong_configurations_are_refused_by_name_and_change_nothing() {
    let host = Host::new();
    shell(MASTER);
    let before = shell("ip -j -4 addr; ip -j -4 route; nft list ruleset");
    let cases = [
        (json!({"type": "ptp"}), "has no ipam"),
        (
            json!({"type": "ptp", "ipam": {"type": "static", "addresses": [{"address": "10.0.0.5/24"}]}}),
            "address \"10.0.0.5/24\" has no gateway of its family",
        ),
        (
            json!({"type": "ptp", "ipam": {"type": "static", "addresses": [{"address": "10.0.0.5"}]}}),
            "is no address with a prefix",
        ),
        (
            json!({"type": "ptp", "ipam": {"type": "static", "addresses": [{"address": "10.0.0.5/24", "gateway": "::1"}]}}),
            "gateway \"::1\" is not of the family",
        ),
        (
            json!({"type": "ptp", "ipam": {"type": "static"}}),
            "without an address",
        ),
        (
            json!({"type": "ptp", "ipMasqBackend": "iptables", "ipam": both()}),
            "is not nftables",
        ),
        (
            json!({"type": "vlan", "vlanId": 7, "ipam": both()}),
            "master \"\" is needed",
        ),
        (
            json!({"type": "vlan", "master": "m0", "ipam": both()}),
            "vlanId \"0\" is none of 1 to 4094",
        ),
        (
            json!({"type": "vlan", "master": "m0", "vlanId": 7}),
            "has no ipam",
        ),
        (json!({"type": "ipvlan", "master": "m0"}), "has no ipam"),
        (
            json!({"type": "ipvlan", "master": "m0", "mode": "x", "ipam": both()}),
            "unknown variant `x`",
        ),
        (json!({"type": "dummy"}), "has no ipam"),
        (
            json!({"type": "tap", "bridge": "a b"}),
            "must have 1 to 15 characters",
        ),
        (
            json!({"type": "tap", "bridge": "br7"}),
            "link br7 is missing",
        ),
        (
            json!({"type": "tap", "owner": -1}),
            "invalid value: integer `-1`",
        ),
        (json!({"type": "vrf"}), "vrfname \"\" is needed"),
        (
            json!({"type": "vrf", "vrfname": "../x"}),
            "must have 1 to 15 characters",
        ),
        (
            json!({"type": "vrf", "vrfname": "blue"}),
            "has no prevResult",
        ),
        (json!({"type": "sbr"}), "has no prevResult"),
        (
            json!({"type": "sbr", "gateways": ["x"]}),
            "invalid IP address syntax",
        ),
        (
            json!({"type": "sbr", "gateways": ["10.0.0.1", "10.0.0.2"]}),
            "is the second of its family",
        ),
        (json!({"type": "sbr", "table": 0}), "is no table"),
        (json!({"type": "tuning"}), "has no prevResult"),
        (
            json!({"type": "tuning", "mac": "x"}),
            "is no unicast Ethernet address",
        ),
        (
            json!({"type": "tuning", "sysctl": ["x"]}),
            "invalid type: sequence",
        ),
        (json!({"type": "bandwidth"}), "has no prevResult"),
        (
            json!({"type": "macvlan", "master": "m0", "ipam": "x"}),
            "an object",
        ),
    ];
    for (plugin, wanted) in cases {
        let what = plugin.to_string();
        let text = json!({"cniVersion": "1.1.0", "name": "n", "plugins": [plugin]}).to_string();
        let text = text.replace("DIR", &host.dir.path().display().to_string());
        let error = match corten_net::cni::NetworkConfigList::parse(text.as_bytes()) {
            Err(error) => error.to_string(),
            Ok(list) => root(&Attached::to(&host, &list, "c").err().expect(&what)),
        };
        assert!(error.contains(wanted), "{what}: {error}");
        assert_eq!(
            shell("ip -j -4 addr; ip -j -4 route; nft list ruleset"),
            before,
            "{what}"
        );
    }
    let ipam = host.dir.path().join("ipam/n");
    let held = std::fs::read_dir(ipam).into_iter().flatten().flatten();
    let addresses: Vec<_> = held
        .map(|e| e.file_name())
        .filter(|n| n.to_string_lossy().parse::<std::net::IpAddr>().is_ok())
        .collect();
    assert!(addresses.is_empty(), "{addresses:?}");
}

/// The host and a neighbour have the old container's Ethernet address in their tables. (The bridge
/// forgets its neighbours with its last port only.)
#[test]
fn an_address_that_comes_again_at_once_is_reached_at_once() {
    let host = Host::new();
    let of = |address: &str| {
        list(
            &host,
            json!([{ "type": "bridge", "bridge": "br9", "isGateway": true, "ipam":
                { "type": "static", "addresses": [{"address": address, "gateway": "10.90.0.1"}] } }]),
        )
    };
    let neighbour = Attached::to(&host, &of("10.90.0.9/24"), "neighbour").unwrap();
    let again = of("10.90.0.5/24");
    for id in ["first", "second", "third"] {
        let c = Attached::to(&host, &again, id).unwrap();
        let _server = c.namespace.serve(80);
        let start = std::time::Instant::now();
        ask(Protocol::Tcp, "10.90.0.5:80").unwrap_or_else(|e| panic!("{id}: {e}"));
        neighbour.asks("10.90.0.5:80").unwrap();
        let taken = start.elapsed();
        assert!(taken.as_millis() < 500, "{id}: {taken:?}");
        host.caller.del(&again, &c.attachment).unwrap();
    }
}

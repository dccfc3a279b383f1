//! Kinds of link that not every kernel has. Here they may be skipped; User Mode Linux, in which
//! `cargo xtask test --guest` runs them, has them all.

use std::os::unix::fs::PermissionsExt;

use corten_net::cni::{Attachment, Caller, Protocol};
use corten_net::recover;
use corten_testkit::need;
use serde_json::{Value, json};

use crate::links::{Attached, list, outside, root};
use crate::plugins::{Case, MASTER, three, v4};
use crate::rig::{Host, Namespace, ask, shell};

/// Whether the kernel makes such a link, which is asked in a namespace of its own.
fn has(kind: &str, arguments: &str) -> bool {
    let namespace = Namespace::new();
    let command = format!(
        "ip link add l0 type veth peer name l1 && ip link add {arguments} 2>/dev/null && echo yes || true"
    );
    let made = namespace.run(|| shell(&command)).contains("yes");
    need::that(
        made,
        format_args!("this kernel has no links of kind {kind}"),
    )
}

fn fixed(address: &str) -> Value {
    json!({ "type": "static", "addresses": [{"address": address}] })
}

#[test]
fn vlan_carries_its_own_traffic_alone() {
    if !has("vlan", "link l0 name t0 type vlan id 7") {
        return;
    }
    let host = Host::new();
    let outside = outside();
    outside.run(|| {
        shell(
            "ip link add link eth0 name eth0.7 type vlan id 7 && ip addr add 10.91.0.200/24 dev eth0.7 \
             && ip link set eth0.7 up && ip link show eth0.7",
        )
    });
    let of = |id: u16, address: &str| {
        list(
            &host,
            json!([{ "type": "vlan", "master": "m0", "vlanId": id, "mtu": 1400, "ipam": fixed(address) }]),
        )
    };
    let (seven, eight) = (of(7, "10.91.0.11/24"), of(8, "10.91.0.12/24"));
    let a = Attached::to(&host, &seven, "a").unwrap();
    let b = Attached::to(&host, &eight, "b").unwrap();
    let _server = outside.serve(80);
    a.asks("10.91.0.200:80").unwrap();
    b.asks("10.91.0.200:80").unwrap_err();
    host.caller.check(&seven, &a.attachment).unwrap();
    let error = host.caller.check(&eight, &a.attachment).unwrap_err();
    assert!(root(&error).contains("not attached") || root(&error).contains("the VLAN of link"));
    host.caller.del(&seven, &a.attachment).unwrap();
    let mut case = Case::new(
        "vlan",
        json!([{ "type": "vlan", "master": "m0", "vlanId": 7, "ipam": v4() }]),
    );
    case.host = MASTER;
    three(&case);
}

#[test]
fn ipvlan_containers_share_their_masters_address() {
    if !has("ipvlan", "link l0 name t0 type ipvlan") {
        return;
    }
    let host = Host::new();
    let outside = outside();
    let of = |address: &str| {
        list(
            &host,
            json!([{ "type": "ipvlan", "master": "m0", "ipam": fixed(address) }]),
        )
    };
    let a = Attached::to(&host, &of("10.90.0.11/24"), "a").unwrap();
    let b = Attached::to(&host, &of("10.90.0.12/24"), "b").unwrap();
    let (_a, _o) = (a.namespace.serve(80), outside.serve(80));
    b.asks("10.90.0.11:80").unwrap();
    b.asks("10.90.0.200:80").unwrap();
    assert_eq!(a.result.interfaces[0].mac, b.result.interfaces[0].mac);
    for mode in ["", "l2", "l3", "l3s"] {
        let mut case = Case::new(
            "ipvlan",
            json!([{ "type": "ipvlan", "master": "m0", "mode": mode, "mtu": 1400, "ipam": v4() }]),
        );
        case.host = MASTER;
        three(&case);
    }
}

/// A plugin before it made its master, and chose the addresses.
#[test]
fn a_chained_ipvlan_takes_over_master_and_addresses() {
    if !has("ipvlan", "link l0 name t0 type ipvlan") {
        return;
    }
    let host = Host::new();
    let outside = outside();
    let folder = host.dir.path().join("theirs");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("master");
    let text = r#"#!/bin/sh
        cat > /dev/null
        [ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "m0"}],
            "ips": [{"address": "10.90.0.11/24", "interface": 0}]}'"#;
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let caller = Caller::new(vec![folder], host.dir.path().join("cni"));
    let chained = list(&host, json!([{ "type": "master" }, { "type": "ipvlan" }]));
    let namespace = Namespace::new();
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    let result = caller.add(&chained, &a).unwrap();
    assert_eq!(result.interfaces[0].name, "eth0");
    assert_eq!(result.ips[0].interface, Some(0));
    let _server = outside.serve(80);
    namespace
        .run(|| ask(Protocol::Tcp, "10.90.0.200:80"))
        .unwrap();
    caller.check(&chained, &a).unwrap();
    caller.del(&chained, &a).unwrap();
    assert!(!namespace.run(|| shell("ip -o link")).contains("eth0"));
}

#[test]
fn dummy_holds_its_addresses() {
    if !has("dummy", "name t0 type dummy") {
        return;
    }
    let host = Host::new();
    let list = list(
        &host,
        json!([{ "type": "dummy", "ipam": fixed("10.91.0.5/32") }]),
    );
    let c = Attached::to(&host, &list, "c").unwrap();
    let _server = c.namespace.serve(80);
    c.asks("10.91.0.5:80").unwrap();
    host.caller.check(&list, &c.attachment).unwrap();
    host.caller.del(&list, &c.attachment).unwrap();
    assert!(!c.namespace.run(|| shell("ip -o link")).contains("eth0"));
}

#[test]
fn vrf_takes_the_link_its_addresses_and_its_routes() {
    if !has("vrf", "name t0 type vrf table 7") {
        return;
    }
    let host = Host::new();
    let plugins = json!([
        { "type": "bridge", "bridge": "br9", "isDefaultGateway": true, "ipam":
          { "type": "static", "addresses": [{"address": "10.90.0.5/24"}, {"address": "fd00:90::5/64"}],
            "routes": [{"dst": "198.51.100.0/24", "gw": "10.90.0.7"}] } },
        { "type": "vrf", "vrfname": "blue", "table": 4711 } ]);
    let of_blue = list(&host, plugins.clone());
    let c = Attached::to(&host, &of_blue, "c").unwrap();
    let routes = c
        .namespace
        .run(|| shell("ip route show table 4711; ip -6 route show table 4711"));
    for part in [
        "default via 10.90.0.1",
        "198.51.100.0/24 via 10.90.0.7",
        "10.90.0.0/24 dev eth0",
        "default via fd00:90::1",
        "fd00:90::/64 dev eth0",
    ] {
        assert!(routes.contains(part), "{part}: {routes}");
    }
    assert!(!c.namespace.run(|| shell("ip route")).contains("default"));
    assert!(
        c.namespace
            .run(|| shell("ip -6 addr show dev eth0"))
            .contains("fd00:90::5/64")
    );
    host.caller.check(&of_blue, &c.attachment).unwrap();
    let mut other = plugins;
    other[1]["table"] = json!(4712);
    let error = Attached::into(&host, &list(&host, other), "d", "eth1", &c.namespace).unwrap_err();
    assert_eq!(root(&error), "the table of link blue is 4711, not 4712");
    host.caller.del(&of_blue, &c.attachment).unwrap();
    assert!(!c.namespace.run(|| shell("ip -o link")).contains("blue"));
    let mut case = Case::new(
        "vrf",
        json!([{ "type": "bridge", "bridge": "br9", "isGateway": true, "ipam": v4() },
               { "type": "vrf", "vrfname": "blue", "table": 4711 }]),
    );
    // Its bridge does not find the routes that its vrf has moved.
    case.their_check = false;
    three(&case);
}

#[test]
fn ports_of_a_vlan_reach_each_other_and_their_gateway_alone() {
    if !has(
        "bridge with VLAN filtering",
        "name t0 type bridge vlan_filtering 1",
    ) {
        return;
    }
    let host = Host::new();
    let of = |vlan: u16, address: &str| {
        list(
            &host,
            json!([{ "type": "bridge", "bridge": "br9", "vlan": vlan, "isGateway": true, "ipam":
            { "type": "static", "addresses": [{"address": address}] } }]),
        )
    };
    let ten = of(10, "10.90.0.11/24");
    let a = Attached::to(&host, &ten, "a").unwrap();
    let b = Attached::to(&host, &of(10, "10.90.0.12/24"), "b").unwrap();
    let c = Attached::to(&host, &of(20, "10.91.0.13/24"), "c").unwrap();
    let (_a, _host) = (a.namespace.serve(80), host.serve(81));
    b.asks("10.90.0.11:80").unwrap();
    b.asks("10.90.0.1:81").unwrap();
    ask(Protocol::Tcp, "10.90.0.11:80").unwrap();
    // On the wire of another VLAN, with an address of the first.
    c.namespace
        .run(|| shell("ip addr add 10.90.0.13/24 dev eth0"));
    c.asks("10.90.0.11:80").unwrap_err();
    assert_eq!(a.result.interfaces[3].name, "br9.10");
    host.caller.check(&ten, &a.attachment).unwrap();
    assert_eq!(recover::holdings(&ten).unwrap().links.len(), 3);
    let plain = list(
        &host,
        json!([{ "type": "bridge", "bridge": "br8", "ipam": {} }]),
    );
    Attached::to(&host, &plain, "p").unwrap();
    let late = list(
        &host,
        json!([{ "type": "bridge", "bridge": "br8", "vlan": 10, "ipam": {} }]),
    );
    let error = Attached::to(&host, &late, "q").err().unwrap();
    assert_eq!(root(&error), "VLAN filtering of bridge br8 is off, not on");
}

#[test]
fn vlans_of_ports_are_as_the_reference_sets_them() {
    if !has(
        "bridge with VLAN filtering",
        "name t0 type bridge vlan_filtering 1",
    ) {
        return;
    }
    // Debian's version leaves the port in VLAN 1 as well, for which there is a key meanwhile.
    three(&Case::new(
        "vlan of a port",
        json!([{ "type": "bridge", "bridge": "br9", "vlan": 10, "preserveDefaultVlan": true, "ipam": v4() }]),
    ));
    // Nor does it know trunks: what is asked for is what bridge(8) shows.
    let host = Host::new();
    let plugin = |keys: Value| {
        let mut plugin = json!({ "type": "bridge", "bridge": "br9", "ipam": {} });
        plugin
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        list(&host, json!([plugin]))
    };
    for (keys, wanted) in [
        (
            json!({"vlan": 10, "vlanTrunk": [{"minID": 20, "maxID": 22}, {"id": 30}]}),
            json!([
                [10, "PVID,Egress Untagged"],
                [20, ""],
                [21, ""],
                [22, ""],
                [30, ""]
            ]),
        ),
        (
            json!({"vlanTrunk": [{"id": 30}]}),
            json!([[1, "PVID,Egress Untagged"], [30, ""]]),
        ),
        (
            json!({"vlan": 10, "preserveDefaultVlan": true}),
            json!([[1, "Egress Untagged"], [10, "PVID,Egress Untagged"]]),
        ),
    ] {
        let c = Attached::to(&host, &plugin(keys.clone()), "c").unwrap();
        let port = &c.result.interfaces[1].name;
        let shown: Value =
            serde_json::from_str(&shell(&format!("bridge -j vlan show dev {port}"))).unwrap();
        let found: Vec<Value> = shown[0]["vlans"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|v| {
                let flags: Vec<&str> = v["flags"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                let first = v["vlan"].as_u64().unwrap();
                let last = v["vlanEnd"].as_u64().unwrap_or(first);
                (first..=last)
                    .map(|n| json!([n, flags.join(",")]))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(json!(found), wanted, "{keys}: {shown}");
        host.caller.del(&plugin(keys), &c.attachment).unwrap();
    }
}

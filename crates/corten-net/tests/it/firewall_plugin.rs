//! The plugin `firewall`, after our bridge and after the reference one.

use corten_net::cni::{Attachment, Caller, NetworkConfigList, Protocol};
use corten_net::{network, recover};
use serde_json::{Value, json};

use crate::policy::{chain, network_with};
use crate::rig::{Host, Namespace, ask, is_cut_off, leftovers, shell};

/// A network with `firewall` at its end.
fn with_firewall(host: &Host, n: u8, keys: Value) -> NetworkConfigList {
    let mut document = network_with(host, n, json!({})).document().clone();
    let mut firewall = json!({"type": "firewall"});
    for (key, value) in keys.as_object().unwrap() {
        firewall[key] = value.clone();
    }
    document["plugins"].as_array_mut().unwrap().push(firewall);
    NetworkConfigList::from_document(document).unwrap()
}

fn at(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[test]
fn ingress_policies_are_seen_by_packets() {
    let host = Host::new();
    let outside = host.outside();
    // Policy, and whether a container of the same bridge and one of another with a policy get in.
    let cases = [
        ("open", true, true),
        ("same-bridge", true, false),
        ("isolated", false, false),
    ];
    let elsewhere = with_firewall(&host, 9, json!({"ingressPolicy": "same-bridge"}));
    let other = host.container_on(&elsewhere, "other", &[]);
    let _far = outside.serve(80);
    for (n, (policy, same, across)) in (1..).zip(cases) {
        let list = with_firewall(&host, n, json!({"ingressPolicy": policy}));
        let (a, b) = (
            host.container_on(&list, &format!("a{n}"), &[]),
            host.container_on(&list, &format!("b{n}"), &[]),
        );
        let _server = a.namespace.serve(80);
        for v4 in [true, false] {
            let to = at(a.address(v4), 80);
            let udp = Protocol::Udp;
            assert_eq!(b.namespace.run(|| !is_cut_off(udp, &to)), same, "{policy}");
            let got = other.namespace.run(|| !is_cut_off(udp, &to));
            assert_eq!(got, across, "{policy}");
            // The host and the outside are no container.
            assert!(ask(udp, &to).is_ok(), "{policy}");
            let far = ["[2001:db8::2]:80", "192.0.2.2:80"][usize::from(v4)];
            assert!(a.namespace.run(|| ask(udp, far)).is_ok(), "{policy}");
        }
        for c in [&a, &b] {
            host.caller.check(&list, &c.attachment).unwrap();
            host.caller.del(&list, &c.attachment).unwrap();
            host.caller.del(&list, &c.attachment).unwrap();
        }
        assert!(recover::holdings(&list).unwrap().is_empty());
        network::remove(&list).unwrap();
    }
    host.caller.del(&elsewhere, &other.attachment).unwrap();
    network::remove(&elsewhere).unwrap();
    assert!(!leftovers(&host).contains("corten"));
}

#[test]
fn check_names_what_is_gone_and_gc_takes_what_is_not_wanted() {
    let host = Host::new();
    let list = with_firewall(&host, 1, json!({"ingressPolicy": "isolated"}));
    let c = host.container_on(&list, "c", &[]);
    host.caller.status(&list).unwrap();
    let held = recover::holdings(&list).unwrap();
    let what: Vec<&str> = held.admissions.iter().map(|a| &*a.what).collect();
    assert_eq!(
        what[..2],
        ["the admission of 10.1.0.2", "the admission of fd00:1::2"]
    );
    assert!(
        what[2].starts_with("the isolation of port veth"),
        "{what:?}"
    );
    shell("nft delete element inet corten admitted4 '{ 10.1.0.2 }'");
    let error = host.caller.check(&list, &c.attachment).unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("the admission of 10.1.0.2 of c is missing"),
        "{text}"
    );
    host.caller.gc(&list, &[]).unwrap();
    assert!(recover::holdings(&list).unwrap().admissions.is_empty());
    assert!(!shell("nft list set inet corten ingress").contains("elements"));
}

#[test]
fn what_it_cannot_do_is_refused_by_name() {
    let host = Host::new();
    let namespace = Namespace::new();
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    for (keys, wanted) in [
        (
            json!({"backend": "iptables"}),
            "\"backend\" is not nftables",
        ),
        (
            json!({"backend": "firewalld"}),
            "\"backend\" is not nftables",
        ),
        (
            json!({"ingressPolicy": "closed"}),
            "is none of open, same-bridge, isolated",
        ),
        (
            json!({"iptablesAdminChainName": "X"}),
            "names a chain of iptables",
        ),
        (
            json!({"firewalldZone": "trusted"}),
            "does not speak with firewalld",
        ),
    ] {
        let list = with_firewall(&host, 1, keys);
        let error = host.caller.add(&list, &a).unwrap_err();
        assert!(chain(&error).contains(wanted), "{}", chain(&error));
        assert!(recover::holdings(&list).unwrap().is_empty());
    }
    let alone = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "firewall"}]});
    let alone = NetworkConfigList::from_document(alone).unwrap();
    let error = host.caller.add(&alone, &a).unwrap_err();
    assert!(chain(&error).contains("has no prevResult"));
    host.caller.del(&alone, &a).unwrap();
}

/// Behind the reference bridge, which leaves the way through FORWARD to `firewall`.
#[test]
fn the_reference_bridges_containers_pass_a_policy_of_drop() {
    let folder = std::path::PathBuf::from("/usr/lib/cni");
    if !folder.join("bridge").exists() {
        println!("skipped: the reference CNI plugins are not installed");
        return;
    }
    let host = Host::new();
    let outside = host.outside();
    shell("iptables-nft -P FORWARD DROP && ip6tables-nft -P FORWARD DROP");
    outside.run(|| shell("ip route add 10.1.0.0/24 via 192.0.2.1"));
    // Our executable of that name, their others.
    let mixed = host.dir.path().join("mixed");
    std::fs::create_dir(&mixed).unwrap();
    std::os::unix::fs::symlink(host.executables().join("firewall"), mixed.join("firewall"))
        .unwrap();
    let cache = host.dir.path().join("cni");
    let list = |plugins: Value| {
        NetworkConfigList::from_document(
            json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}),
        )
        .unwrap()
    };
    let bridge = json!({ "type": "bridge", "bridge": "br1", "isGateway": true, "ipMasq": false,
        "ipam": { "type": "host-local", "dataDir": host.dir.path().join("ipam"),
                  "ranges": [[{"subnet": "10.1.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}] } });
    let _far = outside.serve(80);
    let mut results = Vec::new();
    for plugins in [vec![mixed.clone(), folder.clone()], vec![folder.clone()]] {
        let caller = Caller::new(plugins, &cache).without_bundled();
        let namespace = Namespace::new();
        let a = Attachment::new("c".parse().unwrap(), namespace.path());
        let reaches = || namespace.run(|| !is_cut_off(Protocol::Udp, "192.0.2.2:80"));
        let both = list(json!([bridge.clone(), {"type": "firewall"}]));
        let result = caller.add(&both, &a).unwrap();
        assert!(reaches());
        caller.check(&both, &a).unwrap();
        let mut document = result.to_document(both.version);
        document["interfaces"] = json!(document["interfaces"].as_array().unwrap().len());
        document["ips"][0]["address"] = json!("");
        results.push(document);
        caller.del(&both, &a).unwrap();
        caller.del(&both, &a).unwrap();
        // Nothing of ours stays behind a bridge that is not ours.
        assert!(!shell("nft list ruleset").contains("corten"));
    }
    assert_eq!(results[0], results[1]);
}

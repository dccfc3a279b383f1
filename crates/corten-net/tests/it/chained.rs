//! Chained plugins: what they change, and give back.

use std::time::Instant;

use corten_net::cni::{Attachment, NetworkConfigList, Protocol};
use corten_net::recover;
use serde_json::json;

use crate::links::{Attached, both, list, root};
use crate::rig::{Host, Namespace, ask, shell};

#[test]
fn tuning_gives_back_what_a_host_device_had() {
    let host = Host::new();
    shell(
        "ip link add dev9 address 02:00:00:00:00:09 mtu 1500 txqueuelen 1000 type veth peer name far",
    );
    let list = list(
        &host,
        json!([
            { "type": "host-device", "device": "dev9", "dataDir": "DIR/hd" },
            { "type": "tuning", "dataDir": "DIR/tuning", "mac": "02:00:00:00:00:55", "mtu": 1300,
              "promisc": true, "allmulti": true, "txQLen": 77, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"} },
        ]),
    );
    let c = Attached::to(&host, &list, "c").unwrap();
    assert_eq!(c.result.interfaces[0].mac, "02:00:00:00:00:55");
    assert_eq!(c.result.interfaces[0].mtu, Some(1300));
    let link = c.namespace.run(|| shell("ip -o link show eth0"));
    for part in [
        "02:00:00:00:00:55",
        "mtu 1300",
        "qlen 77",
        "PROMISC",
        "ALLMULTI",
    ] {
        assert!(link.contains(part), "{part}: {link}");
    }
    let setting = || shell("cat /proc/sys/net/ipv4/conf/eth0/arp_filter");
    assert_eq!(c.namespace.run(setting).trim(), "1");
    host.caller.check(&list, &c.attachment).unwrap();
    c.namespace.run(|| shell("ip link set eth0 mtu 1200"));
    let error = host.caller.check(&list, &c.attachment).unwrap_err();
    assert_eq!(root(&error), "the mtu of link eth0 is 1200, not 1300");
    host.caller.del(&list, &c.attachment).unwrap();
    let link = shell("ip -o link show dev9");
    for part in ["02:00:00:00:00:09", "mtu 1500", "qlen 1000"] {
        assert!(link.contains(part), "{part}: {link}");
    }
    assert!(
        !link.contains("PROMISC") && !link.contains("ALLMULTI"),
        "{link}"
    );
    let left = std::fs::read_dir(host.dir.path().join("tuning")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn tuning_takes_no_setting_outside_net() {
    let host = Host::new();
    for key in ["kernel.hostname", "net/../kernel/hostname"] {
        let list = list(
            &host,
            json!([{ "type": "ptp", "ipam": both() },
            { "type": "tuning", "dataDir": "DIR/tuning", "sysctl": {key: "x"} }]),
        );
        let error = Attached::to(&host, &list, "c").err().unwrap();
        assert!(
            root(&error).contains("is no setting below net"),
            "{}",
            root(&error)
        );
        assert!(recover::holdings(&list).unwrap().is_empty());
    }
}

#[test]
fn sbr_answers_by_the_link_that_was_asked() {
    let host = Host::new();
    let network = |name: &str, bridge: &str, subnet: &str| {
        let plugins = json!([
            { "type": "bridge", "bridge": bridge, "isDefaultGateway": true, "ipam":
              { "type": "host-local", "dataDir": host.dir.path().join("ipam"), "ranges": [[{"subnet": subnet}]] } },
            { "type": "sbr" } ]);
        NetworkConfigList::from_document(
            json!({"cniVersion": "1.1.0", "name": name, "plugins": plugins}),
        )
        .unwrap()
    };
    let (one, two) = (
        network("one", "br1", "10.91.0.0/24"),
        network("two", "br2", "10.92.0.0/24"),
    );
    let namespace = Namespace::new();
    let attachment = |ifname: &str| {
        let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
        a.ifname = ifname.into();
        a
    };
    let (first, second) = (attachment("net1"), attachment("net2"));
    host.caller.add(&one, &first).unwrap();
    host.caller.add(&two, &second).unwrap();
    for (list, a) in [(&one, &first), (&two, &second)] {
        host.caller.check(list, a).unwrap();
    }
    let way = |from: &str| {
        let command = format!("ip route get 198.51.100.1 from {from}");
        namespace.run(|| shell(&command))
    };
    assert!(
        way("10.91.0.2").contains("via 10.91.0.1 dev net1"),
        "{}",
        way("10.91.0.2")
    );
    assert!(
        way("10.92.0.2").contains("via 10.92.0.1 dev net2"),
        "{}",
        way("10.92.0.2")
    );
    let _server = namespace.serve(80);
    for address in ["10.91.0.2:80", "10.92.0.2:80"] {
        ask(Protocol::Tcp, address).unwrap();
    }
    host.caller.del(&one, &first).unwrap();
    let rules = namespace.run(|| shell("ip rule"));
    assert!(
        !rules.contains("10.91.0.2") && rules.contains("10.92.0.2"),
        "{rules}"
    );
    host.caller.del(&two, &second).unwrap();
    assert_eq!(namespace.run(|| shell("ip rule | wc -l")).trim(), "3");
}

#[test]
fn sbr_with_a_given_table_makes_the_rule_alone() {
    let host = Host::new();
    let plugins = json!([{ "type": "ptp", "ipam": both() }, {"type": "sbr", "table": 4711}]);
    let list = list(&host, plugins);
    let c = Attached::to(&host, &list, "c").unwrap();
    let rules = || c.namespace.run(|| shell("ip rule && ip -6 rule"));
    for source in ["from 10.90.0.2 lookup 4711", "from fd00:90::2 lookup 4711"] {
        assert!(rules().contains(source), "{}", rules());
    }
    let routes = c.namespace.run(|| shell("ip route"));
    assert!(routes.contains("default via 10.90.0.1"), "{routes}");
    host.caller.check(&list, &c.attachment).unwrap();
    host.caller.del(&list, &c.attachment).unwrap();
    assert!(!rules().contains("4711"), "{}", rules());
}

/// Seconds that `bytes` take from one end to the other.
fn seconds(from: &Namespace, to: &Namespace, address: &str, bytes: usize) -> f64 {
    let listener = to.run(|| std::net::TcpListener::bind(address).unwrap());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
        });
        let start = Instant::now();
        from.run(|| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(&mut stream, &vec![0; bytes]).unwrap();
        });
        assert_eq!(reader.join().unwrap(), bytes as u64);
        start.elapsed().as_secs_f64()
    })
}

#[test]
fn bandwidth_holds_each_way_to_its_rate() {
    let host = Host::new();
    // 1 MB/s into the container, 2 MB/s out of it.
    let list = list(
        &host,
        json!([{ "type": "ptp", "ipam": both() },
        { "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 1_000_000,
          "egressRate": 16_000_000, "egressBurst": 1_000_000 }]),
    );
    let plain = Attached::to(&host, &list_without_bandwidth(&host), "p").unwrap();
    let c = Attached::to(&host, &list, "c").unwrap();
    host.caller.check(&list, &c.attachment).unwrap();
    let inwards = seconds(
        &plain.namespace,
        &c.namespace,
        &c.address(90, true),
        1_000_000,
    );
    assert!((0.7..2.0).contains(&inwards), "{inwards}");
    let outwards = seconds(
        &c.namespace,
        &plain.namespace,
        &plain.address(90, true),
        1_000_000,
    );
    assert!((0.3..1.2).contains(&outwards), "{outwards}");
    assert_eq!(recover::holdings(&list).unwrap().links.len(), 3);
    // Changed by somebody else, CHECK says so.
    shell("tc qdisc del dev $(ip -o link show type ifb | cut -d: -f2) root");
    let error = host.caller.check(&list, &c.attachment).unwrap_err();
    assert!(
        root(&error).contains("is unlimited, not 2000000 bytes a second"),
        "{}",
        root(&error)
    );
    host.caller.gc(&list, &[]).unwrap();
    assert_eq!(shell("ip -o link show type ifb"), "");
}

fn list_without_bandwidth(host: &Host) -> NetworkConfigList {
    list(host, json!([{ "type": "ptp", "ipam": both() }]))
}

#[test]
fn bandwidth_of_some_subnets_leaves_the_others_alone() {
    for (key, slow) in [("shapedSubnets", true), ("unshapedSubnets", false)] {
        let host = Host::new();
        let plain = Attached::to(&host, &list_without_bandwidth(&host), "p").unwrap();
        let list = list(
            &host,
            json!([{ "type": "ptp", "ipam": both() },
            { "type": "bandwidth", "egressRate": 8_000_000, "egressBurst": 800_000, key: ["10.90.0.2"] }]),
        );
        let c = Attached::to(&host, &list, "c").unwrap();
        host.caller.check(&list, &c.attachment).unwrap();
        let time = |v4| {
            seconds(
                &c.namespace,
                &plain.namespace,
                &plain.address(90, v4),
                1_000_000,
            )
        };
        let (v4, v6) = (time(true), time(false));
        assert_eq!(v4 > 0.5, slow, "{key} {v4} {v6}");
        assert_eq!(v6 > 0.5, !slow, "{key} {v4} {v6}");
        host.caller.del(&list, &c.attachment).unwrap();
    }
}

#[test]
fn bandwidth_refuses_what_is_no_rate() {
    let host = Host::new();
    for (keys, wanted) in [
        (json!({"ingressRate": 8}), "has no ingressBurst beside it"),
        (json!({"egressBurst": 8}), "has no egressRate beside it"),
        (
            json!({"egressBurst": 8, "egressRate": 1}),
            "is less than a byte a second",
        ),
        (
            json!({"egressBurst": 34_359_738_368_u64, "egressRate": 8}),
            "is 4 GiB or more",
        ),
        (json!({"shapedSubnets": ["x"]}), "is no subnet"),
        (
            json!({"shapedSubnets": ["::/0"], "unshapedSubnets": ["::/0"]}),
            "cannot be given together",
        ),
        (json!({"egressRate": -1}), "invalid value: integer `-1`"),
    ] {
        let mut plugin = json!({ "type": "bandwidth" });
        plugin
            .as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        let list = list(&host, json!([{ "type": "ptp", "ipam": both() }, plugin]));
        let error = Attached::to(&host, &list, "c").err().unwrap();
        assert!(root(&error).contains(wanted), "{keys}: {}", root(&error));
        assert!(recover::holdings(&list).unwrap().is_empty(), "{keys}");
    }
}

//! The keys of `portmap`, seen by packets; and flows of UDP that outlive what they were for.

use std::net::UdpSocket;
use std::time::Duration;

use corten_net::cni::{Attachment, Caller, NetworkConfigList, Protocol, ValidAttachment};
use corten_net::firewall::{Firewall, Published};
use corten_net::{network, recover};
use corten_spec::cni::PortMapping;
use serde_json::{Value, json};

use crate::policy::{chain, network_with};
use crate::rig::{Host, Namespace, ask, is_cut_off, leftovers, port, shell};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The usual network, with more keys for portmap.
fn with(host: &Host, keys: Value) -> NetworkConfigList {
    let mut document = host.list().document().clone();
    for (key, value) in keys.as_object().unwrap() {
        document["plugins"][1][key] = value.clone();
    }
    NetworkConfigList::from_document(document).unwrap()
}

#[test]
fn without_snat_every_client_is_seen_as_itself() {
    let host = Host::new();
    let outside = host.outside();
    let list = with(&host, json!({"snat": false, "masqAll": true}));
    let c = host.container_on(&list, "c", &BOTH.map(|p| port(8080, 80, p)));
    let other = network_with(&host, 2, json!({}));
    let b = host.container_on(&other, "b", &[]);
    let _server = c.namespace.serve(80);
    for protocol in BOTH {
        for (v4, to) in [(true, "192.0.2.1:8080"), (false, "[2001:db8::1]:8080")] {
            let far = ["2001:db8::2", "192.0.2.2"][usize::from(v4)];
            assert_eq!(outside.run(|| ask(protocol, to)).unwrap(), far);
            // A container of another network can be answered by way of the host.
            let seen = b.namespace.run(|| ask(protocol, to)).unwrap();
            assert_eq!(seen, b.address(v4).to_string());
        }
        // As with the reference plugin, the host's loopback is given up.
        assert!(is_cut_off(protocol, "127.0.0.1:8080"));
    }
    let setting = "cat /proc/sys/net/ipv4/conf/corten0/route_localnet";
    assert_eq!(shell(setting), "0\n");
    host.caller.check(&list, &c.attachment).unwrap();
}

#[test]
fn with_masq_all_every_client_is_seen_as_the_host() {
    let host = Host::new();
    let outside = host.outside();
    let list = with(
        &host,
        json!({"masqAll": true, "markMasqBit": 14, "backend": "nftables"}),
    );
    let c = host.container_on(&list, "c", &BOTH.map(|p| port(8080, 80, p)));
    // Another container's ports are as ever.
    let d = host.container("d", &BOTH.map(|p| port(8081, 80, p)));
    let _servers = (c.namespace.serve(80), d.namespace.serve(80));
    for protocol in BOTH {
        outside.run(|| {
            assert_eq!(ask(protocol, "192.0.2.1:8080").unwrap(), "10.90.0.1");
            assert_eq!(ask(protocol, "[2001:db8::1]:8080").unwrap(), "fd00:90::1");
            assert_eq!(ask(protocol, "192.0.2.1:8081").unwrap(), "192.0.2.2");
        });
        assert_eq!(ask(protocol, "127.0.0.1:8080").unwrap(), "10.90.0.1");
    }
    host.caller.check(&list, &c.attachment).unwrap();
    // CHECK sees it if the source address is another's business by now.
    shell("nft flush set inet corten masqall4");
    assert!(host.caller.check(&list, &c.attachment).is_err());
    host.caller.del(&list, &c.attachment).unwrap();
    assert!(!shell("nft list set inet corten masqall6").contains("elements"));
}

#[test]
fn what_speaks_of_iptables_is_refused_by_name_and_changes_nothing() {
    let host = Host::new();
    let namespace = Namespace::new();
    let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
    a.capabilities.port_mappings = vec![port(8080, 80, Protocol::Tcp)];
    for (keys, wanted) in [
        (
            json!({"conditionsV4": ["-s", "10.0.0.0/8"]}),
            "\"conditionsV4\" holds conditions",
        ),
        (
            json!({"conditionsV6": ["ip6 saddr fd00::/8"]}),
            "\"conditionsV6\" holds conditions",
        ),
        (
            json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}),
            "names a chain of iptables",
        ),
        (
            json!({"backend": "iptables"}),
            "\"backend\" is not nftables",
        ),
        (json!({"markMasqBit": 32}), "\"markMasqBit\" is no bit"),
        (json!({"snat": "yes"}), "invalid type: string"),
        (json!({"masqAll": 1}), "invalid type: integer"),
    ] {
        let list = with(&host, keys);
        let error = host.caller.add(&list, &a).unwrap_err();
        assert!(chain(&error).contains(wanted), "{}", chain(&error));
        assert!(recover::holdings(&list).unwrap().is_empty());
        // DEL frees what an earlier configuration made.
        host.caller.del(&list, &a).unwrap();
    }
    for nothing in [
        json!({"conditionsV4": [], "conditionsV6": null, "externalSetMarkChain": "", "backend": ""}),
        json!({"snat": null, "masqAll": null, "markMasqBit": 0}),
    ] {
        let list = with(&host, nothing);
        host.caller.status(&list).unwrap();
        host.caller.add(&list, &a).unwrap();
        host.caller.del(&list, &a).unwrap();
    }
    network::remove(&host.list()).unwrap();
    assert_eq!(leftovers(&host), "");
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let host = Host::new();
    let namespace = Namespace::new();
    let mapping = |host_port, container_port, ip: &str| PortMapping {
        host_ip: Some(ip)
            .filter(|i| !i.is_empty())
            .map(|i| i.parse().unwrap()),
        ..port(host_port, container_port, Protocol::Tcp)
    };
    let mut four = host.network.clone();
    four.subnets.truncate(1);
    let four = four.list().unwrap();
    for (mappings, wanted) in [
        (vec![mapping(0, 80, "")], "\"0:80/tcp\" has a port 0"),
        (vec![mapping(80, 0, "")], "\"80:0/tcp\" has a port 0"),
        (vec![mapping(80, 80, "::")], "has no address of that family"),
        (
            vec![mapping(80, 80, ""), mapping(80, 81, "")],
            "\"80:81/tcp\" has a host port that goes elsewhere already",
        ),
    ] {
        let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
        a.capabilities.port_mappings = mappings;
        let error = host.caller.add(&four, &a).unwrap_err();
        assert!(chain(&error).contains(wanted), "{}", chain(&error));
    }
    // The same twice is once; an IPv4 address in IPv6's clothes is one of IPv4.
    let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
    a.capabilities.port_mappings = vec![
        mapping(80, 80, ""),
        mapping(80, 80, ""),
        mapping(81, 80, "::ffff:127.0.0.1"),
    ];
    host.caller.add(&four, &a).unwrap();
    let ports = recover::holdings(&four).unwrap().ports;
    let mut hosts: Vec<String> = ports.iter().map(|p| p.host.to_string()).collect();
    hosts.sort();
    assert_eq!(hosts, ["0.0.0.0:80", "127.0.0.1:81"]);
}

#[test]
fn two_networks_of_one_container_publish_each_its_own() {
    let host = Host::new();
    let _outside = host.outside();
    let second = network_with(&host, 2, json!({}));
    let c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    let mut other = c.attachment.clone();
    other.ifname = "eth1".into();
    other.capabilities.port_mappings = vec![port(8081, 80, Protocol::Tcp)];
    // Only one of the two default routes can be.
    let mut document = second.document().clone();
    document["plugins"][0]["ipam"]["routes"] = json!([]);
    let second = NetworkConfigList::from_document(document).unwrap();
    host.caller.add(&second, &other).unwrap();
    let _server = c.namespace.serve(80);
    for to in ["127.0.0.1:8080", "127.0.0.1:8081", "[2001:db8::1]:8080"] {
        assert!(ask(Protocol::Tcp, to).is_ok(), "{to}");
    }
    host.caller.del(&second, &other).unwrap();
    assert!(is_cut_off(Protocol::Tcp, "127.0.0.1:8081"));
    assert!(ask(Protocol::Tcp, "127.0.0.1:8080").is_ok());
    host.caller.check(&host.list(), &c.attachment).unwrap();
}

/// Both get the same mappings from the runtime, so the second finds them published.
#[test]
fn two_portmaps_in_one_list_are_one() {
    let host = Host::new();
    let mut document = host.list().document().clone();
    let portmap = document["plugins"][1].clone();
    document["plugins"].as_array_mut().unwrap().push(portmap);
    let list = NetworkConfigList::from_document(document).unwrap();
    let c = host.container_on(&list, "c", &BOTH.map(|p| port(8080, 80, p)));
    let _server = c.namespace.serve(80);
    assert!(ask(Protocol::Tcp, "127.0.0.1:8080").is_ok());
    host.caller.check(&list, &c.attachment).unwrap();
    host.caller.del(&list, &c.attachment).unwrap();
    assert!(recover::holdings(&list).unwrap().is_empty());
}

#[test]
fn an_add_after_a_killed_one_takes_its_ports_over() {
    let host = Host::new();
    let ports = BOTH.map(|p| port(8080, 80, p));
    let c = host.container("c", &ports);
    // As if killed before the cache was written; its address is another's by now.
    std::fs::remove_dir_all(host.dir.path().join("cni")).unwrap();
    let parts = host.dir.path().join("ipam/bridge");
    std::fs::remove_file(parts.join("10.90.0.2")).unwrap();
    let result = host.caller.add(&host.list(), &c.attachment).unwrap();
    let v4 = result.ips[0].address.address().to_string();
    let held = recover::holdings(&host.list()).unwrap();
    assert_eq!(held.ports.len(), 4);
    let four = held.ports.iter().filter(|p| p.target.is_ipv4());
    assert!(four.clone().count() == 2 && four.clone().all(|p| p.target.ip().to_string() == v4));
    host.caller.check(&host.list(), &c.attachment).unwrap();
    host.caller
        .gc(&host.list(), &[] as &[ValidAttachment])
        .unwrap();
    assert!(recover::holdings(&host.list()).unwrap().ports.is_empty());
}

/// A client of UDP that goes on asking from one socket, as a resolver or a game does.
struct Client(UdpSocket);

impl Client {
    fn of(namespace: &Namespace, to: &str) -> Self {
        namespace.run(|| {
            let any = if to.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(250)))
                .unwrap();
            socket.connect(to).unwrap();
            Self(socket)
        })
    }

    fn is_answered(&self) -> bool {
        self.0
            .send(b"?")
            .and_then(|_| self.0.recv(&mut [0; 64]))
            .is_ok()
    }
}

#[test]
fn a_udp_client_that_asked_too_early_gets_through_once_the_port_is_published() {
    let host = Host::new();
    let outside = host.outside();
    let clients = ["192.0.2.1:5353", "[2001:db8::1]:5353"].map(|to| Client::of(&outside, to));
    // Something must look at flows before the port is there.
    let _first = host.container("first", &[port(9, 9, Protocol::Udp)]);
    // Somebody on the host has the port, and does not answer.
    let deaf = UdpSocket::bind("[::]:5353").unwrap();
    assert!(clients.iter().all(|c| !c.is_answered()));
    let flows = || shell("conntrack -L -p udp --orig-port-dst 5353 2>/dev/null");
    assert_eq!(flows().lines().count(), 2, "{}", flows());
    let c = host.container("c", &[port(5353, 53, Protocol::Udp)]);
    let _server = c.namespace.serve(53);
    assert!(clients.iter().all(Client::is_answered));
    drop(deaf);
}

#[test]
fn a_udp_client_follows_the_port_to_its_next_container() {
    let host = Host::new();
    let outside = host.outside();
    let clients = ["192.0.2.1:5353", "[2001:db8::1]:5353"].map(|to| Client::of(&outside, to));
    let ports = [port(5353, 53, Protocol::Udp)];
    let old = host.container("old", &ports);
    let server = old.namespace.serve(53);
    assert!(clients.iter().all(Client::is_answered));
    drop(server);
    host.caller.del(&host.list(), &old.attachment).unwrap();
    let flows = shell("conntrack -L -p udp 2>/dev/null");
    assert!(!flows.contains("dport=5353"), "{flows}");
    let new = host.container("new", &ports);
    let _server = new.namespace.serve(53);
    assert!(clients.iter().all(Client::is_answered));
}

/// The same port of another machine: its flow is none of ours.
#[test]
fn flows_to_other_machines_are_left_alone() {
    let host = Host::new();
    let outside = host.outside();
    let a = host.container("a", &[]);
    let _server = outside.serve(5353);
    let client = Client::of(&a.namespace, "192.0.2.2:5353");
    assert!(client.is_answered());
    let flow = || shell("conntrack -L -p udp -d 192.0.2.2 -o id 2>/dev/null | grep -o 'id=.*'");
    let before = flow();
    let c = host.container("c", &[port(5353, 53, Protocol::Udp)]);
    assert_eq!(flow(), before);
    host.caller.del(&host.list(), &c.attachment).unwrap();
    assert_eq!(flow(), before);
    // With many ports the whole of UDP is listed.
    let many: Vec<PortMapping> = (5350..5370).map(|n| port(n, 53, Protocol::Udp)).collect();
    let d = host.container("d", &many);
    let _server = d.namespace.serve(53);
    let near = Client::of(&outside, "192.0.2.1:5360");
    assert!(near.is_answered());
    host.caller.del(&host.list(), &d.attachment).unwrap();
    assert_eq!(flow(), before);
    assert!(!shell("conntrack -L -p udp 2>/dev/null").contains("dport=5360"));
}

#[test]
fn sctp_is_published_and_its_key_is_its_own() {
    let host = Host::new();
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|p| port(8080, 80, p));
    let c = host.container("c", &all);
    assert_eq!(recover::holdings(&host.list()).unwrap().ports.len(), 6);
    host.caller.check(&host.list(), &c.attachment).unwrap();
    let listed = shell("nft list map inet corten publish4");
    assert!(listed.contains("sctp . 8080"), "{listed}");
}

/// What a client of each kind sees is what it sees with the reference plugin; and the result.
#[test]
fn clients_see_what_they_see_with_the_reference_plugin() {
    let theirs = std::path::PathBuf::from("/usr/lib/cni");
    if !theirs.join("portmap").exists() {
        println!("skipped: the reference CNI plugins are not installed");
        return;
    }
    // Debian's does not know masqAll yet.
    for keys in [json!({}), json!({"snat": false})] {
        let seen: Vec<(Vec<String>, Value)> = [None, Some(theirs.clone())]
            .into_iter()
            .map(|folder| seen_by_clients(folder, keys.clone()))
            .collect();
        assert_eq!(seen[0].1, seen[1].1, "{keys}");
        assert_eq!(seen[0].0, seen[1].0, "{keys}");
    }
}

/// By our plugins, or those in a folder.
fn seen_by_clients(theirs: Option<std::path::PathBuf>, keys: Value) -> (Vec<String>, Value) {
    let work = move || {
        let host = Host::new();
        let outside = host.outside();
        let snat = keys.get("snat") != Some(&json!(false));
        // What Debian's speaks.
        let old = |list: &NetworkConfigList| {
            let mut document = list.document().clone();
            document["cniVersion"] = "1.0.0".into();
            NetworkConfigList::from_document(document).unwrap()
        };
        let list = old(&with(&host, keys));
        let folder = theirs.unwrap_or_else(|| host.executables());
        let caller = Caller::new(vec![folder], host.dir.path().join("cni")).without_bundled();
        let attach = |list: &NetworkConfigList, id: &str, ports: &[PortMapping]| {
            let namespace = Namespace::new();
            let mut a = Attachment::new(id.parse().unwrap(), namespace.path());
            a.capabilities.port_mappings = ports.to_vec();
            let result = caller.add(list, &a).unwrap();
            (namespace, a, result)
        };
        let (namespace, a, result) = attach(&list, "c", &BOTH.map(|p| port(8080, 80, p)));
        let (other, _, _) = attach(&old(&network_with(&host, 2, json!({}))), "b", &[]);
        let server = namespace.serve(80);
        // Their duplicate address detection takes its time.
        assert!(ask(Protocol::Tcp, "[fd00:90::2]:80").is_ok());
        let gateway = other.run(|| ask(Protocol::Tcp, "[fd00:2::1]:1"));
        assert!(gateway.unwrap_err().contains("refused"));
        let mut seen = Vec::new();
        for protocol in BOTH {
            for to in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
                seen.push(outside.run(|| quick(protocol, to)));
                seen.push(namespace.run(|| quick(protocol, to)));
                seen.push(quick(protocol, to));
                // The reference bridge masquerades from one network to another, ours to the outside
                // alone: without portmap's own masquerading it shows.
                if snat {
                    seen.push(other.run(|| quick(protocol, to)));
                }
            }
            seen.push(quick(protocol, "127.0.0.1:8080"));
        }
        caller.del(&list, &a).unwrap();
        drop(server);
        for protocol in BOTH {
            seen.push(outside.run(|| quick(protocol, "192.0.2.1:8080")));
        }
        let mut document = result.to_document(list.version);
        document["interfaces"] = json!(document["interfaces"].as_array().unwrap().len());
        (seen, document)
    };
    std::thread::spawn(work).join().unwrap()
}

/// The address that the server saw, or that there was no answer.
fn quick(protocol: Protocol, to: &str) -> String {
    match is_cut_off(protocol, to) {
        true => "nothing".into(),
        false => ask(protocol, to).unwrap(),
    }
}

/// A new connection costs the same with one published port and with ten thousand.
#[test]
fn a_connection_costs_the_same_however_many_ports_are_published() {
    let host = Host::new();
    let c = host.container("c", &[port(8080, 80, Protocol::Udp)]);
    let _server = c.namespace.serve(80);
    let mut firewall = Firewall::open("corten").unwrap();
    let target = std::net::SocketAddr::new(c.v4, 81);
    let more = |from: u16, to: u16| -> Vec<Published> {
        let one = |n: u16| Published {
            host: format!("0.0.0.0:{n}").parse().unwrap(),
            protocol: Protocol::Udp,
            target,
            source: Default::default(),
            owner: corten_net::owner::Owner::new("many", "eth0", "bridge"),
        };
        (from..to).map(one).collect()
    };
    let best = || {
        // The kernel enlarges its hash table in the background.
        std::thread::sleep(Duration::from_secs(1));
        let burst = |_| {
            // So that the table of connections is no longer at the end than at the start.
            shell("conntrack -F 2>/dev/null");
            let start = std::time::Instant::now();
            for _ in 0..500 {
                // Each a connection of its own: the rules are asked for its first packet.
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.send_to(b"?", "127.0.0.1:8080").unwrap();
            }
            start.elapsed() / 500
        };
        (0..20).map(burst).min().unwrap()
    };
    let one = best();
    firewall.publish(&more(10_000, 10_500)).unwrap();
    let hundreds = best();
    firewall.publish(&more(10_500, 20_000)).unwrap();
    let thousands = best();
    println!(
        "a new connection: {one:?} with 1 port, {hundreds:?} with 500, {thousands:?} with 10,000"
    );
    // A list would cost the last of ten thousand some hundred times as much; a loaded machine, less.
    assert!(hundreds < one * 5 && thousands < one * 5);
}

//! Who may reach whom: internal and isolated networks, the host's loopback, guarded ports.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use corten_net::cni::{NetworkConfigList, Protocol};
use corten_net::{network, recover};
use serde_json::{Value, json};

use crate::rig::{Host, Namespace, ask, is_cut_off, leftovers, port, shell};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The network `n` on a bridge of its own, 10.N.0.0/24 and fd00:N::/64, with more keys for its
/// bridge plugin.
pub fn network_with(host: &Host, n: u8, keys: Value) -> NetworkConfigList {
    let mut network = host.network.clone();
    network.name = format!("n{n}");
    network.bridge = format!("br{n}");
    network.subnets = vec![
        format!("10.{n}.0.0/24").parse().unwrap(),
        format!("fd00:{n}::/64").parse().unwrap(),
    ];
    let mut document = network.list().unwrap().document().clone();
    for (key, value) in keys.as_object().unwrap() {
        document["plugins"][0][key] = value.clone();
    }
    NetworkConfigList::from_document(document).unwrap()
}

fn at(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[test]
fn an_internal_network_has_no_way_in_or_out_but_the_host() {
    let host = Host::new();
    let outside = host.outside();
    let internal = network_with(&host, 1, json!({"cortenInternal": true, "ipMasq": false}));
    let ports = BOTH.map(|p| port(8080, 80, p));
    let a = host.container_on(&internal, "a", &ports);
    let b = host.container_on(&internal, "b", &[]);
    let other = host.container("other", &BOTH.map(|p| port(8081, 80, p)));
    let _servers = (
        a.namespace.serve(80),
        other.namespace.serve(80),
        outside.serve(80),
    );
    let _on_host = crate::rig::Server::here(90);
    for protocol in BOTH {
        for v4 in [true, false] {
            // Within, and with the host, as ever.
            let to = at(a.address(v4), 80);
            assert!(b.namespace.run(|| ask(protocol, &to)).is_ok());
            assert!(ask(protocol, &to).is_ok());
            let gateway = ["[fd00:1::1]:90", "10.1.0.1:90"][usize::from(v4)];
            assert!(b.namespace.run(|| ask(protocol, gateway)).is_ok());
            // Nothing else, published or not, to or fro.
            let (far, published, own) = match v4 {
                true => ("192.0.2.2:80", "192.0.2.1:8081", "192.0.2.1:8080"),
                false => (
                    "[2001:db8::2]:80",
                    "[2001:db8::1]:8081",
                    "[2001:db8::1]:8080",
                ),
            };
            let direct = at(other.address(v4), 80);
            for to in [far, published, &direct] {
                assert!(a.namespace.run(|| is_cut_off(protocol, to)), "{to}");
            }
            assert!(other.namespace.run(|| is_cut_off(protocol, &to)), "{to}");
            assert!(outside.run(|| is_cut_off(protocol, own)), "{own}");
            // The same asked by others is answered: the servers are there.
            assert!(outside.run(|| ask(protocol, published)).is_ok());
        }
        assert!(ask(protocol, "127.0.0.1:8080").is_ok());
    }
}

/// With br_netfilter, what passes a bridge passes the forward chain as well.
#[test]
fn within_a_network_all_pass_with_br_netfilter_too() {
    let host = Host::new();
    let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if !std::path::Path::new(setting).exists() {
        println!("skipped: this kernel has no br_netfilter");
        return;
    }
    shell(&format!("echo 1 > {setting}"));
    let keys = json!({"cortenInternal": true, "cortenIsolate": true});
    let list = network_with(&host, 1, keys);
    let (a, b) = (
        host.container_on(&list, "a", &[]),
        host.container_on(&list, "b", &[]),
    );
    let _server = a.namespace.serve(80);
    let to = at(a.v4, 80);
    assert_eq!(
        b.namespace.run(|| ask(Protocol::Tcp, &to)),
        Ok(b.v4.to_string())
    );
    // The packets do come there: without the pair they would be dropped.
    shell("nft delete element inet corten same '{ br1 . br1 }'");
    assert!(b.namespace.run(|| is_cut_off(Protocol::Udp, &to)));
}

#[test]
fn isolated_networks_reach_the_outside_and_each_other_by_published_ports_only() {
    let host = Host::new();
    let outside = host.outside();
    let isolated = network_with(&host, 1, json!({"cortenIsolate": true}));
    let plain = network_with(&host, 2, json!({}));
    let ports = |n| BOTH.map(|p| port(n, 80, p));
    let a = host.container_on(&isolated, "a", &ports(8080));
    let b = host.container_on(&plain, "b", &ports(8081));
    let _servers = (
        a.namespace.serve(80),
        b.namespace.serve(80),
        outside.serve(80),
    );
    for protocol in BOTH {
        for v4 in [true, false] {
            let (to_a, to_b) = (at(a.address(v4), 80), at(b.address(v4), 80));
            assert!(a.namespace.run(|| is_cut_off(protocol, &to_b)), "{to_b}");
            assert!(b.namespace.run(|| is_cut_off(protocol, &to_a)), "{to_a}");
            let (far, host_address) = match v4 {
                true => ("192.0.2.2:80", "192.0.2.1"),
                false => ("[2001:db8::2]:80", "[2001:db8::1]"),
            };
            let seen = a.namespace.run(|| ask(protocol, far));
            assert_eq!(seen.unwrap(), host_address.trim_matches(['[', ']']));
            let published = |n: u16| format!("{host_address}:{n}");
            assert!(a.namespace.run(|| ask(protocol, &published(8081))).is_ok());
            assert!(b.namespace.run(|| ask(protocol, &published(8080))).is_ok());
            assert!(outside.run(|| ask(protocol, &published(8080))).is_ok());
        }
    }
    // Removing the network takes its isolation along.
    for (list, c) in [(&isolated, &a), (&plain, &b)] {
        host.caller.del(list, &c.attachment).unwrap();
        network::remove(list).unwrap();
    }
    assert!(!shell("nft list ruleset").contains("corten"));
}

/// Answers every TCP connection and datagram at `address` with `text`, until the process ends.
fn answer(address: &str, text: &'static str) {
    use std::io::Write;
    let (tcp, udp) = (
        TcpListener::bind(address).unwrap(),
        UdpSocket::bind(address).unwrap(),
    );
    std::thread::spawn(move || {
        while let Ok((mut peer, _)) = tcp.accept() {
            let _ = peer.write_all(text.as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(text.as_bytes(), from);
        }
    });
}

#[test]
fn the_hosts_loopback_is_reached_by_the_gateway_where_asked_for() {
    let host = Host::new();
    let _outside = host.outside();
    let with = network_with(&host, 1, json!({"cortenHostLoopback": true}));
    let without = network_with(&host, 2, json!({}));
    let a = host.container_on(&with, "a", &[]);
    // Publishing turns route_localnet on, which alone must change nothing.
    let b = host.container_on(&without, "b", &[port(8080, 80, Protocol::Tcp)]);
    answer("127.0.0.1:7000", "loopback");
    answer("[::1]:7000", "loopback");
    answer("127.0.0.1:7001", "loopback");
    answer("10.1.0.1:7001", "gateway");
    answer("0.0.0.0:7002", "all");
    for protocol in BOTH {
        a.namespace.run(|| {
            assert_eq!(ask(protocol, "10.1.0.1:7000").unwrap(), "loopback");
            // Who listens on the gateway's address, as a resolver does, is not shadowed.
            assert_eq!(ask(protocol, "10.1.0.1:7001").unwrap(), "gateway");
            assert_eq!(ask(protocol, "10.1.0.1:7002").unwrap(), "all");
            // Another address of the host's stands for itself.
            assert!(is_cut_off(protocol, "192.0.2.1:7000"));
            assert!(is_cut_off(protocol, "[fd00:1::1]:7000"));
        });
        b.namespace.run(|| {
            assert!(is_cut_off(protocol, "10.2.0.1:7000"));
            assert!(is_cut_off(protocol, "10.1.0.1:7000"));
            assert_eq!(ask(protocol, "10.2.0.1:7002").unwrap(), "all");
        });
    }
    // A container that takes 127/8 off its own loopback does not get further by it.
    for c in [&a, &b] {
        c.namespace.run(|| {
            shell(
                "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip addr del 127.0.0.1/8 dev lo; \
                 ip route add 127.0.0.1/32 dev eth0 via $(ip route | awk '/default/ { print $3 }')",
            );
            for protocol in BOTH {
                assert!(is_cut_off(protocol, "127.0.0.1:7000"));
            }
        });
    }
}

/// Where `route_localnet` is on, the kernel would take a packet from 127.0.0.2 off the bridge: the
/// host's services would see their own host ask.
#[test]
fn a_container_does_not_pose_as_the_hosts_loopback() {
    let host = Host::new();
    let c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    let server = UdpSocket::bind("0.0.0.0:7000").unwrap();
    server
        .set_read_timeout(Some(Duration::from_millis(250)))
        .unwrap();
    let send = || {
        c.namespace.run(|| {
            let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
            socket.send_to(b"x", "10.90.0.1:7000").unwrap();
        });
        server
            .recv_from(&mut [0; 8])
            .map(|(_, from)| from.ip().to_string())
    };
    c.namespace.run(|| {
        shell(
            "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip addr del 127.0.0.1/8 dev lo; \
             ip addr add 127.0.0.2/32 dev eth0",
        )
    });
    assert!(send().is_err());
    // It is the guard that keeps it off: without, the host would have answered itself.
    shell("nft flush chain inet corten guard");
    assert_eq!(send().unwrap(), "127.0.0.2");
}

#[test]
fn a_guarded_port_sends_from_its_own_mac_only() {
    let host = Host::new();
    let list = network_with(&host, 1, json!({"macspoofchk": true}));
    let (a, b) = (
        host.container_on(&list, "a", &[]),
        host.container_on(&list, "b", &[]),
    );
    let _server = b.namespace.serve(80);
    let to = at(b.v4, 80);
    let reaches = || a.namespace.run(|| !is_cut_off(Protocol::Udp, &to));
    assert!(reaches());
    host.caller.check(&list, &a.attachment).unwrap();
    let mac = a
        .namespace
        .run(|| shell("ip -o link show eth0 | grep -o 'ether [0-9a-f:]*' | cut -d' ' -f2"));
    let set = |mac: &str| {
        a.namespace.run(|| {
            shell(&format!(
                "ip link set eth0 address {mac}; ip neigh flush all"
            ))
        })
    };
    set("02:00:00:00:be:ef");
    assert!(!reaches());
    // Another container's address is no better.
    let theirs = b
        .namespace
        .run(|| shell("ip -o link show eth0 | grep -o 'ether [0-9a-f:]*' | cut -d' ' -f2"));
    set(theirs.trim());
    assert!(!reaches());
    set(mac.trim());
    assert!(reaches());

    let held = recover::holdings(&list).unwrap();
    assert_eq!(held.admissions.len(), 4);
    shell("nft flush ruleset");
    let error = host.caller.check(&list, &a.attachment).unwrap_err();
    assert!(
        chain(&error).contains("missing, not in table corten"),
        "{error}"
    );
    recover::reload(&list, &host.dir.path().join("cni")).unwrap();
    host.caller.check(&list, &a.attachment).unwrap();
    host.caller.del(&list, &a.attachment).unwrap();
    assert_eq!(recover::holdings(&list).unwrap().admissions.len(), 2);
    host.caller.gc(&list, &[]).unwrap();
    network::remove(&list).unwrap();
    assert_eq!(leftovers(&host).replace("false", ""), "");
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        text = format!("{text}: {e}");
        next = e.source();
    }
    text
}

/// The next ADD of the same container then works.
#[test]
fn a_killed_adds_guard_is_freed_by_recovery() {
    let host = Host::new();
    let list = network_with(&host, 1, json!({"macspoofchk": true}));
    let c = host.container_on(&list, "c", &[]);
    // As if killed before the cache was written.
    std::fs::remove_dir_all(host.dir.path().join("cni")).unwrap();
    let held = recover::holdings(&list).unwrap();
    assert_eq!(held.containers().into_iter().collect::<Vec<_>>(), ["c"]);
    recover::free(&list, "c").unwrap();
    assert!(recover::holdings(&list).unwrap().is_empty());
    assert_eq!(shell("nft list tables"), "table inet corten\n");
    let again = Namespace::new();
    let mut attachment = c.attachment.clone();
    attachment.netns = again.path();
    host.caller.add(&list, &attachment).unwrap();
    host.caller.check(&list, &attachment).unwrap();
}

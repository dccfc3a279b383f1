//! Real packets: who reaches whom, and which source address is seen.

use corten_net::cni::Protocol;

use crate::rig::{Host, ask, port};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn at(address: impl Into<std::net::IpAddr>, port: u16) -> String {
    std::net::SocketAddr::new(address.into(), port).to_string()
}

#[test]
fn containers_reach_each_other_at_once_over_both_families() {
    let host = Host::new();
    let (a, b) = (host.container("a", &[]), host.container("b", &[]));
    let _server = b.namespace.serve(80);
    for v4 in [true, false] {
        for protocol in BOTH {
            let seen = a.namespace.run(|| ask(protocol, &at(b.address(v4), 80)));
            assert_eq!(seen, Ok(a.address(v4).to_string()));
        }
    }
}

#[test]
fn a_published_port_is_reached_from_loopback_and_host_addresses() {
    let host = Host::new();
    let outside = host.outside();
    let ports = BOTH.map(|p| port(8080, 80, p));
    let c = host.container("c", &ports);
    let _server = c.namespace.serve(80);
    for protocol in BOTH {
        let gateway = "10.90.0.1";
        assert_eq!(ask(protocol, "127.0.0.1:8080"), Ok(gateway.into()));
        // Another address of the loopback's network.
        assert_eq!(ask(protocol, "127.0.0.5:8080"), Ok(gateway.into()));
        assert!(ask(protocol, "192.0.2.1:8080").is_ok());
        assert!(ask(protocol, "[2001:db8::1]:8080").is_ok());
        // The source address of an outside client is kept.
        outside.run(|| {
            shell_route();
            assert_eq!(ask(protocol, "192.0.2.1:8080"), Ok("192.0.2.2".into()));
            assert_eq!(
                ask(protocol, "[2001:db8::1]:8080"),
                Ok("2001:db8::2".into())
            );
        });
    }
}

/// The outside needs no route to the containers: answers come from the host's address.
fn shell_route() {
    assert!(!crate::rig::shell("ip route").contains("10.90"));
}

#[test]
fn a_published_port_is_reached_from_containers_itself_included() {
    let host = Host::new();
    let _outside = host.outside();
    let ports = BOTH.map(|p| port(8080, 80, p));
    let (a, c) = (host.container("a", &[]), host.container("c", &ports));
    let _server = c.namespace.serve(80);
    for client in [&a, &c] {
        for protocol in BOTH {
            for (to, gateway) in [
                ("192.0.2.1:8080", "10.90.0.1"),
                ("10.90.0.1:8080", "10.90.0.1"),
                ("[2001:db8::1]:8080", "fd00:90::1"),
            ] {
                let seen = client.namespace.run(|| ask(protocol, to));
                assert_eq!(seen, Ok(gateway.into()), "{to}");
            }
        }
    }
}

#[test]
fn a_port_on_one_host_address_is_not_on_the_others() {
    let host = Host::new();
    let _outside = host.outside();
    let mut on_loopback = port(8080, 80, Protocol::Tcp);
    on_loopback.host_ip = Some("127.0.0.1".parse().unwrap());
    let mut on_six = port(8081, 80, Protocol::Tcp);
    on_six.host_ip = Some("2001:db8::1".parse().unwrap());
    let c = host.container("c", &[on_loopback, on_six]);
    let _server = c.namespace.serve(80);
    assert!(ask(Protocol::Tcp, "127.0.0.1:8080").is_ok());
    assert!(ask(Protocol::Tcp, "[2001:db8::1]:8081").is_ok());
    for closed in ["192.0.2.1:8080", "127.0.0.1:8081", "192.0.2.1:8081"] {
        assert!(
            ask(Protocol::Tcp, closed).unwrap_err().contains("refused"),
            "{closed}"
        );
    }
}

#[test]
fn what_leaves_for_the_outside_is_masqueraded() {
    let host = Host::new();
    let outside = host.outside();
    let c = host.container("c", &[]);
    let _server = outside.serve(80);
    for protocol in BOTH {
        let seen = c.namespace.run(|| ask(protocol, "192.0.2.2:80"));
        assert_eq!(seen, Ok("192.0.2.1".into()));
        let seen = c.namespace.run(|| ask(protocol, "[2001:db8::2]:80"));
        assert_eq!(seen, Ok("2001:db8::1".into()));
    }
}

#[test]
fn a_container_does_not_reach_the_hosts_loopback() {
    let host = Host::new();
    // Publishing turns route_localnet on, which is the danger (CVE-2020-8558).
    let c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    let server = std::net::UdpSocket::bind("127.0.0.1:9999").unwrap();
    server.set_nonblocking(true).unwrap();
    let gateway_mac =
        crate::rig::shell("cat /sys/class/net/corten0/address || ip -o link show corten0");
    assert!(!gateway_mac.is_empty());
    c.namespace.run(|| {
        crate::rig::shell(
            "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; \
             ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via 10.90.0.1 src 10.90.0.2",
        );
        let socket = std::net::UdpSocket::bind("10.90.0.2:0").unwrap();
        let _ = socket.send_to(b"x", "127.0.0.1:9999");
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(server.recv_from(&mut [0; 8]).is_err());
}

#[test]
fn forwarding_works_beside_an_iptables_policy_of_drop() {
    let host = Host::new();
    let outside = host.outside();
    crate::rig::shell("iptables-nft -P FORWARD DROP && ip6tables-nft -P FORWARD DROP");
    let c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    let _server = c.namespace.serve(80);
    let _far = outside.serve(80);
    for (own, far) in [
        ("192.0.2.1:8080", "192.0.2.2:80"),
        ("[2001:db8::1]:8080", "[2001:db8::2]:80"),
    ] {
        outside.run(|| ask(Protocol::Tcp, own)).unwrap();
        c.namespace.run(|| ask(Protocol::Tcp, far)).unwrap();
    }
    // The owner of the chain can still list and change it.
    for tool in ["iptables-nft", "ip6tables-nft"] {
        let rules = crate::rig::shell(&format!("{tool} -S FORWARD"));
        assert!(
            rules.contains("-i corten0") && rules.contains("--ctstate"),
            "{rules}"
        );
    }
    host.caller.del(&host.list(), &c.attachment).unwrap();
    corten_net::network::remove(&host.list()).unwrap();
    assert!(!crate::rig::shell("iptables-nft -S; ip6tables-nft -S").contains("corten"));
}

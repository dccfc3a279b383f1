//! The encoded table, as nft reads it back.

use corten_net::firewall::{Admitted, Firewall, Guarded, Network, Published, Source};
use corten_net::owner::Owner;
use corten_spec::cni::Protocol;

use crate::rig::{Host, shell};

const GOLDEN: &str = include_str!("table.nft");

fn published(host: &str, target: &str, source: Source) -> Published {
    Published {
        host: host.parse().unwrap(),
        protocol: Protocol::Tcp,
        target: target.parse().unwrap(),
        source,
        owner: Owner::new("c1", "eth0", "bridge"),
    }
}

/// Something in every set.
fn fill(firewall: &mut Firewall) -> Vec<Published> {
    firewall
        .admit(&Network {
            link: Some("corten0"),
            subnets: &[
                "10.90.0.0/24".parse().unwrap(),
                "fd00:90::/64".parse().unwrap(),
            ],
            masquerade: true,
            isolated: true,
            ..Network::default()
        })
        .unwrap();
    shell("ip link add corten1 type bridge");
    firewall
        .admit(&Network {
            link: Some("corten1"),
            internal: true,
            host_loopback: true,
            ..Network::default()
        })
        .unwrap();
    let ports = [
        published("0.0.0.0:8080", "10.90.0.2:80", Source::Answerable),
        published("0.0.0.0:8082", "10.90.0.2:82", Source::Kept),
        published("192.0.2.1:8081", "10.90.0.2:81", Source::Host),
        published("[::]:8080", "[fd00:90::2]:80", Source::Answerable),
        published("[::]:8082", "[fd00:90::2]:82", Source::Kept),
        published("[2001:db8::1]:8081", "[fd00:90::2]:81", Source::Host),
    ];
    firewall.publish(&ports).unwrap();
    let owner = Owner::new("c1", "eth0", "bridge");
    firewall
        .admit_addresses(&Admitted {
            addresses: vec!["10.90.0.2".parse().unwrap(), "fd00:90::2".parse().unwrap()],
            link: "corten0".into(),
            between_links: true,
            alone: vec!["veth1".into()],
            owner: owner.clone(),
        })
        .unwrap();
    firewall
        .guard(&Guarded {
            port: "veth1".into(),
            mac: [2, 0, 0, 0, 0, 1],
            owner,
        })
        .unwrap();
    ports.to_vec()
}

#[test]
fn nft_reads_the_tables_as_they_are_meant() {
    let host = Host::new();
    let mut firewall = Firewall::open("corten").unwrap();
    let ports = fill(&mut firewall);
    let listed = shell("nft list ruleset");
    assert_eq!(listed, GOLDEN, "\n{listed}");
    // The expressions below what nft shows: as its own compiler encodes the same text.
    let bytecode = "nft --debug=netlink list ruleset 2>&1 | grep -E '^  \\['";
    let ours = shell(bytecode);
    let file = host.dir.path().join("table.nft");
    std::fs::write(&file, &listed).unwrap();
    shell(&format!("nft flush ruleset && nft -f {}", file.display()));
    assert_eq!(ours, shell(bytecode));

    let mut firewall = Firewall::open("corten").unwrap();
    let mut there = firewall.published().unwrap();
    there.sort_by_key(|p| ports.iter().position(|q| q == p));
    assert_eq!(there, ports);
    assert_eq!(firewall.withdraw(|p| p.host.is_ipv4()).unwrap(), 3);
    assert_eq!(firewall.published().unwrap().len(), 3);
    assert!(!shell("nft list set inet corten plain4").contains("elements"));
}

#[test]
fn what_was_added_is_taken_back_to_the_last_element() {
    let _host = Host::new();
    let mut firewall = Firewall::open("corten").unwrap();
    fill(&mut firewall);
    // Another's: not c1's.
    firewall.unguard(|o| o.container_id == "c2").unwrap();
    firewall.expel(|o| o.container_id == "c2").unwrap();
    assert_eq!(firewall.admissions().unwrap().len(), 5);
    firewall.unguard(|o| o.container_id == "c1").unwrap();
    firewall.expel(|o| o.container_id == "c1").unwrap();
    assert_eq!(firewall.admissions().unwrap(), []);
    firewall.withdraw(|_| true).unwrap();
    firewall.dismiss("corten1", &[]).unwrap();
    assert_eq!(shell("nft list tables"), "table inet corten\n");
    let subnets = [
        "10.90.0.0/24".parse().unwrap(),
        "fd00:90::/64".parse().unwrap(),
    ];
    firewall.dismiss("corten0", &subnets).unwrap();
    assert_eq!(shell("nft list ruleset"), "");
    firewall.dismiss("corten0", &subnets).unwrap();
}

/// Rules and chains are the same with one port and with ten thousand; so are the lookups that a
/// packet costs. What grows is a hash table.
#[test]
fn ten_thousand_ports_change_no_rule_and_take_one_transaction() {
    let _host = Host::new();
    let mut firewall = Firewall::open("corten").unwrap();
    let port = |n: u16| published(&format!("0.0.0.0:{n}"), "10.90.0.2:80", Source::Kept);
    firewall.publish(&[port(1)]).unwrap();
    let rules = || shell("nft -t list ruleset");
    let with_one = rules();
    let all: Vec<Published> = (1..=10_000).map(port).collect();
    let start = std::time::Instant::now();
    firewall.publish(&all[..500]).unwrap();
    println!("500 ports: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    firewall.publish(&all).unwrap();
    println!("10,000 ports: {:?}", start.elapsed());
    assert_eq!(rules(), with_one);
    assert_eq!(firewall.published().unwrap().len(), 10_000);
    // All of them are somebody else's wish now, and each refusal is answered.
    let mut other = all.clone();
    for port in &mut other {
        port.owner = Owner::new("c2", "eth0", "bridge");
    }
    let error = firewall.publish(&other).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 0.0.0.0:1/tcp is published by container c1"
    );
    let start = std::time::Instant::now();
    assert_eq!(firewall.withdraw(|_| true).unwrap(), 10_000);
    println!("10,000 ports back: {:?}", start.elapsed());
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let _host = Host::new();
    let mut firewall = Firewall::open("t").unwrap();
    let port = |n: u16| Published {
        host: format!("0.0.0.0:{n}").parse().unwrap(),
        protocol: Protocol::Udp,
        target: "10.0.0.2:53".parse().unwrap(),
        source: Source::Answerable,
        owner: Owner::new("c1", "eth0", "n"),
    };
    firewall.publish(&[port(53)]).unwrap();
    let others = |n: u16| Published {
        owner: Owner::new("c2", "eth0", "n"),
        ..port(n)
    };
    let error = firewall
        .publish(&[others(1), others(2), others(53), others(4)])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 0.0.0.0:53/udp is published by container c1"
    );
    assert_eq!(firewall.published().unwrap(), [port(53)]);
    // One's own is as good as published: a killed ADD left it.
    firewall.publish(&[port(53), port(54)]).unwrap();
    assert_eq!(firewall.published().unwrap().len(), 2);
}

#[test]
fn a_table_of_somebody_else_is_not_touched() {
    let _host = Host::new();
    shell("nft 'add table inet t { comment \"mine\" ; }'");
    let mut firewall = Firewall::open("t").unwrap();
    let error = firewall.admit(&some_network()).unwrap_err();
    assert!(error.to_string().contains("another's"), "{error}");
    assert_eq!(shell("nft list ruleset | wc -l"), "3\n");
}

/// What the first version made, with a network and a port in it.
const OF_REVISION_1: &str = r#"table inet t {
    comment "corten 1"
    set links { type ifname; elements = { "br9" }; }
    set local4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/24, 10.2.0.0/16 }; }
    set masq4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 }; }
    map publish4 { type inet_proto . inet_service : ipv4_addr . inet_service;
        elements = { tcp . 80 comment "corten c9 eth0 n" : 10.1.0.2 . 8080 }; }
    chain old { ip daddr @local4 drop; }
}"#;

#[test]
fn a_table_of_another_revision_is_made_anew_with_its_elements() {
    let host = Host::new();
    let file = host.dir.path().join("old.nft");
    std::fs::write(&file, OF_REVISION_1).unwrap();
    shell(&format!("nft -f {}", file.display()));
    let mut firewall = Firewall::open("t").unwrap();
    firewall.admit(&some_network()).unwrap();
    let listed = shell("nft list table inet t");
    assert!(
        listed.contains("corten 2") && !listed.contains("old"),
        "{listed}"
    );
    for kept in [
        "elements = { \"br0\",\n\t\t\t     \"br9\" }",
        "10.1.0.0/24",
        "10.2.0.0/16",
        "tcp . 80 comment \"corten c9 eth0 n\" : 10.1.0.2 . 8080",
    ] {
        assert!(listed.contains(kept), "{kept}\n{listed}");
    }
    let ports = firewall.published().unwrap();
    assert_eq!(ports[0].owner, Owner::new("c9", "eth0", "n"));
}

fn some_network() -> Network<'static> {
    Network {
        link: Some("br0"),
        ..Network::default()
    }
}

#[test]
fn names_that_are_no_tables_are_refused() {
    for bad in ["", "a b", "a;b", &"x".repeat(65)] {
        assert!(Firewall::open(bad).is_err(), "{bad}");
    }
}

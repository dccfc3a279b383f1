//! The encoded table, as nft reads it back.

use corten_net::firewall::{Firewall, Network, Published};
use corten_net::owner::Owner;
use corten_spec::cni::Protocol;

use crate::rig::{Host, shell};

const GOLDEN: &str = include_str!("table.nft");

#[test]
fn nft_reads_the_table_as_it_is_meant() {
    let _host = Host::new();
    let mut firewall = Firewall::open("corten").unwrap();
    firewall
        .admit(&Network {
            link: Some("corten0"),
            subnets: &[
                "10.90.0.0/24".parse().unwrap(),
                "fd00:90::/64".parse().unwrap(),
            ],
            masquerade: true,
        })
        .unwrap();
    let published = |host: &str, target: &str| Published {
        host: host.parse().unwrap(),
        protocol: Protocol::Tcp,
        target: target.parse().unwrap(),
        owner: Owner::new("c1", "eth0", "bridge"),
    };
    let ports = [
        published("0.0.0.0:8080", "10.90.0.2:80"),
        published("[::]:8080", "[fd00:90::2]:80"),
        published("192.0.2.1:8081", "10.90.0.2:81"),
        published("[2001:db8::1]:8081", "[fd00:90::2]:81"),
    ];
    firewall.publish(&ports).unwrap();
    let listed = shell("nft list table inet corten");
    assert_eq!(listed, GOLDEN, "\n{listed}");
    // The expressions below what nft shows: as its own compiler encodes the same text.
    let ours = shell("nft --debug=netlink list table inet corten 2>&1 | grep -E '^  \\['");
    shell(
        "nft list table inet corten > /dev/shm/corten-net-test.nft && nft delete table inet corten && nft -f /dev/shm/corten-net-test.nft; rm /dev/shm/corten-net-test.nft",
    );
    let theirs = shell("nft --debug=netlink list table inet corten 2>&1 | grep -E '^  \\['");
    assert_eq!(ours, theirs);

    let mut firewall = Firewall::open("corten").unwrap();
    let mut there = firewall.published().unwrap();
    there.sort_by_key(|p| ports.iter().position(|q| q == p));
    assert_eq!(there, ports);
    assert_eq!(firewall.withdraw(|p| p.host.is_ipv4()).unwrap(), 2);
    assert_eq!(firewall.published().unwrap().len(), 2);
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let _host = Host::new();
    let mut firewall = Firewall::open("t").unwrap();
    let port = |n: u16| Published {
        host: format!("0.0.0.0:{n}").parse().unwrap(),
        protocol: Protocol::Udp,
        target: "10.0.0.2:53".parse().unwrap(),
        owner: Owner::new("c1", "eth0", "n"),
    };
    firewall.publish(&[port(53)]).unwrap();
    firewall
        .publish(&[port(1), port(2), port(53), port(4)])
        .unwrap_err();
    assert_eq!(firewall.published().unwrap(), [port(53)]);
}

#[test]
fn a_table_of_another_revision_is_not_touched() {
    let _host = Host::new();
    shell("nft 'add table inet t { comment \"mine\" ; }'");
    let mut firewall = Firewall::open("t").unwrap();
    let error = firewall
        .admit(&Network {
            link: None,
            subnets: &[],
            masquerade: false,
        })
        .unwrap_err();
    assert!(error.to_string().contains("revision"), "{error}");
}

#[test]
fn names_that_are_no_tables_are_refused() {
    for bad in ["", "a b", "a;b", &"x".repeat(65)] {
        assert!(Firewall::open(bad).is_err(), "{bad}");
    }
}

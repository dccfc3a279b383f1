//! Every message that asks for something, as text: its header, and its attributes as the kernel's
//! parser would take them apart. This kernel need not have the kind of link.

use super::*;
use corten_sys::netlink::Message;

const NESTED: u16 = 1 << 15;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The attributes, a line each, nested ones indented.
fn attributes(bytes: &[u8], depth: usize, pair: bool, out: &mut String) {
    let mut rest = bytes;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let payload = &rest[4..length];
        let indent = "  ".repeat(depth);
        let number = kind & !NESTED;
        if kind & NESTED == 0 {
            let quoted = match payload.strip_suffix(&[0]) {
                Some(text) if text.len() > 2 && text.iter().all(u8::is_ascii_graphic) => {
                    format!(" {:?}", String::from_utf8_lossy(text))
                }
                _ => String::new(),
            };
            out.push_str(&format!("{indent}{number} {}{quoted}\n", hex(payload)));
        } else {
            out.push_str(&format!("{indent}{number}\n"));
            // VETH_INFO_PEER begins with a struct ifinfomsg.
            let header = if pair && depth == 3 && number == 1 {
                16
            } else {
                0
            };
            attributes(&payload[header..], depth + 1, pair, out);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
}

fn text(name: &str, header: usize, message: &Message) -> String {
    let (payload, flags) = (message.payload(), message.flags());
    let mut out = format!(
        "{name}: {} flags {flags:03x} header {}\n",
        message.kind(),
        hex(&payload[..header])
    );
    attributes(&payload[header..], 1, name == "new veth", &mut out);
    out
}

fn links() -> String {
    let mut out = String::new();
    let kinds = [
        Kind::Bridge {
            vlan_filtering: true,
        },
        Kind::Macvlan {
            mode: MacvlanMode::Private,
            bc_queue_len: None,
        },
        Kind::Macvlan {
            mode: MacvlanMode::Vepa,
            bc_queue_len: None,
        },
        Kind::Macvlan {
            mode: MacvlanMode::Bridge,
            bc_queue_len: Some(2000),
        },
        Kind::Macvlan {
            mode: MacvlanMode::Passthru,
            bc_queue_len: None,
        },
        Kind::Ipvlan {
            mode: IpvlanMode::L2,
        },
        Kind::Ipvlan {
            mode: IpvlanMode::L3,
        },
        Kind::Ipvlan {
            mode: IpvlanMode::L3s,
        },
        Kind::Vlan { id: 4094 },
        Kind::Vrf { table: 1000 },
        Kind::Dummy,
        Kind::Ifb,
    ];
    for kind in kinds {
        let link = NewLink {
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: Some(1400),
            parent: Some(7),
            netns: Some(5),
            ..NewLink::new("net1", kind)
        };
        out.push_str(&text(&format!("new {kind:?}"), 16, &new_link(&link)));
    }
    let veth = NewVeth {
        name: "veth1a2b3c4d",
        alias: "corten c eth0 n",
        mac: [2, 0, 0, 0, 0, 1],
        mtu: Some(1400),
        master: Some(3),
        peer_name: "eth0",
        peer_mac: [2, 0, 0, 0, 0, 2],
        peer_netns: 5,
        quiet: true,
    };
    for message in new_veth(&veth) {
        out.push_str(&text("new veth", 16, &message));
    }
    let all = Change {
        netns: Some(5),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: Some(1400),
        txqlen: Some(500),
        name: Some("net1"),
        alias: Some("eth1"),
        master: Some(0),
        up: Some(false),
        promisc: Some(true),
        allmulti: Some(false),
    };
    out.push_str(&text("change all", 16, &change_link(9, &all)));
    let unnamed = Change {
        alias: Some(""),
        ..Default::default()
    };
    out.push_str(&text("take the alias", 16, &change_link(9, &unnamed)));
    out
}

fn ports() -> String {
    let vlans = PortVlans {
        native: Some(10),
        tagged: ranges(vec![30, 21, 20, 22, 30]),
    };
    let mut out = text("port up", 16, &set_port_up("veth0", true, true));
    out.push_str(&text("clear port VLANs", 16, &clear_port_vlans(9)));
    out.push_str(&text("add port VLANs", 16, &add_port_vlans(9, &vlans)));
    out
}

fn rules_and_routes() -> String {
    let (v4, v6) = ("10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap());
    let mut out = text("new rule", 12, &new_rule(v4, 100));
    out.push_str(&text("new rule", 12, &new_rule(v6, 1000)));
    out.push_str(&text("delete rule", 12, &delete_rule(v4, 100, Some(32765))));
    let route = NewRoute {
        gateway: Some("10.1.0.1".parse().unwrap()),
        source: Some(v4),
        priority: Some(50),
        advmss: Some(1360),
        mtu: Some(1400),
        table: Some(1000),
        ..NewRoute::to("10.2.0.0/16".parse().unwrap(), 7)
    };
    out.push_str(&text("new route", 12, &new_route(&route)));
    let manner = Manner {
        detect: false,
        alone: true,
    };
    let address = "fd00::5/64".parse().unwrap();
    out.push_str(&text("new address", 8, &new_address(address, 7, manner)));
    out
}

fn traffic() -> String {
    let rate = Rate {
        rate: 1_000_000,
        burst: 100_000,
    };
    let fast = Rate {
        rate: 5_000_000_000,
        burst: 1_000_000,
    };
    let mut out = text("tbf", 20, &new_tbf(7, rate));
    out.push_str(&text("tbf", 20, &new_tbf(7, fast)));
    let subnets = ["10.0.0.0/8", "fd00:1::/36", "0.0.0.0/0"].map(|s| s.parse().unwrap());
    for message in new_htb(7, rate, Side::Source, &subnets, true) {
        out.push_str(&text("htb, only these sources", 20, &message));
    }
    for message in new_htb(7, rate, Side::Destination, &subnets[..2], false) {
        out.push_str(&text("htb, not these destinations", 20, &message));
    }
    for message in redirect(7, 8) {
        out.push_str(&text("redirect", 20, &message));
    }
    out.push_str(&text("delete root", 20, &delete_root(7)));
    out.push_str(&text("delete ingress", 20, &delete_ingress(7)));
    out
}

#[test]
fn messages_are_as_they_were_checked() {
    let found = [links(), ports(), rules_and_routes(), traffic()].join("\n");
    let golden = include_str!("golden.txt");
    assert_eq!(found, golden, "\n{found}");
}

#[test]
fn numbers_become_ranges() {
    assert_eq!(ranges(vec![]), []);
    assert_eq!(
        ranges(vec![3, 1, 2, 2, 5, 4094, 4093]),
        [1..=3, 5..=5, 4093..=4094]
    );
}

#[test]
fn what_a_kind_says_of_itself_is_read() {
    let m = new_link(&NewLink::new("x", Kind::Vlan { id: 7 }));
    let reply = corten_sys::netlink::Reply {
        kind: 16,
        flags: 0,
        sequence: 0,
        payload: m.payload(),
    };
    let link = read_link(&reply).unwrap();
    assert_eq!(
        (link.kind.as_str(), link.details.vlan_id),
        ("vlan", Some(7))
    );
}

/// As tc(8) reckons `rate 8mbit burst 100kb latency 25ms`.
#[test]
fn a_bucket_is_what_tc_makes_of_it() {
    let bucket = Rate {
        rate: 1_000_000,
        burst: 100_000,
    }
    .bucket();
    assert_eq!((bucket.buffer, bucket.limit), (1_562_500, 125_000));
}

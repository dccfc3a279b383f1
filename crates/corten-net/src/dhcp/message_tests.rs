//! Messages as a server on the wire may write them.

use proptest::prelude::*;

use super::super::lease::{Due, Lease, Record};
use super::*;

/// A server's message with these options, in the order given.
fn server(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    bytes[..3].copy_from_slice(&[REPLY, ETHERNET, 6]);
    bytes[XID..][..4].copy_from_slice(&7u32.to_be_bytes());
    bytes[YIADDR..][..4].copy_from_slice(&[192, 0, 2, 7]);
    bytes[CHADDR..][..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes.extend_from_slice(&COOKIE);
    bytes.extend_from_slice(&[code::MESSAGE_TYPE, 1, kind]);
    bytes.extend_from_slice(options);
    bytes
}

const USABLE: &[u8] = &[
    1, 4, 255, 255, 255, 0, 3, 4, 192, 0, 2, 1, 54, 4, 192, 0, 2, 1, 51, 4, 0, 0, 0, 100,
];

fn with(options: &[u8]) -> Incoming {
    Incoming::parse(&server(2, &[USABLE, options, &[255]].concat())).unwrap()
}

#[test]
fn what_is_sent_is_a_whole_packet() {
    let options = [(code::CLIENT_ID, vec![b'x'; 300])];
    let message = Outgoing {
        kind: Kind::Discover,
        xid: 0x0102_0304,
        seconds: 3,
        broadcast: true,
        mac: [2, 0, 0, 0, 0, 1],
        own: Ipv4Addr::UNSPECIFIED,
        options: &options,
    }
    .encode();
    assert_eq!(message[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 3, 0x80, 0]);
    assert_eq!(message[FIXED + 4..][..5], [53, 1, 1, 61, 255]);
    assert_eq!(message[FIXED + 4 + 3 + 257..][..2], [61, 45]);
    let packet = packet(Ipv4Addr::UNSPECIFIED, &message);
    // Checksums that are right add up to nothing.
    assert_eq!(checksum(&[&packet[..20]]), 0);
    let length = (packet.len() - 20) as u16;
    let [high, low] = length.to_be_bytes();
    assert_eq!(
        checksum(&[&packet[12..20], &[0, 17, high, low], &packet[20..]]),
        0
    );
    let mut back = packet.clone();
    back[20..24].copy_from_slice(&[0, 67, 0, 68]);
    assert_eq!(
        unpack(&back).unwrap(),
        (Ipv4Addr::UNSPECIFIED, &message[..])
    );
    for (at, byte) in [
        (0, 0x65),
        (0, 0x44),
        (2, 0xff),
        (3, 0),
        (6, 0x20),
        (9, 6),
        (21, 1),
        (25, 7),
    ] {
        let mut bad = back.clone();
        bad[at] = byte;
        if at == 25 {
            bad[24] = 0;
        }
        assert!(unpack(&bad).is_none(), "byte {at}");
    }
}

#[test]
fn a_lease_is_read_from_an_offer() {
    let lease = Lease::read(&with(&[
        6, 8, 192, 0, 2, 53, 0, 0, 0, 0, 15, 4, b'l', b'a', b'n', 0, 26, 2, 5, 0x78,
    ]))
    .unwrap();
    assert_eq!(lease.address.to_string(), "192.0.2.7/24");
    assert_eq!(lease.gateway, Some([192, 0, 2, 1].into()));
    assert_eq!(lease.nameservers, [Ipv4Addr::new(192, 0, 2, 53)]);
    assert_eq!(
        (lease.domain.as_deref(), lease.mtu),
        (Some("lan"), Some(1400))
    );
    assert_eq!(
        (lease.renewal, lease.rebinding, lease.duration),
        (50, 87, 100)
    );
    assert_eq!(lease.routes.len(), 1);
    // Its own times, if they are in order.
    let timed = |t1: u8, t2: u8| {
        let lease = Lease::read(&with(&[58, 4, 0, 0, 0, t1, 59, 4, 0, 0, 0, t2])).unwrap();
        (lease.renewal, lease.rebinding)
    };
    assert_eq!(timed(10, 20), (10, 20));
    assert_eq!(timed(20, 10), (10, 10));
    assert_eq!(timed(0, 200), (50, 87));
}

#[test]
fn classless_routes_are_all_that_counts_where_there_are_any() {
    let text = |m: &Incoming| -> Vec<String> {
        m.routes()
            .iter()
            .map(|(to, via)| format!("{to} via {via}"))
            .collect()
    };
    let routes = with(&[121, 14, 0, 192, 0, 2, 9, 25, 10, 1, 2, 128, 0, 0, 0, 0]);
    assert!(Incoming::parse(&server(2, &[121, 14, 0])).is_none());
    assert_eq!(
        text(&routes),
        ["0.0.0.0/0 via 192.0.2.9", "10.1.2.128/25 via 0.0.0.0"]
    );
    // Bits of the destination beyond the prefix are cut off.
    assert_eq!(
        text(&with(&[121, 6, 4, 0xff, 192, 0, 2, 9])),
        ["240.0.0.0/4 via 192.0.2.9"]
    );
    // Damaged, or to a gateway that is none: as if it were not there.
    for bad in [
        &[121, 5, 33, 1, 1, 1, 1][..],
        &[121, 3, 8, 10, 1],
        &[121, 5, 0, 127, 0, 0, 1],
    ] {
        assert_eq!(text(&with(bad)), ["0.0.0.0/0 via 192.0.2.1"]);
    }
    let old = with(&[33, 16, 10, 0, 0, 5, 192, 0, 2, 8, 0, 0, 0, 0, 192, 0, 2, 8]);
    assert_eq!(
        text(&old),
        ["10.0.0.5/32 via 192.0.2.8", "0.0.0.0/0 via 192.0.2.1"]
    );
}

#[test]
fn an_offer_that_cannot_be_used_is_refused_for_its_reason() {
    let read = |options: &[u8], address: [u8; 4]| {
        let mut bytes = server(2, options);
        bytes[YIADDR..][..4].copy_from_slice(&address);
        Lease::read(&Incoming::parse(&bytes).unwrap()).unwrap_err()
    };
    let no_host = "gives an address that is no host's";
    for address in [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255; 4],
        [192, 0, 2, 0],
        [192, 0, 2, 255],
    ] {
        assert_eq!(read(USABLE, address), no_host);
    }
    let host = [192, 0, 2, 7];
    assert_eq!(
        read(&USABLE[6..], host),
        "has no subnet mask, or one with holes"
    );
    assert_eq!(
        read(&[&[1, 4, 255, 0, 255, 0], &USABLE[6..]].concat(), host),
        "has no subnet mask, or one with holes"
    );
    assert_eq!(read(&USABLE[..12], host), "names no server");
    assert_eq!(read(&USABLE[..18], host), "says nothing of its time");
}

#[test]
fn options_go_on_in_other_fields_and_in_parts() {
    let mut bytes = server(2, &[USABLE, &[52, 1, 3, 255]].concat());
    bytes[FILE..][..5].copy_from_slice(&[15, 2, b'l', b'a', 255]);
    bytes[SNAME..][..4].copy_from_slice(&[15, 1, b'n', 255]);
    let message = Incoming::parse(&bytes).unwrap();
    assert_eq!(message.text(code::DOMAIN_NAME).unwrap(), "lan");
    assert_eq!(
        with(&[15, 3, b'a', b'\n', b'b']).text(code::DOMAIN_NAME),
        None
    );
}

fn record(duration: u32) -> Record {
    Record {
        container: "c".into(),
        ifname: "eth0".into(),
        network: "n".into(),
        netns: "/x".into(),
        namespace: (1, 2),
        lease: Lease {
            duration,
            ..Lease::read(&with(&[])).unwrap()
        },
        since: 1000,
        provide: Vec::new(),
        request: Vec::new(),
    }
}

#[test]
fn a_lease_is_renewed_then_rebound_then_over() {
    let record = record(100);
    assert_eq!(record.due(1000), Due::Later(1050));
    assert_eq!(record.due(1050), Due::Renew { again: 1068 });
    assert_eq!(record.due(1086), Due::Renew { again: 1087 });
    assert_eq!(record.due(1087), Due::Rebind { again: 1099 });
    assert_eq!(record.due(1100), Due::Expired);
    let mut for_ever = record;
    for_ever.lease.duration = u32::MAX;
    assert_eq!(for_ever.due(u64::MAX), Due::Never);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        options in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        crate::dhcp::fuzz::packet_from_wire(&bytes);
        crate::dhcp::fuzz::packet_from_wire(&server(2, &options));
        crate::dhcp::fuzz::packet_from_wire(&server(5, &[USABLE, &options].concat()));
        crate::dhcp::fuzz::own_message(&bytes);
    }
}

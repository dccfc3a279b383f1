//! What the fuzzer gets to see of the resolver, and what has to hold.

use std::path::PathBuf;

use super::packet::{self, Code, Query, Refusal, Reply, refuse, relay, reply};
use super::registration::{Membership, Registration};
use super::zone::Zone;

fn registration() -> Option<Registration> {
    let addresses = ["10.0.0.2", "10.0.0.3", "fd00::2"];
    Some(Registration {
        container: "a".parse().ok()?,
        pid: 1,
        netns: PathBuf::new(),
        networks: vec![Membership {
            network: "n".into(),
            names: vec!["web".into(), "db".into()],
            addresses: addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            internal: false,
        }],
        upstream: Vec::new(),
    })
}

/// A message of a container: what goes back is short, is an answer to it, and is read as one.
pub fn query(bytes: &[u8]) {
    let Some(registration) = registration() else {
        return;
    };
    let mut zone = Zone::default();
    zone.insert(&registration);
    let mut out = Vec::new();
    let query = match Query::parse(bytes) {
        Ok(query) => query,
        Err(Refusal::Silence) => return,
        Err(Refusal::Code(code)) => {
            refuse(bytes, code, &mut out);
            assert!(out.len() <= bytes.len() + 11 && out[..2] == bytes[..2]);
            return;
        }
    };
    assert!(query.name().len() < 255);
    let limit = query.udp_limit();
    let networks = &registration.networks;
    let known = zone.answer(networks, &query, bytes.len(), |records| {
        packet::answer(&query, Code::NoError, records, limit, &mut out);
    });
    if !known {
        let none = std::iter::empty();
        packet::answer(&query, Code::ServFail, none, limit, &mut out);
    }
    assert!(out.len() <= limit.max(query.question_end() + 11));
    let read = reply(bytes, query.question_end(), &out);
    let taken = matches!(read, Reply::Answer { .. });
    assert!(if known { taken } else { read == Reply::Failed });
    zone.remove(&registration);
    assert!(!zone.answer(networks, &query, 0, |_| {}));
}

/// A message of a server that was asked: two bytes for the length of the question's message, that
/// message, the server's. What is passed on has the client's id and fits.
pub fn answer_of_server(asked: &[u8], bytes: &[u8]) {
    let Ok(query) = Query::parse(asked) else {
        return;
    };
    let end = query.question_end();
    if let Reply::Answer { .. } = reply(asked, end, bytes) {
        let mut passed = bytes.to_vec();
        let passed = relay([0xab, 0xcd], end, query.udp_limit(), &mut passed);
        assert!(passed.len() <= query.udp_limit().max(end));
        assert!(passed[..2] == [0xab, 0xcd] && passed[2] & 0x80 != 0);
        assert!(passed[12..end].eq_ignore_ascii_case(&asked[12..end]));
    }
}

/// As [`answer_of_server`], split by two bytes at the start.
pub fn answer(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes(*length));
    let (asked, reply) = rest.split_at(length.min(rest.len()));
    answer_of_server(asked, reply);
}

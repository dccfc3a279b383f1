//! The messages, judged by another implementation of DNS.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, Query as TheirQuery, ResponseCode};
use hickory_proto::rr::{Name as TheirName, RData, RecordType};
use proptest::prelude::*;

use super::*;

fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(TheirQuery::query(
        TheirName::from_ascii(name).unwrap(),
        kind,
    ));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn answered(bytes: &[u8], records: Vec<Data<'_>>, code: Code) -> (Message, usize) {
    let query = Query::parse(bytes).unwrap();
    let mut out = Vec::new();
    answer(
        &query,
        code,
        records.into_iter(),
        query.udp_limit(),
        &mut out,
    );
    (Message::from_vec(&out).unwrap(), out.len())
}

#[test]
fn a_query_is_read_whatever_its_case() {
    let bytes = query("Db.Example.", RecordType::AAAA, Some(1400));
    let query = Query::parse(&bytes).unwrap();
    assert_eq!(query.name(), b"\x02db\x07example");
    assert_eq!(query.name(), Name::parse("dB.example").unwrap().wire());
    assert!(query.wants(kind::AAAA) && !query.wants(kind::A) && query.is_internet());
    assert_eq!(query.udp_limit(), 1400);
}

#[test]
fn an_answer_is_what_another_resolver_reads() {
    let bytes = query("wEb.", RecordType::A, Some(1232));
    let name = Name::parse("web.net").unwrap();
    let records = vec![
        Data::A([10, 0, 0, 2].into()),
        Data::Aaaa("fd00::2".parse().unwrap()),
        Data::Ptr(&name),
    ];
    let (message, _) = answered(&bytes, records, Code::NoError);
    let asked = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.id, asked.metadata.id);
    // The very letters of the question: some clients check them.
    assert_eq!(message.queries[0].name().to_string(), "wEb.");
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert!(message.metadata.recursion_desired && !message.metadata.truncation);
    assert_eq!(message.edns.as_ref().unwrap().max_payload(), 4096);
    let data: Vec<String> = message.answers.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(data, ["10.0.0.2", "fd00::2", "web.net."]);
    assert!(message.answers.iter().all(|r| r.ttl == TTL));
    let (empty, _) = answered(&bytes, Vec::new(), Code::NxDomain);
    assert_eq!(empty.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn what_does_not_fit_a_datagram_is_said_to_be_cut() {
    let many = || (0..200).map(|i| Data::A([10, 0, 0, i].into())).collect();
    for (edns, fits) in [(None, 30), (Some(512), 30), (Some(1232), 75)] {
        let bytes = query("web.", RecordType::A, edns);
        let (message, length) = answered(&bytes, many(), Code::NoError);
        assert!(message.metadata.truncation);
        assert_eq!(message.answers.len(), fits);
        assert!(length <= usize::from(edns.unwrap_or(512)));
    }
    let (message, _) = answered(
        &query("web.", RecordType::A, Some(4096)),
        many(),
        Code::NoError,
    );
    assert!(!message.metadata.truncation && message.answers.len() == 200);
}

#[test]
fn what_is_no_query_is_refused_by_its_code_or_in_silence() {
    let good = query("web.", RecordType::A, None);
    let refusal = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Query::parse(&bytes).unwrap_err()
    };
    let format = Refusal::Code(Code::FormErr);
    assert_eq!(refusal(&|b| b.truncate(11)), Refusal::Silence);
    assert_eq!(refusal(&|b| b[2] |= 0x80), Refusal::Silence);
    assert_eq!(refusal(&|b| b[2] |= 0x28), Refusal::Code(Code::NotImp));
    assert_eq!(refusal(&|b| b[5] = 2), format);
    assert_eq!(refusal(&|b| b[7] = 1), format);
    assert_eq!(refusal(&|b| b[11] = 1), format);
    assert_eq!(refusal(&|b| b.truncate(b.len() - 1)), format);
    assert_eq!(refusal(&|b| b.push(0)), format);
    assert_eq!(refusal(&|b| b.resize(MAX_QUERY + 1, 0)), format);
    // A name that points at itself.
    assert_eq!(refusal(&|b| b[12..14].copy_from_slice(&[0xc0, 12])), format);
    // A later version of EDNS, of which we say only that we do not speak it.
    let mut later = query("web.", RecordType::A, Some(1232));
    let at = later.len() - 11 + 6;
    later[at] = 1;
    assert_eq!(
        Query::parse(&later).unwrap_err(),
        Refusal::Code(Code::BadVers)
    );
    let mut out = Vec::new();
    refuse(&later, Code::BadVers, &mut out);
    let message = Message::from_vec(&out).unwrap();
    // 16 has two names.
    assert_eq!(u16::from(message.metadata.response_code), 16);
}

#[test]
fn only_the_answer_to_our_very_question_is_taken() {
    let asked = query("Web.example.", RecordType::A, None);
    let end = Query::parse(&asked).unwrap().question_end();
    let mut good = Vec::new();
    let parsed = Query::parse(&asked).unwrap();
    let data = [Data::A([192, 0, 2, 1].into())];
    answer(&parsed, Code::NoError, data.into_iter(), 512, &mut good);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        reply(&asked, end, &bytes)
    };
    let taken = |truncated| Reply::Answer { truncated };
    assert_eq!(with(&|_| {}), taken(false));
    assert_eq!(with(&|b| b[13] = b'w'), taken(false));
    assert_eq!(with(&|b| b[2] |= 2), taken(true));
    assert_eq!(with(&|b| b[3] = b[3] & 0xf0 | 3), taken(false));
    for code in [2, 4, 5] {
        assert_eq!(with(&|b| b[3] = b[3] & 0xf0 | code), Reply::Failed);
    }
    for change in [
        &(|b: &mut Vec<u8>| b[0] ^= 1) as &dyn Fn(&mut Vec<u8>),
        &|b| b[1] ^= 1,
        &|b| b[2] &= 0x7f,
        &|b| b[14] = b'x',
        &|b| b[end - 3] ^= 0x20,
        &|b| b[5] = 2,
        &|b| b[5] = 0,
        &|b| b.truncate(20),
    ] {
        assert_eq!(with(change), Reply::Other);
    }
    assert_eq!(
        with(&|b| {
            b[5] = 0;
            b[3] = 1;
        }),
        Reply::Failed
    );
    let mut cut = good.clone();
    let cut = relay([1, 2], end, end, &mut cut);
    let message = Message::from_vec(cut).unwrap();
    assert!(message.metadata.truncation && message.answers.is_empty());
    assert_eq!(message.metadata.id, 0x0102);
}

#[test]
fn reverse_names_are_addresses() {
    for address in ["10.1.2.30", "0.0.0.0", "fd00::12:abcd"] {
        let address: IpAddr = address.parse().unwrap();
        let name = TheirName::from(address).to_string();
        assert_eq!(reverse(Name::parse(&name).unwrap().wire()), Some(address));
    }
    for other in [
        "in-addr.arpa",
        "1.2.3.in-addr.arpa",
        "1.2.3.4.5.in-addr.arpa",
        "01.2.3.4.in-addr.arpa",
        "256.2.3.4.in-addr.arpa",
        "+1.2.3.4.in-addr.arpa",
        "1.2.ip6.arpa",
        "web",
    ] {
        assert_eq!(reverse(Name::parse(other).unwrap().wire()), None, "{other}");
    }
}

#[test]
fn names_that_dns_cannot_express_are_none() {
    let long = "a".repeat(64);
    let many = "a.".repeat(128);
    for bad in ["", ".", "a..b", ".a", long.as_str(), many.as_str()] {
        assert_eq!(Name::parse(bad), None, "{bad}");
    }
    assert!(Name::parse("my_db-1").is_some());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_answered_shortly_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut out = Vec::new();
        match Query::parse(&bytes) {
            Ok(query) => answer(&query, Code::ServFail, std::iter::empty(), 512, &mut out),
            Err(Refusal::Code(code)) => refuse(&bytes, code, &mut out),
            Err(Refusal::Silence) => {}
        }
        // Never an amplifier: an OPT record is the most that we add.
        prop_assert!(out.len() <= bytes.len() + 11);
    }

    #[test]
    fn a_damaged_query_is_read_as_another_resolver_reads_it(
        name in "[a-zA-Z0-9][a-zA-Z0-9_]{0,20}(\\.[a-z]{1,8}){0,3}",
        edns in any::<Option<u16>>(),
        at in 0usize..80,
        byte in any::<u8>(),
    ) {
        let mut bytes = query(&format!("{name}."), RecordType::A, edns);
        let at = at % bytes.len();
        bytes[at] = byte;
        // What they refuse beyond what we do are the contents of records that do not concern us.
        if let (Ok(ours), Ok(theirs)) = (Query::parse(&bytes), Message::from_vec(&bytes)) {
            prop_assert_eq!(u16::from(theirs.queries[0].query_type()), ours.kind);
            let data = RData::A(Ipv4Addr::new(10, 0, 0, 1).into());
            let mut out = Vec::new();
            let record = std::iter::once(Data::A([10, 0, 0, 1].into()));
            answer(&ours, Code::NoError, record, 4096, &mut out);
            let read = Message::from_vec(&out).unwrap();
            prop_assert_eq!(&read.queries, &theirs.queries);
            prop_assert_eq!(&read.answers[0].data, &data);
            prop_assert_eq!(&read.answers[0].name, theirs.queries[0].name());
        }
    }
}

//! The tar reader on headers of every kind, and on bytes of none.

use proptest::prelude::*;

use super::*;
use crate::snapshot::conformance::archive::{Archive, Item, header, record, sum};

fn limits() -> Limits {
    Limits {
        entries: 1000,
        unpacked: 1 << 24,
        header: 1 << 16,
        pending: 1 << 16,
        index: 1 << 20,
    }
}

type Read = (Vec<(Entry, Vec<u8>)>, u64);

/// All entries with their stored bytes, and how many bytes there were in all.
fn read(tar: &[u8]) -> Result<Read, LayerError> {
    // Small pieces, so that no header or name comes whole.
    let source = std::io::BufReader::with_capacity(97, tar);
    let mut reader = Reader::new(source, &limits());
    let mut out = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        while let Some(chunk) = reader.chunk()? {
            data.extend_from_slice(chunk);
        }
        out.push((entry, data));
    }
    let end = reader.offset;
    reader.drain()?;
    Ok((out, end))
}

fn one(tar: Archive) -> (Entry, Vec<u8>) {
    let mut all = read(&tar.finish()).unwrap().0;
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn why(tar: &[u8]) -> &'static str {
    match read(tar) {
        Err(LayerError::Header { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

/// A block of an item, changed, with its sum right again.
fn block(item: &Item, change: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut h = header(item);
    change(&mut h);
    sum(&mut h);
    h.to_vec()
}

fn raw(parts: &[&[u8]]) -> Archive {
    let mut a = Archive::new();
    for p in parts {
        a.padded(p);
    }
    a
}

#[test]
fn a_prefix_is_ustars_alone() {
    let long = |h: &mut [u8; 512]| h[345..350].copy_from_slice(b"p/q/r");
    let ustar = block(&Item::new("name", b'0'), long);
    assert_eq!(one(raw(&[&ustar])).0.path, b"p/q/r/name");
    // There GNU has the time of last access.
    let gnu = block(&Item::new("name", b'0'), |h| {
        long(h);
        h[257..265].copy_from_slice(b"ustar  \0");
    });
    assert_eq!(one(raw(&[&gnu])).0.path, b"name");
    let v7 = block(&Item::new("folder/", 0), |h| {
        long(h);
        h[257..265].fill(0);
    });
    let (e, _) = one(raw(&[&v7]));
    assert_eq!(
        (e.path.as_slice(), e.kind),
        (b"folder/".as_slice(), Type::Folder)
    );
}

#[test]
fn gnu_long_names_and_pax_names() {
    let long = "l".repeat(300);
    let at =
        |flag, data: &str| Item::new("././@LongLink", flag).data(format!("{data}\0").into_bytes());
    let gnu = Archive::new()
        .item(at(b'K', "target of some length"))
        .item(at(b'L', &long))
        .item(Item::new("short", b'2').link("t"));
    let (e, _) = one(gnu);
    assert_eq!(e.path, long.as_bytes());
    assert_eq!(e.link, b"target of some length");
    // PAX speaks later and louder.
    let both = Archive::new()
        .item(at(b'L', &long))
        .item(Item::new("short", b'0').pax("path", "p\u{e4}x"));
    assert_eq!(one(both).0.path, "p\u{e4}x".as_bytes());
}

#[test]
fn global_headers_last_until_taken_back() {
    let mut global = Vec::new();
    record(&mut global, b"uid", b"77");
    record(&mut global, b"comment", b"not for us");
    record(&mut global, b"SCHILY.xattr.user.g", b"1");
    let tar = Archive::new()
        .item(Item::new("g", b'g').data(global))
        .file("a", "")
        .item(Item::new("b", b'0').pax("uid", "5"))
        .item(Item::new("c", b'0').owner(9, 9).pax("uid", ""))
        .finish();
    let uids: Vec<u32> = read(&tar).unwrap().0.iter().map(|(e, _)| e.uid).collect();
    assert_eq!(uids, [77, 5, 9]);
}

#[test]
fn numbers_in_base_256() {
    let big = block(&Item::new("a", b'0'), |h| {
        h[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xee, 0x6b, 0x28, 0]);
        h[136..148].copy_from_slice(&[0xff; 12]);
    });
    let (e, _) = one(raw(&[&big]));
    assert_eq!((e.uid, e.mtime), (4_000_000_000, (-1, 0)));
    let negative_size = block(&Item::new("a", b'0'), |h| h[124..136].fill(0xff));
    assert_eq!(why(&raw(&[&negative_size]).finish()), "its size is no size");
    let huge = block(&Item::new("a", b'0'), |h| {
        h[124] = 0x80;
        h[125..136].fill(0xff);
    });
    assert_eq!(
        why(&raw(&[&huge]).finish()),
        "a number in it has more than 63 bits"
    );
    let uid = block(&Item::new("a", b'0'), |h| h[108..116].fill(0xff));
    assert!(why(&raw(&[&uid]).finish()).starts_with("its user or group id"));
    let letters = block(&Item::new("a", b'0'), |h| {
        h[108..112].copy_from_slice(b"12x4")
    });
    assert!(why(&raw(&[&letters]).finish()).contains("no octal digit"));
}

#[test]
fn times_of_pax() {
    let mtime = |text: &str| {
        one(Archive::new().item(Item::new("a", b'0').pax("mtime", text)))
            .0
            .mtime
    };
    assert_eq!(mtime("12.5"), (12, 500_000_000));
    assert_eq!(mtime("-0.25"), (-1, 750_000_000));
    assert_eq!(mtime("-7"), (-7, 0));
    assert_eq!(mtime("1.0000000019"), (1, 1));
    let bad = Archive::new().item(Item::new("a", b'0').pax("mtime", "1e5"));
    assert_eq!(why(&bad.finish()), "its PAX mtime is no time");
}

#[test]
fn malformed_pax_is_told() {
    let with = |data: &[u8]| {
        let tar = Archive::new()
            .item(Item::new("x", b'x').data(data))
            .file("a", "");
        why(&tar.finish())
    };
    assert_eq!(with(b"7 a=bc\n "), "a PAX record has a wrong length");
    assert_eq!(with(b"99 a=b\n"), "a PAX record has a wrong length");
    assert_eq!(with(b"6 a=bc"), "a PAX record does not end with a newline");
    assert_eq!(with(b"6 abc\n"), "a PAX record has no key");
    assert_eq!(with(b"abc"), "a PAX record has no length");
    assert_eq!(
        with(b"18446744073709551617 a=b\n"),
        "a PAX record has no length"
    );
    assert_eq!(with(b"12 uid=-000\n"), "a number in its PAX header is none");
    assert_eq!(with(b"11 path=\0a\n"), "a name has a NUL byte");
    // NULs after the last record are padding.
    let padded = Archive::new()
        .item(Item::new("x", b'x').data(b"9 path=q\n\0\0".to_vec()))
        .file("a", "");
    assert_eq!(one(padded).0.path, b"q");
}

#[test]
fn sparse_maps_are_checked() {
    let sparse = |map: &str, size: &str, data: usize| {
        Archive::new()
            .item(
                Item::new("s", b'0')
                    .data(vec![1; data])
                    .pax("GNU.sparse.size", size)
                    .pax("GNU.sparse.map", map),
            )
            .finish()
    };
    let (all, _) = read(&sparse("10,5,100,7", "200", 12)).unwrap();
    let (e, data) = &all[0];
    assert_eq!((e.size, data.len()), (200, 12));
    assert_eq!(
        e.sparse.as_ref().unwrap()[1],
        Segment {
            offset: 100,
            length: 7
        }
    );
    for (map, size, data, expected) in [
        (
            "10,5,12,7",
            "200",
            12,
            "its sparse map overlaps itself or exceeds the file",
        ),
        (
            "190,20",
            "200",
            20,
            "its sparse map overlaps itself or exceeds the file",
        ),
        (
            "10,5",
            "200",
            12,
            "its sparse map and its data differ in length",
        ),
        ("10,5,7", "200", 5, "its sparse map is malformed"),
        (
            "9223372036854775807,9223372036854775807",
            "9",
            5,
            "its sparse map overlaps itself or exceeds the file",
        ),
    ] {
        assert_eq!(why(&sparse(map, size, data)), expected, "{map}");
    }
    // 1.0, whose map never ends.
    let endless = Archive::new().item(
        Item::new("s", b'0')
            .data("1000000\n1\n1\n".repeat(200))
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.realsize", "5"),
    );
    assert_eq!(
        why(&endless.finish()),
        "its sparse map is longer than its data"
    );
}

#[test]
fn an_archive_may_end_without_its_mark_but_not_within() {
    let tar = Archive::new().file("a", "abc").file("b", "").finish();
    assert_eq!(read(&tar[..1536]).unwrap().0.len(), 2);
    assert_eq!(read(&[]).unwrap().0.len(), 0);
    for cut in [1, 511, 600, 1023, 1025, 1535] {
        let outcome = read(&tar[..cut]);
        assert!(
            matches!(outcome, Err(LayerError::TruncatedTar { .. })),
            "{cut}: {outcome:?}"
        );
    }
    // A header that speaks of an entry which never comes.
    let alone = Archive::new().item(Item::new("x", b'x').data(b"9 path=q\n".to_vec()));
    assert!(matches!(
        read(&alone.finish()),
        Err(LayerError::TruncatedTar { .. })
    ));
}

#[test]
fn what_images_do_not_have_is_refused_by_type() {
    for flag in [b'M', b'N', b'Z', b'!'] {
        let tar = Archive::new().item(Item::new("a", flag)).finish();
        assert_eq!(why(&tar), "its type is none that an image can have");
    }
}

/// Changes to a sound archive reach further in than random bytes.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let base = Archive::new()
        .folder("d")
        .item(
            Item::new(&"n".repeat(150), b'0')
                .data(vec![7; 700])
                .xattr("user.a", "b"),
        )
        .item(
            Item::new("s", b'0')
                .data(
                    b"2\n0\n3\n600\n2\n"
                        .iter()
                        .copied()
                        .chain([0; 500])
                        .chain([1; 5])
                        .collect::<Vec<u8>>(),
                )
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.realsize", "1000"),
        )
        .item(Item::new("l", b'L').data(b"long\0".to_vec()))
        .hardlink("h", "s")
        .finish();
    let length = base.len();
    let change = (0..length, any::<u8>());
    (
        prop::collection::vec(change, 1..6),
        any::<bool>(),
        0..length,
    )
        .prop_map(move |(changes, right_sums, cut)| {
            let mut tar = base.clone();
            for (at, to) in changes {
                tar[at] = to;
                let start = at / 512 * 512;
                if right_sums && let Some(h) = tar[start..].first_chunk_mut::<512>() {
                    sum(h);
                }
            }
            if cut % 7 == 0 {
                tar.truncate(cut);
            }
            tar
        })
}

/// Whatever comes, the reader ends, with bounded names and within the bytes that there are.
fn holds(tar: &[u8]) {
    let Ok((entries, end)) = read(tar) else {
        return;
    };
    assert!(end <= tar.len() as u64);
    assert!(entries.len() as u64 <= limits().entries);
    for (e, data) in entries {
        assert!(e.path.len() + e.link.len() <= 2 * (1 << 16));
        assert!(!e.path.contains(&0) && !e.link.contains(&0));
        match &e.sparse {
            None => assert_eq!(
                data.len() as u64,
                if e.kind == Type::File { e.size } else { 0 }
            ),
            Some(map) => {
                assert_eq!(data.len() as u64, map.iter().map(|s| s.length).sum::<u64>());
            }
        }
        // What an entry means is decided without a panic as well.
        let _ = crate::layer::entry::action(e);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damaged_archives_never_panic(tar in damaged()) {
        holds(&tar);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        holds(&bytes);
    }

    #[test]
    fn random_headers_never_panic(
        fields in prop::collection::vec(any::<u8>(), 512),
        flag in prop::sample::select(b"01234567xgLKSVDX".to_vec()),
        small in 0u64..3000,
        rest in prop::collection::vec(any::<u8>(), 0..4096),
    ) {
        let mut h = [0u8; 512];
        h.copy_from_slice(&fields);
        h[156] = flag;
        h[124..136].copy_from_slice(format!("{small:011o}\0").as_bytes());
        sum(&mut h);
        holds(&[&h[..], &rest].concat());
    }

    /// What is written is read, whatever the names and numbers.
    #[test]
    fn entries_survive(
        path in prop::collection::vec(1u8..=255, 1..300),
        uid in 0..u32::MAX,
        seconds in -1_000_000_000_000i64..1_000_000_000_000,
        nanos in 0u32..1_000_000_000,
        data in prop::collection::vec(any::<u8>(), 0..2000),
        value in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let item = Item {
            path: path.clone(),
            // Eleven octal digits of seconds: the rest is for PAX.
            mtime: (seconds.min(0o77_777_777_777), nanos.max(1)),
            ..Item::new("", b'5')
        };
        let item = Item { flag: b'7', ..item }
            .owner(uid, 0)
            .data(data.clone())
            .xattr("user.v", value.clone());
        let mtime = item.mtime;
        let (e, read_data) = one(Archive::new().item(item));
        prop_assert_eq!(e.path, path);
        prop_assert_eq!((e.uid, e.mtime), (uid, mtime));
        prop_assert_eq!(read_data, data);
        prop_assert_eq!(e.xattrs, [(b"user.v".to_vec(), value)]);
    }
}

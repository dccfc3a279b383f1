//! One large blob in several parts at once: in order, within its memory, and through breaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use corten_registry::client::{Client, ClientConfig, Descriptor, Error, Parallel};
use corten_spec::media;

use crate::image::{descriptor, download, noise};
use crate::peer::{Ours, Theirs, client, config, reference};
use crate::proxy::{Fault, Proxy, Seen};

const SIZE: usize = 6_500_000;
const PART: u64 = 1_000_000;

/// Parts from small blobs on.
fn eager() -> ClientConfig {
    ClientConfig {
        parallel: Parallel {
            requests: 4,
            from: 2_000_000,
            part: PART,
            in_flight: 1_000_000,
        },
        ..config()
    }
}

struct Rig {
    proxy: Proxy,
    bytes: Vec<u8>,
    layer: Descriptor,
    ours: Ours,
    _dir: tempfile::TempDir,
}

async fn rig(script: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let bytes = noise(30, SIZE);
    let layer = descriptor(media::OCI_LAYER, &bytes);
    push(ours.address, &bytes, &layer).await;
    Rig {
        proxy: Proxy::start(ours.address, script),
        bytes,
        layer,
        ours,
        _dir: dir,
    }
}

async fn push(to: SocketAddr, bytes: &[u8], d: &Descriptor) {
    let source = std::io::Cursor::new(bytes.to_vec());
    let to = reference(to, "big:v1");
    client().push_blob(&to, d, source).await.unwrap();
}

impl Rig {
    async fn fetch(&self, config: ClientConfig, offset: u64) -> (Vec<u8>, Result<(), Error>) {
        let from = reference(self.proxy.address, "big:v1");
        download(&Client::new(config), &from, &self.layer, offset).await
    }

    async fn whole(&self) {
        let (got, ended) = self.fetch(eager(), 0).await;
        ended.unwrap();
        assert!(got == self.bytes, "the bytes differ");
    }

    fn ranges(&self) -> Vec<String> {
        let heads = self.proxy.seen("GET /v2/big/blobs/");
        let range = |h: &String| {
            h.lines()
                .find_map(|l| Some(l.strip_prefix("range: bytes=")?.to_owned()))
        };
        heads.iter().map(|h| range(h).unwrap_or_default()).collect()
    }
}

#[tokio::test]
async fn parts_are_put_together_in_order() {
    let rig = rig(|_| Fault::None).await;
    rig.whole().await;
    let mut ranges = rig.ranges();
    ranges.sort();
    assert_eq!(ranges.len(), 7, "{ranges:?}");
    assert!(ranges.contains(&"6000000-".to_owned()), "{ranges:?}");
    // From the middle too, as after a break of an earlier process.
    let (rest, ended) = rig.fetch(eager(), 1_234_567).await;
    ended.unwrap();
    assert!(rest == rig.bytes[1_234_567..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_debians_registry_on_several_threads() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = Theirs::plain(dir.path());
    let bytes = noise(31, 40 << 20);
    let layer = descriptor(media::OCI_LAYER, &bytes);
    push(theirs.address, &bytes, &layer).await;
    let from = reference(theirs.address, "big:v1");
    let (got, ended) = download(&Client::new(eager()), &from, &layer, 0).await;
    ended.unwrap();
    assert!(got == bytes);
}

#[tokio::test]
async fn each_part_goes_on_where_it_broke_off() {
    // Each range's first try is cut; what has come is not asked for again.
    let rig = rig(
        |seen| match seen.head.contains("000000-") && seen.head.contains("range:") {
            true => Fault::Cut(400_000),
            false => Fault::None,
        },
    )
    .await;
    rig.whole().await;
    let ranges = rig.ranges();
    assert!(ranges.contains(&"3400000-3999999".to_owned()), "{ranges:?}");
}

#[tokio::test]
async fn a_part_that_never_comes_is_an_error_after_what_came_before() {
    let rig = rig(|seen| match seen.head.contains("range: bytes=3000000-") {
        true => Fault::Gone,
        false => Fault::None,
    })
    .await;
    let (got, ended) = rig.fetch(eager(), 0).await;
    assert!(
        matches!(ended, Err(Error::Cut { tries: 4, .. })),
        "{ended:?}"
    );
    assert!(got == rig.bytes[..3_000_000]);
}

#[tokio::test]
async fn without_ranges_it_is_one_stream() {
    let rig = rig(|seen| match seen.line.contains("/blobs/") {
        true => Fault::NoRange,
        false => Fault::None,
    })
    .await;
    rig.whole().await;
    assert!(rig.ranges().len() <= 2, "{:?}", rig.ranges());
}

#[tokio::test]
async fn ranges_that_are_others_than_asked_for_are_refused() {
    for wrong in [
        "content-range: bytes 0-999999/6500000",
        "content-range: bytes 3000000-4000000/6500000",
        "content-range: bytes 3000000-3999999/6500001",
        "content-range: none",
    ] {
        let rig = rig(move |seen| match seen.head.contains("bytes=3000000-") {
            true => Fault::Header(wrong.into()),
            false => Fault::None,
        })
        .await;
        let (got, ended) = rig.fetch(eager(), 0).await;
        assert!(
            matches!(
                ended,
                Err(Error::NotARegistry { .. } | Error::SizeMismatch { .. })
            ),
            "{wrong}: {ended:?}"
        );
        assert!(got == rig.bytes[..3_000_000], "{wrong}: {}", got.len());
    }
}

#[tokio::test]
async fn wrong_bytes_in_a_part_are_a_digest_mismatch() {
    let rig = rig(|seen| match seen.head.contains("bytes=4000000-") {
        true => Fault::Flip(5),
        false => Fault::None,
    })
    .await;
    let (_, ended) = rig.fetch(eager(), 0).await;
    assert!(
        matches!(ended, Err(Error::DigestMismatch { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn parts_go_straight_to_where_the_first_was_sent_and_back_when_that_ends() {
    let storage = rig(|_| Fault::None).await;
    let target = storage.ours.address;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // The storage answers four times, then its signature has run out.
    let storage = Proxy::start(target, move |seen| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        let signed = seen.line.contains("signature=1");
        match signed && nth >= 4 {
            true => Fault::Instead(
                "HTTP/1.1 403 Expired\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into(),
            ),
            false => Fault::None,
        }
    });
    let to = storage.address;
    let signatures = AtomicUsize::new(1);
    let rig = rig(move |seen| {
        let path = seen.line.split(' ').nth(1).unwrap();
        let n = signatures.fetch_add(1, Ordering::SeqCst);
        Fault::Instead(format!(
            "HTTP/1.1 307 There\r\nlocation: http://{to}{path}?signature={n}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
    })
    .await;
    rig.whole().await;
    // The first part, and those that found the signature expired.
    let redirected = rig.ranges().len();
    assert!((2..=4).contains(&redirected), "{redirected}");
}

#[tokio::test]
async fn a_consumer_that_leaves_ends_all_parts() {
    let rig = rig(|_| Fault::None).await;
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    let from = reference(rig.proxy.address, "big:v1");
    let c = Client::new(eager());
    let leave = async {
        rx.recv().await.unwrap();
        drop(rx);
    };
    let (ended, ()) = tokio::join!(c.blob(&from, &rig.layer, 0, tx), leave);
    assert!(matches!(ended, Err(Error::Abandoned { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_part_that_hangs_costs_one_silence() {
    // The first part in line hangs while the others could come in full.
    let rig = rig(
        |seen| match seen.head.contains("bytes=1000000-") && seen.nth == 0 {
            true => Fault::Stall(10),
            false => Fault::None,
        },
    )
    .await;
    let started = Instant::now();
    rig.whole().await;
    // One silence (0.7 s), and the rest as fast as ever.
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn where_each_connection_is_slow_parts_are_faster() {
    // 4 MB a second on each connection.
    let slow = |seen: &Seen<'_>| match seen.line.starts_with("GET") {
        true => Fault::Drip(40_000, Duration::from_millis(10)),
        false => Fault::None,
    };
    let rig = rig(slow).await;
    let started = Instant::now();
    rig.whole().await;
    let parts = started.elapsed();
    let mut single = eager();
    single.parallel.requests = 1;
    let started = Instant::now();
    rig.fetch(single, 0).await.1.unwrap();
    let stream = started.elapsed();
    assert!(parts.mul_f64(1.5) < stream, "{parts:?} and {stream:?}");
}

//! Blobs on their way up: mounted, whole, in chunks, and through breaks.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use corten_registry::client::{Client, ClientConfig, Descriptor, Error, Pushed};
use corten_spec::{Reference, media};

use crate::image::{descriptor, download, noise};
use crate::peer::{Ours, Theirs, client, config, reference};
use crate::proxy::{Fault, Proxy, Seen};

const SIZE: usize = 10 << 20;

fn layer() -> (Vec<u8>, Descriptor) {
    let bytes = noise(20, SIZE);
    let descriptor = descriptor(media::OCI_LAYER, &bytes);
    (bytes, descriptor)
}

fn in_chunks(of: u64) -> Client {
    Client::new(ClientConfig {
        upload_chunk: Some(of),
        ..config()
    })
}

async fn is_whole(at: &Reference, bytes: &[u8], d: &Descriptor) {
    let (got, ended) = download(&client(), at, d, 0).await;
    ended.unwrap();
    assert!(got == bytes, "the bytes differ");
}

/// Our server behind a proxy that breaks uploads.
struct Rig {
    proxy: Proxy,
    _ours: Ours,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(script: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ours = Ours::start(dir.path());
        Self {
            proxy: Proxy::start(ours.address, script),
            _ours: ours,
            _dir: dir,
        }
    }

    async fn push(&self, c: &Client) -> Result<Pushed, Error> {
        let (bytes, d) = layer();
        let at = reference(self.proxy.address, "a:v1");
        let pushed = c.push_blob(&at, &d, Cursor::new(bytes.clone())).await;
        if pushed.is_ok() {
            is_whole(&at, &bytes, &d).await;
        }
        pushed
    }
}

async fn present_mounted_uploaded(address: SocketAddr) {
    let c = client();
    let (bytes, d) = layer();
    let push = async |to: &str, mount| {
        let to = reference(address, to);
        let source = Cursor::new(bytes.clone());
        let pushed = c.push_blob_or_mount(&to, &d, mount, source).await.unwrap();
        is_whole(&to, &bytes, &d).await;
        pushed
    };
    assert_eq!(push("first:v1", Some("none/such")).await, Pushed::Uploaded);
    assert_eq!(push("first:v1", None).await, Pushed::Present);
    assert_eq!(push("b/second:v1", Some("first")).await, Pushed::Mounted);
    assert_eq!(push("b/third:v1", Some("b/third")).await, Pushed::Uploaded);
}

#[tokio::test]
async fn to_ours_present_mounted_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    present_mounted_uploaded(Ours::start(dir.path()).address).await;
}

#[tokio::test]
async fn to_theirs_present_mounted_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    present_mounted_uploaded(Theirs::plain(dir.path()).address).await;
}

#[tokio::test]
async fn to_theirs_in_chunks_and_from_registry_to_registry() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = Theirs::plain(dir.path());
    let (bytes, d) = layer();
    let from = reference(theirs.address, "chunked:v1");
    let c = in_chunks(3 << 20);
    let pushed = c.push_blob(&from, &d, Cursor::new(bytes.clone())).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    is_whole(&from, &bytes, &d).await;
    let ours = Ours::start(&dir.path().join("ours"));
    let to = reference(ours.address, "copied:v1");
    let source = c.open_blob(&from, &d);
    assert_eq!(
        c.push_blob(&to, &d, source).await.unwrap(),
        Pushed::Uploaded
    );
    is_whole(&to, &bytes, &d).await;
}

#[tokio::test]
async fn all_at_once_is_one_request_and_chunks_say_their_place() {
    let rig = Rig::new(|_| Fault::None);
    rig.push(&client()).await.unwrap();
    let patches = rig.proxy.seen("PATCH");
    assert_eq!(patches.len(), 1);
    assert!(!patches[0].contains("content-range"), "{}", patches[0]);
    assert!(patches[0].contains(&format!("content-length: {SIZE}")));

    let rig = Rig::new(|_| Fault::None);
    rig.push(&in_chunks(4 << 20)).await.unwrap();
    let patches = rig.proxy.seen("PATCH");
    assert_eq!(patches.len(), 2, "the last chunk goes with the PUT");
    assert!(
        patches[1].contains("content-range: 4194304-8388607"),
        "{}",
        patches[1]
    );
}

#[tokio::test]
async fn the_registrys_smallest_chunk_is_kept_to() {
    let rig = Rig::new(|seen| match seen.line.starts_with("POST") {
        true => Fault::Header("oci-chunk-min-length: 6000000".into()),
        false => Fault::None,
    });
    rig.push(&in_chunks(1 << 20)).await.unwrap();
    let patches = rig.proxy.seen("PATCH");
    assert_eq!(patches.len(), 2);
    assert!(
        patches[0].contains("content-range: 0-5999999"),
        "{}",
        patches[0]
    );
}

#[tokio::test]
async fn what_is_too_large_for_a_request_goes_in_chunks() {
    let rig = Rig::new(
        |seen| match seen.head.contains("content-length: 20971520") {
            true => Fault::Instead("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n".into()),
            false => Fault::None,
        },
    );
    let bytes = noise(21, 20 << 20);
    let d = descriptor(media::OCI_LAYER, &bytes);
    let at = reference(rig.proxy.address, "a:v1");
    client()
        .push_blob(&at, &d, Cursor::new(bytes.clone()))
        .await
        .unwrap();
    is_whole(&at, &bytes, &d).await;
    assert!(rig.proxy.seen("PATCH")[1].contains("content-range: 0-16777215"));
}

#[tokio::test]
async fn a_cut_stream_goes_on_where_the_registry_stands() {
    let cut = AtomicUsize::new(0);
    let rig = Rig::new(move |seen| {
        let first = seen.line.starts_with("PATCH") && cut.fetch_add(1, Ordering::SeqCst) == 0;
        match first {
            true => Fault::CutUpload(5_000_000),
            false => Fault::None,
        }
    });
    rig.push(&client()).await.unwrap();
    let patches = rig.proxy.seen("PATCH");
    assert_eq!(patches.len(), 2);
    let from: u64 = patches[1]
        .lines()
        .find_map(|l| {
            l.strip_prefix("content-range: ")?
                .split('-')
                .next()?
                .parse()
                .ok()
        })
        .expect("it is resumed, not begun anew");
    assert!((1..=5_000_000).contains(&from), "{from}");
    assert_eq!(rig.proxy.seen("POST").len(), 1);
}

#[tokio::test]
async fn a_chunk_whose_answer_is_lost_is_not_sent_again() {
    let rig = Rig::new(|seen| match seen.head.contains("content-range: 4194304-") {
        true => Fault::Cut(0),
        false => Fault::None,
    });
    rig.push(&in_chunks(4 << 20)).await.unwrap();
    assert_eq!(rig.proxy.seen("POST").len(), 1);
}

#[tokio::test]
async fn a_forgotten_upload_begins_anew_but_not_for_ever() {
    let gone = || {
        Fault::Instead("HTTP/1.1 404 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into())
    };
    let once = AtomicUsize::new(0);
    let rig = Rig::new(move |seen| {
        let upload = seen.line.starts_with("PATCH")
            || seen.line.contains("/uploads/") && seen.line.starts_with("GET");
        match upload && once.fetch_add(1, Ordering::SeqCst) < 2 {
            true => gone(),
            false => Fault::None,
        }
    });
    rig.push(&client()).await.unwrap();
    assert_eq!(rig.proxy.seen("POST").len(), 2);
    let rig = Rig::new(move |seen| {
        match seen.line.starts_with("PUT") || seen.line.contains("GET /v2/a/blobs/uploads") {
            true => gone(),
            false => Fault::None,
        }
    });
    let err = rig.push(&in_chunks(4 << 20)).await.unwrap_err();
    assert!(
        matches!(&err, Error::NotARegistry { why, .. } if why.contains("lost an upload")),
        "{err:?}"
    );
}

#[tokio::test]
async fn a_source_that_is_too_short_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let (bytes, d) = layer();
    for short in [0, 1000, SIZE - 1] {
        let source = Cursor::new(bytes[..short].to_vec());
        let at = reference(ours.address, "a:v1");
        let err = client().push_blob(&at, &d, source).await.unwrap_err();
        let Error::Source(cause) = &err else {
            panic!("{err:?}");
        };
        assert_eq!(cause.kind(), std::io::ErrorKind::UnexpectedEof);
    }
    // And one with the right length and wrong bytes, by the registry.
    let at = reference(ours.address, "a:v1");
    let wrong = Cursor::new(vec![0; SIZE]);
    let err = client().push_blob(&at, &d, wrong).await.unwrap_err();
    assert!(
        matches!(&err, Error::Status { status: 400, said, .. } if said.to_string().contains("DIGEST_INVALID")),
        "{err:?}"
    );
}

#[tokio::test]
async fn a_token_that_runs_out_in_mid_upload_is_renewed() {
    let once = AtomicUsize::new(0);
    let rig = Rig::new(move |seen| {
        let challenge =
            "HTTP/1.1 401 Who\r\nwww-authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n";
        if !seen.head.contains("authorization:") {
            let closing =
                challenge.replace("content-length", "connection: close\r\ncontent-length");
            return Fault::Instead(closing);
        }
        match seen.line.starts_with("PATCH") && once.fetch_add(1, Ordering::SeqCst) == 0 {
            // The connection stays open, and nobody reads from it any more.
            true => Fault::Early(100_000, challenge.into()),
            false => Fault::None,
        }
    });
    let mut config = config();
    let me = corten_registry::auth::Credentials::password("me", "pw");
    config.credentials.insert(rig.proxy.address.to_string(), me);
    let c = Client::new(config);
    let (bytes, d) = layer();
    let at = reference(rig.proxy.address, "a:v1");
    let started = std::time::Instant::now();
    c.push_blob(&at, &d, Cursor::new(bytes.clone()))
        .await
        .unwrap();
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    let (got, ended) = download(&c, &at, &d, 0).await;
    ended.unwrap();
    assert!(got == bytes);
    assert_eq!(rig.proxy.seen("PATCH").len(), 2);
}

//! Our client through a broken network: what passes is survived, what does not has its own error.

use std::time::{Duration, Instant};

use corten_registry::client::{Client, Descriptor, Error, Retry};
use corten_spec::{Digest, Kind, Platform, Reference, media};

use crate::image::{Image, descriptor, download, noise};
use crate::peer::{Ours, client, config, reference};
use crate::proxy::{Fault, Proxy, Seen};

const SIZE: usize = 400_000;

/// Our server with an image, seen through a proxy.
struct Rig {
    proxy: Proxy,
    _ours: Ours,
    _dir: tempfile::TempDir,
    from: Reference,
    layer: Descriptor,
    bytes: Vec<u8>,
    image: Image,
}

async fn rig(script: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let bytes = noise(1, SIZE);
    let image = Image::new("amd64", vec![bytes.clone()]);
    image
        .push(&client(), &reference(ours.address, "a:v1"))
        .await
        .unwrap();
    let proxy = Proxy::start(ours.address, script);
    Rig {
        from: reference(proxy.address, "a:v1"),
        layer: descriptor(media::OCI_LAYER, &bytes),
        proxy,
        _ours: ours,
        _dir: dir,
        bytes,
        image,
    }
}

fn is_layer(seen: &Seen<'_>) -> bool {
    seen.line.contains(&Digest::of(&noise(1, SIZE)).to_string())
}

/// A fault for the first tries at the layer.
fn first(n: usize, fault: Fault) -> impl Fn(&Seen<'_>) -> Fault + Send + Sync {
    move |seen| match is_layer(seen) && seen.nth < n {
        true => fault.clone(),
        false => Fault::None,
    }
}

fn always(fault: Fault) -> impl Fn(&Seen<'_>) -> Fault + Send + Sync {
    first(usize::MAX, fault)
}

impl Rig {
    async fn layer(&self) -> (Vec<u8>, Result<(), Error>) {
        download(&client(), &self.from, &self.layer, 0).await
    }

    async fn fetched_whole(&self) {
        let (bytes, ended) = self.layer().await;
        ended.unwrap();
        assert!(bytes == self.bytes, "the bytes differ");
    }

    async fn resolve(&self) -> Result<(), Error> {
        client()
            .resolve(&self.from, &Platform::host())
            .await
            .map(drop)
    }
}

fn answer(status: &str, more: &str, body: &str) -> Fault {
    Fault::Instead(format!(
        "HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
}

#[tokio::test]
async fn a_cut_blob_is_resumed_by_range() {
    let rig = rig(first(2, Fault::Cut(100_000))).await;
    rig.fetched_whole().await;
    let heads = rig.proxy.seen("/blobs/");
    assert_eq!(heads.len(), 3);
    assert!(!heads[0].contains("range:"));
    // At least what came through is not asked for again; how much that is, TCP decides.
    assert!(heads[1].contains("range: bytes=100000-"), "{}", heads[1]);
    assert!(heads[2].contains("range: bytes=200000-"), "{}", heads[2]);
}

#[tokio::test]
async fn a_registry_without_ranges_is_resumed_by_skipping() {
    let rig = rig(|seen| match (is_layer(seen), seen.nth) {
        (true, 0) => Fault::Cut(100_000),
        (true, _) => Fault::NoRange,
        _ => Fault::None,
    })
    .await;
    rig.fetched_whole().await;
    assert_eq!(rig.proxy.seen("/blobs/").len(), 2);
}

#[tokio::test]
async fn progress_renews_the_tries() {
    // Five cuts, and the client of these tests gives up after four tries without progress.
    let rig = rig(first(5, Fault::Cut(70_000))).await;
    rig.fetched_whole().await;
    assert_eq!(rig.proxy.seen("/blobs/").len(), 6);
}

#[tokio::test]
async fn a_blob_that_is_always_cut_says_how_far_it_got() {
    let rig = rig(always(Fault::Cut(10))).await;
    let (bytes, ended) = rig.layer().await;
    let err = ended.unwrap_err();
    assert!(
        matches!(
            err,
            Error::Cut {
                received: 40,
                tries: 4,
                ..
            }
        ),
        "{err:?}"
    );
    assert_eq!(err.kind(), Kind::Unavailable);
    assert_eq!(bytes, &rig.bytes[..40]);
    assert_eq!(rig.proxy.seen("/blobs/").len(), 4);
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_tried_again() {
    let rig = rig(first(3, Fault::Gone)).await;
    rig.fetched_whole().await;
}

#[tokio::test]
async fn busy_registries_are_waited_for() {
    for status in [
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ] {
        let rig = rig(first(3, answer(status, "", ""))).await;
        rig.fetched_whole().await;
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let rig = rig(first(
        1,
        answer("429 Too Many Requests", "retry-after: 1\r\n", ""),
    ))
    .await;
    let start = Instant::now();
    rig.fetched_whole().await;
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn patience_has_an_end() {
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let rig = rig(always(answer(
        "429 Too Many Requests",
        "retry-after: 7200\r\n",
        body,
    )))
    .await;
    let err = rig.layer().await.1.unwrap_err();
    let Error::RateLimited {
        retry_after, said, ..
    } = &err
    else {
        panic!("{err:?}");
    };
    assert_eq!(*retry_after, Some(Duration::from_secs(7200)));
    assert_eq!(said.to_string(), ": TOOMANYREQUESTS: slow down");
    assert_eq!(rig.proxy.seen("/blobs/").len(), 1);

    let rig = self::rig(always(answer("503 Service Unavailable", "", ""))).await;
    let err = rig.layer().await.1.unwrap_err();
    assert!(matches!(err, Error::Status { status: 503, .. }), "{err:?}");
    assert_eq!(rig.proxy.seen("/blobs/").len(), 4);
}

#[tokio::test]
async fn wrong_bytes_are_a_digest_mismatch() {
    let rig = rig(always(Fault::Flip(1234))).await;
    let err = rig.layer().await.1.unwrap_err();
    let Error::DigestMismatch {
        expected, actual, ..
    } = &err
    else {
        panic!("{err:?}");
    };
    assert_eq!(*expected, rig.layer.digest);
    assert_ne!(actual, expected);
    assert_eq!(
        rig.proxy.seen("/blobs/").len(),
        1,
        "wrong bytes are not tried again"
    );
}

#[tokio::test]
async fn silence_is_a_timeout_and_resumed() {
    let rig = rig(first(1, Fault::Stall(50_000))).await;
    rig.fetched_whole().await;
    let rig = self::rig(always(Fault::Stall(0))).await;
    let c = Client::new(corten_registry::client::ClientConfig {
        retry: Retry {
            tries: 1,
            ..Retry::default()
        },
        ..config()
    });
    let (_, ended) = download(&c, &rig.from, &rig.layer, 0).await;
    assert!(matches!(ended, Err(Error::Timeout { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_body_that_ends_early_without_a_word_is_noticed() {
    let rig = rig(first(1, Fault::ShortChunked(90_000))).await;
    rig.fetched_whole().await;
    let rig = self::rig(always(Fault::ShortChunked(10))).await;
    let err = rig.layer().await.1.unwrap_err();
    assert!(
        matches!(
            err,
            Error::Cut {
                received: 40,
                source: None,
                ..
            }
        ),
        "{err:?}"
    );
}

#[tokio::test]
async fn a_length_that_is_not_the_descriptors_is_refused_at_once() {
    let rig = rig(always(Fault::Longer(5))).await;
    let (bytes, ended) = rig.layer().await;
    let (want, got) = (SIZE as u64, SIZE as u64 + 5);
    let err = ended.unwrap_err();
    assert!(
        matches!(err, Error::SizeMismatch { expected, actual, .. } if (expected, actual) == (want, got)),
        "{err:?}"
    );
    assert!(bytes.is_empty());
}

#[tokio::test]
async fn an_endless_blob_is_stopped_at_its_size() {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    let rig = rig(always(Fault::Endless(head.into()))).await;
    let (bytes, ended) = rig.layer().await;
    assert!(
        matches!(ended, Err(Error::SizeMismatch { .. })),
        "{ended:?}"
    );
    assert!(bytes.len() <= SIZE);
}

#[tokio::test]
async fn an_endless_manifest_is_stopped_at_the_bound() {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {}\r\nconnection: close\r\n\r\n",
        media::OCI_MANIFEST
    );
    let rig = rig(move |_| Fault::Endless(head.clone())).await;
    let err = rig.resolve().await.unwrap_err();
    assert!(
        matches!(
            err,
            Error::TooLarge {
                limit: 4_194_304,
                ..
            }
        ),
        "{err:?}"
    );
}

#[tokio::test]
async fn a_manifest_by_digest_must_be_that_manifest() {
    let rig = rig(|seen| match seen.line.contains("/manifests/") {
        true => Fault::Flip(30),
        false => Fault::None,
    })
    .await;
    let digest = Digest::of(&rig.image.manifest);
    let by_digest = rig.from.with_digest(digest.clone());
    let err = client()
        .resolve(&by_digest, &Platform::host())
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::DigestMismatch { expected, .. } if *expected == digest),
        "{err:?}"
    );
    // By tag the registry's own word for the digest is held against it.
    let err = rig.resolve().await.unwrap_err();
    assert!(matches!(err, Error::DigestMismatch { .. }), "{err:?}");
}

#[tokio::test]
async fn a_web_server_is_no_registry() {
    let page = |status: &str| answer(status, "content-type: text/html\r\n", "<html>hello</html>");
    for fault in [
        page("200 OK"),
        page("404 Not Found"),
        answer("404 Not Found", "", ""),
        Fault::Instead("SSH-2.0-x\r\n".into()),
    ] {
        let rig = rig(move |_| fault.clone()).await;
        let err = rig.resolve().await.unwrap_err();
        assert!(matches!(err, Error::NotARegistry { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_none_is_named() {
    let typed = format!("content-type: {}\r\n", media::OCI_MANIFEST);
    let rig = rig(move |_| answer("200 OK", &typed, "{\"schemaVersion\":2")).await;
    let err = rig.resolve().await.unwrap_err();
    assert!(matches!(err, Error::Manifest { .. }), "{err:?}");
    let old = "content-type: application/vnd.docker.distribution.manifest.v1+prettyjws\r\n";
    let rig =
        self::rig(move |_| answer("200 OK", old, r#"{"schemaVersion":1,"fsLayers":[]}"#)).await;
    let err = rig.resolve().await.unwrap_err();
    assert!(
        matches!(&err, Error::MediaType { media_type, .. } if media_type.contains("v1+prettyjws")),
        "{err:?}"
    );
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let challenge = "www-authenticate: Basic realm=\"x\"\r\n";
    let rig = rig(move |_| answer("401 Unauthorized", challenge, "")).await;
    let err = rig.resolve().await.unwrap_err();
    assert!(
        matches!(&err, Error::Unauthorized { user: None, .. }),
        "{err:?}"
    );
    let body = r#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
    let rig = self::rig(move |_| answer("403 Forbidden", "", body)).await;
    let err = rig.resolve().await.unwrap_err();
    assert!(
        matches!(&err, Error::Denied { repository, .. } if repository == "a"),
        "{err:?}"
    );
    let rig =
        self::rig(move |_| answer("401 Unauthorized", "www-authenticate: Negotiate\r\n", "")).await;
    let err = rig.resolve().await.unwrap_err();
    assert!(
        matches!(&err, Error::Challenge { why, .. } if why.contains("negotiate")),
        "{err:?}"
    );
}

#[tokio::test]
async fn redirects_are_followed_without_credentials() {
    let elsewhere = rig(|_| Fault::None).await;
    let target = elsewhere.proxy.address;
    let rig = rig(move |seen| {
        if !seen.head.contains("authorization:") {
            return answer(
                "401 Unauthorized",
                "www-authenticate: Basic realm=\"x\"\r\n",
                "",
            );
        }
        match is_layer(seen) {
            true => {
                let path = seen.line.split(' ').nth(1).unwrap();
                answer(
                    "307 Temporary Redirect",
                    &format!("location: http://{target}{path}\r\n"),
                    "",
                )
            }
            false => Fault::None,
        }
    })
    .await;
    let mut config = config();
    let me = corten_registry::auth::Credentials::password("me", "pw");
    config.credentials.insert(rig.proxy.address.to_string(), me);
    let (bytes, ended) = download(&Client::new(config), &rig.from, &rig.layer, 0).await;
    ended.unwrap();
    assert!(bytes == rig.bytes);
    let heads = elsewhere.proxy.seen("/blobs/");
    assert_eq!(heads.len(), 1);
    assert!(!heads[0].contains("authorization:"), "{}", heads[0]);
}

#[tokio::test]
async fn redirects_have_an_end() {
    let rig = rig(|seen| {
        let path = seen.line.split(' ').nth(1).unwrap();
        answer("302 Found", &format!("location: {path}\r\n"), "")
    })
    .await;
    let err = rig.resolve().await.unwrap_err();
    assert!(matches!(err, Error::Redirect { .. }), "{err:?}");
}

#[tokio::test]
async fn a_cut_upload_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    // The second chunk arrives, but the client never hears of it.
    let proxy = Proxy::start(ours.address, |seen| {
        match seen.line.starts_with("PATCH") && seen.head.contains("4194304-") {
            true => Fault::Cut(0),
            false => Fault::None,
        }
    });
    let proxied = reference(proxy.address, "a:v1");
    let layer = noise(20, 10 << 20);
    let d = descriptor(media::OCI_LAYER, &layer);
    client()
        .push_blob(&proxied, &d, std::io::Cursor::new(layer.clone()))
        .await
        .unwrap();
    let (bytes, ended) = download(&client(), &proxied, &d, 0).await;
    ended.unwrap();
    assert!(bytes == layer);
}

/// A registry behind a token server, both played by one proxy.
#[tokio::test]
async fn tokens_are_fetched_kept_and_refused() {
    use base64::Engine as _;
    let good = base64::engine::general_purpose::STANDARD.encode("me:pw");
    let rig = rig(move |seen| {
        if seen.line.starts_with("GET /token") {
            let body = r#"{"token":"t0ken","expires_in":300}"#;
            return match seen.head.contains(&good) {
                true => answer("200 OK", "", body),
                false => answer("401 Unauthorized", "", r#"{"details":"incorrect username or password"}"#),
            };
        }
        match seen.head.contains("Bearer t0ken") {
            true => Fault::None,
            false => {
                let host = seen.head.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
                let c = format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:a:pull\"\r\n");
                answer("401 Unauthorized", &c, "")
            }
        }
    })
    .await;
    let with = |password: &str| {
        let mut config = config();
        let me = corten_registry::auth::Credentials::password("me", password);
        config.credentials.insert(rig.proxy.address.to_string(), me);
        Client::new(config)
    };
    let c = with("pw");
    c.resolve(&rig.from, &Platform::host()).await.unwrap();
    download(&c, &rig.from, &rig.layer, 0).await.1.unwrap();
    let tokens = rig.proxy.seen("/token");
    assert_eq!(tokens.len(), 1, "one token serves both");
    assert!(
        tokens[0].starts_with("GET /token?service=s&scope=repository%3Aa%3Apull "),
        "{}",
        tokens[0]
    );
    let err = with("wrong")
        .resolve(&rig.from, &Platform::host())
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::Unauthorized { user: Some(u), .. } if u == "me"),
        "{err:?}"
    );
    assert!(!format!("{err} {err:?}").contains("wrong"));
}

#[tokio::test]
async fn an_upload_sent_elsewhere_takes_no_credentials_along() {
    let other = rig(|_| answer("401 Unauthorized", "", "")).await;
    let elsewhere = other.proxy.address;
    let rig = rig(move |seen| {
        if !seen.head.contains("authorization:") {
            let challenge = "www-authenticate: Basic realm=\"x\"\r\n";
            return answer("401 Unauthorized", challenge, "");
        }
        match seen.line.starts_with("POST") {
            true => answer(
                "202 Accepted",
                &format!("location: http://{elsewhere}/up\r\n"),
                "",
            ),
            false => answer("404 Not Found", "", ""),
        }
    })
    .await;
    let mut config = config();
    let me = corten_registry::auth::Credentials::password("me", "pw");
    config.credentials.insert(rig.proxy.address.to_string(), me);
    let body = std::io::Cursor::new(rig.bytes.clone());
    let pushed = Client::new(config)
        .push_blob(&rig.from, &rig.layer, body)
        .await;
    assert!(
        matches!(pushed, Err(Error::Unauthorized { .. })),
        "{pushed:?}"
    );
    let heads = other.proxy.seen("PUT /up?digest=");
    assert_eq!(heads.len(), 1);
    assert!(!heads[0].contains("authorization:"), "{}", heads[0]);
}

#[tokio::test]
async fn plain_requests_go_through_a_proxy_as_whole_urls() {
    let rig = rig(|_| Fault::None).await;
    let mut config = config();
    config.plain_http.insert("registry.invalid".into());
    config.proxy.http = Some(format!("http://me:pw@{}", rig.proxy.address));
    let from: Reference = "registry.invalid/a:v1".parse().unwrap();
    let (bytes, ended) = download(&Client::new(config), &from, &rig.layer, 0).await;
    ended.unwrap();
    assert!(bytes == rig.bytes);
    let heads = rig.proxy.seen("GET http://registry.invalid/v2/a/blobs/");
    assert!(
        heads[0].contains("proxy-authorization: Basic bWU6cHc="),
        "{}",
        heads[0]
    );
}

//! Registries that mean harm: none gets our time, our memory, or what belongs to another host.

use std::time::{Duration, Instant};

use corten_registry::auth::Credentials;
use corten_registry::client::{ANY, Client, ClientConfig, Error, Retry};
use corten_spec::{Digest, Kind, Platform, Reference, media};

use crate::image::{Image, descriptor, download};
use crate::peer::{client, config, reference};
use crate::proxy::{Fault, Proxy, Seen};

/// A registry that is all script.
fn registry(script: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static) -> Proxy {
    Proxy::start(crate::peer::free_address(), script)
}

fn answer(status: &str, more: &str, body: &str) -> Fault {
    Fault::Instead(format!(
        "HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
}

async fn manifest(from: &Proxy) -> Error {
    let r = reference(from.address, "a:v1");
    client().manifest(&r, ANY).await.unwrap_err()
}

fn with_account(of: &Proxy) -> ClientConfig {
    let mut config = config();
    let me = Credentials::password("me", "secret-word");
    config.credentials.insert(of.address.to_string(), me);
    config
}

fn no_retry(config: ClientConfig) -> ClientConfig {
    ClientConfig {
        retry: Retry {
            tries: 1,
            ..Retry::default()
        },
        ..config
    }
}

#[tokio::test]
async fn bytes_that_drip_are_given_up_by_their_rate() {
    let bytes = vec![7; 100_000];
    let layer = descriptor(media::OCI_LAYER, &bytes);
    let body = String::from_utf8(bytes).unwrap();
    // Ten bytes each 20 milliseconds never fall silent, and would take minutes.
    let source = registry(move |_| answer("200 OK", "", &body));
    let dripping = Proxy::start(source.address, |_| {
        Fault::Drip(10, Duration::from_millis(20))
    });
    let mut config = no_retry(config());
    config.timeouts.floor = 5000;
    let started = Instant::now();
    let from = reference(dripping.address, "a:v1");
    let (_, ended) = download(&Client::new(config), &from, &layer, 0).await;
    let err = ended.unwrap_err();
    let Error::Slow { rate, floor, .. } = &err else {
        panic!("{err:?}");
    };
    assert!((1..=1000).contains(rate), "{rate}");
    assert_eq!(*floor, 5000);
    assert_eq!(err.kind(), Kind::Unavailable);
    let text = err.to_string();
    assert!(text.contains(&format!("{rate} bytes a second")), "{text}");
    // One window of waiting is the idle time of these tests, 0.7 seconds.
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_head_that_drips_is_a_timeout() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                // An answer to nothing would be another fault.
                let _some = stream.read(&mut [0; 4096]);
                let head = b"HTTP/1.1 200 OK\r\n".iter().chain([&b'x'; 10_000]);
                for byte in head {
                    if stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let mut config = no_retry(config());
    config.plain_http.insert(address.to_string());
    config.timeouts.answer = Duration::from_millis(500);
    let err = Client::new(config)
        .manifest(&reference(address, "a:v1"), ANY)
        .await
        .unwrap_err();
    assert!(
        matches!(
            err,
            Error::Timeout {
                doing: "answer",
                ..
            }
        ),
        "{err:?}"
    );
}

#[tokio::test]
async fn lengths_that_lie_are_caught() {
    let layer = descriptor(media::OCI_LAYER, b"0123456789");
    for (said, body) in [(5, "0123456789"), (20, "0123456789"), (1 << 40, "0")] {
        let liar = registry(move |_| {
            Fault::Instead(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {said}\r\nconnection: close\r\n\r\n{body}"
            ))
        });
        let (got, ended) = download(&client(), &reference(liar.address, "a:v1"), &layer, 0).await;
        let err = ended.unwrap_err();
        assert!(
            matches!(err, Error::SizeMismatch { expected: 10, actual, .. } if actual == said),
            "{err:?}"
        );
        assert!(got.is_empty());
    }
    // Two lengths, or one that is no number, are no HTTP.
    for head in [
        "content-length: 10\r\ncontent-length: 11",
        "content-length: ten",
    ] {
        let liar = registry(move |_| {
            Fault::Instead(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n0123456789"))
        });
        let (got, ended) = download(&client(), &reference(liar.address, "a:v1"), &layer, 0).await;
        assert!(
            matches!(ended, Err(Error::NotARegistry { .. })),
            "{head}: {ended:?}"
        );
        assert!(got.is_empty());
    }
}

#[tokio::test]
async fn giant_heads_manifests_and_tokens_are_bounded() {
    let large = registry(|_| {
        let header = format!("x-long: {}\r\n", "x".repeat(2 << 20));
        answer("200 OK", &header, "{}")
    });
    let err = manifest(&large).await;
    assert!(matches!(err, Error::NotARegistry { .. }), "{err:?}");
    let many = registry(|_| {
        let headers: String = (0..5000).map(|n| format!("x-{n}: y\r\n")).collect();
        answer("200 OK", &headers, "{}")
    });
    let err = manifest(&many).await;
    assert!(matches!(err, Error::NotARegistry { .. }), "{err:?}");
    // Announced, and not.
    let announced =
        registry(|_| Fault::Instead("HTTP/1.1 200 OK\r\ncontent-length: 4194305\r\n\r\n".into()));
    let err = manifest(&announced).await;
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
    let tokens = registry(|seen| match seen.line.contains("/token") {
        true => Fault::Endless("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"token\":\"".into()),
        false => {
            let host = seen
                .head
                .lines()
                .find_map(|l| l.strip_prefix("host: "))
                .unwrap();
            let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\"\r\n");
            answer("401 Unauthorized", &challenge, "")
        }
    });
    let err = manifest(&tokens).await;
    assert!(
        matches!(&err, Error::TooLarge { what, .. } if what == "a token"),
        "{err:?}"
    );
    // An error body without end is no error body, and the status still tells.
    let refusing =
        registry(|_| Fault::Endless("HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n".into()));
    let err = manifest(&refusing).await;
    assert!(
        matches!(&err, Error::Denied { said, .. } if said.is_empty()),
        "{err:?}"
    );
}

#[tokio::test]
async fn realms_are_no_trap() {
    // A realm in plain HTTP beyond loopback, no URL at all, and one that carries a user.
    for realm in [
        "http://203.0.113.9/token",
        "ftp://x/token",
        "https://user:pw@x.invalid/token",
        "/token",
        "",
    ] {
        let trap = registry(move |_| {
            let challenge = format!("www-authenticate: Bearer realm=\"{realm}\"\r\n");
            answer("401 Unauthorized", &challenge, "")
        });
        let c = Client::new(with_account(&trap));
        let err = c
            .manifest(&reference(trap.address, "a:v1"), ANY)
            .await
            .unwrap_err();
        assert!(matches!(err, Error::Challenge { .. }), "{realm}: {err:?}");
        assert!(!format!("{err} {err:?}").contains("secret-word"));
    }
    // A realm that redirects does not take the password along, and one that asks for a token in turn has no end.
    let elsewhere = registry(|_| answer("200 OK", "", r#"{"token":"x"}"#));
    let target = elsewhere.address;
    let trap = registry(move |seen| {
        let host = seen
            .head
            .lines()
            .find_map(|l| l.strip_prefix("host: "))
            .unwrap();
        match seen.line.contains("/token") {
            true => answer(
                "307 There",
                &format!("location: http://{target}/token\r\n"),
                "",
            ),
            false => answer(
                "401 Unauthorized",
                &format!("www-authenticate: Bearer realm=\"http://{host}/token\"\r\n"),
                "",
            ),
        }
    });
    let c = Client::new(with_account(&trap));
    let err = c
        .manifest(&reference(trap.address, "a:v1"), ANY)
        .await
        .unwrap_err();
    assert!(matches!(err, Error::Status { status: 307, .. }), "{err:?}");
    assert!(elsewhere.seen("/").is_empty());
    // Tokens that are never enough.
    let greedy = registry(|seen| {
        let host = seen
            .head
            .lines()
            .find_map(|l| l.strip_prefix("host: "))
            .unwrap();
        match seen.line.contains("/token") {
            true => answer("200 OK", "", r#"{"token":"x"}"#),
            false => answer(
                "401 Unauthorized",
                &format!("www-authenticate: Bearer realm=\"http://{host}/token\"\r\n"),
                "",
            ),
        }
    });
    let err = manifest(&greedy).await;
    assert!(matches!(err, Error::Unauthorized { .. }), "{err:?}");
    assert_eq!(greedy.seen("/token").len(), 1);
}

#[tokio::test]
async fn redirects_take_nothing_of_the_endpoint_along() {
    let layer = descriptor(media::OCI_LAYER, b"0123456789");
    let elsewhere = registry(|_| answer("200 OK", "", "0123456789"));
    let target = elsewhere.address;
    let home = registry(move |seen| match seen.head.contains("authorization:") {
        true => answer("307 There", &format!("location: http://{target}/x\r\n"), ""),
        false => answer(
            "401 Unauthorized",
            "www-authenticate: Basic realm=\"x\"\r\n",
            "",
        ),
    });
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(home.address.to_string());
    std::fs::create_dir(&folder).unwrap();
    let hosts = format!(
        "server = \"http://{0}\"\n[host.\"http://{0}\".header]\nx-api-key = \"configured\"\n",
        home.address
    );
    std::fs::write(folder.join("hosts.toml"), hosts).unwrap();
    let mut config = with_account(&home);
    config.certs_dirs = vec![dir.path().into()];
    let (got, ended) = download(
        &Client::new(config),
        &reference(home.address, "a:v1"),
        &layer,
        0,
    )
    .await;
    ended.unwrap();
    assert_eq!(got, b"0123456789");
    assert!(home.seen("GET")[1].contains("x-api-key: configured"));
    let there = elsewhere.seen("GET /x");
    assert_eq!(there.len(), 1);
    for secret in ["authorization", "x-api-key", "configured"] {
        assert!(!there[0].contains(secret), "{}", there[0]);
    }
}

#[tokio::test]
async fn redirects_between_two_hosts_end_and_are_named() {
    let first = std::sync::Arc::new(std::sync::OnceLock::new());
    let back = first.clone();
    let second = registry(move |_| {
        let to: &std::net::SocketAddr = back.get().unwrap();
        answer(
            "302 Found",
            &format!("location: http://{to}/v2/a/manifests/v1?sig=s3cr3t\r\n"),
            "",
        )
    });
    let to = second.address;
    let home = registry(move |_| answer("302 Found", &format!("location: http://{to}/x\r\n"), ""));
    first.set(home.address).unwrap();
    let err = manifest(&home).await;
    let Error::Redirect { why, .. } = &err else {
        panic!("{err:?}");
    };
    assert!(why.contains("too many"), "{why}");
    assert!(!format!("{err} {err:?}").contains("s3cr3t"));
    assert!(home.seen("").len() + second.seen("").len() <= 8);
    // To another scheme, or nowhere.
    for location in [
        "file:///etc/passwd",
        "gopher://x/",
        "http://u:p@h/",
        "http://",
    ] {
        let home = registry(move |_| answer("302 Found", &format!("location: {location}\r\n"), ""));
        let err = manifest(&home).await;
        assert!(matches!(err, Error::Redirect { .. }), "{location}: {err:?}");
    }
}

#[tokio::test]
async fn packed_answers_are_refused() {
    let packed = registry(|_| answer("200 OK", "content-encoding: gzip\r\n", "\u{1f}whatever"));
    let err = manifest(&packed).await;
    assert!(
        matches!(&err, Error::NotARegistry { why, .. } if why.contains("gzip")),
        "{err:?}"
    );
    let layer = descriptor(media::OCI_LAYER, b"x");
    let (got, ended) = download(&client(), &reference(packed.address, "a:v1"), &layer, 0).await;
    assert!(
        matches!(ended, Err(Error::NotARegistry { .. })),
        "{ended:?}"
    );
    assert!(got.is_empty());
    assert!(packed.seen("GET")[0].contains("accept-encoding: identity"));
}

#[tokio::test]
async fn an_artifact_is_not_an_index_too() {
    // Read as the one it is innocent, as the other not (CVE-2021-41190).
    let image = Image::new("amd64", vec![]);
    let digest = Digest::of(&image.manifest);
    let both = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{c}","digest":"{digest}","size":1}},"layers":[],"manifests":[]}}"#,
        c = media::OCI_CONFIG
    );
    let typed = format!("content-type: {}\r\n", media::OCI_MANIFEST);
    let two_faced = registry(move |_| answer("200 OK", &typed, &both));
    let err = manifest(&two_faced).await;
    assert!(matches!(err, Error::Manifest { .. }), "{err:?}");
    let typed = format!("content-type: {}\r\n", media::OCI_INDEX);
    let body = image.manifest.clone();
    let disagreeing =
        registry(move |_| answer("200 OK", &typed, std::str::from_utf8(&body).unwrap()));
    let err = manifest(&disagreeing).await;
    assert!(matches!(err, Error::Manifest { .. }), "{err:?}");
    let r: Reference = reference(disagreeing.address, "a:v1");
    let err = client().resolve(&r, &Platform::host()).await.unwrap_err();
    assert!(matches!(err, Error::Manifest { .. }), "{err:?}");
}

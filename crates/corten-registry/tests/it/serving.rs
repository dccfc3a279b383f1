//! The serving end's own business: who may come in, what may be written, ranges, pages.

use std::io::{Cursor, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use corten_registry::auth::Credentials;
use corten_registry::client::{ANY, Client, ClientConfig, Error};
use corten_registry::server::{Server, ServerConfig, ServerError, TlsFiles};
use corten_spec::{Digest, Kind, media};

use crate::image::{Image, descriptor, download, noise, pull};
use crate::peer::{Ours, PASSWORD, USER, client, config, reference, run, self_signed};

/// A request as it is on the wire, and its answer's head and body.
fn raw(to: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    let (line, rest) = request.split_once('\n').unwrap_or((request, ""));
    let headers: String = rest.lines().map(|l| format!("{l}\r\n")).collect();
    let text = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn status(answer: &(String, String)) -> u16 {
    answer.0.split(' ').nth(1).unwrap().parse().unwrap()
}

fn header<'a>(answer: &'a (String, String), name: &str) -> Option<&'a str> {
    answer.0.lines().find_map(|l| {
        let (n, v) = l.split_once(": ")?;
        n.eq_ignore_ascii_case(name).then_some(v)
    })
}

fn locked(dir: &std::path::Path) -> ServerConfig {
    let users = run("htpasswd", ["-Bbn", USER, PASSWORD]);
    std::fs::write(dir.join("htpasswd"), users).unwrap();
    self_signed(dir);
    ServerConfig {
        tls: Some(TlsFiles {
            certificate: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        }),
        htpasswd: Some(dir.join("htpasswd")),
        ..ServerConfig::new(dir.join("root"))
    }
}

fn trusting(dir: &std::path::Path, host: SocketAddr, password: &str) -> Client {
    let certs = dir.join("certs.d").join(host.to_string());
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(dir.join("cert.pem"), certs.join("ca.pem")).unwrap();
    std::fs::write(certs.join("hosts.toml"), "ca = \"ca.pem\"\n").unwrap();
    let me = Credentials::password(USER, password);
    Client::new(ClientConfig {
        certs_dirs: vec![dir.join("certs.d")],
        credentials: [(host.to_string(), me)].into(),
        ..config()
    })
}

#[tokio::test]
async fn tls_and_accounts_let_in_who_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::with(locked(dir.path()));
    let at = reference(ours.address, "a:v1");
    let image = Image::new("amd64", vec![noise(1, 6_000_000)]);
    let c = trusting(dir.path(), ours.address, PASSWORD);
    image.push(&c, &at).await.unwrap();
    pull(&c, &at).await;
    let err = trusting(dir.path(), ours.address, "wrong")
        .manifest(&at, ANY)
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::Unauthorized { user: Some(u), said, .. } if u == USER && !said.is_empty()),
        "{err:?}"
    );
    // Plain HTTP is no way in.
    let mut stream = TcpStream::connect(ours.address).unwrap();
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"));
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::with(locked(dir.path()));
    let at = reference(ours.address, "a:v1");
    let first = trusting(dir.path(), ours.address, PASSWORD);
    assert_eq!(first.head(&at).await.unwrap(), None);
    self_signed(dir.path());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = trusting(dir.path(), ours.address, PASSWORD);
    assert_eq!(second.head(&at).await.unwrap(), None);
    // Another authority than the first client's.
    let other = tempfile::tempdir().unwrap();
    self_signed(other.path());
    let err = trusting(other.path(), ours.address, PASSWORD)
        .head(&at)
        .await
        .unwrap_err();
    assert!(matches!(err, Error::Tls { .. }), "{err:?}");
    // One that has no connection yet, and trusts the certificate of now.
    let third = trusting(dir.path(), ours.address, PASSWORD);
    std::fs::write(dir.path().join("cert.pem"), "half of a certif").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(third.head(&at).await.unwrap(), None);
}

#[test]
fn passwords_do_not_travel_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let exposed = || ServerConfig {
        tls: None,
        ..locked(dir.path())
    };
    let everywhere = || TcpListener::bind("0.0.0.0:0").unwrap();
    let err = Server::new(everywhere(), exposed()).err().unwrap();
    assert!(matches!(err, ServerError::Exposed { .. }), "{err}");
    assert_eq!(err.kind(), Kind::Invalid);
    Server::new(everywhere(), locked(dir.path())).unwrap();
    Server::new(TcpListener::bind("127.0.0.1:0").unwrap(), exposed()).unwrap();
    let insisted = ServerConfig {
        insecure_plain_http: true,
        ..exposed()
    };
    Server::new(everywhere(), insisted).unwrap();
    // Files that are none are named, with the line where there is one.
    std::fs::write(dir.path().join("htpasswd"), "me:plain\n").unwrap();
    let config = ServerConfig {
        htpasswd: Some(dir.path().join("htpasswd")),
        ..ServerConfig::new(dir.path().join("root"))
    };
    let err = Server::new(TcpListener::bind("127.0.0.1:0").unwrap(), config)
        .err()
        .unwrap();
    assert!(err.to_string().contains("htpasswd: line 1"), "{err}");
    let err = Server::new(
        TcpListener::bind("127.0.0.1:0").unwrap(),
        ServerConfig {
            tls: Some(TlsFiles {
                certificate: dir.path().join("cert.pem"),
                key: dir.path().join("none.pem"),
            }),
            ..ServerConfig::new(dir.path().join("root"))
        },
    );
    assert!(err.err().unwrap().to_string().contains("none.pem"));
}

#[tokio::test]
async fn read_only_and_no_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let image = Image::new("amd64", vec![noise(2, 100)]);
    {
        let ours = Ours::with(ServerConfig {
            delete: false,
            ..ServerConfig::new(&root)
        });
        let at = reference(ours.address, "a:v1");
        let digest = image.push(&client(), &at).await.unwrap();
        let err = client()
            .delete_manifest(&at.with_digest(digest))
            .await
            .unwrap_err();
        assert_eq!(err.kind(), Kind::Unsupported, "{err:?}");
    }
    let ours = Ours::with(ServerConfig {
        read_only: true,
        ..ServerConfig::new(&root)
    });
    let at = reference(ours.address, "a:v1");
    pull(&client(), &at).await;
    let other = Image::new("amd64", vec![noise(3, 100)]);
    let err = other.push(&client(), &at).await.unwrap_err();
    assert_eq!(err.kind(), Kind::Unsupported, "{err:?}");
    let err = client()
        .delete_blob(&at, &Digest::of(&image.layers[0]))
        .await
        .unwrap_err();
    assert!(err.to_string().contains("read-only"), "{err}");
}

#[tokio::test]
async fn ranges_and_conditions() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let at = reference(ours.address, "a:v1");
    let d = descriptor(media::OCI_LAYER, b"0123456789");
    client()
        .push_blob(&at, &d, Cursor::new(b"0123456789".to_vec()))
        .await
        .unwrap();
    let ask = |method: &str, headers: &str| {
        raw(
            ours.address,
            &format!("{method} /v2/a/blobs/{}\n{headers}", d.digest),
        )
    };
    let part = ask("GET", "range: bytes=2-4");
    assert_eq!((status(&part), part.1.as_str()), (206, "234"));
    assert_eq!(header(&part, "content-range"), Some("bytes 2-4/10"));
    assert_eq!(ask("GET", "range: bytes=-3").1, "789");
    assert_eq!(ask("GET", "range: bytes=7-").1, "789");
    let out = ask("GET", "range: bytes=10-");
    assert_eq!(status(&out), 416);
    assert_eq!(header(&out, "content-range"), Some("bytes */10"));
    // Several ranges may be ignored, and are.
    assert_eq!(ask("GET", "range: bytes=0-1,3-4").1, "0123456789");
    let head = ask("HEAD", "range: bytes=2-4");
    assert_eq!(
        (status(&head), header(&head, "content-length")),
        (206, Some("3"))
    );
    let etag = format!("\"{}\"", d.digest);
    assert_eq!(
        ask("GET", &format!("range: bytes=2-4\nif-range: {etag}")).1,
        "234"
    );
    assert_eq!(
        ask("GET", "range: bytes=2-4\nif-range: \"other\"").1,
        "0123456789"
    );
    let known = ask("GET", &format!("if-none-match: \"x\", W/{etag}"));
    assert_eq!((status(&known), known.1.as_str()), (304, ""));
    assert_eq!(header(&known, "etag"), Some(etag.as_str()));
    assert_eq!(status(&ask("GET", "if-none-match: \"x\"")), 200);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let image = Image::new("amd64", vec![noise(4, 10)]);
    let c = client();
    for tag in ["a", "b", "c"] {
        image
            .push(&c, &reference(ours.address, &format!("x:{tag}")))
            .await
            .unwrap();
    }
    let first = raw(ours.address, "GET /v2/x/tags/list?n=2");
    assert!(first.1.contains(r#"["a","b"]"#), "{}", first.1);
    let link = header(&first, "link").unwrap();
    let next = corten_registry::protocol::link::next(link).unwrap();
    let second = raw(ours.address, &format!("GET {next}"));
    assert!(second.1.contains(r#"["c"]"#));
    assert_eq!(header(&second, "link"), None);
    assert_eq!(status(&raw(ours.address, "GET /v2/x/tags/list?n=two")), 400);

    // Referrers, one a page.
    let subject = Digest::of(&image.manifest);
    let mut want = Vec::new();
    for n in 0..3 {
        let config = descriptor("application/x", b"{}");
        let at = reference(ours.address, "x:a");
        c.push_blob(&at, &config, Cursor::new(b"{}".to_vec()))
            .await
            .unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "layers": [], "artifactType": format!("application/t{}", n % 2),
            "config": { "mediaType": config.media_type, "digest": config.digest, "size": config.size },
            "subject": { "mediaType": media::OCI_MANIFEST, "digest": subject, "size": image.manifest.len() },
            "annotations": { "n": n.to_string() },
        });
        want.push(
            c.push_manifest(&at, media::OCI_MANIFEST, manifest.to_string().into())
                .await
                .unwrap(),
        );
    }
    want.sort();
    let mut path = format!("/v2/x/referrers/{subject}?n=1");
    let mut got = Vec::new();
    loop {
        let page = raw(ours.address, &format!("GET {path}"));
        let list: serde_json::Value = serde_json::from_str(&page.1).unwrap();
        let list = list["manifests"].as_array().unwrap();
        assert_eq!(list.len(), 1);
        got.push(
            list[0]["digest"]
                .as_str()
                .unwrap()
                .parse::<Digest>()
                .unwrap(),
        );
        match header(&page, "link").and_then(corten_registry::protocol::link::next) {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(got, want);
    let page = raw(
        ours.address,
        &format!("GET /v2/x/referrers/{subject}?artifactType=application%2Ft0"),
    );
    assert_eq!(header(&page, "oci-filters-applied"), Some("artifactType"));
    assert_eq!(page.1.matches("\"digest\"").count(), 2);
}

#[tokio::test]
async fn a_manifest_by_digest_brings_its_tags() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let at = reference(ours.address, "a:v1");
    let image = Image::new("amd64", vec![]);
    let digest = image.push(&client(), &at).await.unwrap();
    let text = std::str::from_utf8(&image.manifest).unwrap();
    let mut stream = TcpStream::connect(ours.address).unwrap();
    let request = format!(
        "PUT /v2/a/manifests/{digest}?tag=v2&tag=v2.1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n{text}",
        media::OCI_MANIFEST,
        text.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("oci-tag: v2, v2.1"), "{answer}");
    let tags = client().tags(&at).await.unwrap();
    assert_eq!(tags, ["v1", "v2", "v2.1"]);
    let odd = raw(
        ours.address,
        &format!("PUT /v2/a/manifests/{digest}?tag=.."),
    );
    assert_eq!(status(&odd), 400);
}

#[tokio::test]
async fn an_upload_outlives_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(5, 300_000);
    let send = |to: SocketAddr, request: String, body: &[u8]| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let request = |method: &str, path: &str, more: &str, length: usize| {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}content-length: {length}\r\n\r\n"
        )
    };
    let location = {
        let ours = Ours::start(dir.path());
        let begun = send(
            ours.address,
            request("POST", "/v2/a/blobs/uploads/", "", 0),
            b"",
        );
        let location = begun
            .lines()
            .find_map(|l| l.strip_prefix("location: "))
            .unwrap()
            .to_owned();
        let half = send(
            ours.address,
            request("PATCH", &location, "", 100_000),
            &bytes[..100_000],
        );
        assert!(half.starts_with("HTTP/1.1 202"), "{half}");
        location
    };
    let ours = Ours::start(dir.path());
    let stands = send(ours.address, request("GET", &location, "", 0), b"");
    assert!(stands.contains("range: 0-99999"), "{stands}");
    // Not for another repository.
    let other = location.replace("/v2/a/", "/v2/b/");
    let none = send(ours.address, request("GET", &other, "", 0), b"");
    assert!(none.starts_with("HTTP/1.1 404"), "{none}");
    let digest = Digest::of(&bytes);
    let last = send(
        ours.address,
        request(
            "PUT",
            &format!("{location}?digest={digest}"),
            "content-range: 100000-299999\r\n",
            200_000,
        ),
        &bytes[100_000..],
    );
    assert!(last.starts_with("HTTP/1.1 201"), "{last}");
    let d = descriptor(media::OCI_LAYER, &bytes);
    let (got, ended) = download(&client(), &reference(ours.address, "a:v1"), &d, 0).await;
    ended.unwrap();
    assert!(got == bytes);
    assert_eq!(
        std::fs::read_dir(dir.path().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}

//! Tokens, addresses, TLS, and clients that are none.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use corten_cri::stream::{Error, ErrorKind, ExecAsk, Server, Settings, TlsFiles};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::backend::Fake;
use super::client::{answer, header, request, serve, split, status};
use super::spdy::{self, Spdy};

const V4: &str = "v4.channel.k8s.io";
const UPGRADE: [&str; 3] = [
    "Connection: Upgrade",
    "Upgrade: SPDY/3.1",
    "X-Stream-Protocol-Version: v4.channel.k8s.io",
];

#[tokio::test]
async fn a_token_is_good_once_for_its_verb_and_for_its_time() {
    let served = serve(Settings {
        token_ttl: Duration::from_millis(300),
        ..Settings::default()
    })
    .await;
    let url = served.exec("o", &["exit", "0"]);
    spdy::connect(&url, V4).await;
    let get = async |url: &str| status(&request(url, "POST", &UPGRADE).await.1);
    assert_eq!(get(&url).await, 404);
    let url = served.exec("o", &["exit", "0"]);
    assert_eq!(get(&url.replace("exec", "attach")).await, 404);
    assert_eq!(get(&url).await, 404, "a wrong attempt has used it up");
    let url = served.exec("o", &["exit", "0"]);
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(get(&url).await, 404);
}

#[tokio::test]
async fn requests_that_open_nothing_are_told_why() {
    let served = serve(Settings::default()).await;
    let url = || served.exec("o", &["exit", "0"]);
    let [connection, upgrade, version] = UPGRADE;
    for (method, headers, expected) in [
        ("POST", &[connection, upgrade][..], 400),
        ("POST", &[version], 400),
        (
            "GET",
            &[connection, upgrade, "X-Stream-Protocol-Version: v9"],
            403,
        ),
        ("PUT", &UPGRADE, 405),
        ("GET", &[connection, "Upgrade: websocket"], 400),
        ("POST", &[connection, "Upgrade: websocket"], 405),
        ("GET", &UPGRADE, 101),
    ] {
        let (_, answer) = request(&url(), method, headers).await;
        assert_eq!(status(&answer), expected, "{method} {headers:?}");
        if expected == 403 {
            let accepted = header(&answer, "x-accepted-stream-protocol-versions");
            assert_eq!(accepted, Some(V4));
        }
    }
    let base = url().split_once("/exec").unwrap().0.to_owned();
    for path in ["/", "/exec", "/exec/", "/healthz", "/exec/a/b"] {
        let (_, answer) = request(&format!("{base}{path}"), "GET", &UPGRADE).await;
        assert_eq!(status(&answer), 404, "{path}");
    }
    let (_, answer) = request(
        &format!("{}?port=x", served.forward(&[])),
        "GET",
        &[
            connection,
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ],
    )
    .await;
    assert_eq!(status(&answer), 400);
}

#[tokio::test]
async fn asks_that_make_no_sense_get_no_url() {
    let served = serve(Settings {
        max_tokens: 2,
        ..Settings::default()
    })
    .await;
    let ask = |container: &str, change: fn(&mut ExecAsk)| {
        let mut ask = ExecAsk {
            container: container.into(),
            command: vec!["ls".into()],
            stdout: true,
            ..ExecAsk::default()
        };
        change(&mut ask);
        served.server.exec(ask)
    };
    let invalid = |result: Result<String, Error>| result.unwrap_err().kind() == ErrorKind::Invalid;
    assert!(invalid(ask("", |_| ())));
    assert!(invalid(ask("one", |a| a.command.clear())));
    assert!(invalid(ask("one", |a| a.stdout = false)));
    assert!(invalid(ask("one", |a| (a.tty, a.stderr) = (true, true))));
    ask("one", |_| ()).unwrap();
    ask("one", |_| ()).unwrap();
    let full = ask("one", |_| ()).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Exhausted);
}

#[tokio::test]
async fn both_families_serve_one_url() {
    let any: Vec<SocketAddr> = vec![
        "127.0.0.1:0".parse().unwrap(),
        (Ipv6Addr::LOCALHOST, 0).into(),
    ];
    let served = serve(Settings {
        addresses: any.clone(),
        ..Settings::default()
    })
    .await;
    for host in ["127.0.0.1", "[::1]"] {
        let url = served.exec("o", &["say", "hello", ""]);
        let mut client = spdy::connect(&url.replace("127.0.0.1", host), V4).await;
        let (_error, stdout) = (client.open("error").await, client.open("stdout").await);
        assert_eq!(client.rest().await.text(stdout), "hello");
    }
    // An address that somebody has.
    let taken: SocketAddr = split(&served.exec("o", &["x"])).0.parse().unwrap();
    let settings = Settings {
        addresses: vec![taken],
        ..Settings::default()
    };
    let refused = Server::bind(settings, Arc::new(Fake::default())).await;
    let Err(Error::Listen { address, .. }) = refused else {
        panic!("it listens where another does")
    };
    assert_eq!(address, taken);
}

#[tokio::test]
async fn garbage_and_silence_end() {
    let served = serve(Settings::default()).await;
    let url = served.exec("o", &["x"]);
    let host = split(&url).0;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[b'A'; 40_000],
        b"\r\n\r\n\0",
    ] {
        let mut socket = TcpStream::connect(host).await.unwrap();
        let _closed = socket.write_all(bytes).await;
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(15), socket.read_to_end(&mut rest));
        let _reset = end.await.expect("it is kept open");
        let text = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
}

#[tokio::test]
async fn the_servers_end_is_its_sessions() {
    let backend = Arc::new(Fake::default());
    let server = Server::bind(Settings::default(), backend).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.clone().run(async { drop(stopped.await) }));
    let ask = ExecAsk {
        container: "one".into(),
        command: vec!["hang".into()],
        stdout: true,
        ..ExecAsk::default()
    };
    let mut client = spdy::connect(&server.exec(ask).unwrap(), V4).await;
    client.open("error").await;
    client.open("stdout").await;
    drop(stop);
    assert_eq!(client.hear().await, spdy::Heard::Closed);
    let ended = tokio::time::timeout(Duration::from_secs(2), running).await;
    ended.expect("it does not end").unwrap();
}

/// A certificate and its key, of itself.
fn certificate(folder: &Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let (cert, key) = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    let done = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
        .args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args([
            "-addext",
            "extendedKeyUsage=serverAuth,clientAuth",
            "-keyout",
        ])
        .args([&key, Path::new("-out"), &cert])
        .output()
        .expect("openssl is installed");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    (cert, key)
}

fn connector(
    trusted: &Path,
    own: Option<&(std::path::PathBuf, std::path::PathBuf)>,
) -> tokio_rustls::TlsConnector {
    let read = |path: &Path| CertificateDer::from_pem_file(path).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read(trusted)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            config.with_client_auth_cert(vec![read(cert)], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    Arc::new(config).into()
}

#[tokio::test]
async fn tls_with_and_without_a_clients_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let server = certificate(folder.path(), "server");
    let known = certificate(folder.path(), "known");
    let stranger = certificate(folder.path(), "stranger");
    for ca in [None, Some(known.0.clone())] {
        let strict = ca.is_some();
        let served = serve(Settings {
            tls: Some(TlsFiles {
                certificate: server.0.clone(),
                key: server.1.clone(),
                client_ca: ca,
            }),
            ..Settings::default()
        })
        .await;
        for (own, expected) in [
            (None, !strict),
            (Some(&stranger), !strict),
            (Some(&known), true),
        ] {
            let url = served.exec("o", &["say", "secret", ""]);
            assert!(url.starts_with("https://127.0.0.1:"), "{url}");
            let got = say_over_tls(&url, &connector(&server.0, own)).await;
            assert_eq!(
                got.as_deref() == Some("secret"),
                expected,
                "{strict} {own:?}"
            );
        }
    }
}

async fn say_over_tls(url: &str, connector: &tokio_rustls::TlsConnector) -> Option<String> {
    let (host, path) = split(url);
    let socket = TcpStream::connect(host).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut socket = connector.connect(name, socket).await.ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\n{}\r\n\r\n",
        UPGRADE.join("\r\n")
    );
    socket.write_all(head.as_bytes()).await.ok()?;
    // With TLS 1.3 a client learns here that its certificate will not do.
    let answer = answer(&mut socket).await;
    if answer.is_empty() {
        return None;
    }
    assert_eq!(status(&answer), 101, "{answer}");
    let mut client = Spdy::new(socket);
    let (_error, stdout) = (client.open("error").await, client.open("stdout").await);
    Some(client.rest().await.text(stdout))
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(folder.path(), "server");
    let (_, other) = certificate(folder.path(), "other");
    let (nothing, missing) = (folder.path().join("nothing"), folder.path().join("missing"));
    std::fs::write(&nothing, "nothing").unwrap();
    for (certificate, key, client_ca, blamed) in [
        (&missing, &key, None, &missing),
        (&nothing, &key, None, &nothing),
        (&cert, &nothing, None, &nothing),
        (&cert, &other, None, &cert),
        (&cert, &key, Some(&nothing), &nothing),
    ] {
        let settings = Settings {
            tls: Some(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: client_ca.cloned(),
            }),
            ..Settings::default()
        };
        let refused = Server::bind(settings, Arc::new(Fake::default())).await;
        let refused = refused.err().expect("it is taken").to_string();
        assert!(refused.contains(blamed.to_str().unwrap()), "{refused}");
    }
}

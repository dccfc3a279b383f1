//! Our client against Debian's docker-registry: plain, and with TLS and a password.

use std::path::Path;

use base64::Engine as _;
use corten_registry::auth::Credentials;
use corten_registry::client::{Client, ClientConfig, Error, Hint};
use corten_spec::{Kind, Platform};

use crate::image::{Image, busybox, noise, pull};
use crate::peer::{PASSWORD, Theirs, USER, client, config, reference, run, self_signed};

#[tokio::test]
async fn plain_on_loopback() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = Theirs::plain(dir.path());
    let c = client();
    let image = Image::new("amd64", vec![noise(1, 100), noise(2, (9 << 20) + 3)]);
    let to = reference(theirs.address, "a/b:v1");
    let digest = image.push(&c, &to).await.unwrap();
    assert_eq!(pull(&c, &to).await.manifest_digest, digest);
    for missing in ["a/b:none", "none:v1"] {
        let err = c
            .resolve(&reference(theirs.address, missing), &Platform::host())
            .await
            .unwrap_err();
        assert!(matches!(err, Error::UnknownManifest { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn a_real_image_in_both_families() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = Theirs::plain(dir.path());
    let source = busybox(dir.path());
    for (format, media_type) in [
        ("oci", corten_spec::media::OCI_MANIFEST),
        ("v2s2", corten_spec::media::DOCKER_MANIFEST),
    ] {
        let to = format!("docker://{}/busybox:{format}", theirs.address);
        run(
            "skopeo",
            [
                "copy",
                "-q",
                "--format",
                format,
                "--dest-tls-verify=false",
                &source,
                &to,
            ],
        );
        let resolved = pull(
            &client(),
            &reference(theirs.address, &format!("busybox:{format}")),
        )
        .await;
        assert_eq!(resolved.target.media_type, media_type);
        assert_eq!(resolved.manifest.layers.len(), 2);
    }
}

/// A client that trusts the test's certificate by a `hosts.toml`.
fn trusting(dir: &Path, host: &str) -> ClientConfig {
    let certs = dir.join("certs.d").join(host);
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(dir.join("cert.pem"), certs.join("ca.pem")).unwrap();
    std::fs::write(certs.join("hosts.toml"), "ca = \"ca.pem\"\n").unwrap();
    ClientConfig {
        certs_dirs: vec![dir.join("certs.d")],
        ..config()
    }
}

#[tokio::test]
async fn with_tls_and_a_password() {
    let dir = tempfile::tempdir().unwrap();
    self_signed(dir.path());
    let theirs = Theirs::locked(dir.path());
    let host = theirs.address.to_string();
    let r = reference(theirs.address, "a:v1");
    let image = Image::new("amd64", vec![noise(1, 5_000_000)]);

    // Not trusted: named as such, and no falling back to plain HTTP although it is loopback.
    let err = client().resolve(&r, &Platform::host()).await.unwrap_err();
    assert!(matches!(err, Error::Tls { plain: false, .. }), "{err:?}");
    assert_eq!(err.hint(), Some(Hint::TrustCa { host: host.clone() }));

    // Trusted, but nobody: then with a wrong password, then right.
    let mut config = trusting(dir.path(), &host);
    let err = Client::new(config.clone())
        .resolve(&r, &Platform::host())
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::Unauthorized { user: None, .. }),
        "{err:?}"
    );
    assert_eq!(err.kind(), Kind::Denied);
    config
        .credentials
        .insert(host.clone(), Credentials::password(USER, "wrong"));
    let err = Client::new(config.clone())
        .resolve(&r, &Platform::host())
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::Unauthorized { user: Some(u), .. } if u == USER),
        "{err:?}"
    );
    config
        .credentials
        .insert(host.clone(), Credentials::password(USER, PASSWORD));
    let c = Client::new(config);
    image.push(&c, &r).await.unwrap();
    pull(&c, &r).await;

    // The certificate is for 127.0.0.1 and not for localhost.
    let other = format!("localhost:{}", theirs.address.port());
    let wrong_name = Client::new(trusting(dir.path(), &other));
    let err = wrong_name
        .resolve(&format!("{other}/a:v1").parse().unwrap(), &Platform::host())
        .await
        .unwrap_err();
    assert!(matches!(err, Error::Tls { plain: false, .. }), "{err:?}");
}

/// A proxy that opens one tunnel after another to `target`, whatever it is asked for.
fn tunnels(
    target: std::net::SocketAddr,
    n: usize,
) -> (std::net::SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        })
    };
    let serving = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for client in listener.incoming().take(n) {
            let mut client = client.unwrap();
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            asked.push(line.trim().to_owned());
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            client.write_all(b"HTTP/1.1 200 fine\r\n\r\n").unwrap();
            let server = TcpStream::connect(target).unwrap();
            copy(client.try_clone().unwrap(), server.try_clone().unwrap());
            copy(server, client);
        }
        asked
    });
    (address, serving)
}

#[tokio::test]
async fn tls_through_a_proxy_is_a_tunnel() {
    let dir = tempfile::tempdir().unwrap();
    self_signed(dir.path());
    let theirs = Theirs::locked(dir.path());
    let (proxy, serving) = tunnels(theirs.address, 1);
    let certs = dir.path().join("certs.d/registry.invalid");
    std::fs::create_dir_all(&certs).unwrap();
    // The certificate is for another name.
    std::fs::write(certs.join("hosts.toml"), "skip_verify = true\n").unwrap();
    let mut config = config();
    config.certs_dirs = vec![dir.path().join("certs.d")];
    config.proxy.https = Some(format!("http://{proxy}"));
    config.credentials.insert(
        "registry.invalid".into(),
        Credentials::password(USER, PASSWORD),
    );
    let c = Client::new(config);
    let r = "registry.invalid/a:v1".parse().unwrap();
    Image::new("amd64", vec![noise(1, 1000)])
        .push(&c, &r)
        .await
        .unwrap();
    pull(&c, &r).await;
    // One connection served it all.
    assert_eq!(
        serving.join().unwrap(),
        ["CONNECT registry.invalid:443 HTTP/1.1"]
    );
}

#[tokio::test]
async fn credentials_from_dockers_file_and_helper() {
    let dir = tempfile::tempdir().unwrap();
    self_signed(dir.path());
    let theirs = Theirs::locked(dir.path());
    let host = theirs.address.to_string();
    let r = reference(theirs.address, "a:v1");
    let mut config = trusting(dir.path(), &host);
    let file = dir.path().join("config.json");
    config.docker_config = Some(file.clone());
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    std::fs::write(
        &file,
        format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#),
    )
    .unwrap();
    let c = Client::new(config.clone());
    Image::new("amd64", vec![noise(1, 10)])
        .push(&c, &r)
        .await
        .unwrap();

    std::fs::write(&file, "{").unwrap();
    let err = Client::new(config.clone())
        .resolve(&r, &Platform::host())
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::Config { path, .. } if *path == file),
        "{err:?}"
    );

    let text = format!(r#"{{"credHelpers":{{"{host}":"corten-test-absent"}}}}"#);
    std::fs::write(&file, text).unwrap();
    let err = Client::new(config)
        .resolve(&r, &Platform::host())
        .await
        .unwrap_err();
    let Error::CredentialHelper { program, .. } = &err else {
        panic!("{err:?}");
    };
    assert_eq!(program, "docker-credential-corten-test-absent");
}

#[tokio::test]
async fn skip_verify_skips_the_certificate_only() {
    let dir = tempfile::tempdir().unwrap();
    self_signed(dir.path());
    let theirs = Theirs::locked(dir.path());
    let host = theirs.address.to_string();
    let certs = dir.path().join("certs.d").join(&host);
    std::fs::create_dir_all(&certs).unwrap();
    let write = |text: &str| std::fs::write(certs.join("hosts.toml"), text).unwrap();
    let mut config = config();
    config.certs_dirs = vec![dir.path().join("certs.d")];
    let none = reference(theirs.address, "none");
    let asked = async |password: &str| {
        let mut config = config.clone();
        let me = Credentials::password(USER, password);
        config.credentials.insert(host.clone(), me);
        let asked = Client::new(config).resolve(&none, &Platform::host()).await;
        asked.unwrap_err()
    };
    // The host is the registry itself, with nothing behind it; its accounts hold as ever.
    write(&format!("[host.\"https://{host}\"]\nskip_verify = true\n"));
    let err = asked(PASSWORD).await;
    assert!(matches!(err, Error::UnknownManifest { .. }), "{err:?}");
    let err = asked("wrong").await;
    assert!(matches!(err, Error::Unauthorized { .. }), "{err:?}");
    // As a mirror that can only pull it has the registry behind it, and that is not trusted.
    let pull = "capabilities = [\"pull\", \"resolve\"]";
    write(&format!(
        "[host.\"https://{host}\"]\n{pull}\nskip_verify = true\n"
    ));
    let err = asked(PASSWORD).await;
    assert!(matches!(err, Error::Tls { .. }), "{err:?}");
}

//! Our client and our server with each other, on a healthy network.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::net::TcpListener;

use corten_registry::client::{BlobReader, Client, Error, Hint};
use corten_registry::server::{Server, ServerConfig, ServerError};
use corten_spec::{Digest, Kind, Platform, media};

use crate::image::{Image, descriptor, download, index, noise, pull};
use crate::peer::{Ours, client, config, reference};

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    // One layer in one request, one in several chunks, an empty one.
    let image = Image::new(
        "amd64",
        vec![noise(1, 1000), noise(2, (9 << 20) + 7), vec![]],
    );
    let to = reference(ours.address, "a/b:v1");
    let c = client();
    let digest = image.push(&c, &to).await.unwrap();
    let resolved = pull(&c, &to).await;
    assert_eq!(resolved.manifest_digest, digest);
    assert_eq!(resolved.target_bytes, image.manifest);
    // The same again uploads nothing and works by digest.
    image.push(&c, &to).await.unwrap();
    pull(&c, &to.with_digest(digest)).await;
}

#[tokio::test]
async fn the_platform_chooses_and_others_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let c = client();
    let images = ["amd64", "s390x"].map(|a| Image::new(a, vec![noise(3, 10), a.into()]));
    let to = reference(ours.address, "multi:latest");
    for image in &images {
        image.push(&c, &to).await.unwrap();
    }
    let list = index(&[
        (&images[0], "linux", "amd64"),
        (&images[1], "linux", "s390x"),
    ]);
    let target = c.push_manifest(&to, media::OCI_INDEX, list).await.unwrap();
    let got = c
        .resolve(&to, &"linux/s390x".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(got.target.digest, target);
    assert_eq!(got.manifest_digest, Digest::of(&images[1].manifest));
    let err = c
        .resolve(&to, &"linux/arm64".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    let available = vec!["linux/amd64".to_owned(), "linux/s390x".to_owned()];
    assert_eq!(err.hint(), Some(Hint::Platforms(available)));
    assert!(matches!(err, Error::NoPlatform { .. }), "{err}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let c = client();
    let image = Image::new("amd64", vec![noise(4, 10)]);
    image
        .push(&c, &reference(ours.address, "a:v1"))
        .await
        .unwrap();
    for name in ["a:v2", "b:v1"] {
        let r = reference(ours.address, name);
        let err = c.resolve(&r, &Platform::host()).await.unwrap_err();
        assert!(
            matches!(&err, Error::UnknownManifest { said, .. } if !said.is_empty()),
            "{err}"
        );
        assert_eq!(err.kind(), Kind::NotFound);
    }
    let r = reference(ours.address, "a:v1");
    let none = descriptor(media::OCI_LAYER, b"none");
    let err = c.blob_bytes(&r, &none, 100).await.unwrap_err();
    assert!(
        matches!(&err, Error::UnknownBlob { digest, .. } if *digest == none.digest),
        "{err}"
    );
    let err = c.blob_bytes(&r, &none, 3).await.unwrap_err();
    assert!(matches!(err, Error::TooLarge { limit: 3, .. }), "{err}");
    // An index may not name what the repository lacks.
    let lonely = Image::new("amd64", vec![noise(5, 10)]);
    let refused = c
        .push_manifest(&r, media::OCI_MANIFEST, lonely.manifest.clone())
        .await;
    assert!(
        matches!(&refused, Err(Error::Status { status: 400, said, .. }) if said.to_string().contains("MANIFEST_BLOB_UNKNOWN")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_is_no_image_is_named_by_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let c = client();
    let r = reference(ours.address, "chart:1");
    let chart = descriptor("application/vnd.cncf.helm.config.v1+json", b"{}");
    c.push_blob(&r, &chart, Cursor::new(b"{}".to_vec()))
        .await
        .unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "layers": [],
        "config": { "mediaType": chart.media_type, "digest": chart.digest, "size": chart.size },
    });
    c.push_manifest(&r, media::OCI_MANIFEST, manifest.to_string().into())
        .await
        .unwrap();
    let err = c.resolve(&r, &Platform::host()).await.unwrap_err();
    assert!(
        matches!(&err, Error::MediaType { media_type, .. } if *media_type == chart.media_type),
        "{err}"
    );
    assert_eq!(err.kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_download_starts_where_the_last_one_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let c = client();
    let layer = noise(6, 300_000);
    let r = reference(ours.address, "a:v1");
    Image::new("amd64", vec![layer.clone()])
        .push(&c, &r)
        .await
        .unwrap();
    let d = descriptor(media::OCI_LAYER, &layer);
    let (rest, ended) = download(&c, &r, &d, 123_456).await;
    ended.unwrap();
    assert_eq!(rest, &layer[123_456..]);
    let (rest, ended) = download(&c, &r, &d, 300_000).await;
    ended.unwrap();
    assert!(rest.is_empty());
    let (_, ended) = download(&c, &r, &d, 300_001).await;
    assert!(
        matches!(ended, Err(Error::SizeMismatch { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_blocking_reader_gets_all_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let c = client();
    let layer = noise(7, 300_000);
    let r = reference(ours.address, "a:v1");
    Image::new("amd64", vec![layer.clone()])
        .push(&c, &r)
        .await
        .unwrap();
    let d = descriptor(media::OCI_LAYER, &layer);
    let (tx, rx) = tokio::sync::mpsc::channel(2);
    let size = d.size;
    let reading = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        BlobReader::new(rx, size).read_to_end(&mut out).map(|_| out)
    });
    c.blob(&r, &d, 0, tx).await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), layer);
    let (tx, rx) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
    drop(tx);
    let read = tokio::task::spawn_blocking(move || BlobReader::new(rx, 1).read(&mut [0]));
    let err = read.await.unwrap().unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::UnexpectedEof);
    // A consumer that leaves ends the download.
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    drop(rx);
    let err = c.blob(&r, &d, 0, tx).await.unwrap_err();
    assert!(matches!(err, Error::Abandoned { .. }), "{err}");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_left_when_they_fail() {
    let dir = tempfile::tempdir().unwrap();
    let (mirror, home) = (dir.path().join("m"), dir.path().join("h"));
    let (mirror, home) = (Ours::start(&mirror), Ours::start(&home));
    let c = client();
    let only_home = Image::new("amd64", vec![noise(8, 5000)]);
    let both = Image::new("amd64", vec![noise(9, 5000)]);
    only_home
        .push(&c, &reference(home.address, "a:home"))
        .await
        .unwrap();
    both.push(&c, &reference(mirror.address, "a:mirrored"))
        .await
        .unwrap();
    // The registry's own name leads nowhere: whatever comes, comes from the two of the file.
    let certs = dir.path().join("certs.d/registry.invalid");
    std::fs::create_dir_all(&certs).unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        home.address, mirror.address
    );
    std::fs::write(certs.join("hosts.toml"), text).unwrap();
    let mut config = config();
    config.certs_dirs = vec![dir.path().join("certs.d")];
    let c = Client::new(config);
    for tag in ["home", "mirrored"] {
        pull(&c, &format!("registry.invalid/a:{tag}").parse().unwrap()).await;
    }
    let err = c
        .resolve(
            &"registry.invalid/a:none".parse().unwrap(),
            &Platform::host(),
        )
        .await
        .unwrap_err();
    assert!(matches!(err, Error::UnknownManifest { .. }), "{err}");
}

#[tokio::test]
async fn a_broken_hosts_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("registry.invalid");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("hosts.toml"), "server = [").unwrap();
    let mut config = config();
    config.certs_dirs = vec![dir.path().into()];
    let c = Client::new(config);
    let err = c
        .resolve(&"registry.invalid/a".parse().unwrap(), &Platform::host())
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::Config { path, .. } if path.ends_with("hosts.toml")),
        "{err}"
    );
    assert_eq!(err.kind(), Kind::Invalid);
}

#[tokio::test]
async fn who_is_not_there_or_speaks_no_tls_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let c = client();
    let nobody = crate::peer::free_address();
    let err = c
        .resolve(&reference(nobody, "a"), &Platform::host())
        .await
        .unwrap_err();
    assert!(matches!(err, Error::Connect { .. }), "{err}");
    let err = c
        .resolve(&"registry.invalid/a".parse().unwrap(), &Platform::host())
        .await
        .unwrap_err();
    assert!(matches!(err, Error::Connect { .. }), "{err}");
    // Where HTTPS was asked for by name there is no falling back.
    let certs = dir.path().join("certs.d").join(ours.address.to_string());
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::write(
        certs.join("hosts.toml"),
        format!("server = \"https://{}\"\n", ours.address),
    )
    .unwrap();
    let mut config = config();
    config.certs_dirs = vec![dir.path().join("certs.d")];
    let err = Client::new(config)
        .resolve(&reference(ours.address, "a"), &Platform::host())
        .await
        .unwrap_err();
    assert!(matches!(err, Error::Tls { plain: true, .. }), "{err}");
    assert_eq!(
        err.hint(),
        Some(Hint::PlainHttp {
            host: ours.address.to_string()
        })
    );
}

#[tokio::test]
async fn plain_http_where_configured_tries_no_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let mut config = config();
    config.plain_http = BTreeSet::from([ours.address.to_string()]);
    let c = Client::new(config);
    let r = reference(ours.address, "a:v1");
    Image::new("amd64", vec![noise(10, 10)])
        .push(&c, &r)
        .await
        .unwrap();
    pull(&c, &r).await;
}

#[test]
fn two_servers_do_not_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let _ours = Ours::start(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = Server::new(listener, ServerConfig::new(dir.path()));
    assert!(matches!(second, Err(ServerError::InUse { .. })));
}

//! A pull-through cache: what comes through, what is kept, and what happens when upstream is not there.

use std::io::Cursor;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use corten_registry::auth::Credentials;
use corten_registry::client::{ANY, Client, ClientConfig, Descriptor, Error};
use corten_registry::server::{CacheConfig, ServerConfig};
use corten_spec::{Digest, Kind, Platform, media};

use crate::image::{Image, descriptor, download, noise, pull};
use crate::peer::{Ours, PASSWORD, Theirs, USER, client, config, reference, self_signed};
use crate::proxy::{Fault, Proxy, Seen};

fn of(upstream: SocketAddr) -> CacheConfig {
    CacheConfig {
        fresh: Duration::ZERO,
        ..CacheConfig::new(format!("http://{upstream}"), config())
    }
}

fn cache(root: &Path, config: CacheConfig) -> Ours {
    Ours::with(ServerConfig {
        cache: Some(config),
        ..ServerConfig::new(root)
    })
}

/// Upstream behind a wire that can be cut, and a cache of it.
struct Rig {
    upstream: Ours,
    wire: Proxy,
    cut: Arc<AtomicBool>,
    cache: Ours,
    dir: tempfile::TempDir,
}

fn rig(change: impl FnOnce(&mut CacheConfig)) -> Rig {
    scripted(change, |_| Fault::None)
}

fn scripted(
    change: impl FnOnce(&mut CacheConfig),
    script: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static,
) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Ours::start(&dir.path().join("upstream"));
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = cut.clone();
    let wire = Proxy::start(upstream.address, move |seen| {
        match is_cut.load(Ordering::SeqCst) {
            true => Fault::Gone,
            false => script(seen),
        }
    });
    let mut config = of(wire.address);
    change(&mut config);
    Rig {
        cache: cache(&dir.path().join("cache"), config),
        upstream,
        wire,
        cut,
        dir,
    }
}

impl Rig {
    async fn push(&self, name: &str, layers: Vec<Vec<u8>>) -> Image {
        let image = Image::new("amd64", layers);
        let to = reference(self.upstream.address, name);
        image.push(&client(), &to).await.unwrap();
        image
    }

    async fn layer(&self, name: &str, bytes: Vec<u8>) -> Descriptor {
        let d = descriptor(media::OCI_LAYER, &bytes);
        let to = reference(self.upstream.address, name);
        client()
            .push_blob(&to, &d, Cursor::new(bytes))
            .await
            .unwrap();
        d
    }

    fn asked(&self, what: &str) -> usize {
        self.wire.seen(what).len()
    }
}

#[tokio::test]
async fn what_came_once_comes_from_here() {
    let rig = rig(|c| c.fresh = Duration::from_secs(60));
    let image = rig
        .push("team/app:v1", vec![noise(1, 3_000_000), noise(2, 10)])
        .await;
    let through = reference(rig.cache.address, "team/app:v1");
    let got = pull(&client(), &through).await;
    assert_eq!(got.target_bytes, image.manifest);
    let asked = rig.asked("");
    pull(&client(), &through).await;
    assert_eq!(
        rig.asked(""),
        asked,
        "nothing is asked while the tag is fresh"
    );
    // By digest it is never asked for again.
    rig.cut.store(true, Ordering::SeqCst);
    pull(&client(), &through.with_digest(got.manifest_digest)).await;
}

#[tokio::test]
async fn a_tag_that_moves_is_followed_and_one_that_goes_is_gone() {
    let rig = rig(|_| {});
    let through = reference(rig.cache.address, "a:v1");
    rig.push("a:v1", vec![noise(3, 100)]).await;
    pull(&client(), &through).await;
    let second = rig.push("a:v1", vec![noise(4, 100)]).await;
    let got = pull(&client(), &through).await;
    assert_eq!(got.target_bytes, second.manifest);
    // The same manifest is not fetched again, only its tag looked at.
    let fetched = rig.asked("GET /v2/a/manifests/");
    pull(&client(), &through).await;
    assert_eq!(rig.asked("GET /v2/a/manifests/"), fetched);
    client()
        .delete_manifest(&reference(rig.upstream.address, "a:v1"))
        .await
        .unwrap();
    let err = client()
        .resolve(&through, &Platform::host())
        .await
        .unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err:?}");
    let err = client()
        .manifest(&reference(rig.cache.address, "none:v1"), ANY)
        .await
        .unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err:?}");
}

#[tokio::test]
async fn without_upstream_what_is_here_is_served() {
    let rig = rig(|_| {});
    rig.push("a:v1", vec![noise(5, 1_000_000)]).await;
    let through = reference(rig.cache.address, "a:v1");
    pull(&client(), &through).await;
    assert_eq!(client().tags(&through).await.unwrap(), ["v1"]);
    rig.cut.store(true, Ordering::SeqCst);
    pull(&client(), &through).await;
    assert_eq!(client().tags(&through).await.unwrap(), ["v1"]);
    let err = client()
        .manifest(&reference(rig.cache.address, "b:v1"), ANY)
        .await
        .unwrap_err();
    let Error::Status {
        status: 502, said, ..
    } = &err
    else {
        panic!("{err:?}");
    };
    assert!(said.to_string().contains("upstream"), "{said}");
    // And over a restart.
    let root = rig.dir.path().join("cache");
    let wire = rig.wire.address;
    drop(rig.cache);
    let again = cache(&root, of(wire));
    pull(&client(), &reference(again.address, "a:v1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_are_one_download() {
    let slow = |seen: &Seen<'_>| match seen.line.starts_with("GET") && seen.line.contains("/blobs/")
    {
        true => Fault::Drip(50_000, Duration::from_millis(10)),
        false => Fault::None,
    };
    let rig = scripted(|_| {}, slow);
    let bytes = noise(6, 3_000_000);
    let d = rig.layer("a:v1", bytes.clone()).await;
    rig.layer("b:v1", bytes.clone()).await;
    let (bytes, address) = (Arc::new(bytes), rig.cache.address);
    // Of both repositories, some only a part of it, some later than others.
    let clients = (0..6_u64).map(|n| {
        let (d, bytes) = (d.clone(), bytes.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(n * 50)).await;
            let name = if n % 2 == 0 { "a:v1" } else { "b:v1" };
            let offset = if n == 5 { 2_000_000 } else { 0 };
            let (got, ended) = download(&client(), &reference(address, name), &d, offset).await;
            ended.unwrap();
            assert!(got == bytes[usize::try_from(offset).unwrap()..]);
        })
    });
    for one in clients.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    assert_eq!(
        rig.wire
            .seen("GET")
            .iter()
            .filter(|h| h.contains("/blobs/"))
            .count(),
        1
    );
    // Both repositories have it now.
    rig.cut.store(true, Ordering::SeqCst);
    for name in ["a:v1", "b:v1"] {
        download(&client(), &reference(address, name), &d, 0)
            .await
            .1
            .unwrap();
    }
}

#[tokio::test]
async fn bytes_stream_before_all_have_come_but_the_last_only_when_they_are_right() {
    let wrong = Arc::new(AtomicBool::new(true));
    let now_wrong = wrong.clone();
    let rig = scripted(
        |_| {},
        move |seen| match seen.line.starts_with("GET") && seen.line.contains("/blobs/") {
            true if now_wrong.load(Ordering::SeqCst) => Fault::Flip(2_999_999),
            _ => Fault::None,
        },
    );
    let bytes = noise(7, 3_000_000);
    let d = rig.layer("a:v1", bytes.clone()).await;
    let through = reference(rig.cache.address, "a:v1");
    let (got, ended) = download(&client(), &through, &d, 0).await;
    // Never a whole answer with wrong bytes, so it is no digest that fails but the connection.
    assert!(matches!(ended, Err(Error::Cut { .. })), "{ended:?}");
    assert!(!got.is_empty() && got.len() < bytes.len());
    let blobs = rig.dir.path().join("cache/blobs/sha256");
    assert!(
        !blobs.join(d.digest.hex()).exists(),
        "nothing unverified is kept"
    );
    assert_eq!(
        std::fs::read_dir(rig.dir.path().join("cache/uploads"))
            .unwrap()
            .count(),
        0
    );
    wrong.store(false, Ordering::SeqCst);
    let (got, ended) = download(&client(), &through, &d, 0).await;
    ended.unwrap();
    assert!(got == bytes);
}

#[tokio::test]
async fn a_break_upstream_is_not_felt_downstream() {
    let broken = AtomicUsize::new(0);
    let rig = scripted(
        |_| {},
        move |seen| match seen.line.starts_with("GET") && seen.line.contains("/blobs/") {
            true if broken.fetch_add(1, Ordering::SeqCst) < 2 => Fault::Cut(700_000),
            _ => Fault::None,
        },
    );
    let bytes = noise(8, 3_000_000);
    let d = rig.layer("a:v1", bytes.clone()).await;
    let (got, ended) = download(&client(), &reference(rig.cache.address, "a:v1"), &d, 0).await;
    ended.unwrap();
    assert!(got == bytes);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_download() {
    let rig = rig(|_| {});
    let d = rig.layer("a:v1", noise(9, 5_000_000)).await;
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    let through = reference(rig.cache.address, "a:v1");
    let c = client();
    let leave = async {
        rx.recv().await.unwrap();
        drop(rx);
    };
    let (ended, ()) = tokio::join!(c.blob(&through, &d, 0, tx), leave);
    assert!(matches!(ended, Err(Error::Abandoned { .. })));
    let kept = rig
        .dir
        .path()
        .join("cache/blobs/sha256")
        .join(d.digest.hex());
    for _ in 0..500 {
        if kept.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is not kept");
}

#[tokio::test]
async fn a_blob_of_one_repository_is_not_shown_in_another() {
    let rig = rig(|_| {});
    let d = rig.layer("secret:v1", noise(10, 1000)).await;
    rig.layer("public:v1", noise(11, 1000)).await;
    let c = client();
    download(&c, &reference(rig.cache.address, "secret:v1"), &d, 0)
        .await
        .1
        .unwrap();
    let (_, ended) = download(&c, &reference(rig.cache.address, "public:v1"), &d, 0).await;
    assert!(matches!(ended, Err(Error::UnknownBlob { .. })), "{ended:?}");
}

#[tokio::test]
async fn nothing_is_pushed_or_deleted_here() {
    let rig = rig(|_| {});
    let image = rig.push("a:v1", vec![noise(12, 100)]).await;
    let through = reference(rig.cache.address, "a:v1");
    pull(&client(), &through).await;
    let other = Image::new("amd64", vec![noise(13, 100)]);
    let err = other.push(&client(), &through).await.unwrap_err();
    assert_eq!(err.kind(), Kind::Unsupported, "{err:?}");
    let by_digest = through.with_digest(Digest::of(&image.manifest));
    let err = client().delete_manifest(&by_digest).await.unwrap_err();
    assert!(err.to_string().contains("cache of"), "{err}");
}

#[tokio::test]
async fn what_was_used_longest_ago_makes_room() {
    let rig = rig(|c| c.max_bytes = Some(2_500_000));
    let through = reference(rig.cache.address, "a:v1");
    let layers: Vec<Descriptor> = [14, 15, 16]
        .map(|n| noise(n, 1_000_000))
        .map(|b| descriptor(media::OCI_LAYER, &b))
        .into();
    for n in 14..17 {
        rig.layer("a:v1", noise(n, 1_000_000)).await;
    }
    let blobs = rig.dir.path().join("cache/blobs/sha256");
    let link = |d: &Descriptor| {
        rig.dir
            .path()
            .join("cache/repositories/a/_blobs/sha256")
            .join(d.digest.hex())
    };
    for (d, ago) in layers.iter().zip([500, 1000]) {
        download(&client(), &through, d, 0).await.1.unwrap();
        let at = std::time::SystemTime::now() - Duration::from_secs(ago);
        // It is linked a moment after its last byte was sent.
        let kept = link(d);
        for _ in 0..200 {
            if kept.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let file = std::fs::File::options().append(true).open(kept).unwrap();
        file.set_times(std::fs::FileTimes::new().set_modified(at))
            .unwrap();
    }
    download(&client(), &through, &layers[2], 0)
        .await
        .1
        .unwrap();
    let gone = blobs.join(layers[1].digest.hex());
    for _ in 0..200 {
        if !gone.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!gone.exists());
    for kept in [&layers[0], &layers[2]] {
        assert!(blobs.join(kept.digest.hex()).exists());
    }
    // What was evicted comes again.
    download(&client(), &through, &layers[1], 0)
        .await
        .1
        .unwrap();
}

#[tokio::test]
async fn upstream_with_tls_and_a_password_of_dockers_file() {
    use base64::Engine as _;
    let dir = tempfile::tempdir().unwrap();
    self_signed(dir.path());
    let theirs = Theirs::locked(dir.path());
    let host = theirs.address.to_string();
    let certs = dir.path().join("certs.d").join(&host);
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(dir.path().join("cert.pem"), certs.join("ca.pem")).unwrap();
    std::fs::write(certs.join("hosts.toml"), "ca = \"ca.pem\"\n").unwrap();
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let docker = dir.path().join("config.json");
    std::fs::write(
        &docker,
        format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#),
    )
    .unwrap();
    let to_them = ClientConfig {
        certs_dirs: vec![dir.path().join("certs.d")],
        docker_config: Some(docker),
        ..config()
    };
    let image = Image::new("amd64", vec![noise(17, 500_000)]);
    let there = reference(theirs.address, "a:v1");
    image
        .push(&Client::new(to_them.clone()), &there)
        .await
        .unwrap();
    let ours = cache(
        &dir.path().join("cache"),
        CacheConfig::new(format!("https://{host}"), to_them.clone()),
    );
    let got = pull(&client(), &reference(ours.address, "a:v1")).await;
    assert_eq!(got.target_bytes, image.manifest);
    // With another password upstream says no, and clients are not made to send theirs.
    let mut wrong = to_them;
    wrong.docker_config = None;
    wrong.credentials = [(host.clone(), Credentials::password(USER, "wrong"))].into();
    let ours = cache(
        &dir.path().join("cache2"),
        CacheConfig::new(format!("https://{host}"), wrong),
    );
    let err = client()
        .manifest(&reference(ours.address, "a:v1"), ANY)
        .await
        .unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
}

#[tokio::test]
async fn referrers_come_through_and_stay() {
    let rig = rig(|_| {});
    let image = rig.push("a:v1", vec![]).await;
    let subject = Digest::of(&image.manifest);
    let config = descriptor("application/x", b"{}");
    let there = reference(rig.upstream.address, "a:v1");
    client()
        .push_blob(&there, &config, Cursor::new(b"{}".to_vec()))
        .await
        .unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "layers": [], "artifactType": "application/sbom",
        "config": { "mediaType": config.media_type, "digest": config.digest, "size": config.size },
        "subject": { "mediaType": media::OCI_MANIFEST, "digest": subject, "size": image.manifest.len() },
    });
    let by = client()
        .push_manifest(
            &reference(rig.upstream.address, "a:sbom"),
            media::OCI_MANIFEST,
            manifest.to_string().into(),
        )
        .await
        .unwrap();
    let through = reference(rig.cache.address, "a:v1");
    let list = client()
        .referrers(&through, &subject, Some("application/sbom"))
        .await
        .unwrap();
    assert_eq!(list.len(), 1);
    client()
        .manifest(&through.with_digest(by.clone()), ANY)
        .await
        .unwrap();
    rig.cut.store(true, Ordering::SeqCst);
    let list = client().referrers(&through, &subject, None).await.unwrap();
    assert_eq!(list[0].digest, by);
}

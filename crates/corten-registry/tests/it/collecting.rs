//! Garbage: what goes, what stays, and that nobody at work beside it notices.

use std::io::{Cursor, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use corten_registry::client::Pushed;
use corten_registry::server::{CollectOptions, Collected, ServerConfig, collect};
use corten_spec::{Digest, media};

use crate::image::{Image, descriptor, index, noise, pull};
use crate::peer::{Ours, client, reference};

const NOW: CollectOptions = CollectOptions {
    grace: Duration::ZERO,
    untagged: false,
    dry_run: false,
};

fn contents(root: &std::path::Path) -> usize {
    std::fs::read_dir(root.join("blobs/sha256"))
        .unwrap()
        .count()
}

#[tokio::test]
async fn garbage_goes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let ours = Ours::start(root);
    let c = client();
    let at = reference(ours.address, "a:v1");
    let kept = Image::new("amd64", vec![noise(6, 1000), noise(7, 1000)]);
    let lost = Image::new("amd64", vec![noise(6, 1000), noise(8, 5000)]);
    kept.push(&c, &at).await.unwrap();
    let gone = lost
        .push(&c, &reference(ours.address, "a:v2"))
        .await
        .unwrap();
    let stray = descriptor(media::OCI_LAYER, b"stray");
    c.push_blob(&at, &stray, Cursor::new(b"stray".to_vec()))
        .await
        .unwrap();
    // The manifest goes at once; its layer, and what nobody named, when it is collected.
    c.delete_manifest(&at.with_digest(gone)).await.unwrap();
    assert_eq!(
        collect(root, &CollectOptions::default()).unwrap(),
        Collected::default()
    );
    let dry = CollectOptions {
        dry_run: true,
        ..NOW
    };
    let would = collect(root, &dry).unwrap();
    // Both images have the same configuration but for the layers: noise 8 and lost's config go, and the stray one.
    assert_eq!((would.blobs, would.manifests, would.uploads), (3, 0, 0));
    assert_eq!(contents(root), 7);
    let did = collect(root, &NOW).unwrap();
    assert_eq!(did, would);
    assert_eq!(did.bytes, 5000 + 5 + lost.config.len() as u64);
    assert_eq!(contents(root), 4);
    pull(&c, &at).await;
    assert_eq!(collect(root, &NOW).unwrap(), Collected::default());
}

#[tokio::test]
async fn untagged_manifests_go_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let ours = Ours::start(root);
    let c = client();
    let at = reference(ours.address, "a:v1");
    let [old, new, part] = [9, 10, 11].map(|n| Image::new("amd64", vec![noise(n, 1000)]));
    old.push(&c, &at).await.unwrap();
    new.push(&c, &at).await.unwrap();
    // Only an index leads to this one.
    part.push(&c, &reference(ours.address, "a:tmp"))
        .await
        .unwrap();
    let list = index(&[(&part, "linux", "amd64")]);
    c.push_manifest(&reference(ours.address, "a:list"), media::OCI_INDEX, list)
        .await
        .unwrap();
    c.delete_manifest(&reference(ours.address, "a:tmp"))
        .await
        .unwrap();
    assert_eq!(collect(root, &NOW).unwrap().manifests, 0);
    let untagged = CollectOptions {
        untagged: true,
        ..NOW
    };
    let would = collect(
        root,
        &CollectOptions {
            dry_run: true,
            ..untagged
        },
    )
    .unwrap();
    let did = collect(root, &untagged).unwrap();
    assert_eq!((did, did.manifests, did.blobs), (would, 1, 2));
    pull(&c, &at).await;
    pull(&c, &reference(ours.address, "a:list")).await;
    assert_eq!(
        c.head(&at.with_digest(Digest::of(&old.manifest)))
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn what_a_push_was_told_is_there_stays_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let ours = Ours::start(root);
    let c = client();
    let at = reference(ours.address, "a:v1");
    let image = Image::new("amd64", vec![noise(12, 1000)]);
    let layer = descriptor(media::OCI_LAYER, &image.layers[0]);
    c.push_blob(&at, &layer, Cursor::new(image.layers[0].clone()))
        .await
        .unwrap();
    // Long ago.
    let link = root
        .join("repositories/a/_blobs/sha256")
        .join(layer.digest.hex());
    let ago = std::time::SystemTime::now() - Duration::from_secs(100_000);
    let file = std::fs::File::options().append(true).open(link).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(ago))
        .unwrap();
    // A push begins, and is told so; then the collector comes by; then the push goes on.
    let pushed = c
        .push_blob(&at, &layer, Cursor::new(image.layers[0].clone()))
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Present);
    assert_eq!(
        collect(root, &CollectOptions::default()).unwrap(),
        Collected::default()
    );
    image.push(&c, &at).await.unwrap();
    pull(&c, &at).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collecting_beside_pushes_and_deletions_breaks_neither() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let ours = Ours::with(ServerConfig {
        collect: Some((Duration::from_millis(20), CollectOptions::default())),
        ..ServerConfig::new(&root)
    });
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (own, until) = (root.clone(), stop.clone());
    // As another process would, with a grace that the pushes keep within.
    let collecting = std::thread::spawn(move || {
        let options = CollectOptions {
            grace: Duration::from_secs(5),
            untagged: true,
            dry_run: false,
        };
        let mut rounds = 0;
        while !until.load(std::sync::atomic::Ordering::SeqCst) {
            collect(&own, &options).unwrap();
            rounds += 1;
        }
        rounds
    });
    let address = ours.address;
    let pushing = (0..4_u64).map(|n| {
        tokio::spawn(async move {
            let c = client();
            for round in 0..8 {
                let image = Image::new("amd64", vec![noise(n * 100 + round, 3000), noise(1, 2000)]);
                let at = reference(address, &format!("r{}:v{n}", round % 3));
                let digest = image.push(&c, &at).await.unwrap();
                pull(&c, &at).await;
                if round % 2 == 0 {
                    // Another task may have put the same tag elsewhere; by digest it is ours.
                    c.delete_manifest(&at.with_digest(digest)).await.unwrap();
                }
            }
        })
    });
    let pushing: Vec<_> = pushing.collect();
    for task in pushing {
        task.await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(collecting.join().unwrap() > 0);
}

#[tokio::test]
async fn an_upload_in_flight_is_not_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(dir.path());
    let mut stream = TcpStream::connect(ours.address).unwrap();
    let half = "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(half.as_bytes()).unwrap();
    let mut answer = [0; 1000];
    let n = stream.read(&mut answer).unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 202"));
    assert_eq!(collect(dir.path(), &NOW).unwrap(), Collected::default());
    drop(ours);
    // Without its server it is.
    assert_eq!(collect(dir.path(), &NOW).unwrap().uploads, 1);
    assert_eq!(
        std::fs::read_dir(dir.path().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}

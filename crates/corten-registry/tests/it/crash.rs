//! Our server killed at any moment: what was answered for is there, what was not is no trace.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use corten_registry::client::{Client, Error, Pushed};
use corten_registry::protocol::error_body::Code;
use corten_registry::server::{CollectOptions, collect};
use corten_spec::{Digest, Platform, media};

use crate::image::{Image, descriptor, download, noise, pull};
use crate::peer::{Process, client, reference};

fn spawn(root: &Path) -> (Process, SocketAddr) {
    spawn_with(root, &[])
}

fn start(root: &Path, args: &[&str]) -> Process {
    // Cargo builds examples along with the tests: target/PROFILE/deps/it-HASH → ../examples.
    let own = std::env::current_exe().unwrap();
    let built = own.parent().and_then(Path::parent).unwrap();
    let child = Command::new(built.join("examples/serve"))
        .arg(root)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Process(child)
}

fn spawn_with(root: &Path, args: &[&str]) -> (Process, SocketAddr) {
    let mut process = start(root, args);
    let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let address = lines
        .map(Result::unwrap)
        .find_map(|l| l.strip_prefix("listening ")?.parse().ok());
    (process, address.expect("the server says where it listens"))
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => out.extend(files(&entry.path())),
            false => out.push(entry.path()),
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_during_pushes() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = Vec::new();
    for round in 0..12_u64 {
        let (process, address) = spawn(dir.path());
        let images: Vec<Image> = (0..3)
            .map(|n| {
                Image::new(
                    "amd64",
                    vec![noise(round * 10 + n, 200_000), noise(7, 50_000)],
                )
            })
            .collect();
        let pushing = tokio::spawn(async move {
            let mut done = Vec::new();
            let c = client();
            for (n, image) in images.iter().enumerate() {
                let name = format!("r{round}/i{n}:v1");
                match image.push(&c, &reference(address, &name)).await {
                    Ok(digest) => done.push((name, digest)),
                    Err(_) => break,
                }
            }
            done
        });
        // Rounds end at different stages; some after all is done.
        tokio::time::sleep(Duration::from_millis(3 + round * round * 2)).await;
        drop(process);
        answered.extend(pushing.await.unwrap());
    }
    assert!(!answered.is_empty());
    let (_process, address) = spawn(dir.path());
    for (name, digest) in answered {
        let got = pull(&client(), &reference(address, &name)).await;
        assert_eq!(got.manifest_digest, digest);
    }
    // What is left of uploads could be continued; nobody will, so a collector takes it.
    let now = CollectOptions {
        grace: Duration::ZERO,
        ..CollectOptions::default()
    };
    collect(dir.path(), &now).unwrap();
    assert_eq!(
        files(&dir.path().join("uploads")),
        [] as [std::path::PathBuf; 0]
    );
    is_sound(dir.path(), address).await;
}

/// All content is what its name says, and whatever tag is there leads to an image that is there.
async fn is_sound(root: &Path, address: SocketAddr) {
    for file in files(&root.join("blobs/sha256")) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Digest::of(&std::fs::read(&file).unwrap()).hex(), name);
    }
    let repositories = root.join("repositories");
    for file in files(&repositories) {
        let path = file.strip_prefix(&repositories).unwrap().to_str().unwrap();
        if let Some((name, tag)) = path.split_once("/_tags/") {
            pull(&client(), &reference(address, &format!("{name}:{tag}"))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_collectors_beside_pushes_and_deletions() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, address) = spawn(dir.path());
    let pushing = tokio::spawn(async move {
        let c = client();
        for round in 0..60_u64 {
            let image = Image::new("amd64", vec![noise(round, 20_000), noise(7, 5000)]);
            let at = reference(address, &format!("r{}:v{}", round % 3, round % 5));
            let digest = loop {
                match image.push(&c, &at).await {
                    Ok(digest) => break digest,
                    // Slower than the grace: told so, and not taken by half.
                    Err(Error::Status { said, .. }) if said.has(Code::ManifestBlobUnknown) => {}
                    Err(e) => panic!("{e:?}"),
                }
            };
            if round % 3 == 0 {
                c.delete_manifest(&at.with_digest(digest)).await.unwrap();
            }
        }
    });
    // What the pushes replace or delete is garbage soon.
    let mut delay = 1;
    while !pushing.is_finished() {
        let collector = start(dir.path(), &["collect=300"]);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        drop(collector);
        delay = delay * 7 % 97;
    }
    pushing.await.unwrap();
    is_sound(dir.path(), address).await;
    let now = CollectOptions {
        grace: Duration::ZERO,
        untagged: true,
        dry_run: false,
    };
    collect(dir.path(), &now).unwrap();
    is_sound(dir.path(), address).await;
    // Nothing is left that nobody needs: each image is a manifest, a configuration, and a layer of its own beside
    // the common one.
    let tags = files(&dir.path().join("repositories"))
        .iter()
        .filter(|f| f.to_str().unwrap().contains("/_tags/"))
        .count();
    let contents = files(&dir.path().join("blobs")).len();
    assert_eq!(contents, tags * 3 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_goes_on_over_kill_9_of_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let address = crate::peer::free_address();
    let at = format!("addr={address}");
    let serve = || spawn_with(dir.path(), &[&at]).0;
    let server = serve();
    let bytes = noise(50, 60 << 20);
    let layer = descriptor(media::OCI_LAYER, &bytes);
    let to = reference(address, "big:v1");
    let mut patient = crate::peer::config();
    patient.retry.tries = 30;
    let c = Client::new(patient);
    let (own, d, source) = (
        to.clone(),
        layer.clone(),
        std::io::Cursor::new(bytes.clone()),
    );
    let pushing = tokio::spawn(async move { c.push_blob(&own, &d, source).await });
    let uploads = dir.path().join("uploads");
    let half = |f: &std::path::PathBuf| std::fs::metadata(f).is_ok_and(|m| m.len() > 5 << 20);
    until(|| files(&uploads).iter().any(half)).await;
    drop(server);
    let before: u64 = files(&uploads)
        .iter()
        .map(|f| std::fs::metadata(f).unwrap().len())
        .sum();
    assert!(before < bytes.len() as u64, "it was killed in the middle");
    let _server = serve();
    assert_eq!(pushing.await.unwrap().unwrap(), Pushed::Uploaded);
    let (got, ended) = download(&client(), &to, &layer, 0).await;
    ended.unwrap();
    assert!(got == bytes);
    // The one upload was continued.
    assert_eq!(files(&uploads), [] as [std::path::PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_a_cache_leaves_nothing_unverified() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = crate::peer::Ours::start(&dir.path().join("upstream"));
    let image = Image::new("amd64", (60..64).map(|n| noise(n, 2 << 20)).collect());
    let there = reference(upstream.address, "a:v1");
    image.push(&client(), &there).await.unwrap();
    let root = dir.path().join("cache");
    let proxy = format!("proxy=http://{}", upstream.address);
    for round in 0..12_u64 {
        let (cache, address) = spawn_with(&root, &[&proxy]);
        let pulling = tokio::spawn(async move {
            let c = client();
            let through = reference(address, "a:v1");
            // Ends by success, or by the cache's death.
            if let Ok(resolved) = c.resolve(&through, &Platform::host()).await {
                for layer in &resolved.manifest.layers {
                    let _ = download(&c, &through, layer, 0).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(2 + round * round)).await;
        drop(cache);
        pulling.abort();
    }
    let (_cache, address) = spawn_with(&root, &[&proxy]);
    assert_eq!(files(&root.join("uploads")), [] as [std::path::PathBuf; 0]);
    is_sound(&root, address).await;
    let got = pull(&client(), &reference(address, "a:v1")).await;
    assert_eq!(got.target_bytes, image.manifest);
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within five seconds");
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_no_upload_behind() {
    let dir = tempfile::tempdir().unwrap();
    let ours = crate::peer::Ours::start(dir.path());
    let mut stream = TcpStream::connect(ours.address).unwrap();
    let body = "POST /v2/a/blobs/uploads/?digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nhalf";
    stream.write_all(body.as_bytes()).unwrap();
    let uploads = dir.path().join("uploads");
    until(|| !files(&uploads).is_empty()).await;
    drop(stream);
    until(|| files(&uploads).is_empty()).await;
}

//! Our server killed at any moment: what was answered for is there, what was not is no trace.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use corten_registry::server::{CollectOptions, collect};
use corten_spec::{Digest, Platform};

use crate::image::{Image, noise, pull};
use crate::peer::{Process, client, reference};

fn spawn(root: &Path) -> (Process, SocketAddr) {
    // Cargo builds examples along with the tests: target/PROFILE/deps/it-HASH → ../examples.
    let own = std::env::current_exe().unwrap();
    let built = own.parent().and_then(Path::parent).unwrap();
    let child = Command::new(built.join("examples/serve"))
        .arg(root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
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
    for file in files(&dir.path().join("blobs/sha256")) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Digest::of(&std::fs::read(&file).unwrap()).hex(), name);
    }
    // Whatever tag is there leads to an image that is there.
    let c = client();
    for tag in files(&dir.path().join("repositories"))
        .iter()
        .filter(|f| f.ends_with("_tags/v1"))
    {
        let name = tag.strip_prefix(dir.path().join("repositories")).unwrap();
        let name = name
            .parent()
            .and_then(Path::parent)
            .unwrap()
            .to_str()
            .unwrap();
        c.resolve(
            &reference(address, &format!("{name}:v1")),
            &Platform::host(),
        )
        .await
        .unwrap();
    }
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

//! Times of the store's two hot paths, for whoever changes them:
//!
//! ```text
//! measure open ROOT              opening a warm store, and the transactions of one `run --rm`
//! measure unpack ROOT LAYER...   layers of gzip, one after another or (with -2) two at once
//! ```

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use corten_spec::{Digest, digest::Algorithm, digest::Hasher, media};
use corten_store::{Begin, ContainerRow, LayerDesc, LayerId, Snapshotter as _, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["open", root] => open(Path::new(root)),
        ["unpack", root, layers @ ..] => unpack(Path::new(root), layers),
        _ => Err("usage: measure open ROOT | measure unpack ROOT [-2] LAYER...".into()),
    }
}

/// Of this process, all threads.
fn cpu_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn open(root: &Path) -> Result<(), Box<dyn std::error::Error>> {
    Store::open(root)?;
    let mut opens = Vec::new();
    let mut runs = Vec::new();
    for i in 0..200 {
        let start = Instant::now();
        let store = Store::open(root)?;
        opens.push(start.elapsed());
        let layers: Vec<LayerId> = store
            .images()?
            .first()
            .map(|image| image.layers.iter().map(|l| l.layer.clone()).collect())
            .unwrap_or_default();
        let start = Instant::now();
        let row = ContainerRow {
            id: format!("{i:064x}").parse()?,
            name: format!("n{i}").parse()?,
            image: "image".into(),
            created_at: i,
            record: "x".repeat(3000),
        };
        store.containers().insert(&row, &[])?;
        store.snapshotter().prepare(row.id.as_str(), &layers)?;
        store.containers().update(&row.id, &"y".repeat(3000))?;
        store.containers().update(&row.id, &"z".repeat(3000))?;
        store.snapshotter().remove(row.id.as_str())?;
        store.containers().delete(&row.id)?;
        runs.push(start.elapsed());
    }
    let start = Instant::now();
    let store = Store::open(root)?;
    store.empty_trash()?;
    println!("emptying the trash of 200 {:?}", start.elapsed());
    println!(
        "open {:?}, longest {:?}",
        median(opens.clone()),
        opens.iter().max()
    );
    println!(
        "rows and folders of one run --rm {:?}, longest {:?}",
        median(runs.clone()),
        runs.iter().max()
    );
    Ok(())
}

fn describe(path: &str) -> Result<LayerDesc, Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path)?;
    let mut diff_id = Hasher::new(Algorithm::Sha256);
    let mut tar = flate2::read::MultiGzDecoder::new(&bytes[..]);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match tar.read(&mut buffer)? {
            0 => break,
            n => diff_id.update(&buffer[..n]),
        }
    }
    Ok(LayerDesc {
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        media_type: media::OCI_LAYER_GZIP.into(),
        diff_id: diff_id.finish(),
    })
}

fn unpack(root: &Path, layers: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let (two, layers) = match layers {
        ["-2", rest @ ..] => (true, rest),
        all => (false, all),
    };
    let descs = layers
        .iter()
        .map(|l| Ok((*l, describe(l)?)))
        .collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let store = Store::open(root)?;
    let lease = store.lease("measure")?;
    let one = |(path, desc): &(&str, LayerDesc)| {
        let start = Instant::now();
        let state = match store.begin_layer(&lease, desc) {
            Ok(Begin::Present(_)) => "present".to_owned(),
            Ok(Begin::Ingest(i)) => match File::open(path).map(|f| i.run(f)) {
                Ok(Ok(_)) => "unpacked".to_owned(),
                Ok(Err(e)) => e.to_string(),
                Err(e) => e.to_string(),
            },
            Err(e) => e.to_string(),
        };
        println!("{path}: {state} in {:?}", start.elapsed());
    };
    let (start, cpu) = (Instant::now(), cpu_seconds());
    std::thread::scope(|s| {
        let chunks = if two {
            layers.len().div_ceil(2)
        } else {
            layers.len()
        };
        for part in descs.chunks(chunks.max(1)) {
            s.spawn(move || part.iter().for_each(one));
        }
    });
    println!(
        "all in {:?}, {:.2} CPU s",
        start.elapsed(),
        cpu_seconds() - cpu
    );
    Ok(())
}

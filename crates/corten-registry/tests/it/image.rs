//! Images to move about: small ones made here, and a real one made by umoci.

use std::io::Cursor;
use std::path::Path;

use bytes::Bytes;
use corten_registry::client::{Client, Descriptor, Error, Resolved};
use corten_spec::{Digest, Platform, Reference, media};
use serde_json::json;
use tokio::sync::mpsc;

use crate::peer::run;

/// A layer's bytes: incompressible, and different for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| next().to_le_bytes())
        .collect();
    out.truncate(len);
    out
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        media_type: media_type.into(),
    }
}

fn as_json(d: &Descriptor) -> serde_json::Value {
    json!({ "mediaType": d.media_type, "digest": d.digest, "size": d.size })
}

/// An image in memory.
pub struct Image {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub manifest: Bytes,
}

impl Image {
    pub fn new(architecture: &str, layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": as_json(&descriptor(media::OCI_CONFIG, &config)),
            "layers": layers.iter().map(|l| as_json(&descriptor(media::OCI_LAYER, l))).collect::<Vec<_>>(),
        });
        Self {
            config,
            layers,
            manifest: manifest.to_string().into(),
        }
    }

    pub async fn push(&self, client: &Client, to: &Reference) -> Result<Digest, Error> {
        let blobs = self.layers.iter().map(|l| (media::OCI_LAYER, l));
        for (media_type, bytes) in blobs.chain([(media::OCI_CONFIG, &self.config)]) {
            let d = descriptor(media_type, bytes);
            client.push_blob(to, &d, Cursor::new(bytes.clone())).await?;
        }
        client
            .push_manifest(to, media::OCI_MANIFEST, self.manifest.clone())
            .await
    }
}

/// An index of images that the repository has.
pub fn index(entries: &[(&Image, &str, &str)]) -> Bytes {
    let entry = |(image, os, architecture): &(&Image, &str, &str)| {
        let mut d = as_json(&descriptor(media::OCI_MANIFEST, &image.manifest));
        d["platform"] = json!({ "os": os, "architecture": architecture });
        d
    };
    let list: Vec<_> = entries.iter().map(entry).collect();
    let text = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": list });
    text.to_string().into()
}

/// Downloads a blob through the channel.
pub async fn download(
    client: &Client,
    from: &Reference,
    blob: &Descriptor,
    offset: u64,
) -> (Vec<u8>, Result<(), Error>) {
    let (tx, mut rx) = mpsc::channel::<Bytes>(4);
    let collect = async {
        let mut out = Vec::new();
        while let Some(piece) = rx.recv().await {
            out.extend_from_slice(&piece);
        }
        out
    };
    tokio::join!(collect, client.blob(from, blob, offset, tx))
}

/// Resolves and downloads all; panics on what does not verify.
pub async fn pull(client: &Client, from: &Reference) -> Resolved {
    let resolved = client.resolve(from, &Platform::host()).await.unwrap();
    let config = &resolved.manifest.config;
    client.blob_bytes(from, config, 1 << 20).await.unwrap();
    for layer in &resolved.manifest.layers {
        let (bytes, ended) = download(client, from, layer, 0).await;
        ended.unwrap();
        assert_eq!(Digest::of(&bytes), layer.digest);
    }
    resolved
}

/// An OCI layout with a busybox image of two layers, as `oci:DIR:v1`, made by umoci.
pub fn busybox(dir: &Path) -> String {
    let layout = dir.join("layout");
    let layout = layout.to_str().unwrap();
    let image = format!("{layout}:v1");
    let file = dir.join("noise");
    std::fs::write(&file, noise(1, 3 << 20)).unwrap();
    run("umoci", ["init", "--layout", layout]);
    run("umoci", ["new", "--image", &image]);
    run(
        "umoci",
        ["insert", "--image", &image, "/bin/busybox", "/bin/busybox"],
    );
    run(
        "umoci",
        [
            "insert",
            "--image",
            &image,
            file.to_str().unwrap(),
            "/noise",
        ],
    );
    run(
        "umoci",
        ["config", "--image", &image, "--config.cmd", "/bin/busybox"],
    );
    format!("oci:{image}")
}

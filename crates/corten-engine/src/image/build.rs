//! An image put together here: a new layer, a config that says so, a manifest of both.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use corten_spec::digest::{Algorithm, Hasher};
use corten_spec::{Digest, Platform, media};
use corten_store::{Begin, ImageRecord, LayerDesc, LayerRef, Lease, Target};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::change::Instruction;
use super::copy::files::{scratch_file, unpack};
use super::inspect::rfc3339;
use crate::error::Error;
use crate::{Engine, clock};

/// What `import` makes an image of.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    pub platform: Platform,
    pub message: String,
    pub changes: Vec<Instruction>,
    /// A whole reference; without one the image is found by its id.
    pub name: Option<String>,
}

/// The parts of a new image.
pub(super) struct NewImage {
    /// Without the layers' digests, the time and the last step of its history, which are entered here.
    pub config: Value,
    pub layers: Vec<LayerRef>,
    pub history: Value,
    pub name: Option<String>,
}

impl Engine {
    /// Makes an image of one layer: the tar of a root file system, plain or packed with gzip or zstd.
    pub fn import(&self, tar: impl Read, options: &ImportOptions) -> Result<Digest, Error> {
        let lease = self.store.lease("import")?;
        let layer = self.new_layer(&lease, |out| {
            let mut tar = unpack(tar).map_err(Error::io("unpack", "the archive"))?;
            let copied = io::copy(&mut tar, out);
            copied
                .map(|_| ())
                .map_err(Error::io("unpack", "the archive"))
        })?;
        let mut config = json!({
            "architecture": options.platform.architecture,
            "os": options.platform.os,
            "config": {},
            "history": [],
        });
        if let Some(variant) = &options.platform.variant {
            config["variant"] = variant.clone().into();
        }
        for change in &options.changes {
            change.apply(&mut config["config"]);
        }
        let history = json!({ "created_by": "corten import", "comment": options.message });
        self.finish_image(
            &lease,
            NewImage {
                config,
                layers: vec![layer],
                history,
                name: options.name.clone(),
            },
        )
    }

    /// A layer of what `fill` writes, which is a tar: packed, hashed on both sides, then taken in as one from a registry.
    pub(super) fn new_layer(
        &self,
        lease: &Lease,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<LayerRef, Error> {
        let scratch = scratch_file(self.paths.root())?;
        let packed = Hashing::new(&scratch);
        let mut plain = Hashing::new(GzEncoder::new(packed, Compression::fast()));
        fill(&mut plain)?;
        let written = Error::io("write to", self.paths.root());
        let diff_id = plain.hasher.finish();
        let packed = plain.out.finish().map_err(written)?;
        let desc = LayerDesc {
            digest: packed.hasher.finish(),
            size: packed.bytes,
            media_type: media::OCI_LAYER_GZIP.into(),
            diff_id: diff_id.clone(),
        };
        let layer = match self.store.begin_layer(lease, &desc)? {
            Begin::Present(layer) => layer,
            Begin::Ingest(ingest) => {
                let mut from: &File = &scratch;
                from.seek(io::SeekFrom::Start(ingest.offset()))
                    .map_err(Error::io("read", "the new layer"))?;
                ingest.run(from)?
            }
        };
        Ok(LayerRef {
            digest: desc.digest,
            size: desc.size,
            diff_id,
            layer,
        })
    }

    /// Writes config and manifest, and gives the image its name; returns its id.
    pub(super) fn finish_image(&self, lease: &Lease, new: NewImage) -> Result<Digest, Error> {
        let mut config = new.config;
        let now = rfc3339(clock::now().0);
        let diff_ids: Vec<&Digest> = new.layers.iter().map(|l| &l.diff_id).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        config["created"] = now.clone().into();
        let mut step = new.history;
        step["created"] = now.into();
        match config["history"].as_array_mut() {
            Some(history) => history.push(step),
            None => config["history"] = json!([step]),
        }
        let config = config.to_string().into_bytes();
        let config_digest = Digest::of(&config);
        // The types of layers that came from elsewhere are not kept; their first bytes tell all that matters.
        let layers = new.layers.iter().map(|l| {
            let media_type = self.packing_type(&l.digest)?;
            Ok(json!({ "mediaType": media_type, "digest": l.digest, "size": l.size }))
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": { "mediaType": media::OCI_CONFIG, "digest": config_digest, "size": config.len() },
            "layers": layers.collect::<Result<Vec<_>, Error>>()?,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        self.store.put_blob(lease, &config_digest, &config)?;
        self.store.put_blob(lease, &digest, &manifest)?;
        let record = ImageRecord {
            reference: String::new(),
            target: Target {
                digest: digest.clone(),
                size: manifest.len() as u64,
                media_type: media::OCI_MANIFEST.into(),
            },
            manifest: digest,
            config: config_digest.clone(),
            size: new.layers.iter().map(|l| l.size).sum(),
            layers: new.layers,
            pulled_at: clock::now().0,
        };
        let names: Vec<String> = new.name.into_iter().collect();
        self.name_image(record, &names)?;
        Ok(config_digest)
    }

    fn packing_type(&self, digest: &Digest) -> Result<&'static str, Error> {
        use super::copy::files::Packing;
        let path = self.store.blob_path(digest);
        let mut head = Vec::new();
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        file.take(4)
            .read_to_end(&mut head)
            .map_err(Error::io("read", &path))?;
        Ok(match Packing::of(&head) {
            Packing::Plain => media::OCI_LAYER,
            Packing::Gzip => media::OCI_LAYER_GZIP,
            Packing::Zstd => media::OCI_LAYER_ZSTD,
        })
    }
}

/// `NAME=VALUE` in place of what NAME was; without a value, it is taken away.
pub(super) fn set_variable(config: &mut Value, variable: &str) {
    let name = variable.split('=').next().unwrap_or_default();
    let old = config["Env"].as_array().cloned().unwrap_or_default();
    let other = |v: &Value| v.as_str().and_then(|v| v.split('=').next()) != Some(name);
    let mut all: Vec<Value> = old.into_iter().filter(other).collect();
    if variable.contains('=') {
        all.push(variable.into());
    }
    config["Env"] = all.into();
}

pub(super) fn set_label(config: &mut Value, key: &str, value: &str) {
    if !config["Labels"].is_object() {
        config["Labels"] = json!({});
    }
    config["Labels"][key] = value.into();
}

/// What passes is hashed and counted.
struct Hashing<W> {
    out: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            hasher: Hasher::new(Algorithm::Sha256),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

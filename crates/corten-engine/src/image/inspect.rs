//! `image inspect` and `history`: docker's shapes, from the image's own documents.

use corten_store::ImageRecord;
use serde_json::{Value, json};

use super::listing::{parse, timestamp};
use crate::Engine;
use crate::error::Error;

/// A step in the making of an image; not every one left a layer.
#[derive(Clone, Debug)]
pub struct HistoryStep {
    /// Seconds since 1970; zero if unknown.
    pub created: i64,
    pub created_by: String,
    pub comment: String,
    /// What its layer occupies unpacked, in bytes.
    pub size: u64,
    pub has_layer: bool,
}

impl Engine {
    /// Everything about an image in the shape of docker's `image inspect`, and what the store knows besides.
    pub fn inspect_image(&self, record: &ImageRecord) -> Result<Value, Error> {
        let config = self.config_of_image(record)?;
        let manifest = parse(
            &record.reference,
            "manifest",
            &self.image_manifest_bytes(record)?,
        )?;
        let names = self.names_of(record)?;
        let unpacked: u64 = self.store.layer_sizes(record)?.iter().sum();
        let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
        let history = config["history"].as_array();
        let last = history.and_then(|h| h.last());
        Ok(json!({
            "Id": record.config,
            "RepoTags": names.tags,
            "RepoDigests": names.digests,
            "Parent": "",
            "Comment": last.and_then(|h| h["comment"].as_str()).unwrap_or_default(),
            "Created": config["created"],
            "DockerVersion": text("docker_version"),
            "Author": text("author"),
            "Config": config["config"],
            "Architecture": config["architecture"],
            "Variant": text("variant"),
            "Os": config["os"],
            "OsVersion": text("os.version"),
            "Size": unpacked,
            "VirtualSize": unpacked,
            "DownloadSize": record.size,
            "RootFS": { "Type": "layers", "Layers": config["rootfs"]["diff_ids"] },
            "Metadata": { "LastTagTime": rfc3339(record.pulled_at) },
            "Descriptor": {
                "mediaType": record.target.media_type,
                "digest": record.target.digest,
                "size": record.target.size,
            },
            "Reference": record.reference,
            "Digest": record.target.digest,
            "ManifestDigest": record.manifest,
            "MediaType": record.target.media_type,
            "Annotations": manifest["annotations"],
            "Labels": config["config"]["Labels"],
            "History": config["history"],
            "Manifest": manifest,
        }))
    }

    /// How an image came to be, the last step first.
    pub fn image_history(&self, record: &ImageRecord) -> Result<Vec<HistoryStep>, Error> {
        let config = self.config_of_image(record)?;
        let sizes = self.store.layer_sizes(record)?;
        let mut sizes = sizes.into_iter();
        let mut steps: Vec<HistoryStep> = Vec::new();
        for step in config["history"].as_array().into_iter().flatten() {
            let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
            let empty = step["empty_layer"].as_bool().unwrap_or(false);
            // A history that tells of more layers than there are tells of none.
            let size = if empty { None } else { sizes.next() };
            steps.push(HistoryStep {
                created: timestamp(&step["created"]),
                created_by: text("created_by"),
                comment: text("comment"),
                size: size.unwrap_or(0),
                has_layer: size.is_some(),
            });
        }
        // Layers that no step owns up to.
        steps.extend(sizes.map(|size| HistoryStep {
            created: timestamp(&config["created"]),
            created_by: String::new(),
            comment: String::new(),
            size,
            has_layer: true,
        }));
        steps.reverse();
        Ok(steps)
    }

    /// What an index that the image was pulled by has on offer: platform, digest, and whether that manifest is here.
    pub fn image_platforms(
        &self,
        record: &ImageRecord,
    ) -> Result<Vec<(String, String, bool)>, Error> {
        let bytes = self
            .store
            .read_blob(&record.target.digest, super::MAX_CONFIG)?;
        let document = parse(&record.reference, "index", &bytes)?;
        let Some(entries) = document["manifests"].as_array() else {
            let config = self.config_of_image(record)?;
            return Ok(vec![(platform(&config), record.manifest.to_string(), true)]);
        };
        let mut found = Vec::new();
        for entry in entries {
            let digest = entry["digest"].as_str().unwrap_or_default();
            let here = match digest.parse() {
                Ok(d) => self.store.has_blob(&d)?,
                Err(_) => false,
            };
            found.push((platform(&entry["platform"]), digest.to_owned(), here));
        }
        Ok(found)
    }
}

/// `linux/arm64/v8`, from what has `os`, `architecture` and perhaps `variant`.
pub(super) fn platform(value: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|k| value[k].as_str().unwrap_or_default());
    let named: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    match named.is_empty() {
        true => "unknown".into(),
        false => named.join("/"),
    }
}

pub(super) fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |t| t.to_string())
}

//! Images: what the engine needs of their config, and pull, list and removal.

mod beside;
pub mod build;
pub mod change;
pub mod changes;
pub mod copy;
mod error;
pub mod export;
pub mod filter;
mod inspect;
pub mod list;
pub mod listing;
pub mod load;
mod mount;
pub mod policy;
mod pull;
pub mod push;
pub mod remote;
mod remove;
pub mod save;
pub mod sync;
mod tag;
pub(crate) mod tar;
pub(crate) mod tree;
mod usage;
mod volume;
mod whole;

use std::collections::BTreeMap;

use corten_spec::Kind;
use corten_spec::oci::image::ImageConfiguration;

pub use beside::Beside;
pub use copy::Wanted;
pub use copy::place::Place;
pub use corten_store::{ImageRecord, Usage};
pub use error::Error as ImageError;
pub use filter::Filters;
pub use inspect::HistoryStep;
pub use listing::Listed;
pub use pull::{Progress, PullOptions, PullPolicy};
pub use remove::Removed;
pub use usage::{Gauge, Occupied};
pub use whole::Whole;

use crate::Engine;
use crate::container::health::ImageCheck;
use crate::error::Error;

/// Configs are small; a larger one is an attack or a mistake.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;

/// The part of an image's config that decides how a container of it runs.
#[derive(Clone, Debug, Default)]
pub struct ImageConfig {
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: Option<String>,
    pub volumes: Vec<String>,
    /// `PORT[/PROTOCOL]`.
    pub exposed: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// docker's, which the OCI's specification does not have.
    pub healthcheck: Option<ImageCheck>,
}

impl ImageConfig {
    /// Reads an image config document (OCI or Docker: the same fields).
    pub fn parse(image: &str, bytes: &[u8]) -> Result<Self, Error> {
        let document: ImageConfiguration =
            serde_json::from_slice(bytes).map_err(|source| Error::ImageDocument {
                what: "config",
                image: image.into(),
                source,
            })?;
        let healthcheck = ImageCheck::parse(bytes).map_err(|source| Error::ImageDocument {
            what: "health check",
            image: image.into(),
            source,
        })?;
        let Some(c) = document.config() else {
            return Ok(Self::default());
        };
        Ok(Self {
            env: c.env().clone().unwrap_or_default(),
            entrypoint: c.entrypoint().clone().unwrap_or_default(),
            cmd: c.cmd().clone().unwrap_or_default(),
            working_dir: c.working_dir().clone().unwrap_or_default(),
            user: c.user().clone().unwrap_or_default(),
            stop_signal: c.stop_signal().clone(),
            volumes: c.volumes().clone().unwrap_or_default(),
            exposed: c.exposed_ports().clone().unwrap_or_default(),
            labels: c.labels().clone().unwrap_or_default().into_iter().collect(),
            healthcheck,
        })
    }
}

impl Engine {
    /// Every image of the store, newest first.
    pub fn images(&self) -> Result<Vec<ImageRecord>, Error> {
        let mut images = self.store.images()?;
        images.sort_by_key(|i| std::cmp::Reverse(i.pulled_at));
        Ok(images)
    }

    /// An image by reference (shorthand welcome), id or unique prefix of one.
    pub fn image(&self, name: &str) -> Result<ImageRecord, Error> {
        if let Ok(reference) = name.parse::<corten_spec::Reference>()
            && let Some(record) = self.known_image(&reference.to_string())?
        {
            return Ok(record);
        }
        let found = self.known_image(name)?;
        found.ok_or_else(|| Error::ImageMissing { name: name.into() })
    }

    fn known_image(&self, name: &str) -> Result<Option<ImageRecord>, Error> {
        match self.store.image(name) {
            Ok(record) => Ok(Some(record)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The config document of an image, as bytes, digest checked.
    pub fn image_config_bytes(&self, record: &ImageRecord) -> Result<Vec<u8>, Error> {
        Ok(self.store.read_blob(&record.config, MAX_CONFIG)?)
    }

    /// The manifest document of an image, as bytes, digest checked.
    pub fn image_manifest_bytes(&self, record: &ImageRecord) -> Result<Vec<u8>, Error> {
        Ok(self.store.read_blob(&record.manifest, MAX_CONFIG)?)
    }
}

//! What the database remembers of pods and their containers: versioned, apart from the types that the code works with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use corten_spec::{ContainerId, Digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// The records' format; a newer one is refused.
pub const VERSION: u32 = 1;

/// Of a pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// The orchestrator's words for it, as it gave them.
    pub document: String,
    /// Who runs its containers; `None`: our own runtime.
    pub runtime: Option<String>,
    /// Group and user ids of its own: `INSIDE:OUTSIDE:COUNT`, with commas between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maps: Option<Maps>,
    /// The CNI configuration that it is attached by; `None`: the host's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Value>,
    /// What it got. `None`: it was never whole, and is to be removed.
    pub run: Option<Run>,
    /// Somebody has stopped it, or it was found dead.
    #[serde(default)]
    pub stopped: bool,
}

/// The ids of a pod's user namespace, as mount options have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    pub uid: String,
    pub gid: String,
    /// Who is root inside, as the host knows it.
    pub root: (u32, u32),
}

impl Maps {
    /// For a root, or an image, whose files are to be these users'.
    pub(crate) fn words(&self) -> [String; 2] {
        [
            format!("uidmap={}", self.uid),
            format!("gidmap={}", self.gid),
        ]
    }
}

/// What a pod got when it was run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Of its supervisor.
    pub shim: u32,
    /// Of the process that holds its PID namespace; 0: it has none.
    pub pid: u32,
    /// By the runtime specification's words: "network", "ipc", "uts", "user", "pid". For as long as the supervisor lives.
    pub namespaces: BTreeMap<String, PathBuf>,
    /// What its containers find at `/dev/shm`.
    pub shm: Option<PathBuf>,
    /// The folder of what its containers find in `/etc`. `None`: in its own folder, where an earlier version has put them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etc: Option<PathBuf>,
    pub addresses: Vec<IpAddr>,
    /// The answer of its network's plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Value>,
}

/// Of a container in a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub version: u32,
    /// The orchestrator's words for it, as it gave them.
    pub document: String,
    /// The image's name, by which it was found.
    pub image: String,
    pub image_config: Digest,
    pub manifest: Digest,
    /// Snapshot layer ids, bottom first.
    pub layers: Vec<String>,
    /// Its specification is on disk. Else it was never whole, and is to be removed.
    #[serde(default)]
    pub whole: bool,
    #[serde(default)]
    pub settings: super::Settings,
    /// Manifests of the images that it has mounted as volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
    /// Why its start failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<crate::container::record::Failure>,
}

/// The one start of a container.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Started {
    /// Nanoseconds since 1970.
    pub at: i64,
    pub pid: u32,
}

/// The version is read before the rest, which another version may not have.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

pub(super) fn parse<T: DeserializeOwned>(id: &ContainerId, text: &str) -> Result<T, Error> {
    let document = |source| Error::Document {
        path: id.as_str().into(),
        source,
    };
    let Versioned { version } = serde_json::from_str(text).map_err(document)?;
    if version > VERSION {
        let name = id.to_string();
        return Err(Error::RecordVersion { name, version });
    }
    serde_json::from_str(text).map_err(document)
}

pub(super) fn text<T: Serialize>(id: &ContainerId, record: &T) -> Result<String, Error> {
    serde_json::to_string(record).map_err(|source| Error::Document {
        path: id.as_str().into(),
        source,
    })
}

//! What is kept of kubelet's requests, in the engine's rows: the messages as they came, and what was decided of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::proto::{ContainerConfig, ContainerUser, PodSandboxConfig};

/// Of a pod.
#[derive(Clone, Debug, Default)]
pub struct PodDocument {
    pub config: PodSandboxConfig,
    /// As kubelet named it; empty: the default.
    pub handler: String,
}

/// Of a container.
#[derive(Clone, Debug, Default)]
pub struct ContainerDocument {
    pub config: ContainerConfig,
    /// The digest of its image's config.
    pub image_id: String,
    /// Who runs in it.
    pub user: ContainerUser,
    /// As ContainerStatus numbers them.
    pub stop_signal: i32,
}

/// On disk: messages in their own encoding, in base64.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    config: String,
    handler: String,
    image_id: String,
    user: String,
    stop_signal: i32,
}

/// What is in a row was not written by us.
#[derive(Debug, thiserror::Error)]
#[error("what is on record of a pod or container cannot be read")]
pub struct Broken {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl PodDocument {
    pub fn text(&self) -> String {
        text(&Stored {
            config: encode(&self.config),
            handler: self.handler.clone(),
            ..Stored::default()
        })
    }

    pub fn parse(text: &str) -> Result<Self, Broken> {
        let stored = stored(text)?;
        Ok(Self {
            config: decode(&stored.config)?,
            handler: stored.handler,
        })
    }
}

impl ContainerDocument {
    pub fn text(&self) -> String {
        text(&Stored {
            config: encode(&self.config),
            image_id: self.image_id.clone(),
            user: encode(&self.user),
            stop_signal: self.stop_signal,
            ..Stored::default()
        })
    }

    pub fn parse(text: &str) -> Result<Self, Broken> {
        let stored = stored(text)?;
        Ok(Self {
            config: decode(&stored.config)?,
            image_id: stored.image_id,
            user: decode(&stored.user)?,
            stop_signal: stored.stop_signal,
        })
    }
}

fn text(stored: &Stored) -> String {
    // Strings and a number: nothing that JSON could not hold.
    serde_json::to_string(stored).unwrap_or_default()
}

fn stored(text: &str) -> Result<Stored, Broken> {
    serde_json::from_str(text).map_err(|e| Broken { source: e.into() })
}

fn encode(message: &impl Message) -> String {
    STANDARD.encode(message.encode_to_vec())
}

fn decode<T: Message + Default>(text: &str) -> Result<T, Broken> {
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|e| Broken { source: e.into() })?;
    T::decode(bytes.as_slice()).map_err(|e| Broken { source: e.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_as_it_was() {
        let mut config = ContainerConfig {
            log_path: "a/0.log".into(),
            ..ContainerConfig::default()
        };
        config.annotations.insert("ключ".into(), "\n\"".into());
        let document = ContainerDocument {
            config,
            image_id: "sha256:00".into(),
            stop_signal: 3,
            ..ContainerDocument::default()
        };
        let back = ContainerDocument::parse(&document.text()).unwrap();
        assert_eq!(back.config, document.config);
        assert_eq!((back.image_id, back.stop_signal), ("sha256:00".into(), 3));
        assert!(PodDocument::parse("{\"config\": \"?\"}").is_err());
    }
}

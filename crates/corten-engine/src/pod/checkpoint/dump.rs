//! `config.dump`: what an archive of a checkpoint says of its container. Podman, CRI-O and containerd write it, and checkpointctl reads
//! it. Pure.

use serde::{Deserialize, Serialize};

/// Its size is bounded long before it is parsed.
pub(super) const MAX: u64 = 1 << 20;
/// Go's time that is none.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigDump {
    pub id: String,
    pub name: String,
    /// The image's name, or (Podman) its id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rootfs_image: String,
    /// Says which image it was exactly: an id, or a name with a digest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rootfs_image_ref: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rootfs_image_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    /// RFC 3339, as all times here.
    #[serde(default = "no_time")]
    pub created_time: String,
    #[serde(default = "no_time")]
    pub checkpointed_time: String,
    #[serde(default = "no_time")]
    pub restored_time: String,
    #[serde(default)]
    pub restored: bool,
}

pub(super) fn no_time() -> String {
    NO_TIME.into()
}

/// How the image below a checkpoint is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base<'a> {
    /// Names to be tried, the most exact first.
    pub names: Vec<&'a str>,
    /// The digest (of a config, manifest or index) that it must have, in hexadecimal.
    pub hex: Option<&'a str>,
}

impl ConfigDump {
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// A container's changes mean nothing on another image: where any of the three says which one it was, only that will do.
    pub(super) fn base(&self) -> Base<'_> {
        let all = [
            self.rootfs_image_ref.as_str(),
            &self.rootfs_image,
            &self.rootfs_image_name,
        ];
        let mut names: Vec<&str> = Vec::new();
        for name in all {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        let hex = all.into_iter().find_map(hex);
        Base { names, hex }
    }
}

/// The digest in an image's id or digested name.
fn hex(name: &str) -> Option<&str> {
    let last = name.rsplit([':', '@']).next()?;
    let all = last.len() == 64 && last.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    all.then_some(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As containerd 2.4 and Podman 4.3 write it.
    const CONTAINERD: &str = r#"{"id":"4f","name":"c_p_n_u_0","rootfsImage":"docker.io/library/busybox:latest",
        "rootfsImageRef":"sha256:65ad0d468eb1c558bf7f4e64e790f586e9eda649ee9f130cd0e835b292bbc5ac",
        "rootfsImageName":"docker.io/library/busybox:latest","runtime":"io.containerd.runc.v2",
        "createdTime":"2026-01-02T03:04:05.6Z","checkpointedTime":"2026-01-02T03:04:06Z",
        "restoredTime":"0001-01-01T00:00:00Z","restored":false}"#;

    #[test]
    fn others_are_understood() {
        let read = ConfigDump::parse(CONTAINERD.as_bytes()).unwrap();
        assert_eq!(read.runtime, "io.containerd.runc.v2");
        let base = read.base();
        assert_eq!(base.hex.unwrap().len(), 64);
        assert_eq!(base.names.len(), 2);
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(ConfigDump::parse(text.as_bytes()).unwrap(), read);
        assert!(text.contains("\"rootfsImageRef\":\"sha256:65"), "{text}");
    }

    #[test]
    fn a_name_alone_asks_for_no_digest() {
        let bytes = br#"{"id":"1","name":"n","rootfsImageName":"busybox:1"}"#;
        let read = ConfigDump::parse(bytes).unwrap();
        let (names, hex) = (vec!["busybox:1"], None);
        assert_eq!(read.base(), Base { names, hex });
        assert!(ConfigDump::parse(b"{\"id\":1}").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in any::<Vec<u8>>(), at in 0usize..400, byte: u8) {
            let _ = ConfigDump::parse(&bytes);
            let mut text = CONTAINERD.as_bytes().to_vec();
            text[at] = byte;
            if let Ok(read) = ConfigDump::parse(&text) {
                let _ = read.base();
            }
        }

        #[test]
        fn what_is_written_is_read(id in ".*", name in ".*", image in ".*", runtime in ".*") {
            let dump = ConfigDump {
                id,
                name,
                rootfs_image: image.clone(),
                rootfs_image_ref: image,
                rootfs_image_name: String::new(),
                runtime,
                created_time: no_time(),
                checkpointed_time: no_time(),
                restored_time: no_time(),
                restored: false,
            };
            let text = serde_json::to_vec(&dump).unwrap();
            prop_assert_eq!(ConfigDump::parse(&text).unwrap(), dump);
        }
    }
}

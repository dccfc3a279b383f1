//! Image manifests and indexes, OCI's and Docker's schema 2, as a puller needs them.
//!
//! Only what is acted upon is parsed; digests are computed over the bytes as they came, never over
//! a re-serialisation. A document that could be read as both manifest and index is refused:
//! two readers that disagree on the kind would run different images (CVE-2021-41190).

use std::collections::BTreeMap;

use corten_spec::{Digest, Platform, media, oci::image::Platform as OciPlatform};
use serde::{Deserialize, Serialize};

use super::MANIFEST_MAX;

/// More layers than any engine stacks (overlayfs takes 500 lower folders at most).
const LAYERS_MAX: usize = 1024;
/// More entries than any real index has.
const ENTRIES_MAX: usize = 4096;
/// More than any manifest has been signed and described.
const REFERRERS_MAX: usize = 16_384;

/// What content is, and how to know that it is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub media_type: String,
}

/// An image manifest: the configuration, and the layers from the bottom up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedManifest {
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// An entry of an index: a manifest and the platform that it is for, where one is named.
#[derive(Clone, Debug)]
pub struct IndexEntry {
    pub descriptor: Descriptor,
    pub platform: Option<OciPlatform>,
}

/// An index or manifest list.
#[derive(Clone, Debug)]
pub struct Index {
    pub media_type: String,
    pub entries: Vec<IndexEntry>,
}

/// What a manifest endpoint may answer.
#[derive(Clone, Debug)]
pub enum Document {
    Manifest(ParsedManifest),
    Index(Index),
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest of {size} bytes exceeds {MANIFEST_MAX}")]
    Large { size: usize },
    #[error("manifest is not the JSON that its type calls for")]
    Json(#[source] serde_json::Error),
    #[error("manifest says {body:?} of itself, but was served as {header:?}")]
    Disagree { body: String, header: String },
    #[error("manifest has the fields of both an image and an index")]
    Ambiguous,
    #[error("manifest has the fields of neither an image nor an index")]
    Neither,
    #[error("media type {0:?} is none of the OCI or Docker schema 2 image types")]
    MediaType(String),
    #[error("manifest lists {count} {what}, more than {max}")]
    Many {
        what: &'static str,
        count: usize,
        max: usize,
    },
}

#[derive(Deserialize)]
struct RawDescriptor {
    digest: Digest,
    size: u64,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    platform: Option<OciPlatform>,
}

impl RawDescriptor {
    fn plain(self) -> Descriptor {
        Descriptor {
            digest: self.digest,
            size: self.size,
            media_type: self.media_type,
        }
    }
}

/// What a manifest says of its relation to another one, for the referrers list.
#[derive(Debug)]
pub struct Relation {
    pub subject: Digest,
    /// The manifest's own type, or (for images that name none) its configuration's.
    pub artifact_type: Option<String>,
    /// A JSON object, or null.
    pub annotations: serde_json::Value,
}

/// Reads the `subject` of a manifest that [`parse`] has accepted; `None` where it has none.
pub fn relation(bytes: &[u8]) -> Result<Option<Relation>, ManifestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        subject: Option<RawDescriptor>,
        artifact_type: Option<String>,
        config: Option<RawDescriptor>,
        #[serde(default)]
        annotations: serde_json::Value,
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    Ok(raw.subject.map(|subject| Relation {
        subject: subject.digest,
        artifact_type: raw
            .artifact_type
            .filter(|t| !t.is_empty())
            .or(raw.config.map(|c| c.media_type)),
        annotations: raw.annotations,
    }))
}

/// One entry of a referrers list: what refers, and what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    pub media_type: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Reads a referrers list, which is an index whose entries name their artifact types.
pub fn referrers(bytes: &[u8]) -> Result<Vec<Referrer>, ManifestError> {
    #[derive(Deserialize)]
    struct Raw {
        manifests: Option<Vec<Referrer>>,
    }
    if bytes.len() > MANIFEST_MAX {
        return Err(ManifestError::Large { size: bytes.len() });
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    let list = raw.manifests.unwrap_or_default();
    bounded("referrers", list.len(), REFERRERS_MAX)?;
    Ok(list)
}

/// The type of any manifest, image or not: its own word, the header's, or what its fields look like. A document
/// and a header that disagree are refused, for two readers would take it for two things. Only headers that name a type
/// of the trade count before the fields: web servers label what they do not know in many ways.
pub fn type_of(bytes: &[u8], header: Option<&str>) -> Result<String, ManifestError> {
    let header = header.map(|h| h.split(';').next().unwrap_or_default().trim());
    let header = header.filter(|h| !h.is_empty());
    let named = header.filter(|h| h.starts_with("application/vnd."));
    let Ok(shape) = serde_json::from_slice::<Shape>(bytes) else {
        // Old signed manifests and the like: the header is all that there is.
        return named.map(str::to_owned).ok_or(ManifestError::Neither);
    };
    let is_image = shape.config.is_some() || shape.layers.is_some();
    let is_index = shape.manifests.is_some();
    match (shape.media_type, named) {
        _ if is_image && is_index => Err(ManifestError::Ambiguous),
        (Some(body), Some(header)) if body != header => Err(ManifestError::Disagree {
            body,
            header: header.into(),
        }),
        (Some(body), _) => Ok(body),
        (None, Some(header)) => Ok(header.into()),
        (None, None) if is_index => Ok(media::OCI_INDEX.into()),
        (None, None) if is_image => Ok(media::OCI_MANIFEST.into()),
        (None, None) => header.map(str::to_owned).ok_or(ManifestError::Neither),
    }
}

#[derive(Deserialize)]
struct RawManifest {
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
}

#[derive(Deserialize)]
struct RawIndex {
    manifests: Vec<RawDescriptor>,
}

/// Which fields there are, before any of them is believed.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or index. `content_type` is the header that it came with, if any; it and
/// the document's own `mediaType` must agree where both name an image type.
pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, ManifestError> {
    if bytes.len() > MANIFEST_MAX {
        return Err(ManifestError::Large { size: bytes.len() });
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    let media_type = media_type(&shape, content_type)?;
    if media::is_index(&media_type) {
        let raw: RawIndex = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        bounded("entries", raw.manifests.len(), ENTRIES_MAX)?;
        let entries = raw.manifests.into_iter().map(entry).collect();
        return Ok(Document::Index(Index {
            media_type,
            entries,
        }));
    }
    let raw: RawManifest = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    bounded("layers", raw.layers.len(), LAYERS_MAX)?;
    Ok(Document::Manifest(ParsedManifest {
        media_type,
        config: raw.config.plain(),
        layers: raw.layers.into_iter().map(RawDescriptor::plain).collect(),
    }))
}

fn entry(mut raw: RawDescriptor) -> IndexEntry {
    let platform = raw.platform.take();
    IndexEntry {
        descriptor: raw.plain(),
        platform,
    }
}

fn bounded(what: &'static str, count: usize, max: usize) -> Result<(), ManifestError> {
    match count > max {
        true => Err(ManifestError::Many { what, count, max }),
        false => Ok(()),
    }
}

/// The type that the document has: its own word, the header's, or (both are optional in OCI)
/// that of its fields.
fn media_type(shape: &Shape, header: Option<&str>) -> Result<String, ManifestError> {
    let known = |m: &str| media::is_index(m) || media::is_manifest(m);
    let header = header
        .map(|h| h.split(';').next().unwrap_or_default().trim())
        .filter(|h| known(h) || h.starts_with("application/vnd."));
    // Schema 1 is signed JSON of another shape, withdrawn by Docker in 2024.
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
        let named = "application/vnd.docker.distribution.manifest.v1+json";
        return Err(ManifestError::MediaType(header.unwrap_or(named).into()));
    }
    let is_image = shape.config.is_some() || shape.layers.is_some();
    let is_index = shape.manifests.is_some();
    if is_image && is_index {
        return Err(ManifestError::Ambiguous);
    }
    let said = match (shape.media_type.as_deref(), header) {
        (Some(body), Some(header)) if body != header => {
            return Err(ManifestError::Disagree {
                body: body.into(),
                header: header.into(),
            });
        }
        (Some(said), _) | (None, Some(said)) => said,
        (None, None) if is_index => media::OCI_INDEX,
        (None, None) if is_image => media::OCI_MANIFEST,
        (None, None) => return Err(ManifestError::Neither),
    };
    if !known(said) {
        return Err(ManifestError::MediaType(said.into()));
    }
    match media::is_index(said) == is_index {
        true => Ok(said.into()),
        false => Err(ManifestError::Ambiguous),
    }
}

impl Index {
    /// The entry for `wanted`: one of the very variant first, then one that names none, then any that
    /// the platform accepts. An entry without a platform is taken only if it is the only entry.
    pub fn choose(&self, wanted: &Platform) -> Option<&IndexEntry> {
        let rank = |p: &OciPlatform| match (p.variant(), &wanted.variant) {
            (Some(a), Some(b)) if a == b => 0,
            (None, _) => 1,
            // amd64/v1 before v2 and v3: the host may lack the newer instructions.
            (Some(v), _) => 2 + v.bytes().last().map_or(0, usize::from),
        };
        let fits = |e: &&IndexEntry| e.platform.as_ref().is_some_and(|p| wanted.accepts(p));
        let best = self.entries.iter().filter(fits);
        let best = best.min_by_key(|e| e.platform.as_ref().map(rank));
        match (best, self.entries.as_slice()) {
            (None, [only]) if only.platform.is_none() => Some(only),
            (best, _) => best,
        }
    }

    /// The platforms on offer, as people write them, without the `unknown/unknown` of attestations.
    pub fn platforms(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for p in self.entries.iter().filter_map(|e| e.platform.as_ref()) {
            let mut name = format!("{}/{}", p.os(), p.architecture());
            if let Some(v) = p.variant() {
                name.push('/');
                name.push_str(v);
            }
            if name != "unknown/unknown" && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(media_type: &str) -> String {
        let d = Digest::of(b"c");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"{c}","digest":"{d}","size":1}},
            "layers":[{{"mediaType":"{l}","digest":"{d}","size":7}}]}}"#,
            c = media::OCI_CONFIG,
            l = media::OCI_LAYER_GZIP,
        )
    }

    fn index(entries: &[Option<&str>]) -> Index {
        let d = Digest::of(b"m");
        let entry = |p: &Option<&str>| {
            let platform = p.map_or(String::new(), |p| {
                let parts: Vec<&str> = p.split('/').collect();
                let variant = parts
                    .get(2)
                    .map_or(String::new(), |v| format!(r#","variant":"{v}""#));
                format!(
                    r#","platform":{{"os":"{}","architecture":"{}"{variant}}}"#,
                    parts[0], parts[1]
                )
            });
            format!(
                r#"{{"mediaType":"{}","digest":"{d}","size":1{platform}}}"#,
                media::OCI_MANIFEST
            )
        };
        let list: Vec<String> = entries.iter().map(entry).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, list.join(","));
        match parse(text.as_bytes(), Some(media::OCI_INDEX)) {
            Ok(Document::Index(index)) => index,
            other => panic!("{other:?}"),
        }
    }

    fn chosen(entries: &[Option<&str>], wanted: &str) -> Option<String> {
        let index = index(entries);
        let entry = index.choose(&wanted.parse().unwrap())?;
        let platform = entry.platform.as_ref();
        Some(platform.map_or("-".into(), |p| {
            format!("{}/{:?}", p.architecture(), p.variant())
        }))
    }

    #[test]
    fn odd_labels_do_not_hide_a_type_and_others_types_do_not_pass() {
        let text = image(media::OCI_MANIFEST);
        let of = |header| type_of(text.as_bytes(), header).ok();
        for vague in [
            None,
            Some("binary/octet-stream"),
            Some("text/plain; charset=utf-8"),
            Some(""),
        ] {
            assert_eq!(of(vague).as_deref(), Some(media::OCI_MANIFEST), "{vague:?}");
        }
        assert_eq!(of(Some(media::OCI_INDEX)), None);
        let bare = br#"{"some":"artifact"}"#;
        assert_eq!(
            type_of(bare, Some("application/x")).unwrap(),
            "application/x"
        );
        assert!(type_of(bare, None).is_err());
        assert_eq!(
            type_of(br#"{"manifests":[]}"#, None).unwrap(),
            media::OCI_INDEX
        );
        assert!(type_of(br#"{"manifests":[],"layers":[]}"#, None).is_err());
    }

    #[test]
    fn both_families_parse() {
        for m in [media::OCI_MANIFEST, media::DOCKER_MANIFEST] {
            let Ok(Document::Manifest(parsed)) = parse(image(m).as_bytes(), Some(m)) else {
                panic!("{m}");
            };
            assert_eq!(parsed.media_type, m);
            assert_eq!(parsed.layers[0].size, 7);
        }
        // Some registries serve everything as plain JSON; OCI makes the field optional.
        let text = image(media::OCI_MANIFEST);
        assert!(parse(text.as_bytes(), Some("application/json; charset=utf-8")).is_ok());
        assert!(parse(text.as_bytes(), None).is_ok());
    }

    #[test]
    fn a_document_of_two_kinds_is_refused() {
        let both = image(media::OCI_MANIFEST).replacen('{', r#"{"manifests":[],"#, 1);
        let err = parse(both.as_bytes(), None).unwrap_err();
        assert!(matches!(err, ManifestError::Ambiguous));
        let text = image(media::OCI_MANIFEST);
        let err = parse(text.as_bytes(), Some(media::OCI_INDEX)).unwrap_err();
        assert!(matches!(err, ManifestError::Disagree { .. }));
        let lie = image(media::OCI_INDEX);
        let err = parse(lie.as_bytes(), Some(media::OCI_INDEX)).unwrap_err();
        assert!(matches!(err, ManifestError::Ambiguous));
    }

    #[test]
    fn other_documents_are_named() {
        let err = parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, None).unwrap_err();
        assert!(matches!(err, ManifestError::MediaType(_)));
        let err = parse(b"{}", None).unwrap_err();
        assert!(matches!(err, ManifestError::Neither));
        let err = parse(b"<html>", Some("text/html")).unwrap_err();
        assert!(matches!(err, ManifestError::Json(_)));
        let err = parse(&vec![b' '; MANIFEST_MAX + 1], None).unwrap_err();
        assert!(matches!(err, ManifestError::Large { .. }));
    }

    #[test]
    fn the_platform_decides() {
        let entries = [
            Some("linux/arm64/v8"),
            Some("linux/amd64/v3"),
            Some("linux/amd64"),
            Some("unknown/unknown"),
        ];
        assert_eq!(
            chosen(&entries, "linux/amd64").as_deref(),
            Some("amd64/None")
        );
        assert_eq!(
            chosen(&entries, "linux/arm64").as_deref(),
            Some("arm64/Some(\"v8\")")
        );
        assert_eq!(chosen(&entries, "linux/s390x"), None);
        assert_eq!(
            index(&entries).platforms(),
            ["linux/arm64/v8", "linux/amd64/v3", "linux/amd64"]
        );
        assert_eq!(chosen(&[None], "linux/amd64").as_deref(), Some("-"));
        assert_eq!(chosen(&[None, None], "linux/amd64"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, None);
        }

        #[test]
        fn any_damage_is_survived(at in 0usize..300, byte: u8, cut in 0usize..300) {
            let mut bytes = image(media::OCI_MANIFEST).into_bytes();
            let n = bytes.len();
            bytes[at % n] = byte;
            bytes.truncate(cut.max(1));
            if let Ok(Document::Manifest(m)) = parse(&bytes, Some(media::OCI_MANIFEST)) {
                prop_assert_eq!(m.media_type, media::OCI_MANIFEST);
            }
        }
    }
}

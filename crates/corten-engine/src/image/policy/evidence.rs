//! Where signatures are looked for, and how many at most.
//!
//! cosign: the tag `sha256-HEX.sig`, and what the registry lists as referring to the manifest. Simple signing: the
//! lookaside folder. Whoever can write to the registry can put any number of bad ones there, so each search has an end.

use std::collections::BTreeMap;
use std::path::Path;

use corten_registry::client::{ANY, Client, Descriptor, RawManifest};
use corten_spec::{Digest, Kind, Reference};
use serde::Deserialize;

use super::claim::Expected;
use super::{Lookaside, Requirement, cosign, read, simple};
use crate::error::Error;

/// Signatures that are tried on one image; an honest one has a handful.
const TRIES: usize = 64;
/// A payload, bundle or message, in bytes.
const SIZE_MAX: u64 = 1 << 20;

pub(super) struct Search<'a> {
    pub client: &'a Client,
    pub reference: &'a Reference,
    pub digest: &'a Digest,
    pub requirement: &'a Requirement,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Layer {
    fn is_bundle(&self) -> bool {
        self.media_type.starts_with(cosign::BUNDLE)
    }
}

impl Search<'_> {
    /// Who signed, if anybody did; what was found instead goes to `reasons`.
    pub async fn run(&self, reasons: &mut Vec<String>) -> Result<Option<String>, Error> {
        let signed = self.signed_reference()?;
        let expected = Expected {
            digest: self.digest,
            reference: &signed,
            identity: self.requirement.identity,
        };
        let signer = match &self.requirement.lookaside {
            Some(Lookaside::Folder(folder)) => self.in_folder(folder, &signed, &expected, reasons),
            Some(Lookaside::Url(url)) => self.at_url(url, &signed, &expected, reasons).await?,
            None => None,
        };
        if signer.is_some() {
            return Ok(signer);
        }
        if self.requirement.keys.is_empty() {
            return Ok(None);
        }
        let mut left = TRIES;
        let tag = format!(
            "{}-{}.sig",
            self.digest.algorithm().as_str(),
            self.digest.hex()
        );
        if let Some(tagged) = self.reference.with_tag(&tag)
            && let Some(manifest) = self.manifest(&tagged).await?
        {
            let found = self
                .in_manifest(&manifest, &expected, reasons, &mut left)
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        for referrer in self.referrers().await? {
            let kind = referrer.artifact_type.as_deref().unwrap_or_default();
            if kind != cosign::SIGNATURE && !kind.starts_with(cosign::BUNDLE) {
                continue;
            }
            if left == 0 {
                reasons.push(format!(
                    "there are more than {TRIES}, and the others were not looked at"
                ));
                break;
            }
            let by_digest = self.reference.with_digest(referrer.digest).untagged();
            let Some(manifest) = self.manifest(&by_digest).await? else {
                continue;
            };
            let found = self
                .in_manifest(&manifest, &expected, reasons, &mut left)
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The name under which it was signed, where that is another (`signed-as`).
    fn signed_reference(&self) -> Result<Reference, Error> {
        let Some((from, to)) = &self.requirement.signed_as else {
            return Ok(self.reference.clone());
        };
        let name = format!(
            "{}/{}",
            self.reference.registry(),
            self.reference.repository()
        );
        // The pattern fits, so the name begins so.
        let rest = name.strip_prefix(from.as_str()).unwrap_or_default();
        let tag = self
            .reference
            .tag()
            .map_or(String::new(), |t| format!(":{t}"));
        let digest = match self.reference.tag() {
            None => format!("@{}", self.digest),
            Some(_) => String::new(),
        };
        Ok(format!("{to}{rest}{tag}{digest}").parse()?)
    }

    /// As [`Self::in_folder`], of what a web server has.
    async fn at_url(
        &self,
        url: &str,
        signed: &Reference,
        expected: &Expected<'_>,
        reasons: &mut Vec<String>,
    ) -> Result<Option<String>, Error> {
        let mut places: Vec<String> = [self.reference, signed]
            .map(|r| simple::place(r, self.digest))
            .into();
        places.dedup();
        for place in places {
            for n in 1..=TRIES {
                let url = format!("{url}/{place}/signature-{n}");
                let registry = self.reference.registry();
                let got = self
                    .client
                    .document(registry, &url, SIZE_MAX as usize)
                    .await;
                let Some(message) = got.map_err(|e| self.failed(e))? else {
                    break;
                };
                match simple::check(&self.requirement.rings, &message, expected) {
                    Ok(signer) => return Ok(Some(signer)),
                    Err(why) => reasons.push(why),
                }
            }
        }
        Ok(None)
    }

    fn in_folder(
        &self,
        folder: &Path,
        signed: &Reference,
        expected: &Expected<'_>,
        reasons: &mut Vec<String>,
    ) -> Option<String> {
        let mut places = Vec::from(simple::places(folder, self.reference, self.digest));
        places.extend(simple::places(folder, signed, self.digest));
        places.dedup();
        let mut tried = Vec::new();
        for place in places {
            // Numbered from one, without a gap.
            for n in 1..=TRIES {
                let path = place.join(format!("signature-{n}"));
                if tried.contains(&path) || !path.exists() {
                    break;
                }
                let checked = read(&path, SIZE_MAX)
                    .and_then(|message| simple::check(&self.requirement.rings, &message, expected));
                match checked {
                    Ok(signer) => return Some(signer),
                    Err(why) => reasons.push(why),
                }
                tried.push(path);
            }
        }
        None
    }

    /// A manifest of signatures: layers with payloads, or a bundle.
    async fn in_manifest(
        &self,
        raw: &RawManifest,
        expected: &Expected<'_>,
        reasons: &mut Vec<String>,
        left: &mut usize,
    ) -> Result<Option<String>, Error> {
        let manifest: Manifest = match serde_json::from_slice(&raw.bytes) {
            Ok(manifest) => manifest,
            Err(e) => {
                reasons.push(format!("its manifest cannot be read ({e})"));
                return Ok(None);
            }
        };
        for layer in manifest.layers {
            let signed = layer.media_type == cosign::PAYLOAD
                && layer.annotations.contains_key(cosign::ANNOTATION);
            if !signed && !layer.is_bundle() {
                continue;
            }
            if *left == 0 {
                reasons.push(format!(
                    "there are more than {TRIES}, and the others were not looked at"
                ));
                return Ok(None);
            }
            *left -= 1;
            if layer.size > SIZE_MAX {
                reasons.push(format!("its payload of {} bytes is too large", layer.size));
                continue;
            }
            match self.in_layer(&layer, expected).await? {
                Ok(signer) => return Ok(Some(signer)),
                Err(why) => reasons.push(why),
            }
        }
        Ok(None)
    }

    /// One payload or bundle: who signed it, or why that proves nothing.
    async fn in_layer(
        &self,
        layer: &Layer,
        expected: &Expected<'_>,
    ) -> Result<Result<String, String>, Error> {
        let descriptor = Descriptor {
            digest: layer.digest.clone(),
            size: layer.size,
            media_type: layer.media_type.clone(),
        };
        let got = self
            .client
            .blob_bytes(self.reference, &descriptor, SIZE_MAX)
            .await;
        let bytes = match got {
            Ok(bytes) => bytes,
            // It is gone, or not what was announced; another one may be right.
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Invalid) => {
                return Ok(Err(format!("its payload cannot be had ({e})")));
            }
            Err(e) => return Err(self.failed(e)),
        };
        let keys = &self.requirement.keys;
        let checked = match layer.annotations.get(cosign::ANNOTATION) {
            _ if layer.is_bundle() => cosign::check_bundle(keys, &bytes, expected),
            Some(signature) => cosign::check(keys, &bytes, signature, expected),
            None => Err("it has no signature".into()),
        };
        Ok(checked.map(|key| key.name().to_owned()))
    }

    async fn manifest(&self, reference: &Reference) -> Result<Option<RawManifest>, Error> {
        match self.client.manifest(reference, ANY).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(self.failed(e)),
        }
    }

    async fn referrers(&self) -> Result<Vec<corten_registry::client::Referrer>, Error> {
        match self
            .client
            .referrers(self.reference, self.digest, None)
            .await
        {
            Ok(list) => Ok(list),
            Err(e) if e.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn failed(&self, source: corten_registry::client::Error) -> Error {
        Error::registry("look for signatures on", self.reference, source)
    }
}

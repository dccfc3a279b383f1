//! Simple signing: claims in OpenPGP messages, which lie in a folder beside the registry (containers' "lookaside").

use std::path::{Path, PathBuf};

use corten_spec::{Digest, Reference};

use super::claim::Expected;
use super::openpgp::KeyRing;

const KIND: &str = "atomic container signature";

/// Who signed a message; and is it a claim on what is expected?
pub fn check(rings: &[KeyRing], message: &[u8], expected: &Expected<'_>) -> Result<String, String> {
    let mut reasons = Vec::new();
    for ring in rings {
        match ring.open(message) {
            Ok((payload, signer)) => {
                expected.check(&payload, &[KIND])?;
                return Ok(signer);
            }
            Err(why) => reasons.push(why),
        }
    }
    reasons.dedup();
    Err(reasons.join(", "))
}

/// `PATH@sha256=HEX`, below the lookaside.
pub fn place(reference: &Reference, digest: &Digest) -> String {
    let algorithm = digest.algorithm().as_str();
    format!("{}@{algorithm}={}", reference.repository(), digest.hex())
}

/// In a folder, with or without the host before it, as the folder may be one registry's own.
pub fn places(folder: &Path, reference: &Reference, digest: &Digest) -> [PathBuf; 2] {
    let name = place(reference, digest);
    [
        folder.join(reference.registry()).join(&name),
        folder.join(name),
    ]
}

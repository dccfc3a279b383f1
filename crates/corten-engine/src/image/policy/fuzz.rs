//! What the fuzzer may call of this folder.

use std::path::Path;

use corten_spec::{Digest, Reference};

use super::claim::{Expected, Identity};
use super::key::PublicKey;
use super::openpgp::KeyRing;
use super::{cosign, file};

pub fn openpgp(ring: &[u8], message: &[u8]) {
    if let Ok(ring) = KeyRing::parse(ring) {
        let _ = ring.open(message);
    }
}

pub fn policy(text: &str) {
    file::fuzz(text);
}

pub fn public_key(pem: &[u8]) {
    if let Ok(keys) = PublicKey::parse_all(pem, Path::new("fuzz")) {
        for key in keys {
            assert!(!key.verifies(b"message", b"signature"));
        }
    }
}

pub fn signature(bytes: &[u8]) {
    let digest = Digest::of(b"");
    let reference: Result<Reference, _> = "a.b/c:1".parse();
    let Ok(reference) = reference else {
        return;
    };
    let expected = Expected {
        digest: &digest,
        reference: &reference,
        identity: Identity::Name,
    };
    let _ = expected.check(bytes, &["cosign container image signature"]);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = expected.check_name(text);
    }
    // By no key: nothing is proven by any bytes.
    assert!(cosign::check_bundle(&[], bytes, &expected).is_err());
}

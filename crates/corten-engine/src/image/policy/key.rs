//! Public keys in PEM, and signatures by them: ECDSA on P-256 and P-384, RSA of 2048 bits and more, Ed25519.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

/// A key that signatures are checked with.
pub struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
    /// The file, for messages.
    name: String,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.name)
    }
}

/// 1.2.840.10045.2.1, and the curves 1.2.840.10045.3.1.7 and 1.3.132.0.34.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
/// 1.2.840.113549.1.1.1.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.3.101.112.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const BITS: u8 = 0x03;

impl PublicKey {
    /// All keys of a PEM file.
    pub fn parse_all(pem: &[u8], path: &Path) -> Result<Vec<Self>, String> {
        let text = std::str::from_utf8(pem).map_err(|_| "it is no PEM")?;
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(begin) = rest.find("-----BEGIN ") {
            rest = &rest[begin + 11..];
            let (label, after) = rest.split_once("-----").ok_or("its PEM is cut off")?;
            let end = format!("-----END {label}-----");
            let (body, after) = after.split_once(end.as_str()).ok_or("its PEM is cut off")?;
            rest = after;
            if label != "PUBLIC KEY" {
                return Err(format!(
                    "it holds a {}, and a PUBLIC KEY is wanted",
                    label.to_lowercase()
                ));
            }
            let body: String = body.split_whitespace().collect();
            let der = STANDARD.decode(body).map_err(|_| "its PEM is no base64")?;
            let name = path.display().to_string();
            keys.push(Self::parse(&der, name).ok_or("its key is of no known kind, or damaged")?);
        }
        match keys.is_empty() {
            true => Err("it holds no PEM".into()),
            false => Ok(keys),
        }
    }

    /// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    fn parse(der: &[u8], name: String) -> Option<Self> {
        let (outer, []) = element(der, SEQUENCE)? else {
            return None;
        };
        let (kind, rest) = element(outer, SEQUENCE)?;
        let (oid, parameters) = element(kind, OBJECT)?;
        let (bits, []) = element(rest, BITS)? else {
            return None;
        };
        // The first byte counts unused bits, of which there are none.
        let [0, key @ ..] = bits else {
            return None;
        };
        let algorithm: &'static dyn VerificationAlgorithm = match oid {
            EC => match element(parameters, OBJECT)? {
                (P256, []) => &signature::ECDSA_P256_SHA256_ASN1,
                (P384, []) => &signature::ECDSA_P384_SHA256_ASN1,
                _ => return None,
            },
            RSA => &signature::RSA_PKCS1_2048_8192_SHA256,
            ED25519 if key.len() == 32 => &signature::ED25519,
            _ => return None,
        };
        Some(Self {
            algorithm,
            bytes: key.to_vec(),
            name,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(self.algorithm, &self.bytes);
        key.verify(message, signature).is_ok()
    }
}

/// The content of the first element, which must be of that type, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = der else {
        return None;
    };
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (two, rest) = rest.split_at_checked(2)?;
            (usize::from(two[0]) << 8 | usize::from(two[1]), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (*found == tag).then_some((content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By `openssl ecparam -name prime256v1 -genkey | openssl ec -pubout`.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkYJtLTUBw8mIhmd4TWLgzwOxMHvN\n\
        VnTjMIDXO41TVUT3tOGzMOLkYTVpSLY0QLg+6UhkBrhhYSWcKrPy3kGMLA==\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn what_is_no_key_is_refused() {
        let parse = |text: &str| PublicKey::parse_all(text.as_bytes(), Path::new("k"));
        assert_eq!(parse(KEY).unwrap().len(), 1);
        assert_eq!(parse(&KEY.repeat(2)).unwrap().len(), 2);
        for (text, word) in [
            ("", "no PEM"),
            ("-----BEGIN PUBLIC KEY-----\nMFkw", "cut off"),
            (
                "-----BEGIN PUBLIC KEY-----\n!!!\n-----END PUBLIC KEY-----",
                "base64",
            ),
            (
                "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----",
                "damaged",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nMFkw\n-----END CERTIFICATE-----",
                "certificate",
            ),
            (
                &KEY.replace(
                    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
                    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQgDQgAE",
                ),
                "damaged",
            ),
        ] {
            assert!(parse(text).unwrap_err().contains(word), "{text}");
        }
        assert!(!parse(KEY).unwrap()[0].verifies(b"message", b"signature"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PublicKey::parse(&bytes, String::new());
            let _ = PublicKey::parse_all(&bytes, Path::new("k"));
        }
    }
}

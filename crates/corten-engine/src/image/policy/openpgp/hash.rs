//! Keys and hashes: which go together, and checking a signature by ring.

use ring::{digest, signature as ring_signature};

use super::packet::Input;

/// A key's public numbers.
#[derive(Clone, Debug)]
pub enum Numbers {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The hashes that are trusted (§9.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];

impl Hash {
    pub fn of(number: u8) -> Result<Self, String> {
        match number {
            8 => Ok(Self::Sha256),
            9 => Ok(Self::Sha384),
            10 => Ok(Self::Sha512),
            1..=3 => Err("it uses a hash that is broken (MD5, SHA-1, RIPEMD)".into()),
            n => Err(format!("its hash (number {n}) is not known here")),
        }
    }
}

impl Numbers {
    /// Of the algorithms that can sign and that are known; `Ok(None)`: another one.
    pub fn parse(algorithm: u8, input: &mut Input<'_>) -> Result<Option<Self>, String> {
        let numbers = match algorithm {
            1 | 3 => rsa(input),
            19 | 22 => curve(algorithm, input),
            27 => input.take(32).map(|k| Some(Self::Ed25519(k.to_vec()))),
            _ => return Ok(None),
        };
        numbers.ok_or_else(|| "a key in it is damaged".into())
    }

    pub fn verifies(&self, hash: Hash, message: &[u8], numbers: &[u8]) -> bool {
        let mut input = Input(numbers);
        let checked = match self {
            Self::Rsa { n, e } => verify_rsa(n, e, hash, message, &mut input),
            Self::P256(point) if hash == Hash::Sha256 => {
                let algorithm = &ring_signature::ECDSA_P256_SHA256_FIXED;
                verify_curve(algorithm, point, 32, message, &mut input)
            }
            Self::P384(point) if hash == Hash::Sha384 => {
                let algorithm = &ring_signature::ECDSA_P384_SHA384_FIXED;
                verify_curve(algorithm, point, 48, message, &mut input)
            }
            // GnuPG hashes for a curve as long as its numbers, or longer: then ring knows the pair in ASN.1 only.
            Self::P256(point) if hash == Hash::Sha384 => verify_asn1(
                &ring_signature::ECDSA_P256_SHA384_ASN1,
                point,
                message,
                &mut input,
            ),
            Self::P384(point) if hash == Hash::Sha256 => verify_asn1(
                &ring_signature::ECDSA_P384_SHA256_ASN1,
                point,
                message,
                &mut input,
            ),
            Self::P256(_) | Self::P384(_) => None,
            Self::Ed25519(key) => verify_ed25519(key, hash, message, &mut input),
        };
        checked == Some(true)
    }
}

fn rsa(input: &mut Input<'_>) -> Option<Option<Numbers>> {
    let n = input.mpi()?.to_vec();
    let e = input.mpi()?.to_vec();
    Some(Some(Numbers::Rsa { n, e }))
}

fn curve(algorithm: u8, input: &mut Input<'_>) -> Option<Option<Numbers>> {
    let length = input.byte()?;
    let oid = input.take(length.into())?;
    let point = input.mpi()?;
    Some(match (algorithm, oid) {
        (19, P256) => Some(Numbers::P256(point.to_vec())),
        (19, P384) => Some(Numbers::P384(point.to_vec())),
        // 0x40 marks a point in the curve's own form.
        (22, ED25519) => match point {
            [0x40, key @ ..] if key.len() == 32 => Some(Numbers::Ed25519(key.to_vec())),
            _ => return None,
        },
        _ => None,
    })
}

fn verify_rsa(
    n: &[u8],
    e: &[u8],
    hash: Hash,
    message: &[u8],
    input: &mut Input<'_>,
) -> Option<bool> {
    let signature = padded(input.mpi()?, n.len())?;
    let parameters = match hash {
        Hash::Sha256 => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &ring_signature::RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &ring_signature::RSA_PKCS1_2048_8192_SHA512,
    };
    let key = ring_signature::RsaPublicKeyComponents { n, e };
    Some(key.verify(parameters, message, &signature).is_ok())
}

fn verify_curve(
    algorithm: &'static dyn ring_signature::VerificationAlgorithm,
    point: &[u8],
    width: usize,
    message: &[u8],
    input: &mut Input<'_>,
) -> Option<bool> {
    let r = padded(input.mpi()?, width)?;
    let s = padded(input.mpi()?, width)?;
    let key = ring_signature::UnparsedPublicKey::new(algorithm, point);
    Some(key.verify(message, &[r, s].concat()).is_ok())
}

fn verify_asn1(
    algorithm: &'static dyn ring_signature::VerificationAlgorithm,
    point: &[u8],
    message: &[u8],
    input: &mut Input<'_>,
) -> Option<bool> {
    let body = [integer(input.mpi()?)?, integer(input.mpi()?)?].concat();
    // Two numbers of a curve's width are shorter than 128 bytes together.
    let signature = [
        &[0x30, u8::try_from(body.len()).ok().filter(|l| *l < 0x80)?],
        body.as_slice(),
    ]
    .concat();
    let key = ring_signature::UnparsedPublicKey::new(algorithm, point);
    Some(key.verify(message, &signature).is_ok())
}

/// A positive INTEGER of ASN.1: a zero goes before a first bit that would be a sign.
fn integer(number: &[u8]) -> Option<Vec<u8>> {
    let sign = number.first().is_none_or(|b| b & 0x80 != 0);
    let length = u8::try_from(number.len() + usize::from(sign))
        .ok()
        .filter(|l| *l < 0x80)?;
    let mut out = vec![0x02, length];
    out.extend(sign.then_some(0));
    out.extend_from_slice(number);
    Some(out)
}

/// Ed25519 signs the hash here, which is its message.
fn verify_ed25519(key: &[u8], hash: Hash, message: &[u8], input: &mut Input<'_>) -> Option<bool> {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    // RFC 9580 has the 64 bytes as they are; before, they were two numbers.
    let signature = match input.0.len() {
        64 => input.take(64)?.to_vec(),
        _ => [padded(input.mpi()?, 32)?, padded(input.mpi()?, 32)?].concat(),
    };
    let hashed = digest::digest(algorithm, message);
    let key = ring_signature::UnparsedPublicKey::new(&ring_signature::ED25519, key);
    Some(key.verify(hashed.as_ref(), &signature).is_ok())
}

/// With zeros before it; `None` where it is longer.
fn padded(number: &[u8], width: usize) -> Option<Vec<u8>> {
    let zeros = width.checked_sub(number.len())?;
    let mut out = vec![0; zeros];
    out.extend_from_slice(number);
    Some(out)
}

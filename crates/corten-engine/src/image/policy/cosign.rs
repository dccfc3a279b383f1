//! Signatures as cosign makes them with a key: a payload and a signature of its bytes, or a bundle (a signed statement
//! in its envelope).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::claim::Expected;
use super::key::PublicKey;

/// The layers of a signature's manifest.
pub const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where such a layer's annotations have the signature, in base64.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// A referrer with such layers.
pub const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// A referrer that is a bundle; a version follows.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";

const KINDS: [&str; 2] = [
    "cosign container image signature",
    "atomic container signature",
];
const STATEMENT: &str = "application/vnd.in-toto+json";
/// Other statements (an SBOM, a provenance) say something of an image, and not that it may run.
const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// Which of the keys signed the payload; and is it a claim on what is expected?
pub fn check<'k>(
    keys: &'k [PublicKey],
    payload: &[u8],
    signature: &str,
    expected: &Expected<'_>,
) -> Result<&'k PublicKey, String> {
    let signature = STANDARD.decode(signature.trim());
    let signature = signature.map_err(|_| "its signature is no base64")?;
    let key = signer(keys, payload, &signature)?;
    expected.check(payload, &KINDS)?;
    Ok(key)
}

fn signer<'k>(
    keys: &'k [PublicKey],
    message: &[u8],
    signature: &[u8],
) -> Result<&'k PublicKey, String> {
    let found = keys.iter().find(|k| k.verifies(message, signature));
    found.ok_or_else(|| "it is by none of the keys, or was changed since".into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    digest: std::collections::BTreeMap<String, String>,
}

/// The same of a bundle. Certificates and transparency logs in it are not looked at: the key is what is trusted.
pub fn check_bundle<'k>(
    keys: &'k [PublicKey],
    bundle: &[u8],
    expected: &Expected<'_>,
) -> Result<&'k PublicKey, String> {
    let bundle: Bundle =
        serde_json::from_slice(bundle).map_err(|e| format!("its bundle cannot be read ({e})"))?;
    let envelope = bundle.dsse_envelope.ok_or("its bundle has no envelope")?;
    if envelope.payload_type != STATEMENT {
        return Err(format!("its envelope holds a {:?}", envelope.payload_type));
    }
    let payload = STANDARD
        .decode(&envelope.payload)
        .map_err(|_| "its payload is no base64")?;
    let message = authenticated(&envelope.payload_type, &payload);
    let [Signature { sig }] = envelope.signatures.as_slice() else {
        return Err("its envelope has more than one signature, or none".into());
    };
    let signature = STANDARD
        .decode(sig)
        .map_err(|_| "its signature is no base64")?;
    let key = signer(keys, &message, &signature)?;
    let statement: Statement = serde_json::from_slice(&payload)
        .map_err(|e| format!("its statement cannot be read ({e})"))?;
    if statement.predicate_type != PREDICATE {
        return Err(format!(
            "it states a {:?}, which is no signature",
            statement.predicate_type
        ));
    }
    let [subject] = statement.subject.as_slice() else {
        return Err("it speaks of more than one thing, or of none".into());
    };
    let algorithm = expected.digest.algorithm().as_str();
    if subject.digest.get(algorithm).map(String::as_str) != Some(expected.digest.hex()) {
        return Err("it is on another image".into());
    }
    expected.check_name(&subject.name)?;
    Ok(key)
}

/// What is signed of an envelope (DSSE, "Protocol": the pre-authentication encoding).
fn authenticated(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

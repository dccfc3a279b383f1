//! What client and server share of the OCI Distribution Specification 1.1: paths, headers,
//! error bodies, and manifests with their bounds. Pure: bytes in, values out, no I/O.

pub mod error_body;
pub mod header;
pub mod link;
pub mod manifest;
pub mod path;
pub mod query;

/// The largest manifest that either end takes, in bytes: the floor that the specification
/// asks of registries ("Pushing Manifests"), and what other registries use as a ceiling.
pub const MANIFEST_MAX: usize = 4 << 20;
/// The largest error body that is read, in bytes.
pub const ERROR_BODY_MAX: usize = 64 << 10;

//! The words that every other crate speaks: digests, image references, ids,
//! platforms, and the OCI and CNI documents behind them.
//!
//! This crate parses and validates. It does no I/O, holds no state and knows
//! no policy. A value that exists here has already been checked: a
//! [`Digest`], [`Reference`] or [`ContainerId`] cannot hold anything that
//! would be unsafe in a path or a URL.

#![forbid(unsafe_code)]

pub mod chain;
pub mod cidr;
pub mod cni;
pub mod digest;
pub mod id;
pub mod kind;
pub mod media;
pub mod platform;
pub mod reference;

pub use chain::chain;
pub use cidr::{Cidr, CidrError};
pub use digest::{Digest, DigestError};
pub use id::{ContainerId, IdError, Name};
pub use kind::Kind;
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};

/// The OCI document types of the `oci-spec` crate: `oci::image`, `oci::runtime`, `oci::distribution`.
pub use oci_spec as oci;

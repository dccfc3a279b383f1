//! OCI Distribution, both ends: a client that pulls and pushes, and a server that is
//! pulled from and pushed to.
//!
//! - [`client::Client`] turns a reference and a platform into a manifest
//!   ([`Client::resolve`](client::Client::resolve)) and streams blobs into a channel
//!   ([`Client::blob`](client::Client::blob)), through mirrors, authentication, retries and resumption.
//! - [`server::Server`] keeps repositories in a folder and serves them.
//! - [`protocol`] holds what both share: paths, headers, error bodies, manifests and their bounds.
//!
//! The crate knows nothing of the image store, prints nothing and keeps no secret where a
//! `Debug` could show it.

#![forbid(unsafe_code)]

pub mod auth;
pub mod client;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod protocol;
pub mod server;

//! Kubernetes' Container Runtime Interface on the engine: the door that kubelet knocks at.
//!
//! It translates and does not decide: pods, containers and images are the engine's ([`corten_engine`]). The messages
//! ([`proto`]) never leave this crate.

#![forbid(unsafe_code)]

mod blocking;
pub mod cdi;
pub mod exec;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod image;
pub mod proto;
mod readable;
pub mod runtime;
pub mod server;
pub mod spec;
pub mod stats;
mod status;
pub mod stream;

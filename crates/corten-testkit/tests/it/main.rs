//! The kit tested by itself: what it says of a host, a terminal, a registry
//! must be true before any test of the engine can be.
#![forbid(unsafe_code)]

mod fixture;
mod host;
mod registry;
mod terminal;

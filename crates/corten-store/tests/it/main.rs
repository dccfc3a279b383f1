//! The store on a real file system and kernel. Needs root, as the engine does.

#![forbid(unsafe_code)]

mod fixture;
mod overlay;

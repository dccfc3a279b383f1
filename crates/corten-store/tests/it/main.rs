//! The store on a real file system and kernel. Needs root, as the engine does.

#![forbid(unsafe_code)]

mod disk;
mod erofs;
mod fixture;
mod generated;
mod hostile;
mod ingest;
mod migrate;
mod odd;
mod overlay;
mod peers;
mod pods;
mod process;
mod rows;
mod verity;

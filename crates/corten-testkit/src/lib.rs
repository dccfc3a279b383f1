//! What Corten's tests stand on: sandboxes that notice what was left behind,
//! images made from Debian packages, a real registry and one that fails on
//! purpose, a terminal to type into.
//!
//! Nothing here ships. A test takes a [`Sandbox`], pulls a [`fixture::Image`]
//! from a [`Registry`], and ends with [`Sandbox::finish`], which fails the test
//! if the host is not as it was.
#![forbid(unsafe_code)]

pub mod disk;
pub mod error;
pub mod fixture;
pub mod host;
pub mod need;
pub mod outcome;
pub mod proxy;
pub mod registry;
pub mod sandbox;
pub mod terminal;
pub mod tool;
pub mod wait;

pub use disk::{Disk, IdMaps};
pub use error::{Error, Result};
pub use fixture::Image;
pub use outcome::{Complaint, Outcome};
pub use proxy::{Fault, Proxy};
pub use registry::Registry;
pub use sandbox::Sandbox;
pub use terminal::Terminal;

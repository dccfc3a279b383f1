//! CRIU: another program, which writes the processes of a container to files and makes processes of them again.
//!
//! Here is the conversation with it, and nothing about containers. `criu swrk FD` is one helper process for one
//! job. It answers on a socket pair with messages of Protocol Buffers, and asks back at named steps:
//!
//! ```text
//!   us                              criu
//!    │  version? (stay)               │
//!    ├───────────────────────────────▶│
//!    │◀───────────────────────────────┤ 3.17.1
//!    │  dump PID, with these options  │
//!    ├───────────────────────────────▶│
//!    │◀───────────────────────────────┤ notification: network-lock, post-dump, orphan-pts-master + fd …
//!    ├───────────────────────────────▶│ go on
//!    │◀───────────────────────────────┤ dump: success
//!    │                               exit
//! ```
//! Either side's death shows on the other: criu takes back what it has done once its client has gone,
//! and we see its end by its pidfd, as processes that it leaves half made may hold the socket open.

pub(crate) mod descriptors;
pub(crate) mod images;
pub(crate) mod log;
pub(crate) mod message;
mod talk;
mod wire;
pub(crate) mod yard;

pub(crate) use talk::{Criu, Heard, Job, find};

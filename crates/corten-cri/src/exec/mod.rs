//! From a client's streams to a process that a shim supervises, and into a pod's network.
//!
//! ```text
//!   stream::Backend ──▶ run      an added process: streams, exit code
//!                       attach   a container's own: streams
//!   ExecSync        ──▶ collect  an added process: output up to a bound, exit code, a time limit
//!   port-forward    ──▶ port     a connection made inside of the pod's network namespace
//!
//!   attach.sock ◀── pump ──▶ Input, Output      shim.sock ◀── process ──▶ start, exit, kill, delete
//! ```
//!
//! It owns no container: the caller announces the process to the shim, and says where the sockets are. A process that was
//! announced is taken off the shim's list again, whatever becomes of the client: a task of its own sees to that.

mod collect;
mod error;
mod port;
mod process;
mod pump;
mod run;

pub use collect::{Collected, OUTPUT_MAX, collect};
pub use error::Error;
pub use port::port;
pub use process::Announced;
pub use run::{attach, run};

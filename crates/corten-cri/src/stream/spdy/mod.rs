//! SPDY/3.1 as far as Kubernetes uses it: a client opens streams, both send bytes on them, either ends or resets them.
//!
//! Windows are not kept, because no peer keeps them: `stream::channel` says what stands in their place. There is a crate for
//! this, under the GPL, and none that could be taken.

pub(super) mod connection;
pub(super) mod frame;
pub(super) mod header;

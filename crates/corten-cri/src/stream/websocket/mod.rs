//! WebSocket (RFC 6455): the handshake, the frames, and what Kubernetes sends in them.

mod channels;
pub(super) mod frame;
pub(super) mod handshake;
mod tunnel;

pub(super) use channels::{Channels, FORWARD, REMOTE, forward, remote};
pub(super) use tunnel::{TUNNEL, tunnel};

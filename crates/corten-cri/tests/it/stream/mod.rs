//! The streaming server, by clients of our own that share no code with it.

mod backend;
mod client;
mod forward;
mod remote;
mod server;
pub mod spdy;
mod websocket;

//! The servers by themselves, with doubles behind them, and clients of HTTP/2, SPDY and WebSocket that send what they like.

#![forbid(unsafe_code)]

mod double;
mod exec;
mod server;
mod stream;

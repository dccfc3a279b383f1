//! Both servers by themselves, with doubles behind them and clients that send what they like. On loopback, and nothing is left
//! behind.

#![forbid(unsafe_code)]

mod double;
mod server;
mod stream;

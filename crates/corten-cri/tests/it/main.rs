//! The server by itself, with doubles behind it and a client of HTTP/2 that sends what it likes.

#![forbid(unsafe_code)]

mod double;
mod server;

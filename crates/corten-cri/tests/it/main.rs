//! The interface from outside, over sockets. Runs on loopback and leaves nothing behind.

mod stream;

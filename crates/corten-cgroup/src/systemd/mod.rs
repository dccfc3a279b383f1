//! x
#![allow(dead_code)]
mod message;
mod value;

//! The kernel, safely: the only unsafe code of the project

pub mod bpf;
pub mod netlink;

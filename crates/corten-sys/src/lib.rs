//! The kernel, safely: the only unsafe code of the project

pub mod netlink;

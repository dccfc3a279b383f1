//! corten-net in network namespaces of the tests' own: the machine's network stays untouched.

mod attach;
mod dhcp;
mod firewall;
mod names;
mod parallel;
mod peers;
mod rig;
mod traffic;
mod userns;

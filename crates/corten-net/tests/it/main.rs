//! corten-net in network namespaces of the tests' own: the machine's network stays untouched.

mod attach;
mod firewall;
mod firewall_plugin;
mod others;
mod parallel;
mod peers;
mod policy;
mod portmap;
mod reload;
mod rig;
mod traffic;

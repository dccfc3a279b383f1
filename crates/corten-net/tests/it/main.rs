//! corten-net in network namespaces of the tests' own: the machine's network stays untouched.

mod attach;
mod dhcp;
mod firewall;
mod firewall_plugin;
mod names;
mod others;
mod parallel;
mod peers;
mod policy;
mod portmap;
mod protocol;
mod reload;
mod rig;
mod traffic;
mod userns;

//! corten-net in network namespaces of the tests' own: the machine's network stays untouched.

mod asked;
mod attach;
mod chained;
mod dhcp;
mod firewall;
mod killed;
mod kinds;
mod links;
mod names;
mod parallel;
mod peers;
mod plugins;
mod protocol;
mod rig;
mod traffic;

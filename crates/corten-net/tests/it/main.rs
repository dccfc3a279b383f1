//! corten-net in network namespaces of the tests' own: the machine's network stays untouched.

mod asked;
mod attach;
mod chained;
mod firewall;
mod killed;
mod kinds;
mod links;
mod parallel;
mod peers;
mod plugins;
mod rig;
mod traffic;

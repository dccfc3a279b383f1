//! corten-net in network namespaces of the tests' own: the machine's network stays untouched.

mod asked;
mod attach;
mod chained;
mod chains;
mod dhcp;
mod firewall;
mod firewall_plugin;
mod killed;
mod killed_rules;
mod kinds;
mod links;
mod names;
mod others;
mod parallel;
mod peers;
mod plugins;
mod policy;
mod portmap;
mod protocol;
mod reload;
mod rig;
mod traffic;
mod userns;

//! The documents of the Container Network Interface, versions 0.3.0 to 1.1.0:
//! network configurations and lists, results, error objects, the arguments that a
//! runtime passes by capability.
//!
//! Parsing is strict where the specification is (names, versions, types) and open
//! where it is: keys that we do not know pass through to the plugin untouched.

mod capability;
mod config;
mod error;
mod result;
mod version;

pub use capability::{Capabilities, DnsArgument, PortMapping, Protocol};
pub use config::{ConfigError, NetworkConfigList, PluginConfig, check_ifname, check_network_name};
pub use error::{ErrorObject, code};
pub use result::{CniResult, Dns, Interface, IpConfig, ResultError, Route};
pub use version::{Version, VersionInfo};

/// The largest document that is read: a configuration, a result, an error.
pub const MAX_DOCUMENT: usize = 1 << 20;

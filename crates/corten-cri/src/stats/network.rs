//! What went through the interfaces of a pod.

use std::path::Path;

use corten_net::link::{Counters, Links, netns};

use crate::proto::{NetworkInterfaceUsage, NetworkUsage, UInt64Value};

/// An interface and its counters.
pub type Interface = (String, Counters);

/// What kubelet shows as the pod's traffic.
const DEFAULT: &str = "eth0";
const LOOPBACK: &str = "lo";

/// Reads the counters inside the network namespace at `path`, without the loopback's. A namespace that has gone has none.
pub fn read(path: &Path) -> Result<Vec<Interface>, corten_net::Error> {
    let Some(file) = netns::open_if_there(path)? else {
        return Ok(vec![]);
    };
    let mut all = netns::inside(&file, path, || Links::open()?.counters())?;
    all.retain(|(name, _)| name != LOOPBACK);
    Ok(all)
}

/// The interface `eth0`, or else the first, is the default one.
pub fn usage(interfaces: &[Interface], at: i64) -> NetworkUsage {
    let value = |value| Some(UInt64Value { value });
    let one = |(name, counters): &Interface| NetworkInterfaceUsage {
        name: name.clone(),
        rx_bytes: value(counters.received.bytes),
        rx_errors: value(counters.received.errors),
        tx_bytes: value(counters.sent.bytes),
        tx_errors: value(counters.sent.errors),
    };
    NetworkUsage {
        timestamp: at,
        default_interface: default(interfaces).map(one),
        interfaces: interfaces.iter().map(one).collect(),
    }
}

pub(super) fn default(interfaces: &[Interface]) -> Option<&Interface> {
    let named = interfaces.iter().find(|(name, _)| name == DEFAULT);
    named.or(interfaces.first())
}

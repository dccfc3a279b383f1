//! Network devices of the host that move to the container (config-linux.md, "Network Devices").

use corten_sys::namespace::Namespaces;
use oci_spec::runtime::Linux;

use super::namespaces;
use crate::error::{Error, invalid};

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetDevice {
    pub host: String,
    /// In the container. With `%d` the kernel chooses a number.
    pub name: String,
}

/// `IFNAMSIZ`, without the null byte.
const NAME_MAX: usize = 15;

pub(crate) fn plan(linux: &Linux, namespaces: &namespaces::Plan) -> Result<Vec<NetDevice>, Error> {
    const FIELD: &str = "linux.netDevices";
    let mut devices: Vec<NetDevice> = Vec::new();
    for (host, asked) in linux.net_devices().iter().flatten() {
        let name = asked.name().clone().filter(|name| !name.is_empty());
        let device = NetDevice {
            name: name.unwrap_or_else(|| host.clone()),
            host: host.clone(),
        };
        for name in [&device.host, &device.name] {
            if !possible(name) {
                let problem = format!("names {name:?}, which is no name of a device");
                return Err(invalid(FIELD, problem));
            }
        }
        let template = device.name.contains('%');
        if devices.iter().any(|d| !template && d.name == device.name) {
            let problem = format!("gives the name {:?} to two devices", device.name);
            return Err(invalid(FIELD, problem));
        }
        devices.push(device);
    }
    if !devices.is_empty() && !namespaces.own(Namespaces::NETWORK) {
        let problem = "is set, but the container shares the host's network namespace";
        return Err(invalid(FIELD, problem));
    }
    // The order of a map is nobody's: one that is always the same is easier to live with.
    devices.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(devices)
}

/// The kernel's own rule (`dev_valid_name`), and at most one template in it.
fn possible(name: &str) -> bool {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
    let template = match name.split_once('%') {
        Some((_, rest)) => rest.starts_with('d') && !rest.contains('%'),
        None => true,
    };
    !name.is_empty()
        && name.len() <= NAME_MAX
        && !matches!(name, "." | "..")
        && !name.contains(odd)
        && template
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        for name in ["eth0", "a.b", "eth%d", "x%d.1", "123456789012345"] {
            assert!(possible(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "1234567890123456",
            "%s",
            "%d%d",
        ] {
            assert!(!possible(name), "{name}");
        }
    }
}

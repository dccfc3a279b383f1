//! The files of /etc that the engine writes for a container.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use corten_net::names::{self, ResolverOverrides};

use crate::container::options::{NetworkMode, NetworkOptions};
use crate::error::Error;

/// The host's resolver configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The files of /etc that the engine makes for a container, and their texts.
pub(crate) struct Files {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

impl Files {
    pub fn of(folder: &Path) -> Self {
        Self {
            hosts: folder.join("hosts"),
            hostname: folder.join("hostname"),
            resolv_conf: folder.join("resolv.conf"),
        }
    }

    /// Writes all three in place (the inode stays, since it is what gets mounted). Addresses are
    /// known only once the container's namespace exists; until then the list is empty.
    pub fn write(
        &self,
        hostname: &str,
        options: &NetworkOptions,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let write =
            |path: &Path, text: String| fs::write(path, text).map_err(Error::io("write", path));
        let host = options.mode == NetworkMode::Host;
        let hosts = match (host, fs::read_to_string("/etc/hosts")) {
            (true, Ok(mut text)) => {
                for (name, ip) in &options.add_host {
                    text.push_str(&format!("{ip}\t{name}\n"));
                }
                text
            }
            _ => names::hosts(hostname, &[], addresses, &options.add_host),
        };
        write(&self.hosts, hosts)?;
        write(&self.hostname, format!("{hostname}\n"))?;
        let of_host = match fs::read_to_string(RESOLV_CONF) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", RESOLV_CONF)(e)),
        };
        let text = match host && options.dns.is_empty() {
            // In the host's network its loopback resolver answers.
            true => of_host,
            false => names::resolv_conf(
                &of_host,
                &ResolverOverrides {
                    nameservers: options.dns.iter().map(IpAddr::to_string).collect(),
                    ..ResolverOverrides::default()
                },
            ),
        };
        write(&self.resolv_conf, text)
    }
}

//! The files of /etc that the engine writes for a container.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use corten_net::names::{self, ResolverOverrides};

use crate::container::options::{NetworkMode, NetworkOptions};
use crate::container::record::Run;
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

    /// Makes them those of another container, whose network is shared: the very files, so that both see what is changed, and
    /// the one that goes last keeps them.
    pub fn share(&self, of: &Files) -> Result<(), Error> {
        for (own, theirs) in [
            (&self.hosts, &of.hosts),
            (&self.hostname, &of.hostname),
            (&self.resolv_conf, &of.resolv_conf),
        ] {
            match fs::remove_file(own) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", own)(e));
                }
                _ => {}
            }
            fs::hard_link(theirs, own).map_err(Error::io("link", theirs))?;
        }
        Ok(())
    }

    /// The host name that was written.
    pub fn hostname(&self) -> Result<String, Error> {
        let text = fs::read_to_string(&self.hostname).map_err(Error::io("read", &self.hostname))?;
        Ok(text.trim_end().to_owned())
    }

    /// What they hold for a run that has what `run` says. `names`: it asks the resolver of its networks.
    pub fn texts(
        &self,
        hostname: &str,
        options: &NetworkOptions,
        run: &Run,
        names: bool,
    ) -> Result<Texts, Error> {
        Ok(Texts {
            hosts: hosts(hostname, options, run),
            hostname: format!("{hostname}\n"),
            resolv_conf: resolv_conf(options, names)?,
        })
    }

    /// Writes all three in place (the inode stays, since it is what gets mounted).
    pub fn write(&self, texts: &Texts) -> Result<(), Error> {
        for (path, text) in self.with(texts) {
            fs::write(path, text).map_err(Error::io("write", path))?;
        }
        Ok(())
    }

    /// As [`Self::write`], but for those that are no longer as we wrote them: the container's changes stay.
    pub fn rewrite(&self, old: &Texts, new: &Texts) -> Result<(), Error> {
        for ((path, old), (_, new)) in self.with(old).into_iter().zip(self.with(new)) {
            let now = fs::read(path).map_err(Error::io("read", path))?;
            if now == old.as_bytes() && old != new {
                fs::write(path, new).map_err(Error::io("write", path))?;
            }
        }
        Ok(())
    }

    fn with<'t>(&'t self, texts: &'t Texts) -> [(&'t Path, &'t str); 3] {
        [
            (&self.hosts, &texts.hosts),
            (&self.hostname, &texts.hostname),
            (&self.resolv_conf, &texts.resolv_conf),
        ]
    }
}

/// What is in the three files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    hosts: String,
    hostname: String,
    resolv_conf: String,
}

fn hosts(hostname: &str, options: &NetworkOptions, run: &Run) -> String {
    let mut extra = options.add_host.clone();
    let host = options.mode == NetworkMode::Host;
    let gateways = run.networks.iter().flat_map(|n| &n.gateways).copied();
    let gateway = match host {
        true => Some(Ipv4Addr::LOCALHOST.into()),
        false => gateways
            .clone()
            .find(IpAddr::is_ipv4)
            .or(gateways.clone().next()),
    };
    if let Some(gateway) = gateway {
        extra.extend(
            options
                .gateway_hosts
                .iter()
                .map(|name| (name.clone(), gateway)),
        );
    }
    match (host, fs::read_to_string("/etc/hosts")) {
        (true, Ok(mut text)) => {
            for (name, ip) in &extra {
                text.push_str(&format!("{ip}\t{name}\n"));
            }
            text
        }
        _ => names::hosts(hostname, &[], &run.addresses, &extra),
    }
}

fn resolv_conf(options: &NetworkOptions, names: bool) -> Result<String, Error> {
    let of_host = match fs::read_to_string(RESOLV_CONF) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io("read", RESOLV_CONF)(e)),
    };
    let unchanged =
        options.dns.is_empty() && options.dns_search.is_empty() && options.dns_options.is_empty();
    if options.mode == NetworkMode::Host && unchanged {
        // In the host's network its loopback resolver answers.
        return Ok(of_host);
    }
    let overrides = ResolverOverrides {
        nameservers: options.dns.iter().map(IpAddr::to_string).collect(),
        search: options.dns_search.clone(),
        options: options.dns_options.clone(),
    };
    Ok(match names {
        true => names::resolv_conf_of_served(&of_host, &overrides),
        false => names::resolv_conf(&of_host, &overrides),
    })
}

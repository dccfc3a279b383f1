//! A lease: what a server gave, until when, and its file. One JSON file a lease below the
//! daemon's folder, written whole and before the server is asked for the address for good; it names
//! its owner, so that a daemon that is started after another was killed renews what that had.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use corten_spec::Cidr;
use serde::{Deserialize, Serialize};

use super::message::{Incoming, code, is_host};
use crate::Error;
use crate::error::file_error;
use crate::owner::fnv1a;

/// The longest lease: 0xffffffff means for ever (RFC 2131, section 3.3).
const FOR_EVER: u32 = u32::MAX;
/// A server that gives less would have us ask all the time.
const SHORTEST: u32 = 2;
const MAX_FILE: u64 = 256 << 10;
const SUFFIX: &str = ".json";
const MAX_SERVERS: usize = 8;
const MAX_ROUTES: usize = 256;

/// What a server gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub address: Cidr,
    pub server: Ipv4Addr,
    pub gateway: Option<Ipv4Addr>,
    #[serde(default)]
    pub routes: Vec<(Cidr, Ipv4Addr)>,
    #[serde(default)]
    pub nameservers: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub mtu: Option<u16>,
    /// Seconds: of the lease, until it is renewed, until any server is asked.
    pub duration: u32,
    pub renewal: u32,
    pub rebinding: u32,
}

impl Lease {
    /// Reads an offer or acknowledgement; the reason why it cannot be used otherwise.
    pub fn read(message: &Incoming) -> Result<Self, &'static str> {
        let server = message.addresses(code::SERVER_ID);
        let server = *server.first().ok_or("names no server")?;
        let prefix = message
            .prefix()
            .ok_or("has no subnet mask, or one with holes")?;
        let address = message.address;
        let cidr = Cidr::new(address.into(), prefix).filter(|_| is_host(address));
        let cidr = cidr.ok_or("gives an address that is no host's")?;
        let first_or_last = cidr.network().address() == address || cidr.last() == address;
        if prefix < 31 && first_or_last {
            return Err("gives an address that is no host's");
        }
        let duration = message
            .number(code::LEASE_TIME)
            .ok_or("says nothing of its time")?;
        let duration = duration.max(SHORTEST);
        // Section 4.4.5; what a server says is believed only where the order is right.
        let rebinding = message.number(code::REBINDING_TIME);
        let rebinding = rebinding.filter(|t| *t < duration && *t > 0);
        let rebinding = rebinding.unwrap_or((u64::from(duration) * 7 / 8) as u32);
        let renewal = message.number(code::RENEWAL_TIME);
        let renewal = renewal.filter(|t| *t <= rebinding && *t > 0);
        let renewal = renewal.unwrap_or((duration / 2).min(rebinding));
        let mut routes = message.routes();
        routes.truncate(MAX_ROUTES);
        let gateway = routes
            .iter()
            .find(|(to, via)| to.prefix() == 0 && !via.is_unspecified())
            .map(|(_, via)| *via);
        let mut nameservers = message.addresses(code::NAME_SERVERS);
        nameservers.truncate(MAX_SERVERS);
        Ok(Self {
            address: cidr,
            server,
            gateway,
            routes,
            nameservers,
            domain: message.text(code::DOMAIN_NAME).filter(|d| is_domain(d)),
            // 68 is the least that IPv4 works with.
            mtu: message.short(code::MTU).filter(|m| *m >= 68),
            duration,
            renewal,
            rebinding,
        })
    }

    pub fn host(&self) -> Ipv4Addr {
        match self.address.address() {
            std::net::IpAddr::V4(address) => address,
            std::net::IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }
}

fn is_domain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    text.len() < 254 && text.bytes().all(plain)
}

/// What is due of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing, until then.
    Later(u64),
    /// Its server is to be asked; the next try after so many seconds.
    Renew {
        again: u64,
    },
    /// Any server is to be asked.
    Rebind {
        again: u64,
    },
    /// The address is not ours any more.
    Expired,
    Never,
}

/// Whose a lease is, what for, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub container: String,
    pub ifname: String,
    pub network: String,
    pub netns: PathBuf,
    /// Device and inode of the namespace.
    pub namespace: (u64, u64),
    pub lease: Lease,
    /// Seconds of the clock that counts from the host's start, suspensions included.
    pub since: u64,
    /// Options that the client sends with every message.
    pub provide: Vec<(u8, Vec<u8>)>,
    /// Options that it asks for.
    pub request: Vec<u8>,
}

impl Record {
    pub fn key(&self) -> String {
        key(&self.container, &self.network, &self.ifname)
    }

    /// Seconds since the start of the host at which the lease is over.
    pub fn end(&self) -> Option<u64> {
        let duration = self.lease.duration;
        (duration != FOR_EVER).then(|| self.since + u64::from(duration))
    }

    pub fn due(&self, now: u64) -> Due {
        let Some(end) = self.end() else {
            return Due::Never;
        };
        let renewal = self.since + u64::from(self.lease.renewal);
        let rebinding = self.since + u64::from(self.lease.rebinding);
        // Half of what is left, but no more often than once a minute (RFC 2131, section 4.4.5), or
        // eight times in a lease that is shorter.
        let least = u64::from(self.lease.duration / 8).clamp(1, 60);
        let again = |until: u64| (now + ((until - now) / 2).max(least)).min(until);
        match now {
            _ if now >= end => Due::Expired,
            _ if now >= rebinding => Due::Rebind { again: again(end) },
            _ if now >= renewal => Due::Renew {
                again: again(rebinding),
            },
            _ => Due::Later(renewal),
        }
    }

    /// Whether the namespace is still there, under its path.
    pub fn is_there(&self, prefix: &Path) -> bool {
        let metadata = fs::metadata(below(prefix, &self.netns));
        metadata.is_ok_and(|m| (m.dev(), m.ino()) == self.namespace)
    }
}

/// A path of the host, as seen by a daemon that has the host's root below `prefix`.
pub fn below(prefix: &Path, path: &Path) -> PathBuf {
    if prefix.as_os_str().is_empty() {
        return path.into();
    }
    prefix.join(path.strip_prefix("/").unwrap_or(path))
}

/// A container on a network by a link; the client identifier too, as the reference plugin's.
pub fn key(container: &str, network: &str, ifname: &str) -> String {
    format!("{container}/{network}/{ifname}")
}

/// The folder of the leases.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
}

impl Folder {
    fn path_of(&self, key: &str) -> PathBuf {
        let name = format!("{:016x}{SUFFIX}", fnv1a(key.as_bytes()));
        self.path.join(name)
    }

    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.path_of(&record.key());
        let new = path.with_extension("new");
        let text = serde_json::to_vec(record).map_err(|e| file_error("write", &path)(e.into()))?;
        fs::create_dir_all(&self.path).map_err(file_error("make", &self.path))?;
        File::create(&new)
            .and_then(|mut file| file.write_all(&text))
            .map_err(file_error("write", &new))?;
        fs::rename(&new, &path).map_err(file_error("write", &path))
    }

    pub fn remove(&self, key: &str) -> Result<(), Error> {
        let path = self.path_of(key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// All leases, and the files that are none, with the reason.
    pub fn list(&self) -> (Vec<Record>, Vec<(PathBuf, String)>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let Ok(entries) = fs::read_dir(&self.path) else {
            return (good, bad);
        };
        for path in entries.flatten().map(|e| e.path()) {
            if path.extension().is_none_or(|e| e != "json") {
                // A killed writer's, of which the last whole version is still there.
                let _ = fs::remove_file(&path);
                continue;
            }
            match read(&path) {
                Ok(record) if self.path_of(&record.key()) == path => good.push(record),
                Ok(record) => bad.push((path, format!("it is {}'s", record.key()))),
                Err(reason) => bad.push((path, reason)),
            }
        }
        (good, bad)
    }
}

fn read(path: &Path) -> Result<Record, String> {
    let mut text = Vec::new();
    let file = File::open(path).and_then(|f| f.take(MAX_FILE).read_to_end(&mut text));
    file.map_err(|e| format!("it cannot be read: {e}"))?;
    serde_json::from_slice(&text).map_err(|e| format!("it is no lease: {e}"))
}

/// Seconds of the clock that leases are counted by.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0)
}

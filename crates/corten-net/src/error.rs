//! What can go wrong in this crate, and what sort of failure each is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use corten_spec::cni::{ConfigError, ErrorObject, Protocol, ResultError, code};
use corten_spec::{Cidr, Kind};
use corten_sys::netlink;
use rustix::io::Errno;

/// The crate's error. Each variant states its own layer; the rest is in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action}")]
    Netlink {
        /// What was asked of the kernel: `make bridge corten0`.
        action: String,
        #[source]
        source: netlink::Error,
    },
    /// The kernel was built without this kind of link, or its module is not there.
    #[error("this kernel has no links of kind {kind}")]
    NoLinkKind {
        kind: &'static str,
        #[source]
        source: netlink::Error,
    },
    #[error("cannot make the tap link {name}")]
    Tap {
        name: String,
        #[source]
        source: Errno,
    },
    #[error("cannot {action} {path}", path = path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the network namespace {path}", path = path.display())]
    Netns {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("port {address}/{protocol} is published by container {owner}")]
    PortTaken {
        address: SocketAddr,
        protocol: Protocol,
        /// The container's id, or what the map element says of itself.
        owner: String,
    },
    #[error("address {address} is held by {owner}")]
    AddressTaken {
        address: IpAddr,
        /// In words: `container web`, or another host.
        owner: String,
    },
    #[error("the container has a link {name} already, of kind {kind:?}")]
    LinkTaken { name: String, kind: String },
    /// What STATUS says when ADD would fail.
    #[error("the plugin cannot serve ADD now")]
    NotAvailable {
        #[source]
        source: Box<Error>,
    },
    #[error("no address is free in {range}")]
    RangeFull { range: String },
    #[error("subnet {subnet} overlaps {other}, which is routed through {link}")]
    SubnetTaken {
        subnet: Cidr,
        other: Cidr,
        link: String,
    },
    #[error("network {network} is in use by {containers}")]
    InUse { network: String, containers: String },
    #[error("{what} {value:?} {reason}")]
    Invalid {
        what: &'static str,
        value: String,
        reason: String,
    },
    #[error("the network configuration is not usable")]
    Config(#[from] ConfigError),
    #[error("the network configuration {path} is not usable", path = path.display())]
    ConfigFile {
        path: PathBuf,
        #[source]
        source: Box<Error>,
    },
    #[error("the result of plugin {plugin} is not usable")]
    Result {
        plugin: String,
        #[source]
        source: ResultError,
    },
    #[error("there is no CNI plugin {plugin} in {searched}")]
    PluginMissing { plugin: String, searched: String },
    #[error("CNI plugin {plugin} failed at {verb}")]
    Plugin {
        plugin: String,
        verb: &'static str,
        #[source]
        source: Box<Error>,
    },
    /// The error object that an executable printed.
    #[error("{msg}{details}{code}",
        msg = object.msg,
        details = if object.details.is_empty() { String::new() } else { format!(": {}", object.details) },
        code = format_args!(" (code {})", object.code))]
    Reported { object: ErrorObject },
    /// What an executable did instead of printing a document.
    #[error("it ended with {status} and {output:?}")]
    Silent { status: String, output: String },
    /// ADD failed; what it had done was undone, but for `undo`.
    #[error("cannot attach container {container} to network {network}{and}",
        and = undo_text(undo))]
    Attach {
        container: String,
        network: String,
        #[source]
        source: Box<Error>,
        undo: Vec<Error>,
    },
    /// What CHECK found to differ.
    #[error("{what} is {found}, not {wanted}")]
    Mismatch {
        what: String,
        found: String,
        wanted: String,
    },
    /// The resolver does not answer for a container.
    #[error("the names of container {container} are not served from {folder}: {reason}", folder = folder.display())]
    Unserved {
        container: String,
        folder: PathBuf,
        reason: String,
    },
    /// A socket could not be had on an address.
    #[error("cannot listen on {address}")]
    Address {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// What the daemon that holds leases says.
    #[error("network {network} has no DHCP lease for the container: {reason}")]
    Dhcp { network: String, reason: String },
    /// An unprivileged namespace cannot be connected to the outside.
    #[error("the namespace has no way out: {reason}")]
    NoWayOut { reason: String },
    /// Several things were to be freed, and some could not be.
    #[error("{count} of the things to free could not be, the first of them as follows", count = all.len())]
    Several {
        #[source]
        first: Box<Error>,
        all: Vec<String>,
    },
}

fn undo_text(undo: &[Error]) -> String {
    let all: Vec<String> = undo.iter().map(Error::chain).collect();
    if all.is_empty() {
        return String::new();
    }
    format!("; undoing it failed too ({})", all.join("; "))
}

/// What a failed call about a file is made of: `.map_err(file_error("write", &path))`.
pub(crate) fn file_error(
    action: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

impl Error {
    /// The error and its sources on one line.
    pub fn chain(&self) -> String {
        corten_spec::chain(self)
    }

    pub fn kind(&self) -> Kind {
        match self {
            Error::Netlink { source, .. } => netlink_kind(source),
            Error::NoLinkKind { .. } => Kind::Unsupported,
            Error::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Internal,
            },
            Error::Tap { source, .. } | Error::Netns { source, .. } => match *source {
                Errno::NOENT => Kind::NotFound,
                Errno::PERM | Errno::ACCESS => Kind::Denied,
                Errno::INVAL => Kind::Invalid,
                Errno::BUSY => Kind::AlreadyExists,
                _ => Kind::Internal,
            },
            Error::PortTaken { .. } | Error::AddressTaken { .. } | Error::LinkTaken { .. } => {
                Kind::AlreadyExists
            }
            Error::NotAvailable { .. } => Kind::Unavailable,
            Error::RangeFull { .. } | Error::InUse { .. } => Kind::Busy,
            Error::SubnetTaken { .. } | Error::Mismatch { .. } => Kind::Conflict,
            Error::Invalid { .. } | Error::Config(_) => Kind::Invalid,
            Error::Result { .. } | Error::Silent { .. } | Error::Unserved { .. } => {
                Kind::Unavailable
            }
            Error::Address { .. } => Kind::Internal,
            Error::Dhcp { .. } | Error::NoWayOut { .. } => Kind::Unavailable,
            Error::PluginMissing { .. } => Kind::NotFound,
            Error::Reported { object } => object.kind(),
            Error::Plugin { source, .. }
            | Error::Attach { source, .. }
            | Error::ConfigFile { source, .. } => source.kind(),
            Error::Several { first, .. } => first.kind(),
        }
    }

    /// The error as a plugin prints it.
    pub fn to_object(&self, version: &str) -> ErrorObject {
        let code = match self {
            Error::Reported { object } => object.code,
            Error::Netlink { .. }
            | Error::NoLinkKind { .. }
            | Error::Tap { .. }
            | Error::Netns { .. } => code::KERNEL,
            Error::File { .. } => code::IO,
            Error::PortTaken { .. } | Error::AddressTaken { .. } | Error::LinkTaken { .. } => {
                code::TAKEN
            }
            Error::NotAvailable { .. } => code::NOT_AVAILABLE,
            Error::RangeFull { .. } | Error::Dhcp { .. } => code::TRY_AGAIN,
            Error::SubnetTaken { .. } | Error::Config(_) => code::INVALID_CONFIG,
            Error::Invalid { what, .. } if what.starts_with("CNI_") => code::INVALID_ENVIRONMENT,
            Error::Invalid { .. } => code::INVALID_CONFIG,
            Error::Result { .. } => code::DECODING,
            Error::Mismatch { .. } => code::MISMATCH,
            Error::Plugin { source, .. }
            | Error::Attach { source, .. }
            | Error::ConfigFile { source, .. } => {
                return source.to_object(version);
            }
            Error::Several { first, .. } => return first.to_object(version),
            Error::Address { .. } => code::KERNEL,
            Error::PluginMissing { .. }
            | Error::Silent { .. }
            | Error::InUse { .. }
            | Error::NoWayOut { .. }
            | Error::Unserved { .. } => code::INTERNAL,
        };
        let text = corten_spec::chain(self);
        let msg = self.to_string();
        let details = text[msg.len()..].trim_start_matches(": ").to_owned();
        ErrorObject {
            cni_version: version.into(),
            code,
            msg,
            details,
        }
    }

    /// One error of several, or none.
    pub(crate) fn several(mut all: Vec<Error>) -> Result<(), Error> {
        if all.len() < 2 {
            return all.pop().map_or(Ok(()), Err);
        }
        let texts = all.iter().map(Error::chain).collect();
        Err(Error::Several {
            first: Box::new(all.swap_remove(0)),
            all: texts,
        })
    }
}

fn netlink_kind(error: &netlink::Error) -> Kind {
    match error.errno() {
        Some(Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL) => Kind::NotFound,
        Some(Errno::EXIST) => Kind::AlreadyExists,
        Some(Errno::BUSY | Errno::AGAIN) => Kind::Busy,
        Some(Errno::PERM | Errno::ACCESS) => Kind::Denied,
        Some(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => Kind::Unsupported,
        _ => Kind::Internal,
    }
}

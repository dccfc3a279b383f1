//! What can go wrong between us and a registry: one variant for each thing that a person
//! would do something else about, and [`Hint`], what that something is.

use std::path::PathBuf;
use std::time::Duration;

use corten_spec::{Digest, Kind};

use crate::protocol::error_body::Said;
use crate::protocol::manifest::ManifestError;

/// A failure of the client. Messages state this layer only; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no image {reference} on {host}{said}")]
    UnknownManifest {
        reference: String,
        host: String,
        said: Said,
    },
    #[error("no blob {digest} in {repository} on {host}{said}")]
    UnknownBlob {
        digest: Digest,
        repository: String,
        host: String,
        said: Said,
    },
    /// The registry wants to know who asks: nobody was named, or the password is wrong.
    #[error("{host} refused {}{said}", who(user))]
    Unauthorized {
        host: String,
        /// The account that was tried; `None` where no credentials were at hand.
        user: Option<String>,
        said: Said,
    },
    /// The registry knows who asks and does not let them.
    #[error("{host} denies access to {repository}{said}")]
    Denied {
        host: String,
        repository: String,
        said: Said,
    },
    #[error("{host} sent {actual} where {expected} was asked for")]
    DigestMismatch {
        host: String,
        expected: Digest,
        actual: Digest,
    },
    /// More or fewer bytes than the descriptor, or our bound, allows.
    #[error("{host} sent {actual} bytes of {what}, where {expected} were to come")]
    SizeMismatch {
        host: String,
        what: String,
        expected: u64,
        actual: u64,
    },
    #[error("{what} on {host} exceeds the bound of {limit} bytes")]
    TooLarge {
        host: String,
        what: String,
        limit: u64,
    },
    /// The connection ended before the answer did, also on every new try.
    #[error("{host} cut the connection {received} bytes into {what}, {tries} times")]
    Cut {
        host: String,
        what: String,
        received: u64,
        tries: u32,
        #[source]
        source: Option<hyper::Error>,
    },
    #[error("cannot connect to {host}")]
    Connect {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{host} did not {doing} within {after:?}")]
    Timeout {
        host: String,
        doing: &'static str,
        after: Duration,
    },
    /// Bytes came, but too few of them: also on every new try.
    #[error("{host} sends {rate} bytes a second, less than the {floor} that are waited for")]
    Slow { host: String, rate: u64, floor: u64 },
    #[error("no TLS connection with {host}")]
    Tls {
        host: String,
        /// What answered does not speak TLS at all.
        plain: bool,
        #[source]
        source: std::io::Error,
    },
    #[error("{host} does not answer like a registry: {why}")]
    NotARegistry { host: String, why: String },
    #[error("{reference} has media type {media_type:?}, which is no image")]
    MediaType {
        reference: String,
        media_type: String,
    },
    #[error("{reference} has no image for {wanted}, only for {}", list(available))]
    NoPlatform {
        reference: String,
        wanted: String,
        available: Vec<String>,
    },
    #[error("{host} sent a bad manifest for {reference}")]
    Manifest {
        host: String,
        reference: String,
        #[source]
        source: ManifestError,
    },
    /// 429, still after every retry.
    #[error("{host} limits the rate of requests{said}")]
    RateLimited {
        host: String,
        retry_after: Option<Duration>,
        said: Said,
    },
    #[error("{host} answered {what} with status {status}{said}")]
    Status {
        host: String,
        what: String,
        status: u16,
        said: Said,
    },
    #[error("{host} redirects to {to:?}, which is not followed: {why}")]
    Redirect {
        host: String,
        to: String,
        why: &'static str,
    },
    #[error("{host} asks for authentication in a way that is not supported: {why}")]
    Challenge { host: String, why: String },
    /// `hosts.toml`, a certificate, or Docker's `config.json`.
    #[error("cannot use {}: {why}", path.display())]
    Config {
        path: PathBuf,
        why: String,
        #[source]
        source: Option<std::io::Error>,
    },
    #[error("credential helper {program} failed for {server}: {why}")]
    CredentialHelper {
        program: String,
        server: String,
        why: String,
    },
    #[error("proxy {proxy} cannot be used: {why}")]
    Proxy { proxy: String, why: String },
    /// Other clients wrote the same list again and again between our reading and our writing.
    #[error("{tag} on {host} is being changed by others all the time")]
    Contended { host: String, tag: String },
    /// The receiver of a blob's bytes was dropped: the caller lost interest.
    #[error("nobody takes the bytes of {digest} any more")]
    Abandoned { digest: Digest },
    #[error("cannot read the blob to push")]
    Source(#[source] std::io::Error),
}

/// What a person can do about an [`Error`]; the command line turns it into a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Check the name and tag.
    CheckName,
    /// Log in to this host, or (with `user`) correct what is stored for it.
    Login { host: String, user: Option<String> },
    /// Ask for one of these platforms.
    Platforms(Vec<String>),
    /// Trust the certificate's authority: `ca` in `certs.d/HOST/hosts.toml`.
    TrustCa { host: String },
    /// The host speaks plain HTTP: `server = "http://…"` in `certs.d/HOST/hosts.toml`.
    PlainHttp { host: String },
    /// Try again, after this time if the registry named one.
    RetryLater(Option<Duration>),
    /// Check host name, port and network.
    CheckHost { host: String },
    /// Correct this file.
    FixFile(PathBuf),
}

fn who(user: &Option<String>) -> String {
    match user {
        Some(user) => format!("the credentials of user {user:?}"),
        None => "an anonymous request".into(),
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none that it names".into(),
        names => names.join(", "),
    }
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownManifest { .. } | Self::UnknownBlob { .. } | Self::NoPlatform { .. } => {
                Kind::NotFound
            }
            Self::Unauthorized { .. } | Self::Denied { .. } => Kind::Denied,
            Self::MediaType { .. } | Self::Challenge { .. } => Kind::Unsupported,
            Self::Config { .. } | Self::Proxy { .. } => Kind::Invalid,
            Self::CredentialHelper { .. } | Self::Abandoned { .. } | Self::Source(_) => {
                Kind::Internal
            }
            Self::RateLimited { .. } | Self::Contended { .. } => Kind::Busy,
            // A registry that knows the request and does not serve it (RFC 9110, 15.5.6 and 15.6.2).
            Self::Status {
                status: 405 | 501, ..
            } => Kind::Unsupported,
            Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::TooLarge { .. }
            | Self::Cut { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Slow { .. }
            | Self::Tls { .. }
            | Self::NotARegistry { .. }
            | Self::Manifest { .. }
            | Self::Status { .. }
            | Self::Redirect { .. } => Kind::Unavailable,
        }
    }

    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::UnknownManifest { .. } => Some(Hint::CheckName),
            Self::Unauthorized { host, user, .. } => Some(Hint::Login {
                host: host.clone(),
                user: user.clone(),
            }),
            Self::NoPlatform { available, .. } => Some(Hint::Platforms(available.clone())),
            Self::Tls { host, plain, .. } if *plain => Some(Hint::PlainHttp { host: host.clone() }),
            Self::Tls { host, .. } => Some(Hint::TrustCa { host: host.clone() }),
            Self::RateLimited { retry_after, .. } => Some(Hint::RetryLater(*retry_after)),
            Self::Cut { .. } | Self::Slow { .. } => Some(Hint::RetryLater(None)),
            Self::Connect { host, .. }
            | Self::Timeout { host, .. }
            | Self::NotARegistry { host, .. } => Some(Hint::CheckHost { host: host.clone() }),
            Self::Config { path, .. } => Some(Hint::FixFile(path.clone())),
            Self::Status { status, .. } if *status >= 500 => Some(Hint::RetryLater(None)),
            _ => None,
        }
    }
}

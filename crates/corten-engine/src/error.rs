//! The engine's errors: what could not be done, to what; the cause below as source.

use std::io;
use std::path::PathBuf;

use corten_registry::protocol::manifest::ManifestError;
use corten_spec::{Digest, IdError, Kind, Reference, ReferenceError};

use crate::image::ImageError;
use crate::image::policy::PolicyError;
use crate::network::NetworkError;
use crate::pod::CheckpointError;
use crate::runtime::RuntimeError;

/// Why the engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no image named {name:?} here")]
    ImageMissing { name: String },
    #[error("image {name:?} is used by container {container}")]
    ImageInUse { name: String, container: String },
    #[error("image {name:?} has several names: {}", .names.join(", "))]
    ImageNames { name: String, names: Vec<String> },
    #[error("image {image:?} names no command, and none was given")]
    NoCommand { image: String },
    #[error(
        "health checks are asked for, and neither a command is given nor has image {image:?} one"
    )]
    NoHealthCheck { image: String },
    #[error("{what} are not for containers that another's runtime ({runtime}) runs")]
    NotForeign { what: &'static str, runtime: String },
    #[error("{what} of image {image:?} cannot be read")]
    ImageDocument {
        what: &'static str,
        image: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("image {image:?} is broken: {reason}")]
    ImageBroken { image: String, reason: &'static str },
    #[error("image {image:?} has a layer of type {media_type:?}, which cannot be unpacked")]
    LayerType { image: String, media_type: String },
    #[error("no container named {name:?}")]
    ContainerMissing { name: String },
    #[error("container {name} cannot be {action}")]
    ContainerState {
        name: String,
        action: &'static str,
        source: Is,
    },
    #[error("container {name} cannot be {action}")]
    Container {
        name: String,
        action: &'static str,
        #[source]
        source: Box<Error>,
    },
    /// A step failed, and so did giving back what the steps before it had made.
    #[error("container {name} failed ({first}), and not all of it could be given back")]
    Undo {
        name: String,
        first: String,
        #[source]
        source: Box<Error>,
    },
    #[error("processes of container {name} do not end, even by SIGKILL")]
    Stuck { name: String },
    #[error("no {what} {id:?}")]
    PodMissing { what: &'static str, id: String },
    #[error("{what} {id} cannot be {action}")]
    PodState {
        what: &'static str,
        id: String,
        action: &'static str,
        source: Is,
    },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("no volume named {name:?}")]
    VolumeMissing { name: String },
    #[error("{name:?} is no capability of Linux")]
    Capability { name: String },
    #[error("the seccomp profile cannot be used: {reason}")]
    SeccompProfile { reason: String },
    #[error("no user or group {name:?} in the container's {file}")]
    UserMissing { name: String, file: &'static str },
    #[error("user or group number {text} is not between 0 and 2147483647")]
    UserNumber { text: String },
    #[error("{what} {path:?} does not exist")]
    PathMissing { what: &'static str, path: PathBuf },
    #[error("port {address}/{protocol} of the host cannot be published")]
    Port {
        address: String,
        protocol: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {doing} {path:?}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} is not what it should be")]
    Document {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("configuration {path:?} cannot be used")]
    Config {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("record of {name} has version {version}, which this corten does not know")]
    RecordVersion { name: String, version: u32 },
    #[error("not an image reference")]
    Reference(#[from] ReferenceError),
    #[error("not an id or name")]
    Id(#[from] IdError),
    #[error("pull of {reference} failed")]
    Pull {
        reference: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        kind: Kind,
    },
    #[error("cannot {doing} {reference}")]
    Registry {
        doing: &'static str,
        reference: String,
        kind: Kind,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("a layer of archive {archive} cannot be loaded")]
    Archive {
        archive: String,
        #[source]
        source: Box<Error>,
    },
    #[error("manifest {digest} cannot be used")]
    Manifest {
        digest: Digest,
        #[source]
        source: ManifestError,
    },
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Handler(#[from] RuntimeError),
    #[error("the store failed")]
    Store(#[from] corten_store::Error),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("the network failed")]
    Net(#[from] corten_net::Error),
    #[error("the supervisor failed")]
    Shim(#[from] corten_shim::Error),
    #[error("the root filesystem cannot be put together")]
    Runtime(#[from] corten_runtime::Error),
    #[error("the control group failed")]
    Cgroup(#[from] corten_cgroup::Error),
}

/// The state that stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {0}")]
pub struct Is(pub &'static str);

impl Error {
    /// The sort of failure, for exit codes and status codes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ImageMissing { .. }
            | Self::ContainerMissing { .. }
            | Self::VolumeMissing { .. }
            | Self::PodMissing { .. }
            | Self::PathMissing { .. } => Kind::NotFound,
            Self::ImageInUse { .. }
            | Self::ImageNames { .. }
            | Self::ContainerState { .. }
            | Self::PodState { .. } => Kind::Conflict,
            Self::NoCommand { .. }
            | Self::NoHealthCheck { .. }
            | Self::ImageDocument { .. }
            | Self::ImageBroken { .. }
            | Self::Capability { .. }
            | Self::SeccompProfile { .. }
            | Self::UserMissing { .. }
            | Self::UserNumber { .. }
            | Self::Config { .. }
            | Self::Reference(_)
            | Self::Id(_) => Kind::Invalid,
            Self::NotForeign { .. } | Self::RecordVersion { .. } | Self::LayerType { .. } => {
                Kind::Unsupported
            }
            Self::Stuck { .. } => Kind::Busy,
            Self::Port { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Kind::Busy,
                io::ErrorKind::AddrNotAvailable => Kind::Invalid,
                io::ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Internal,
            },
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Internal,
            },
            Self::Document { .. } => Kind::Internal,
            Self::Container { source, .. }
            | Self::Undo { source, .. }
            | Self::Archive { source, .. } => source.kind(),
            Self::Pull { kind, .. } | Self::Registry { kind, .. } => *kind,
            Self::Manifest { .. } => Kind::Invalid,
            Self::Policy(e) => e.kind(),
            Self::Image(e) => e.kind(),
            Self::Checkpoint(e) => e.kind(),
            Self::Handler(e) => e.kind(),
            Self::Store(e) => e.kind(),
            Self::Network(e) => e.kind(),
            Self::Net(e) => e.kind(),
            Self::Shim(e) => e.kind(),
            Self::Runtime(e) => e.kind(),
            Self::Cgroup(e) => e.kind(),
        }
    }

    /// Whether it is a full disk that is behind it.
    pub fn is_no_space(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(e) = next {
            let store = e.downcast_ref::<corten_store::Error>();
            let io = e.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(store, Some(corten_store::Error::NoSpace { .. }))
                || io == Some(io::ErrorKind::StorageFull)
            {
                return true;
            }
            next = e.source();
        }
        false
    }

    /// Wraps a failed file operation.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// Wraps a registry's failure.
    pub fn registry(
        doing: &'static str,
        reference: &Reference,
        source: corten_registry::client::Error,
    ) -> Self {
        Self::registry_named(doing, &reference.familiar(), source)
    }

    /// The same for a registry as such.
    pub fn registry_named(
        doing: &'static str,
        name: &str,
        source: corten_registry::client::Error,
    ) -> Self {
        Self::Registry {
            doing,
            reference: name.into(),
            kind: source.kind(),
            source: Box::new(source),
        }
    }

    /// Says which container, and what was to be done with it.
    pub fn of_container(self, name: &str, action: &'static str) -> Self {
        match self {
            e @ (Self::Container { .. }
            | Self::ContainerState { .. }
            | Self::ContainerMissing { .. }) => e,
            source => Self::Container {
                name: name.into(),
                action,
                source: Box::new(source),
            },
        }
    }
}

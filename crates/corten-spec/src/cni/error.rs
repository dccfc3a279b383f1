//! The error object that a plugin prints, and its codes (specification, section
//! "Error").

use serde::{Deserialize, Serialize};

use crate::Kind;

/// The well-known codes. Those from 100 on are a plugin's own.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone: nothing to clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// CNI_COMMAND, CNI_CONTAINERID and so on are missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    /// The document is not JSON, or of the wrong shape.
    pub const DECODING: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: as 50, and existing containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Ours: an address or port is held by another container.
    pub const TAKEN: u32 = 101;
    /// Ours: the kernel refused.
    pub const KERNEL: u32 = 102;
    /// Ours: what CHECK compared differs.
    pub const MISMATCH: u32 = 103;
    /// What the reference library prints where it has no code.
    pub const INTERNAL: u32 = 999;
}

/// What a plugin prints when it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorObject {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl ErrorObject {
    pub fn kind(&self) -> Kind {
        match self.code {
            code::INCOMPATIBLE_VERSION | code::UNSUPPORTED_FIELD => Kind::Unsupported,
            code::UNKNOWN_CONTAINER => Kind::NotFound,
            code::INVALID_ENVIRONMENT | code::DECODING | code::INVALID_CONFIG => Kind::Invalid,
            code::TRY_AGAIN => Kind::Busy,
            code::NOT_AVAILABLE | code::LIMITED_CONNECTIVITY => Kind::Unavailable,
            code::TAKEN => Kind::AlreadyExists,
            code::MISMATCH => Kind::Conflict,
            _ => Kind::Internal,
        }
    }
}

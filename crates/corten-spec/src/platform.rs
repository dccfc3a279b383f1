//! Platforms in the OCI sense: operating system, architecture (Go's names), variant.

use std::fmt;
use std::str::FromStr;

use crate::oci::image::Platform as OciPlatform;

/// `linux/amd64`, `linux/arm/v7`, …
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("platform {0:?} is not of the form OS/ARCH[/VARIANT]")]
pub struct PlatformError(String);

impl Platform {
    /// The platform that this build runs on.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "x86" => ("386", None),
            "riscv64" => ("riscv64", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(Into::into),
        }
    }

    /// Can an image for `candidate` run where `self` is asked for? A variant that either
    /// side leaves out matches (arm64 is arm64/v8).
    pub fn accepts(&self, candidate: &OciPlatform) -> bool {
        self.os == candidate.os().to_string()
            && self.architecture == candidate.architecture().to_string()
            && match (&self.variant, candidate.variant()) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(v) => write!(f, "/{v}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(s: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = s.split('/').collect();
        match parts.as_slice() {
            [os, arch] if !os.is_empty() && !arch.is_empty() => Ok(Self {
                os: (*os).into(),
                architecture: (*arch).into(),
                variant: None,
            }),
            [os, arch, variant] if parts.iter().all(|p| !p.is_empty()) => Ok(Self {
                os: (*os).into(),
                architecture: (*arch).into(),
                variant: Some((*variant).into()),
            }),
            _ => Err(PlatformError(s.into())),
        }
    }
}

//! What `CreateTaskRequest.options` may hold.

use std::path::PathBuf;

use prost::Message;
use prost_types::Any;

use crate::proto::corten::CreateOptions;
use crate::proto::task::RuncOptions;
use crate::ttrpc::status::{Code, Status};

/// The options of whoever asked, in one form.
#[derive(Debug, Default)]
pub struct Options {
    pub corten: CreateOptions,
    pub state_root: Option<PathBuf>,
    /// User and group that own the pipes.
    pub owner: (u32, u32),
}

/// Decodes them: our own, or those of containerd's shim for runc, or none.
pub fn decode(any: Option<&Any>, namespace: &str) -> Result<Options, Status> {
    let Some(any) = any.filter(|a| !a.value.is_empty()) else {
        return Ok(Options::default());
    };
    let bad = |e: prost::DecodeError| {
        Status::new(
            Code::InvalidArgument,
            format!("bad options {}: {e}", any.type_url),
        )
    };
    // A type URL may have a host in front: type.googleapis.com/…
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "corten.shim.v1.CreateOptions" => {
            let corten = CreateOptions::decode(any.value.as_slice()).map_err(bad)?;
            let state_root = Some(&corten.state_root).filter(|r| !r.is_empty());
            Ok(Options {
                state_root: state_root.map(PathBuf::from),
                corten,
                owner: (0, 0),
            })
        }
        "containerd.runc.v1.Options" => {
            let runc = RuncOptions::decode(any.value.as_slice()).map_err(bad)?;
            if runc.systemd_cgroup {
                return Err(Status::new(
                    Code::Unimplemented,
                    "SystemdCgroup: cgroups are made directly, not through systemd",
                ));
            }
            let root = Some(runc.root).filter(|r| !r.is_empty());
            Ok(Options {
                corten: CreateOptions {
                    no_pivot_root: runc.no_pivot_root,
                    no_new_keyring: runc.no_new_keyring,
                    ..CreateOptions::default()
                },
                state_root: root.map(|r| PathBuf::from(r).join(namespace)),
                owner: (runc.io_uid, runc.io_gid),
            })
        }
        other => Err(Status::new(
            Code::InvalidArgument,
            format!("options of type {other} are not understood"),
        )),
    }
}

/// Reads a type as JSON, as OCI documents travel in `Any`.
pub fn json<T: serde::de::DeserializeOwned>(what: &str, any: Option<&Any>) -> Result<T, Status> {
    let Some(any) = any else {
        return Err(Status::new(
            Code::InvalidArgument,
            format!("no {what} given"),
        ));
    };
    serde_json::from_slice(&any.value)
        .map_err(|e| Status::new(Code::InvalidArgument, format!("bad {what}: {e}")))
}
